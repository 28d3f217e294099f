//! What `$SYS/broker/…` says, read from the same counters as the metrics.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use mqtt_codec::PacketType;

use super::Counts;

/// Numbers of this process since its start, or of this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Bytes of sockets: received, sent.
    pub(crate) bytes: [u64; 2],
    /// Control packets: received, sent.
    pub(crate) packets: [u64; 2],
    /// Application messages: received, sent.
    pub(crate) messages: [u64; 2],
    /// Bytes of their payloads: received, sent.
    pub(crate) payload_bytes: [u64; 2],
    /// Application messages that were dropped, for whatever reason.
    pub(crate) dropped: u64,
    /// Accepted sockets.
    pub(crate) sockets: u64,
    /// CONNECT packets.
    pub(crate) connects: u64,
    /// Connected clients.
    pub(crate) connected: u64,
    /// The most that were connected at once.
    pub(crate) connected_max: u64,
    /// Sessions whose client is away.
    pub(crate) offline: u64,
    /// Subscriptions.
    pub(crate) subscriptions: u64,
    /// Retained messages.
    pub(crate) retained: u64,
}

/// How much there was to do since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Work {
    /// Bytes that clients have sent.
    pub(crate) received: u64,
    /// Publishes that were acknowledged, and how long all of them took, microseconds.
    pub(crate) acknowledged: u64,
    pub(crate) acknowledged_us: u64,
    /// Connected clients, at this moment.
    pub(crate) clients: u64,
}

impl Work {
    pub(super) const fn plus(self, other: Self) -> Self {
        Self {
            received: self.received + other.received,
            acknowledged: self.acknowledged + other.acknowledged,
            acknowledged_us: self.acknowledged_us + other.acknowledged_us,
            clients: self.clients,
        }
    }

    /// What was done since then. An account that was closed meanwhile may be counted on neither side, or on both.
    pub(crate) const fn since(self, before: Self) -> Self {
        Self {
            received: self.received.saturating_sub(before.received),
            acknowledged: self.acknowledged.saturating_sub(before.acknowledged),
            acknowledged_us: self.acknowledged_us.saturating_sub(before.acknowledged_us),
            clients: self.clients,
        }
    }
}

impl Counts {
    /// See [`Work`]; not the clients.
    pub(super) fn work(&self) -> Work {
        let [received, _] = &self.bytes;
        let all = || self.ack.iter();
        Work {
            received: received.load(Relaxed),
            acknowledged: all().map(|histogram| sum(&histogram.buckets)).sum(),
            acknowledged_us: all().map(|histogram| histogram.sum_us.load(Relaxed)).sum(),
            clients: 0,
        }
    }

    /// All of them now.
    pub(crate) fn totals(&self) -> Totals {
        let [received, sent] = &self.packets;
        let [published, delivered] = &self.messages;
        Totals {
            bytes: self.bytes.each_ref().map(|n| n.load(Relaxed)),
            packets: [sum(received), sum(sent)],
            messages: [sum(published), sum(delivered)],
            payload_bytes: self.payload_bytes.each_ref().map(|n| n.load(Relaxed)),
            dropped: sum(&self.dropped),
            sockets: self.sockets.load(Relaxed),
            connects: received.get(PacketType::Connect as usize).map_or(0, |n| n.load(Relaxed)),
            connected: gauge(&self.connections),
            connected_max: gauge(&self.connections_max),
            offline: gauge(&self.sessions_offline),
            subscriptions: gauge(&self.subscriptions),
            retained: gauge(&self.retained),
        }
    }
}

fn sum(counters: &[AtomicU64]) -> u64 {
    counters.iter().map(|n| n.load(Relaxed)).sum()
}

fn gauge(gauge: &AtomicI64) -> u64 {
    u64::try_from(gauge.load(Relaxed)).unwrap_or(0)
}
