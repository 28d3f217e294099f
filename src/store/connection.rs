//! NATS connections: how they are opened, who we are on them, and what became of them.
//!
//! An account has six: core (QoS 0, no echo), publish, tail, api (bulk reads), state (sessions, leases, requests between
//! sidecars) and share (shared subscriptions). Without JetStream core and api do, and api does what else is done. All but one reconnect for ever by themselves ([`Link`]). The publish
//! connection is an *epoch* ([`Epoch`]): it never reconnects, and its successor starts with what is unacknowledged, before
//! anybody can hand over anything newer. See `publisher`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::api_errors::ApiErrors;
use super::clock::ServerClock;
use super::credentials::Authenticator;
use super::error::OpenError;
use super::options::NatsOptions;
use super::outage::Outage;
pub(crate) use crate::nats::LinkState;
use crate::nats::{
    ABANDONED, Client, ConnectError, Event, LinkCounts, LinkOptions, OnFull, QueueLimits, ServerUrl, TlsFiles,
};
use crate::overload::PROCESS;
use crate::tasks::Tasks;

/// How often a connect that does not succeed is tried, and how often that is logged.
const CONNECT_RETRY: Duration = Duration::from_millis(500);
const CONNECT_LOG_EVERY: Duration = Duration::from_secs(5);
/// Bytes of messages of one queue between the socket and us.
const QUEUE_BYTES_MAX: usize = 256 << 20;
/// Refused publishes that wait to be looked at; what is beyond fails later, by silence.
const DENIED_MAX: usize = 256;

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
    /// First tokens of the inboxes of NATS clients.
    pub(crate) inboxes: Arc<str>,
    pub(crate) state: watch::Receiver<LinkState>,
    violation: Arc<Mutex<Option<String>>>,
    subscription_queue: usize,
    /// Those of the account.
    pub(crate) tasks: Tasks,
    /// What goes on when they have ended.
    pub(crate) last_words: Tasks,
    /// What JetStream answered.
    pub(crate) errors: ApiErrors,
    /// The server's time, as its answers tell.
    pub(crate) clock: ServerClock,
}

impl Link {
    /// How much of a subscription may wait between the socket and us; what is beyond is dropped and counted.
    pub(crate) fn queue_limits(&self) -> QueueLimits {
        QueueLimits {
            of_each_max: self.subscription_queue,
            bytes_max: PROCESS.at_most(QUEUE_BYTES_MAX),
            on_full: OnFull::Drop,
        }
    }

    /// Messages that were dropped because the queue of their subscription was full.
    pub(crate) fn overflows(&self) -> u64 {
        self.client.overflows()
    }

    /// How often the connection was lost.
    pub(crate) fn losses(&self) -> u64 {
        let state = *self.state.borrow();
        state.epoch - u64::from(state.connected)
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
    /// Changes when it is lost.
    pub(crate) lost: watch::Receiver<LinkState>,
    /// Subjects that the server did not let us publish on.
    pub(crate) denied: mpsc::Receiver<String>,
}

/// Opens connections.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    options: Arc<NatsOptions>,
    servers: Arc<Vec<ServerUrl>>,
    authenticator: Arc<Authenticator>,
    /// What JetStream answered on any connection.
    pub(crate) errors: ApiErrors,
    /// The server's time, as the answers on any connection tell.
    clock: ServerClock,
    /// What no connection has handed on.
    pub(crate) counts: LinkCounts,
    /// First tokens of reply subjects on which only JetStream and sidecars answer.
    private_inbox: String,
    /// Connections that are lost.
    outage: Outage,
    /// What runs for the account, apart from the connections.
    pub(crate) tasks: Tasks,
    /// What is begun with JetStream and has to have an end: it goes on when that has ended, for a moment.
    pub(crate) last_words: Tasks,
    /// The connections: they end after that.
    pub(crate) links: Tasks,
}

