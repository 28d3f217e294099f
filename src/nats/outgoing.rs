//! What waits for the socket, encoded by whoever handed it over: the link's task only writes.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use nats_wire::{EncodeError, Publish, encode};
use tokio::sync::oneshot;

use super::error::PublishError;
use crate::overload::PROCESS;

/// Bytes that wait for the socket, beyond which nothing more is taken; one message always is. Less where memory is little.
pub(super) const QUEUE_BYTES_MAX: usize = 64 << 20;
/// A payload that is smaller is copied behind its head: cheaper than an entry of its own in a vectored write. Larger ones are
/// never copied.
const COPIED_MAX: usize = 1_024;
/// Room for heads and small payloads that is made at once.
const ROOM: usize = 16 * 1_024;

/// A message to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outbound<'a> {
    pub(crate) subject: &'a [u8],
    /// Where an answer is expected.
    pub(crate) reply: Option<&'a [u8]>,
    /// Headers that stand before the others.
    pub(crate) first: &'a [(&'a str, &'a str)],
    /// In this order.
    pub(crate) headers: &'a [(ByteString, ByteString)],
    pub(crate) payload: &'a Bytes,
}

impl<'a> Outbound<'a> {
    /// Without headers, and nobody needs to answer.
    pub(crate) fn plain(subject: &'a str, payload: &'a Bytes) -> Self {
        Self { subject: subject.as_bytes(), reply: None, first: &[], headers: &[], payload }
    }
}

/// What waits, in order.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// Whether there is a connection that it would be written to.
    pub(super) is_open: bool,
    /// Of the server.
    pub(super) payload_max: usize,
    chunks: VecDeque<Bytes>,
    tail: BytesMut,
    messages: usize,
    bytes: usize,
    /// Who waits for the PONGs of the PINGs that were handed over, in order; `None` are our own.
    pongs: VecDeque<Option<oneshot::Sender<()>>>,
    /// How often the server was asked whether it is there, since its last PONG.
    asked: usize,
}

impl Outgoing {
    /// Appends a message. `true`: it is the first that waits, so the link's task has to hear of it; of what follows it has
    /// heard already, since it takes all that waits.
    pub(super) fn publish(&mut self, message: &Outbound<'_>, queue_max: usize) -> Result<bool, PublishError> {
        let Outbound { subject, reply, first, headers, payload } = *message;
        let publish = Publish { subject, reply, first, headers, payload: payload.len() };
        if !self.is_open {
            // What can never be sent is said also while there is no connection.
            publish.check()?;
            return Err(PublishError::Disconnected);
        }
        let size = publish.size();
        if size > self.payload_max {
            return Err(PublishError::TooLarge);
        }
        if self.messages >= queue_max || (self.messages > 0 && self.bytes + size > PROCESS.at_most(QUEUE_BYTES_MAX)) {
            return Err(PublishError::Full);
        }
        self.make_room();
        let before = self.tail.len();
        publish.head(&mut self.tail)?;
        if payload.len() <= COPIED_MAX {
            self.tail.extend_from_slice(payload);
        } else {
            self.chunks.push_back(self.tail.split().freeze());
            self.chunks.push_back(payload.clone());
        }
        self.tail.extend_from_slice(encode::LINE_END);
        self.bytes += size + before.abs_diff(self.tail.len()).min(ROOM);
        self.messages += 1;
        Ok(self.messages == 1)
    }

    /// Appends what a server says when nobody listens to `subject`.
    pub(super) fn no_responders(
        &mut self,
        reply: &[u8],
        subject: &[u8],
        messages_max: usize,
    ) -> Result<(), PublishError> {
        if !self.is_open {
            return Err(PublishError::Disconnected);
        }
        if self.messages >= messages_max {
            return Err(PublishError::Full);
        }
        self.make_room();
        encode::no_responders(&mut self.tail, reply, subject)?;
        self.messages += 1;
        Ok(())
    }

    /// Appends SUB.
    pub(super) fn subscribe(&mut self, subject: &str, group: Option<&str>, sid: u64) -> Result<(), EncodeError> {
        self.make_room();
        encode::subscribe(&mut self.tail, subject.as_bytes(), group.map(str::as_bytes), sid)
    }

    /// Appends UNSUB.
    pub(super) fn unsubscribe(&mut self, sid: u64) {
        self.make_room();
        encode::unsubscribe(&mut self.tail, sid, None);
    }

    /// Appends PING; `waits` hears of its PONG.
    pub(super) fn ping(&mut self, waits: Option<oneshot::Sender<()>>) {
        self.make_room();
        encode::ping(&mut self.tail);
        self.pongs.push_back(waits);
    }

    /// Appends PONG.
    pub(super) fn pong(&mut self) {
        self.make_room();
        encode::pong(&mut self.tail);
    }

    /// Asks the server whether it is there; `false` when it was asked this often and nothing has come. PINGs of others do not
    /// count: they may be as many as there are SUBSCRIBEs under way, and the last of them was sent a moment ago.
    pub(super) fn ask(&mut self, unanswered_max: usize) -> bool {
        if self.asked >= unanswered_max {
            return false;
        }
        self.asked += 1;
        self.ping(None);
        true
    }

    /// A PONG has come: the server is there, whoever asked.
    pub(super) fn answered(&mut self) {
        self.asked = 0;
        if let Some(Some(waits)) = self.pongs.pop_front() {
            let _ = waits.send(());
        }
    }

