//! A client asks: its publish with a Response Topic goes out with a reply subject of ours, on which a NATS service answers.
//!
//! At QoS 1 and 2 the acknowledgement tells whether anybody listens. The server says at once when nobody does, and nothing
//! when somebody does; so a message to ourselves follows the request, and what comes first is the answer.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use mqtt_session::Publication;
use proto_map::{HeaderError, Headers, Question, Subject};

use super::pending::{Asker, QuestionId, Waiter};
use super::{ECHO, Requests};
use crate::account::clock::uptime;
use crate::account::delivery::grant::Permits as _;
use crate::account::publish::{CoreCopy, Publishing};
use crate::metrics::RequestEvent;

/// How a publish goes out on core NATS.
#[derive(Debug, Default)]
pub(in crate::account) struct Asked {
    /// Its reply subject.
    reply: Option<ByteString>,
    /// The message to ourselves that follows.
    echo: Option<CoreCopy>,
}

impl Asked {
    /// Whether the acknowledgement of the publish comes later, through [`Completions`](crate::account::publish::completions::Completions).
    pub(in crate::account) const fn is_waited_for(&self) -> bool {
        self.echo.is_some()
    }
}

impl Requests {
    pub(super) fn ask(&self, asker: Asker, question: Question, subject: &Subject) -> Asked {
        let id: u64 = rand::random();
        let mut reply = format!("{}{id:016x}", self.inbox);
        if let Some(token) = self.keys.read().seal.seal_question(&question, self.ends_s(self.options.timeout))
            && nats_wire::can_publish(subject.as_str().len(), Some(reply.len() + 1 + token.len()))
        {
            reply.push('.');
            reply.push_str(&token);
        }
        let echo = self.echo.clone().filter(|_| asker.waiter.is_some()).map(|subject| CoreCopy {
            subject,
            reply: Some(format!("{}{ECHO}{id:016x}", self.inbox).into()),
            headers: Headers::new(),
            payload: Bytes::new(),
        });
        let mut over = Vec::new();
        let is_first = {
            let mut pending = self.pending.lock();
            pending.add(QuestionId(id), question, asker, uptime(), &mut over);
            pending.len() == 1
        };
        if is_first {
            self.asked.notify_one();
        }
        self.metrics.request(RequestEvent::Asked);
        self.end(over, RequestEvent::Evicted);
        Asked { reply: Some(reply.into()), echo }
    }
}

impl Publishing {
    /// How a publish goes out, stored or not: as a request, when it has a Response Topic that can be published to.
    pub(in crate::account) fn ask(&mut self, publication: &Publication, subject: &Subject) -> Asked {
        let Some(properties) = publication.properties.as_deref() else { return Asked::default() };
        let Some(response_topic) = &properties.response_topic else { return Asked::default() };
        let requests = Arc::clone(&self.account.requests);
        if requests.is_captured(subject.as_str())
            || proto_map::map_topic(response_topic, proto_map::MAX_SUBJECT_LEN).is_err()
        {
            return Asked::default();
        }
        // The answer is published for whoever asked, and is for nobody else.
        if self.rights().is_some_and(|rights| !rights.may_receive(response_topic)) {
            return Asked::default();
        }
        // When a session has it, it has a subscriber, whatever NATS says.
        let waiter = publication.token.filter(|_| !self.account.has_subscriber(&publication.topic));
        let waiter = waiter.map(|token| Waiter { completions: Arc::clone(&self.completions), token });
        self.unreported += usize::from(waiter.is_some());
        let question = Question {
            // Copies: what came in a packet keeps the whole read buffer alive.
            response_topic: response_topic.to_owned_copy(),
            correlation_data: properties.correlation_data.as_deref().map(Bytes::copy_from_slice),
            qos: publication.qos,
        };
        let asker = Asker { client_id: self.completions.client_id.clone(), waiter };
        requests.ask(asker, question, subject)
    }

    /// Sends it.
    pub(in crate::account) fn send_asked(
        &mut self,
        subject: Subject,
        asked: Asked,
        headers: Result<Headers, HeaderError>,
        payload: Bytes,
    ) {
        self.send(subject, asked.reply, headers, payload);
        if let Some(echo) = asked.echo {
            // Unsent, it is not missed: nobody waits for long.
            let _ = self.send_copy(echo);
        }
    }
}
