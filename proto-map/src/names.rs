//! The name of every stream, bucket, subject, key and consumer that we make, and back from those that we read. What
//! the streams are configured with is in `spec`.

mod bans;
mod sessions;

use bytestring::ByteString;
use sha2::{Digest, Sha256};

pub use self::bans::BanSubject;
pub use self::sessions::SessionSubject;
use crate::MapError;
use crate::closed::DEFAULT_SUBJECT_PREFIX;
use crate::key::{client_key, client_of_key, retained_key, subject_of_retained_key};
use crate::subject::{FilterSubjects, Subject, SubjectFilter};

/// Prefix of streams and buckets, unless configured.
pub const DEFAULT_PREFIX: &str = "MQTT";

/// Longest consumer name that nats-server takes, in bytes.
const CONSUMER_NAME_MAX: usize = 255;
/// Longest prefix; the longest name made with it stays far from every limit.
const PREFIX_LEN_MAX: usize = 64;

/// All names of one deployment. Two deployments in one account have different prefixes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    prefix: String,
    subject_prefix: String,
    log_root: String,
    backlog_root: String,
    retained_root: String,
    sessions_root: String,
    nodes_root: String,
    keys_root: String,
    accounts_root: String,
    bans_root: String,
}

impl Names {
    /// Names with `prefix` for streams and buckets (`MQTT`) and `subject_prefix` (`$NMQ`) for subjects.
    ///
    /// # Errors
    /// [`MapError::InvalidName`] unless they are one to 64 letters, digits, `-` or `_`; the subject prefix can have
    /// `$` too, and cannot be the name of something internal to NATS.
    pub fn new(prefix: &str, subject_prefix: &str) -> Result<Self, MapError> {
        let is_internal = crate::ClosedTrees::new("", &[]).is_closed_subject(subject_prefix);
        if !is_name(prefix, b"-_") || !is_name(subject_prefix, b"-_$") || is_internal {
            return Err(MapError::InvalidName);
        }
        Ok(Self::made_of(prefix, subject_prefix))
    }

