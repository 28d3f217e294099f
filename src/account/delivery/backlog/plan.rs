//! What sessions are owed of a piece of the log. A session is owed a message that one of its subscriptions above QoS 0
//! takes [MQTT-3.1.2-5 of 3.1.1], unless it has had it: those up to its cursor that are not in flight.
//!
//! Connected sessions count as well. What is saved of their progress is a moment old, which makes a copy too many now
//! and then; but who reads so slowly that the log overtakes him, or whose sidecar dies, finds what he has not had.

use std::collections::HashMap;

use mqtt_codec::{QoS, TopicFilter};
use mqtt_ownership::ServerTime;
use mqtt_session::Sequence;

use crate::account::delivery::core_subscriptions::SubscriptionOrder;
use crate::account::delivery::grant::{Audience, Everybody, MessageFacts, Terms, grant};
use crate::account::delivery::message::Message;
use crate::account::delivery::subscriptions::Subscriptions;
use crate::store::{BacklogEnd, ProgressRecord, SessionRecord, SessionState};

/// A session that may be owed something.
#[derive(Debug)]
struct Recipient {
    client_id: String,
    /// Up to here it has what it is owed, here or in its backlog, but for what is in flight.
    after: Sequence,
    /// In flight, above what its backlog has.
    in_flight: Vec<Sequence>,
}

/// One subscription of a session.
#[derive(Clone, Copy, Debug)]
struct Claim {
    recipient: u32,
    since: Sequence,
    /// Above QoS 0.
    terms: Terms,
    /// The last that it takes at that.
    until: Sequence,
}

impl Claim {
    /// What it asks for of the message with this sequence.
    fn terms_at(&self, sequence: Sequence) -> Terms {
        let qos = if sequence <= self.until { self.terms.qos } else { QoS::AtMostOnce };
        Terms { qos, is_due: sequence > self.since, ..self.terms }
    }
}

/// The sessions that may be owed something of a piece of the log.
#[derive(Debug, Default)]
pub(crate) struct BacklogPlan {
    recipients: Vec<Recipient>,
    claims: Subscriptions<Claim>,
    from: Option<Sequence>,
}

/// Up to where a session has read, and what of that is in flight. Who never saved its progress has had nothing since
/// its subscriptions began, which they say themselves.
fn progress(record: &SessionRecord, progress: Option<&ProgressRecord>) -> (Sequence, Vec<Sequence>) {
    match progress.filter(|progress| progress.epoch >= record.first_epoch) {
        Some(progress) => (Sequence(progress.cursor), in_flight_in_log(progress).collect()),
        None => (Sequence(0), Vec::new()),
    }
}

/// Whether nothing in a backlog that ends at this log sequence is owed any more.
pub(crate) fn is_consumed(state: &SessionState, end: Sequence) -> bool {
    let (cursor, in_flight) = progress(&state.record, state.progress.as_ref());
    is_past(cursor, in_flight.into_iter(), end)
}

/// The same, for a session that is connected and has saved this progress.
pub(crate) fn is_read(saved: &ProgressRecord, end: Sequence) -> bool {
    is_past(Sequence(saved.cursor), in_flight_in_log(saved), end)
}

/// Backlogs are of the log that is always there: the others keep what they keep.
fn in_flight_in_log(progress: &ProgressRecord) -> impl Iterator<Item = Sequence> {
    progress.in_flight.iter().filter(|m| m.log.is_none()).map(|m| Sequence(m.sequence))
}

fn is_past(cursor: Sequence, mut in_flight: impl Iterator<Item = Sequence>, end: Sequence) -> bool {
    cursor >= end && in_flight.all(|sequence| sequence > end)
}

impl BacklogPlan {
    /// What of the log above `position`, up to and with `horizon`, is owed to whom. `ends`: how far each backlog reaches
    /// already, where that may be above `position`. `now`: what was to be over by then is over.
    pub(crate) fn of(
        states: &HashMap<String, SessionState>,
        ends: &HashMap<String, BacklogEnd>,
        position: Sequence,
        horizon: Sequence,
        now: ServerTime,
    ) -> Self {
        let mut owed = Self::default();
        for (client_id, state) in states {
            // A session of which nothing is left after its connection is owed nothing later.
            if state.record.expiry_s == 0 || state.record.has_expired(now.0) {
                continue;
            }
            let (cursor, mut in_flight) = progress(&state.record, state.progress.as_ref());
            let copied = position.max(ends.get(client_id).map_or(Sequence(0), |end| end.log_sequence));
            in_flight.retain(|sequence| (copied.next()..=horizon).contains(sequence));
            let after = copied.max(cursor);
            if after < horizon || !in_flight.is_empty() {
                owed.add(client_id, &state.record, after, in_flight, horizon);
            }
        }
        owed
    }

