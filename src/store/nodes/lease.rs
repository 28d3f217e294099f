//! One lease: taken, refreshed, in doubt, taken again, lost or released. What it decides is `mqtt_ownership::Tenure`; here is what
//! it needs: the bucket, the clock and the pauses.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use mqtt_ownership::{Found, Moment, PutNumber, Revision, Standing, Tenure, TenureInput, TenureStep, TenureTimes};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{LeaseTimes, NodeInfo, Nodes, Occupancy, Shared};
use crate::store::bucket::{Bucket, Fence, Pause, Value, Write, new_write_id};
use crate::store::error::{Unavailable, WriteError};
use crate::store::sessions::RECORD_VERSION;

/// How long the marker of a lease that was released stays, seconds: long enough for all who are there to see it, and for
/// one that starts meanwhile.
const RELEASED_TTL_S: u32 = 600;

impl LeaseTimes {
    /// For who gives up when it is in doubt.
    pub(super) fn of_lead(self) -> TenureTimes {
        TenureTimes { give_up_after: self.fence_after, is_taken_again: false, ..self.of_node() }
    }

    pub(in crate::store) fn of_node(self) -> TenureTimes {
        TenureTimes {
            refresh_every: self.refresh_every,
            fence_after: self.fence_after,
            give_up_after: self.give_up_after,
            settle: self.settle,
            is_taken_again: true,
        }
    }
}

/// How a lease stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// It is held, as far as we know, and for a while at least.
    Held {
        /// How often it had ended before, as others may have seen, and was taken again.
        gaps: u32,
    },
    /// It was not refreshed in time: others may see that it has ended. The holder goes on trying.
    InDoubt,
    /// It was not refreshed for too long, or somebody else has it. This is final.
    Lost,
}

impl LeaseState {
    /// Whether it is held.
    #[must_use]
    pub const fn is_held(self) -> bool {
        matches!(self, Self::Held { .. })
    }
}

impl From<Standing> for LeaseState {
    fn from(standing: Standing) -> Self {
        match standing {
            Standing::Held { gaps } => Self::Held { gaps },
            Standing::InDoubt => Self::InDoubt,
            Standing::Lost => Self::Lost,
        }
    }
}

/// What a holder knows of its lease.
#[derive(Clone, Debug)]
pub(in crate::store) struct Grip {
    tenure: Tenure,
    /// What the tenure's times count from.
    began: Instant,
}

impl Grip {
    /// Of a lease that is there, by a put that was sent at `began`.
    pub(in crate::store) fn new(times: TenureTimes, sequence: u64, began: Instant) -> Self {
        let tenure = Tenure::new(times, Revision(sequence), Moment::ZERO, began.elapsed());
        Self { tenure, began }
    }

    /// What is to be done first.
    pub(in crate::store) fn begin(&self) -> TenureStep {
        self.tenure.begin()
    }

    fn now(&self) -> Moment {
        self.began.elapsed()
    }

    pub(in crate::store) fn at(&self, moment: Moment) -> Instant {
        self.began + moment
    }

    /// Sequence of the last refresh.
    pub(in crate::store) fn sequence(&self) -> u64 {
        self.tenure.revision().0
    }

    pub(in crate::store) fn state(&self) -> LeaseState {
        self.tenure.standing(self.now()).into()
    }

    /// What happened, and what is to be done next.
    pub(in crate::store) fn handle(&mut self, input: TenureInput) -> TenureStep {
        let now = self.now();
        self.tenure.handle(now, input)
    }

    /// When its state changes, should nothing happen.
    pub(in crate::store) fn changes_at(&self) -> Instant {
        self.at(self.tenure.changes_at(self.now()))
    }
}

/// What stands under a key.
#[derive(Clone, Debug)]
pub(super) enum Told {
    /// Always the same.
    Same(Bytes),
    /// A node, and how many clients it has at the time.
    Node(Box<NodeInfo>, Arc<Occupancy>),
}

