//! What was promised to clients, and whether it was kept. It sees what crosses the wire and what is in the log, and
//! nothing of the engine.

use std::collections::{BTreeMap, BTreeSet};

use mqtt_codec::QoS;

use super::log::{Letter, Log};

/// How a publish ended for its publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// PUBACK, or PUBREC and PUBCOMP.
    Acknowledged,
    /// PUBACK or PUBREC with an error.
    Refused,
    /// Its session ended with its connection.
    Unknown,
}

#[derive(Debug, Default)]
struct Reader {
    /// How often the client got each sequence, not counting what it knew to be a repetition.
    got: BTreeMap<u64, u32>,
    /// How often it refused it.
    refused: BTreeSet<u64>,
    /// The epochs in which each sequence was to be sent.
    sent_in: BTreeMap<u64, BTreeSet<u64>>,
    /// What was too large for it.
    too_large: BTreeSet<u64>,
    /// Everything the client ever saw a PUBLISH of.
    seen: BTreeSet<u64>,
    /// The epochs at whose end the progress was saved or handed over.
    saved_at_end: BTreeSet<u64>,
    /// The newest first delivery of each topic and QoS.
    newest: BTreeMap<(u8, QoS), u64>,
}

#[derive(Debug)]
pub(crate) struct Witness {
    outcomes: BTreeMap<Letter, Outcome>,
    readers: Vec<Reader>,
}

/// A PUBLISH that a client got.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Got {
    pub(crate) client: usize,
    pub(crate) epoch: u64,
    pub(crate) sequence: u64,
    pub(crate) qos: QoS,
    pub(crate) dup: bool,
}

impl Witness {
    pub(crate) fn new(clients: usize) -> Self {
        Self { outcomes: BTreeMap::new(), readers: (0..clients).map(|_| Reader::default()).collect() }
    }

    pub(crate) fn ended(&mut self, letter: Letter, outcome: Outcome) {
        let before = self.outcomes.insert(letter, outcome);
        assert_eq!(before, None, "{letter:?} ended twice");
    }

    pub(crate) fn saved_at_end(&mut self, client: usize, epoch: u64) {
        self.readers[client].saved_at_end.insert(epoch);
    }

    /// A sidecar decided to send a message, for the first time in this epoch.
    pub(crate) fn sends(&mut self, client: usize, epoch: u64, sequence: u64) {
        let is_first = self.readers[client].sent_in.entry(sequence).or_default().insert(epoch);
        assert!(is_first, "client {client}: {sequence} is sent twice on one connection");
    }

    /// A client saw a PUBLISH; [MQTT-3.3.1-1] is about its DUP flag.
    pub(crate) fn sees(&mut self, got: Got) {
        let reader = &mut self.readers[got.client];
        let earlier = |epoch: &&u64| **epoch < got.epoch;
        let epochs = reader.sent_in.get(&got.sequence).cloned().unwrap_or_default();
        let was_sent = epochs.iter().any(|e| earlier(&e));
        // What a crash made the sidecars forget, they cannot know to be a repetition.
        let is_known = epochs.iter().filter(earlier).any(|e| reader.saved_at_end.contains(e));
        let was_seen = reader.seen.contains(&got.sequence);
        if got.dup {
            assert!(was_sent, "DUP on a first delivery: {got:?}");
        } else {
            assert!(!(was_seen && got.qos == QoS::ExactlyOnce), "a repetition without DUP: {got:?}");
            assert!(!(is_known && got.qos == QoS::AtLeastOnce), "a repetition without DUP: {got:?}");
        }
        reader.seen.insert(got.sequence);
    }

    /// A client takes a message that it does not know to be a repetition.
    pub(crate) fn takes(&mut self, got: Got, letter: Letter) {
        let reader = &mut self.readers[got.client];
        let count = reader.got.entry(got.sequence).or_default();
        *count += 1;
        assert!(*count == 1 || got.qos != QoS::ExactlyOnce, "QoS 2 got through twice: {got:?}");
        // What an earlier connection has passed over counts as delivered then.
        let had_its_turn = reader.refused.contains(&got.sequence) || reader.too_large.contains(&got.sequence);
        if *count == 1 && !had_its_turn {
            let newest = reader.newest.entry((letter.topic, got.qos)).or_default();
            assert!(*newest < got.sequence, "{got:?} comes after {newest}");
            *newest = got.sequence;
        }
    }

    /// A client says in PUBREC that it does not want a message.
    pub(crate) fn refuses(&mut self, client: usize, sequence: u64) {
        self.readers[client].refused.insert(sequence);
    }

    /// A sidecar does not send a message, since the client takes no packet of this size.
    pub(crate) fn passes_over(&mut self, client: usize, sequence: u64) {
        self.readers[client].too_large.insert(sequence);
    }

    /// Every publisher was told the truth.
    pub(crate) fn check_log(&self, log: &Log, is_ordered: impl Fn(usize) -> bool) {
        let mut copies: BTreeMap<Letter, Vec<u64>> = BTreeMap::new();
        for sequence in 1..=log.last() {
            copies.entry(log.ever(sequence).unwrap().letter).or_default().push(sequence);
        }
        for (letter, outcome) in &self.outcomes {
            let copies = copies.get(letter).map_or(&[][..], Vec::as_slice);
            let is_there = *outcome != Outcome::Acknowledged || !copies.is_empty();
            assert!(is_there, "{letter:?} was acknowledged and is not in the log");
            if letter.qos == QoS::ExactlyOnce {
                // A copy that was discarded before cannot be found by anybody.
                let repeats = copies.windows(2).filter(|w| log.ever(w[1]).unwrap().first <= w[0]).count();
                assert_eq!(repeats, 0, "{letter:?} is in the log at {copies:?}");
            }
        }
        let mut newest: BTreeMap<(usize, u8, QoS), u64> = BTreeMap::new();
        let mut firsts: Vec<(u64, Letter)> = copies.iter().map(|(letter, at)| (at[0], *letter)).collect();
        firsts.sort_unstable();
        for (sequence, letter) in firsts.into_iter().filter(|(_, letter)| is_ordered(letter.publisher)) {
            let newest = newest.entry((letter.publisher, letter.topic, letter.qos)).or_default();
            assert!(*newest <= letter.number, "{letter:?} is in the log at {sequence}, behind number {newest}");
            *newest = letter.number;
        }
    }

    /// Everything in the log reached this client.
    pub(crate) fn check_reader(&self, client: usize, wants: impl Fn(&Letter) -> bool, log: &Log) {
        let reader = &self.readers[client];
        for sequence in (1..=log.last()).filter(|s| log.get(*s).is_some_and(|e| wants(&e.letter))) {
            let is_out = reader.refused.contains(&sequence) || reader.too_large.contains(&sequence);
            let has_it = reader.got.contains_key(&sequence) || is_out;
            assert!(has_it, "client {client} never got {sequence}: {:?}", log.get(sequence));
        }
    }

    /// Everything ended for its publisher.
    pub(crate) fn ended_count(&self) -> u64 {
        self.outcomes.len() as u64
    }
}
