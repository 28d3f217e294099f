//! The socket is read later: see `reads`.

use mqtt_codec::ReasonCode;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::Connection;
use super::parts::End;
use super::reads::Asked;
use crate::overload::{Deed, PROCESS};

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Bytes came: those who send most are read later while there is too much to do.
    pub(super) fn pace_reads(&mut self, bytes: usize) {
        let Some(cap) = PROCESS.cap() else { return };
        if self.reads.took(bytes as u64, cap, Instant::now()) {
            PROCESS.did(Deed::ReadLater);
        }
    }

    /// Asks for a place when a large packet has begun to come. Who keeps one from others for too long is told to come back.
    pub(super) fn ask_for_place(&mut self) {
        let (decoder, input) = (&self.decoder, &self.io.input);
        let (waiting, is_read) = (input.len(), self.takes_input());
        match self.reads.ask_for_place(waiting, || decoder.next_size(input), is_read, &PROCESS.budget) {
            Asked::Fine => {}
            Asked::Waits => PROCESS.did(Deed::PacketWaited),
            Asked::Overdue => {
                PROCESS.did(Deed::PlaceLost);
                let (client_id, remote) = (&*self.control.client_id, self.remote);
                tracing::info!(client_id, %remote, waiting, "its large packet comes too slowly, and others wait for the memory");
                self.end = self.end.or(Some(End::ByServer(ReasonCode::ServerBusy)));
            }
        }
    }
}