impl Told {
    fn now(&self) -> Bytes {
        match self {
            Self::Same(value) => value.clone(),
            Self::Node(info, occupancy) => {
                let info = NodeInfo { connections: occupancy.counts(), shut: occupancy.shut(), ..(**info).clone() };
                // Texts and numbers can be written.
                serde_json::to_vec(&info).unwrap_or_default().into()
            }
        }
    }
}

/// Takes and refreshes one key.
#[derive(Clone, Debug)]
pub(super) struct Keeper {
    bucket: Bucket,
    subject: ByteString,
    value: Told,
    times: LeaseTimes,
    tenure: TenureTimes,
    /// Begins the ids of our writes.
    boot: Arc<str>,
}

impl Keeper {
    /// Of the lease of a node.
    pub(super) fn new(shared: &Shared, subject: ByteString, value: Told, boot: &str) -> Self {
        let (bucket, times) = (shared.bucket.clone(), shared.times);
        Self { bucket, subject, value, times, tenure: times.of_node(), boot: Arc::from(boot) }
    }

    /// The same for one that is given up in doubt.
    pub(super) fn of_lead(self) -> Self {
        Self { tenure: self.times.of_lead(), ..self }
    }

    /// Takes the lease; with `by_force` also when somebody has it. `None`: somebody has it, or was faster.
    pub(super) async fn take(&self, by_force: bool) -> Result<Option<Grip>, Unavailable> {
        let last = self.bucket.last(&self.subject).await?;
        let is_held = last.as_ref().is_some_and(|last| last.value().is_some());
        if is_held && !by_force {
            return Ok(None);
        }
        if is_held {
            tracing::warn!(lease = %self.subject, "taking over a lease that was not released");
        }
        let began = Instant::now();
        let expected = last.map_or(0, |last| last.sequence);
        match self.put(expected, PutNumber(0), began + self.times.fence_after).await {
            Ok(sequence) => Ok(Some(Grip::new(self.tenure, sequence, began))),
            Err(WriteError::Fenced) => Ok(None),
            Err(error) => Err(Unavailable::new(error)),
        }
    }

    async fn put(&self, expected: u64, number: PutNumber, deadline: Instant) -> Result<u64, WriteError> {
        let value = Value::Put(self.value.now());
        let fence = Fence::Own(expected);
        let write = Write { subject: &self.subject, value, fence, ttl_s: Some(self.times.ttl_s) };
        self.bucket.write_as(&write, &self.write_id(number), deadline).await
    }

    fn write_id(&self, PutNumber(number): PutNumber) -> String {
        format!("{}.{number}", self.boot)
    }

    /// Keeps the lease until it is lost. `told` hears of every step.
    pub(super) async fn keep(&self, mut held: Grip, told: impl Fn(&Grip)) {
        let mut pause = Pause::new();
        let mut step = held.begin();
        loop {
            let before = held.state();
            // Whoever looks on learns of a change in time, whatever is waited for.
            let until = held.changes_at();
            let input = match step {
                TenureStep::Wait(at) => {
                    tokio::time::sleep_until(held.at(at).min(until)).await;
                    TenureInput::Time
                }
                TenureStep::Pause => {
                    tokio::time::sleep_until((Instant::now() + pause.next()).min(until)).await;
                    TenureInput::Time
                }
                TenureStep::Put { expected, number } => {
                    // Not tried to the end under the same number: a later one counts for longer.
                    let deadline = until.min(Instant::now() + self.times.refresh_every / 4);
                    let put = self.put(expected.0, number, deadline);
                    tokio::time::timeout_at(until, put).await.map_or(TenureInput::NoAnswer, |put| self.answer(put))
                }
                TenureStep::Look => tokio::time::timeout_at(until, self.found()).await.unwrap_or(TenureInput::NoAnswer),
                TenureStep::End => return,
            };
            if matches!(input, TenureInput::Stored(_)) {
                pause = Pause::new();
            }
            step = held.handle(input);
            let after = held.state();
            if after != before {
                self.log(after);
            }
            told(&held);
        }
    }

