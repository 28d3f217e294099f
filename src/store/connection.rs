//! NATS connections: how they are opened, who we are on them, and what became of them.
//!
//! An account has six: core (QoS 0, no echo), publish, tail, api (bulk reads), state (sessions, leases, requests between
//! sidecars) and share (shared subscriptions). All but one reconnect for ever by themselves ([`Link`]). The publish connection is different: async-nats keeps what it has not written while it is disconnected and writes it
//! after the reconnect, before anything that we could put in front. So that connection is an *epoch* ([`Epoch`]):
//! it never reconnects, and its successor starts with what is unacknowledged. See `publisher`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr, ServerError};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::api_errors::ApiErrors;
use super::clock::ServerClock;
use super::credentials::Authenticator;
use super::error::OpenError;
use super::options::NatsOptions;

/// How often a connect that does not succeed is tried, and how often that is logged.
const CONNECT_RETRY: Duration = Duration::from_millis(500);
const CONNECT_LOG_EVERY: Duration = Duration::from_secs(5);
/// Refused publishes that wait to be looked at; what is beyond fails later, by silence.
const DENIED_MAX: usize = 256;

/// Whether a connection is up. `epoch` counts the connects, so that a reconnect that was faster than its observer is seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkState {
    pub(crate) connected: bool,
    pub(crate) epoch: u64,
}

/// What one connection is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Role {
    /// Suffix of its name on the server.
    pub(crate) name: &'static str,
    /// Do not send our own messages back to us.
    pub(crate) no_echo: bool,
    /// NATS clients answer requests on it. On others nobody but JetStream and sidecars does, so that everybody else can be
    /// denied to.
    pub(crate) is_answered_by_anybody: bool,
    /// Commands between us and the socket.
    pub(crate) queue: usize,
    /// Messages of one subscription between the socket and us.
    pub(crate) subscription_queue: usize,
}

/// A connection that reconnects for ever by itself.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) client: Client,
    pub(crate) state: watch::Receiver<LinkState>,
    violation: Arc<Mutex<Option<String>>>,
    overflows: Arc<AtomicU64>,
    /// What JetStream answered.
    pub(crate) errors: ApiErrors,
    /// The server's time, as its answers tell.
    pub(crate) clock: ServerClock,
}

impl Link {
    /// Asked of async-nats itself: its events come later and may be dropped in a flood.
    pub(crate) fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    /// Messages that async-nats has dropped because the queue of their subscription was full; at least so many.
    pub(crate) fn overflows(&self) -> u64 {
        self.overflows.load(Ordering::Relaxed)
    }

    /// The last permission violation that the server reported on this connection, once.
    pub(crate) fn take_violation(&self) -> Option<String> {
        self.violation.lock().take()
    }
}

/// A connection that never reconnects: when it is lost, its task ends, and what it had not written is gone.
#[derive(Debug)]
pub(crate) struct Epoch {
    pub(crate) client: Client,
    pub(crate) lost: watch::Receiver<bool>,
    /// Subjects that the server did not let us publish on.
    pub(crate) denied: mpsc::Receiver<String>,
}

/// Opens connections.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    options: Arc<NatsOptions>,
    addresses: Arc<Vec<ServerAddr>>,
    authenticator: Arc<Authenticator>,
    /// What JetStream answered on any connection.
    pub(crate) errors: ApiErrors,
    /// The server's time, as the answers on any connection tell.
    clock: ServerClock,
    /// First tokens of reply subjects on which only JetStream and sidecars answer.
    private_inbox: String,
}

impl Connector {
    /// Checks URLs and credential files; connects nothing. `private_inbox`: see [`Role::is_answered_by_anybody`].
    pub(crate) fn new(options: NatsOptions, private_inbox: String) -> Result<Self, OpenError> {
        let mut addresses = Vec::with_capacity(options.urls.len());
        for url in &options.urls {
            let address = url
                .parse::<ServerAddr>()
                .map_err(|err| OpenError::Url { url: without_password(url), reason: err.to_string() })?;
            addresses.push(address);
        }
        if addresses.is_empty() {
            return Err(OpenError::Url { url: String::new(), reason: "nats.urls is empty".to_owned() });
        }
        let authenticator = Authenticator::new(options.credentials.clone(), &addresses);
        authenticator.check().map_err(|reason| OpenError::Credentials { reason })?;
        for file in [&options.tls.ca, &options.tls.cert, &options.tls.key].into_iter().flatten() {
            std::fs::metadata(file)
                .map_err(|err| OpenError::Credentials { reason: format!("{}: {err}", file.display()) })?;
        }
        let (options, addresses) = (Arc::new(options), Arc::new(addresses));
        let (authenticator, errors, clock) = (Arc::new(authenticator), ApiErrors::default(), ServerClock::default());
        Ok(Self { options, addresses, authenticator, errors, clock, private_inbox })
    }

