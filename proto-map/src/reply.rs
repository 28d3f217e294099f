//! Where the answer to a NATS request goes, as a topic that a device can publish to: `$NMQ/reply/TOKEN`.
//!
//! The token is the reply subject and the time at which it ends, under a MAC whose key the sidecars of an account share. So
//! any of them can open it, none has to remember it, and a device can neither make one nor change where one leads.
//! A device that has no properties names the request by its topic instead: `$NMQ/reply/next/TOPIC` and
//! `$NMQ/reply/last/TOPIC`. Which request that is, is not known here.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use mqtt_codec::TopicName;
use ring::hmac;

use crate::{ClosedTrees, Subject};

/// Bytes of a key.
pub const REPLY_KEY_LEN: usize = 32;

/// Longest reply subject that a token is made of, and longest part of one that is a token; inboxes have some forty bytes.
pub(crate) const REPLY_SUBJECT_MAX: usize = 1024;
/// Bytes of the MAC in a token.
const MAC_LEN: usize = 32;
/// Bytes of the time in a token.
const TIME_LEN: usize = 4;
/// What the MAC is about, so that no other use of the key makes a token.
const PURPOSE: &[u8] = b"nats-mqtt reply 1\0";

/// First tokens of reply subjects that are closed to devices and still lead to whoever asked: inboxes, and the two forms
/// that replies have on their way between accounts and clusters.
const INBOXES: [&str; 4] = ["_INBOX", "_R_", "_GR_", "$GNR"];

/// What a topic under `$NMQ/reply/` means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyTopic<'a> {
    /// A token.
    Token(&'a str),
    /// The oldest request on this topic that the device has not answered.
    Next(&'a str),
    /// The newest request on this topic; older ones are given up.
    Last(&'a str),
}

/// A token that is not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// It was not made by a sidecar of this account, or was changed.
    #[error("this is no token of ours")]
    Forged,
    /// Its time is over.
    #[error("the time for an answer is over")]
    Expired,
}

/// The topics of replies of one deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyTopics {
    root: String,
}

/// A key that makes and opens tokens.
#[derive(Clone)]
pub struct ReplyKey(hmac::Key);

impl fmt::Debug for ReplyKey {
    // Secrets stay out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReplyKey")
    }
}

impl ReplyTopics {
    /// Under this prefix of our subjects, `$NMQ`.
    #[must_use]
    pub fn new(subject_prefix: &str) -> Self {
        Self { root: format!("{subject_prefix}/reply/") }
    }

    /// What a topic means; `None` when it is none of these topics.
    #[must_use]
    pub fn parse<'a>(&self, topic: &'a str) -> Option<ReplyTopic<'a>> {
        let rest = topic.strip_prefix(self.root.as_str())?;
        Some(match rest.split_once('/') {
            Some(("next", of)) => ReplyTopic::Next(of),
            Some(("last", of)) => ReplyTopic::Last(of),
            _ => ReplyTopic::Token(rest),
        })
    }

    /// The topic of a token. `None` for text that is none.
    #[must_use]
    pub fn of_token(&self, token: &str) -> Option<TopicName> {
        TopicName::new(format!("{}{token}", self.root)).ok()
    }
}

/// Whether a sidecar may be made to publish on a reply subject by whoever answers: not where only it may publish.
#[must_use]
pub fn is_answerable(reply: &str, closed: &ClosedTrees) -> bool {
    let first = reply.split('.').next().unwrap_or_default();
    reply.len() <= REPLY_SUBJECT_MAX && (INBOXES.contains(&first) || !closed.is_closed_subject(reply))
}

impl ReplyKey {
    /// A key of random bytes.
    #[must_use]
    pub fn new(bytes: &[u8; REPLY_KEY_LEN]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// A token for a reply subject that can be used until `ends_s`, in seconds since the epoch.
    #[must_use]
    pub fn seal(&self, reply: &Subject, ends_s: u32) -> String {
        self.seal_bytes(PURPOSE, reply.as_str().as_bytes(), ends_s)
    }

    /// The reply subject of a token, at `now_s`.
    ///
    /// # Errors
    /// See [`ReplyError`].
    pub fn open(&self, token: &str, now_s: u32) -> Result<Subject, ReplyError> {
        let reply = self.open_bytes(PURPOSE, token, now_s)?;
        let reply = String::from_utf8(reply).map_err(|_| ReplyError::Forged)?;
        Subject::new(reply).map_err(|_| ReplyError::Forged)
    }

    /// A token with these bytes in it, for one purpose.
    pub(crate) fn seal_bytes(&self, purpose: &[u8], bytes: &[u8], ends_s: u32) -> String {
        let ends = ends_s.to_be_bytes();
        let mac = hmac::sign(&self.0, &[purpose, &ends, bytes].concat());
        BASE64.encode([mac.as_ref(), &ends, bytes].concat())
    }

    /// The bytes of a token for this purpose, at `now_s`.
    pub(crate) fn open_bytes(&self, purpose: &[u8], token: &str, now_s: u32) -> Result<Vec<u8>, ReplyError> {
        let bytes = BASE64.decode(token).map_err(|_| ReplyError::Forged)?;
        let (mac, rest) = bytes.split_at_checked(MAC_LEN).ok_or(ReplyError::Forged)?;
        let (ends, content) = rest.split_first_chunk::<TIME_LEN>().ok_or(ReplyError::Forged)?;
        hmac::verify(&self.0, &[purpose, rest].concat(), mac).map_err(|_| ReplyError::Forged)?;
        if now_s > u32::from_be_bytes(*ends) {
            return Err(ReplyError::Expired);
        }
        Ok(content.to_vec())
    }
}
