//! Mode `file`: users with passwords or keys, of the configuration and of a file that is read again when it changes.

use std::future::ready;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mqtt_access::{Certificate, CertificateIdentity, Publisher, Secret, UnixTime, is_signed};
use mqtt_codec::Connect;
use mqtt_session::{Credentials, Verdict};
use nkeys::KeyPair;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::failures::Failures;
use super::nkey::{self, Stage};
use super::refusals::Refusals;
use super::remembered::Remembered;
use super::turns::Turns;
use super::users::Users;
use super::users_file::{self, Found};
use super::{Again, Authenticator, Following, JUDGED_WITHIN, Judging, Looking, Principal, now};
use crate::config::{Config, UserConfig, check_names};
use crate::listener::Peer;
use crate::metrics::{AuthStep, Metrics};
use crate::stamp::Stamp;

/// Passwords that are hashed at once, when it cannot be found out how many processors there are. More than there are processors
/// would end none of them sooner, and each takes memory, 19 MiB as `nats-mqtt passwd` makes them. Who gets no turn in time
/// is refused with 0x88, in 3.x with 3.
const HASHES_AT_ONCE: usize = 2;

/// How often the file of users is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// So long before [`JUDGED_WITHIN`] is over an answer is given that was not given before.
const MARGIN: Duration = Duration::from_secs(1);

/// Knows users by their passwords.
pub(crate) struct FileUsers {
    sources: RwLock<Sources>,
    current: RwLock<Arc<Current>>,
    remembered: Remembered,
    failures: Failures,
    /// Turns of hashing.
    turns: Arc<Turns>,
    refusals: Refusals,
    changes: watch::Sender<u64>,
    /// The file as it was read last.
    seen: Mutex<Option<Stamp>>,
}

/// A client, as far as it is judged.
enum Judged {
    /// It is this one.
    Known(Arc<Principal>),
    /// It is to prove that it has its key.
    Asked,
}

/// Where users come from.
#[derive(Clone)]
struct Sources {
    configured: Arc<[UserConfig]>,
    anonymous: bool,
    file: Option<PathBuf>,
}

impl Sources {
    fn new(config: &Config) -> Self {
        let (configured, file) = (config.users.clone().into(), config.auth.users_file.clone());
        Self { configured, anonymous: config.auth.anonymous, file }
    }
}

/// The users as they are now.
struct Current {
    version: u64,
    /// When a user came last, or got another password.
    latest: UnixTime,
    /// Of those, the ones of the file.
    of_file: Vec<UserConfig>,
    users: Users,
}

