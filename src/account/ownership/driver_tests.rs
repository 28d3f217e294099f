//! The driver over memory: sessions go from sidecar to sidecar without a server, and the link of the one that works breaks before
//! each thing that it asks for, in each way in which it can.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use mqtt_codec::Version;
use mqtt_ownership::{
    Claim, ClaimOutcome, Epoch, Failover, FailoverOutcome, Leave, LeaveOutcome, NodeId, Now, Request, Revision,
    ServerTime, Step, Will, WillOutcome, WillState,
};
use proto_map::{Names, Subject};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::claim::{Claimed, PeerSocket};
use super::driver::{Driver, FailoverStep};
use super::host::Host;
use super::record::{Message, Rest, State, record_of, state_of, stored_will};
use super::remains::Remain;
use crate::account::control::Control;
use crate::account::delivery::inbox::InboxLimits;
use crate::account::session_id::SessionId;
use crate::metrics::WillCause;
use crate::store::memory::{LinkState, MemoryPeers, MemoryServer, MemorySessions, MemoryStore};
use crate::store::{
    MessageLog as _, NEVER, Peers as _, ProgressRecord, Put, PutError, PutTarget, SessionRecord, SessionStore as _,
    Stored, StoredSink, StoredWill, WillState as StoredWillState, WriteError,
};

const ID: &str = "c";
const LIMITS: InboxLimits = InboxLimits { qos0_bytes: 1_000, feed_messages: 4, feed_bytes: 1_000 };
/// Longer than a store tries.
const OUTAGE: Duration = Duration::from_secs(13);
/// Things that are asked for, at most, in what the tests do.
const ASKED_MAX: usize = 16;

/// A sidecar.
struct Sidecar {
    node: &'static str,
    server: MemoryServer,
    store: MemoryStore,
}

struct Open;

