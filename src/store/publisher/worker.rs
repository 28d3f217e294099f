//! The publisher's task: connections, acknowledgements, time.
//!
//! A connection is used until it is lost and never again: its successor gets everything that is unacknowledged, in order,
//! before anything newer ([`super::super::connection::Epoch`]).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto_map::Names;
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;

use super::lane::{AskToken, Found, GaveUp, Lane, Resolved};
use super::{
    Completion, LANE_RETAINED, Pending, Publisher, PublisherLimits, Reply, Shared, Stored, StoredSink, StreamLane,
    parse_reply, question_subject,
};
use crate::nats::{Message, OnFull, QueueLimits};
use crate::store::ack::{ApiError, parse_pub_ack};
use crate::store::api::stored_message;
use crate::store::api_errors::ApiErrors;
use crate::store::connection::{Connector, Epoch, Role};
use crate::store::error::PutError;
use crate::store::headers::{self, WRITE_ID};
use crate::store::horizon::Horizons;
use crate::store::rooms::Rooms;

/// Acknowledgements that are handled before the sinks are flushed.
const BATCH_MAX: usize = 512;
/// Acknowledgements that wait to be read, beyond which the server has to wait.
const ACKS_MAX: usize = 16_384;
const ACK_BYTES_MAX: usize = 64 << 20;
/// How often silence is looked for while something is under way, and how soon a lane that pauses goes on.
const TICK: Duration = Duration::from_millis(20);
/// Pause between two attempts to connect.
const CONNECT_PAUSE: Duration = Duration::from_millis(100);
const CONNECT_LOG_EVERY: Duration = Duration::from_secs(5);
/// So many probes in a row without an answer: the connection is dead although nobody said so.
const SILENT_PROBES_MAX: u32 = 2;

/// JetStream says who leads a stream now. Such messages can be lost: they end a wait, and nothing depends on them.
const ELECTED: &str = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.";
/// JetStream errors: the last message of the subject is another one; it may be, as others are on their way.
const WRONG_LAST: [u32; 3] = [10071, 10163, 10164];
/// The highest sequence that a stream can have when we see it first, and by how much it can be ahead of what we have seen:
/// years, and days, at a million messages a second.
const SEQUENCE_MAX: u64 = 1 << 48;
const SEQUENCE_JUMP_MAX: u64 = 1 << 38;

/// What an acknowledgement says.
enum Answer {
    Stored(Stored),
    /// Nobody has the subject now; worth another try.
    Refused,
    /// The last message of the subject is not the one that was expected.
    WrongLast(PutError),
    Failed(PutError),
}

enum Ended {
    /// No publisher is left.
    Closed,
    /// The connection is lost.
    Lost,
}

impl Publisher {
    /// Starts the publisher's task, which connects by itself. `is_replicated`: our own streams have replicas.
    pub(in crate::store) fn start(
        connector: Connector,
        names: &Names,
        limits: PublisherLimits,
        (horizons, rooms): (Horizons, Rooms),
        is_replicated: bool,
    ) -> Self {
        let inbox = names.acknowledgements(&format!("{:016x}", rand::random::<u64>()));
        let shared = Shared::new(inbox, names, limits, connector.errors.clone(), (horizons, rooms), is_replicated);
        let (alive, ended) = oneshot::channel();
        connector.tasks.clone().spawn(run(Arc::clone(&shared), connector, ended));
        Self { shared, _alive: Arc::new(alive) }
    }

    /// One of an account in which nothing is stored: it connects to nothing, and nobody hands it anything over.
    pub(in crate::store) fn idle(names: &Names, limits: PublisherLimits, rooms: Rooms) -> Self {
        let known = (Horizons::default(), rooms);
        let shared = Shared::new(String::new(), names, limits, ApiErrors::default(), known, false);
        Self { shared, _alive: Arc::new(oneshot::channel().0) }
    }
}

async fn run(shared: Arc<Shared>, connector: Connector, mut ended: oneshot::Receiver<()>) {
    let role = Role {
        name: "publish",
        no_echo: false,
        is_answered_by_anybody: false,
        // Whatever is under way fits, so `submit` need not wait.
        queue: shared.limits.in_flight_max * 2 + 64,
        subscription_queue: ACKS_MAX,
    };
    let mut worker = Worker::new(shared);
    loop {
        let epoch = tokio::select! {
            epoch = worker.connect(&connector, role) => epoch,
            _ = &mut ended => return,
        };
        let client = epoch.client.clone();
        let outcome = worker.serve(epoch, &mut ended).await;
        worker.detach();
        // The next one repeats what is unacknowledged; what this one has not written must not come behind that.
        client.close();
        match outcome {
            Ended::Closed => return,
            Ended::Lost => {}
        }
    }
}

