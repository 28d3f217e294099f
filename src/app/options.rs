//! What each part is told, from the configuration.

use std::num::{NonZeroU16, NonZeroU32};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mqtt_access::AccountId;
use mqtt_codec::{DecoderOptions, Role};
use mqtt_session::{Limits, Patience};
use proto_map::{ClosedTrees, DeclaredLog, Names, RootWildcard, SpecOptions, Storage, StreamSpec};

use crate::account::{
    AccountOptions, AccountSpec, DeniedPublish, InboxLimits, Publishers, Quotas, Redirect, RequestOptions,
    RightsOptions,
};
use crate::auth::{Authenticator, JUDGED_WITHIN, NatsWays};
use crate::config::{
    self, AuthMode, Config, DeclaredLogConfig, Discard, Ingest, LogStorage, NatsAuth, OnDeniedPublish, Overlapping,
    SessionOwner, WideFilters,
};
use crate::connection::Door;
use crate::metrics::Metrics;
use crate::store::{
    AssetOptions, CoreLimits, Credentials, Leases, NatsOptions, PublisherLimits, ShareTimes, StoreOptions, TlsOptions,
};

/// QoS 1 and 2 messages that wait in memory for one client, behind its window.
const FEED_MESSAGES: usize = 1000;

/// Bytes of them.
const FEED_BYTES: usize = 1024 * 1024;

/// The account, when its store is told this.
pub(super) fn spec(config: &Config, store: StoreOptions) -> AccountSpec {
    let opened: Vec<&str> = config.open_trees.iter().map(String::as_str).collect();
    let subject_prefix = store.assets.names.subject_prefix();
    AccountSpec {
        options: account(config),
        fits_packets_to_nats: config.mqtt.max_packet_size.as_usize() == 0,
        closed: ClosedTrees::new(subject_prefix, &opened).with_root_wildcard(root_wildcard(config)),
        sys_interval: config.mqtt.sys_interval.get(),
        leases: leases(config),
        store,
    }
}

/// What the store is told. `connect_timeout`: give up when no server answers for this long.
pub(crate) fn store(config: &Config, connect_timeout: Option<Duration>) -> Result<StoreOptions, proto_map::MapError> {
    let names = Names::new(&config.jetstream.prefix, &config.jetstream.subject_prefix)?;
    let replicas = (config.jetstream.replicas > 0).then_some(config.jetstream.replicas);
    let specs = SpecOptions {
        log_max_age_s: config.jetstream.log.max_age.get().as_secs(),
        log_max_bytes: config.jetstream.log.max_bytes.0,
        backlog_max_bytes: config.jetstream.backlog.max_bytes.0,
        session_queue_max: config.mqtt.session_queue,
        session_queue_discard_oldest: config.mqtt.discard == Discard::Oldest,
        ..SpecOptions::default()
    };
    let declared = config.jetstream.logs.iter().map(|log| declared(&names, log)).collect::<Result<_, _>>()?;
    Ok(StoreOptions {
        assets: AssetOptions { names, specs, declared, replicas },
        nats: nats(config),
        publisher: PublisherLimits {
            in_flight_max: config.jetstream.publish_inflight as usize,
            ..PublisherLimits::default()
        },
        core: CoreLimits::default(),
        connect_timeout,
    })
}

/// A log that is declared, as a stream, with its replicas.
fn declared(names: &Names, log: &DeclaredLogConfig) -> Result<(StreamSpec, Option<u8>), proto_map::MapError> {
    let spec = names.declared_log_spec(&DeclaredLog {
        name: log.name.clone(),
        topics: log.topics.clone(),
        max_age_s: (log.max_age.get().as_secs() > 0).then(|| log.max_age.get().as_secs()),
        max_bytes: (log.max_bytes.0 > 0).then_some(log.max_bytes.0),
        storage: match log.storage {
            LogStorage::File => Storage::File,
            LogStorage::Memory => Storage::Memory,
        },
    })?;
    Ok((spec, (log.replicas > 0).then_some(log.replicas)))
}

