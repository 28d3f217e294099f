//! The streams and buckets that an account has of ours.

use proto_map::{Names, SpecOptions, StreamSpec};

use super::home::Leases;

/// What each of them is to be.
pub(super) struct Specs {
    pub(super) log: StreamSpec,
    pub(super) backlog: StreamSpec,
    pub(super) retained: StreamSpec,
    pub(super) sessions: StreamSpec,
    pub(super) keys: StreamSpec,
    pub(super) nodes: StreamSpec,
    pub(super) accounts: StreamSpec,
    /// Which need not be there.
    pub(super) bans: StreamSpec,
}

impl Specs {
    pub(super) fn new(names: &Names, options: &SpecOptions) -> Self {
        Self {
            log: names.log_spec(options),
            backlog: names.backlog_spec(options),
            retained: names.retained_spec(options),
            sessions: names.sessions_spec(options),
            keys: names.keys_spec(options),
            nodes: names.nodes_spec(options),
            accounts: names.accounts_spec(options),
            bans: names.bans_spec(options),
        }
    }

    /// Those that have to be there, where the sidecars have their leases so.
    pub(super) fn needed(&self, leases: &Leases) -> impl Iterator<Item = &StreamSpec> {
        let Self { log, backlog, retained, sessions, keys, nodes, accounts, bans: _ } = self;
        let of_sidecars = [leases.are_here().then_some(nodes), leases.are_for_others().then_some(accounts)];
        [log, retained, sessions, backlog, keys].into_iter().chain(of_sidecars.into_iter().flatten())
    }
}