    /// Takes all that waits; whether there was anything.
    pub(super) fn take(&mut self, out: &mut VecDeque<Bytes>) -> bool {
        if !self.tail.is_empty() {
            self.chunks.push_back(self.tail.split().freeze());
        }
        (self.messages, self.bytes) = (0, 0);
        out.append(&mut self.chunks);
        !out.is_empty()
    }

    /// The connection is lost: all of it is gone, and who waits for a PONG gets none.
    pub(super) fn close(&mut self) {
        *self = Self { payload_max: self.payload_max, ..Self::default() };
    }

    fn make_room(&mut self) {
        if self.tail.capacity() - self.tail.len() < ROOM / 8 {
            self.tail.reserve(ROOM);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_answers_is_there_however_many_wait_for_it() {
        let mut outgoing = Outgoing::default();
        let waits: Vec<_> = (0..100).map(|_| oneshot::channel().0).collect();
        waits.into_iter().for_each(|waits| outgoing.ping(Some(waits)));
        assert!(outgoing.ask(2) && outgoing.ask(2));
        assert!(!outgoing.ask(2), "it was asked twice and says nothing");
        outgoing.answered();
        assert!(outgoing.ask(2) && outgoing.ask(2), "it has answered somebody");
        assert!(!outgoing.ask(2));
    }

    fn open() -> Outgoing {
        Outgoing { is_open: true, payload_max: 1 << 20, ..Outgoing::default() }
    }

    fn message(payload: &Bytes) -> Outbound<'_> {
        Outbound { subject: b"a", reply: None, first: &[], headers: &[], payload }
    }

    fn taken(outgoing: &mut Outgoing) -> VecDeque<Bytes> {
        let mut out = VecDeque::new();
        outgoing.take(&mut out);
        out
    }

    #[test]
    fn what_is_handed_over_leaves_in_order_and_a_large_payload_is_not_copied() {
        let mut outgoing = open();
        let large = Bytes::from(vec![b'x'; COPIED_MAX + 1]);
        outgoing.subscribe("s", None, 1).unwrap();
        outgoing.publish(&message(&Bytes::from_static(b"1")), 10).unwrap();
        outgoing.publish(&message(&large), 10).unwrap();
        outgoing.ping(None);
        let out = taken(&mut outgoing);
        assert_eq!(out[1].as_ptr(), large.as_ptr());
        let bytes = out.iter().flat_map(|chunk| chunk.iter().copied()).collect::<Vec<u8>>();
        let want = [&b"SUB s 1\r\nPUB a 1\r\n1\r\nPUB a 1025\r\n"[..], &large, b"\r\nPING\r\n"].concat();
        assert_eq!(bytes, want);
        assert!(taken(&mut outgoing).is_empty());
    }

    #[test]
    fn what_a_server_says_when_nobody_listens_is_said_to_who_asked() {
        let mut outgoing = open();
        outgoing.no_responders(b"_INBOX.1", b"svc.x", 1).unwrap();
        assert_eq!(outgoing.no_responders(b"_INBOX.1", b"svc.x", 1), Err(PublishError::Full));
        let bytes = taken(&mut outgoing).into_iter().flatten().collect::<Vec<u8>>();
        assert_eq!(bytes, b"HPUB _INBOX.1 37 37\r\nNATS/1.0 503\r\nNats-Subject: svc.x\r\n\r\n\r\n");
        for (reply, subject) in [(&b"_INBOX 1"[..], &b"s"[..]), (b"_INBOX.1", b"s\r\nX: y")] {
            assert!(matches!(outgoing.no_responders(reply, subject, 1), Err(PublishError::Invalid(_))));
        }
        assert!(taken(&mut outgoing).is_empty());
    }

    #[test]
    fn it_is_full_at_its_limits_and_not_after_it_was_taken() {
        let mut outgoing = open();
        let small = Bytes::from_static(b"1");
        assert_eq!(outgoing.publish(&message(&small), 2), Ok(true), "the link has to hear of it");
        assert_eq!(outgoing.publish(&message(&small), 2), Ok(false));
        assert_eq!(outgoing.publish(&message(&small), 2), Err(PublishError::Full));
        taken(&mut outgoing);
        assert_eq!(outgoing.publish(&message(&small), 2), Ok(true));
        let large = Bytes::from(vec![0; (1 << 20) - 1_000]);
        let count = (0..1_000).take_while(|_| outgoing.publish(&message(&large), 10_000).is_ok()).count();
        assert!((60..=65).contains(&count), "{count}");
        let larger = Bytes::from(vec![0; (1 << 20) + 1]);
        assert_eq!(outgoing.publish(&message(&larger), 10_000), Err(PublishError::TooLarge));
    }

    #[test]
    fn nothing_stays_of_a_connection_that_is_lost() {
        let mut outgoing = open();
        let (waits, mut pong) = oneshot::channel();
        outgoing.publish(&message(&Bytes::new()), 10).unwrap();
        outgoing.ping(Some(waits));
        outgoing.close();
        assert!(taken(&mut outgoing).is_empty() && pong.try_recv().is_err());
        assert_eq!(outgoing.publish(&message(&Bytes::new()), 10), Err(PublishError::Disconnected));
    }
}
