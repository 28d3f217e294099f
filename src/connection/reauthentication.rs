//! A client that is connected says once more who it is [MQTT 5, 4.12.1]: its permissions, limits and the time that it has are
//! others then, and nothing else is.

use std::sync::Arc;

use mqtt_codec::ReasonCode;
use mqtt_session::{Evidence, Input, Verdict};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Connection;
use super::rights::judge_again;
use crate::auth::Principal;
use crate::metrics::AuthStep;

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// The session wants its client judged again.
    pub(super) fn authenticate(&mut self, evidence: Evidence) {
        if let Some(identity) = &mut self.identity {
            identity.begin(evidence);
        }
    }

    /// The client is judged again.
    pub(super) fn authenticated(&mut self, verdict: Verdict<Arc<Principal>>) {
        if let Some(identity) = &mut self.identity {
            identity.judging = None;
        }
        let verdict = match verdict {
            Verdict::Challenge(challenge) => return self.tell(Input::Authenticated(Verdict::Challenge(challenge))),
            Verdict::Refused(reason) => Verdict::Refused(reason),
            Verdict::Accepted(principal, data) => match self.become_again(principal) {
                Ok(()) => Verdict::Accepted((), data),
                Err(reason) => Verdict::Refused(reason),
            },
        };
        if let Some(identity) = &mut self.identity {
            identity.asked = None;
        }
        self.tell(Input::Authenticated(verdict));
    }

    /// Goes on as this one, which has to be the user that it was.
    fn become_again(&mut self, principal: Arc<Principal>) -> Result<(), ReasonCode> {
        let Some(identity) = &self.identity else { return Err(ReasonCode::NotAuthorized) };
        let was = self.inbox.rights.principal();
        let who = |of: &Principal| (of.account.clone(), of.origin.mode, of.user.name.clone(), of.user.key.clone());
        let is_same = who(&was) == who(&principal);
        if !is_same {
            let (step, remote) = (AuthStep::OtherUser, self.remote);
            identity.door.metrics.auth_refused(step);
            tracing::info!(
                client_id = &*self.control.client_id.escape_debug().to_string(),
                user = principal.user.owner(),
                %remote,
                step = step.text(),
                "refused"
            );
            return Err(ReasonCode::NotAuthorized);
        }
        // One that was judged again meanwhile is the same user.
        let mut was = was;
        while !self.control.change_rights(&was, Arc::clone(&principal)) {
            was = self.inbox.rights.principal();
        }
        let authenticator = &*identity.door.authenticator;
        if *authenticator.changes().borrow() != identity.judged_in {
            // Whoever was judged again meanwhile was it by what it was before.
            judge_again(authenticator, &self.control);
        }
        Ok(())
    }
}
