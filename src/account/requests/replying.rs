//! A client answers: what it publishes on a topic of replies goes to whoever asked, and nowhere else.

use bytes::Bytes;
use mqtt_codec::{ReasonCode, TopicName};
use mqtt_session::{Publication, Token};
use proto_map::{Carrier, Envelope, ReplyTopic};

use super::OpenRequest;
use super::mqtt_responder::Answerable;
use crate::account::ownership::records::WILL_NUMBER;
use crate::account::publish::{CoreCopy, Publishing, Refused};
use crate::metrics::{DropReason, RequestEvent};
use crate::store::Dropped;

impl Publishing {
    /// Takes out of a publish what is no business of the log: an answer to a request. Returns what is to be published, if
    /// anything is.
    ///
    /// # Errors
    /// The topic is no topic of replies that this client can answer on, or its Response Topic is one that it could not use
    /// itself.
    pub(in crate::account) fn answer_request(
        &mut self,
        publication: Publication,
    ) -> Result<Option<Publication>, Box<(Publication, Refused)>> {
        let requests = &self.account.requests;
        let Some(topic) = requests.topics.parse(publication.topic.as_str()) else {
            let response_topic = publication.properties.as_deref().and_then(|p| p.response_topic.as_ref());
            if response_topic.is_some_and(|topic| self.account.router.closed().is_closed_topic(topic)) {
                return Err(Box::new((publication, Refused::Closed)));
            }
            return Ok(Some(publication));
        };
        let request = match topic {
            // An answer is for one, once: there is nothing to retain.
            _ if publication.retain => None,
            // Which request that was is not known any more.
            ReplyTopic::Next(_) | ReplyTopic::Last(_) if was_sent(&publication) => {
                self.answered(publication.token, Ok(ReasonCode::Success));
                return Ok(None);
            }
            ReplyTopic::Token(_) => {
                return self.reply(publication.topic.clone(), publication).map(|()| None);
            }
            ReplyTopic::Next(of) => self.open_request(|open| open.take_next(of)),
            ReplyTopic::Last(of) => self.open_request(|open| open.take_last(of)),
        };
        let Some(OpenRequest { response_topic, correlation_data, .. }) = request else {
            requests.metrics.request(RequestEvent::Refused);
            return Err(Box::new((publication, Refused::Closed)));
        };
        let publication = with_correlation(publication, correlation_data);
        if requests.topics.parse(response_topic.as_str()).is_some() {
            return self.reply(response_topic, publication).map(|()| None);
        }
        // A client asked: the answer is a publish like any other.
        if self.account.router.closed().is_closed_topic(&response_topic) {
            return Err(Box::new((publication, Refused::Closed)));
        }
        Ok(Some(Publication { topic: response_topic, ..publication }))
    }

    /// Sends an answer to the reply subject that is in the topic.
    fn reply(&mut self, topic: TopicName, publication: Publication) -> Result<(), Box<(Publication, Refused)>> {
        let requests = &self.account.requests;
        let opened = match requests.topics.parse(topic.as_str()) {
            Some(ReplyTopic::Token(token)) => requests.open(token),
            _ => Err(Refused::Closed),
        };
        let subject = match opened {
            Ok(subject) => subject,
            Err(refused) => {
                requests.metrics.request(RequestEvent::Refused);
                return Err(Box::new((publication, refused)));
            }
        };
        if self.rights().is_some_and(|rights| !rights.take_reply(&subject, self.account.store.clock().latest())) {
            requests.metrics.request(RequestEvent::Refused);
            return Err(Box::new((publication, Refused::Denied)));
        }
        if was_sent(&publication) {
            self.answered(publication.token, Ok(ReasonCode::Success));
            return Ok(());
        }
        let Publication { token, payload, properties, .. } = publication;
        let envelope = Envelope { properties, publisher: self.named_publisher(), ..Envelope::default() };
        let reason = match proto_map::to_headers(&envelope, Carrier::Core) {
            Err(_) => Err(ReasonCode::QuotaExceeded),
            Ok(headers) => {
                let copy = CoreCopy { subject, reply: None, headers, payload };
                self.send_copy(copy).map(|()| ReasonCode::Success).map_err(reason_of)
            }
        };
        let event = if reason.is_ok() { RequestEvent::Replied } else { RequestEvent::Refused };
        self.account.metrics.request(event);
        if token.is_none() && reason.is_err() {
            self.account.metrics.dropped(DropReason::NatsUnavailable, 1);
        }
        self.answered(token, reason);
        Ok(())
    }

    /// Takes a request that a client of MQTT 3.x answers.
    fn open_request(&self, take: impl FnOnce(&mut Answerable) -> Option<OpenRequest>) -> Option<OpenRequest> {
        self.open_requests.as_ref()?.take(take)
    }

    /// Acknowledges what is dealt with at once, in turn.
    pub(in crate::account) fn answered(&mut self, token: Option<Token>, reason: Result<ReasonCode, ReasonCode>) {
        if let Some(token) = token {
            self.unreported += 1;
            self.completions.report(token, reason);
        }
    }
}

/// Whether an answer at QoS 2 is a repetition of one that was sent: that it came was saved right before it was sent. There
/// is no log to look into. When the sidecar died in that moment, it was not sent, and QoS 2 prefers none to two. A will,
/// which is marked long before, is rather sent twice.
fn was_sent(publication: &Publication) -> bool {
    publication.once.is_some_and(|once| once.maybe_above.is_some() && once.message.number != WILL_NUMBER)
}

/// What a client is told whose answer was not sent.
const fn reason_of(why: Dropped) -> ReasonCode {
    match why {
        Dropped::TooLarge => ReasonCode::QuotaExceeded,
        Dropped::Invalid => ReasonCode::ImplementationSpecificError,
        // No acknowledgement can say it: the connection ends, and the client answers again.
        Dropped::Disconnected | Dropped::Full => ReasonCode::ServerBusy,
    }
}

/// With the correlation data of the request, unless the answer has its own.
fn with_correlation(mut publication: Publication, correlation_data: Option<Bytes>) -> Publication {
    if let Some(data) = correlation_data {
        publication.properties.get_or_insert_default().correlation_data.get_or_insert(data);
    }
    publication
}
