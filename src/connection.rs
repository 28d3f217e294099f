//! The one loop where a socket and a session meet. Each turn: decode and handle what came, take what the mailbox has,
//! write, wait. The session decides; this file only carries out.

mod backlog;
mod claims;
mod copies;
mod deliver;
mod durable;
mod ending;
mod handshake;
mod input;
mod io;
mod pace;
mod reasons;
mod retained;
mod told;

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use mqtt_codec::{ConnAck, Decoder, Packet, PacketId, PacketType, QoS, ReasonCode, TopicFilter, Version, Violation};
use mqtt_session::{Close, Input, Output, Publication, Resend, Session, SubscribeRequest, Time};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::broker::{
    Answer, Attached, Broker, DeniedPublish, Done, Mail, Mailbox, Order, Outgoing, Owned, Publishing, RecordRoom,
    Refused, RetainedCursor, Share, Subscribed, Waiting, Wakes, wait_for,
};
use crate::listener::Peer;
use crate::metrics::Direction;
use crate::store::StoredRetained;
use claims::Claimed;
use durable::{Answered, LAZY_AGE, Written};
use input::Remainder;
use io::Io;
use pace::Pace;
use retained::Owed;

/// While more than this many bytes wait to be written, no message is taken out of the mailbox.
const OUTPUT_LOW: usize = 64 * 1024;

/// While more than this many bytes wait to be written, no packet of the client is handled: a client that does not read
/// its acknowledgements cannot make us queue them without end.
const OUTPUT_HIGH: usize = 512 * 1024;

/// SUBSCRIBE packets that are carried out together when they come in a burst.
const SUBSCRIBE_BATCH: usize = 512;

/// Filters of them, unless one packet has more.
const SUBSCRIBE_FILTERS: usize = 1_024;

/// How long a connection without a keep alive sleeps at most between looks at the clock.
const IDLE: Duration = Duration::from_secs(3600);

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The client said so.
    ByClient { with_will: bool },
    /// We said so, or would have in a version that can.
    ByServer(ReasonCode),
    /// The socket broke, or was closed without DISCONNECT.
    Lost,
}

/// Something that is under way.
type Eventual<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What is repeated, each with its message, unless that is lost.
type Fetched = Vec<(Resend, Option<Outgoing>)>;

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
    Backlog(backlog::Page),
    /// Others have had their turn.
    Again,
    Time,
}

/// One accepted connection.
struct Connection<S> {
    io: Io<S>,
    decoder: Decoder,
    session: Session<Outgoing>,
    broker: Arc<Broker>,
    mailbox: Arc<Mailbox>,
    publishing: Publishing,
    filters: HashSet<TopicFilter>,
    /// What shared subscriptions gave at QoS 1 and the client has not acknowledged.
    shares: HashMap<PacketId, Share>,
    version: Version,
    remote: SocketAddr,
    started: Instant,
    /// SUBSCRIBE packets that are not carried out yet.
    subscribes: Vec<SubscribeRequest>,
    /// SUBSCRIBE packets that are being carried out. Nothing of the client is handled meanwhile.
    subscribing: Option<Eventual<Subscribed>>,
    /// What publishing waits for. Nothing of the client is handled meanwhile.
    waiting: Option<Waiting>,
    /// What the session holds in JetStream.
    owned: Option<Owned>,
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
    resending: Option<Eventual<Fetched>>,
    /// What shared subscriptions gave at QoS 2, saved; its consumers are to be told.
    claimed: Claimed,
    /// The same, while they are being told.
    confirming: Option<Eventual<Claimed>>,
    backlog: backlog::Reading,
    retained: Owed,
    /// Something is still looked for, after others have had their turn.
    yielding: Option<Eventual<()>>,
    outputs: Vec<Output<Outgoing>>,
    wakes: Wakes,
    mail: Mail,
    answers: Vec<Answer>,
    messages: Vec<(u64, Outgoing)>,
    /// Messages that wait until the window has room for all their copies, and what is behind them.
    copies: VecDeque<(u64, Outgoing)>,
    /// Places in logs from which on the session is behind.
    behind: Vec<u64>,
    counts: Counts,
    /// What the client did wrong.
    violation: Option<Violation>,
    /// No complete packet was left after the last look.
    is_through: bool,
    /// The exchange is over, but not all of it is handled.
    remainder: Option<Remainder>,
    end: Option<End>,
}