    fn made_of(prefix: &str, subject_prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            subject_prefix: subject_prefix.to_owned(),
            log_root: format!("{subject_prefix}.log."),
            backlog_root: format!("{subject_prefix}.backlog."),
            retained_root: format!("$KV.{prefix}_retained."),
            sessions_root: format!("$KV.{prefix}_sessions."),
            nodes_root: format!("$KV.{prefix}_nodes."),
            keys_root: format!("$KV.{prefix}_keys."),
            accounts_root: format!("$KV.{prefix}_accounts."),
            bans_root: format!("$KV.{prefix}_bans."),
        }
    }

    /// The prefix of our subjects, one token.
    #[must_use]
    pub fn subject_prefix(&self) -> &str {
        &self.subject_prefix
    }

    // Streams and buckets.

    /// The stream of the log: `MQTT_log`.
    #[must_use]
    pub fn log_stream(&self) -> String {
        format!("{}_log", self.prefix)
    }

    /// The stream of the backlogs: `MQTT_backlog`.
    #[must_use]
    pub fn backlog_stream(&self) -> String {
        format!("{}_backlog", self.prefix)
    }

    /// The bucket of retained messages: `MQTT_retained`.
    #[must_use]
    pub fn retained_bucket(&self) -> String {
        format!("{}_retained", self.prefix)
    }

    /// The stream of the bucket of retained messages: `KV_MQTT_retained`.
    #[must_use]
    pub fn retained_stream(&self) -> String {
        format!("KV_{}_retained", self.prefix)
    }

    /// The bucket of sessions: `MQTT_sessions`.
    #[must_use]
    pub fn sessions_bucket(&self) -> String {
        format!("{}_sessions", self.prefix)
    }

    /// The stream of the bucket of sessions: `KV_MQTT_sessions`.
    #[must_use]
    pub fn sessions_stream(&self) -> String {
        format!("KV_{}_sessions", self.prefix)
    }

    /// The bucket of leases: `MQTT_nodes`.
    #[must_use]
    pub fn nodes_bucket(&self) -> String {
        format!("{}_nodes", self.prefix)
    }

    /// The stream of the bucket of leases: `KV_MQTT_nodes`.
    #[must_use]
    pub fn nodes_stream(&self) -> String {
        format!("KV_{}_nodes", self.prefix)
    }

    /// The stream of the bucket of the account's keys: `KV_MQTT_keys`.
    #[must_use]
    pub fn keys_stream(&self) -> String {
        format!("KV_{}_keys", self.prefix)
    }

    /// The stream of the bucket of accounts: `KV_MQTT_accounts`.
    #[must_use]
    pub fn accounts_stream(&self) -> String {
        format!("KV_{}_accounts", self.prefix)
    }

    // The log.

    /// Where a message on `subject` is in the log: `$NMQ.log.<subject>`.
    #[must_use]
    pub fn log_subject(&self, subject: &Subject) -> ByteString {
        joined(&self.log_root, subject.as_str())
    }

    /// The filter of the log for a filter of natural subjects.
    #[must_use]
    pub fn log_filter(&self, filter: &SubjectFilter) -> ByteString {
        joined(&self.log_root, filter.as_str())
    }

    /// The natural subject of a subject of the log; `None` when it is not of the log.
    #[must_use]
    pub fn strip_log<'a>(&self, subject: &'a str) -> Option<&'a str> {
        subject.strip_prefix(self.log_root.as_str())
    }

    /// All of the log: `$NMQ.log.>`.
    #[must_use]
    pub fn log_subjects(&self) -> String {
        format!("{}>", self.log_root)
    }

    /// The stream of a log that the operator declared: `MQTT_log_<name>`.
    ///
    /// # Errors
    /// [`MapError::InvalidName`] unless the name is one to 64 letters, digits, `-` or `_`.
    pub fn declared_log_stream(&self, name: &str) -> Result<String, MapError> {
        check_name(name)?;
        Ok(format!("{}{name}", self.declared_log_prefix()))
    }

    /// What the names of all such streams begin with.
    #[must_use]
    pub fn declared_log_prefix(&self) -> String {
        format!("{}_log_", self.prefix)
    }

    /// What the subjects of such a log begin with: `$NMQ.logs.<name>.`.
    ///
    /// # Errors
    /// As [`Names::declared_log_stream`].
    pub fn declared_log_root(&self, name: &str) -> Result<String, MapError> {
        check_name(name)?;
        Ok(format!("{}.logs.{name}.", self.subject_prefix))
    }

    // Retained messages.

    /// Where the retained message of `subject` is: `$KV.MQTT_retained.<key>`. The key is the subject itself when
    /// client tools take it as a key, and escaped with `=XX` otherwise.
    ///
    /// # Errors
    /// [`MapError::TooLong`]
    pub fn retained_subject(&self, subject: &Subject) -> Result<ByteString, MapError> {
        retained_key(&self.retained_root, subject.as_str())
    }

    /// The filter of the bucket of retained messages for a filter of natural subjects.
    ///
    /// # Errors
    /// [`MapError::TooLong`]
    pub fn retained_filter(&self, filter: &SubjectFilter) -> Result<ByteString, MapError> {
        retained_key(&self.retained_root, filter.as_str())
    }

    /// The natural subject of a subject of that bucket; `None` when it is not of the bucket, or its key is one that
    /// no subject has.
    #[must_use]
    pub fn strip_retained(&self, subject: &str) -> Option<Subject> {
        subject_of_retained_key(subject.strip_prefix(self.retained_root.as_str())?)
    }

    /// All of that bucket: `$KV.MQTT_retained.>`.
    #[must_use]
    pub fn retained_subjects(&self) -> String {
        format!("{}>", self.retained_root)
    }

    // Backlogs.

    /// The backlog of a client: `$NMQ.backlog.<client>`.
    ///
    /// # Errors
    /// [`MapError::TooLong`]
    pub fn backlog_subject(&self, client_id: &str) -> Result<ByteString, MapError> {
        client_key(&self.backlog_root, client_id, "")
    }

    /// The client of a subject of the backlog.
    #[must_use]
    pub fn strip_backlog(&self, subject: &str) -> Option<String> {
        client_of_key(subject.strip_prefix(self.backlog_root.as_str())?)
    }

    /// How far the log is copied into backlogs, in the bucket of sessions: `$KV.MQTT_sessions.backlog.position`. No
    /// client has a key of this form.
    #[must_use]
    pub fn backlog_position(&self) -> ByteString {
        format!("{}backlog.position", self.sessions_root).into()
    }

    /// How far what NATS clients put into the bucket of retained messages is carried to subscribers, in the bucket of
    /// sessions: `$KV.MQTT_sessions.retained.position`. No client has a key of this form.
    #[must_use]
    pub fn puts_position(&self) -> ByteString {
        format!("{}retained.position", self.sessions_root).into()
    }

    /// The key under which tokens of replies are made: `$KV.MQTT_keys.reply`.
    #[must_use]
    pub fn reply_key(&self) -> ByteString {
        format!("{}reply", self.keys_root).into()
    }

    /// Where that was once: `$KV.MQTT_sessions.reply.key`. No client has a key of this form.
    #[must_use]
    pub fn former_reply_key(&self) -> ByteString {
        format!("{}reply.key", self.sessions_root).into()
    }

    /// All backlogs: `$NMQ.backlog.*`.
    #[must_use]
    pub fn backlog_subjects(&self) -> String {
        format!("{}*", self.backlog_root)
    }

    /// The lease of a sidecar: `$KV.MQTT_nodes.<node>`.
    ///
    /// # Errors
    /// [`MapError::TooLong`]
    pub fn node_lease(&self, node: &str) -> Result<ByteString, MapError> {
        client_key(&self.nodes_root, node, "")
    }

    /// The sidecar of a lease.
    #[must_use]
    pub fn strip_node_lease(&self, subject: &str) -> Option<String> {
        client_of_key(subject.strip_prefix(self.nodes_root.as_str())?)
    }

    /// All leases: `$KV.MQTT_nodes.>`.
    #[must_use]
    pub fn nodes_subjects(&self) -> String {
        format!("{}>", self.nodes_root)
    }

    /// All of the bucket of the account's keys: `$KV.MQTT_keys.>`.
    #[must_use]
    pub fn keys_subjects(&self) -> String {
        format!("{}>", self.keys_root)
    }

    /// The account's keys: `$KV.MQTT_keys.account`.
    #[must_use]
    pub fn account_keys(&self) -> ByteString {
        format!("{}account", self.keys_root).into()
    }

    /// Which account has the leases of the sidecars that serve this one: `$KV.MQTT_keys.home`.
    #[must_use]
    pub fn home_mark(&self) -> ByteString {
        format!("{}home", self.keys_root).into()
    }

    /// All of the bucket of accounts: `$KV.MQTT_accounts.>`.
    #[must_use]
    pub fn accounts_subjects(&self) -> String {
        format!("{}>", self.accounts_root)
    }

    /// What is known of an account: `$KV.MQTT_accounts.<account>`.
    ///
    /// # Errors
    /// [`MapError::TooLong`] when its name is too long.
    pub fn account_entry(&self, account: &str) -> Result<ByteString, MapError> {
        client_key(&self.accounts_root, account, "")
    }

    /// The account of a subject that [`Self::account_entry`] made.
    #[must_use]
    pub fn strip_account_entry(&self, subject: &str) -> Option<String> {
        client_of_key(subject.strip_prefix(self.accounts_root.as_str())?)
    }

    /// Which JWT of an account has counted: `$KV.MQTT_accounts.<account>.jwt`. It is no [`Self::account_entry`].
    ///
    /// # Errors
    /// [`MapError::TooLong`] when its name is too long.
    pub fn account_jwt(&self, account: &str) -> Result<ByteString, MapError> {
        client_key(&self.accounts_root, account, ".jwt")
    }

    /// The account of a subject that [`Self::account_jwt`] made.
    #[must_use]
    pub fn strip_account_jwt(&self, subject: &str) -> Option<String> {
        client_of_key(subject.strip_prefix(self.accounts_root.as_str())?.strip_suffix(".jwt")?)
    }

    /// The lead in something that one sidecar does at a time: `$KV.MQTT_nodes.lead.<name>`; for an account that has its leases
    /// elsewhere, there `$KV.MQTT_nodes.lead.<account>.<name>`. No node has such a name.
    ///
    /// # Errors
    /// [`MapError::TooLong`] when the name of the account is too long.
    pub fn lead(&self, account: Option<&str>, name: &str) -> Result<ByteString, MapError> {
        let root = format!("{}lead.", self.nodes_root);
        match account {
            None => Ok(format!("{root}{name}").into()),
            Some(account) => client_key(&root, account, &format!(".{name}")),
        }
    }

    /// Where JetStream acknowledges what a process publishes, by a name that no other process has: `$NMQ.ack.<name>`. Nobody
    /// but JetStream has to publish there, so that others can be denied to.
    #[must_use]
    pub fn acknowledgements(&self, name: &str) -> String {
        format!("{}.ack.{name}", self.subject_prefix)
    }

    /// What the reply subjects begin with on which only JetStream and sidecars answer: `$NMQ.inbox`.
    #[must_use]
    pub fn inbox_prefix(&self) -> String {
        format!("{}.inbox", self.subject_prefix)
    }

    /// What every answer of NATS to a request of a client begins with, under the prefix of our inboxes:
    /// `_INBOX.$NMQ.answer.`. The sidecar that asked and the request follow.
    #[must_use]
    pub fn answers(&self, inbox_prefix: &str) -> String {
        format!("{inbox_prefix}.{}.answer.", self.subject_prefix)
    }

    /// Says that a sidecar is there, by its name: `$NMQ.echo.<name>`.
    #[must_use]
    pub fn echo_subject(&self, name: &str) -> String {
        format!("{}.echo.{name}", self.subject_prefix)
    }

    /// What clients do, for whoever wants to know: `$NMQ.event.<kind>.<client>`. The kind is one token of ours.
    ///
    /// # Errors
    /// [`MapError::TooLong`]
    pub fn event_subject(&self, kind: &str, client_id: &str) -> Result<ByteString, MapError> {
        client_key(&format!("{}.event.{kind}.", self.subject_prefix), client_id, "")
    }

    /// What other sidecars ask of one: `$NMQ.node.<node>`.
    ///
    /// # Errors
    /// [`MapError::TooLong`]
    pub fn node_subject(&self, node: &str) -> Result<ByteString, MapError> {
        client_key(&format!("{}.node.", self.subject_prefix), node, "")
    }
}