    fn log(&self, state: LeaseState) {
        let lease = &self.subject;
        match state {
            LeaseState::Held { gaps } => tracing::info!(%lease, gaps, "the lease is held again"),
            LeaseState::InDoubt => tracing::warn!(%lease, "the lease could not be refreshed in time and is in doubt"),
            LeaseState::Lost => {
                tracing::error!(%lease, "the lease is lost: it was not refreshed, or is somebody else's")
            }
        }
    }

    fn answer(&self, put: Result<u64, WriteError>) -> TenureInput {
        match put {
            Ok(sequence) => TenureInput::Stored(Revision(sequence)),
            Err(WriteError::Fenced) => TenureInput::Refused,
            Err(error) => {
                tracing::warn!(lease = %self.subject, %error, "the lease cannot be refreshed now");
                TenureInput::NoAnswer
            }
        }
    }

    /// What stands there.
    async fn found(&self) -> TenureInput {
        let last = match self.bucket.last(&self.subject).await {
            Ok(last) => last,
            Err(_) => return TenureInput::NoAnswer,
        };
        let Some(last) = last else { return TenureInput::Found(Found::Nobody(Revision(0))) };
        let revision = Revision(last.sequence);
        let number = last.write_id.as_deref().and_then(|id| id.strip_prefix(&*self.boot)?.strip_prefix('.'));
        TenureInput::Found(match number.and_then(|number| number.parse().ok()) {
            _ if last.value().is_none() => Found::Nobody(revision),
            Some(number) => Found::Ours(PutNumber(number), revision),
            None => Found::Theirs,
        })
    }

    /// Gives the lease back, so that the others need not wait for its end.
    pub(super) async fn release(&self, grip: &Grip) {
        let fence = Fence::Own(grip.sequence());
        let write = Write { subject: &self.subject, value: Value::Deleted, fence, ttl_s: Some(RELEASED_TTL_S) };
        let deadline = Instant::now() + self.times.refresh_every;
        match self.bucket.write_as(&write, &new_write_id(), deadline).await {
            Ok(_) | Err(WriteError::Fenced) => {}
            Err(error) => tracing::warn!(lease = %self.subject, %error, "the lease was not released and will expire"),
        }
    }
}

impl Nodes {
    /// Takes the lease of a node and keeps it. A lease of the same name that is there is taken over: an earlier process of
    /// this node did not end well, or, which is an error of the operator, is still there and becomes [`LeaseState::Lost`]. One
    /// that could not be refreshed in time is taken again, should nobody else have it.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn acquire(&self, node: &str, mqtt: Vec<String>) -> Result<Lease, Unavailable> {
        let subject = self.shared.names.node_lease(node).map_err(Unavailable::new)?;
        let boot = format!("{:016x}", rand::random::<u64>());
        let since_ms = self.shared.bucket.api.link.clock.earliest().0;
        let (version, node, connections) = (RECORD_VERSION, node.to_owned(), self.shared.occupancy.counts());
        let info = NodeInfo {
            version,
            node,
            boot,
            since_ms,
            mqtt,
            seals: true,
            connections,
            shut: self.shared.occupancy.shut(),
        };
        let value = Told::Node(Box::new(info.clone()), Arc::clone(&self.shared.occupancy));
        let keeper = Keeper::new(&self.shared, subject, value, &info.boot);
        let Some(grip) = keeper.take(true).await? else {
            return Err(Unavailable::new("another process takes the lease of this node at the same time"));
        };
        Ok(Lease::start(info, keeper, grip))
    }
}

/// What a holder knows of its lease, for whoever goes by it.
#[derive(Clone, Debug)]
pub struct LeaseView {
    grip: watch::Receiver<Grip>,
}

