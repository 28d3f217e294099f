//! Bytes on their way to a socket: small packets copied one behind the other, large payloads by reference between
//! them. Appending costs one copy a packet and no allocation in the steady state. What is there by reference others have as well,
//! so it does not count as memory of this queue ([`Segments::own`]).

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

/// An empty buffer keeps no more than this, so that ten thousand idle connections cost little.
const KEPT_CAPACITY: usize = 4096;

/// A queue of bytes.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    ready: VecDeque<Piece>,
    ready_len: usize,
    /// Of those, bytes that are there by reference.
    shared_len: usize,
    /// Behind everything in `ready`.
    tail: BytesMut,
}

/// Bytes that are complete.
#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    is_shared: bool,
}

impl Segments {
    /// Bytes queued that nobody else has.
    pub(crate) fn own(&self) -> usize {
        self.len() - self.shared_len + self.ready.len() * size_of::<Piece>()
    }

    /// Bytes queued.
    pub(crate) fn len(&self) -> usize {
        self.ready_len + self.tail.len()
    }

    /// Whether nothing is queued.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the next small packet is written.
    pub(crate) fn tail(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    /// Appends bytes without copying them.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        self.seal();
        self.ready_len += bytes.len();
        self.shared_len += bytes.len();
        self.ready.push_back(Piece { bytes, is_shared: true });
    }

    /// Moves everything of `other` behind what is here.
    pub(crate) fn append(&mut self, other: &mut Self) {
        if self.is_empty() {
            std::mem::swap(self, other);
            return;
        }
        self.seal();
        other.seal();
        self.ready_len += other.ready_len;
        self.shared_len += other.shared_len;
        (other.ready_len, other.shared_len) = (0, 0);
        self.ready.append(&mut other.ready);
    }

    /// Gives back memory that an idle connection does not need.
    pub(crate) fn shrink(&mut self) {
        if self.is_empty() && self.tail.capacity() > KEPT_CAPACITY {
            *self = Self::default();
        }
    }

    /// Gives back all memory, when nothing is queued.
    pub(crate) fn release(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.ready_len += self.tail.len();
            let sealed = self.tail.split().freeze();
            self.ready.push_back(Piece { bytes: sealed, is_shared: false });
        }
    }
}

impl Buf for Segments {
    fn remaining(&self) -> usize {
        self.len()
    }

    fn chunk(&self) -> &[u8] {
        self.ready.front().map_or(&self.tail[..], |piece| &piece.bytes[..])
    }

    fn chunks_vectored<'a>(&'a self, out: &mut [IoSlice<'a>]) -> usize {
        let pieces = self.ready.iter().map(|piece| &piece.bytes[..]).chain(std::iter::once(&self.tail[..]));
        let mut filled = 0;
        for (slot, piece) in out.iter_mut().zip(pieces.filter(|p| !p.is_empty())) {
            *slot = IoSlice::new(piece);
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(front) = self.ready.front_mut() {
            let taken = count.min(front.bytes.len());
            self.ready_len -= taken;
            self.shared_len -= if front.is_shared { taken } else { 0 };
            if taken < front.bytes.len() {
                front.bytes.advance(taken);
                return;
            }
            count -= taken;
            self.ready.pop_front();
        }
        self.tail.advance(count);
        if self.tail.is_empty() {
            // Keeps the allocation and makes all of it usable again.
            self.tail.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(mut s: Segments, step: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while !s.is_empty() {
            let mut slices = [IoSlice::new(&[]); 4];
            let n = s.chunks_vectored(&mut slices);
            let got: Vec<u8> = slices[..n].iter().flat_map(|s| s.iter().copied()).take(step).collect();
            let before = s.len();
            s.advance(got.len());
            assert_eq!(before - got.len(), s.len());
            all.extend(got);
        }
        all
    }

    #[test]
    fn bytes_leave_in_the_order_in_which_they_came_whatever_the_write_sizes() {
        for step in [1, 2, 3, 7, 100] {
            let mut s = Segments::default();
            s.tail().extend_from_slice(b"abc");
            s.push(Bytes::from_static(b"DEF"));
            s.tail().extend_from_slice(b"ghi");
            let mut other = Segments::default();
            other.tail().extend_from_slice(b"j");
            other.push(Bytes::from_static(b"K"));
            s.append(&mut other);
            assert!(other.is_empty());
            s.tail().extend_from_slice(b"l");
            assert_eq!(drain(s, step), b"abcDEFghijKl");
        }
    }

    #[test]
    fn what_others_have_as_well_is_not_its_own() {
        let mut s = Segments::default();
        s.tail().extend_from_slice(&[0; 100]);
        s.push(Bytes::from(vec![0; 100_000]));
        let mut other = Segments::default();
        other.push(Bytes::from(vec![0; 100_000]));
        s.append(&mut other);
        assert_eq!((s.len(), other.len(), other.own()), (200_100, 0, 0));
        assert!((100..500).contains(&s.own()), "{}", s.own());
        s.advance(100_050);
        assert!(s.own() < 200, "{}", s.own());
        s.advance(100_050);
        assert_eq!((s.len(), s.own()), (0, 0));
    }

    #[test]
    fn an_idle_buffer_gives_its_memory_back() {
        let mut s = Segments::default();
        s.tail().extend_from_slice(&[0; 100_000]);
        s.advance(100_000);
        s.shrink();
        assert!(s.tail.capacity() <= KEPT_CAPACITY);
    }
}