impl PeerSocket for Open {
    fn poll_gone(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

struct Outcome(mpsc::UnboundedSender<Result<Stored, PutError>>);

impl StoredSink for Outcome {
    fn stored(&self, _token: u64, result: Result<Stored, PutError>) {
        let _ = self.0.send(result);
    }

    fn flush(&self) {}
}

fn will_subject() -> ByteString {
    Names::default().log_subject(&Subject::new("gone").unwrap())
}

impl Host for Sidecar {
    type Sessions = MemorySessions;
    type Peers = MemoryPeers;

    fn sessions(&self) -> &MemorySessions {
        &self.store.sessions
    }

    fn peers(&self) -> &MemoryPeers {
        &self.store.peers
    }

    fn now(&self) -> Now {
        let now = ServerTime(self.server.now_ms());
        Now { earliest: now, certain: now, stamp: now }
    }

    fn seen(&self, _client_id: &str, record: Option<State>) -> Option<State> {
        record
    }

    fn name_will(&self, client_id: &str, _will: &StoredWill, epoch: Epoch) -> String {
        format!("{client_id}.{}.will", epoch.0)
    }

    async fn publish_will(
        &self,
        client_id: &ByteString,
        will: &Will<Message>,
        epoch: Epoch,
        _cause: WillCause,
    ) -> WillOutcome {
        let stored = stored_will(will.clone(), &|will, epoch| self.name_will(client_id, will, epoch), epoch);
        let StoredWillState::Firing { id, after } = &stored.state else { panic!("a will that is not marked") };
        match self.store.log.find(&will_subject(), *after, id).await {
            Ok(Some(_)) => return WillOutcome::Done,
            Ok(None) => {}
            Err(_) => return WillOutcome::NotNow,
        }
        let (tx, mut outcome) = mpsc::unbounded_channel();
        let headers = vec![(ByteString::from_static("Nats-Msg-Id"), ByteString::from(id.as_str()))];
        let (target, payload, sink) = (PutTarget::Log(will_subject()), stored.payload.clone(), Arc::new(Outcome(tx)));
        let put = Put { target, headers, payload, ttl_s: None, expected_last: None, guard: None, sink, token: 0 };
        self.store.log.submit((), put);
        match outcome.recv().await.unwrap() {
            Ok(_) => WillOutcome::Done,
            Err(PutError::Unavailable) => WillOutcome::NotNow,
            Err(_) => WillOutcome::Refused,
        }
    }

    async fn remove(&self, _client_id: &ByteString, remain: Remain) {
        panic!("nothing of these sessions is beside their records: {remain:?}");
    }
}

impl Sidecar {
    fn pair() -> (Self, Self) {
        let server = MemoryServer::start();
        let sidecar = |node| Self { node, server: server.clone(), store: server.connect() };
        (sidecar("node-a"), sidecar("node-b"))
    }

    /// A CONNECT with a will, and an expiry of an hour.
    async fn connect(&self, payload: &'static str) -> Box<Claimed> {
        let control = Arc::new(Control::new(
            SessionId(1),
            ID.into(),
            Version::V5,
            u32::MAX,
            Arc::new(crate::account::Rights::all()),
            LIMITS,
        ));
        let message = StoredWill { topic: "gone".to_owned(), payload: payload.into(), qos: 1, ..StoredWill::default() };
        let will = Will { delay_s: 0, state: WillState::Armed, due_at: None, message: Message::new(message) };
        let mut claim = Claim::new(Request {
            node: NodeId(self.node.to_owned()),
            clean_start: false,
            expiry_s: 3_600,
            will: Some(will),
            rest: Rest::new(ID, "5.0", "10.0.0.1:1".to_owned(), None),
            came_at: None,
        });
        let mut driver = Driver::new(self, &control.client_id, WillCause::TakenOver);
        let deadline = Instant::now() + Duration::from_secs(120);
        match driver.claim(&mut claim, &control, &mut Open, true, deadline).await {
            (ClaimOutcome::Claimed(claimed), None) => claimed,
            (outcome, order) => panic!("{outcome:?}, {order:?}"),
        }
    }

    /// The end of that connection, whose client has not said goodbye.
    async fn leave(&self, claimed: Claimed, cursor: u64) -> LeaveOutcome<Message, Rest> {
        let id = ByteString::from_static(ID);
        let progress = ProgressRecord { epoch: claimed.state.epoch.0, cursor, ..ProgressRecord::default() };
        let mut driver = Driver::new(self, &id, WillCause::ConnectionLost);
        driver.leave(Leave::new(claimed.state, claimed.revision, progress, true)).await
    }

    /// Puts the session in order when its owner is gone, as it was read.
    async fn fail_over(&self, (record, sequence): (SessionRecord, u64)) -> FailoverOutcome {
        let id = ByteString::from_static(ID);
        let mut machine = Failover::new(state_of(record), Revision(sequence), NodeId(self.node.to_owned()));
        let mut driver = Driver::new(self, &id, WillCause::NodeLost);
        let mut next: FailoverStep = machine.begin(self.now());
        loop {
            match next {
                Step::Do(output) => next = driver.fail_over(&mut machine, output).await,
                Step::Done(outcome) => return outcome,
                Step::Wait => panic!("nothing is to be done"),
            }
        }
    }

    async fn read(&self) -> (SessionRecord, u64) {
        let loaded = self.store.sessions.load(ID).await.unwrap();
        (loaded.record.expect("there is a session"), loaded.sequence)
    }

    /// What the log has: wills, in their order.
    async fn wills(&self) -> Vec<Bytes> {
        let last = self.store.log.last_sequence().await.unwrap();
        let all: Vec<u64> = (1..=last).collect();
        self.store.log.get_many(&all).await.unwrap().into_iter().map(|entry| entry.payload).collect()
    }

    /// Does something while the link breaks before so many things are asked of it, until it is whole again. What was on its way
    /// arrives when all is over. Returns whether it has broken as well.
    async fn through<T>(&self, passes: usize, state: LinkState, work: impl Future<Output = T>) -> (T, bool) {
        self.store.link.break_after(passes, state);
        let outage = async {
            self.store.link.has_broken().await;
            tokio::time::sleep(OUTAGE).await;
            self.store.link.set(LinkState::Up);
            std::future::pending::<()>().await;
        };
        let done = tokio::select! {
            done = work => done,
            () = outage => unreachable!("an outage that is over waits for ever"),
        };
        let has_broken = !self.store.link.spare();
        self.store.link.set(LinkState::Up);
        self.server.release();
        (done, has_broken)
    }
}

/// Runs something with an outage before each thing that it asks for, in each way, and says that there were some.
async fn with_outages(run: impl AsyncFn(usize, LinkState) -> bool) {
    for state in [LinkState::Down, LinkState::Deaf, LinkState::Held] {
        let mut broken = 0;
        for passes in 0..ASKED_MAX {
            broken += usize::from(run(passes, state).await);
        }
        assert!((2..ASKED_MAX).contains(&broken), "{state:?}: {broken} of {ASKED_MAX} runs have had their outage");
    }
}

/// Serves what a connection has in memory to who takes its session over.
async fn hands_over(sidecar: &Sidecar, progress: ProgressRecord) -> impl Drop {
    let answer = Bytes::from(serde_json::to_vec(&progress).unwrap());
    let handler = move |_: Bytes| {
        let answer = answer.clone();
        async move { Some(answer) }
    };
    sidecar.store.peers.serve(sidecar.node, handler).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_connect_makes_its_connection_the_owner_through_an_outage() {
    with_outages(async |passes, state| {
        let (a, b) = Sidecar::pair();
        let (claimed, has_broken) = a.through(passes, state, a.connect("of a")).await;
        assert!(!claimed.is_present);
        let (record, sequence) = b.read().await;
        assert_eq!((record.owner.as_deref(), record.connected, sequence), (Some("node-a"), true, claimed.revision.0));
        assert_eq!(record.epoch, claimed.state.epoch.0);
        assert!(b.wills().await.is_empty());
        has_broken
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_takes_over_has_what_the_old_owner_had_and_shuts_it_out_through_an_outage() {
    with_outages(async |passes, state| {
        let (a, b) = Sidecar::pair();
        let old = a.connect("of a").await;
        let progress = ProgressRecord { epoch: old.state.epoch.0, cursor: 7, ..ProgressRecord::default() };
        let _served = hands_over(&a, progress).await;
        let (new, has_broken) = b.through(passes, state, b.connect("of b")).await;
        assert!(new.is_present && new.state.epoch > old.state.epoch);
        let cursor = new.progress.as_ref().map(|progress| progress.cursor);
        // Nobody hears an answer over a link that is broken, however often it asks. What it had is with its client again then.
        assert!(cursor == Some(7) || has_broken && cursor.is_none(), "{cursor:?}");
        assert_eq!(b.wills().await, ["of a"], "that of the connection that was taken over");

        assert_eq!(a.leave(*old, 99).await, LeaveOutcome::Theirs);
        let (record, sequence) = a.read().await;
        assert_eq!((record.owner.as_deref(), record.connected, sequence), (Some("node-b"), true, new.revision.0));
        let saved = a.store.sessions.load_progress(ID).await.unwrap();
        assert_ne!(saved.map(|saved| saved.cursor), Some(99), "the old owner has saved nothing");
        let late = a.store.sessions.put_record(&record, new.left.found.unwrap().1.0, Some(NEVER)).await;
        assert_eq!(late, Err(WriteError::Fenced));
        assert_eq!(a.wills().await, ["of a"]);
        has_broken
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_leaves_publishes_its_will_once_and_saves_its_progress_through_an_outage() {
    with_outages(async |passes, state| {
        let (a, b) = Sidecar::pair();
        let claimed = a.connect("of a").await;
        let (outcome, has_broken) = a.through(passes, state, a.leave(*claimed, 41)).await;
        assert_eq!(outcome, LeaveOutcome::Done);
        let (record, _) = b.read().await;
        assert!(!record.connected && !record.has_will(), "{record:?}");
        assert_eq!(b.store.sessions.load_progress(ID).await.unwrap().map(|saved| saved.cursor), Some(41));
        assert_eq!(b.wills().await, ["of a"]);
        // Its client comes back elsewhere, and its session is there.
        assert!(b.connect("of b").await.is_present);
        assert_eq!(b.wills().await, ["of a"]);
        has_broken
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_session_of_who_is_gone_is_put_in_order_and_its_will_published_once_through_an_outage() {
    with_outages(async |passes, state| {
        let (a, b) = Sidecar::pair();
        let lease = a.store.peers.acquire(a.node, Vec::new()).await.unwrap();
        a.connect("of a").await;
        // It is killed.
        drop(lease);
        while !b.store.peers.is_gone(a.node).await.unwrap() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let found = b.read().await;
        let (outcome, has_broken) = b.through(passes, state, b.fail_over(found.clone())).await;
        assert_eq!(outcome, FailoverOutcome::Done);
        let (record, sequence) = a.read().await;
        assert!(!record.connected && !record.has_will(), "{record:?}");
        assert_eq!(a.wills().await, ["of a"]);
        // Somebody else who has read the same comes too late.
        assert_eq!(a.fail_over(found).await, FailoverOutcome::Theirs);
        assert_eq!((a.read().await.1, a.wills().await), (sequence, vec![Bytes::from_static(b"of a")]));
        has_broken
    })
    .await;
}

/// What a record says is what was claimed.
#[tokio::test(start_paused = true)]
async fn what_is_written_is_what_the_machine_has() {
    let (a, _) = Sidecar::pair();
    let claimed = a.connect("of a").await;
    let name = |_: &StoredWill, _: Epoch| unreachable!("no will is marked");
    assert_eq!(record_of(claimed.state, &name), a.read().await.0);
}
