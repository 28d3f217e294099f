//! `$SYS/broker/…`: what MQTT clients read about the broker, under mosquitto's names. Made here, from the metrics, for the
//! clients of this sidecar; no NATS subject and no stream has any of it, and no subscription here reaches NATS.
//!
//! Only what mosquitto's bridges say of themselves comes from clients (`bridge_state`).
//!
//! The topics are retained messages of a router of their own, so that who subscribes gets what they say at once, and
//! each change once.
//!
//! - `topics`: those topics, and who is subscribed; here: what is told

pub(in crate::account) mod bridge_state;
mod topics;

use std::collections::HashMap;
use std::sync::Weak;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mqtt_codec::{TopicFilter, TopicName};
use proto_map::MapError;

pub(crate) use self::topics::Sys;
use crate::account::Account;
use crate::account::delivery::core_subscriptions::SubscriptionOrder;
use crate::account::delivery::inbox::Wakes;
use crate::account::delivery::message::Message;
use crate::account::delivery::router::Router;
use crate::account::session_id::SessionId;
use crate::metrics::Totals;

/// How long JetStream may take to say how many messages the log has.
const STORED_PATIENCE: Duration = Duration::from_secs(2);

/// No session has this id.
const NOBODY: SessionId = SessionId(0);

/// The order of a filter that has no NATS subscription.
const NO_ORDER: SubscriptionOrder = SubscriptionOrder(0);

/// Averages over so many minutes, as the last level of `load/…`.
const WINDOWS: [(f64, &str); 3] = [(1.0, "1min"), (5.0, "5min"), (15.0, "15min")];

impl Account {
    /// Whoever routes the messages of a filter.
    pub(in crate::account) fn router_of(&self, filter: &TopicFilter) -> &Router {
        if self.sys.serves(filter) { &self.sys.router } else { &self.router }
    }

    /// Counts a filter up; see `Interest::acquire`.
    pub(in crate::account) fn acquire(&self, filter: &TopicFilter) -> Result<SubscriptionOrder, MapError> {
        if self.sys.serves(filter) { Ok(NO_ORDER) } else { self.interest.acquire(filter) }
    }

    /// Ends a session's subscription and counts its filter down.
    pub(in crate::account) fn leave(&self, filter: &TopicFilter, session: SessionId) {
        self.router_of(filter).unsubscribe(filter, session);
        // Not there when it is served here.
        self.interest.release(filter);
    }

    /// Sets the gauges that nobody pushes.
    pub(crate) fn read_gauges(&self) {
        let (lasting, away) = self.census.counts();
        self.metrics.sessions_stored(lasting, away);
        let retained = self.store.retained().index();
        self.metrics.retained(retained.len(), retained.bytes());
        self.metrics.subscriptions(self.router.subscription_count() + self.sys.router.subscription_count());
    }

    /// Tells clients about this sidecar until the account is gone.
    pub(crate) async fn tell_sys(account: Weak<Self>, every: Duration) {
        let mut interval = tokio::time::interval(every);
        let mut teller = Teller::new();
        loop {
            interval.tick().await;
            let Some(account) = account.upgrade() else { return };
            teller.tell(&account).await;
        }
    }
}

/// What was told last.
struct Teller {
    began: Instant,
    told_at: Instant,
    told: HashMap<String, String>,
    totals: Totals,
    loads: [[f64; WINDOWS.len()]; LOADS.len()],
    /// Messages in the log.
    logged: u64,
}