struct Worker {
    shared: Arc<Shared>,
    batch: Vec<Message>,
    touched: Vec<Arc<dyn StoredSink>>,
    answered_at: Instant,
    /// As it was in the state when that was last looked at: then time matters.
    is_watched: bool,
}

impl Worker {
    fn new(shared: Arc<Shared>) -> Self {
        let (batch, touched) = (Vec::with_capacity(BATCH_MAX), Vec::new());
        Self { shared, batch, touched, answered_at: Instant::now(), is_watched: false }
    }

    /// Connects; meanwhile, messages that wait too long fail.
    async fn connect(&mut self, connector: &Connector, role: Role) -> Epoch {
        let mut logged = None::<Instant>;
        let mut tick = tokio::time::interval(TICK * 5);
        loop {
            let attempt = connector.epoch(role);
            tokio::pin!(attempt);
            let result = loop {
                tokio::select! {
                    result = &mut attempt => break result,
                    () = self.shared.attention.notified() => self.settle(),
                    _ = tick.tick(), if self.is_watched => {
                        self.watch();
                        self.settle();
                    }
                }
            };
            match result {
                Ok(epoch) => return epoch,
                Err(error) => {
                    if logged.is_none_or(|at| at.elapsed() >= CONNECT_LOG_EVERY) {
                        tracing::warn!(%error, "no NATS connection to publish on, trying again");
                        logged = Some(Instant::now());
                    }
                }
            }
            self.settle();
            tokio::time::sleep(CONNECT_PAUSE).await;
        }
    }

