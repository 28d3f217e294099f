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

impl Counts {
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