/// How mode `nats` gets to nats-server.
pub(crate) fn nats_ways(config: &Config) -> Result<NatsWays, proto_map::MapError> {
    let names = Names::new(&config.jetstream.prefix, &config.jetstream.subject_prefix)?;
    let others = config.accounts.iter().map(|(name, way)| {
        let credentials = credentials(&way.auth(), way.nkey_seed_file.as_deref());
        (AccountId::new(name), NatsOptions { credentials, ..nats(config) })
    });
    Ok(NatsWays { home: nats(config), others: others.collect(), inbox_prefix: names.inbox_prefix() })
}

/// How nats-server is reached, and who we are there.
fn nats(config: &Config) -> NatsOptions {
    let nats = &config.nats;
    NatsOptions {
        urls: nats.urls.clone(),
        credentials: credentials(&nats.auth(), nats.nkey_seed_file.as_deref()),
        tls: TlsOptions {
            required: nats.tls.required,
            ca: nats.tls.ca_file.clone(),
            cert: nats.tls.cert_file.clone(),
            key: nats.tls.key_file.clone(),
            ..TlsOptions::default()
        },
        name: nats.name.clone(),
        ..NatsOptions::default()
    }
}

/// Who we are, by what was configured.
pub(super) fn credentials(auth: &NatsAuth, nkey_seed_file: Option<&Path>) -> Credentials {
    match auth {
        NatsAuth::Anonymous => Credentials::None,
        NatsAuth::Creds(file) => Credentials::CredsFile(file.clone()),
        NatsAuth::Password { user, password } => {
            Credentials::UserPassword { user: user.clone(), password: password.expose().to_owned() }
        }
        NatsAuth::Token(token) => Credentials::Token(token.expose().to_owned()),
        // The file, and not what was in it: it is read again at every connect.
        NatsAuth::NKey(_) => nkey_seed_file.map_or(Credentials::None, |file| Credentials::NkeyFile(file.to_owned())),
    }
}

/// Whether other accounts are served as well.
fn leases(config: &Config) -> Leases {
    let mut of_listeners = config.listeners.all().map(|listener| listener.auth.mode.unwrap_or(config.auth.mode));
    let is_alone = config.accounts.is_empty() && !of_listeners.any(|mode| mode == AuthMode::Jwt);
    if is_alone { Leases::Here } else { Leases::ForOthers }
}

/// What filters cover whose first level is a wildcard.
fn root_wildcard(config: &Config) -> RootWildcard {
    match &config.mqtt.root_wildcard {
        config::RootWildcard::Full => RootWildcard::Full,
        config::RootWildcard::Refuse => RootWildcard::Refuse,
        config::RootWildcard::Trees(trees) => RootWildcard::trees(trees.iter().map(String::as_str)),
    }
}

/// As many as the protocol can say; the highest is "never".
fn seconds(duration: crate::config::Duration) -> u32 {
    u32::try_from(duration.get().as_secs()).unwrap_or(u32::MAX)
}

/// How much clients may have.
fn quotas(config: &Config) -> Quotas {
    let (mqtt, shared) = (&config.mqtt, &config.jetstream.shared);
    Quotas {
        subscriptions: mqtt.max_subscriptions as usize,
        filters_per_packet: mqtt.max_filters_per_packet as usize,
        filter_length: mqtt.max_filter_length.into(),
        sessions: mqtt.max_sessions as usize,
        will_size: mqtt.max_will_size.as_usize(),
        opening_size: mqtt.max_opening_size.as_usize(),
        retained_messages: mqtt.max_retained_messages as usize,
        retained_bytes: mqtt.max_retained_bytes.as_usize(),
        retained_size: mqtt.max_retained_size.as_usize(),
        session_size: mqtt.max_session_size.as_usize(),
        groups: shared.max_groups as usize,
        groups_per_client: shared.max_groups_per_client as usize,
        share_name_length: shared.max_name_length.into(),
    }
}

