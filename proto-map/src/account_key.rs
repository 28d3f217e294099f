//! The secret that the sidecars of an account share, and what it vouches for: names of messages that nobody else can guess,
//! marks on messages that travel where others can write, and what sidecars ask of each other.
//!
//! **Invariant:** what is under one purpose says nothing under another one, and no two contents have the same bytes: each
//! part is preceded by its length.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bytestring::ByteString;
use ring::hmac;

use crate::header_names::{Headers, has_prefix, name};

/// Bytes of the secret.
pub const ACCOUNT_KEY_LEN: usize = 32;
/// Bytes of a name or of a mark: nobody guesses them.
const TAG_LEN: usize = 16;
/// From so many milliseconds after it was made on a key is used: every sidecar has it by then.
pub const KNOWN_AFTER_MS: u64 = 120_000;

const MESSAGE_ID: &[u8] = b"nats-mqtt message id 1\0";
const MARK: &[u8] = b"nats-mqtt mark 1\0";
const REQUEST: &[u8] = b"nats-mqtt request 1\0";
const EPOCH: &[u8] = b"nats-mqtt epoch 1\0";
const ANSWER: &[u8] = b"nats-mqtt answer of a sidecar 1\0";
const ACCOUNT: &[u8] = b"nats-mqtt key of another account 1\0";
const REPLIES: &[u8] = b"nats-mqtt key of replies 1\0";

/// Names a key: eight hexadecimal digits. Never zero, which stands for no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyId(u32);

impl KeyId {
    /// `None` for zero.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        if number == 0 { None } else { Some(Self(number)) }
    }

    /// As a number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The key that eight hexadecimal digits name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let number = u32::from_str_radix(text, 16).ok()?;
        Self::new(number).filter(|id| id.to_string() == text)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// What a message id is made of.
#[derive(Clone, Copy, Debug)]
pub enum MessageName<'a> {
    /// A QoS 2 message, or the will, of a session that has a record.
    OfSession {
        /// Client identifier.
        client_id: &'a str,
        /// Epoch of the session.
        epoch: u64,
        /// Number within the epoch.
        number: u64,
    },
    /// A QoS 2 message of a session that ends with its connection.
    OfConnection {
        /// Names the process.
        process: &'a str,
        /// Names the connection within it.
        connection: u64,
        /// Number within the connection.
        number: u64,
    },
    /// A message to which its publisher gives an id.
    ById {
        /// Client identifier of the publisher.
        client_id: &'a str,
        /// What the publisher calls it.
        id: &'a str,
    },
    /// A value that a NATS client has put into the bucket of retained messages.
    Put {
        /// When it was stored, milliseconds since the epoch: sequences come again in another bucket of this name.
        stored_at_ms: u64,
        /// Its sequence in the bucket.
        sequence: u64,
    },
    /// A message of core NATS to which its publisher gives an id. Who that is nobody knows, so it is the same only with the
    /// same content.
    Core {
        /// Its subject.
        subject: &'a str,
        /// Its headers, the id among them.
        headers: &'a Headers,
        /// Its payload.
        payload: &'a [u8],
    },
}

/// One key of an account.
#[derive(Clone)]
pub struct AccountKey {
    id: KeyId,
    made_at_ms: u64,
    secret: [u8; ACCOUNT_KEY_LEN],
    key: hmac::Key,
}

impl fmt::Debug for AccountKey {
    // Secrets stay out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccountKey({})", self.id)
    }
}

impl PartialEq for AccountKey {
    fn eq(&self, other: &Self) -> bool {
        (self.id, self.made_at_ms, self.secret) == (other.id, other.made_at_ms, other.secret)
    }
}