    fn add(
        &mut self,
        client_id: &str,
        record: &SessionRecord,
        after: Sequence,
        in_flight: Vec<Sequence>,
        horizon: Sequence,
    ) {
        let Ok(recipient) = u32::try_from(self.recipients.len()) else { return };
        let mut from = in_flight.iter().copied().min();
        for subscription in record.subscriptions.iter().filter(|s| s.qos > 0 || s.before.is_some()) {
            let Ok(filter) = TopicFilter::new(subscription.filter.as_str()) else { continue };
            if filter.is_shared() {
                // Its backlog is in the group's consumer.
                continue;
            }
            let since = Sequence(subscription.since);
            let before = subscription.before.as_ref().filter(|_| subscription.qos == 0);
            let until = before.map_or(Sequence::MAX, |before| Sequence(before.up_to));
            let qos = before.map_or(subscription.qos, |before| before.qos);
            let Some(terms) = Terms::of_stored(subscription, qos) else { continue };
            let begins = since.max(after).next();
            if begins > horizon && in_flight.is_empty() {
                continue;
            }
            from = Some(from.map_or(begins, |from| from.min(begins)));
            self.claims.push(&filter, SubscriptionOrder::default(), Claim { recipient, since, terms, until });
        }
        let Some(from) = from else { return };
        self.from = Some(self.from.map_or(from, |first| first.min(from)));
        self.recipients.push(Recipient { client_id: client_id.to_owned(), after, in_flight });
    }

    /// The first sequence that anybody may be owed; `None` when nobody is owed anything.
    pub(crate) const fn from(&self) -> Option<Sequence> {
        self.from
    }

    /// The client id of a session.
    pub(crate) fn client_id(&self, recipient: u32) -> &str {
        self.recipients.get(recipient as usize).map_or("", |recipient| &recipient.client_id)
    }