    /// Uses a connection until it is lost.
    async fn serve(&mut self, mut epoch: Epoch, ended: &mut oneshot::Receiver<()>) -> Ended {
        // An acknowledgement is never dropped: it would be a message sent again, or an order lost.
        let limits = QueueLimits { of_each_max: ACKS_MAX, bytes_max: ACK_BYTES_MAX, on_full: OnFull::StopReading };
        let Ok(mut acks) = epoch.client.subscribe(&self.shared.tokens.subscription(), limits) else {
            return Ended::Lost;
        };
        // Nothing depends on them, so they hold nothing up.
        let limits = QueueLimits { on_full: OnFull::Drop, ..limits };
        let Ok(mut elections) = epoch.client.subscribe(&format!("{ELECTED}*"), limits) else { return Ended::Lost };
        self.attach(&epoch);
        self.settle();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                alive = acks.receive(&mut self.batch, BATCH_MAX) => {
                    let is_full = self.batch.len() >= BATCH_MAX;
                    self.take_answers();
                    self.settle();
                    if !alive {
                        return Ended::Lost;
                    }
                    if is_full {
                        // More are there already; others on this thread have waited.
                        tokio::task::yield_now().await;
                    }
                }
                () = self.shared.attention.notified() => self.settle(),
                Some(elected) = elections.next() => {
                    self.elected(elected.subject());
                    self.settle();
                }
                Some(subject) = epoch.denied.recv() => {
                    self.fail_denied(&subject);
                    self.settle();
                }
                _ = tick.tick(), if self.is_watched => {
                    self.watch();
                    if self.check_silence() {
                        tracing::warn!("JetStream does not answer on this connection, making another one");
                        return Ended::Lost;
                    }
                    self.settle();
                }
                _ = epoch.lost.changed() => {
                    // Acknowledgements that have arrived count.
                    while acks.receive_now(&mut self.batch, BATCH_MAX) > 0 {
                        self.take_answers();
                    }
                    self.settle();
                    return Ended::Lost;
                }
                _ = &mut *ended => return Ended::Closed,
            }
        }
    }

    fn attach(&self, epoch: &Epoch) {
        let now = Instant::now();
        let mut state = self.shared.state.lock();
        state.client = Some(epoch.client.clone());
        for lane in &mut state.lanes {
            lane.lane.restart(now);
        }
    }

    fn detach(&self) {
        self.shared.state.lock().client = None;
        self.shared.available.send_replace(false);
    }

    /// Whether there is anything to look for until the next message comes. Said by a tick only, and not when the last
    /// acknowledgement comes: who publishes one message after the other wakes this task for the first one.
    fn watch(&self) {
        let mut state = self.shared.state.lock();
        state.is_watched = state.lanes.iter().any(|lane| !lane.lane.is_empty());
    }

    /// Looks for messages that met silence; returns whether the connection must be given up.
    fn check_silence(&self) -> bool {
        let now = Instant::now();
        let mut state = self.shared.state.lock();
        let mut silent = 0;
        for lane in &mut state.lanes {
            silent = silent.max(lane.lane.check_silence(now));
        }
        // One stream may be without a leader while others answer: the connection is not to blame.
        let is_silent = now.saturating_duration_since(self.answered_at) >= self.shared.limits.ack_timeout;
        silent >= SILENT_PROBES_MAX && is_silent
    }

    /// A stream has a new leader.
    fn elected(&self, subject: &[u8]) {
        let Some(stream) = subject.strip_prefix(ELECTED.as_bytes()) else { return };
        let now = Instant::now();
        let mut state = self.shared.state.lock();
        state.lanes.iter_mut().filter(|lane| lane.stream.as_bytes() == stream).for_each(|lane| lane.lane.elected(now));
    }

    /// The server did not let us publish on this subject, and that is all it will say.
    fn fail_denied(&self, subject: &str) {
        let (mut denied, now) = (Vec::new(), Instant::now());
        let mut state = self.shared.state.lock();
        let state = &mut *state;
        for lane in &mut state.lanes {
            if subject == question_subject(&lane.stream) {
                tracing::warn!(%subject, "messages without an answer are sent again without looking for them");
                lane.lane.is_not_answered();
            }
            lane.lane.take_sent(|pending| pending.subject == subject, now, &mut denied);
        }
        let result = || Err(PutError::Rejected { code: 403, text: format!("not allowed to publish to {subject}") });
        let completions = denied.into_iter();
        state.completions.extend(completions.map(|pending| pending.completed(result())));
    }

    /// Reads the acknowledgements of a batch.
    fn take_answers(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut state = self.shared.state.lock();
        let state = &mut *state;
        for message in &self.batch {
            let Some((lane, reply)) = self.shared.tokens.read(message.subject()).and_then(parse_reply) else {
                continue;
            };
            let Some(StreamLane { lane, stream, horizon, room, highest }) = state.lanes.get_mut(lane) else { continue };
            let token = match reply {
                Reply::Copy(token) => token,
                Reply::Ask(token) => {
                    self.answered_at = now;
                    take_found(lane, token, message, now, &mut state.completions);
                    continue;
                }
            };
            let Some(answer) = answer(message, stream, *highest, &self.shared.errors) else { continue };
            self.answered_at = now;
            if let Answer::Stored(stored) = &answer {
                *highest = stored.sequence.max(*highest);
                horizon.note(stored.sequence);
            }
            let (pending, result) = match answer {
                Answer::Refused => {
                    lane.refused(token, now);
                    continue;
                }
                Answer::WrongLast(error) => (lane.mismatched(token, now), Err(error)),
                Answer::Stored(stored) => (lane.stored(token, stored.sequence, stored.duplicate, now), Ok(stored)),
                Answer::Failed(error) => (lane.failed(token, now), Err(error)),
            };
            let Some(pending) = pending else { continue };
            match &result {
                Ok(_) => room.taken(|| pending.bytes()),
                Err(PutError::Full { code, text }) => room.refused(*code, text, pending.bytes()),
                Err(_) => {}
            }
            state.completions.push_back(pending.completed(result));
        }
        self.batch.clear();
    }

    /// Sends what may be sent, fails what waited too long, tells the sinks.
    fn settle(&mut self) {
        let now = Instant::now();
        let limits = &self.shared.limits;
        let mut given_up = Vec::new();
        let (completions, open) = {
            let mut state = self.shared.state.lock();
            let mut open = state.client.is_some();
            for lane in 0..state.lanes.len() {
                let is_ours = lane <= LANE_RETAINED;
                let is_missing = !is_ours && state.lanes[lane].lane.is_refused();
                let patience =
                    limits.put_timeout.min(if is_missing { limits.no_stream_timeout } else { Duration::MAX });
                state.lanes[lane].lane.give_up(now, patience, &mut given_up);
                // What could not be sent stays in the lane; the next tick tries again.
                self.shared.pump(&mut state, lane, now);
                // Whether JetStream is there is said by the streams that are ours.
                let lane = &state.lanes[lane].lane;
                open &= !is_ours || lane.is_open() || lane.is_empty();
            }
            self.is_watched = state.is_watched;
            (std::mem::take(&mut state.completions), open)
        };
        for Completion { sink, token, result } in completions {
            sink.stored(token, result);
            self.touch(sink);
        }
        for (pending, why) in given_up {
            let error = match why {
                GaveUp::NoStream => PutError::NoStream,
                GaveUp::Silence => PutError::Unavailable,
            };
            pending.sink.stored(pending.token, Err(error));
            self.touch(pending.sink);
        }
        self.flush();
        self.shared.available.send_if_modified(|available| std::mem::replace(available, open) != open);
    }

    /// Remembers a sink that is to be flushed.
    fn touch(&mut self, sink: Arc<dyn StoredSink>) {
        if !self.touched.last().is_some_and(|last| Arc::ptr_eq(last, &sink)) {
            self.touched.push(sink);
        }
    }

    fn flush(&mut self) {
        if self.touched.len() > 1 {
            self.touched.sort_unstable_by_key(|sink| Arc::as_ptr(sink).cast::<()>().addr());
            self.touched.dedup_by(|a, b| Arc::ptr_eq(a, b));
        }
        for sink in self.touched.drain(..) {
            sink.flush();
        }
    }
}

