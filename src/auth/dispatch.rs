//! Who judges a client: one mode of several, by the listener that it has come to and by what its credentials look like. What that
//! one refuses nobody else is asked about.
//!
//! ```text
//!   CONNECT ─▶ certificate alone, where that is enough ─────────────▶ file
//!              nothing at all, and `anonymous` is not set ──────────▶ refused
//!              a JWT of the identity provider, method OAUTH2-JWT ───▶ oidc
//!              a name that [[users]] has ───────────────────────────▶ file
//!              everything else ─────────────────────────────────────▶ the mode of the listener
//! ```

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use mqtt_access::{AccountId, Certificate, CertificateId, Mode, Publisher};
use mqtt_codec::Connect;
use mqtt_session::{Credentials, Verdict};
use tokio::sync::watch;

use super::file::FileUsers;
use super::nkey;
use super::oidc;
use super::refusals::Refusals;
use super::shape::{JwtShape, has_credentials};
use super::{Again, Authenticator, Finding, Following, Judging, Looking, Principal};
use crate::config::{CertificateUse, Config, ListenerAuth};
use crate::listener::{Peer, Revocations};
use crate::metrics::AuthStep;
use crate::store;

/// The modes that are in use.
#[derive(Default)]
pub(super) struct Modes {
    /// `file`, also where it stands beside another mode.
    pub(super) file: Option<FileUsers>,
    /// The others.
    pub(super) others: Vec<(Mode, Box<dyn Authenticator>)>,
    /// The issuer whose tokens go to `oidc`.
    pub(super) issuer: Option<String>,
}

impl Modes {
    fn all(&self) -> impl Iterator<Item = (Mode, &dyn Authenticator)> {
        let file = self.file.as_ref().map(|file| (Mode::File, file as &dyn Authenticator));
        file.into_iter().chain(self.others.iter().map(|(mode, judge)| (*mode, &**judge)))
    }

    fn get(&self, mode: Mode) -> Option<&dyn Authenticator> {
        self.all().find(|(other, _)| *other == mode).map(|(_, judge)| judge)
    }
}

/// Sends each client to whoever judges it.
pub(crate) struct Dispatch {
    /// A CONNECT without credentials is judged, and not refused at once.
    takes_anonymous: AtomicBool,
    modes: Modes,
    refusals: Refusals,
    changes: watch::Sender<u64>,
    /// Client certificates that are revoked.
    revocations: Arc<Revocations>,
}

/// Who is to judge.
#[derive(Debug, PartialEq, Eq)]
enum Route {
    /// A mode; and whose certificate was shown, where that has to be the user.
    To(Mode, Option<String>),
    /// The certificate says it all.
    Certificate,
    Refused(AuthStep),
}

impl Dispatch {
    /// `takes_anonymous`: a CONNECT without credentials is judged, and not refused at once.
    pub(super) fn new(takes_anonymous: bool, modes: Modes, refusals: Refusals) -> Self {
        let (takes_anonymous, changes) = (AtomicBool::new(takes_anonymous), watch::Sender::default());
        Self { takes_anonymous, modes, refusals, changes, revocations: Arc::default() }
    }

    /// With what listeners know of client certificates.
    pub(crate) fn heeding(self, revocations: Arc<Revocations>) -> Self {
        Self { revocations, ..self }
    }

    /// Other users count from now on, and those who are connected are judged again.
    pub(crate) fn reconfigure(&self, config: &Config) {
        self.takes_anonymous.store(config.auth.anonymous, Ordering::Relaxed);
        if let Some(file) = &self.modes.file {
            file.reconfigure(config);
        }
    }

    fn route(&self, connect: &Connect, peer: &Peer) -> Route {
        let entrance = &peer.entrance.auth;
        let certificate = peer.certificate.as_deref().filter(|_| entrance.certificate == CertificateUse::Enough);
        let named = certificate.and_then(|certificate| self.modes.file.as_ref()?.name_of(certificate));
        if let Some(name) = &named {
            let is_other = connect.username.as_deref().is_some_and(|user| !user.is_empty() && user != name);
            if is_other {
                return Route::Refused(AuthStep::Certificate);
            }
            if connect.password.is_none() && connect.properties.authentication_method.is_none() {
                return Route::Certificate;
            }
        }
        if entrance.mode != Mode::None && !self.takes_anonymous.load(Ordering::Relaxed) && !has_credentials(connect) {
            return Route::Refused(AuthStep::NoCredentials);
        }
        Route::To(self.mode_of(entrance, connect), named)
    }

