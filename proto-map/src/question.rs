//! Where the answer of NATS to a request of a client goes, in the last token of the reply subject. The sidecar that asks
//! remembers it; another one, when that is gone, reads it here. Under a MAC like the tokens of [`crate::ReplyTopics`]: what is
//! on a reply subject can be published by whoever got a request, and is not to lead anywhere else.

use bytes::Bytes;
use mqtt_codec::{QoS, TopicName};

use crate::reply::{REPLY_SUBJECT_MAX, ReplyError, ReplyKey};

/// What the MAC is about.
const PURPOSE: &[u8] = b"nats-mqtt answer 1\0";

/// Says of the first byte that there is correlation data; the lowest two bits are the QoS.
const HAS_CORRELATION: u8 = 0b100;
const QOS: u8 = 0b11;

/// Where the answer to a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The topic.
    pub response_topic: TopicName,
    /// What the answer repeats.
    pub correlation_data: Option<Bytes>,
    /// The QoS of the request, which is that of the answer.
    pub qos: QoS,
}

impl Question {
    /// Bytes that it holds.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.response_topic.as_str().len() + self.correlation_data.as_ref().map_or(0, Bytes::len)
    }
}

impl ReplyKey {
    /// A question as one token of a subject, for answers until `ends_s`, in seconds since the epoch. `None` when it would be
    /// longer than a reply subject should be.
    #[must_use]
    pub fn seal_question(&self, question: &Question, ends_s: u32) -> Option<String> {
        // A token is four thirds of what is in it.
        if question.weight() > REPLY_SUBJECT_MAX * 3 / 4 {
            return None;
        }
        let topic = question.response_topic.as_str();
        let correlation = question.correlation_data.as_deref();
        let flags = question.qos as u8 | if correlation.is_some() { HAS_CORRELATION } else { 0 };
        let length = u16::try_from(topic.len()).ok()?.to_be_bytes();
        let sealed = [&[flags], &length[..], topic.as_bytes(), correlation.unwrap_or_default()].concat();
        Some(self.seal_bytes(PURPOSE, &sealed, ends_s))
    }

    /// The question of a token, at `now_s`.
    ///
    /// # Errors
    /// See [`ReplyError`].
    pub fn open_question(&self, token: &str, now_s: u32) -> Result<Question, ReplyError> {
        let bytes = self.open_bytes(PURPOSE, token, now_s)?;
        parse(&bytes).ok_or(ReplyError::Forged)
    }
}

fn parse(bytes: &[u8]) -> Option<Question> {
    let (&flags, rest) = bytes.split_first()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (topic, correlation) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    Some(Question {
        response_topic: TopicName::new(std::str::from_utf8(topic).ok()?.to_owned()).ok()?,
        correlation_data: (flags & HAS_CORRELATION != 0).then(|| Bytes::copy_from_slice(correlation)),
        qos: QoS::try_from(flags & QOS).ok()?,
    })
}