/// A count and the topic of its averages a minute.
type Load = (&'static str, fn(&Totals) -> u64);

const LOADS: [Load; 9] = [
    ("load/messages/received", |totals| totals.packets[0]),
    ("load/messages/sent", |totals| totals.packets[1]),
    ("load/publish/dropped", |totals| totals.dropped),
    ("load/publish/received", |totals| totals.messages[0]),
    ("load/publish/sent", |totals| totals.messages[1]),
    ("load/bytes/received", |totals| totals.bytes[0]),
    ("load/bytes/sent", |totals| totals.bytes[1]),
    ("load/sockets", |totals| totals.sockets),
    ("load/connections", |totals| totals.connects),
];

impl Teller {
    fn new() -> Self {
        let now = Instant::now();
        let (told, totals) = (HashMap::new(), Totals::default());
        let loads = [[0.0; WINDOWS.len()]; LOADS.len()];
        Self { began: now, told_at: now, told, totals, loads, logged: 0 }
    }

    /// Publishes what has changed.
    async fn tell(&mut self, account: &Account) {
        if *account.store.jetstream_available().borrow()
            && let Ok(Ok(info)) = tokio::time::timeout(STORED_PATIENCE, account.store.backlog().log_info()).await
        {
            self.logged = info.messages;
        }
        account.read_gauges();
        let totals = account.metrics.totals();
        let elapsed = self.told_at.elapsed();
        self.told_at += elapsed;
        self.average(&totals, elapsed);
        let mut wakes = Wakes::default();
        for (name, payload) in self.values(&totals) {
            if self.told.get(&name) == Some(&payload) {
                continue;
            }
            let Ok(topic) = TopicName::new(format!("$SYS/broker/{name}")) else { continue };
            let mut message = Message::new(topic, Bytes::from(payload.clone()), None);
            message.retain = true;
            message.since = account.store.clock().latest();
            account.sys.tell(&mut message, NOBODY, &mut wakes);
            self.told.insert(name, payload);
        }
    }

    /// Exponential averages a minute, over each window.
    fn average(&mut self, totals: &Totals, elapsed: Duration) {
        let minutes = elapsed.as_secs_f64() / 60.0;
        if minutes <= 0.0 {
            return;
        }
        for ((_, of), load) in LOADS.iter().zip(&mut self.loads) {
            let a_minute = of(totals).saturating_sub(of(&self.totals)) as f64 / minutes;
            for ((window, _), load) in WINDOWS.iter().zip(load) {
                let kept = (-minutes / window).exp();
                *load = *load * kept + a_minute * (1.0 - kept);
            }
        }
        self.totals = *totals;
    }

    /// Every topic below `$SYS/broker/` and what it says.
    fn values(&self, totals: &Totals) -> Vec<(String, String)> {
        let stored = self.logged + totals.retained;
        let counts = [
            ("bytes/received", totals.bytes[0]),
            ("bytes/sent", totals.bytes[1]),
            ("clients/active", totals.connected),
            ("clients/connected", totals.connected),
            ("clients/disconnected", totals.offline),
            ("clients/inactive", totals.offline),
            ("clients/maximum", totals.connected_max),
            ("clients/total", totals.connected + totals.offline),
            ("messages/received", totals.packets[0]),
            ("messages/sent", totals.packets[1]),
            ("messages/stored", stored),
            ("publish/bytes/received", totals.payload_bytes[0]),
            ("publish/bytes/sent", totals.payload_bytes[1]),
            ("publish/messages/dropped", totals.dropped),
            ("publish/messages/received", totals.messages[0]),
            ("publish/messages/sent", totals.messages[1]),
            ("retained messages/count", totals.retained),
            ("store/messages/count", stored),
            ("subscriptions/count", totals.subscriptions),
        ];
        let texts = [
            ("uptime", format!("{} seconds", self.began.elapsed().as_secs())),
            ("version", concat!("nats-mqtt version ", env!("CARGO_PKG_VERSION")).to_owned()),
        ];
        let counts = counts.map(|(name, count)| (name.to_owned(), count.to_string()));
        let texts = texts.map(|(name, text)| (name.to_owned(), text));
        let loads = LOADS.iter().zip(&self.loads).flat_map(|((name, _), load)| {
            WINDOWS.iter().zip(load).map(move |((_, window), load)| (format!("{name}/{window}"), format!("{load:.2}")))
        });
        counts.into_iter().chain(texts).chain(loads).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_load_is_its_average_in_the_end() {
        let mut teller = Teller::new();
        let mut totals = Totals::default();
        for _ in 0..6 * 60 {
            totals.sockets += 10;
            teller.average(&totals, Duration::from_secs(10));
        }
        let sockets = teller.loads[7];
        assert!((sockets[0] - 60.0).abs() < 0.01, "{sockets:?}");
        assert!((sockets[1] - 60.0).abs() < 0.01, "{sockets:?}");
        assert!((58.0..60.0).contains(&sockets[2]), "{sockets:?}");
        let values = teller.values(&totals);
        assert!(values.contains(&("load/sockets/1min".to_owned(), "60.00".to_owned())), "{values:?}");
    }
}
