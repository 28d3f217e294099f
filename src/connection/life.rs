//! Signs of life, and the time that a client has. The keep alive asks whether the client is there [MQTT-3.1.2-22], and nothing else: bytes that came from it
//! tell that it is, whatever becomes of them, also those of a packet that takes long to come.
//!
//! **Invariant:** a client is judged by what it did, never by what we did not do. While the socket is not read because we wait
//! for something, nobody is silent. While it is not read because the client takes nothing of what we have for it, its taking
//! some is its sign of life. That we have less memory for what it does not take is nothing that it did.

use mqtt_access::Ending;
use mqtt_codec::{Packet, ReasonCode};
use mqtt_session::Input;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::{Connection, IDLE, OUTPUT_HIGH, output_high};
use crate::auth;

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Bytes came.
    pub(super) fn heard(&mut self) {
        self.life.taken = self.io.taken;
        self.tell(Input::Heard);
    }

    /// Time went by.
    pub(super) fn look_at_clock(&mut self) {
        self.release();
        self.end_in_time();
        if self.remainder.is_some() {
            // Nothing more is heard of a client that is gone.
        } else if self.takes_input() || !self.is_excused() {
            self.tell(Input::Time);
        } else {
            self.heard();
        }
    }

    /// Finds out until when the client may be connected: it may be somebody else than before.
    pub(super) fn look_for_ending(&mut self) {
        self.life.ends = self.inbox.rights.principal().ends(auth::now());
    }

    /// When that is, as far as a clock that may be set can tell: it is looked at again then.
    pub(super) fn ends_at(&self) -> Option<Instant> {
        let (at, _) = self.life.ends?;
        Some(Instant::now() + at.since(auth::now()).min(IDLE))
    }

    /// Ends the connection when its time is over.
    fn end_in_time(&mut self) {
        let now = auth::now();
        if self.life.ends.is_none_or(|(at, _)| now < at) {
            return;
        }
        self.look_for_ending();
        let Some((_, why)) = self.life.ends.take_if(|(at, _)| *at <= now) else { return };
        let why = match why {
            Ending::UserExpires => "its user has expired",
            Ending::AccountExpires => "its account has expired",
            Ending::WindowEnds => "the hours are over in which its user may be connected",
        };
        tracing::info!(client_id = &*self.control.client_id.escape_debug().to_string(), "ended: {why}");
        self.end_by_order(ReasonCode::MaximumConnectTime);
    }

    /// Gives back what has grown while there was something to do: an idle connection comes by here, and a busy one seldom.
    fn release(&mut self) {
        self.subscribes.shrink_to_fit();
        self.outputs.shrink_to_fit();
        self.answers.shrink_to_fit();
        self.messages.shrink_to_fit();
        self.copies.shrink_to_fit();
        self.catching_up.shrink_to_fit();
        self.io.output.release();
        self.mail.release();
        self.inbox.release();
        self.publishing.release_memory();
    }

    /// Whether a client that is not read from need not be heard.
    fn is_excused(&self) -> bool {
        self.io.output.len() < OUTPUT_HIGH || self.io.taken > self.life.taken
    }

    /// Answers PINGREQs that had to wait.
    pub(super) fn answer_pings(&mut self) {
        while self.life.pings_owed > 0 && self.io.output.len() < output_high() {
            self.life.pings_owed -= 1;
            self.send(&Packet::PingResp);
        }
    }
}
