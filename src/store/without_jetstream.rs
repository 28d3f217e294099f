//! An account without JetStream: two connections, and nothing that is asked of JetStream but now and then whether it is there by
//! now. What would need it is there, runs nothing, and is answered at once that there is none. Sidecars know each other by the leases
//! and the keys of the account that has them.

use std::sync::Arc;

use super::absent::{Absent, Elsewhere};
use super::api::Api;
use super::api_errors::ApiErrors;
use super::assets::Assets;
use super::backlog::Backlog;
use super::bucket::Bucket;
use super::core::{CoreNats, CoreSink, Seals};
use super::error::OpenError;
use super::home::Home;
use super::horizon::Horizons;
use super::jetstream::NatsPeers;
use super::kv_updates::KvUpdates;
use super::log::Log;
use super::needs::Needs;
use super::publisher::Publisher;
use super::reply_key::ReplyKeys;
use super::retained::Retained;
use super::rooms::Rooms;
use super::sessions::Sessions;
use super::share::Shares;
use super::streams::Streams;
use super::{Found, LogMaker, Store, connected, serve_echo};

impl Store {
    /// What there is in an account without JetStream.
    pub(super) async fn without_jetstream(
        found: Found,
        Elsewhere { account, nodes, keys }: Elsewhere<'_>,
        needs: Needs,
        core_sink: Arc<dyn CoreSink>,
    ) -> Result<Self, OpenError> {
        let Found { connector, mut core_link, api: looks, names, specs, limits, ends: _ends } = found;
        let (keys, clock) = (keys.for_account(account), keys.clock().clone());
        // No answer tells the time here, and what was answered so far is no fault.
        let mut link = looks.link.clone();
        for link in [&mut core_link, &mut link] {
            (link.clock, link.errors) = (clock.clone(), ApiErrors::default());
        }
        let (horizons, rooms) = (Horizons::default(), Rooms::new(Vec::new()));
        let api = Api { link: link.clone(), horizons, rooms: rooms.clone(), is_absent: true };
        let (payload_max, assets) = (core_link.client.max_payload(), Assets::unchecked(api.clone(), needs));
        let bucket = |spec| Bucket::new(api.clone(), assets.clone(), spec);
        let sessions = bucket(specs.sessions);
        let log = |stream: &str| Log::new(api.clone(), link.clone(), stream, "", payload_max, None);
        let (of_api, of_names) = (api.clone(), names.clone());
        let backlog = Backlog::new(sessions.clone(), of_api, of_names, payload_max, assets.clone(), specs.backlog);
        let retained = Retained::start(api.clone(), link.clone(), names.clone(), assets, specs.retained, payload_max);
        let echo = serve_echo(&link, &names).await?;
        let seals = Seals::new(keys.clone(), nodes.clone());
        let core = CoreNats::start(core_link.clone(), link.clone(), seals.clone(), &echo, core_sink);
        let (tasks, link_tasks) = (connector.tasks.clone(), connector.links.clone());
        Ok(Self {
            connected: connected(&core_link),
            publisher: Publisher::idle(&names, limits.publisher, rooms),
            log: log(&names.log_stream()),
            logs: LogMaker { api: api.clone(), tail: link.clone(), payload_max },
            streams: Streams::start(api.clone()),
            retained,
            backlog,
            kv_updates: KvUpdates::new(sessions.clone(), log(&names.retained_stream()), names.clone()),
            sessions: Sessions::new(sessions, api.clone(), names.clone(), payload_max),
            home: Home { account_name: None, accounts: None, nodes: nodes.clone(), bans: None },
            reply_keys: ReplyKeys::derived(keys.clone()),
            keys,
            peers: NatsPeers::new(nodes, &core, names),
            core,
            shares: Shares::new(api, link.clone(), link.clone(), seals, &echo),
            links: Box::new([core_link.clone(), link]),
            core_link,
            tasks,
            link_tasks,
            absent: Some(Absent::new(looks)),
            _ends,
        })
    }
}
