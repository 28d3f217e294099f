//! What is stored of a session: its record, and what has keys of its own beside it, all of them below the client's token.

use bytestring::ByteString;

use super::Names;
use crate::MapError;
use crate::key::{client_key, client_of_key};

/// What a subject of the sessions bucket holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionSubject {
    /// The session record of a client.
    Record {
        /// Client identifier.
        client_id: String,
    },
    /// The progress of a client.
    Progress {
        /// Client identifier.
        client_id: String,
    },
    /// Some of the subscriptions of a session, beside its record.
    Subscriptions {
        /// Client identifier.
        client_id: String,
        /// The epoch in which the session began.
        first_epoch: u64,
        /// The number of the page.
        page: u32,
    },
    /// The will of a connection, beside its session's record.
    Will {
        /// Client identifier.
        client_id: String,
        /// A number that no other one has.
        number: u64,
    },
    /// The marker of a QoS 2 message received from a client and not yet released.
    Received {
        /// Client identifier.
        client_id: String,
        /// Packet identifier of the message.
        packet_id: u16,
    },
}

impl Names {
    /// A client identifier as a token of a subject.
    ///
    /// # Errors
    /// [`MapError::TooLong`], for which CONNACK has 0x85.
    pub fn client_key(&self, client_id: &str) -> Result<ByteString, MapError> {
        // As long as the longest that is made of it, so that none of those is too long.
        let longest = format!(".subs.{}.{}", u64::MAX, u32::MAX);
        let subject = client_key(&self.sessions_root, client_id, &longest)?;
        Ok(ByteString::from(subject.trim_start_matches(self.sessions_root.as_str()).trim_end_matches(&longest)))
    }

    /// The session record of a client: `$KV.MQTT_sessions.<client>`.
    ///
    /// # Errors
    /// [`MapError::TooLong`], for which CONNACK has 0x85.
    pub fn session_record(&self, client_id: &str) -> Result<ByteString, MapError> {
        client_key(&self.sessions_root, client_id, "")
    }

    /// The progress of a client: `$KV.MQTT_sessions.<client>.progress`.
    ///
    /// # Errors
    /// [`MapError::TooLong`]
    pub fn session_progress(&self, client_id: &str) -> Result<ByteString, MapError> {
        client_key(&self.sessions_root, client_id, ".progress")
    }

    /// Subscriptions of a session that have no room in its record, a page of them:
    /// `$KV.MQTT_sessions.<client>.subs.<first epoch>.<page>`. The epoch in which the session began is in the key, so that
    /// what a session before it has left is known for that, and is never written again.
    ///
    /// # Errors
    /// [`MapError::TooLong`]
    pub fn session_page(&self, client_id: &str, first_epoch: u64, page: u32) -> Result<ByteString, MapError> {
        client_key(&self.sessions_root, client_id, &format!(".subs.{first_epoch}.{page}"))
    }

    /// The filter of all pages of a session: `$KV.MQTT_sessions.<client>.subs.<first epoch>.*`.
    ///
    /// # Errors
    /// [`MapError::TooLong`]
    pub fn session_pages(&self, client_id: &str, first_epoch: u64) -> Result<ByteString, MapError> {
        client_key(&self.sessions_root, client_id, &format!(".subs.{first_epoch}.*"))
    }

    /// The filter of all pages of all sessions of a client: `$KV.MQTT_sessions.<client>.subs.>`.
    ///
    /// # Errors
    /// [`MapError::TooLong`]
    pub fn client_pages(&self, client_id: &str) -> Result<ByteString, MapError> {
        client_key(&self.sessions_root, client_id, ".subs.>")
    }

    /// The filter of the pages of all sessions: `$KV.MQTT_sessions.*.subs.*.*`.
    #[must_use]
    pub fn all_session_pages(&self) -> String {
        format!("{}*.subs.*.*", self.sessions_root)
    }

    /// The filter of all records: `$KV.MQTT_sessions.*`.
    #[must_use]
    pub fn session_records(&self) -> String {
        format!("{}*", self.sessions_root)
    }

    /// The will of a connection that has no room in the record: `$KV.MQTT_sessions.<client>.will.<number>`.
    ///
    /// # Errors
    /// [`MapError::TooLong`]
    pub fn session_will(&self, client_id: &str, number: u64) -> Result<ByteString, MapError> {
        client_key(&self.sessions_root, client_id, &format!(".will.{number}"))
    }

    /// The filter of the wills of all sessions: `$KV.MQTT_sessions.*.will.*`.
    #[must_use]
    pub fn all_session_wills(&self) -> String {
        format!("{}*.will.*", self.sessions_root)
    }

    /// Where a client's record is compared without being changed: `$KV.MQTT_sessions.<client>.touched`.
    ///
    /// # Errors
    /// [`MapError::TooLong`]
    pub fn session_touched(&self, client_id: &str) -> Result<ByteString, MapError> {
        client_key(&self.sessions_root, client_id, ".touched")
    }

    /// The marker of a QoS 2 message received from a client: `$KV.MQTT_sessions.<client>.qos2.<packet id>`.
    ///
    /// # Errors
    /// [`MapError::TooLong`]
    pub fn session_received(&self, client_id: &str, packet_id: u16) -> Result<ByteString, MapError> {
        client_key(&self.sessions_root, client_id, &format!(".qos2.{packet_id}"))
    }

    /// The filter of all that belongs to a client except its record: `$KV.MQTT_sessions.<client>.>`.
    ///
    /// # Errors
    /// [`MapError::TooLong`]
    pub fn session_parts(&self, client_id: &str) -> Result<ByteString, MapError> {
        client_key(&self.sessions_root, client_id, ".>")
    }

    /// What a subject of the bucket of sessions holds; `None` when it is not of the bucket or not ours.
    #[must_use]
    pub fn strip_session(&self, subject: &str) -> Option<SessionSubject> {
        let mut tokens = subject.strip_prefix(self.sessions_root.as_str())?.split('.');
        let client_id = client_of_key(tokens.next()?)?;
        match (tokens.next(), tokens.next(), tokens.next(), tokens.next()) {
            (None, ..) => Some(SessionSubject::Record { client_id }),
            (Some("progress"), None, ..) => Some(SessionSubject::Progress { client_id }),
            (Some("subs"), Some(epoch), Some(page), None) => {
                let (first_epoch, page) = (number(epoch)?, number(page)?);
                Some(SessionSubject::Subscriptions { client_id, first_epoch, page })
            }
            (Some("will"), Some(digits), None, _) => Some(SessionSubject::Will { client_id, number: number(digits)? }),
            (Some("qos2"), Some(digits), None, _) => {
                Some(SessionSubject::Received { client_id, packet_id: number(digits)? })
            }
            _ => None,
        }
    }

    /// Where a sidecar leaves a mark behind all records that are there, to know when it has read as far:
    /// `$KV.MQTT_sessions.=mark`. No client has a key of this form, and whoever reads the records reads it.
    #[must_use]
    pub fn sessions_mark(&self) -> ByteString {
        format!("{}=mark", self.sessions_root).into()
    }

    /// All of the bucket of sessions: `$KV.MQTT_sessions.>`.
    #[must_use]
    pub fn sessions_subjects(&self) -> String {
        format!("{}>", self.sessions_root)
    }
}

/// The number that these digits are, written in the one way in which we write it.
fn number<T: std::str::FromStr + ToString>(digits: &str) -> Option<T> {
    digits.parse().ok().filter(|number: &T| number.to_string() == digits)
}
