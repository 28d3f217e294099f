//! What `MessageLog` promises.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use nats_mqtt::store::{MessageLog, Put, PutError, PutGuard, PutTarget, Stored, StoredSink};
use proto_map::{Names, Subject};
use tokio::sync::mpsc;

use super::{Bench, eventually};

macro_rules! log_contract {
    ($test:meta, $bench:ty) => {
        contract::each_promise!(
            $test,
            $bench,
            messages_of_a_subject_are_stored_in_their_order_and_read_by_their_sequences,
            a_message_is_found_by_its_id_above_a_sequence_and_on_its_subject_only,
            an_id_that_the_log_has_seen_is_stored_once,
            a_message_has_a_time_to_live,
            a_message_that_nobody_wants_is_not_sent,
            a_message_whose_answer_is_lost_is_there_once,
            who_has_not_heard_of_a_message_does_not_say_that_it_is_not_there
        );
    };
}
pub(crate) use log_contract;

/// What became of messages, by their tokens.
struct Outcomes(mpsc::UnboundedSender<(u64, Result<Stored, PutError>)>);

impl StoredSink for Outcomes {
    fn stored(&self, token: u64, result: Result<Stored, PutError>) {
        let _ = self.0.send((token, result));
    }

    fn flush(&self) {}
}

struct Unwanted;

impl PutGuard for Unwanted {
    fn is_wanted(&self) -> bool {
        false
    }
}

fn subject(text: &str) -> ByteString {
    Names::default().log_subject(&Subject::new(text).unwrap())
}

/// Hands messages over and waits for what becomes of them.
struct Writer<'a, L> {
    log: &'a L,
    sink: Arc<Outcomes>,
    outcomes: mpsc::UnboundedReceiver<(u64, Result<Stored, PutError>)>,
}

impl<'a, L: MessageLog> Writer<'a, L> {
    fn new(log: &'a L) -> Self {
        let (tx, outcomes) = mpsc::unbounded_channel();
        Self { log, sink: Arc::new(Outcomes(tx)), outcomes }
    }

    fn message(&self, at: &str, id: &str, token: u64) -> Put {
        Put {
            target: PutTarget::Log(subject(at)),
            headers: vec![(ByteString::from_static("Nats-Msg-Id"), ByteString::from(id))],
            payload: Bytes::from(id.to_owned()),
            ttl_s: None,
            expected_last: None,
            guard: None,
            sink: self.sink.clone(),
            token,
        }
    }

    async fn submit(&self, put: Put) {
        let permit = self.log.permit(put.payload.len()).await;
        self.log.submit(permit, put);
    }

    async fn outcome(&mut self) -> (u64, Result<Stored, PutError>) {
        tokio::time::timeout(super::PATIENCE, self.outcomes.recv()).await.expect("an outcome in time").unwrap()
    }

    async fn put(&mut self, at: &str, id: &str) -> Result<Stored, PutError> {
        self.submit(self.message(at, id, 0)).await;
        self.outcome().await.1
    }
}

pub(crate) async fn messages_of_a_subject_are_stored_in_their_order_and_read_by_their_sequences<B: Bench>(bench: B) {
    let log = &bench.near().log;
    let mut writer = Writer::new(log);
    for token in 0..100 {
        writer.submit(writer.message("busy", &format!("c.1.{token}"), token)).await;
    }
    let mut sequences = vec![0; 100];
    for _ in 0..100 {
        let (token, stored) = writer.outcome().await;
        sequences[usize::try_from(token).unwrap()] = stored.unwrap().sequence;
    }
    assert!(sequences.is_sorted_by(|a, b| a < b), "{sequences:?}");
    assert_eq!(log.last_sequence().await, Ok(sequences[99]));
    sequences.reverse();
    let entries = bench.far().log.get_many(&sequences).await.unwrap();
    let read: Vec<u64> = entries.iter().map(|entry| entry.sequence).collect();
    assert_eq!(read, sequences, "in the order that was asked for");
    assert_eq!((entries[0].payload.as_ref(), entries[99].payload.as_ref()), (&b"c.1.99"[..], &b"c.1.0"[..]));
    assert_eq!(entries[0].stream_subject(), &*subject("busy"));
}

