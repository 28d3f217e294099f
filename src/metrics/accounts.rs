//! The metrics of the process, and those of its accounts, which are summed when somebody asks.
//!
//! **Invariant:** what was counted stays counted, and once: an account that goes leaves its counters to the process, and nobody sums
//! meanwhile.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use super::{BanCounts, Counts, Totals, Vitals, Work, process};
use crate::readiness::Readiness;

/// The metrics of the process. By itself it counts what belongs to no account, or to none yet.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Those, and what accounts have counted that are gone.
    own: Counts,
    accounts: Mutex<Vec<Arc<Counts>>>,
    readiness: OnceLock<Readiness>,
    /// Until when what is in the files of TLS counts.
    tls_terms: Mutex<BTreeMap<u64, TlsTerms>>,
    /// Of bans.
    pub(crate) bans: BanCounts,
}

/// What is shown of the files of one TLS.
#[derive(Debug)]
struct TlsTerms {
    listener: Box<str>,
    terms: Vec<(&'static str, u64)>,
}

/// The metrics of one account, in those of the process for as long as this is there.
#[derive(Debug)]
pub struct AccountMetrics {
    counts: Arc<Counts>,
    process: Weak<Metrics>,
}

impl Metrics {
    /// Counters at zero.
    #[must_use]
    pub fn new() -> Arc<Self> {
        // The first call remembers the time.
        process::start_time_seconds();
        Arc::default()
    }

    /// Those of an account that is opened.
    #[must_use]
    pub fn account(self: &Arc<Self>) -> Arc<AccountMetrics> {
        let counts = Arc::<Counts>::default();
        self.accounts.lock().push(Arc::clone(&counts));
        Arc::new(AccountMetrics { counts, process: Arc::downgrade(self) })
    }

    /// Accounts that are there.
    #[must_use]
    pub fn accounts(&self) -> usize {
        self.accounts.lock().len()
    }

    /// Shows how its conditions stand when somebody asks. There is one of the process, so the first one stays.
    pub fn readiness(&self, readiness: &Readiness) {
        let _ = self.readiness.set(readiness.clone());
    }

    /// Shows until when what is in the files of one TLS counts, each by its key and in seconds since 1970, in place of what was shown of
    /// it before.
    pub(crate) fn tls_terms(&self, tls: u64, listener: &str, terms: Vec<(&'static str, u64)>) {
        self.tls_terms.lock().insert(tls, TlsTerms { listener: listener.into(), terms });
    }

    /// Shows nothing of one TLS any more.
    pub(crate) fn forget_tls_terms(&self, tls: u64) {
        self.tls_terms.lock().remove(&tls);
    }

    /// By listener and key; of several, the first that ends.
    pub(super) fn shown_tls_terms(&self) -> BTreeMap<(String, &'static str), u64> {
        let mut shown = BTreeMap::new();
        for TlsTerms { listener, terms } in self.tls_terms.lock().values() {
            for (key, until_s) in terms {
                let first = shown.entry((listener.to_string(), *key)).or_insert(*until_s);
                *first = (*first).min(*until_s);
            }
        }
        shown
    }

    /// What tells how much there is to do, of all accounts since the start.
    pub(crate) fn work(&self) -> Work {
        let accounts = self.accounts.lock();
        let all = [&self.own].into_iter().chain(accounts.iter().map(|counts| &**counts));
        let sum = all.map(Counts::work).reduce(Work::plus).unwrap_or_default();
        Work { clients: self.own.totals().connected, ..sum }
    }

    pub(super) fn conditions(&self) -> Option<&Readiness> {
        self.readiness.get()
    }

    /// All of it, and how the parts are, if there are any.
    pub(super) fn sum(&self) -> (Counts, Option<Vitals>) {
        // First: what reads them brings the gauges up to date that nobody pushes. Not under the lock: whoever reads may be the
        // last who holds its account.
        let accounts = self.accounts.lock().clone();
        let all = [&self.own].into_iter().chain(accounts.iter().map(|counts| &**counts));
        let vitals = all.filter_map(Counts::vitals).reduce(Vitals::merged);
        let total = Counts::default();
        let accounts = self.accounts.lock();
        for counts in [&self.own].into_iter().chain(accounts.iter().map(|counts| &**counts)) {
            total.add_counters(counts);
            total.add_gauges(counts);
        }
        total.set_connections(&self.own);
        (total, vitals)
    }
}

impl Deref for Metrics {
    type Target = Counts;

    fn deref(&self) -> &Counts {
        &self.own
    }
}

impl AccountMetrics {
    /// What `$SYS` says. Who accepts a socket does not know whose it will be.
    pub(crate) fn totals(&self) -> Totals {
        let sockets = self.process().map_or(0, |process| process.own.totals().sockets);
        Totals { sockets, ..self.counts.totals() }
    }

