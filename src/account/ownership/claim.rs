//! A CONNECT makes its connection the owner of its session, unless somebody newer wants it, its peer is gone, or it takes
//! too long.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use mqtt_codec::{Connect, ReasonCode};
use mqtt_ownership::{
    Claim, ClaimOutcome, GivenUp, Input, Left, NodeId, Output, Request, Revision, Step, Stop, Will, WillState,
};
use mqtt_session::Negotiated;
use tokio::time::Instant;

use super::driver::{Driver, In};
use super::host::Host;
use super::orphaned_connects::Orphan;
use super::record::{Message, Rest, State};
use super::remains::Remain;
use crate::account::Account;
use crate::account::control::{Control, Order};
use crate::account::ownership::records;
use crate::metrics::WillCause;
use crate::store::{ProgressRecord, StoredWill};

pub(in crate::account) type Claimed = mqtt_ownership::Claimed<Message, Rest, ProgressRecord>;

/// The socket of a connection whose CONNECT is not answered.
pub(crate) trait PeerSocket: Send {
    /// Ready when the peer is gone, and has sent nothing behind CONNECT that is to be carried out.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Whether that is so now.
    fn is_gone(&mut self) -> bool {
        self.poll_gone(&mut Context::from_waker(Waker::noop())).is_ready()
    }
}

/// Why a CONNECT is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The reason code of CONNACK, or of the DISCONNECT behind it.
    pub(crate) reason: ReasonCode,
    /// How the client is told.
    pub(crate) told: Told,
}

/// How a client is told that its CONNECT is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// By CONNACK, which promises that nothing comes of its CONNECT: no will.
    ConnAck,
    /// It owned its session for a moment, and others have seen it: CONNACK accepts it, and DISCONNECT follows.
    Connected {
        /// The session was there before.
        is_present: bool,
    },
    /// Not at all, the connection is closed: somebody may have taken it for connected, so neither can be promised.
    Nothing,
}

impl Refusal {
    /// It was connected, for no time at all.
    pub(in crate::account) const fn taken_over(is_present: bool) -> Self {
        Self { reason: ReasonCode::SessionTakenOver, told: Told::Connected { is_present } }
    }
}

impl From<ReasonCode> for Refusal {
    fn from(reason: ReasonCode) -> Self {
        Self { reason, told: Told::ConnAck }
    }
}

/// A claim that was given up.
pub(in crate::account) struct Abandoned {
    pub(in crate::account) refusal: Refusal,
    /// What an old owner has handed over and is not saved, for [`Account::forward_handover`].
    pub(in crate::account) unsaved: Option<(ProgressRecord, Revision)>,
    /// JetStream was too slow: a session that needs no record goes on without.
    pub(in crate::account) is_late: bool,
    pub(in crate::account) why: Stop,
}

/// What a CONNECT says, for a claim.
#[derive(Clone, Copy)]
pub(in crate::account) struct Ask<'a> {
    pub(in crate::account) negotiated: &'a Negotiated,
    pub(in crate::account) connect: &'a Connect,
    pub(in crate::account) remote: crate::network::PeerAddr,
    /// When the client came, if that is longer ago.
    pub(in crate::account) came: Option<std::time::Instant>,
}

/// What comes between.
enum Event {
    Answer(In),
    Ordered(Order),
    Gone,
    Late,
}