    /// The URLs without passwords, for messages.
    pub(crate) fn urls(&self) -> String {
        let urls: Vec<String> = self.options.urls.iter().map(|url| without_password(url)).collect();
        urls.join(", ")
    }

    pub(crate) fn inbox_prefix(&self) -> &str {
        &self.options.inbox_prefix
    }

    fn connect_options(&self, role: Role, sealed: Arc<AtomicBool>) -> ConnectOptions {
        let authenticator = Arc::clone(&self.authenticator);
        let tls = &self.options.tls;
        let mut options = ConnectOptions::with_auth_callback(move |nonce| {
            let authenticator = Arc::clone(&authenticator);
            let refused = sealed.load(Ordering::Acquire);
            async move {
                if refused {
                    return Err(async_nats::AuthError::new("this connection has been replaced"));
                }
                authenticator.answer(&nonce).map_err(async_nats::AuthError::new)
            }
        })
        .name(format!("{}-{}", self.options.name, role.name))
        .custom_inbox_prefix(if role.is_answered_by_anybody { &self.options.inbox_prefix } else { &self.private_inbox })
        .client_capacity(role.queue)
        .subscription_capacity(role.subscription_queue)
        .read_buffer_capacity(u16::MAX)
        .ping_interval(Duration::from_secs(10))
        .reconnect_delay_callback(reconnect_delay)
        .require_tls(tls.required);
        if role.no_echo {
            options = options.no_echo();
        }
        if self.options.ignore_discovered_servers {
            options = options.ignore_discovered_servers();
        }
        if tls.first {
            options = options.tls_first();
        }
        if let Some(ca) = &tls.ca {
            options = options.add_root_certificates(ca.clone());
        }
        if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
            options = options.add_client_certificate(cert.clone(), key.clone());
        }
        options
    }

    /// Opens a connection that will reconnect by itself. Tries until a server answers or `within` is over; a server that
    /// refuses us ends it at once.
    pub(crate) async fn link(&self, role: Role, within: Option<Duration>) -> Result<Link, OpenError> {
        let started = Instant::now();
        let mut logged = None::<Instant>;
        loop {
            let (state_tx, state) = watch::channel(LinkState::default());
            let violation = Arc::new(Mutex::new(None));
            let overflows = Arc::new(AtomicU64::new(0));
            let (seen, dropped) = (Arc::clone(&violation), Arc::clone(&overflows));
            let name = role.name;
            let options = self.connect_options(role, Arc::new(AtomicBool::new(false))).event_callback(move |event| {
                if let Some(text) = note_event(name, &event) {
                    *seen.lock() = Some(text);
                }
                match event {
                    Event::Connected => state_tx.send_modify(|state| {
                        state.connected = true;
                        state.epoch += 1;
                    }),
                    Event::Disconnected | Event::Closed => state_tx.send_modify(|state| state.connected = false),
                    Event::SlowConsumer(_) => {
                        dropped.fetch_add(1, Ordering::Relaxed);
                    }
                    _ => {}
                }
                std::future::ready(())
            });
            let error = match options.connect(self.addresses.as_slice()).await {
                Ok(client) => {
                    let mut wait = state.clone();
                    // The event travels through a task of its own; nobody may see a link that is not yet up.
                    let _ = tokio::time::timeout(Duration::from_secs(5), wait.wait_for(|s| s.connected)).await;
                    let (errors, clock) = (self.errors.clone(), self.clock.clone());
                    return Ok(Link { client, state, violation, overflows, errors, clock });
                }
                Err(error) => error,
            };
            if let Some(fatal) = self.fatal(&error) {
                return Err(fatal);
            }
            if let Some(within) = within
                && started.elapsed() >= within
            {
                return Err(OpenError::Unreachable { urls: self.urls(), reason: error.to_string(), within });
            }
            if logged.is_none_or(|at| at.elapsed() >= CONNECT_LOG_EVERY) {
                tracing::warn!(urls = %self.urls(), %error, "waiting for NATS");
                logged = Some(Instant::now());
            }
            tokio::time::sleep(CONNECT_RETRY).await;
        }
    }

    /// One attempt at an epoch; the caller decides when to try again.
    pub(crate) async fn epoch(&self, role: Role) -> Result<Epoch, async_nats::ConnectError> {
        // From the moment that the connection stands, nobody may authenticate in its name again.
        let sealed = Arc::new(AtomicBool::new(false));
        let (lost_tx, lost) = watch::channel(false);
        let (denied_tx, denied) = mpsc::channel(DENIED_MAX);
        let name = role.name;
        let options = self
            .connect_options(role, Arc::clone(&sealed))
            // Every attempt after the loss fails, by refusal if not by the network; this bounds how many there are.
            .max_reconnects(self.addresses.len())
            .event_callback(move |event| {
                if let Some(text) = note_event(name, &event)
                    && let Some(subject) = denied_publish(&text)
                {
                    let _ = denied_tx.try_send(subject.to_owned());
                }
                if matches!(event, Event::Disconnected | Event::Closed) {
                    lost_tx.send_replace(true);
                }
                std::future::ready(())
            });
        let client = options.connect(self.addresses.as_slice()).await?;
        sealed.store(true, Ordering::Release);
        Ok(Epoch { client, lost, denied })
    }

    /// Whether an error at the first connect is one that waiting does not heal.
    fn fatal(&self, error: &async_nats::ConnectError) -> Option<OpenError> {
        match error.kind() {
            ConnectErrorKind::AuthorizationViolation => Some(OpenError::Authorization { urls: self.urls() }),
            ConnectErrorKind::Authentication => Some(OpenError::Credentials {
                reason: self.authenticator.check().err().unwrap_or_else(|| error.to_string()),
            }),
            ConnectErrorKind::Tls => Some(OpenError::Tls { urls: self.urls(), reason: error.to_string() }),
            ConnectErrorKind::ServerParse => Some(OpenError::Url { url: self.urls(), reason: error.to_string() }),
            // A certificate that is not trusted arrives as an I/O error.
            ConnectErrorKind::Io if error.to_string().contains("certificate") => {
                Some(OpenError::Tls { urls: self.urls(), reason: error.to_string() })
            }
            ConnectErrorKind::Dns
            | ConnectErrorKind::TimedOut
            | ConnectErrorKind::Io
            | ConnectErrorKind::MaxReconnects => None,
        }
    }
}

