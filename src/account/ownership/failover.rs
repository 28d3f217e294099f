//! Sessions whose connection is gone are put in order, one at a time, and what waits for its time does so beside.

use std::sync::Arc;

use bytestring::ByteString;
use mqtt_ownership::{Failover, FailoverOutcome, NodeId, Output, Revision, Step};

use super::driver::{Driver, FailoverStep, Out};
use super::record::{Message, Rest, State, state_of, wills_beside};
use crate::account::{Account, Event, EventDisconnect};
use crate::metrics::WillCause;
use crate::store::{SessionRecord, WillNumber};

impl Account {
    /// Puts one session in order whose connection is gone, as it was read with this revision. Returns when it is, but for a
    /// will that waits for its time, and whether we have done it. `node`: ours, when it was decided that we do; should we lose its
    /// lease, or give it back, meanwhile, whoever sees that goes on.
    pub(in crate::account) async fn adopt(
        self: &Arc<Self>,
        node: &str,
        record: SessionRecord,
        revision: Revision,
    ) -> bool {
        let client_id = ByteString::from(record.client_id.as_str());
        let remote = record.remote.as_deref().and_then(|remote| remote.parse().ok());
        let lost: Option<Arc<str>> = record.owner.as_deref().filter(|_| record.connected).map(Arc::from);
        let mut driver = Driver::new(self, &client_id, WillCause::NodeLost).finishing(&record);
        let (state, now) = (state_of(record), self.session_time());
        let node = NodeId(node.to_owned());
        let mut machine = self.orphans.failover(&client_id, state, revision, node, now);
        let mut next: FailoverStep = machine.begin(self.session_time());
        let mut lost = lost;
        loop {
            if machine.is_adopted()
                && !matches!(next, Step::Done(FailoverOutcome::Ended))
                && let Some(node) = lost.take()
            {
                let event = EventDisconnect { remote, cause: "node_lost", reason_code: None, connected: None };
                self.events.tell(&client_id, Some(node), || Event::Disconnect(event));
            }
            match next {
                // Whoever waits for us to be through waits for what is due now as well.
                Step::Do(Output::Wait(until)) if until > self.session_time().earliest => {
                    let wills = std::mem::take(&mut driver.wills);
                    let client_id = client_id.clone();
                    self.finish_session(client_id, machine, Output::Wait(until), WillCause::NodeLost, wills);
                    return true;
                }
                Step::Do(output) => next = driver.fail_over(&mut machine, output).await,
                Step::Wait | Step::Done(_) => return machine.is_adopted(),
            }
        }
    }

    /// A session of ours whose will waits for its time.
    pub(super) fn finish_later(
        self: &Arc<Self>,
        client_id: ByteString,
        state: State,
        revision: Revision,
        cause: WillCause,
    ) {
        let wills = wills_beside(&state);
        let mut machine = Failover::due(state, revision);
        let first: FailoverStep = machine.begin(self.session_time());
        if let Step::Do(output) = first {
            self.finish_session(client_id, machine, output, cause, wills);
        }
    }

    /// Goes on until the session is in order, or somebody else's.
    fn finish_session(
        self: &Arc<Self>,
        client_id: ByteString,
        mut machine: Failover<Message, Rest>,
        mut output: Out,
        cause: WillCause,
        wills: Vec<WillNumber>,
    ) {
        let (account, mut errand) = (Arc::clone(self), Some(self.duties.errands.begin()));
        self.store.tasks().spawn(async move {
            let mut driver = Driver::new(&account, &client_id, cause);
            driver.wills = wills;
            let (mut room, mut waiting) = (None, None);
            loop {
                // While it waits for its time it takes none, and nobody waits for it.
                let is_waiting = matches!(output, Output::Wait(_));
                if is_waiting {
                    waiting = waiting.or_else(|| Some(account.duties.waiting.begin()));
                    (room, errand) = (None, None);
                } else if room.is_none() {
                    errand = errand.or_else(|| Some(account.duties.errands.begin()));
                    room = Arc::clone(&account.ordering).acquire_owned().await.ok();
                }
                match driver.fail_over(&mut machine, output).await {
                    Step::Do(next) => output = next,
                    Step::Wait => return,
                    Step::Done(outcome) => {
                        return tracing::debug!(client_id = &*client_id, ?outcome, "a session is put in order");
                    }
                }
            }
        });
    }
}
