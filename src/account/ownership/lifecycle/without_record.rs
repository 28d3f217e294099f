//! Sessions of an account without JetStream. Each ends with its connection, and nothing of it is written: its will is in memory, and
//! the other sidecars are asked whether they have its client id.
//!
//! **Invariant:** of several connections with one client id on sidecars that hear each other one stays. Each is entered here before
//! its sidecar asks the others, so that of two one hears the other; and one that gives way ends when what it has asked is
//! answered, so that it ends nobody who has gone on without it. Who waits for an answer waits for somebody who came before, so it
//! goes round in no circle.

use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use mqtt_codec::{Connect, ReasonCode};
use mqtt_ownership::{Epoch, ServerTime};
use mqtt_session::Sequence;
use serde::{Deserialize, Serialize};

use super::{Attached, Registered};
use crate::account::Account;
use crate::account::control::{Control, Order};
use crate::account::membership::{Held, Membership};
use crate::account::ownership::records;
use crate::account::ownership::unrecorded::is_late;
use crate::account::ownership::{PeerSocket, Refusal};
use crate::account::rights::may_have;
use crate::account::session_user::SessionUser;
use crate::metrics::{TakenBy, WillCause};
use crate::store::Peers as _;

/// How long another sidecar may take to end its connection.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long to wait before NATS is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// Asks another sidecar to end its connection of a client.
#[derive(Debug, Serialize, Deserialize)]
struct TakeOver {
    client_id: String,
    /// The user that asks; without one it is anybody of the account.
    user: Option<String>,
    /// The mode that knows it; versions before do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user_mode: Option<String>,
    /// When the connection came that asks, by the server's clock, milliseconds since the epoch.
    came_ms: u64,
    /// Where: of two that came at the same time one is the later one.
    process: String,
}

/// What it says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    /// Nobody has the client id there any more.
    Free,
    /// A connection there came later.
    Late,
    /// The client id is another user's there.
    Foreign,
}

impl Account {
    /// Enters a client in an account without JetStream.
    pub(super) async fn attach_unrecorded(
        self: &Arc<Self>,
        registered: Registered<'_>,
        connect: &Connect,
        socket: &mut dyn PeerSocket,
    ) -> Result<Attached, Refusal> {
        let control = Arc::clone(registered.control);
        let came = self.store.clock().earliest();
        self.unrecorded.enter(control.id, came, records::stored_will(connect, Sequence(0)));
        self.end_local_owner(&control, connect, socket).await?;
        let mut asking = pin!(self.end_other_owners(&control, came, connect));
        let refusal = tokio::select! {
            biased;
            ended = &mut asking => {
                ended?;
                registered.settle();
                return Ok(Attached::without_record(Arc::clone(&control), Epoch(came.0)));
            }
            order = control.ordered(None) => self.gives_way(order, connect),
            // Nobody hears what it is told.
            () = std::future::poll_fn(|cx| socket.poll_gone(cx)) => ReasonCode::ServerUnavailable.into(),
        };
        // See the invariant.
        let _ = asking.await;
        Err(refusal)
    }

    /// Whoever has the client id on another sidecar ends first. One that does not answer is gone on without.
    async fn end_other_owners(
        &self,
        control: &Arc<Control>,
        came: ServerTime,
        connect: &Connect,
    ) -> Result<(), Refusal> {
        let (client_id, owner) = (control.client_id.to_string(), control.inbox().rights.owner());
        let (user, user_mode) = owner.map_or((None, None), |user| (Some(user.name), user.mode));
        let request = TakeOver { client_id, user, user_mode, came_ms: came.0, process: self.process.clone() };
        let Ok(request) = serde_json::to_vec(&request).map(Bytes::from) else { return Ok(()) };
        let ours = self.membership.held().borrow().as_ref().map(|held| Arc::clone(&held.node));
        let nodes: Vec<String> = self.membership.alive().borrow().nodes.keys().cloned().collect();
        let others = nodes.iter().filter(|node| ours.as_deref() != Some(node));
        let asked = others.map(|node| self.store.peers().ask(node, request.clone(), PATIENCE));
        for answer in join_all(asked).await.into_iter().flatten() {
            match serde_json::from_slice(&answer) {
                Ok(Answer::Late) => {
                    return Err(self.gives_way(Order::Close(ReasonCode::SessionTakenOver), connect));
                }
                Ok(Answer::Foreign) => return Err(self.refuse_user(control)),
                Ok(Answer::Free) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Answers a sidecar to which a client has come: the connection here ends, unless it came later.
    async fn make_way(&self, request: Bytes) -> Option<Bytes> {
        let answer = self.answer_to(serde_json::from_slice(&request).ok()?).await;
        Some(Bytes::from(serde_json::to_vec(&answer).ok()?))
    }

    async fn answer_to(&self, asked: TakeOver) -> Answer {
        let TakeOver { client_id, user, user_mode, came_ms, process } = asked;
        let Some(holder) = self.registry.find(&client_id) else { return Answer::Free };
        let user = user.map(|name| SessionUser { name, mode: user_mode });
        if !may_have(user.as_ref(), holder.inbox().rights.owner().as_ref()) {
            return Answer::Foreign;
        }
        let (holds, is_answered) = (self.unrecorded.came(holder.id), holder.arrival(false).is_answered);
        if is_late((ServerTime(came_ms), &process), (holds, &self.process), is_answered) {
            return Answer::Late;
        }
        tracing::info!(client_id, "taken over by a connection elsewhere");
        if holder.take_over() {
            self.metrics.takeover(TakenBy::Other);
        }
        let _ = tokio::time::timeout(PATIENCE, holder.ended()).await;
        Answer::Free
    }

    /// Answers other sidecars under the name of our lease, as long as the account lives. That a lease is lost means nothing here.
    pub(in crate::account) async fn serve_takeovers(account: Weak<Self>, membership: Arc<Membership>) {
        let mut held = membership.held();
        loop {
            let Ok(Some(Held { node, view })) = held.wait_for(Option::is_some).await.map(|held| held.clone()) else {
                return;
            };
            let Some(strong) = account.upgrade() else { return };
            let asked = Weak::clone(&account);
            let handler = move |request| {
                let account = asked.upgrade();
                async move { account?.make_way(request).await }
            };
            let served = strong.store.peers().serve(&node, handler).await;
            *strong.lease.node.write() = Some(Arc::clone(&node));
            *strong.lease.view.write() = Some(view);
            drop(strong);
            if let Err(error) = &served {
                tracing::debug!(%error, "other sidecars cannot ask for client ids yet");
                tokio::time::sleep(RETRY).await;
                continue;
            }
            let is_another = |now: &Option<Held>| now.as_ref().is_none_or(|now| now.node != node);
            if held.wait_for(is_another).await.is_err() {
                return;
            }
            let Some(strong) = account.upgrade() else { return };
            *strong.lease.node.write() = None;
            *strong.lease.view.write() = None;
        }
    }

    /// The connection of a session without a record is over, and what it has published is settled: its will is published, for this
    /// reason, or for none never.
    pub(crate) async fn leave_unrecorded(self: &Arc<Self>, control: &Control, cause: Option<WillCause>) {
        let (Some((will, came)), Some(cause)) = (self.unrecorded.take_will(control.id), cause) else { return };
        let rights = Some(Arc::clone(&control.inbox().rights));
        self.send_will(&control.client_id, &will, (Epoch(came.0), rights), cause).await;
    }
}