/// Takes what the leader has answered about messages of a subject.
fn take_found(
    lane: &mut Lane<Pending>,
    token: AskToken,
    message: &Message,
    now: Instant,
    completions: &mut VecDeque<Completion>,
) {
    let is_refused = message.status().is_some();
    let found = match stored_message(message.payload()) {
        Ok(None) if !is_refused => Found::Nothing,
        Ok(Some(stored)) if !is_refused => {
            let id = stored
                .headers()
                .ok()
                .and_then(|headers| headers::first(&headers, WRITE_ID).and_then(|id| u64::from_str_radix(id, 16).ok()));
            Found::Message { sequence: stored.seq, id }
        }
        // No leader, no stream, or nothing that can be read.
        _ => return lane.ask_refused(token, now),
    };
    let mut resolved = Vec::new();
    lane.looked(token, found, now, &mut resolved);
    completions.extend(resolved.into_iter().map(|resolved| match resolved {
        Resolved::Stored(pending, sequence) => pending.completed(Ok(Stored { sequence, duplicate: false })),
        Resolved::Overtaken(pending, last) => {
            pending.completed(Err(PutError::Rejected {
                code: WRONG_LAST[0],
                text: format!("wrong last sequence: {last}"),
            }))
        }
    }));
}

/// Whether a stream can have this sequence when the highest that we know of is `highest`: a lie would be believed for ever by
/// whoever remembers how far a stream is.
const fn is_plausible(sequence: u64, highest: u64) -> bool {
    sequence <= highest.saturating_add(if highest == 0 { SEQUENCE_MAX } else { SEQUENCE_JUMP_MAX })
}

/// What a message on our inbox says about a put to `stream`; `None` if nothing: a subscriber of the subject may have answered.
fn answer(message: &Message, stream: &str, highest: u64, errors: &ApiErrors) -> Option<Answer> {
    if let Some(status) = message.status() {
        return (status == 503).then_some(Answer::Refused);
    }
    let ack = parse_pub_ack(message.payload())?;
    if ack.stream().is_some_and(|acknowledged| acknowledged != stream) || !is_plausible(ack.seq, highest) {
        return None;
    }
    Some(match ack.error {
        None => Answer::Stored(Stored { sequence: ack.seq, duplicate: ack.duplicate }),
        Some(error) => {
            errors.count(error.err_code);
            classify(error)
        }
    })
}

/// JetStream's errors for a publish; the numbers are its own.
fn classify(error: ApiError) -> Answer {
    let ApiError { code, err_code, description: text } = error;
    match err_code {
        _ if WRONG_LAST.contains(&err_code) => Answer::WrongLast(PutError::Rejected { code: err_code, text }),
        // JetStream is starting, has no leader, or the stream is offline.
        10008 | 10009 | 10118 | 10194 => Answer::Refused,
        // A message with this id was sent before, and the replicas have not agreed on it yet.
        10158 => Answer::Refused,
        // The server is shutting down.
        10077 if text.contains("closed") => Answer::Refused,
        // A message that is larger than the stream or the header block may be.
        10054 | 10097 => Answer::Failed(PutError::TooLarge),
        // Limits of stream, account and server, and 429.
        10002 | 10023 | 10028 | 10047 | 10077 | 10120 | 10167 => {
            Answer::Failed(PutError::Full { code: err_code, text })
        }
        _ if code == 429 => Answer::Failed(PutError::Full { code: err_code, text }),
        _ => Answer::Failed(PutError::Rejected { code: err_code, text }),
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