pub(crate) async fn a_message_is_found_by_its_id_above_a_sequence_and_on_its_subject_only<B: Bench>(bench: B) {
    let (near, far) = (&bench.near().log, &bench.far().log);
    let mut writer = Writer::new(near);
    let before = writer.put("busy", "c.1.1").await.unwrap().sequence;
    let it = writer.put("busy", "c.1.2").await.unwrap().sequence;
    let last = writer.put("quiet", "c.1.3").await.unwrap().sequence;
    let busy = subject("busy");
    assert_eq!(far.find(&busy, 0, "c.1.2").await, Ok(Some(it)));
    assert_eq!(far.find(&busy, before, "c.1.2").await, Ok(Some(it)));
    assert_eq!(far.find(&busy, it, "c.1.2").await, Ok(None), "it is not above itself");
    assert_eq!(far.find(&subject("quiet"), 0, "c.1.2").await, Ok(None), "another subject");
    assert_eq!(far.find(&busy, last, "c.1.2").await, Ok(None), "nothing is above the last one");
    assert_eq!(far.find(&busy, 0, "c.1.9").await, Ok(None));
}

pub(crate) async fn an_id_that_the_log_has_seen_is_stored_once<B: Bench>(bench: B) {
    let (mut near, mut far) = (Writer::new(&bench.near().log), Writer::new(&bench.far().log));
    let first = near.put("busy", "c.1.1").await.unwrap();
    assert!(!first.duplicate);
    let again = far.put("busy", "c.1.1").await.unwrap();
    assert_eq!(again, Stored { sequence: first.sequence, duplicate: true });
    assert_eq!(bench.near().log.last_sequence().await, Ok(first.sequence));
}

pub(crate) async fn a_message_has_a_time_to_live<B: Bench>(bench: B) {
    let log = &bench.near().log;
    let mut writer = Writer::new(log);
    writer.submit(Put { ttl_s: Some(1), ..writer.message("short", "c.1.1", 0) }).await;
    let short = writer.outcome().await.1.unwrap().sequence;
    let long = writer.put("short", "c.1.2").await.unwrap().sequence;
    assert_eq!(log.get_many(&[short, long]).await.unwrap().len(), 2, "it is not over");
    eventually("it is", async || log.get_many(&[short, long]).await.unwrap().len() == 1).await;
    assert_eq!(log.get_many(&[short, long]).await.unwrap()[0].sequence, long);
    assert_eq!(log.find(&subject("short"), 0, "c.1.1").await, Ok(None));
}

pub(crate) async fn a_message_that_nobody_wants_is_not_sent<B: Bench>(bench: B) {
    let log = &bench.near().log;
    let mut writer = Writer::new(log);
    let before = writer.put("busy", "c.1.1").await.unwrap().sequence;
    writer.submit(Put { guard: Some(Arc::new(Unwanted)), ..writer.message("busy", "c.1.2", 7) }).await;
    assert_eq!(writer.outcome().await, (7, Err(PutError::Withdrawn)));
    assert_eq!(log.last_sequence().await, Ok(before));
}

pub(crate) async fn a_message_whose_answer_is_lost_is_there_once<B: Bench>(bench: B) {
    let (near, far) = (&bench.near().log, &bench.far().log);
    let mut writer = Writer::new(far);
    let before = writer.put("busy", "c.1.1").await.unwrap().sequence;
    bench.lose_answers();
    writer.submit(writer.message("busy", "c.1.2", 0)).await;
    eventually("it arrives", async || near.last_sequence().await.unwrap() > before).await;
    bench.mend();
    let outcome = writer.outcome().await.1;
    let found = near.find(&subject("busy"), before, "c.1.2").await.unwrap().unwrap();
    match outcome {
        Ok(stored) => assert_eq!(stored.sequence, found),
        Err(error) => assert_eq!(error, PutError::Unavailable, "an error that says that it is not there"),
    }
    assert_eq!(near.find(&subject("busy"), found, "c.1.2").await, Ok(None), "it is there once");
}

pub(crate) async fn who_has_not_heard_of_a_message_does_not_say_that_it_is_not_there<B: Bench>(bench: B) {
    let (near, far) = (&bench.near().log, &bench.far().log);
    let last = Writer::new(near).put("busy", "c.1.1").await.unwrap().sequence;
    assert!(far.find(&subject("busy"), last + 1_000, "c.1.1").await.is_err());
    assert!(far.get_many(&[last + 1_000]).await.is_err());
    bench.stall();
    assert!(far.find(&subject("busy"), 0, "c.1.1").await.is_err());
}
