//! The socket is read later: see `reads`.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::Connection;
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

    /// Asks for a place when a large packet has begun to come.
    pub(super) fn ask_for_place(&mut self) {
        let (decoder, input) = (&self.decoder, &self.io.input);
        if self.reads.ask_for_place(input.len(), || decoder.next_size(input), &PROCESS.budget) {
            PROCESS.did(Deed::PacketWaited);
        }
    }
}