impl FileUsers {
    pub(crate) fn new(config: &Config, metrics: Arc<Metrics>) -> Self {
        let of_file = config.auth.file_users.clone();
        let users = users_of(config);
        if users.has_names() {
            tracing::info!(users = users.len(), "users are known by their passwords");
        }
        let at_once = std::thread::available_parallelism().map_or(HASHES_AT_ONCE, usize::from);
        Self {
            sources: RwLock::new(Sources::new(config)),
            current: RwLock::new(Arc::new(Current { version: 0, latest: UnixTime::default(), of_file, users })),
            remembered: Remembered::new(config.auth.cache.get()),
            failures: Failures::default(),
            turns: Turns::new(at_once),
            refusals: Refusals::new(metrics),
            changes: watch::Sender::default(),
            seen: Mutex::default(),
        }
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read())
    }

    /// Whether there is any user with a name.
    pub(super) fn has_anybody(&self) -> bool {
        self.current().users.has_names()
    }

    /// Other users from now on, those of the file included, which was read with the configuration.
    pub(super) fn reconfigure(&self, config: &Config) {
        let (sources, of_file) = (Sources::new(config), config.auth.file_users.clone());
        // Nobody takes over what was read with the sources before.
        let mut held = self.sources.write();
        let before = self.current();
        let users = config.users.iter().chain(&of_file);
        let is_same =
            held.configured == sources.configured && held.anonymous == sources.anonymous && before.of_file == of_file;
        // What was seen last may be newer than what the configuration was read with: it is looked at again.
        *self.seen.lock() = None;
        if !is_same {
            let latest = now().max(UnixTime::from_millis(before.latest.as_millis().saturating_add(1)));
            let users = Users::new(users, sources.anonymous, Some((&before.users, latest)));
            self.replace(Current { version: before.version + 1, latest, of_file, users });
        }
        *held = sources;
    }

    fn replace(&self, next: Current) {
        tell_unknown_tags(&next.users);
        let version = next.version;
        *self.current.write() = Arc::new(next);
        self.remembered.clear();
        self.changes.send_replace(version);
    }

    /// Whether there is a user of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        !name.is_empty() && self.current().users.get(name).is_some()
    }

    /// The name of the user whose certificate this is.
    pub(super) fn name_of(&self, certificate: &Certificate) -> Option<String> {
        self.current().users.of_certificate(certificate).map(|user| user.name().to_owned())
    }

    /// The identity of a user's certificate.
    pub(super) fn certificate_of(&self, name: &str) -> Option<CertificateIdentity> {
        self.current().users.get(name)?.certificate().cloned()
    }

    /// Who a client is that has shown nothing but a certificate.
    pub(super) fn identified_by(&self, certificate: &Certificate, client_id: &str) -> Result<Arc<Principal>, AuthStep> {
        self.current().users.of_certificate(certificate).ok_or(AuthStep::Certificate)?.admit(client_id)
    }

    /// Who a client is, or at which step it fails.
    async fn identified(&self, credentials: Credentials<'_>, peer: &Peer, latest: Instant) -> Result<Judged, AuthStep> {
        match credentials.connect.properties.authentication_method.as_deref() {
            None => self.known_by_password(credentials.connect, peer, latest).await.map(Judged::Known),
            Some(nkey::METHOD) => self.known_by_key(&credentials),
            Some(_) => Err(AuthStep::Method),
        }
    }

    /// Who a client is that has signed a nonce. Whether anybody has its key is not said before it has, not by the time that it
    /// takes either: the signature of a key that nobody has is verified as well.
    fn known_by_key(&self, credentials: &Credentials<'_>) -> Result<Judged, AuthStep> {
        let users = &self.current().users;
        if !users.has_keys() {
            return Err(AuthStep::Method);
        }
        let (signed, signature) = match nkey::stage(credentials) {
            Stage::Begun => return Ok(Judged::Asked),
            Stage::Answered { signed, signature } => (signed, signature),
        };
        let key = nkey::named(credentials).ok_or(AuthStep::UnknownUser)?;
        let is_signed = KeyPair::from_public_key(key).is_ok_and(|key| is_signed(&key, &signed, signature));
        let user = users.of_key(key).ok_or(AuthStep::UnknownUser)?;
        if !is_signed {
            return Err(AuthStep::SignatureWrong);
        }
        user.admit(&credentials.connect.client_id).map(Judged::Known)
    }

    /// Who a client is that gives a password.
    async fn known_by_password(
        &self,
        connect: &Connect,
        peer: &Peer,
        latest: Instant,
    ) -> Result<Arc<Principal>, AuthStep> {
        let name = connect.username.as_deref().unwrap_or_default();
        loop {
            let current = self.current();
            let user = current.users.get(name);
            if name.is_empty() {
                return user.ok_or(AuthStep::NoCredentials)?.admit(&connect.client_id);
            }
            let none = Vec::new().into();
            let judged = self.is_right(&current, name, connect.password.as_ref().unwrap_or(&none), peer);
            if !timeout_at(latest, judged).await.map_err(|_| AuthStep::Busy)? {
                return Err(if user.is_some() { AuthStep::WrongPassword } else { AuthStep::UnknownUser });
            }
            let principal = user.ok_or(AuthStep::UnknownUser)?.admit(&connect.client_id)?;
            // The users may be others by now: then it is asked again, since nobody else will.
            if self.current().version == current.version {
                return Ok(principal);
            }
        }
    }

    /// Whether the password is that of the user. One that is hashed has its turn until that is done, also when nobody waits any more.
    async fn is_right(&self, current: &Arc<Current>, name: &str, password: &mqtt_codec::Secret, peer: &Peer) -> bool {
        let fingerprint = self.remembered.fingerprint(current.version, name, password);
        if self.remembered.has(fingerprint) {
            return true;
        }
        let turn = self.turns.wait(peer.addr.counted_by()).await;
        let (current, name) = (Arc::clone(current), name.to_owned());
        let password = Secret::new(password.expose().to_vec());
        let hashing = tokio::task::spawn_blocking(move || {
            let is_right = current.users.verify(&name, &password);
            drop(turn);
            is_right
        });
        let is_right = hashing.await.unwrap_or(false);
        if is_right {
            self.remembered.keep(fingerprint);
        }
        is_right
    }

    async fn verdict(&self, credentials: Credentials<'_>, peer: &Peer) -> Verdict<Arc<Principal>> {
        let latest = Instant::now() + JUDGED_WITHIN - MARGIN;
        let step = match self.identified(credentials, peer, latest).await {
            Ok(Judged::Known(principal)) => return Verdict::Accepted(principal, None),
            Ok(Judged::Asked) => return nkey::challenge(),
            Err(step) => step,
        };
        // Whose key is known is not to be told from whose is not.
        let told = if step == AuthStep::SignatureWrong { AuthStep::UnknownUser } else { step };
        let reason = self.refusals.report_as(credentials.connect, peer, step, told);
        if step == AuthStep::Busy {
            return Verdict::Refused(reason);
        }
        let user = credentials.connect.username.as_deref().filter(|name| !name.is_empty());
        let delay = self.failures.failed(peer.addr.counted_by(), user);
        tokio::time::sleep_until(latest.min(Instant::now() + delay)).await;
        Verdict::Refused(reason)
    }

    /// Looks at the file for ever. Many users take a while to be read and compiled, and that waits nowhere else.
    async fn look_again_and_again(&self) {
        loop {
            let sources = self.sources.read().clone();
            if let Some(file) = sources.file {
                self.look(file, sources.configured, sources.anonymous).await;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn look(&self, file: PathBuf, configured: Arc<[UserConfig]>, anonymous: bool) {
        let (seen, before) = (*self.seen.lock(), self.current());
        let looked_at = Arc::clone(&before);
        let look = tokio::task::spawn_blocking(move || {
            let Found { stamp, users } = users_file::look(&file, &configured, seen)?;
            let written = stamp.written();
            Some((stamp, users.and_then(|users| before.followed_by(users, written, &configured, anonymous))))
        });
        if let Ok(Some((stamp, next))) = look.await {
            self.take(&looked_at, stamp, next);
        }
    }

    /// Takes over what the file has now, by comparison with the users before. One that is wrong changes nothing, and neither does one
    /// with the same users.
    fn take(&self, before: &Current, stamp: Stamp, next: Result<Option<Current>, String>) {
        let _held = self.sources.read();
        if before.version != self.current().version {
            // The configuration was read meanwhile: the next look has it, also what is as it was then, or wrong.
            return;
        }
        *self.seen.lock() = Some(stamp);
        match next {
            Ok(Some(next)) => {
                tracing::info!(users = next.users.len(), "users_file was read again");
                self.replace(next);
            }
            Ok(None) => tracing::debug!("users_file has the users that it had"),
            Err(error) => tracing::warn!("the users stay as they were: {error}"),
        }
    }
}

impl Current {
    /// What comes after this when the file has these users, which were written then; `None` when nothing is different.
    fn followed_by(
        &self,
        of_file: Vec<UserConfig>,
        written: UnixTime,
        configured: &[UserConfig],
        anonymous: bool,
    ) -> Result<Option<Self>, String> {
        check_names(configured.iter().chain(&of_file), anonymous)?;
        if self.of_file == of_file {
            return Ok(None);
        }
        // Later than any before, whatever the file system says.
        let latest = written.max(UnixTime::from_millis(self.latest.as_millis().saturating_add(1)));
        let users = Users::new(configured.iter().chain(&of_file), anonymous, Some((&self.users, latest)));
        Ok(Some(Self { version: self.version + 1, latest, of_file, users }))
    }
}

impl Authenticator for FileUsers {
    fn judge<'a>(&'a self, credentials: Credentials<'a>, peer: &'a Peer) -> Judging<'a> {
        Box::pin(self.verdict(credentials, peer))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn judge_again(&self, principal: &Principal, client_id: &str) -> Again {
        let current = self.current();
        let user = current.users.get(&principal.user.name).filter(|user| user.is_user_of(principal));
        match user.map(|user| user.admit(client_id)) {
            None => Again::Gone(AuthStep::UnknownUser),
            Some(Err(step)) => Again::Gone(step),
            Some(Ok(now)) if is_same(principal, &now) => Again::Same,
            Some(Ok(now)) => Again::Changed(now),
        }
    }

    /// By its name: with another password it is the same user still.
    fn permissions_of<'a>(&'a self, publisher: &'a Publisher, client_id: &'a str) -> Looking<'a> {
        let current = self.current();
        let user = current.users.get(&publisher.user).filter(|user| user.is_in(&publisher.account));
        let now = user.and_then(|user| user.admit(client_id).ok());
        Box::pin(ready(now.map(|now| Arc::clone(&now.permissions))))
    }

    fn follow(&self) -> Following<'_> {
        Box::pin(self.look_again_and_again())
    }
}

/// Whether one that is connected may do what it would be allowed now.
fn is_same(connected: &Principal, now: &Principal) -> bool {
    connected.permissions.lists() == now.permissions.lists() && connected.tags == now.tags
}

/// The users of a configuration.
fn users_of(config: &Config) -> Users {
    let all = config.users.iter().chain(&config.auth.file_users);
    let users = Users::new(all, config.auth.anonymous, None);
    tell_unknown_tags(&users);
    users
}

fn tell_unknown_tags(users: &Users) {
    if let Some((user, tag)) = users.unknown_tags().next() {
        let count = users.unknown_tags().count();
        tracing::warn!(
            count,
            user,
            tag,
            "there are tags that begin with mqtt: and that are not known; they forbid nothing"
        );
    }
}

#[cfg(test)]
mod tests;
