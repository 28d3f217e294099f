//! Our own way into an account: a signing key of it, with which we make users of our own, or credentials in a file.

use std::path::PathBuf;
use std::sync::Arc;

use mqtt_access::AccountId;
use mqtt_access::jwt::{Circumstances, Listener, Proof, UnverifiedUserJwt, UserJwt, jwts_in};
use nkeys::{KeyPair, KeyPairType};
use zeroize::Zeroizing;

use super::known::{Current, Known};
use super::minted::mint;
use crate::auth::time;
use crate::config::{JwtConfig, read_signing_key};
use crate::store::{Credentials, Identity, IdentityAnswer};

/// Why there is no way into an account; one line that says what to add.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoWay {
    /// Nothing is there that would be one.
    #[error(
        "there is no way into account {account}: write the file of a seed of one of its signing keys into auth.jwt.signing_keys, or put {id}.creds into the folder auth.jwt.creds"
    )]
    Nothing {
        /// Its name and key.
        account: String,
        /// Its key.
        id: String,
    },
    /// The file that should be one is none.
    #[error("{file}: {why}; put credentials of a user of account {id} there")]
    Creds {
        /// Its path.
        file: String,
        /// What is wrong with it.
        why: String,
        /// The account.
        id: String,
    },
}

/// Knows our ways into accounts. Files are read again each time, so that they can be replaced.
#[derive(Clone)]
pub(crate) struct Ways(Arc<Sources>);

struct Sources {
    signing_keys: Vec<PathBuf>,
    creds: Option<PathBuf>,
    known: Arc<Known>,
}

impl Ways {
    pub(super) fn new(config: &JwtConfig, known: Arc<Known>) -> Self {
        Self(Arc::new(Sources { signing_keys: config.signing_keys.clone(), creds: config.creds.clone(), known }))
    }

    /// Who we are in an account. With a signing key that is another user at each connect.
    ///
    /// # Errors
    /// There is no way.
    pub(crate) fn credentials(&self, account: &AccountId) -> Result<Credentials, NoWay> {
        self.shown(account).map(|(credentials, _)| credentials)
    }

    /// The same, with the key or file that it is by as part of a sentence.
    ///
    /// # Errors
    /// There is no way.
    pub(super) fn shown(&self, account: &AccountId) -> Result<(Credentials, String), NoWay> {
        match self.signing_key(account) {
            Ok((key, is_scoped)) => {
                let scope = if is_scoped { ", which has a scope" } else { "" };
                let minted = Minted::new(self.clone(), account.clone());
                Ok((Credentials::Identity(Arc::new(minted)), format!("signing key {}{scope}", key.public_key())))
            }
            Err(nothing) => {
                let file = self.creds_file(account)?.ok_or(nothing)?;
                let by = file.display().to_string();
                Ok((Credentials::CredsFile(file), by))
            }
        }
    }

    /// The files of our signing keys.
    pub(super) fn signing_keys(&self) -> &[PathBuf] {
        &self.0.signing_keys
    }

    /// A key that may sign users of an account, and whether it has a scope.
    fn signing_key(&self, account: &AccountId) -> Result<(KeyPair, bool), NoWay> {
        let current = self.0.known.get(account.as_str());
        let found = current.as_ref().and_then(|current| self.0.signing_key_of(current));
        found.ok_or_else(|| self.nothing(account, current.as_ref()))
    }

    fn nothing(&self, account: &AccountId, current: Option<&Current>) -> NoWay {
        let id = account.as_str().to_owned();
        let name = current.map(|current| current.account.name()).filter(|name| !name.is_empty());
        let account = name.map_or_else(|| id.clone(), |name| format!("{:?} ({id})", name));
        NoWay::Nothing { account, id }
    }

    /// The file of an account's credentials: of its key, or else of its name.
    fn creds_file(&self, account: &AccountId) -> Result<Option<PathBuf>, NoWay> {
        let Some(folder) = &self.0.creds else { return Ok(None) };
        let current = self.0.known.get(account.as_str());
        let name = current.as_ref().map(|current| current.account.name()).filter(|name| is_file_name(name));
        for called in [Some(account.as_str()), name].into_iter().flatten() {
            let file = folder.join(format!("{called}.creds"));
            if !file.is_file() {
                continue;
            }
            // Another account may have the same name.
            return match check_creds(&file, account) {
                Ok(()) => Ok(Some(file)),
                Err(why) => {
                    let (file, id) = (file.display().to_string(), account.as_str().to_owned());
                    Err(NoWay::Creds { file, why, id })
                }
            };
        }
        Ok(None)
    }
}

