//! The one loop where a socket and a session meet. Each turn: decode and handle what came, take what the inbox has,
//! write, wait. The session decides; this file only carries out.

mod ahead;
mod arriving;
mod backlog;
mod beginning;
mod claims;
mod client_events;
mod copies;
mod counts;
mod deliver;
mod durable;
mod ending;
mod handshake;
mod held_back;
mod identity;
mod input;
mod io;
mod life;
mod pace;
mod parts;
mod publishes;
mod rates;
mod reading;
mod reads;
mod reasons;
mod reauthentication;
mod retained;
mod rights;
mod shared_rates;
mod subscribes;

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use mqtt_codec::{Decoder, Packet, PacketId, TopicFilter, Version, Violation};
use mqtt_session::{Close, Input, Output, Position, Session, SubscribeRequest, Time, Verdict};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::account::{
    Account, Control, Done, Inbox, Mail, Outgoing, OwnedSession, PublishOutcome, Publishing, Share, Subscribed, Wakes,
};
use crate::accounts::{Accounts, Stay};
use crate::auth::Principal;
use crate::listener::{Entrance, Peer};
use crate::metrics::{ConnectionGuard, Direction, HeldOutputs};
use crate::network::PeerAddr;
use crate::overload::PROCESS;
use ahead::Ahead;
use arriving::Arrived;
pub(crate) use handshake::Door;
use identity::Identity;
pub(crate) use input::LET_GO_WITHIN;
pub(crate) use io::GOODBYE;
use io::Io;
use pace::Pace;
use parts::{
    Answered, Claimed, Counts, End, Eventual, Fetched, LAZY_AGE, Life, Page, Reading, Remainder, Resending, Written,
};
use rates::Rates;
use reads::Reads;
use retained::PendingRetained;
pub(crate) use rights::judge_again;

/// While more than this many bytes wait to be written, no message is taken out of the inbox.
const OUTPUT_LOW: usize = 64 * 1024;

/// While more than this many bytes wait to be written, no packet of the client is handled that has an answer: a client that
/// does not read its acknowledgements cannot make us queue them without end.
const OUTPUT_HIGH: usize = 512 * 1024;

/// Both are less when memory is short, but not less than this, bytes.
const OUTPUT_LEAST: usize = 8 * 1024;

/// How often a connection that is held back by that, and not by its client alone, looks whether it still is: nobody tells it.
const OUTPUT_LOOK: Duration = Duration::from_millis(100);

/// See [`OUTPUT_LOW`]: now.
fn output_low() -> usize {
    OUTPUT_LOW.min(share().max(OUTPUT_LEAST))
}

/// See [`OUTPUT_HIGH`]: now.
fn output_high() -> usize {
    OUTPUT_HIGH.min(share().max(OUTPUT_LEAST))
}

/// Bytes that one queue may have now.
fn share() -> usize {
    #[cfg(test)]
    if let Some(share) = memory_tests::SHARE.get() {
        return share;
    }
    PROCESS.budget.share()
}

/// SUBSCRIBE packets that are carried out together when they come in a burst.
const SUBSCRIBE_BATCH: usize = 512;

/// Filters of them, unless one packet has more.
const SUBSCRIBE_FILTERS: usize = 1_024;

/// How long a connection without a keep alive sleeps at most between looks at the clock.
const IDLE: Duration = Duration::from_secs(3600);

/// What ended a wait.
enum Event {
    Read(std::io::Result<usize>),
    /// Nothing more is read.
    ReadAll,
    Wrote(std::io::Result<()>),
    Mail,
    Done(Done),
    Subscribed(Subscribed),
    Written(Written),
    Fetched(Fetched),
    Confirmed(Claimed),
    Backlog(Page),
    Authenticated(Verdict<Arc<Principal>>),
    /// Others have had their turn.
    Again,
    Time,
}