impl Account {
    /// Writes a record with ourselves as the owner, until `deadline`.
    pub(in crate::account) async fn claim(
        self: &Arc<Self>,
        node: &str,
        ask: Ask<'_>,
        control: &Arc<Control>,
        socket: &mut dyn PeerSocket,
        deadline: Instant,
    ) -> Result<Box<Claimed>, Abandoned> {
        let Ask { negotiated, connect, remote, came } = ask;
        if self.store.clock().now().is_none() {
            tracing::warn!(client_id = &*control.client_id, "the time of the server is not known");
            let (refusal, unsaved) = (ReasonCode::ServerUnavailable.into(), None);
            return Err(Abandoned { refusal, unsaved, is_late: true, why: Stop::Cancelled });
        }
        let will = records::stored_will(connect, self.tail_sequence()).map(|message| {
            let (by, delay_s) = (self.will_publisher(&message.topic, &control.inbox().rights), message.delay_s);
            let message = Message::new(StoredWill { by, ..message });
            Will { delay_s, state: WillState::Armed, due_at: None, message }
        });
        let beside = will.as_ref().map(|will| will.message.clone());
        let mut claim = Claim::new(Request {
            node: NodeId(node.to_owned()),
            clean_start: connect.clean_start,
            expiry_s: negotiated.parameters.session_expiry_s,
            will,
            rest: Rest::new(
                &negotiated.client_id,
                records::protocol(connect.version),
                remote.to_string(),
                control.inbox().rights.owner(),
            ),
            came_at: came.map(|came| self.store.clock().ago(came.elapsed())),
        });
        // The orders of a client that has its answer are for its connection.
        let listens = came.is_none();
        let mut driver = Driver::new(self, &control.client_id, WillCause::TakenOver);
        let (outcome, order) = driver.claim(&mut claim, control, socket, listens, deadline).await;
        match outcome {
            ClaimOutcome::Claimed(claimed) => {
                control.owns(claimed.state.epoch, claimed.revision);
                if let Some((found, _)) = &claimed.left.found {
                    self.note_taken_elsewhere(node, found, control);
                }
                Ok(claimed)
            }
            ClaimOutcome::GivenUp(given_up) => {
                if given_up.left.is_none() {
                    // No record names its will, and none will.
                    let stored = beside.as_ref().and_then(Message::whole).filter(|whole| whole.is_stored());
                    if let Some(whole) = stored {
                        self.remains.try_remove(&control.client_id, Remain::Wills(vec![whole.number]));
                    }
                }
                let mut abandoned = self.give_up(control, *given_up, order);
                let is_preempted = order == Some(Order::Close(ReasonCode::SessionTakenOver));
                if is_preempted && connect.clean_start && connect.will.is_none() {
                    // It had nothing, and leaves nothing: it was connected, for no time at all.
                    abandoned.refusal = Refusal::taken_over(false);
                }
                Err(abandoned)
            }
        }
    }

    /// A session was found as it is here. Of one that is taken over from another sidecar the record says from where.
    fn note_taken_elsewhere(&self, node: &str, found: &State, control: &Control) {
        let is_elsewhere = found.connected && found.owner.as_ref().is_some_and(|owner| owner.0 != node);
        if is_elsewhere && let Some(remote) = found.rest.remote() {
            self.registry.note_takeover(remote.ip(), control);
        }
    }

    /// Refuses a client that wants the session of another user of its account.
    pub(in crate::account) fn refuse_user(&self, control: &Control) -> Refusal {
        let (client_id, user) = (control.client_id.escape_debug().to_string(), control.inbox().rights.user());
        let user = user.unwrap_or_default().escape_debug().to_string();
        tracing::info!(
            client_id,
            user,
            "refused: another user has a session with this client id; auth.session_owner = \"account\" lets users of an account take over each other's"
        );
        ReasonCode::ClientIdentifierNotValid.into()
    }