    fn mode_of(&self, entrance: &ListenerAuth, connect: &Connect) -> Mode {
        if self.is_of_provider(connect) {
            return Mode::Oidc;
        }
        let Some(file) = self.modes.file.as_ref().filter(|file| file.has_anybody()) else { return entrance.mode };
        let properties = &connect.properties;
        let is_of_file = match properties.authentication_method.as_deref() {
            None => file.has(connect.username.as_deref().unwrap_or_default()),
            // What names the key is a public key, and in mode `jwt` a JWT.
            Some(nkey::METHOD) => {
                properties.authentication_data.as_ref().is_some_and(|data| !data.expose().contains(&b'.'))
            }
            Some(_) => false,
        };
        if is_of_file { Mode::File } else { entrance.mode }
    }

    /// The mode that would judge a CONNECT.
    pub(super) fn goes_to(&self, connect: &Connect, peer: &Peer) -> Option<Mode> {
        match self.route(connect, peer) {
            Route::To(mode, _) => Some(mode),
            Route::Certificate | Route::Refused(_) => None,
        }
    }

    /// Whether a CONNECT has a token of the identity provider, by what that says of itself.
    fn is_of_provider(&self, connect: &Connect) -> bool {
        let Some(issuer) = &self.modes.issuer else { return false };
        match connect.properties.authentication_method.as_deref() {
            Some(method) => method == oidc::METHOD,
            None => connect.password.as_ref().is_some_and(|password| {
                JwtShape::of(password.expose()).is_some_and(|jwt| !jwt.is_of_nats() && jwt.issuer == *issuer)
            }),
        }
    }

    async fn verdict(&self, credentials: Credentials<'_>, peer: &Peer) -> Verdict<Arc<Principal>> {
        let (connect, entrance) = (credentials.connect, &peer.entrance.auth);
        let shown = peer.certificate.as_deref().and_then(Certificate::chain);
        let route = match shown.is_some_and(|shown| self.revocations.has_one_of(shown)) {
            // Since TLS has looked at it.
            true => Route::Refused(AuthStep::CertificateRevoked),
            false => self.route(connect, peer),
        };
        let judged = match route {
            Route::Refused(step) => Err(step),
            Route::Certificate => self.by_certificate(connect, peer).map(|principal| (principal, None)),
            Route::To(mode, named) => match self.modes.get(mode) {
                None => Err(AuthStep::NoCredentials),
                Some(judge) => match judge.judge(credentials, peer).await {
                    Verdict::Accepted(principal, data) => {
                        self.bound(&principal, named.as_deref(), peer).map(|()| (principal, data))
                    }
                    other => return other,
                },
            },
        };
        let entered = judged.and_then(|(principal, data)| {
            // The name that a client has asked for is more than where it did.
            let account = peer.account.as_deref().or(entrance.account.as_deref());
            Ok((with_certificates(entered(account, principal)?, shown), data))
        });
        match entered {
            Ok((principal, data)) => Verdict::Accepted(principal, data),
            Err(step) => Verdict::Refused(self.refusals.report(connect, peer, step)),
        }
    }

    fn by_certificate(&self, connect: &Connect, peer: &Peer) -> Result<Arc<Principal>, AuthStep> {
        let file = self.modes.file.as_ref().ok_or(AuthStep::Certificate)?;
        file.identified_by(peer.certificate.as_deref().ok_or(AuthStep::Certificate)?, &connect.client_id)
    }

    /// Looks whether a principal is the user of its certificate, where it has to be.
    fn bound(&self, principal: &Principal, named: Option<&str>, peer: &Peer) -> Result<(), AuthStep> {
        let name = &*principal.user.name;
        let is_right = match peer.entrance.auth.certificate {
            CertificateUse::None => true,
            CertificateUse::Enough => named.is_none_or(|named| principal.origin.mode == Mode::File && named == name),
            CertificateUse::Bind => peer.certificate.as_deref().is_some_and(|certificate| {
                let file = self.modes.file.as_ref().filter(|_| principal.origin.mode == Mode::File);
                match file.and_then(|file| file.certificate_of(name)) {
                    Some(identity) => certificate.is(&identity),
                    None => certificate.names(name),
                }
            }),
        };
        is_right.then_some(()).ok_or(AuthStep::Certificate)
    }

