//! What a request over the core connection needs: a reply subject of our own, on the connection that asks, because the server
//! tells only there that nobody listens; and a way to hear that the server has dealt with what was sent.

use super::CoreNats;

impl CoreNats {
    /// A subject that nobody else uses, for answers.
    pub fn new_inbox(&self) -> String {
        self.link.client.new_inbox()
    }

    /// A subject that another connection of ours answers with nothing: an answer proves that the server has dealt with
    /// everything that was sent before.
    pub fn echo_subject(&self) -> &str {
        &self.echo
    }
}