/// Where clients are told to go that are let go.
pub(super) fn redirect(config: &Config) -> Arc<Redirect> {
    let redirect = Redirect::default();
    redirect.set(config.drain.server_reference.as_deref(), config.drain.moved);
    Arc::new(redirect)
}

/// How it is found out who a client is.
pub(crate) fn door(
    config: &Config,
    authenticator: Arc<dyn Authenticator>,
    max_packet_size: NonZeroU32,
    metrics: Arc<Metrics>,
) -> Door {
    Door {
        decoder: DecoderOptions {
            role: Role::Server,
            max_packet_size: max_packet_size.get(),
            max_topic_levels: config.mqtt.max_topic_levels,
            ..DecoderOptions::default()
        },
        patience: Patience { client: config.mqtt.connect_timeout.get(), judge: JUDGED_WITHIN },
        authenticator,
        metrics,
    }
}

/// 0 is what the server takes, which the account finds out.
fn max_packet_size(config: &Config) -> NonZeroU32 {
    let size = u32::try_from(config.mqtt.max_packet_size.as_usize());
    size.ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MAX)
}

/// How the account treats its clients.
pub(crate) fn account(config: &Config) -> AccountOptions {
    let mqtt = &config.mqtt;
    AccountOptions {
        rights: RightsOptions {
            filters_wide: config.auth.wide_filters == WideFilters::Filter,
            shares_sessions: config.auth.session_owner == SessionOwner::Account,
            // Known when the account is opened.
            stores_nothing: false,
        },
        publishers: Publishers::default(),
        redirect: redirect(config),
        limits: Limits {
            receive_maximum: NonZeroU16::new(mqtt.receive_maximum).unwrap_or(NonZeroU16::MIN),
            window: NonZeroU16::new(mqtt.window).unwrap_or(NonZeroU16::MIN),
            topic_alias_maximum: mqtt.topic_alias_maximum,
            max_packet_size: max_packet_size(config),
            max_session_expiry_s: match seconds(mqtt.max_session_expiry) {
                0 => u32::MAX,
                most => most,
            },
            session_expiry_v3_s: seconds(mqtt.session_expiry_v3),
            max_keep_alive_s: mqtt.max_keep_alive.map_or(0, |d| u16::try_from(d.get().as_secs()).unwrap_or(u16::MAX)),
            shared_subscriptions: true,
            max_qos: mqtt_codec::QoS::ExactlyOnce,
            retain_available: true,
            // As the listener of each client says.
            strict: false,
        },
        inbox: InboxLimits {
            qos0_bytes: mqtt.qos0_buffer.as_usize(),
            feed_messages: FEED_MESSAGES,
            feed_bytes: FEED_BYTES,
        },
        quotas: quotas(config),
        max_topic_levels: mqtt.max_topic_levels,
        denied_publish: match mqtt.on_denied_publish {
            OnDeniedPublish::Acknowledge => DeniedPublish::Drop,
            OnDeniedPublish::Disconnect => DeniedPublish::Disconnect,
        },
        copies_overlapping: mqtt.overlapping == Overlapping::Each,
        share_times: ShareTimes {
            ack_wait: config.jetstream.shared.ack_wait.get(),
            inactive_threshold: config.jetstream.shared.inactive_threshold.get(),
            unheld_threshold: config.jetstream.shared.unheld_threshold.get(),
        },
        tells_events: config.events.enabled,
        client_id_header: config.publish.client_id_header,
        nats_headers: mqtt.nats_headers,
        requests: RequestOptions {
            timeout: config.requests.timeout.get(),
            max_pending: config.requests.max_pending as usize,
            max_pending_per_client: config.requests.max_pending_per_client as usize,
            reply_ttl: config.requests.reply_ttl.get(),
        },
        ignored_streams: config.jetstream.attach.then(|| config.jetstream.ignored_streams.clone()),
        ingests: config.jetstream.ingest == Ingest::Interest,
    }
}