    /// The sessions that are owed a message of the log, each once. `is_hidden`: wildcards do not match at the first level
    /// of the topic.
    pub(crate) fn matching(&self, sequence: Sequence, message: &Message, is_hidden: bool, out: &mut Vec<u32>) {
        out.clear();
        if message.qos == QoS::AtMostOnce {
            return;
        }
        let Self { recipients, claims, .. } = self;
        let facts = MessageFacts { audience: Audience::DurableOnly, ..MessageFacts::of(message) };
        claims.matching(message.topic.as_str(), is_hidden, &mut |entry| {
            for claim in &entry.subscribers {
                let Some(recipient) = recipients.get(claim.recipient as usize) else { continue };
                let is_own = message.publisher.as_deref() == Some(recipient.client_id.as_str());
                let has_had = sequence <= recipient.after && !recipient.in_flight.contains(&sequence);
                let facts = MessageFacts { is_own, ..facts };
                if !has_had && grant(&claim.terms_at(sequence), &facts, &Everybody).is_some() {
                    out.push(claim.recipient);
                }
            }
        });
        // Several subscriptions of one session may take it.
        out.sort_unstable();
        out.dedup();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{InFlightRecord, InFlightRecordState, StoredSubscription};
    use bytes::Bytes;
    use mqtt_codec::TopicName;

    struct Session(SessionState);

    fn session(cursor: u64) -> Session {
        let record = SessionRecord { expiry_s: 60, first_epoch: 5, epoch: 7, ..SessionRecord::default() };
        let progress = ProgressRecord { epoch: 7, cursor, ..ProgressRecord::default() };
        Session(SessionState { record, progress: Some(progress) })
    }

    impl Session {
        fn with(mut self, filter: &str, qos: u8, since: u64) -> Self {
            let subscription = StoredSubscription { filter: filter.to_owned(), qos, since, ..Default::default() };
            self.0.record.subscriptions.push(subscription);
            self
        }

        fn in_flight(mut self, sequence: u64) -> Self {
            let state = InFlightRecordState::Sent;
            let in_flight =
                InFlightRecord { packet_id: 1, sequence, log: None, qos: 1, ack: None, subscription: None, state };
            self.0.progress.get_or_insert_default().in_flight.push(in_flight);
            self
        }

        fn change(mut self, change: impl FnOnce(&mut SessionState)) -> Self {
            change(&mut self.0);
            self
        }
    }

    /// What a client "c" is owed of messages 1 to 10 with topic `a/b`, above `position` and up to 8.
    fn owed(session: Session, position: u64, end: Option<u64>) -> (Option<u64>, Vec<u64>) {
        let states = HashMap::from([("c".to_owned(), session.0)]);
        let ends = end.map(|end| ("c".to_owned(), BacklogEnd { stream_sequence: 1, log_sequence: Sequence(end) }));
        let owed =
            BacklogPlan::of(&states, &ends.into_iter().collect(), Sequence(position), Sequence(8), ServerTime(0));
        let mut message = Message::new(TopicName::new("a/b").unwrap(), Bytes::new(), None);
        message.qos = QoS::AtLeastOnce;
        message.publisher = Some("c".into());
        let mut sequences = Vec::new();
        let from = owed.from().map(|from| from.0);
        // The writer reads from there on, up to the horizon.
        for sequence in from.unwrap_or(9)..=8 {
            let mut recipients = Vec::new();
            owed.matching(Sequence(sequence), &message, false, &mut recipients);
            assert!(recipients.len() <= 1, "one copy for each session");
            sequences.extend(recipients.iter().map(|recipient| {
                assert_eq!(owed.client_id(*recipient), "c");
                sequence
            }));
        }
        (from, sequences)
    }

    #[test]
    fn a_session_is_owed_what_matches_above_its_cursor_and_above_what_is_copied() {
        assert_eq!(owed(session(5).with("a/+", 1, 0), 0, None), (Some(6), vec![6, 7, 8]));
        assert_eq!(owed(session(5).with("a/+", 2, 0), 7, None), (Some(8), vec![8]));
        assert_eq!(owed(session(5).with("a/b", 1, 0), 8, None), (None, vec![]));
        assert_eq!(owed(session(8).with("a/b", 1, 0), 0, None), (None, vec![]));
        assert_eq!(owed(session(5).with("a/x", 1, 0), 0, None), (Some(6), vec![]));
    }

    #[test]
    fn what_is_in_its_backlog_already_is_not_copied_again() {
        assert_eq!(owed(session(2).with("a/b", 1, 0), 3, Some(6)), (Some(7), vec![7, 8]));
        assert_eq!(owed(session(2).with("a/b", 1, 0), 6, Some(3)), (Some(7), vec![7, 8]));
    }

    #[test]
    fn messages_in_flight_are_copied_although_they_lie_below_the_cursor() {
        let s = || session(7).with("a/b", 1, 0).in_flight(3).in_flight(5);
        assert_eq!(owed(s(), 0, None), (Some(3), vec![3, 5, 8]));
        assert_eq!(owed(s(), 4, None), (Some(5), vec![5, 8]));
        assert_eq!(owed(session(20).with("a/b", 1, 0).in_flight(5), 0, None), (Some(5), vec![5]));
    }

    #[test]
    fn a_subscription_is_owed_nothing_older_than_itself() {
        assert_eq!(owed(session(2).with("a/b", 1, 6), 0, None), (Some(7), vec![7, 8]));
        assert_eq!(owed(session(2).with("a/b", 1, 8), 0, None), (None, vec![]));
    }

    #[test]
    fn overlapping_subscriptions_make_one_copy() {
        let s = session(6).with("a/b", 1, 0).with("a/+", 2, 0).with("#", 1, 0);
        assert_eq!(owed(s, 0, None), (Some(7), vec![7, 8]));
    }

    #[test]
    fn qos_0_subscriptions_and_sessions_that_end_with_their_connection_are_owed_nothing() {
        assert_eq!(owed(session(2).with("a/b", 0, 0), 0, None), (None, vec![]));
        assert_eq!(owed(session(2).with("a/b", 1, 0).change(|s| s.record.expiry_s = 0), 0, None), (None, vec![]));
    }

    #[test]
    fn mqtt_3_8_3_3_no_local_makes_no_copy_of_its_own_message() {
        let s = session(6).with("a/b", 1, 0).change(|s| s.record.subscriptions[0].no_local = true);
        assert_eq!(owed(s, 0, None), (Some(7), vec![]));
        let s = session(6).with("a/b", 1, 0).change(|s| s.record.subscriptions[0].no_local = true).with("#", 1, 0);
        assert_eq!(owed(s, 0, None), (Some(7), vec![7, 8]));
    }

    #[test]
    fn the_progress_of_an_earlier_session_of_the_client_says_nothing() {
        let s = || session(7).with("a/b", 1, 4);
        assert_eq!(owed(s().change(|s| s.record.first_epoch = 8), 0, None), (Some(5), vec![5, 6, 7, 8]));
        assert_eq!(owed(s().change(|s| s.progress = None), 0, None), (Some(5), vec![5, 6, 7, 8]));
    }

    #[test]
    fn a_backlog_is_consumed_when_nothing_in_it_is_owed_or_in_flight() {
        assert!(is_consumed(&session(7).0, Sequence(7)));
        assert!(!is_consumed(&session(6).0, Sequence(7)));
        assert!(!is_consumed(&session(9).in_flight(4).0, Sequence(7)));
        assert!(is_consumed(&session(9).in_flight(8).0, Sequence(7)));
    }
}