/// One accepted connection.
struct Connection<S> {
    io: Io<S>,
    decoder: Decoder,
    /// Packets that wait until they can be handled.
    ahead: Ahead,
    life: Life,
    /// Something was written since the last look at what the client sends.
    has_written: bool,
    session: Session<Outgoing>,
    account: Arc<Account>,
    control: Arc<Control>,
    inbox: Arc<Inbox>,
    publishing: Publishing,
    filters: HashSet<TopicFilter>,
    /// What shared subscriptions gave at QoS 1 and the client has not acknowledged.
    shares: HashMap<PacketId, Share>,
    version: Version,
    remote: PeerAddr,
    started: Instant,
    /// Its account is open until it is over.
    stay: Stay,
    /// It is counted until it is over.
    _counted: ConnectionGuard,
    /// SUBSCRIBE packets that are not carried out yet.
    subscribes: Vec<SubscribeRequest>,
    /// SUBSCRIBE packets that are being carried out. Of the client only what does not wait is handled meanwhile; see `ahead`.
    subscribing: Option<Eventual<Subscribed>>,
    /// The filters of those, which are in `filters` already.
    making: Box<[TopicFilter]>,
    /// What the session holds in JetStream.
    owned: Option<Box<OwnedSession>>,
    /// A write of the record or the progress that is under way.
    writing: Option<Eventual<Written>>,
    /// A write was refused, and no other one is tried.
    is_unwritable: bool,
    is_record_dirty: bool,
    record_pace: Pace,
    answers_after_record: VecDeque<Answered>,
    /// When the oldest change was made that nobody waits for.
    unsaved_since: Option<Instant>,
    /// Messages to repeat that are being fetched. Nothing new is delivered meanwhile.
    resending: Resending,
    /// What shared subscriptions gave at QoS 2, saved; its consumers are to be told.
    claimed: Claimed,
    /// The same, while they are being told.
    confirming: Option<Eventual<Claimed>>,
    backlog: Reading,
    retained: PendingRetained,
    /// Something is still looked for, after others have had their turn.
    yielding: Option<Eventual<()>>,
    /// How fast the client is heard, where there is a limit.
    rates: Option<Box<Rates>>,
    /// By which listener it has come.
    entrance: Arc<Entrance>,
    /// Of a client that named an authentication method.
    identity: Option<Box<Identity>>,
    outputs: Vec<Output<Outgoing>>,
    wakes: Wakes,
    mail: Mail,
    answers: Vec<PublishOutcome>,
    messages: Vec<(Position, Outgoing)>,
    /// Messages that wait until the window has room for all their copies, and what is behind them.
    copies: VecDeque<(Position, Outgoing)>,
    /// Places in logs from which on the session is behind.
    catching_up: Vec<Position>,
    counts: Counts,
    /// What waits to be saved before the client gets it.
    held: HeldOutputs,
    /// What the client did wrong.
    violation: Option<Violation>,
    /// No complete packet was left after the last look.
    is_through: bool,
    /// When the socket is read, if not at once.
    reads: Reads,
    /// The exchange is over, but not all of it is handled.
    remainder: Option<Remainder>,
    end: Option<End>,
}

/// Serves one connection from its first byte to its last.
///
/// **Invariant:** what only its beginning or its end needs is in the memory of a job of its own, which is given back when
/// that is done. What stays while a client is idle is its connection, in one piece, and the wait of its loop.
pub(crate) fn serve<S>(
    stream: S,
    peer: Peer,
    door: Arc<Door>,
    accounts: Arc<Accounts>,
) -> impl Future<Output = ()> + Send
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let tasks = accounts.tasks().clone();
    async move {
        // Until it is known whose it is, it is nobody's; from then on it runs for its account.
        let Some(arrived) = tasks.run(Arrived::from(stream, peer, door, accounts)).await.flatten() else { return };
        let tasks = arrived.stay.account().tasks().clone();
        tasks.run(run(arrived)).await;
    }
}

