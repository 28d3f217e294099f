//! Requests of clients that NATS may answer: where the answer goes, and who waits to hear whether anybody listens. Bounded
//! in number, bytes and time; at a limit the oldest one is given up, which has had the longest time to be answered.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::HashMap;
use mqtt_codec::{QoS, TopicName};
use mqtt_session::Token;

use crate::broker::mailbox::Mailbox;

/// Bytes of topics and correlation data that pending requests may hold.
const BYTES_MAX: usize = 32 << 20;

/// How long a publisher waits for its acknowledgement at most when NATS does not say whether anybody listens.
const HEARING_MS: u64 = 2_000;

/// A client whose acknowledgement waits.
#[derive(Clone, Debug)]
pub(super) struct Waiter {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) token: Token,
}

/// Where the answer to a request goes.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) response_topic: TopicName,
    pub(super) correlation_data: Option<Bytes>,
    pub(super) qos: QoS,
}

#[derive(Debug)]
struct Entry {
    question: Question,
    since_ms: u64,
    waiter: Option<Waiter>,
    is_answered: bool,
}

/// A request that is over.
#[derive(Debug)]
pub(super) struct Over {
    pub(super) waiter: Option<Waiter>,
    pub(super) is_answered: bool,
}

/// The pending requests.
#[derive(Debug)]
pub(super) struct Pending {
    entries: HashMap<u64, Entry>,
    /// In the order in which they came; may name some that are over.
    order: VecDeque<u64>,
    waiting: VecDeque<u64>,
    bytes: usize,
    max: usize,
    timeout_ms: u64,
}

impl Question {
    fn weight(&self) -> usize {
        self.response_topic.as_str().len() + self.correlation_data.as_ref().map_or(0, Bytes::len)
    }
}

impl Pending {
    pub(super) fn new(max: usize, timeout_ms: u64) -> Self {
        let (entries, order, waiting) = Default::default();
        Self { entries, order, waiting, bytes: 0, max: max.max(1), timeout_ms }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds a request under an id that no other has. Those that had to make room are appended to `over`.
    pub(super) fn add(
        &mut self,
        id: u64,
        question: Question,
        waiter: Option<Waiter>,
        now_ms: u64,
        over: &mut Vec<Over>,
    ) {
        self.bytes += question.weight();
        if waiter.is_some() {
            self.waiting.push_back(id);
        }
        self.entries.insert(id, Entry { question, since_ms: now_ms, waiter, is_answered: false });
        self.order.push_back(id);
        while self.entries.len() > self.max || (self.bytes > BYTES_MAX && self.entries.len() > 1) {
            let Some(oldest) = self.order.pop_front() else { return };
            over.extend(self.remove(oldest));
        }
    }

    /// Removes a request that nobody will answer.
    pub(super) fn remove(&mut self, id: u64) -> Option<Over> {
        let entry = self.entries.remove(&id)?;
        self.bytes -= entry.question.weight();
        Some(Over { waiter: entry.waiter, is_answered: entry.is_answered })
    }

    /// NATS has the request, and somebody listens.
    pub(super) fn heard(&mut self, id: u64) -> Option<Waiter> {
        self.entries.get_mut(&id)?.waiter.take()
    }

    /// An answer came. It stays pending: there may be more.
    pub(super) fn answered(&mut self, id: u64) -> Option<Question> {
        let entry = self.entries.get_mut(&id)?;
        entry.is_answered = true;
        Some(entry.question.clone())
    }

    /// Time went by: those whose time is over are appended to `over`, those who waited long enough are returned.
    pub(super) fn expire(&mut self, now_ms: u64, over: &mut Vec<Over>) -> Vec<Waiter> {
        while let Some(&oldest) = self.order.front() {
            match self.entries.get(&oldest) {
                Some(entry) if now_ms.saturating_sub(entry.since_ms) < self.timeout_ms => break,
                _ => self.order.pop_front(),
            };
            over.extend(self.remove(oldest));
        }
        let mut waiters = Vec::new();
        while let Some(&oldest) = self.waiting.front() {
            match self.entries.get_mut(&oldest) {
                Some(entry) if entry.waiter.is_some() && now_ms.saturating_sub(entry.since_ms) < HEARING_MS => break,
                entry => waiters.extend(entry.and_then(|entry| entry.waiter.take())),
            }
            self.waiting.pop_front();
        }
        waiters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(correlation: usize) -> Question {
        let response_topic = TopicName::new("answers").unwrap();
        Question { response_topic, correlation_data: Some(vec![0; correlation].into()), qos: QoS::AtLeastOnce }
    }

    #[test]
    fn the_oldest_makes_room() {
        let (mut pending, mut over) = (Pending::new(2, 30_000), Vec::new());
        for id in 1..=3 {
            pending.add(id, question(0), None, id, &mut over);
        }
        assert_eq!((over.len(), pending.len()), (1, 2));
        assert!(pending.answered(1).is_none());
        assert!(pending.answered(2).is_some());
        // One that is as large as all may be together stays alone.
        pending.add(4, question(BYTES_MAX), None, 4, &mut over);
        assert_eq!(pending.len(), 1);
        assert!(pending.remove(4).is_some());
        assert_eq!(pending.bytes, 0);
    }

    #[test]
    fn time_ends_a_request_answered_or_not() {
        let (mut pending, mut over) = (Pending::new(10, 30_000), Vec::new());
        pending.add(1, question(1), None, 0, &mut over);
        pending.add(2, question(1), None, 10_000, &mut over);
        assert!(pending.answered(1).is_some());
        assert!(pending.answered(1).is_some(), "there may be more answers");
        pending.expire(29_999, &mut over);
        assert!(over.is_empty());
        pending.expire(30_000, &mut over);
        assert!(over.len() == 1 && over[0].is_answered);
        assert!(pending.answered(1).is_none());
        pending.expire(40_000, &mut over);
        assert!(over.len() == 2 && !over[1].is_answered);
        assert_eq!((pending.len(), pending.order.len(), pending.bytes), (0, 0, 0));
    }
}