impl Connector {
    /// Checks URLs and credential files; connects nothing. `private_inbox`: see [`Role::is_answered_by_anybody`].
    pub(crate) fn new(options: NatsOptions, private_inbox: String) -> Result<Self, OpenError> {
        let mut servers = Vec::with_capacity(options.urls.len());
        for url in &options.urls {
            let server = url
                .parse::<ServerUrl>()
                .map_err(|reason| OpenError::Url { url: without_password(url), reason: reason.to_owned() })?;
            servers.push(server);
        }
        if servers.is_empty() {
            return Err(OpenError::Url { url: String::new(), reason: "nats.urls is empty".to_owned() });
        }
        let authenticator = Authenticator::new(options.credentials.clone(), &servers);
        authenticator.check().map_err(|reason| OpenError::Credentials { reason })?;
        for file in [&options.tls.ca, &options.tls.cert, &options.tls.key].into_iter().flatten() {
            std::fs::metadata(file)
                .map_err(|err| OpenError::Credentials { reason: format!("{}: {err}", file.display()) })?;
        }
        let (errors, counts, clock) = (ApiErrors::default(), LinkCounts::default(), ServerClock::default());
        let (options, servers, authenticator) = (Arc::new(options), Arc::new(servers), Arc::new(authenticator));
        let (outage, tasks, last_words, links) =
            (options.outage.clone(), Tasks::default(), Tasks::default(), Tasks::default());
        Ok(Self {
            options,
            servers,
            authenticator,
            errors,
            clock,
            counts,
            private_inbox,
            outage,
            tasks,
            last_words,
            links,
        })
    }

    /// The URLs without passwords, for messages.
    pub(crate) fn urls(&self) -> String {
        let urls: Vec<String> = self.options.urls.iter().map(|url| without_password(url)).collect();
        urls.join(", ")
    }

    pub(crate) fn inbox_prefix(&self) -> &str {
        &self.options.inbox_prefix
    }