impl Default for Names {
    fn default() -> Self {
        Self::made_of(DEFAULT_PREFIX, DEFAULT_SUBJECT_PREFIX)
    }
}

fn joined(root: &str, subject: &str) -> ByteString {
    let mut out = String::with_capacity(root.len() + subject.len());
    out.push_str(root);
    out.push_str(subject);
    out.into()
}

fn is_name(text: &str, others: &[u8]) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || others.contains(&byte);
    (1..=PREFIX_LEN_MAX).contains(&text.len()) && text.bytes().all(is_allowed)
}

fn check_name(text: &str) -> Result<(), MapError> {
    if is_name(text, b"-_") { Ok(()) } else { Err(MapError::InvalidName) }
}

/// The durable consumer of a shared subscription's group: one for each group and filter, readable, such as
/// `workers@jobs,+,new` for `$share/workers/jobs/+/new`. One that would be longer than the server's limit ends in a
/// SHA-256 of the whole, after `!`, which no readable name has.
#[must_use]
pub fn share_consumer(group: &str, filter: &FilterSubjects) -> ByteString {
    let mut out = String::with_capacity(group.len() + filter.subject.as_str().len() + 1);
    push_consumer_part(&mut out, group);
    out.push('@');
    for (index, token) in filter.subject.as_str().split('.').enumerate() {
        if index > 0 {
            out.push(',');
        }
        match token {
            "*" => out.push('+'),
            ">" => out.push('#'),
            literal => push_consumer_part(&mut out, literal),
        }
    }
    if out.len() > CONSUMER_NAME_MAX {
        // What is written is ASCII, so every byte is a boundary.
        let digest = Sha256::digest(out.as_bytes());
        out.truncate(CONSUMER_NAME_MAX - 1 - 2 * digest.len());
        out.push('!');
        digest.iter().for_each(|byte| crate::key::push_hex(&mut out, *byte));
    }
    out.into()
}

/// Stands for a client in what its connections leave in a log: short, the same on every sidecar, and for another client
/// another one, whatever somebody hostile calls himself.
#[must_use]
pub fn client_token(client_id: &str) -> u64 {
    let digest = Sha256::digest(client_id.as_bytes());
    digest.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// What neither the server nor a file system takes in a name, and what has a meaning in ours, becomes `=XX`.
fn push_consumer_part(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_$%".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('=');
            crate::key::push_hex(out, byte);
        }
    }
}

/// The queue group of a shared subscription at QoS 0: the share name, so that NATS subscribers can join it. White
/// space and control characters, which no queue group can have, become `%XX`, and `%` becomes `%25`.
#[must_use]
pub fn queue_group(group: &str) -> ByteString {
    let mut out = String::with_capacity(group.len());
    for character in group.chars() {
        if character == '%' || character == ' ' || character.is_ascii_control() {
            out.push('%');
            crate::key::push_hex(&mut out, character as u8);
        } else {
            out.push(character);
        }
    }
    out.into()
}
