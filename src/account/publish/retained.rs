//! Retained publishes: through the bucket to the log, and what waits behind one on its topic.

use mqtt_codec::{QoS, TopicName};
use mqtt_session::Sequence;

use super::completions::PublishOutcome;
use super::job::{Job, Stage};
use super::{Publishing, answer, reason_of, weight};
use crate::account::delivery::inbox::Wakes;
use crate::metrics::DropReason;
use crate::store::{PutError, Stored, StoredSink as _};

impl Publishing {
    /// The first that is parked was looked for: it is in the log at this sequence, or it is not there.
    pub(super) fn found(&mut self, sequence: Option<Sequence>, wakes: &mut Wakes) {
        let Some(job) = self.parked.front_mut() else { return };
        job.maybe_above = None;
        let Some(sequence) = sequence else { return self.submit_parked() };
        if self.is_to_be_retained_again() {
            if let Some(job) = self.parked.front_mut() {
                job.logged_at = Some(sequence);
            }
            return self.submit_parked();
        }
        // It was retained and stored before; what is left is to say so.
        let Some(job) = self.parked.pop_front() else { return };
        let retained = job.publication.retain.then(|| job.publication.topic.clone());
        self.stored_before(job, sequence);
        if let Some(topic) = retained {
            self.release(&topic, wakes);
        }
        self.submit_parked();
    }

    /// Whether the first that is parked, which was retained and stored before, is to be retained again: its client has since
    /// repeated something older of its topic. **Invariant:** the last of a client's publishes on a topic, in the order in which
    /// they came first, is the one that stays retained, whatever is repeated.
    fn is_to_be_retained_again(&self) -> bool {
        let Some(job) = self.parked.front().filter(|job| job.publication.retain) else { return false };
        let (Ok(subject), Some(behalf)) = (self.account.names.retained_subject(&job.route.subject), self.behalf())
        else {
            return false;
        };
        self.account.retained_writer.is_last_of(&subject, &job.publication.topic, &behalf)
    }

    /// Says in its turn that one is in the log, which was there before.
    fn stored_before(&mut self, mut job: Job, sequence: Sequence) {
        let token = self.next_token();
        job.stage = Stage::Log;
        self.stored.push_back(Some(job));
        self.completions.stored(token.0, Ok(Stored { sequence: sequence.0, duplicate: true }));
        self.completions.flush();
    }

    /// The bucket has dealt with one: it goes on to the log or, at QoS 0, to its subscribers, which get it even when it
    /// could not be stored.
    pub(super) fn in_bucket(
        &mut self,
        mut job: Job,
        result: Result<Stored, PutError>,
        answers: &mut Vec<PublishOutcome>,
        wakes: &mut Wakes,
    ) {
        let topic = job.publication.topic.clone();
        let is_qos0 = job.publication.qos == QoS::AtMostOnce;
        match result {
            Ok(stored) => job.retained_at = Some(Sequence(stored.sequence)),
            // Its client is elsewhere, and has published it there again.
            Err(PutError::Withdrawn) => {
                answer(&job, Err(reason_of(&PutError::Withdrawn)), answers);
                return self.release(&topic, wakes);
            }
            Err(error) => {
                let client_id = &*self.completions.client_id;
                tracing::warn!(client_id, topic = topic.as_str(), %error, "a retained message was not stored");
                self.tell_size(&job, &error);
                self.account.metrics.dropped(DropReason::NatsUnavailable, 1);
                if !is_qos0 {
                    answer(&job, Err(reason_of(&error)), answers);
                }
            }
        }
        if is_qos0 {
            self.route_live(job, wakes);
        } else if let Some(sequence) = job.logged_at.filter(|_| job.retained_at.is_some()) {
            self.stored_before(job, sequence);
        } else if job.retained_at.is_some() {
            job.stage = Stage::Log;
            self.parked.push_back(job);
            self.submit_parked();
        }
        self.release(&topic, wakes);
    }

    /// What waited behind a retained message goes on, up to and with the next retained one.
    pub(super) fn release(&mut self, topic: &TopicName, wakes: &mut Wakes) {
        let mut waiting = self.behind.remove(topic).unwrap_or_default();
        while let Some(job) = waiting.pop_front() {
            // It may be put behind again.
            self.bytes_behind = self.bytes_behind.saturating_sub(weight(&job));
            self.begin(job, wakes);
            if let Some(behind) = self.behind.get_mut(topic) {
                behind.append(&mut waiting);
            }
        }
    }
}