    fn link_options(
        &self,
        role: Role,
        reconnects: bool,
        on_event: impl Fn(Event<'_>) + Send + Sync + 'static,
    ) -> LinkOptions {
        let (authenticator, tls) = (Arc::clone(&self.authenticator), &self.options.tls);
        LinkOptions {
            servers: Arc::clone(&self.servers),
            ignore_discovered_servers: self.options.ignore_discovered_servers,
            tls: TlsFiles {
                required: tls.required,
                first: tls.first,
                ca: tls.ca.clone(),
                cert: tls.cert.clone(),
                key: tls.key.clone(),
            },
            name: format!("{}-{}", self.options.name, role.name),
            no_echo: role.no_echo,
            reconnects,
            queue_max: role.queue,
            inbox_prefix: if role.is_answered_by_anybody { &self.options.inbox_prefix } else { &self.private_inbox }
                .clone(),
            identify: Arc::new(move |nonce| authenticator.answer(nonce)),
            on_event: Arc::new(on_event),
            counts: self.counts.clone(),
            tasks: self.links.clone(),
        }
    }

    /// Opens a connection that will reconnect by itself. Tries until a server answers or `within` is over; a server that
    /// refuses us ends it at once.
    pub(crate) async fn link(&self, role: Role, within: Option<Duration>) -> Result<Link, OpenError> {
        let started = Instant::now();
        let mut logged = None::<Instant>;
        let violation = Arc::new(Mutex::new(None));
        let (seen, notes) = (Arc::clone(&violation), Notes::new(role.name, &self.outage));
        let options = self.link_options(role, true, move |event| {
            if let Some(text) = notes.note(&event) {
                *seen.lock() = Some(text);
            }
        });
        loop {
            let error = match crate::nats::connect(options.clone()).await {
                Ok(client) => {
                    let (state, subscription_queue) = (client.state(), role.subscription_queue);
                    let (errors, clock, tasks) = (self.errors.clone(), self.clock.clone(), self.tasks.clone());
                    let (inboxes, last_words) =
                        (Arc::from(self.options.inbox_prefix.as_str()), self.last_words.clone());
                    return Ok(Link {
                        client,
                        inboxes,
                        state,
                        violation,
                        subscription_queue,
                        tasks,
                        last_words,
                        errors,
                        clock,
                    });
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

    /// What a connection to the same servers is told that somebody else is on.
    pub(crate) fn trial(&self, name: &'static str) -> LinkOptions {
        let role = Role { name, no_echo: true, is_answered_by_anybody: false, queue: 1, subscription_queue: 1 };
        self.link_options(role, false, |_| ())
    }

    /// One attempt at an epoch; the caller decides when to try again.
    pub(crate) async fn epoch(&self, role: Role) -> Result<Epoch, ConnectError> {
        let (denied_tx, denied) = mpsc::channel(DENIED_MAX);
        let notes = Notes::new(role.name, &self.outage);
        let options = self.link_options(role, false, move |event| {
            if let Some(text) = notes.note(&event)
                && let Some(subject) = denied_publish(&text)
            {
                let _ = denied_tx.try_send(subject.to_owned());
            }
        });
        let client = crate::nats::connect(options).await?;
        let mut lost = client.state();
        // It may be lost already; then this is said at once.
        if lost.borrow_and_update().connected {
            Ok(Epoch { client, lost, denied })
        } else {
            Err(ConnectError::Io("it was lost at once".to_owned()))
        }
    }

    /// Whether an error at the first connect is one that waiting does not heal.
    fn fatal(&self, error: &ConnectError) -> Option<OpenError> {
        match error {
            ConnectError::Authorization => Some(OpenError::Authorization { urls: self.urls() }),
            ConnectError::Credentials(reason) => Some(OpenError::Credentials { reason: reason.clone() }),
            ConnectError::Tls(reason) => Some(OpenError::Tls { urls: self.urls(), reason: reason.clone() }),
            ConnectError::Dns { .. } | ConnectError::Io(_) | ConnectError::TimedOut | ConnectError::Protocol(_) => None,
        }
    }
}

#[cfg(test)]
impl Connector {
    /// One that knows no server.
    pub(super) fn nowhere(options: NatsOptions, private_inbox: String) -> Self {
        let connector = Self::new(options, private_inbox).expect("nothing is read");
        Self { servers: Arc::default(), ..connector }
    }

    /// A link that is never connected.
    pub(super) fn unconnected(&self, role: Role, max_payload: usize) -> Link {
        let client = Client::unconnected(self.link_options(role, true, |_| ()), max_payload);
        Link {
            state: client.state(),
            client,
            inboxes: Arc::from(self.options.inbox_prefix.as_str()),
            violation: Arc::default(),
            subscription_queue: role.subscription_queue,
            tasks: self.tasks.clone(),
            last_words: self.last_words.clone(),
            errors: self.errors.clone(),
            clock: self.clock.clone(),
        }
    }
}

/// What is said in the log about one connection.
struct Notes {
    name: &'static str,
    outage: Outage,
}

impl Notes {
    /// About the connection with this name.
    fn new(name: &'static str, outage: &Outage) -> Self {
        Self { name, outage: outage.clone() }
    }

    /// Logs an event; returns the text of a permission violation.
    fn note(&self, event: &Event<'_>) -> Option<String> {
        let name = self.name;
        match event {
            Event::Connected => {
                tracing::debug!(connection = name, "connected to NATS");
                if let Some(away) = self.outage.ends(name) {
                    tracing::info!("NATS is back; it was away for {:.1} s", away.as_secs_f64());
                }
            }
            // Somebody here has closed it.
            Event::Disconnected(why) if *why == ABANDONED => tracing::debug!(connection = name, why, "closed"),
            Event::Disconnected(why) if self.outage.begins(name) => {
                tracing::warn!(first = name, why, "disconnected from NATS");
            }
            Event::Disconnected(why) => tracing::debug!(connection = name, why, "disconnected from NATS"),
            Event::ServerError(text) => {
                tracing::error!(connection = name, error = text, "NATS reports an error");
                if text.to_ascii_lowercase().starts_with("permissions violation") {
                    return Some((*text).to_owned());
                }
            }
            // Attempts that fail come several times a second.
            Event::NotConnected(error) => tracing::warn!(%error, "cannot connect to NATS again yet"),
            Event::Overflow => tracing::debug!(connection = name, "messages dropped, a subscription is full"),
            Event::LameDuck => tracing::info!(connection = name, "nats-server is going to shut down"),
        }
        None
    }
}

/// The subject in `Permissions Violation for Publish to "subject"`.
fn denied_publish(text: &str) -> Option<&str> {
    let (what, rest) = text.split_once('"')?;
    let (subject, _) = rest.rsplit_once('"')?;
    what.to_ascii_lowercase().contains("publish to").then_some(subject)
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
