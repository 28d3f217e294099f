//! Signs of life. The keep alive asks whether the client is there [MQTT-3.1.2-22], and nothing else: bytes that came from it
//! tell that it is, whatever becomes of them, also those of a packet that takes long to come.
//!
//! **Invariant:** a client is judged by what it did, never by what we did not do. While the socket is not read because we wait
//! for something, nobody is silent. While it is not read because the client takes nothing of what we have for it, its taking
//! some is its sign of life.

use mqtt_codec::Packet;
use mqtt_session::Input;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Connection, OUTPUT_HIGH};

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
        if self.remainder.is_some() {
            // Nothing more is heard of a client that is gone.
        } else if self.takes_input() || !self.is_excused() {
            self.tell(Input::Time);
        } else {
            self.heard();
        }
    }

    /// Gives back what has grown while there was something to do: an idle connection comes by here, and a busy one seldom.
    fn release(&mut self) {
        self.subscribes.shrink_to_fit();
        self.outputs.shrink_to_fit();
        self.answers.shrink_to_fit();
        self.messages.shrink_to_fit();
        self.copies.shrink_to_fit();
        self.behind.shrink_to_fit();
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
        while self.life.pings_owed > 0 && self.io.output.len() < OUTPUT_HIGH {
            self.life.pings_owed -= 1;
            self.send(&Packet::PingResp);
        }
    }
}
