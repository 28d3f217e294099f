//! A connection with somebody else's credentials, for one question: whether nats-server takes them, and what it says of them.

use bytes::{BufMut, BytesMut};
use nats_wire::encode::{self, LINE_END};
use nats_wire::{Publish, ServerInfo, ServerOp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::error::ConnectError;
use super::handshake::{CONNECT_WITHIN, Established, establish};
use super::options::LinkOptions;
use super::pool::Pool;

/// Why nothing was asked.
#[derive(Debug)]
pub(crate) enum TrialError {
    /// No server takes the credentials.
    Refused,
    /// They may not publish the question.
    Denied,
    /// Nobody could be asked whether it takes them, or wanted to say so.
    Unreachable(ConnectError),
}

impl From<ConnectError> for TrialError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Authorization => Self::Refused,
            error => Self::Unreachable(error),
        }
    }
}

/// A connection on which the question was asked. It is closed when this is dropped.
pub(crate) struct Trial {
    established: Established,
    /// The account that the server says the connection is in; servers before 2.12 say nothing.
    pub(crate) account: Option<String>,
}

/// Connects to one of the servers with the credentials of `options`, and publishes a question without a payload.
///
/// # Errors
/// See [`TrialError`].
pub(crate) async fn ask(options: &LinkOptions, subject: &str, reply: &str) -> Result<Trial, TrialError> {
    let mut failed = ConnectError::Io("there is no server to try".to_owned());
    for server in Pool::new(&options.servers, true).round() {
        match establish(&server, options).await {
            Ok(established) => {
                let trial = Trial { established, account: None };
                let asked = tokio::time::timeout(CONNECT_WITHIN, trial.asked(subject, reply)).await;
                return asked.unwrap_or(Err(TrialError::Unreachable(ConnectError::TimedOut)));
            }
            Err(error) if error.is_same_everywhere() => return Err(error.into()),
            Err(error) => failed = error,
        }
    }
    Err(failed.into())
}

impl Trial {
    /// Publishes, and waits until the server has dealt with it.
    async fn asked(mut self, subject: &str, reply: &str) -> Result<Self, TrialError> {
        let mut out = BytesMut::new();
        let publish = Publish::<(&[u8], &[u8])> {
            subject: subject.as_bytes(),
            reply: Some(reply.as_bytes()),
            first: &[],
            headers: &[],
            payload: 0,
        };
        publish.head(&mut out).map_err(|error| ConnectError::Protocol(error.to_string()))?;
        out.put_slice(LINE_END);
        encode::ping(&mut out);
        let stream = &mut self.established.stream;
        stream.write_all(&out).await.map_err(ConnectError::from)?;
        stream.flush().await.map_err(ConnectError::from)?;
        loop {
            match self.next().await? {
                ServerOp::Pong => return Ok(self),
                ServerOp::Info(json) => {
                    self.account = ServerInfo::parse(&json).ok().and_then(|info| info.remote_account)
                }
                ServerOp::Error(text) => return Err(refusal(&text)),
                ServerOp::Ok | ServerOp::Ping | ServerOp::Message(_) | ServerOp::Skipped { .. } => {}
            }
        }
    }

    async fn next(&mut self) -> Result<ServerOp, ConnectError> {
        let Established { stream, decoder, buffer, .. } = &mut self.established;
        loop {
            match decoder.decode(buffer) {
                Ok(Some(op)) => return Ok(op),
                Ok(None) => {}
                Err(error) => return Err(ConnectError::Protocol(error.to_string())),
            }
            if stream.read_buf(buffer).await? == 0 {
                return Err(ConnectError::Io("the server has closed the connection".to_owned()));
            }
        }
    }
}

/// What a server says that has taken the credentials at first.
fn refusal(text: &[u8]) -> TrialError {
    let text = String::from_utf8_lossy(text).to_ascii_lowercase();
    let starts_with = |beginnings: &[&str]| beginnings.iter().any(|beginning| text.starts_with(beginning));
    if starts_with(&["permissions violation"]) {
        TrialError::Denied
    } else if starts_with(&["user authentication", "account authentication", "authorization violation"]) {
        TrialError::Refused
    } else {
        TrialError::Unreachable(ConnectError::Protocol(text))
    }
}

#[cfg(test)]
mod tests {
    use super::{TrialError, refusal};

    #[test]
    fn what_a_server_says_is_a_refusal_only_when_it_is_one() {
        for (text, is_refused, is_denied) in [
            ("Permissions Violation for Publish to \"$SYS.REQ.USER.INFO\"", false, true),
            ("User Authentication Revoked", true, false),
            ("User Authentication Expired", true, false),
            ("Account Authentication Expired", true, false),
            ("Authorization Violation", true, false),
            ("maximum account active connections exceeded", false, false),
            ("Server Shutdown", false, false),
        ] {
            let said = refusal(text.as_bytes());
            let found = (matches!(said, TrialError::Refused), matches!(said, TrialError::Denied));
            assert_eq!(found, (is_refused, is_denied), "{text}");
        }
    }
}
