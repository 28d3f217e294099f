//! How what several have counted becomes one.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::Counts;

impl Counts {
    /// Adds what never falls.
    pub(super) fn add_counters(&self, other: &Self) {
        for (into, counter) in self.counters().zip(other.counters()) {
            into.fetch_add(counter.load(Relaxed), Relaxed);
        }
        // The limit is one of each account.
        for (into, most) in self.opening_max.iter().zip(&other.opening_max) {
            into.fetch_max(most.load(Relaxed), Relaxed);
        }
        if let Some(errors) = other.js_errors.get() {
            self.js_errors.get_or_init(Default::default).add(errors);
        }
        if let Some(links) = other.links.get() {
            self.links.get_or_init(Default::default).add(links);
        }
    }

    /// Each counter, in an order. One that is new has to be named here.
    fn counters(&self) -> impl Iterator<Item = &AtomicU64> {
        let Self {
            // Added by themselves.
            opening_max: _,
            js_errors: _,
            links: _,
            // Of this moment: see `add_gauges`.
            connections: _,
            connections_max: _,
            opening: _,
            subscriptions: _,
            sessions_offline: _,
            sessions_stored: _,
            retained: _,
            retained_bytes: _,
            requests_pending: _,
            share_groups: _,
            share_members: _,
            scans_running: _,
            outputs_held: _,
            nats_connected: _,
            vitals: _,
            sockets,
            bytes,
            packets,
            messages,
            payload_bytes,
            dropped,
            ack,
            connects,
            connects_over_limit: over_limit_of_all,
            auth_refused,
            tls_failed,
            proxy_refused,
            websocket_refused,
            disconnects,
            disconnects_by_client: by_client,
            disconnects_lost: lost,
            events_dropped: events,
            sessions_adopted: adopted,
            wills,
            requests,
            shared,
            over_limit,
            takeovers,
            scans,
            of_parts,
        } = self;
        let single = [sockets, over_limit_of_all, by_client, lost, events, adopted, scans];
        let several: [&[AtomicU64]; 15] = [
            bytes,
            payload_bytes,
            dropped,
            connects,
            auth_refused,
            tls_failed,
            proxy_refused,
            websocket_refused,
            disconnects,
            wills,
            requests,
            shared,
            over_limit,
            takeovers,
            of_parts,
        ];
        let histograms = ack.iter().flat_map(|histogram| histogram.buckets.iter().chain([&histogram.sum_us]));
        let by_kind = packets.iter().flatten().chain(messages.iter().flatten());
        single.into_iter().chain(several.into_iter().flatten()).chain(by_kind).chain(histograms)
    }

    /// Adds what is of this moment.
    pub(super) fn add_gauges(&self, other: &Self) {
        for (into, bytes) in self.opening.iter().zip(&other.opening) {
            into.fetch_add(bytes.load(Relaxed), Relaxed);
        }
        for (into, gauge) in [
            (&self.subscriptions, &other.subscriptions),
            (&self.sessions_offline, &other.sessions_offline),
            (&self.sessions_stored, &other.sessions_stored),
            (&self.retained, &other.retained),
            (&self.retained_bytes, &other.retained_bytes),
            (&self.requests_pending, &other.requests_pending),
            (&self.share_groups, &other.share_groups),
            (&self.share_members, &other.share_members),
            (&self.scans_running, &other.scans_running),
            (&self.outputs_held, &other.outputs_held),
        ] {
            into.fetch_add(gauge.load(Relaxed), Relaxed);
        }
        // NATS is there when it is there for all who have said something.
        let (before, theirs) = (self.nats_connected.load(Relaxed), other.nats_connected.load(Relaxed));
        if theirs >= 0 && (before < 0 || theirs < before) {
            self.nats_connected.store(theirs, Relaxed);
        }
    }

    /// Connections are counted by the process as well, which is the only one who knows the most at once.
    pub(super) fn set_connections(&self, process: &Self) {
        self.connections.store(process.connections.load(Relaxed), Relaxed);
        self.connections_max.store(process.connections_max.load(Relaxed), Relaxed);
    }
}