    /// Leaves the session as it was found, or sees to it that somebody does.
    fn give_up(
        self: &Arc<Self>,
        control: &Control,
        given_up: GivenUp<Message, Rest, ProgressRecord>,
        order: Option<Order>,
    ) -> Abandoned {
        let GivenUp { why, left, unsaved } = given_up;
        let written = left.as_ref().filter(|left| left.is_written && (why == Stop::Preempted || order.is_some()));
        let told = match written {
            Some(left) => Told::Connected { is_present: left.is_present },
            None if left.is_some() => Told::Nothing,
            None => Told::ConnAck,
        };
        let is_accepted = matches!(told, Told::Connected { .. });
        if let Some(left) = left {
            self.look_after_orphan(&control.client_id, Orphan::new(left, is_accepted));
        }
        let reason = match (why, order) {
            (Stop::Preempted, _) if is_accepted => ReasonCode::SessionTakenOver,
            (_, Some(Order::Close(reason))) if is_accepted => reason,
            (_, Some(Order::Drain)) if is_accepted => self.drain_reason(),
            (Stop::OfAnother, _) => self.refuse_user(control).reason,
            (Stop::Preempted, _) | (Stop::Cancelled, Some(Order::Close(_))) => ReasonCode::ServerBusy,
            (_, Some(Order::Drain)) => self.drain_refusal(),
            _ => ReasonCode::ServerUnavailable,
        };
        let is_late = order.is_none() && matches!(why, Stop::Cancelled | Stop::Contended);
        Abandoned { refusal: Refusal { reason, told }, unsaved, is_late, why }
    }

    /// A CONNECT is given up although its record is written.
    pub(in crate::account) fn give_up_claimed(
        self: &Arc<Self>,
        control: &Control,
        left: Left<Message, Rest>,
        why: Stop,
        order: Option<Order>,
    ) -> Abandoned {
        self.give_up(control, GivenUp { why, left: Some(left), unsaved: None }, order)
    }
}

impl<H: Host> Driver<'_, H> {
    /// Goes on until the session is the connection's, or it is given up. Returns the last order that it has had.
    pub(super) async fn claim(
        &mut self,
        claim: &mut Claim<Message, Rest, ProgressRecord>,
        control: &Arc<Control>,
        socket: &mut dyn PeerSocket,
        listens: bool,
        deadline: Instant,
    ) -> (ClaimOutcome<Message, Rest, ProgressRecord>, Option<Order>) {
        let host = self.host;
        let (mut order, mut is_gone) = (None, false);
        let mut step = claim.begin();
        loop {
            let output = match step {
                Step::Done(outcome) => return (outcome, order),
                Step::Do(output) => output,
                // Nothing is ever awaited without an output.
                Step::Wait => Output::Load { again: true },
            };
            let mut performed = std::pin::pin!(self.perform(output));
            step = loop {
                let event = tokio::select! {
                    biased;
                    input = &mut performed => Event::Answer(input),
                    next = control.ordered(order), if listens => Event::Ordered(next),
                    () = std::future::poll_fn(|cx| socket.poll_gone(cx)), if !is_gone => Event::Gone,
                    () = tokio::time::sleep_until(deadline) => Event::Late,
                };
                let input = match event {
                    Event::Answer(input) => break claim.handle(host.now(), as_seen(host, control, input)),
                    Event::Ordered(next) => {
                        order = Some(next);
                        match next {
                            Order::Close(ReasonCode::SessionTakenOver) => Input::Preempted,
                            Order::Close(_) => Input::Cancelled,
                            // What is written goes on, and drains as everybody does.
                            Order::Drain => Input::ConnectionGone,
                        }
                    }
                    Event::Gone => {
                        is_gone = true;
                        Input::ConnectionGone
                    }
                    Event::Late => Input::Cancelled,
                };
                let next = claim.handle(host.now(), input);
                if matches!(next, Step::Done(_)) {
                    break next;
                }
            };
            if let Some((epoch, revision)) = claim.written_at() {
                // From now on whoever comes later asks us to hand over.
                control.owns(epoch, revision);
            }
        }
    }
}

fn as_seen<H: Host>(host: &H, control: &Control, input: In) -> In {
    match input {
        // A session that is over is nobody's.
        Input::Loaded(Some(state), _)
            if !control.inbox().rights.may_own(state.rest.user().as_ref())
                && !state.has_expired(host.now().earliest) =>
        {
            Input::OfAnother
        }
        Input::Loaded(record, revision) => Input::Loaded(host.seen(&control.client_id, record), revision),
        input => input,
    }
}