    /// Those of the process, while there is one.
    pub(super) fn process(&self) -> Option<Arc<Metrics>> {
        self.process.upgrade()
    }
}

impl Deref for AccountMetrics {
    type Target = Counts;

    fn deref(&self) -> &Counts {
        &self.counts
    }
}

impl Drop for AccountMetrics {
    fn drop(&mut self) {
        let Some(process) = self.process() else { return };
        let mut accounts = process.accounts.lock();
        accounts.retain(|counts| !Arc::ptr_eq(counts, &self.counts));
        process.own.add_counters(&self.counts);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mqtt_codec::{PacketType, QoS, ReasonCode};

    use super::super::{Direction, DropReason, Opening};
    use super::*;
    use crate::store::{ApiErrors, LinkCounts, StreamRoom};

    fn has(metrics: &Arc<Metrics>, lines: &[&str]) {
        let text = metrics.render();
        for line in lines {
            assert!(text.lines().any(|have| have == *line), "no line {line}\n{text}");
        }
    }

    /// Counts something of each kind.
    fn work(metrics: &AccountMetrics, n: u64) {
        metrics.packets(Direction::In, PacketType::Publish, n);
        metrics.dropped(DropReason::TooLarge, n);
        metrics.connect(ReasonCode::Success);
        metrics.publish_acknowledged(QoS::AtLeastOnce, Duration::from_millis(n));
        metrics.opening(Opening::Turn, 100);
        metrics.opening(Opening::Turn, 10);
        metrics.retained(5, 50);
        metrics.nats_connected(true);
        let (errors, links) = (ApiErrors::default(), LinkCounts::default());
        (0..n).for_each(|_| errors.count(10_014));
        (0..n).for_each(|_| links.reconnected());
        metrics.js_api_errors(&errors);
        metrics.link_counts(&links);
        let room = move |bytes| StreamRoom {
            stream: "MQTT_log".into(),
            is_ours: true,
            bytes: Some(bytes),
            bytes_max: None,
            full: (n > 3).then(|| "why".to_owned()),
        };
        metrics.read_vitals(move || {
            let (sessions, streams, lag) = ([n, 1], vec![room(n)], 10 - n);
            Some(Vitals { sessions, permits_waited: n, tail_lag: lag, streams, ..Vitals::default() })
        });
    }

    #[test]
    fn accounts_are_summed_and_what_they_have_counted_stays_when_they_are_gone() {
        let metrics = Metrics::new();
        metrics.connect(ReasonCode::Success);
        let (first, second) = (metrics.account(), metrics.account());
        work(&first, 3);
        work(&second, 4);
        let counted = [
            "mqtt_packets_total{direction=\"in\",type=\"publish\"} 7",
            "mqtt_messages_dropped_total{reason=\"too_large\"} 7",
            "mqtt_connect_total{result=\"success\"} 3",
            "mqtt_publish_ack_duration_seconds_count{qos=\"1\"} 2",
            "mqtt_opening_bytes_max{what=\"turn\"} 100",
            "nats_js_api_errors_total{code=\"10014\"} 7",
            "nats_reconnects_total 7",
            "mqtt_permits_waited_total 7",
        ];
        has(&metrics, &counted);
        let gauges = [
            "mqtt_retained_messages 10",
            "mqtt_opening_bytes{what=\"turn\"} 20",
            "mqtt_sessions{state=\"live\"} 7",
            "mqtt_tail_lag 7",
            "mqtt_stream_bytes{stream=\"MQTT_log\"} 7",
            "mqtt_stream_full{stream=\"MQTT_log\"} 1",
            "nats_connected 1",
        ];
        has(&metrics, &gauges);
        second.nats_connected(false);
        has(&metrics, &["nats_connected 0"]);
        drop(second);
        assert_eq!(metrics.accounts(), 1);
        has(&metrics, &counted[..7]);
        has(
            &metrics,
            &["mqtt_permits_waited_total 7", "mqtt_retained_messages 5", "mqtt_tail_lag 7", "nats_connected 1"],
        );
        drop(first);
        has(&metrics, &counted[..7]);
        has(&metrics, &["mqtt_retained_messages 0", "nats_connected 0"]);
    }

    #[test]
    fn the_most_clients_at_once_are_those_of_all_accounts() {
        let metrics = Metrics::new();
        let (first, second) = (metrics.account(), metrics.account());
        let both = (first.connection(), second.connection());
        has(&metrics, &["mqtt_connections 2", "mqtt_connections_max 2"]);
        drop(both);
        drop(second.connection());
        has(&metrics, &["mqtt_connections 0", "mqtt_connections_max 2"]);
        metrics.socket();
        let totals = second.totals();
        assert_eq!((totals.connected, totals.connected_max, totals.sockets), (0, 1, 1));
    }
}
