//! Whom a ban is of, as a key of the bucket of bans. An operator writes such keys by hand, so that what is plain is plain there:
//! `address.192.0.2.0/24`, `client.lamp`, `user.T1.lamp`; everything that a key cannot have is `=XX`.

use std::net::IpAddr;

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
        /// From this address only, where it is of one user.
        address: Option<IpAddr>,
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
    /// `$KV.MQTT_bans.client.<account>.<client>.<user>`, with `=` for the home account, and from one address only
    /// `$KV.MQTT_bans.client.<account>.<client>.<user>.<address>`.
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
            BanSubject::Client { account, client_id, user: None, .. } => named(CLIENT, account, client_id),
            BanSubject::Client { account, client_id, user: Some(user), address } => {
                let of_account = Some(account.clone().unwrap_or_default());
                let client = named(CLIENT, &of_account, client_id)?;
                let of_user = client_key(&format!("{client}."), user, "")?;
                match address {
                    None => Ok(of_user),
                    Some(address) => client_key(&format!("{of_user}."), &address.to_string(), ""),
                }
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
        let account_of = |token: &str| Some(Some(client_of_key(token)?).filter(|account| !account.is_empty()));
        if let Some(rest) = key.strip_prefix(CLIENT) {
            let mut tokens = rest.split('.');
            let all = [tokens.next(), tokens.next(), tokens.next(), tokens.next(), tokens.next()];
            let (account, client_id, user, address) = match all {
                [Some(client_id), None, ..] => (None, client_id, None, None),
                [Some(account), Some(client_id), user, address, None] => {
                    (account_of(account)?, client_id, user, address)
                }
                _ => return None,
            };
            let client_id = client_of_key(client_id)?;
            let user = user.map(|token| client_of_key(token).ok_or(())).transpose().ok()?;
            let address = address.map(|token| client_of_key(token).ok_or(())).transpose().ok()?;
            let address = address.map(|text| text.parse()).transpose().ok()?;
            return Some(BanSubject::Client { account, client_id, user, address });
        }
        let rest = key.strip_prefix(USER)?;
        let (account, user) = match rest.split_once('.') {
            None => (None, rest),
            Some((account, user)) => (account_of(account)?, user),
        };
        Some(BanSubject::User { account, user: client_of_key(user)? })
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
