//! Requests of clients that NATS may answer: where the answer goes, and who waits to hear whether anybody listens. Bounded
//! in number, bytes and time, for each client and for all; at a limit the oldest one is given up, which has had the longest
//! time to be answered. Nothing is refused for it: a request is a publish for other clients, too.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use foldhash::HashMap;
use mqtt_session::{Time, Token};
use proto_map::Question;

use crate::account::publish::completions::Completions;

/// Bytes of topics and correlation data that pending requests may hold.
const BYTES_MAX: usize = 32 << 20;

/// Of these, bytes of one client: as many as it can hold in eight requests of the largest size.
const CLIENT_BYTES_MAX: usize = 1 << 20;

/// How long a publisher waits for its acknowledgement at most when NATS does not say whether anybody listens.
const HEARING: Duration = Duration::from_secs(2);

/// Names a request, in the subject of its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct QuestionId(pub(super) u64);

/// A client whose acknowledgement waits.
#[derive(Clone, Debug)]
pub(super) struct Waiter {
    pub(super) completions: Arc<Completions>,
    pub(super) token: Token,
}

/// Who asks.
#[derive(Debug)]
pub(super) struct Asker {
    pub(super) client_id: ByteString,
    /// When its acknowledgement waits.
    pub(super) waiter: Option<Waiter>,
}

#[derive(Debug)]
struct Entry {
    question: Question,
    since: Time,
    asker: Asker,
    is_answered: bool,
}

/// The requests of one client.
#[derive(Debug, Default)]
struct OfClient {
    /// In the order in which they came; may name some that are over.
    order: VecDeque<QuestionId>,
    count: usize,
    bytes: usize,
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
    entries: HashMap<QuestionId, Entry>,
    /// In the order in which they came; may name some that are over.
    order: VecDeque<QuestionId>,
    waiting: VecDeque<QuestionId>,
    clients: HashMap<ByteString, OfClient>,
    bytes: usize,
    max: usize,
    max_per_client: usize,
    timeout: Duration,
}

impl OfClient {
    /// Takes the oldest one, when there are too many.
    fn above(&mut self, max: usize) -> Option<QuestionId> {
        let is_above = self.count > max || (self.bytes > CLIENT_BYTES_MAX && self.count > 1);
        if is_above { self.order.pop_front() } else { None }
    }
}

/// Keeps what is over from filling a queue in which so many are not.
fn trim(queue: &mut VecDeque<QuestionId>, count: usize, entries: &HashMap<QuestionId, Entry>) {
    const FEW: usize = 64;
    if queue.len() > 2 * count + FEW {
        queue.retain(|id| entries.contains_key(id));
    }
}

impl Pending {
    pub(super) fn new(max: usize, max_per_client: usize, timeout: Duration) -> Self {
        let (entries, order, waiting, clients) = Default::default();
        let (max, max_per_client) = (max.max(1), max_per_client.max(1));
        Self { entries, order, waiting, clients, bytes: 0, max, max_per_client, timeout }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds a request under an id that no other has. Those that had to make room are appended to `over`.
    pub(super) fn add(&mut self, id: QuestionId, question: Question, asker: Asker, now: Time, over: &mut Vec<Over>) {
        let (client_id, weight) = (asker.client_id.clone(), question.weight());
        self.bytes += weight;
        let client = self.clients.entry(client_id.clone()).or_default();
        client.bytes += weight;
        client.count += 1;
        client.order.push_back(id);
        self.order.push_back(id);
        if asker.waiter.is_some() {
            self.waiting.push_back(id);
        }
        self.entries.insert(id, Entry { question, since: now, asker, is_answered: false });
        while let Some(oldest) = self.clients.get_mut(&client_id).and_then(|client| client.above(self.max_per_client)) {
            over.extend(self.remove(oldest));
        }
        while self.entries.len() > self.max || (self.bytes > BYTES_MAX && self.entries.len() > 1) {
            let Some(oldest) = self.order.pop_front() else { break };
            over.extend(self.remove(oldest));
        }
        let entries = &self.entries;
        trim(&mut self.order, entries.len(), entries);
        trim(&mut self.waiting, entries.len(), entries);
        if let Some(client) = self.clients.get_mut(&client_id) {
            trim(&mut client.order, client.count, entries);
        }
    }

    /// Removes a request that nobody will answer.
    pub(super) fn remove(&mut self, id: QuestionId) -> Option<Over> {
        let entry = self.entries.remove(&id)?;
        let weight = entry.question.weight();
        self.bytes -= weight;
        if let Some(client) = self.clients.get_mut(&entry.asker.client_id) {
            client.bytes -= weight;
            client.count -= 1;
            if client.count == 0 {
                self.clients.remove(&entry.asker.client_id);
            }
        }
        Some(entry.into())
    }

    /// NATS has the request, and somebody listens.
    pub(super) fn heard(&mut self, id: QuestionId) -> Option<Waiter> {
        self.entries.get_mut(&id)?.asker.waiter.take()
    }

    /// An answer came. It stays pending: there may be more.
    pub(super) fn answered(&mut self, id: QuestionId) -> Option<Question> {
        let entry = self.entries.get_mut(&id)?;
        entry.is_answered = true;
        Some(entry.question.clone())
    }

    /// Time went by: those whose time is over are appended to `over`, those who waited long enough are returned.
    pub(super) fn expire(&mut self, now: Time, over: &mut Vec<Over>) -> Vec<Waiter> {
        while let Some(&oldest) = self.order.front() {
            match self.entries.get(&oldest) {
                Some(entry) if now < entry.since.plus(self.timeout) => break,
                _ => self.order.pop_front(),
            };
            over.extend(self.remove(oldest));
        }
        let mut waiters = Vec::new();
        while let Some(&oldest) = self.waiting.front() {
            match self.entries.get_mut(&oldest) {
                Some(entry) if entry.asker.waiter.is_some() && now < entry.since.plus(HEARING) => {
                    break;
                }
                entry => waiters.extend(entry.and_then(|entry| entry.asker.waiter.take())),
            }
            self.waiting.pop_front();
        }
        waiters
    }
}

impl From<Entry> for Over {
    fn from(entry: Entry) -> Self {
        Self { waiter: entry.asker.waiter, is_answered: entry.is_answered }
    }
}

#[cfg(test)]
mod tests {
    use mqtt_codec::{QoS, TopicName};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn question(correlation: usize) -> Question {
        let response_topic = TopicName::new("answers").unwrap();
        Question { response_topic, correlation_data: Some(vec![0; correlation].into()), qos: QoS::AtLeastOnce }
    }