async fn run<S>(arrived: Box<Arrived<S>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(mut connection) = Box::pin(Connection::begin(arrived)).await else { return };
    // A fault of ours in one connection is a lost connection: it leaves nothing behind that others would wait for.
    let end = unless_panicked(connection.run()).await.unwrap_or(End::Lost);
    Box::pin(connection.finish(end)).await;
}

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    async fn run(&mut self) -> End {
        let control = Arc::clone(&self.control);
        let mut notified = std::pin::pin!(control.notified());
        let mut alarm = std::pin::pin!(tokio::time::sleep(self.until_deadline()));
        loop {
            self.retained.begin_turn();
            self.reads.begin_turn();
            self.take_mail();
            self.handle_input();
            self.ask_for_place();
            self.wakes.wake_all();
            self.start_resends();
            self.fill_output();
            self.offer_share_room();
            self.publishing.begin_wait();
            self.start_write();
            self.start_confirming();
            self.count();
            self.tell_held_back();
            if let Some(end) = self.ended() {
                return end;
            }
            let wake_at = self.wake_at();
            if wake_at < alarm.deadline() {
                alarm.as_mut().reset(wake_at);
            }
            let event = poll_fn(|cx| match self.poll_event(cx) {
                Poll::Ready(event) => Poll::Ready(event),
                Poll::Pending if notified.as_mut().poll(cx).is_ready() => Poll::Ready(Event::Mail),
                Poll::Pending => alarm.as_mut().poll(cx).map(|()| Event::Time),
            })
            .await;
            match event {
                Event::Mail => notified.set(control.notified()),
                Event::Time => {
                    self.look_at_clock();
                    alarm.as_mut().reset(tokio::time::Instant::now() + self.until_deadline());
                }
                Event::Done(done) => self.publishing.resume(done, &mut self.wakes),
                Event::Subscribed(subscribed) => self.subscribed(subscribed),
                Event::Written(written) => self.written(written),
                Event::Fetched(fetched) => self.fetched(fetched),
                Event::Confirmed(claimed) => self.confirmed(claimed),
                Event::Backlog(page) => self.backlog.take(page),
                Event::Authenticated(verdict) => self.authenticated(verdict),
                Event::Again => self.yielding = None,
                Event::Wrote(Ok(())) => self.io.output.shrink(),
                Event::Read(Ok(count)) if count > 0 => {
                    self.count_read(count);
                    self.pace_reads(count);
                    self.heard();
                }
                Event::ReadAll => {}
                Event::Wrote(Err(_)) | Event::Read(_) => self.lose(),
            }
        }
    }

    /// The next thing that happens but for mail and the alarm. Writing comes first: it makes room. But it does not come twice
    /// before there was a look at what the client sends.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if std::mem::take(&mut self.has_written)
            && let Poll::Ready(event) = self.poll_input(cx)
        {
            return Poll::Ready(event);
        }
        if self.io.has_output()
            && let Poll::Ready(result) = self.io.poll_write(cx)
        {
            self.has_written = true;
            return Poll::Ready(Event::Wrote(result));
        }
        if let Poll::Ready(done) = self.publishing.poll_wait(cx) {
            return Poll::Ready(Event::Done(done));
        }
        if let Poll::Ready(subscribed) = poll_some(&mut self.subscribing, cx) {
            return Poll::Ready(Event::Subscribed(subscribed));
        }
        if let Poll::Ready(written) = poll_some(&mut self.writing, cx) {
            return Poll::Ready(Event::Written(written));
        }
        if let Poll::Ready(fetched) = poll_some(&mut self.resending.fetching, cx) {
            return Poll::Ready(Event::Fetched(fetched));
        }
        if let Poll::Ready(claimed) = poll_some(&mut self.confirming, cx) {
            return Poll::Ready(Event::Confirmed(claimed));
        }
        if let Poll::Ready(page) = self.backlog.poll(cx) {
            return Poll::Ready(Event::Backlog(page));
        }
        if let Some(identity) = &mut self.identity
            && let Poll::Ready(verdict) = poll_some(&mut identity.judging, cx)
        {
            return Poll::Ready(Event::Authenticated(verdict));
        }
        if self.retained.is_searching() && self.yielding.is_none() {
            self.yielding = Some(Box::pin(tokio::task::yield_now()));
        }
        if poll_some(&mut self.yielding, cx).is_ready() {
            return Poll::Ready(Event::Again);
        }
        if let Poll::Ready(event) = self.poll_input(cx) {
            return Poll::Ready(event);
        }
        if !self.has_answer_coming() {
            self.io.acknowledge(cx);
        }
        Poll::Pending
    }

    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if self.takes_input() {
            let most = self.readable();
            if let Poll::Ready(read) = self.io.poll_read_most(cx, most) {
                return Poll::Ready(Event::Read(read));
            }
            // A task that has used up its budget is told to wait whatever is there.
            if tokio::task::coop::has_budget_remaining() && self.close_reading() {
                return Poll::Ready(Event::ReadAll);
            }
        }
        Poll::Pending
    }

    /// Whether something that the client waits for will be written as soon as it can be.
    fn has_answer_coming(&self) -> bool {
        self.session.is_answering() || self.subscribing.is_some() || !self.io.output.is_empty()
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn until_deadline(&self) -> Duration {
        let left = |deadline: Time| Duration::from_millis(deadline.0.saturating_sub(self.now().0).max(1));
        self.session.deadline().filter(|_| self.remainder.is_none()).map_or(IDLE, left)
    }

    /// Whether something of the client would be handled if there was more memory for what it does not read.
    fn waits_for_memory(&self) -> bool {
        let waiting = self.io.output.len();
        (!self.is_through || self.life.pings_owed > 0) && waiting < OUTPUT_HIGH && waiting >= output_high()
    }

    /// When the next lazy write is due, or one that keeps its pace, more is taken of a client that is held back, the remainder is given up, or the next look at the clock.
    fn wake_at(&self) -> tokio::time::Instant {
        let lazily = self.unsaved_since.filter(|_| self.writing.is_none()).map(|since| since + LAZY_AGE);
        let record = self.record_pace.due_at(Instant::now());
        let record = record.filter(|_| self.is_write_due() && self.writing.is_none() && !self.is_unwritable);
        let rates = self.rates_due_at();
        let lazily = lazily.into_iter().chain(record).chain(rates).map(tokio::time::Instant::from_std);
        lazily
            .chain(self.remainder_until())
            .chain(self.ends_at())
            .chain(self.reads.not_before())
            .chain(self.reads.place_due_at())
            .chain(self.waits_for_memory().then(|| tokio::time::Instant::now() + OUTPUT_LOOK))
            .min()
            .unwrap_or_else(|| tokio::time::Instant::now() + IDLE)
    }

    /// Tells the session, and carries out what it says.
    fn tell(&mut self, input: Input<Outgoing>) {
        let mut outputs = std::mem::take(&mut self.outputs);
        self.session.handle(self.now_for(&input), input, &mut outputs);
        for output in outputs.drain(..) {
            self.carry_out(output);
        }
        self.outputs = outputs;
    }

    /// Only signs of life and the alarm need to know the time.
    fn now_for(&self, input: &Input<Outgoing>) -> Time {
        match input {
            Input::Heard | Input::Time => self.now(),
            _ => Time::default(),
        }
    }

    fn carry_out(&mut self, output: Output<Outgoing>) {
        match output {
            Output::Send(packet) => self.send(&packet),
            Output::Transmit(qos, packet_id, outgoing) => self.transmit(qos, packet_id, outgoing),
            Output::Publish(publication) => self.publish(publication),
            Output::Settled(packet_id) => self.settled(packet_id),
            Output::Subscribe(request) => self.subscribes.push(request),
            Output::Unsubscribe(request) => {
                let reasons = self.end_subscriptions(&request.filters);
                self.answer_after_record(Answered::Unsubscribed(request.packet_id, reasons));
            }
            Output::Authenticate(evidence) => self.authenticate(evidence),
            Output::Close(Close::ByClient { with_will }) => self.end = Some(End::ByClient { with_will }),
            Output::Close(Close::ByServer(reason)) => self.end = Some(End::ByServer(reason)),
        }
    }

    fn send(&mut self, packet: &Packet) {
        if *packet == Packet::PingResp && self.io.output.len() >= output_high() {
            self.life.pings_owed += 1;
            return;
        }
        let max = self.session.parameters().client_max_packet_size;
        match mqtt_codec::encode_limited(packet, self.version, max, self.io.output.tail()) {
            Ok(()) => self.account.metrics.packets(Direction::Out, packet.packet_type(), 1),
            Err(error) => {
                let (client_id, remote) = (&*self.control.client_id, self.remote);
                tracing::warn!(client_id, %remote, %error, "a packet was not sent");
            }
        }
    }
}

