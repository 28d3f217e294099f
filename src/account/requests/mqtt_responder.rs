//! The requests that a client of MQTT 3.x has got on this connection and has not answered. It sees no properties, so it
//! names a request by its topic: the oldest one, when it answers every request in turn, or the newest one.

use std::collections::VecDeque;

use bytes::Bytes;
use mqtt_codec::TopicName;
use parking_lot::Mutex;

use crate::account::delivery::message::Message;

/// Requests that one connection can answer; above it the oldest one is given up.
const OPEN_MAX: usize = 64;
/// Bytes of them; likewise.
const BYTES_MAX: usize = 64 * 1024;

/// A request that can be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenRequest {
    /// Where the answer goes.
    pub(crate) response_topic: TopicName,
    /// What the answer repeats.
    pub(crate) correlation_data: Option<Bytes>,
    topic: TopicName,
}

/// The open requests of one connection.
#[derive(Debug, Default)]
pub(crate) struct Answerable {
    open: VecDeque<OpenRequest>,
    bytes: usize,
}

/// The same between those who deliver requests to the client and those who publish its answers.
#[derive(Debug, Default)]
pub(crate) struct OpenRequests(Mutex<Option<Box<Answerable>>>);

impl OpenRequests {
    /// The client gets a message: it may be a request.
    pub(crate) fn remember(&self, message: &Message) {
        if let Some(request) = OpenRequest::of(message) {
            self.0.lock().get_or_insert_default().push(request);
        }
    }

    /// Takes a request that the client answers.
    pub(crate) fn take(&self, take: impl FnOnce(&mut Answerable) -> Option<OpenRequest>) -> Option<OpenRequest> {
        self.0.lock().as_deref_mut().and_then(take)
    }
}

impl OpenRequest {
    /// The request that a message is, if it is one.
    pub(crate) fn of(message: &Message) -> Option<Self> {
        let properties = message.properties.as_deref()?;
        Some(Self {
            // Copies: what came in a packet keeps the whole read buffer alive.
            response_topic: properties.response_topic.as_ref()?.to_owned_copy(),
            correlation_data: properties.correlation_data.as_deref().map(Bytes::copy_from_slice),
            topic: message.topic.to_owned_copy(),
        })
    }

    fn weight(&self) -> usize {
        self.topic.as_str().len()
            + self.response_topic.as_str().len()
            + self.correlation_data.as_ref().map_or(0, Bytes::len)
    }
}

impl Answerable {
    /// The client gets a request.
    pub(crate) fn push(&mut self, request: OpenRequest) {
        self.bytes += request.weight();
        self.open.push_back(request);
        while self.open.len() > OPEN_MAX || self.bytes > BYTES_MAX {
            let Some(oldest) = self.open.pop_front() else { return };
            self.bytes -= oldest.weight();
        }
    }

    /// Takes the oldest request on a topic.
    pub(crate) fn take_next(&mut self, topic: &str) -> Option<OpenRequest> {
        let index = self.open.iter().position(|request| request.topic.as_str() == topic)?;
        let request = self.open.remove(index)?;
        self.bytes -= request.weight();
        Some(request)
    }

    /// Takes the newest request on a topic and gives up the others.
    pub(crate) fn take_last(&mut self, topic: &str) -> Option<OpenRequest> {
        std::iter::from_fn(|| self.take_next(topic)).last()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(topic: &str, response: &str) -> OpenRequest {
        let [topic, response_topic] = [topic, response].map(|text| TopicName::new(text.to_owned()).unwrap());
        OpenRequest { response_topic, correlation_data: None, topic }
    }

    fn taken(request: Option<OpenRequest>) -> String {
        request.map_or_else(|| "-".to_owned(), |request| request.response_topic.as_str().to_owned())
    }

    #[test]
    fn requests_of_a_topic_are_answered_in_turn_or_the_last_one_is() {
        let mut open = Answerable::default();
        for (topic, response) in [("a", "1"), ("b", "2"), ("a", "3"), ("a", "4")] {
            open.push(request(topic, response));
        }
        assert_eq!(taken(open.take_next("a")), "1");
        assert_eq!(taken(open.take_last("a")), "4");
        assert_eq!(taken(open.take_next("a")), "-");
        assert_eq!(taken(open.take_next("b")), "2");
        assert_eq!(taken(open.take_last("b")), "-");
        assert_eq!(open.bytes, 0);
    }

    #[test]
    fn the_oldest_requests_are_given_up() {
        let mut open = Answerable::default();
        for number in 0..=OPEN_MAX {
            open.push(request("a", &number.to_string()));
        }
        assert_eq!(taken(open.take_next("a")), "1");
        let data = vec![0; BYTES_MAX - "a".len() - "large".len()];
        open.push(request("b", "small"));
        let large = OpenRequest { correlation_data: Some(data.into()), ..request("a", "large") };
        open.push(large);
        assert_eq!(taken(open.take_next("b")), "-");
        assert_eq!(taken(open.take_next("a")), "large");
    }
}
