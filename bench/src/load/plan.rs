//! Who publishes to whom, and what that is judged by.

/// The figures that a load is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judged {
    /// How much gets through.
    Throughput,
    /// How long each message takes, at a rate that everybody manages.
    Latency,
    /// How long one message takes when no other is on its way.
    RoundTrip,
}

/// Who publishes to whom. One publisher and many subscribers: all get everything. Many and one: it gets everything. As many
/// as there are publishers: each gets what one of them publishes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Load {
    pub(crate) qos: u8,
    pub(crate) publishers: usize,
    pub(crate) subscribers: usize,
    /// Messages that a publisher has sent and that are not acknowledged, at QoS 1 and 2.
    pub(crate) in_flight: u16,
    /// Messages that a publisher has sent and that have not reached its subscribers.
    pub(crate) window: u64,
    /// Messages a second of all publishers.
    pub(crate) rate: Option<u32>,
    pub(crate) judged: Judged,
    /// Subscribers have sessions that outlive their connections.
    pub(crate) is_durable: bool,
}

impl Load {
    pub(super) fn filter(&self, prefix: &str, subscriber: usize) -> String {
        match (self.publishers, self.subscribers) {
            (1, _) => format!("{prefix}/0"),
            (_, 1) => format!("{prefix}/+"),
            _ => format!("{prefix}/{subscriber}"),
        }
    }

    /// How many subscribers get each message.
    pub(super) fn fan_out(&self) -> u64 {
        if self.publishers == 1 { self.subscribers as u64 } else { 1 }
    }
}