/// What a future gives, or `None` when it panics.
async fn unless_panicked<T>(future: impl Future<Output = T>) -> Option<T> {
    let result = AssertUnwindSafe(future).catch_unwind().await;
    if result.is_err() {
        tracing::error!("a connection failed in a way that is a fault of this program; it ends as a lost one");
    }
    result.ok()
}

/// Polls what is there, if it is.
fn poll_some<T>(future: &mut Option<Eventual<T>>, cx: &mut Context<'_>) -> Poll<T> {
    future.as_mut().map_or(Poll::Pending, |future| future.as_mut().poll(cx))
}

#[cfg(test)]
mod memory_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::InboxLimits;

    type Served = Connection<tokio::net::TcpStream>;

    /// The most that a connection may have of its own while it is idle, bytes, with what is left for it and its session.
    const CONNECTION_MAX: usize = 4 * 1_024;

    /// The most that it may have without them: a size of blocks of the allocator, which has none between this and 3 KiB.
    const OWN_MAX: usize = 2_560;

    /// The most that the jobs may have that a connection begins and ends with, bytes: a restart, of a sidecar or of NATS, is
    /// all of them at a time.
    const JOB_MAX: usize = 4 * 1_024;

    /// What calling it gives, which is not called.
    const fn size_of_future<A, F: Future>(_: &impl FnOnce(A) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_is_small_and_so_is_what_it_begins_and_ends_with() {
        type Socket = tokio::net::TcpStream;
        let arrive = |(stream, peer, door, accounts)| Arrived::<Socket>::from(stream, peer, door, accounts);
        let begin = |arrived: Box<Arrived<Socket>>| Served::begin(arrived);
        let finish = |(connection, end): (Box<Served>, End)| connection.finish(end);
        let limits = InboxLimits { qos0_bytes: 0, feed_messages: 0, feed_bytes: 0 };
        let (id, rights) = (crate::account::SessionId(1), Arc::new(crate::account::Rights::all()));
        let control = Control::new(id, "c".into(), Version::V5, u32::MAX, rights, limits);
        let parts = size_of_val(&**control.inbox()) + size_of_val(&**control.completions());
        let all = [size_of::<Served>(), size_of_val(&control) + parts, size_of::<OwnedSession>()];
        assert!(
            all.iter().sum::<usize>() <= CONNECTION_MAX,
            "{all:?} bytes of every connection, its inbox, completions and control, its session"
        );
        assert!(all[0] <= OWN_MAX, "{all:?} bytes of every connection");
        let jobs = [size_of_future(&arrive), size_of_future(&begin), size_of_future(&finish)];
        assert!(jobs.iter().all(|size| *size <= JOB_MAX), "{jobs:?} bytes for its beginning and its end");
    }

    #[tokio::test]
    async fn a_panic_is_a_lost_connection() {
        assert_eq!(unless_panicked(async { End::Lost }).await, Some(End::Lost));
        let fails = async {
            tokio::task::yield_now().await;
            panic!("as a fault of ours would")
        };
        assert_eq!(unless_panicked::<End>(fails).await, None);
    }
}