impl AccountKey {
    /// The key of this secret, which was made at this time, in milliseconds since the epoch.
    #[must_use]
    pub fn new(id: KeyId, made_at_ms: u64, secret: [u8; ACCOUNT_KEY_LEN]) -> Self {
        Self { id, made_at_ms, secret, key: hmac::Key::new(hmac::HMAC_SHA256, &secret) }
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// When it was made, in milliseconds since the epoch.
    #[must_use]
    pub const fn made_at_ms(&self) -> u64 {
        self.made_at_ms
    }

    /// What has to be kept from everybody but sidecars.
    #[must_use]
    pub const fn secret(&self) -> &[u8; ACCOUNT_KEY_LEN] {
        &self.secret
    }

    /// What this key is for another account, in which nothing can be kept. It says nothing of this one, nor of any third.
    #[must_use]
    pub fn for_account(&self, account: &str) -> Self {
        let mut mac = Mac::new(&self.key, ACCOUNT);
        mac.part(account.as_bytes());
        Self::new(self.id, self.made_at_ms, mac.secret())
    }

    /// What tokens of replies are made with where no other key can be kept for them.
    #[must_use]
    pub fn for_replies(&self) -> [u8; ACCOUNT_KEY_LEN] {
        Mac::new(&self.key, REPLIES).secret()
    }

    /// The `Nats-Msg-Id` of a message: the same whoever makes it with this key, and no one else can.
    #[must_use]
    pub fn message_id(&self, name: MessageName<'_>) -> ByteString {
        let mut mac = Mac::new(&self.key, MESSAGE_ID);
        match name {
            MessageName::OfSession { client_id, epoch, number } => {
                mac.part(b"session").part(client_id.as_bytes()).number(epoch).number(number);
            }
            MessageName::OfConnection { process, connection, number } => {
                mac.part(b"connection").part(process.as_bytes()).number(connection).number(number);
            }
            MessageName::ById { client_id, id } => {
                mac.part(b"id").part(client_id.as_bytes()).part(id.as_bytes());
            }
            MessageName::Put { stored_at_ms, sequence } => {
                mac.part(b"put").number(stored_at_ms).number(sequence);
            }
            MessageName::Core { subject, headers, payload } => {
                mac.part(b"core").message(subject, headers, |_| true, payload);
            }
        }
        mac.tag()
    }

    fn mark(&self, subject: &str, headers: &Headers, payload: &[u8]) -> ByteString {
        let mut mac = Mac::new(&self.key, MARK);
        mac.message(subject, headers, is_marked, payload);
        mac.tag()
    }

    fn epoch_tag(&self, text: &str) -> ByteString {
        let mut mac = Mac::new(&self.key, EPOCH);
        mac.part(text.as_bytes());
        mac.tag()
    }

    /// What a request of a sidecar to others has to say of itself.
    #[must_use]
    pub fn seal_request(&self, subject: &str, at_ms: u64, nonce: &str, payload: &[u8]) -> ByteString {
        let mut mac = Mac::new(&self.key, REQUEST);
        mac.part(subject.as_bytes()).number(at_ms).part(nonce.as_bytes()).part(payload);
        format!("{}.{at_ms}.{nonce}.{}", self.id, mac.tag()).into()
    }

    /// What the answer to a request with this nonce has to say of itself.
    #[must_use]
    pub fn seal_answer(&self, nonce: &str, payload: &[u8]) -> ByteString {
        let mut mac = Mac::new(&self.key, ANSWER);
        mac.part(nonce.as_bytes()).part(payload);
        format!("{}.{}", self.id, mac.tag()).into()
    }
}

/// Whether a header is under the mark: not what nats-server adds, or the publisher when it writes, and not the mark itself.
fn is_marked(header: &str) -> bool {
    !has_prefix(header, "Nats-") && header != name::MAC && header != name::WRITE
}

/// A MAC in the making.
struct Mac(hmac::Context);

impl Mac {
    fn new(key: &hmac::Key, purpose: &[u8]) -> Self {
        let mut context = hmac::Context::with_key(key);
        context.update(purpose);
        Self(context)
    }

    fn part(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
        self
    }

    fn number(&mut self, number: u64) -> &mut Self {
        self.0.update(&number.to_be_bytes());
        self
    }

    /// Clients keep headers in hash maps: only the order of values of one name survives.
    fn message(&mut self, subject: &str, headers: &Headers, counts: impl Fn(&str) -> bool, payload: &[u8]) {
        let mut sorted: Vec<&(ByteString, ByteString)> = headers.iter().filter(|(header, _)| counts(header)).collect();
        sorted.sort_by_key(|(header, _)| header);
        self.part(subject.as_bytes()).part(payload).number(sorted.len() as u64);
        for (header, value) in sorted {
            self.part(header.as_bytes()).part(value.as_bytes());
        }
    }

    fn secret(self) -> [u8; ACCOUNT_KEY_LEN] {
        let mut secret = [0; ACCOUNT_KEY_LEN];
        secret.iter_mut().zip(self.0.sign().as_ref()).for_each(|(to, from)| *to = *from);
        secret
    }

    fn tag(self) -> ByteString {
        let tag = self.0.sign();
        BASE64.encode(tag.as_ref().get(..TAG_LEN).unwrap_or_default()).into()
    }
}

/// The same whatever they have in common.
fn is_same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}

/// A request that a sidecar has sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedRequest<'a> {
    /// When it was made, milliseconds since the epoch.
    pub at_ms: u64,
    /// What its answer is to name.
    pub nonce: &'a str,
}

/// What is said of somebody's request or answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement<T> {
    /// A sidecar of the account has made it.
    Genuine(T),
    /// It names a key that is not known here, or not yet.
    UnknownKey,
    /// It is not what it says.
    Forged,
}