/// Who we are in an account: another user at each connect.
struct Minted {
    ways: Ways,
    account: AccountId,
}

impl Minted {
    const fn new(ways: Ways, account: AccountId) -> Self {
        Self { ways, account }
    }
}

impl Identity for Minted {
    fn answer(&self, nonce: &[u8]) -> Result<IdentityAnswer, String> {
        let (key, is_scoped) = self.ways.signing_key(&self.account).map_err(|no_way| no_way.to_string())?;
        let user = KeyPair::new(KeyPairType::User);
        let jwt = mint(&user, &key, is_scoped, &self.account, time::now()).map_err(|error| error.to_string())?;
        let signature = user.sign(nonce).map_err(|error| error.to_string())?;
        Ok(IdentityAnswer { jwt, signature })
    }
}

impl Sources {
    /// The first key that the account names: one with a scope before others, for it may do no more than it has to.
    fn signing_key_of(&self, current: &Current) -> Option<(KeyPair, bool)> {
        let mut keys: Vec<(KeyPair, bool)> = self
            .signing_keys
            .iter()
            .filter_map(|file| match read_signing_key(file) {
                Ok(key) => Some(key),
                Err(error) => {
                    tracing::warn!("a signing key cannot be used: {error}");
                    None
                }
            })
            .filter_map(|key| {
                let is_scoped = current.account.is_scoped(&key.public_key(), &current.operators)?;
                Some((key, is_scoped))
            })
            .collect();
        keys.sort_by_key(|(_, is_scoped)| !is_scoped);
        keys.into_iter().next()
    }
}

/// Whether a name that somebody gave an account can be that of a file, in the folder and nowhere else.
fn is_file_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
}

/// Whether a file has credentials of a user of an account.
pub(crate) fn are_creds_of(file: &std::path::Path, account: &AccountId) -> bool {
    check_creds(file, account).is_ok()
}

/// The account of the user whose credentials are in a file, as its JWT says.
pub(super) fn account_of(file: &std::path::Path) -> Option<String> {
    user_of(file).ok().map(|user| user.account_id().to_owned())
}

/// The user whose credentials are in a file, whose JWT may have expired.
fn user_of(file: &std::path::Path) -> Result<UserJwt, String> {
    let text = Zeroizing::new(std::fs::read_to_string(file).map_err(|error| error.to_string())?);
    let jwt = jwts_in(&text).next().ok_or("it holds no user JWT")?;
    let user = UnverifiedUserJwt::read(jwt).and_then(UnverifiedUserJwt::verified);
    user.map_err(|refusal| refusal.to_string())
}

