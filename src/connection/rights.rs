//! A client's rights change while it is connected: what it may not have any more ends, and everything else goes on.

use std::collections::HashSet;

use bytestring::ByteString;
use mqtt_codec::{ReasonCode, TopicFilter};
use proto_map::client_of;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Connection;
use crate::account::{Control, Order};
use crate::auth::{Again, Authenticator, ending_of};

/// Judges a client again that is connected.
///
/// **Invariant:** a verdict counts for whom it is about. A client that has authenticated again meanwhile, or that somebody else has
/// judged, is judged once more as who it is now.
pub(crate) fn judge_again(authenticator: &dyn Authenticator, control: &Control) {
    let rights = &control.inbox().rights;
    loop {
        let judged = rights.principal();
        let is_done = match authenticator.judge_again(&judged, client_of(&control.client_id).1) {
            Again::Same => true,
            Again::Changed(principal) => control.change_rights(&judged, principal),
            Again::Gone(step) => rights.while_is(&judged, || {
                let client_id = control.client_id.escape_debug().to_string();
                tracing::info!(client_id, step = step.text(), "ended: its user would not get in any more");
                control.order(Order::Close(ending_of(step)));
            }),
        };
        if is_done {
            return;
        }
    }
}

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Ends the subscriptions that the client may not have any more, when its rights have changed.
    ///
    /// **Invariant:** those that are being made, also in the place of others, are left alone until they are made, and judged
    /// then: of one that was ended meanwhile the rest would enter all the same, and nobody would know of it.
    pub(super) fn judge_rights(&mut self) {
        self.look_for_ending();
        self.look_for_rates();
        self.judge_will();
        let rights = &self.inbox.rights;
        let unwanted: Vec<TopicFilter> = {
            let making: HashSet<&TopicFilter> = self.making.iter().collect();
            let made = self.filters.iter().filter(|filter| !making.contains(filter));
            made.filter(|filter| self.account.judge(filter, rights).is_err()).cloned().collect()
        };
        self.end_unwanted(unwanted);
    }

    /// Ends subscriptions that the client may not have any more.
    pub(super) fn end_unwanted(&mut self, unwanted: impl IntoIterator<Item = TopicFilter>) {
        let unwanted: Vec<Result<TopicFilter, ByteString>> = unwanted.into_iter().map(Ok).collect();
        if unwanted.is_empty() {
            return;
        }
        for filter in unwanted.iter().flatten() {
            let (client_id, filter) = (self.control.client_id.escape_debug(), filter.as_str().escape_debug());
            tracing::info!(%client_id, %filter, "a subscription has ended that its client may not have any more");
        }
        self.end_subscriptions(&unwanted);
    }

    /// Writes down who publishes its will, and whether its topic is still allowed, for whoever publishes it when we are gone.
    pub(super) fn judge_will(&mut self) {
        let Some(will) = self.owned.as_mut().and_then(|owned| owned.record.will.as_mut()) else { return };
        let by = self.account.will_publisher(&will.topic, &self.inbox.rights);
        if will.by == by {
            return;
        }
        if by.as_ref().is_some_and(|by| by.denied) {
            let (client_id, topic) = (self.control.client_id.escape_debug(), will.topic.escape_debug());
            tracing::info!(%client_id, %topic, "a will is not published any more that its client may not publish now");
        }
        (will.by, self.is_record_dirty) = (by, true);
    }

    /// Ends subscriptions [MQTT-3.10.4-2]. A reason code for each.
    pub(super) fn end_subscriptions(&mut self, filters: &[Result<TopicFilter, ByteString>]) -> Vec<ReasonCode> {
        let reasons = self.take_back(filters);
        self.tell_unsubscribed(filters, &reasons);
        reasons
    }

    /// The same of such as no event has told of.
    pub(super) fn take_back(&mut self, filters: &[Result<TopicFilter, ByteString>]) -> Vec<ReasonCode> {
        let reasons = self.account.unsubscribe(&self.inbox, &mut self.filters, filters);
        self.retained.add(self.inbox.take_retained());
        self.retained.forget(filters.iter().flatten());
        if let Some(owned) = &mut self.owned {
            for filter in filters.iter().flatten() {
                owned.subscriptions.remove(filter);
            }
        }
        reasons
    }
}