/// What is counted in one turn and added to the metrics at its end.
#[derive(Debug, Default)]
struct Counts {
    published: [u64; 3],
    delivered: [u64; 3],
    /// Bytes of payloads, in and out.
    payload_bytes: [u64; 2],
}

/// Serves one connection from its first byte to its last.
pub(crate) async fn serve<S>(stream: S, mut peer: Peer, broker: Arc<Broker>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut io = Io::new(stream);
    broker.metrics.socket();
    let Some(greeted) = handshake::greet(&mut io, &broker, &peer).await else {
        ending::close_socket(io, &broker.metrics).await;
        return;
    };
    peer.handshake.complete();
    let _counted = broker.metrics.connection();
    let attached = match broker.attach(&greeted.negotiated, &greeted.connect, &peer, &mut io).await {
        Ok(attached) => attached,
        Err(refusal) => {
            handshake::refuse(&mut io, &broker, greeted.connect.version, refusal);
            ending::close_socket(io, &broker.metrics).await;
            return;
        }
    };
    told::tell_connected(&broker, &greeted, &attached, &peer);
    let mut connection = Connection::begin(io, broker, &peer, greeted.decoder, greeted.negotiated, attached);
    // A fault of ours in one connection is a lost connection: it leaves nothing behind that others would wait for.
    let end = unless_panicked(connection.run()).await.unwrap_or(End::Lost);
    connection.finish(end, &peer).await;
}

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Sends CONNACK.
    fn begin(
        mut io: Io<S>,
        broker: Arc<Broker>,
        peer: &Peer,
        decoder: Decoder,
        negotiated: mqtt_session::Negotiated,
        attached: Attached,
    ) -> Self {
        let Attached { mailbox, is_present, epoch, progress, retained, filters, owned } = attached;
        let retained = Owed::resume(retained, owned.iter().flat_map(|owned| owned.subscriptions.values()));
        let version = negotiated.parameters.version;
        let connack = ConnAck { session_present: is_present, ..negotiated.connack };
        // A CONNACK of ours is small and has no text of the client but its assigned id.
        let _ = mqtt_codec::encode(&Packet::ConnAck(Box::new(connack)), version, io.output.tail());
        broker.metrics.connect(ReasonCode::Success);
        broker.metrics.packets(Direction::In, PacketType::Connect, 1);
        broker.metrics.packets(Direction::Out, PacketType::ConnAck, 1);
        let tells_publisher = owned.iter().flat_map(|owned| owned.subscriptions.values()).any(|s| s.no_local);
        let client_key = owned.as_ref().and_then(|_| broker.client_key(&mailbox.client_id));
        let mut publishing = Publishing::new(Arc::clone(&broker), Arc::clone(&mailbox), client_key);
        publishing.tells_publisher = tells_publisher;
        let mut session = Session::new(Time::default(), negotiated.parameters, epoch, &progress);
        let keys = broker.store.keys();
        session.name_with(keys.ring().at(keys.now_ms()).id().get());
        if is_present {
            // What is saved was given a time to live when the client left.
            session.save_again();
        }
        Self {
            io,
            decoder,
            version,
            session,
            publishing,
            broker,
            mailbox,
            filters,
            shares: HashMap::new(),
            remote: peer.addr,
            started: Instant::now(),
            subscribes: Vec::new(),
            subscribing: None,
            waiting: None,
            owned,
            writing: None,
            is_unwritable: false,
            is_record_dirty: false,
            record_pace: Pace::new(Instant::now()),
            answers_after_record: VecDeque::new(),
            unsaved_since: None,
            resending: None,
            claimed: Claimed::new(),
            confirming: None,
            backlog: backlog::Reading::default(),
            retained,
            yielding: None,
            outputs: Vec::new(),
            wakes: Wakes::default(),
            mail: Mail::default(),
            answers: Vec::new(),
            messages: Vec::new(),
            copies: VecDeque::new(),
            behind: Vec::new(),
            counts: Counts::default(),
            violation: None,
            is_through: false,
            remainder: None,
            end: None,
        }
    }

    async fn run(&mut self) -> End {
        let mailbox = Arc::clone(&self.mailbox);
        let mut notified = std::pin::pin!(mailbox.notified());
        let mut alarm = std::pin::pin!(tokio::time::sleep(self.until_deadline()));
        loop {
            self.retained.begin_turn();
            self.take_mail();
            self.handle_input();
            self.wakes.wake_all();
            self.start_resends();
            self.fill_output();
            self.offer_share_room();
            self.wait_for_wanted();
            self.start_write();
            self.start_confirming();
            self.count();
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
                Event::Mail => notified.set(mailbox.notified()),
                Event::Time => {
                    // Nothing more is heard of a client that is gone.
                    if self.remainder.is_none() {
                        self.tell(Input::Time);
                    }
                    alarm.as_mut().reset(tokio::time::Instant::now() + self.until_deadline());
                }
                Event::Done(done) => self.done(done),
                Event::Subscribed(subscribed) => self.subscribed(subscribed),
                Event::Written(written) => self.written(written),
                Event::Fetched(fetched) => self.fetched(fetched),
                Event::Confirmed(claimed) => self.confirmed(claimed),
                Event::Backlog(page) => self.backlog.take(page),
                Event::Again => self.yielding = None,
                Event::Wrote(Ok(())) => self.io.output.shrink(),
                Event::Read(Ok(count)) if count > 0 => self.count_read(count),
                Event::ReadAll => {}
                Event::Wrote(Err(_)) | Event::Read(_) => self.lose(),
            }
        }
    }

    /// The next thing that happens but for mail and the alarm. Writing comes first: it makes room.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if self.io.has_output()
            && let Poll::Ready(result) = self.io.poll_write(cx)
        {
            return Poll::Ready(Event::Wrote(result));
        }
        if let Poll::Ready(done) = poll_some(&mut self.waiting, cx) {
            return Poll::Ready(Event::Done(done));
        }
        if let Poll::Ready(subscribed) = poll_some(&mut self.subscribing, cx) {
            return Poll::Ready(Event::Subscribed(subscribed));
        }
        if let Poll::Ready(written) = poll_some(&mut self.writing, cx) {
            return Poll::Ready(Event::Written(written));
        }
        if let Poll::Ready(fetched) = poll_some(&mut self.resending, cx) {
            return Poll::Ready(Event::Fetched(fetched));
        }
        if let Poll::Ready(claimed) = poll_some(&mut self.confirming, cx) {
            return Poll::Ready(Event::Confirmed(claimed));
        }
        if let Poll::Ready(page) = self.backlog.poll(cx) {
            return Poll::Ready(Event::Backlog(page));
        }
        if self.retained.is_searching() && self.yielding.is_none() {
            self.yielding = Some(Box::pin(tokio::task::yield_now()));
        }
        if poll_some(&mut self.yielding, cx).is_ready() {
            return Poll::Ready(Event::Again);
        }
        if self.takes_input() {
            if let Poll::Ready(read) = self.io.poll_read(cx) {
                return Poll::Ready(Event::Read(read));
            }
            // A task that has used up its budget is told to wait whatever is there.
            if tokio::task::coop::has_budget_remaining() && self.close_reading() {
                return Poll::Ready(Event::ReadAll);
            }
        }
        if !self.has_answer_coming() {
            self.io.acknowledge(cx);
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

    /// When the next lazy write is due, or one that keeps its pace, the remainder is given up, or the next look at the clock.
    fn wake_at(&self) -> tokio::time::Instant {
        let lazily = self.unsaved_since.filter(|_| self.writing.is_none()).map(|since| since + LAZY_AGE);
        let record = self.record_pace.due_at(Instant::now());
        let record = record.filter(|_| self.is_record_dirty && self.writing.is_none() && !self.is_unwritable);
        let lazily = lazily.into_iter().chain(record).map(tokio::time::Instant::from_std);
        lazily.chain(self.remainder_until()).min().unwrap_or_else(|| tokio::time::Instant::now() + IDLE)
    }

    fn start_subscribes(&mut self) {
        if self.subscribes.is_empty() || self.subscribing.is_some() {
            return;
        }
        let requests = std::mem::take(&mut self.subscribes);
        self.log_subscribes(&requests);
        let is_durable = self.session.is_durable();
        let planned = self.broker.plan_subscribes(
            &self.mailbox,
            &mut self.filters,
            self.owned.as_ref().map(|owned| RecordRoom::new(owned, is_durable)),
            requests,
        );
        self.publishing.tells_publisher |= planned.has_no_local();
        let (broker, mailbox) = (Arc::clone(&self.broker), Arc::clone(&self.mailbox));
        self.subscribing = Some(Box::pin(async move { broker.subscribe(&mailbox, planned).await }));
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

    /// Only packets of the client and the alarm need to know the time.
    fn now_for(&self, input: &Input<Outgoing>) -> Time {
        match input {
            Input::Packet(_) | Input::Time => self.now(),
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
                let reasons = self.broker.unsubscribe(&self.mailbox, &mut self.filters, &request.filters);
                self.mailbox.take_retained(self.retained.cursors_mut());
                self.retained.forget(request.filters.iter().flatten());
                for filter in request.filters.iter().flatten() {
                    if let Some(owned) = &mut self.owned {
                        self.is_record_dirty |= owned.subscriptions.remove(filter).is_some();
                    }
                }
                self.tell_unsubscribed(&request.filters, &reasons);
                self.answer_after_record(Answered::Unsubscribed(request.packet_id, reasons));
            }
            Output::Close(Close::ByClient { with_will }) => self.end = Some(End::ByClient { with_will }),
            Output::Close(Close::ByServer(reason)) => self.end = Some(End::ByServer(reason)),
        }
    }

    fn send(&mut self, packet: &Packet) {
        let max = self.session.parameters().client_max_packet_size;
        match mqtt_codec::encode_limited(packet, self.version, max, self.io.output.tail()) {
            Ok(()) => self.broker.metrics.packets(Direction::Out, packet.packet_type(), 1),
            Err(error) => {
                let (client_id, remote) = (&*self.mailbox.client_id, self.remote);
                tracing::warn!(client_id, %remote, %error, "a packet was not sent");
            }
        }
    }

    fn publish(&mut self, publication: Publication) {
        self.counts.published[publication.qos as usize] += 1;
        self.counts.payload_bytes[0] += publication.payload.len() as u64;
        let Err(refusal) = self.publishing.publish(publication, &mut self.wakes) else { return };
        let (publication, refused) = *refusal;
        self.log_refused(&publication, refused);
        let reason = refused.reason_code();
        self.broker.metrics.dropped(refused.drop_reason(), 1);
        let is_denied = matches!(refused, Refused::Closed | Refused::Late | Refused::OverLimit);
        let answer = match publication.token {
            Some(token) if self.version == Version::V5 => Some((token, Err(reason))),
            Some(token) if is_denied && self.broker.options.denied_publish == DeniedPublish::Drop => {
                Some((token, Ok(ReasonCode::Success)))
            }
            None if is_denied && self.broker.options.denied_publish == DeniedPublish::Drop => None,
            // No packet of this version or QoS can say it.
            token @ (Some(_) | None) => {
                token.into_iter().for_each(|token| self.session.not_published(token));
                self.end = Some(End::ByServer(reason));
                None
            }
        };
        if let Some((token, result)) = answer {
            // Told after the outputs at hand: acknowledgements leave in the order of arrival.
            self.answers.push((token, result));
        }
    }

    /// Takes completions and orders out of the mailbox.
    fn take_mail(&mut self) {
        let mut mail = std::mem::take(&mut self.mail);
        self.mailbox.take(&mut mail);
        for (token, result) in mail.stored.drain(..) {
            self.publishing.stored(token, result, &mut self.answers, &mut self.wakes);
        }
        self.counts.delivered[0] += mail.qos0[0];
        self.counts.payload_bytes[1] += mail.qos0[1];
        for (token, _) in mail.told.iter().filter(|(_, result)| result.is_err()) {
            self.session.not_published(*token);
        }
        self.publishing.told(&mut mail.told, &mut self.answers);
        if let Some(owned) = mail.owned.take() {
            self.owned = Some(owned);
        }
        match mail.order.take() {
            Some(Order::Close(reason)) => self.end_by_order(reason),
            Some(Order::Drain) => self.end_by_order(ReasonCode::ServerShuttingDown),
            None => {}
        }
        self.mail = mail;
        self.tell_answers();
    }

    fn tell_answers(&mut self) {
        let mut answers = std::mem::take(&mut self.answers);
        for (token, result) in answers.drain(..) {
            self.tell(Input::Stored(token, result));
        }
        answers.append(&mut self.answers);
        self.answers = answers;
    }

    /// Starts to wait for what publishing needs.
    fn wait_for_wanted(&mut self) {
        if self.waiting.is_none() {
            self.waiting = wait_for(&self.broker, self.publishing.wanted());
        }
    }

    fn done(&mut self, done: Done) {
        self.waiting = None;
        self.publishing.take(done, &self.broker, &mut self.wakes);
    }

    fn subscribed(&mut self, mut subscribed: Subscribed) {
        self.subscribing = None;
        for filter in &subscribed.failed {
            self.filters.remove(filter);
        }
        self.tell_subscribed(&subscribed.made);
        self.log_granted(&subscribed.reasons);
        let owed = self.number_retained(&mut subscribed.retained);
        self.mailbox.owe_retained(subscribed.retained);
        if let Some(owned) = &mut self.owned {
            // That of a session that ends with its connection tells the others what it wants above QoS 0.
            let is_durable = self.session.is_durable();
            let made = subscribed.made.into_iter().filter(|(_, stored)| is_durable || stored.qos > 0);
            for (filter, mut stored) in made {
                stored.retained = owed.get(&filter).copied();
                if let Some(old) = owned.subscriptions.get(&filter) {
                    // One that is replaced goes on where it was.
                    stored.since = stored.since.min(old.since);
                    stored.since_in.clone_from(&old.since_in);
                    stored.retained = stored.retained.or(old.retained);
                    stored.rest.clone_from(&old.rest);
                    if stored == *old {
                        continue;
                    }
                }
                owned.subscriptions.insert(filter, stored);
                self.is_record_dirty = true;
            }
        }
        for (packet_id, reasons) in subscribed.reasons {
            self.answer_after_record(Answered::Subscribed(packet_id, reasons));
        }
    }

    /// What is owed to subscriptions of a session that goes on has numbers, by which its record and its progress name it.
    fn number_retained(&mut self, cursors: &mut [RetainedCursor]) -> HashMap<TopicFilter, StoredRetained> {
        let mut owed = HashMap::new();
        if !self.session.is_durable() || self.owned.is_none() {
            return owed;
        }
        let lasts = |cursor: &&mut RetainedCursor| cursor.options.qos > QoS::AtMostOnce && !cursor.is_sys;
        for cursor in cursors.iter_mut().filter(lasts) {
            owed.insert(cursor.filter.clone(), self.retained.number(cursor));
        }
        owed
    }

    fn count(&mut self) {
        let metrics = &self.broker.metrics;
        let [received, sent] = std::mem::take(&mut self.io.uncounted);
        metrics.bytes(received, sent);
        for (direction, bytes) in [Direction::In, Direction::Out].into_iter().zip(&mut self.counts.payload_bytes) {
            metrics.payload_bytes(direction, std::mem::take(bytes));
        }
        metrics.packets(Direction::Out, PacketType::Publish, self.counts.delivered.iter().sum());
        for (qos, index) in [(QoS::AtMostOnce, 0), (QoS::AtLeastOnce, 1), (QoS::ExactlyOnce, 2)] {
            for (direction, counts) in
                [(Direction::In, &mut self.counts.published), (Direction::Out, &mut self.counts.delivered)]
            {
                if counts[index] > 0 {
                    self.broker.metrics.messages(direction, qos, std::mem::take(&mut counts[index]));
                }
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
mod tests {
    use super::*;

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