/// Whether credentials are those of a user of an account, now.
fn check_creds(file: &std::path::Path, account: &AccountId) -> Result<(), String> {
    let user = user_of(file)?;
    // Of what only a device has nothing is asked.
    let given = Circumstances {
        now: time::now(),
        listener: Listener::Mqtt,
        peer: None,
        has_trusted_proxy: true,
        proof: Proof::None,
    };
    user.check_claims(&given).map_err(|refusal| refusal.to_string())?;
    if user.account_id() != account.as_str() {
        return Err(format!("its user is one of account {}", user.account_id()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use mqtt_access::jwt::{Account, Operator};
    use serde_json::json;

    use super::*;
    use crate::auth::jwt::known::{OperatorSource, Source};
    use crate::mint::World;

    struct Site {
        dir: tempfile::TempDir,
        world: World,
        account: AccountId,
    }

    impl Site {
        fn new(world: World) -> Self {
            let account = AccountId::new(&world.account.public_key());
            Self { dir: tempfile::tempdir().unwrap(), world, account }
        }

        fn seed(&self, name: &str, key: &KeyPair) -> PathBuf {
            let file = self.dir.path().join(name);
            std::fs::write(&file, format!("{}\n", key.seed().unwrap())).unwrap();
            file
        }

        fn creds(&self, name: &str, world: &World) {
            let text = format!("-----BEGIN NATS USER JWT-----\n{}\n------END\n", world.user_jwt());
            std::fs::write(self.dir.path().join(format!("{name}.creds")), text).unwrap();
        }

        fn ways(&self, signing_keys: Vec<PathBuf>) -> Ways {
            let known = Arc::<Known>::default();
            let operator = Operator::decode(&self.world.operator_jwt()).unwrap();
            known.set_operators(OperatorSource::File, vec![operator]);
            known.offer(self.account.as_str(), &self.world.account_jwt(), Source::Stored, time::now()).unwrap();
            let creds = Some(self.dir.path().to_owned());
            Ways::new(&JwtConfig { signing_keys, creds, ..JwtConfig::default() }, known)
        }
    }

    fn world(number: u16) -> World {
        World::numbered(0, number, time::now().as_secs())
    }

    /// Who we are by a way, as an operator's nats-server sees it.
    fn minted(site: &Site, ways: &Ways) -> mqtt_access::Principal {
        let Ok(Credentials::Identity(identity)) = ways.credentials(&site.account) else { panic!("not minted") };
        let answer = identity.answer(b"nonce").unwrap();
        let proof = Proof::Signature { signed: b"nonce", signature: &answer.signature };
        let (now, listener) = (time::now(), Listener::Mqtt);
        let given = Circumstances { now, listener, peer: None, has_trusted_proxy: false, proof };
        let user = UserJwt::decode(&answer.jwt, &given).unwrap();
        let operators = site.world.operators();
        let account = Account::verify(&site.world.account_jwt(), &operators, now).unwrap();
        user.judge(&account, &operators, &given).unwrap()
    }

    #[test]
    fn a_signing_key_of_the_account_makes_a_user_of_an_hour_at_each_connect() {
        let of_devices = json!({ "nats": { "default_permissions": { "pub": { "allow": ["dev.>"] } } } });
        let site = Site::new(world(0).over_account(&of_devices));
        let plain = site.seed("plain.nk", &site.world.account_signing);
        let strange = site.seed("strange.nk", &site.world.stranger);
        let ways = site.ways(vec![strange, plain.clone()]);
        let (one, other) = (minted(&site, &ways), minted(&site, &ways));
        assert_ne!(one.user.key, other.user.key);
        let lasts = || minted(&site, &ways).expires.unwrap().since(time::now()).as_secs();
        let all: Vec<u64> = (0..50).map(|_| lasts()).collect();
        assert!(all.iter().all(|lasts| (2390..=3600).contains(lasts)), "{all:?}");
        let [shortest, longest] = [all.iter().min(), all.iter().max()].map(|lasts| *lasts.unwrap());
        assert!(longest - shortest > 300, "they do not all end together: {all:?}");
        // Of what the account gives to users without any it has nothing.
        assert!(one.permissions.is_publish_allowed("$JS.API.INFO"));
        assert_eq!(
            (one.limits.subscriptions, one.limits.payload),
            (mqtt_access::Limit::Unlimited, mqtt_access::Limit::Unlimited)
        );
        let scoped = site.seed("scoped.nk", &site.world.scoped);
        let principal = minted(&Site::new(world(0)), &site.ways(vec![plain, scoped]));
        assert_eq!(principal.user.issuer, Some(site.world.scoped.public_key()));
        assert!(!principal.permissions.is_publish_allowed("$JS.API.INFO"), "its role says what it may do");
    }

    #[test]
    fn credentials_in_the_folder_are_those_of_the_account_and_of_no_other_with_its_name() {
        let site = Site::new(world(0));
        let ways = site.ways(Vec::new());
        let id = site.account.as_str();
        let nothing = ways.credentials(&site.account).unwrap_err().to_string();
        assert!(
            nothing.contains(&format!("\"Tenant\" ({id})")) && nothing.contains(&format!("put {id}.creds")),
            "{nothing}"
        );
        site.creds("Tenant", &world(1));
        let foreign = ways.credentials(&site.account).unwrap_err().to_string();
        assert!(foreign.contains("Tenant.creds: its user is one of account") && !foreign.contains('\n'), "{foreign}");
        site.creds("Tenant", &world(0));
        assert!(
            matches!(ways.credentials(&site.account), Ok(Credentials::CredsFile(file)) if file.ends_with("Tenant.creds"))
        );
        site.creds(id, &world(0));
        let by_key = format!("{id}.creds");
        assert!(matches!(ways.credentials(&site.account), Ok(Credentials::CredsFile(file)) if file.ends_with(&by_key)));
        for name in ["../x", ".x", "a/b", "", "a\\b"] {
            assert!(!is_file_name(name), "{name}");
        }
    }
}