/// The keys of an account, the newest first. There is always one.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyRing {
    newest: AccountKey,
    older: Vec<AccountKey>,
}

impl KeyRing {
    /// Of these keys, the newest first; `None` without any.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = AccountKey>) -> Option<Self> {
        let mut keys = keys.into_iter();
        Some(Self { newest: keys.next()?, older: keys.collect() })
    }

    /// A key, and those before it, the newest first.
    #[must_use]
    pub const fn of(newest: AccountKey, older: Vec<AccountKey>) -> Self {
        Self { newest, older }
    }

    /// What these keys are for another account.
    #[must_use]
    pub fn for_account(&self, account: &str) -> Self {
        let of = |key: &AccountKey| key.for_account(account);
        Self { newest: of(&self.newest), older: self.older.iter().map(of).collect() }
    }

    /// All of them, the newest first.
    pub fn keys(&self) -> impl Iterator<Item = &AccountKey> {
        std::iter::once(&self.newest).chain(&self.older)
    }

    /// The key for what is made at a time, in milliseconds since the epoch: the newest that every sidecar knew then.
    /// Whoever has the same keys chooses the same one.
    #[must_use]
    pub fn at(&self, at_ms: u64) -> &AccountKey {
        let is_known = |key: &&AccountKey| key.made_at_ms.saturating_add(KNOWN_AFTER_MS) <= at_ms;
        self.keys().find(is_known).or(self.older.last()).unwrap_or(&self.newest)
    }

    /// The key of this name.
    #[must_use]
    pub fn get(&self, id: KeyId) -> Option<&AccountKey> {
        self.keys().find(|key| key.id == id)
    }

    /// Marks a message that travels where others can write as made by a sidecar, with all that it says then.
    pub fn mark(&self, at_ms: u64, subject: &str, headers: &mut Headers, payload: &[u8]) {
        let key = self.at(at_ms);
        let mark = format!("{}.{}", key.id, key.mark(subject, headers, payload));
        headers.push((ByteString::from_static(name::MAC), mark.into()));
    }

    /// What stands in [`name::EPOCH`] where others can write too: the same for all messages of a connection. It vouches for
    /// nothing but that there is such an epoch.
    #[must_use]
    pub fn seal_epoch(&self, at_ms: u64, text: &str) -> ByteString {
        let key = self.at(at_ms);
        format!("{text}.{}.{}", key.id, key.epoch_tag(text)).into()
    }

    /// Whether [`Self::seal_epoch`] has made this.
    #[must_use]
    pub fn is_epoch_genuine(&self, sealed: &str) -> bool {
        let mut parts = sealed.rsplitn(3, '.');
        let (Some(tag), Some(id), Some(text)) = (parts.next(), parts.next(), parts.next()) else { return false };
        let key = KeyId::parse(id).and_then(|id| self.get(id));
        key.is_some_and(|key| is_same(&key.epoch_tag(text), tag))
    }

    /// Whether a message has the mark of a sidecar, and is as it was when it got it.
    #[must_use]
    pub fn is_marked(&self, subject: &str, headers: &Headers, payload: &[u8]) -> bool {
        let mut marks = headers.iter().filter(|(header, _)| header == name::MAC);
        let (Some((_, mark)), None) = (marks.next(), marks.next()) else { return false };
        let Some((id, tag)) = mark.split_once('.') else { return false };
        let key = KeyId::parse(id).and_then(|id| self.get(id));
        key.is_some_and(|key| is_same(&key.mark(subject, headers, payload), tag))
    }

    /// Reads what [`AccountKey::seal_request`] has written.
    #[must_use]
    pub fn judge_request<'a>(&self, seal: &'a str, subject: &str, payload: &[u8]) -> Judgement<SealedRequest<'a>> {
        let mut parts = seal.split('.');
        let (Some(id), Some(at_ms), Some(nonce), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Judgement::Forged;
        };
        let (Some(id), Ok(at_ms)) = (KeyId::parse(id), at_ms.parse()) else { return Judgement::Forged };
        let Some(key) = self.get(id) else { return Judgement::UnknownKey };
        if is_same(&key.seal_request(subject, at_ms, nonce, payload), seal) {
            Judgement::Genuine(SealedRequest { at_ms, nonce })
        } else {
            Judgement::Forged
        }
    }

    /// Reads what [`AccountKey::seal_answer`] has written.
    #[must_use]
    pub fn judge_answer(&self, seal: &str, nonce: &str, payload: &[u8]) -> Judgement<()> {
        let Some(id) = seal.split('.').next().and_then(KeyId::parse) else { return Judgement::Forged };
        let Some(key) = self.get(id) else { return Judgement::UnknownKey };
        if is_same(&key.seal_answer(nonce, payload), seal) { Judgement::Genuine(()) } else { Judgement::Forged }
    }
}
