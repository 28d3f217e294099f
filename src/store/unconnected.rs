//! A store that never reaches NATS, for tests of what goes on without it.

use std::sync::Arc;

use super::connection::{Connector, Link};
use super::*;

/// What the server would take in one message.
const MAX_PAYLOAD: usize = 1 << 20;

impl Store {
    /// Nothing is connected, and nothing ever will be.
    pub(crate) fn unconnected(options: StoreOptions) -> Self {
        struct Nobody;
        impl CoreSink for Nobody {
            fn message(&self, _subscription_id: u64, _message: CoreMessage) {}

            fn is_captured(&self, _subject: &str) -> bool {
                false
            }

            fn flush(&self) {}
        }
        let StoreOptions { nats, assets: AssetOptions { names, specs, .. }, publisher, .. } = options;
        let connector = Connector::nowhere(nats, names.inbox_prefix());
        let (tasks, link_tasks) = (connector.tasks.clone(), connector.links.clone());
        let (horizons, rooms) = (Horizons::default(), Rooms::new(streams_of(&names, &[], &Leases::Here)));
        let link = |name| connector.unconnected(role(name, false, QUEUE, READER_QUEUE), MAX_PAYLOAD);
        let api_on = |link: Link| Api { link, horizons: horizons.clone(), rooms: rooms.clone(), is_absent: false };
        let (core_link, tail, share) = (link("core"), link("tail"), link("share"));
        let (api, state) = (api_on(link("api")), api_on(link("state")));
        let assets =
            Assets::unchecked(api.clone(), Needs::new(&names, connector.inbox_prefix(), Leases::Here.buckets(&names)));
        let bucket = |spec| Bucket::new(state.clone(), assets.clone(), spec);
        let (sessions_bucket, keys_bucket) = (bucket(names.sessions_spec(&specs)), bucket(names.keys_spec(&specs)));
        let log = |stream: &str| Log::new(api.clone(), tail.clone(), stream, "", MAX_PAYLOAD, None);
        let nodes = Nodes::new(bucket(names.nodes_spec(&specs)), api.clone(), names.clone());
        let keys = Keys::unstored(keys_bucket.clone(), names.account_keys());
        let seals = Seals::new(keys.clone(), nodes.clone());
        let retained_spec = names.retained_spec(&specs);
        let core = CoreNats::start(core_link.clone(), state.link.clone(), seals.clone(), "", Arc::new(Nobody));
        Self {
            connected: connected(&core_link),
            publisher: Publisher::start(connector, &names, publisher, (horizons.clone(), rooms.clone()), false),
            log: log(&names.log_stream()),
            logs: LogMaker { api: api.clone(), tail: tail.clone(), payload_max: MAX_PAYLOAD },
            streams: Streams::start(state.clone()),
            retained: Retained::start(
                api.clone(),
                api.link.clone(),
                names.clone(),
                assets.clone(),
                retained_spec,
                MAX_PAYLOAD,
            ),
            sessions: Sessions::new(sessions_bucket.clone(), api.clone(), names.clone(), MAX_PAYLOAD),
            backlog: Backlog::new(
                sessions_bucket.clone(),
                api.clone(),
                names.clone(),
                MAX_PAYLOAD,
                assets.clone(),
                names.backlog_spec(&specs),
            ),
            kv_updates: KvUpdates::new(sessions_bucket.clone(), log(&names.retained_stream()), names.clone()),
            reply_keys: ReplyKeys::new(keys_bucket, sessions_bucket, &names),
            keys,
            peers: NatsPeers::new(&nodes, &core, names.clone()),
            core,
            home: Home { account_name: None, accounts: None, nodes, bans: None },
            shares: Shares::new(api.clone(), share.clone(), state.link.clone(), seals, ""),
            links: Box::new([&core_link, &api.link, &tail, &state.link, &share].map(Link::clone)),
            core_link,
            absent: None,
            _ends: EndOnDrop(tasks.clone()),
            tasks,
            link_tasks,
        }
    }
}
