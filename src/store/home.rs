//! The home of an account: the account that has the leases of the sidecars that serve it, which may be itself. It is written in
//! a bucket of each account, because sidecars of two homes cannot see each other's leases: each would take the other's sessions for
//! those of nobody.

use bytes::Bytes;
use bytestring::ByteString;
use proto_map::Names;
use serde::{Deserialize, Serialize};

use super::accounts::Accounts;
use super::api::Api;
use super::bans::Bans;
use super::bucket::{Bucket, Fence, Value, Write};
use super::error::{OpenError, Unavailable, WriteError};
use super::keys::Keys;
use super::nodes::Nodes;
use crate::nats::Outbound;

/// Where a server says who its client is.
const WHO_AM_I: &str = "$SYS.REQ.USER.INFO";

/// How long it may take.
const ANSWERS_WITHIN: std::time::Duration = std::time::Duration::from_secs(2);

/// Version of what is written here.
const HOME_VERSION: u32 = 1;

/// Where the leases of the sidecars are.
#[derive(Clone, Debug, Default)]
pub enum Leases {
    /// In this account, and nobody else's are.
    #[default]
    Here,
    /// In this account, for others as well.
    ForOthers,
    /// In another account.
    In {
        /// The name that this one has to have: its public NKey, or what the server's configuration calls it.
        account: String,
        /// That of the other one.
        home: String,
        /// What it has.
        nodes: Nodes,
        /// Its keys.
        keys: Keys,
    },
}

#[derive(Serialize, Deserialize)]
struct Mark {
    version: u32,
    home: String,
}

/// The sidecars of an account, as they are found when it is opened.
pub(super) struct Home {
    /// The account's own name: its public NKey, or what the server's configuration calls it; `None` where that does not matter, or
    /// we may not ask.
    pub(super) account_name: Option<String>,
    /// Where other accounts have their leases here.
    pub(super) accounts: Option<Accounts>,
    pub(super) nodes: Nodes,
    /// Who may not connect, where the leases are here.
    pub(super) bans: Option<Bans>,
}

impl Home {
    /// Makes sure that the account has no other home. `nodes`, `accounts`: what there is of leases, should they be here.
    pub(super) async fn find(
        leases: Leases,
        keys: &Bucket,
        nodes: Bucket,
        accounts: Bucket,
        api: &Api,
        names: &Names,
    ) -> Result<Self, OpenError> {
        let account_name = leases.settle(api, keys, &names.home_mark()).await?;
        let accounts = leases.are_for_others().then(|| Accounts::start(accounts, api.clone(), names.clone()));
        let nodes = match leases {
            Leases::Here | Leases::ForOthers => Nodes::new(nodes, api.clone(), names.clone()),
            Leases::In { nodes, .. } => nodes,
        };
        Ok(Self { account_name, accounts, nodes, bans: None })
    }
}

impl Leases {
    /// Whether they are in this account.
    pub(super) const fn are_here(&self) -> bool {
        matches!(self, Self::Here | Self::ForOthers)
    }

    /// Whether other accounts have theirs in this one.
    pub(super) const fn are_for_others(&self) -> bool {
        matches!(self, Self::ForOthers)
    }

    /// The subjects of all buckets that are needed here.
    pub(super) fn buckets(&self, names: &Names) -> Vec<String> {
        let always = [names.retained_subjects(), names.sessions_subjects(), names.keys_subjects()].into_iter();
        let leases = self.are_here().then(|| names.nodes_subjects());
        let accounts = self.are_for_others().then(|| names.accounts_subjects());
        always.chain(leases).chain(accounts).collect()
    }

    /// Makes sure that the account has no other home, and writes down the one that it has. Returns its own name.
    async fn settle(&self, api: &Api, keys: &Bucket, subject: &ByteString) -> Result<Option<String>, OpenError> {
        let is_marked = async || keys.last(subject).await.map(|last| last.is_some_and(|last| last.value().is_some()));
        let name = match self {
            Self::In { account, home, .. } => {
                is_in(api, account).await?;
                return settle(keys, subject, home).await.map(|()| None);
            }
            Self::Here if !is_marked().await.map_err(open_error)? => return Ok(None),
            Self::Here | Self::ForOthers => account_of(api).await,
        };
        if let Some(name) = &name {
            settle(keys, subject, name).await?;
        }
        Ok(name)
    }
}

/// Makes sure that our credentials are those of an account: clients of one are in no other.
pub(super) async fn is_in(api: &Api, account: &str) -> Result<(), OpenError> {
    let found = account_of(api).await.ok_or(OpenError::Nameless)?;
    if found == account { Ok(()) } else { Err(OpenError::OtherAccount { found, wanted: account.to_owned() }) }
}

fn open_error(Unavailable { reason }: Unavailable) -> OpenError {
    OpenError::Unavailable { reason }
}

/// Asks which account a connection is in.
pub(super) async fn account_of(api: &Api) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        account: String,
    }
    let nothing = Bytes::new();
    match api.request(Outbound::plain(WHO_AM_I, &nothing), ANSWERS_WITHIN).await {
        Ok(answer) => Some(serde_json::from_slice::<Answer>(answer.payload()).ok()?.data.account),
        Err(error) => {
            let refused = api.link.take_violation();
            tracing::warn!(
                ?error,
                ?refused,
                "nats-server does not say which account this is; allow publish to {WHO_AM_I}"
            );
            None
        }
    }
}

/// Writes down the home of the account, or finds out that it has another one.
async fn settle(keys: &Bucket, subject: &ByteString, home: &str) -> Result<(), OpenError> {
    match settled(keys, subject, home).await.map_err(open_error)? {
        found if found == home => Ok(()),
        other => Err(OpenError::OtherHome { other, home: home.to_owned() }),
    }
}

async fn settled(keys: &Bucket, subject: &ByteString, home: &str) -> Result<String, Unavailable> {
    loop {
        let last = keys.last(subject).await?;
        if let Some(value) = last.as_ref().and_then(|last| last.value()) {
            let mark: Mark = serde_json::from_slice(value).map_err(Unavailable::new)?;
            return Ok(mark.home);
        }
        let mark = Mark { version: HOME_VERSION, home: home.to_owned() };
        let value = Value::Put(serde_json::to_vec(&mark).map_err(Unavailable::new)?.into());
        let fence = Fence::Own(last.map_or(0, |last| last.sequence));
        match keys.write(&Write { subject, value, fence, ttl_s: None }).await {
            // Another one was faster: it is there now.
            Ok(_) | Err(WriteError::Fenced) => {}
            Err(error) => return Err(Unavailable::new(error)),
        }
    }
}