impl LeaseView {
    pub(in crate::store) const fn of(grip: watch::Receiver<Grip>) -> Self {
        Self { grip }
    }

    /// How it stands now, by the clock, whether its keeper has run meanwhile or not.
    #[must_use]
    pub fn state(&self) -> LeaseState {
        self.grip.borrow().state()
    }

    /// How often it had ended before; `None` while that is not known.
    #[must_use]
    pub fn gaps(&self) -> Option<u32> {
        match self.state() {
            LeaseState::Held { gaps } => Some(gaps),
            LeaseState::InDoubt | LeaseState::Lost => None,
        }
    }

    /// Waits until it stands otherwise than `before`, or its keeper has ended.
    pub async fn differs(&mut self, before: LeaseState) {
        while self.state() == before && self.changed().await {}
    }

    /// How long ago the last refresh that is known to be stored was sent.
    #[must_use]
    pub fn age(&self) -> Duration {
        let grip = self.grip.borrow();
        grip.now().saturating_sub(grip.tenure.sent())
    }

    /// Until when it is held, should nothing happen.
    #[must_use]
    pub fn held_until(&self) -> std::time::Instant {
        let grip = self.grip.borrow();
        grip.at(grip.tenure.held_until()).into_std()
    }

    /// Waits until it is refreshed or stands otherwise. False when its keeper has ended.
    pub async fn changed(&mut self) -> bool {
        self.grip.changed().await.is_ok()
    }

    /// Waits until the holder may say of others that their leases have ended: it is heard as often as it should be, and has been
    /// for long enough that all others have had time to be heard as well. False when its keeper has ended.
    pub async fn may_judge(&mut self) -> bool {
        loop {
            let from = {
                let grip = self.grip.borrow_and_update();
                let now = grip.now();
                grip.tenure.judges_from(now).map(|from| (grip.at(from), from <= now))
            };
            match from {
                Some((_, true)) => return true,
                Some((at, false)) => tokio::select! {
                    () = tokio::time::sleep_until(at) => {}
                    changed = self.grip.changed() => if changed.is_err() { return false },
                },
                None => {
                    if self.grip.changed().await.is_err() {
                        return false;
                    }
                }
            }
        }
    }
}

/// The lease of a node. Dropped without [`Lease::release`] it expires, as when the process is killed.
#[derive(Debug)]
pub struct Lease {
    info: NodeInfo,
    keeper: Keeper,
    grip: watch::Receiver<Grip>,
    state: watch::Receiver<LeaseState>,
    task: JoinHandle<()>,
}

impl Lease {
    pub(super) fn start(info: NodeInfo, keeper: Keeper, grip: Grip) -> Self {
        let (state_tx, state) = watch::channel(grip.state());
        let (grip_tx, seen) = watch::channel(grip.clone());
        let task = keeper.bucket.api.link.tasks.spawn({
            let keeper = keeper.clone();
            async move {
                let told = |held: &Grip| {
                    let now = held.state();
                    state_tx.send_if_modified(|state| std::mem::replace(state, now) != now);
                    grip_tx.send_replace(held.clone());
                };
                keeper.keep(grip, told).await;
                state_tx.send_replace(LeaseState::Lost);
            }
        });
        let grip = seen;
        Self { info, keeper, grip, state, task }
    }

    /// What the others see of us.
    pub fn info(&self) -> &NodeInfo {
        &self.info
    }

    /// How it stands.
    pub fn state(&self) -> watch::Receiver<LeaseState> {
        self.state.clone()
    }

    /// What is known of it.
    pub fn view(&self) -> LeaseView {
        LeaseView::of(self.grip.clone())
    }

    /// Gives it back.
    pub async fn release(self) {
        self.task.abort();
        let grip = self.grip.borrow().clone();
        if grip.state().is_held() {
            self.keeper.release(&grip).await;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.task.abort();
    }
}
