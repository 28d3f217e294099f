//! What a request over the core connection needs: a reply subject of our own, on the connection that asks, because the server
//! tells only there that nobody listens; and a way to hear that the server has dealt with what was sent.

use std::time::Duration;

use super::{CoreNats, RequestError};

/// How long a process may take to say that it is there.
const PRESENT_WITHIN: Duration = Duration::from_secs(2);

impl CoreNats {
    /// What subjects for answers begin with, without the dot.
    pub fn inbox_prefix(&self) -> String {
        self.link.client.inbox_prefix().to_owned()
    }

    /// The name of this process, which no other has: the last token of its echo subject.
    pub fn name(&self) -> &str {
        self.echo.rsplit('.').next().unwrap_or_default()
    }

    /// Whether the process is gone whose echo subject this is: nobody says in time that it is there. Somebody may listen to
    /// everything, so that the server does not say it.
    pub async fn is_gone(&self, echo_subject: &str) -> bool {
        let asked = self.hear_echo(echo_subject, PRESENT_WITHIN).await;
        matches!(asked, Err(RequestError::Nobody | RequestError::TimedOut))
    }

    /// A subject that another connection of ours answers with nothing: an answer proves that the server has dealt with
    /// everything that was sent before.
    pub fn echo_subject(&self) -> &str {
        &self.echo
    }
}