    fn judge_again_by_mode(&self, principal: &Principal, client_id: &str) -> Again {
        let Some(judge) = self.modes.get(principal.origin.mode) else { return Again::Gone(AuthStep::NoCredentials) };
        match judge.judge_again(principal, client_id) {
            Again::Changed(now) if principal.origin.has_account_of_listener && !now.brings_account() => {
                Again::Changed(with_account(&now, &principal.account))
            }
            Again::Changed(now) if now.account != principal.account => Again::Gone(AuthStep::Account),
            other => other,
        }
    }

    /// Hands on that a mode has changed.
    async fn hand_on(&self, mut changes: watch::Receiver<u64>) {
        while changes.changed().await.is_ok() {
            self.changes.send_modify(|version| *version += 1);
        }
    }
}

/// A principal with the account of its listener, or of the name that it has asked for, if it brings none. One that brings another does not belong there.
fn entered(account: Option<&str>, principal: Arc<Principal>) -> Result<Arc<Principal>, AuthStep> {
    match account {
        None => Ok(principal),
        Some(account) if principal.brings_account() => {
            (principal.account.as_str() == account).then_some(principal).ok_or(AuthStep::Account)
        }
        Some(account) => Ok(with_account(&principal, &AccountId::new(account))),
    }
}

fn with_account(principal: &Principal, account: &AccountId) -> Arc<Principal> {
    let mut given = principal.clone();
    given.account = account.clone();
    given.account_name = account.as_str().to_owned();
    given.origin.has_account_of_listener = true;
    Arc::new(given)
}

fn with_certificates(principal: Arc<Principal>, shown: Option<&Arc<[CertificateId]>>) -> Arc<Principal> {
    let Some(shown) = shown else { return principal };
    let mut with = Arc::unwrap_or_clone(principal);
    with.origin.certificates = Some(Arc::clone(shown));
    Arc::new(with)
}

impl Authenticator for Dispatch {
    fn judge<'a>(&'a self, credentials: Credentials<'a>, peer: &'a Peer) -> Judging<'a> {
        Box::pin(self.verdict(credentials, peer))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whoever accepted it is asked. It stays in its account, or goes.
    fn judge_again(&self, principal: &Principal, client_id: &str) -> Again {
        let shown = principal.origin.certificates.as_ref();
        if shown.is_some_and(|shown| self.revocations.has_one_of(shown)) {
            return Again::Gone(AuthStep::CertificateRevoked);
        }
        match self.judge_again_by_mode(principal, client_id) {
            Again::Changed(now) => Again::Changed(with_certificates(now, shown)),
            other => other,
        }
    }
    /// Whoever accepted it is asked.
    fn permissions_of<'a>(&'a self, publisher: &'a Publisher, client_id: &'a str) -> Looking<'a> {
        match self.modes.get(publisher.mode) {
            Some(judge) => judge.permissions_of(publisher, client_id),
            None => Box::pin(ready(None)),
        }
    }

    /// Of the first mode that has something to say about it.
    fn way<'a>(&'a self, account: &'a AccountId) -> Finding<'a> {
        Box::pin(async move {
            for (_, judge) in self.modes.all() {
                if let Some(way) = judge.way(account).await {
                    return Some(way);
                }
            }
            None
        })
    }

    fn remember_in(&self, accounts: &store::Accounts) {
        self.modes.all().for_each(|(_, judge)| judge.remember_in(accounts));
    }

    fn follow(&self) -> Following<'_> {
        let following = join_all(self.modes.all().map(|(_, judge)| judge.follow()));
        let all = self.modes.all().map(|(_, judge)| judge.changes()).chain([self.revocations.changes()]);
        let handing_on = join_all(all.map(|changes| self.hand_on(changes)));
        Box::pin(async move {
            let _ = tokio::join!(following, handing_on);
        })
    }
}

#[cfg(test)]
mod tests;
