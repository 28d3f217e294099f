//! Whom a ban is of, as a key of the bucket of bans. An operator writes such keys by hand, so that what is plain is plain there:
//! `address.192.0.2.0/24`, `client.lamp`, `user.T1.lamp`; everything that a key cannot have is `=XX`.

use bytestring::ByteString;

use super::Names;
use crate::MapError;
use crate::key::{client_key, client_of_key, hex_at, push_hex};

/// Whom a ban is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BanSubject {
    /// An address, or a network with its length behind `/`, as text.
    Address(String),
    /// A client identifier of an account.
    Client {
        /// The account; `None` is the home account.
        account: Option<String>,
        /// Client identifier.
        client_id: String,
        /// Of this user only.
        user: Option<String>,
    },
    /// A user of an account.
    User {
        /// The account; `None` is the home account.
        account: Option<String>,
        /// Its name, or the NKey of one without a name.
        user: String,
    },
}

const ADDRESS: &str = "address.";
const CLIENT: &str = "client.";
const USER: &str = "user.";

impl Names {
    /// The stream of the bucket of bans: `KV_MQTT_bans`.
    #[must_use]
    pub fn bans_stream(&self) -> String {
        format!("KV_{}_bans", self.prefix)
    }

    /// All of the bucket of bans: `$KV.MQTT_bans.>`.
    #[must_use]
    pub fn bans_subjects(&self) -> String {
        format!("{}>", self.bans_root)
    }

    /// A ban: `$KV.MQTT_bans.address.<address>`, `$KV.MQTT_bans.client.<client>` of the home account,
    /// `$KV.MQTT_bans.client.<account>.<client>` of another one, and `user.` in the same way. Of a client id of one user only it is
    /// `$KV.MQTT_bans.client.<account>.<client>.<user>`, with `=` for the home account.
    ///
    /// # Errors
    /// [`MapError::TooLong`]
    pub fn ban(&self, subject: &BanSubject) -> Result<ByteString, MapError> {
        let named = |kind: &str, account: &Option<String>, name: &str| {
            let root = match account {
                None => format!("{}{kind}", self.bans_root),
                Some(account) => format!("{}.", client_key(&format!("{}{kind}", self.bans_root), account, "")?),
            };
            client_key(&root, name, "")
        };
        match subject {
            BanSubject::Address(address) => {
                let mut out = format!("{}{ADDRESS}", self.bans_root);
                for byte in address.bytes() {
                    if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/') {
                        out.push(char::from(byte));
                    } else {
                        out.push('=');
                        push_hex(&mut out, byte);
                    }
                }
                Ok(out.into())
            }
            BanSubject::Client { account, client_id, user: None } => named(CLIENT, account, client_id),
            BanSubject::Client { account, client_id, user: Some(user) } => {
                let of_account = Some(account.clone().unwrap_or_default());
                let client = named(CLIENT, &of_account, client_id)?;
                client_key(&format!("{client}."), user, "")
            }
            BanSubject::User { account, user } => named(USER, account, user),
        }
    }

    /// Whom a subject of the bucket is about; `None` when it is no such subject.
    #[must_use]
    pub fn strip_ban(&self, subject: &str) -> Option<BanSubject> {
        let key = subject.strip_prefix(self.bans_root.as_str())?;
        if let Some(address) = key.strip_prefix(ADDRESS) {
            return unescaped(address).map(BanSubject::Address);
        }
        let named = |rest: &str| match rest.split_once('.') {
            None => Some((None, client_of_key(rest)?)),
            Some((account, name)) => {
                let account = Some(client_of_key(account)?).filter(|account| !account.is_empty());
                Some((account, client_of_key(name)?))
            }
        };
        if let Some(rest) = key.strip_prefix(CLIENT) {
            let (rest, user) = match rest.rsplit_once('.') {
                Some((rest, user)) if rest.contains('.') => (rest, Some(client_of_key(user)?)),
                _ => (rest, None),
            };
            let (account, client_id) = named(rest)?;
            return Some(BanSubject::Client { account, client_id, user });
        }
        let (account, user) = named(key.strip_prefix(USER)?)?;
        Some(BanSubject::User { account, user })
    }
}

fn unescaped(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte == b'=' {
            out.push(hex_at(&bytes[at + 1..])?);
            at += 3;
        } else {
            out.push(byte);
            at += 1;
        }
    }
    String::from_utf8(out).ok()
}