/// Logs an event; returns the text of a permission violation.
fn note_event(name: &'static str, event: &Event) -> Option<String> {
    match event {
        Event::Connected => tracing::debug!(connection = name, "connected to NATS"),
        Event::Disconnected => tracing::warn!(connection = name, "disconnected from NATS"),
        Event::ServerError(ServerError::Other(text)) => {
            tracing::error!(connection = name, error = %text, "NATS reports an error");
            if text.to_ascii_lowercase().starts_with("permissions violation") {
                return Some(text.clone());
            }
        }
        Event::ServerError(error) => tracing::error!(connection = name, %error, "NATS reports an error"),
        // Reconnects that fail come several times a second; the disconnect has been said.
        Event::ClientError(error) => tracing::debug!(connection = name, %error, "NATS connection"),
        Event::SlowConsumer(_) => tracing::debug!(connection = name, "messages dropped, a subscription is full"),
        Event::LameDuckMode => tracing::info!(connection = name, "nats-server is going to shut down"),
        Event::Draining | Event::Closed => {}
    }
    None
}

/// The subject in `Permissions Violation for Publish to "subject"`.
fn denied_publish(text: &str) -> Option<&str> {
    let (what, rest) = text.split_once('"')?;
    let (subject, _) = rest.rsplit_once('"')?;
    what.to_ascii_lowercase().contains("publish to").then_some(subject)
}

/// At once, then with growing pauses up to a second.
fn reconnect_delay(attempts: usize) -> Duration {
    match attempts {
        0 | 1 => Duration::ZERO,
        2..=10 => Duration::from_millis(1 << attempts),
        _ => Duration::from_secs(1),
    }
}

/// `nats://user:secret@host` without the secret.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.rsplit_once('@').map_or_else(|| url.to_owned(), |(_, host)| host.to_owned());
    };
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{host}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{denied_publish, without_password};

    #[test]
    fn the_subject_of_a_refused_publish_is_found() {
        assert_eq!(denied_publish("Permissions Violation for Publish to \"a.b\""), Some("a.b"));
        assert_eq!(denied_publish("Permissions Violation for Subscription to \"a.b\""), None);
        assert_eq!(denied_publish("Authorization Violation"), None);
    }

    #[test]
    fn a_url_in_a_message_has_no_password() {
        assert_eq!(without_password("nats://u:p@h:4222"), "nats://h:4222");
        assert_eq!(without_password("u:p@h:4222"), "h:4222");
        assert_eq!(without_password("nats://h:4222"), "nats://h:4222");
    }
}
