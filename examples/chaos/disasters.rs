//! What can happen, and the plans in which it does: which, how long, to whom, after which pause. A plan is made of the seed
//! alone.

use std::time::Duration;

use clap::ValueEnum;

use crate::random::Random;

/// Something that happens to processes, to links, to streams, or that clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Disaster {
    /// SIGKILL of a sidecar, which is started again.
    KillSidecar,
    /// SIGSTOP of a sidecar for up to 12 seconds.
    StopSidecar,
    /// SIGSTOP of a sidecar for longer than its lease.
    FreezeSidecar,
    /// SIGTERM of a sidecar, which is started again when it has ended.
    TermSidecar,
    /// SIGKILL of a nats-server, which is started again.
    KillServer,
    /// SIGSTOP of a nats-server for up to 12 seconds.
    StopServer,
    /// A stream's leader steps down and at the same moment the server that leads another one is stopped.
    StopLeader,
    /// A sidecar's connections to NATS break, and new ones lead nowhere for a while.
    CutLink,
    /// Nothing passes between a sidecar and NATS for a while, and nobody is told; then all of it does.
    DarkLink,
    /// The same, and then the connections break.
    HalfLink,
    /// What NATS answers is lost for a while, then the connections break.
    MuteLink,
    /// What a sidecar sends is late: it arrives when its connection is long gone.
    LateLink,
    /// The way to NATS is slow for a while.
    SlowLink,
    /// Routes between nats-servers break, and new ones lead nowhere for a while.
    CutRoute,
    /// Nothing passes between nats-servers for a while, and nobody is told.
    DarkRoute,
    /// The leader of a stream steps down; each stream in its turn.
    Stepdown,
    /// Clients reset their connection in the middle of CONNECT, after any number of bytes, and are back at once.
    ResetConnect,
    /// Clients leave connections behind that they do not close.
    Zombie,
    /// Clients connect twice at the same moment.
    Twin,
}

impl Disaster {
    pub(crate) const ALL: [Self; 19] = [
        Self::KillSidecar,
        Self::StopSidecar,
        Self::FreezeSidecar,
        Self::TermSidecar,
        Self::KillServer,
        Self::StopServer,
        Self::StopLeader,
        Self::CutLink,
        Self::DarkLink,
        Self::HalfLink,
        Self::MuteLink,
        Self::LateLink,
        Self::SlowLink,
        Self::CutRoute,
        Self::DarkRoute,
        Self::Stepdown,
        Self::ResetConnect,
        Self::Zombie,
        Self::Twin,
    ];

    /// What happens to a sidecar.
    pub(crate) const SIDECAR: &[Self] = &[Self::KillSidecar, Self::StopSidecar, Self::FreezeSidecar, Self::TermSidecar];
    /// What happens to nats-servers.
    pub(crate) const SERVER: &[Self] = &[Self::KillServer, Self::StopServer, Self::StopLeader];
    /// What happens between a sidecar and NATS.
    pub(crate) const LINK: &[Self] =
        &[Self::CutLink, Self::DarkLink, Self::HalfLink, Self::MuteLink, Self::LateLink, Self::SlowLink];
    /// What happens between nats-servers.
    pub(crate) const ROUTE: &[Self] = &[Self::CutRoute, Self::DarkRoute];
    /// What happens to streams.
    pub(crate) const STREAM: &[Self] = &[Self::Stepdown];

    /// How long it takes, from and to, in milliseconds.
    const fn length_ms(self) -> (u64, u64) {
        match self {
            Self::KillSidecar => (50, 1_500),
            Self::StopSidecar | Self::StopServer => (100, 12_000),
            Self::FreezeSidecar => (26_000, 34_000),
            Self::TermSidecar => (0, 500),
            Self::KillServer | Self::CutLink | Self::CutRoute => (50, 3_000),
            Self::StopLeader => (1_000, 4_000),
            Self::DarkLink | Self::HalfLink => (500, 12_000),
            Self::MuteLink | Self::LateLink => (200, 8_000),
            Self::SlowLink | Self::DarkRoute => (500, 8_000),
            Self::Stepdown | Self::ResetConnect | Self::Zombie | Self::Twin => (0, 0),
        }
    }

    /// How long it is quiet before it, from and to, in milliseconds.
    const fn gap_ms(self) -> (u64, u64) {
        match self {
            Self::KillSidecar | Self::StopSidecar | Self::FreezeSidecar | Self::TermSidecar => (2_000, 8_000),
            Self::KillServer | Self::StopServer | Self::StopLeader => (4_000, 12_000),
            Self::CutRoute | Self::DarkRoute => (6_000, 20_000),
            Self::Stepdown => (800, 4_000),
            _ => (4_000, 14_000),
        }
    }
}

/// One of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Act {
    pub(crate) disaster: Disaster,
    /// How long it is quiet before.
    pub(crate) gap: Duration,
    pub(crate) length: Duration,
    /// Decides whom it hits.
    pub(crate) choice: usize,
}

/// What happens in one place, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    random: Random,
    disasters: Vec<Disaster>,
    pace: f64,
}

impl Plan {
    /// Those of `here` that are among `wanted`.
    pub(crate) fn new(random: Random, here: &[Disaster], wanted: &[Disaster], pace: f64) -> Self {
        let disasters = here.iter().copied().filter(|disaster| wanted.contains(disaster)).collect();
        Self { random, disasters, pace }
    }

    /// The next one; none when nothing may happen here.
    pub(crate) fn next(&mut self) -> Option<Act> {
        let count = self.disasters.len();
        let mut disaster = *self.disasters.get(self.random.below(count.max(1)))?;
        // It takes half a minute, so it is rare.
        if disaster == Disaster::FreezeSidecar && !self.random.one_in(3) {
            disaster = self.disasters[self.random.below(count)];
        }
        let (gap, length) = (disaster.gap_ms(), disaster.length_ms());
        Some(Act {
            disaster,
            gap: self.random.ms(gap.0, gap.1).mul_f64(self.pace),
            length: self.random.ms(length.0, length.1),
            choice: self.random.below(1 << 16),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acts(seed: u64, wanted: &[Disaster]) -> Vec<Act> {
        let mut plan = Plan::new(Random::new(seed), Disaster::SIDECAR, wanted, 1.0);
        std::iter::from_fn(|| plan.next()).take(50).collect()
    }

    #[test]
    fn a_plan_is_made_of_its_seed() {
        assert_eq!(acts(7, &Disaster::ALL), acts(7, &Disaster::ALL));
        assert_ne!(acts(7, &Disaster::ALL), acts(8, &Disaster::ALL));
    }

    #[test]
    fn only_what_is_wanted_happens() {
        let some = acts(7, &[Disaster::TermSidecar, Disaster::KillServer]);
        assert!(!some.is_empty() && some.iter().all(|act| act.disaster == Disaster::TermSidecar));
        assert_eq!(acts(7, &[Disaster::KillServer]), []);
    }
}
