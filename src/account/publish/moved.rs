//! Subjects that another log has from now on, because a stream has come or gone, while messages are under way to the old one.

use std::sync::Arc;

use mqtt_codec::TopicName;
use proto_map::Subject;

use super::Publishing;
use super::job::{Job, Route, Stage};
use crate::account::delivery::inbox::Wakes;

impl Publishing {
    /// Whether what was published earlier on this subject is under way to another log, since the subject has moved.
    ///
    /// **Invariant:** what is under way of a topic lies in one log, so that it can be in order there.
    pub(super) fn is_elsewhere(&mut self, route: &Route) -> bool {
        if route.version != self.version {
            self.version = route.version;
            self.older_below = self.next_token();
        }
        if self.first >= self.older_below && self.parked.is_empty() {
            return false;
        }
        self.under_way(&route.subject).any(|job| job.stage == Stage::Log && !Arc::ptr_eq(&job.route.log, &route.log))
    }

    fn under_way(&self, subject: &Subject) -> impl Iterator<Item = &Job> {
        let all = self.stored.iter().flatten().chain(&self.parked);
        all.filter(move |job| job.route.subject.as_str() == subject.as_str())
    }

    /// One that was under way to the log that its subject has left is there, or goes to the new one: behind the last of
    /// them goes what was published since.
    pub(super) fn release_moved(&mut self, topic: &TopicName, old: &Route, wakes: &mut Wakes) {
        let is_last = !self
            .under_way(&old.subject)
            .any(|job| job.stage == Stage::Bucket || Arc::ptr_eq(&job.route.log, &old.log));
        if is_last {
            self.release(topic, wakes);
        }
    }

    /// The stream that had the subject is gone: its message goes where the subject belongs now.
    pub(super) fn reroute(&mut self, mut job: Job) {
        self.route_again(&mut job);
        self.parked.push_back(job);
        self.submit_parked();
    }

    pub(super) fn route_again(&self, job: &mut Job) {
        job.route.version = self.account.logs.version();
        job.route.log = self.account.logs.owner_of(job.route.subject.as_str());
    }
}