    fn asker(client_id: &'static str) -> Asker {
        Asker { client_id: ByteString::from_static(client_id), waiter: None }
    }

    fn is_empty(pending: &Pending) -> bool {
        pending.len() == 0 && pending.bytes == 0 && pending.clients.is_empty()
    }

    #[test]
    fn the_oldest_makes_room() {
        let (mut pending, mut over) = (Pending::new(2, 10, TIMEOUT), Vec::new());
        for id in 1..=3 {
            pending.add(QuestionId(id), question(0), asker(["a", "b", "c"][id as usize % 3]), Time(id), &mut over);
        }
        assert_eq!((over.len(), pending.len()), (1, 2));
        assert!(pending.answered(QuestionId(1)).is_none());
        assert!(pending.answered(QuestionId(2)).is_some());
        // One that is as large as all may be together stays alone.
        pending.add(QuestionId(4), question(BYTES_MAX), asker("a"), Time(4), &mut over);
        assert_eq!(pending.len(), 1);
        assert!(pending.remove(QuestionId(4)).is_some());
        assert!(is_empty(&pending));
    }

    #[test]
    fn a_client_makes_room_for_itself() {
        let (mut pending, mut over) = (Pending::new(100, 2, TIMEOUT), Vec::new());
        pending.add(QuestionId(1), question(0), asker("modest"), Time(1), &mut over);
        for id in 2..=50 {
            pending.add(QuestionId(id), question(0), asker("greedy"), Time(id), &mut over);
        }
        assert_eq!((over.len(), pending.len()), (47, 3));
        for id in [1, 49, 50] {
            assert!(pending.answered(QuestionId(id)).is_some(), "{id}");
        }
        // In bytes as well; one that is as large as all of one client stays alone.
        pending.add(QuestionId(51), question(CLIENT_BYTES_MAX), asker("greedy"), Time(51), &mut over);
        assert_eq!(pending.len(), 2);
        for id in [1, 51] {
            assert!(pending.remove(QuestionId(id)).is_some(), "{id}");
        }
        assert!(is_empty(&pending));
    }

    #[test]
    fn what_is_over_is_not_remembered() {
        let (mut pending, mut over) = (Pending::new(100, 100, TIMEOUT), Vec::new());
        pending.add(QuestionId(0), question(0), asker("a"), Time(0), &mut over);
        for id in 1..=10_000 {
            pending.add(QuestionId(id), question(0), asker("a"), Time(id), &mut over);
            pending.remove(QuestionId(id));
        }
        let remembered = [&pending.order, &pending.clients["a"].order].map(VecDeque::len);
        assert!(remembered.iter().all(|len| *len < 100), "{remembered:?}");
        assert!(over.is_empty() && pending.answered(QuestionId(0)).is_some());
    }

    #[test]
    fn time_ends_a_request_answered_or_not() {
        let (mut pending, mut over) = (Pending::new(10, 10, TIMEOUT), Vec::new());
        pending.add(QuestionId(1), question(1), asker("a"), Time(0), &mut over);
        pending.add(QuestionId(2), question(1), asker("a"), Time(10_000), &mut over);
        assert!(pending.answered(QuestionId(1)).is_some());
        assert!(pending.answered(QuestionId(1)).is_some(), "there may be more answers");
        pending.expire(Time(29_999), &mut over);
        assert!(over.is_empty());
        pending.expire(Time(30_000), &mut over);
        assert!(over.len() == 1 && over[0].is_answered);
        assert!(pending.answered(QuestionId(1)).is_none());
        pending.expire(Time(40_000), &mut over);
        assert!(over.len() == 2 && !over[1].is_answered);
        assert!(is_empty(&pending) && pending.order.is_empty());
    }
}
