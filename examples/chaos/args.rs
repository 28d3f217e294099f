//! The command line.

use clap::Parser;

use crate::disasters::Disaster;

/// Clients that do what clients do, while everything behind them is killed, stopped and cut off; and a witness who says at
/// the end what was lost, repeated, out of order or wrong. The exit code is 1 when anything was.
#[derive(Clone, Debug, Parser)]
pub(crate) struct Args {
    /// How long it rages, minutes; it takes two or three more to calm down and to look at everything.
    #[arg(long, default_value_t = 10.0)]
    pub(crate) minutes: f64,
    /// Seed of the disasters and of what clients choose; when exactly is decided by the machine.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// nats-servers: one, or a cluster of three or five.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    pub(crate) servers: u8,
    /// Sidecars.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=5))]
    pub(crate) sidecars: u8,
    /// Publishers of each QoS.
    #[arg(long, default_value_t = 3)]
    pub(crate) publishers: usize,
    /// Durable subscribers of each QoS.
    #[arg(long, default_value_t = 2)]
    pub(crate) subscribers: usize,
    /// Clients with wills at a time.
    #[arg(long, default_value_t = 8)]
    pub(crate) mortals: usize,
    /// Clients at a time that publish retained messages and move while they do.
    #[arg(long, default_value_t = 4)]
    pub(crate) movers: usize,
    /// Messages a second of each publisher, at most.
    #[arg(long, default_value_t = 50)]
    pub(crate) rate: u32,
    /// A subscriber to `#` at QoS 0 stands beside.
    #[arg(long)]
    pub(crate) wildcard: bool,
    /// Only these disasters; all others are left out.
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<Disaster>,
    /// All disasters but these.
    #[arg(long, value_delimiter = ',')]
    pub(crate) without: Vec<Disaster>,
    /// How long it is between two disasters of a kind, as a factor: 2 is half as many.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) pace: f64,
    /// Log level of the sidecars.
    #[arg(long, default_value = "info")]
    pub(crate) sidecar_log: String,
    /// Where logs and traces go when something is wrong; a directory for temporary files when it is not given.
    #[arg(long)]
    pub(crate) dir: Option<std::path::PathBuf>,
}

impl Args {
    /// The disasters of this run.
    pub(crate) fn disasters(&self) -> Vec<Disaster> {
        let is_wanted = |d: &Disaster| (self.only.is_empty() || self.only.contains(d)) && !self.without.contains(d);
        Disaster::ALL.into_iter().filter(is_wanted).collect()
    }
}
