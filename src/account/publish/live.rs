//! Core NATS: QoS 0, and the copies of stored messages that NATS clients see.

use bytestring::ByteString;
use proto_map::{HeaderError, Headers, Subject};

use super::Publishing;
use super::job::{CoreCopy, Job};
use crate::account::delivery::inbox::Wakes;
use crate::account::delivery::message::Message;
use crate::account::publish::convert;
use crate::metrics::DropReason;
use crate::store::Dropped;

impl Publishing {
    /// QoS 0: to the subscribers here and to core NATS, from one publish.
    pub(super) fn route_live(&mut self, job: Job, wakes: &mut Wakes) {
        let Job { publication, route, retained_at, since, .. } = job;
        let asked = self.ask(&publication, &route.subject);
        let says_qos = self.account.says_qos(&publication.topic, &route.subject);
        let (client, id) = (self.named_publisher(), self.own_id(&publication));
        let mut headers = convert::live_headers(&publication, retained_at, route.is_escaped, says_qos, client, id);
        if let (Some(_), Ok(headers)) = (retained_at, &mut headers) {
            self.mark(&route.subject, headers, &publication.payload);
        }
        let payload = publication.payload.clone();
        let mut message = Message::new(publication.topic, publication.payload, publication.properties);
        message.retain = publication.retain;
        message.retained_at = retained_at;
        message.since = since;
        self.account.router.route_local(&mut message, self.completions.id, wakes);
        self.send_asked(route.subject, asked, headers, payload);
    }

    pub(in crate::account) fn send(
        &mut self,
        subject: Subject,
        reply: Option<ByteString>,
        headers: Result<Headers, HeaderError>,
        payload: bytes::Bytes,
    ) {
        let Ok(headers) = headers else {
            // Only user properties of some 64 KB come here; the marker made it too much.
            return self.account.metrics.dropped(DropReason::TooLarge, 1);
        };
        if self.send_copy(CoreCopy { subject, reply, headers, payload }).is_err() {
            self.account.metrics.dropped(DropReason::NatsUnavailable, 1);
        }
    }

    /// Sends to core NATS, now or behind what waits for it.
    pub(in crate::account) fn send_copy(&mut self, copy: CoreCopy) -> Result<(), Dropped> {
        if self.is_handing_over || !self.unsent.is_empty() {
            self.unsent.push_back(copy);
            return Ok(());
        }
        let (subject, payload) = (copy.subject.as_text(), copy.payload.clone());
        match self.account.store.core().publish(subject, copy.reply.as_ref(), &copy.headers, payload) {
            Err(Dropped::Full) => {
                self.unsent.push_back(copy);
                Ok(())
            }
            result => result,
        }
    }
}
