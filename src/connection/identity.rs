//! What it takes to judge a client again that named an authentication method with CONNECT.

use std::sync::Arc;

use bytestring::ByteString;
use mqtt_codec::{Connect, ReasonCode, Version};
use mqtt_session::{Credentials, Evidence, Verdict};
use tokio::time::timeout;

use super::handshake::Door;
use super::parts::Eventual;
use crate::auth::{JUDGED_WITHIN, Principal};
use crate::listener::Peer;

/// The client, as it is told to whoever judges it.
pub(super) struct Identity {
    pub(super) door: Arc<Door>,
    peer: Arc<Peer>,
    /// As its CONNECT has it.
    client_id: ByteString,
    username: Option<ByteString>,
    method: ByteString,
    /// What it says in the exchange that is under way, as a CONNECT.
    pub(super) asked: Option<Arc<Connect>>,
    /// The changes of users that were known when that began.
    pub(super) judged_in: u64,
    /// A verdict that is being reached.
    pub(super) judging: Option<Eventual<Verdict<Arc<Principal>>>>,
}

impl Identity {
    /// Of a client with this CONNECT; `None` when it named no method.
    pub(super) fn of(connect: &Connect, door: Arc<Door>, peer: Peer) -> Option<Box<Self>> {
        // Copies: what they are parts of may be large.
        let copy = |text: &ByteString| ByteString::from(&**text);
        let method = copy(connect.properties.authentication_method.as_ref()?);
        let (client_id, username) = (copy(&connect.client_id), connect.username.as_ref().map(copy));
        let (asked, judging, judged_in) = (None, None, 0);
        Some(Box::new(Self { door, peer: Arc::new(peer), client_id, username, method, asked, judged_in, judging }))
    }

    /// The client says who it is, or answers a challenge.
    pub(super) fn begin(&mut self, evidence: Evidence) {
        if evidence.round == 0 {
            self.judged_in = *self.door.authenticator.changes().borrow();
            let mut connect = Connect::new(Version::V5, self.client_id.clone());
            connect.username.clone_from(&self.username);
            connect.properties.authentication_method = Some(self.method.clone());
            connect.properties.authentication_data.clone_from(&evidence.data);
            self.asked = Some(Arc::new(connect));
        }
        let Some(connect) = self.asked.clone() else { return };
        let (door, peer) = (Arc::clone(&self.door), Arc::clone(&self.peer));
        self.judging = Some(Box::pin(async move {
            let credentials = Credentials {
                connect: &connect,
                data: evidence.data.as_ref(),
                challenge: evidence.challenge.as_deref(),
                round: evidence.round,
            };
            let judged = timeout(JUDGED_WITHIN, door.authenticator.judge(credentials, &peer));
            judged.await.unwrap_or(Verdict::Refused(ReasonCode::ServerUnavailable))
        }));
    }
}
