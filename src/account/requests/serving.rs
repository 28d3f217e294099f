//! What runs for requests and replies as long as the account does.

use std::sync::Arc;

use super::{Inlet, Requests, answers, orphaned_replies};
use crate::account::Account;

impl Account {
    /// Publishes what NATS answers, and keeps the key of replies.
    pub(in crate::account) fn serve_requests(self: &Arc<Self>, inlet: Inlet) {
        let tasks = self.store.tasks();
        tasks.spawn(answers::run(Arc::clone(self), inlet.arrived));
        tasks.spawn(orphaned_replies::run(Arc::clone(self), inlet.orphans));
        let keys = self.store.reply_keys().clone();
        tasks.spawn(Requests::keep_key(Arc::downgrade(&self.requests), keys));
    }
}
