//! Accounts that tests drive against a server that they play: what is done here is done by everything that runs in an account, and
//! what NATS says to it is the test's.

use std::collections::HashSet;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use mqtt_codec::{PacketId, QoS, ReasonCode, SubscribeEntry, SubscriptionOptions, TopicFilter, TopicName, Version};
use mqtt_session::{Position, Publication, SubscribeRequest, Token};

use super::publish::completions::PublishOutcome;
use super::registry::Entered;
use super::{Account, AccountSpec, Control, InboxLimits, Outgoing, Publishing, Rights, Segments, Subscribed, Wakes};
use crate::config::Config;
use crate::metrics::Metrics;
pub(in crate::account) use crate::store::played::{Fate, PlayedServer, until};

/// The stream of the log, and the bucket of retained messages.
pub(in crate::account) const LOG: &str = "MQTT_log";
pub(in crate::account) const RETAINED: &str = "KV_MQTT_retained";

/// A server, and one account on it.
pub(in crate::account) struct World {
    pub(in crate::account) server: PlayedServer,
    pub(in crate::account) account: Arc<Account>,
    metrics: Arc<Metrics>,
}

impl World {
    pub(in crate::account) async fn start() -> Self {
        Self::with(|_| ()).await
    }

    /// With another configuration.
    pub(in crate::account) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::on(PlayedServer::start(), change).await
    }

    /// Another sidecar on a server.
    pub(in crate::account) async fn on(server: PlayedServer, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.nats.urls = vec![server.url()];
        change(&mut config);
        Self::open(server, crate::app::account_spec(&config).unwrap()).await
    }

    /// With what the configuration does not say.
    pub(in crate::account) async fn as_specified(change: impl FnOnce(&mut AccountSpec)) -> Self {
        let (server, mut config) = (PlayedServer::start(), Config::default());
        config.nats.urls = vec![server.url()];
        let mut spec = crate::app::account_spec(&config).unwrap();
        change(&mut spec);
        Self::open(server, spec).await
    }

    async fn open(server: PlayedServer, spec: AccountSpec) -> Self {
        let metrics = Metrics::new();
        let account = Account::open(spec, &metrics).await.unwrap();
        Self { server, account, metrics }
    }

    /// Waits until it is known that nobody asks this process in vain: for as long as somebody is here.
    pub(in crate::account) async fn is_beyond_doubt(&self) {
        until("it is beyond doubt", || (!self.account.retained_writer.is_in_doubt()).then_some(())).await;
    }

    /// How many messages were dropped for this reason.
    pub(in crate::account) fn dropped(&self, reason: &str) -> u64 {
        let (text, name) = (self.metrics.render(), format!("mqtt_messages_dropped_total{{reason=\"{reason}\"}} "));
        let line = text.lines().find_map(|line| line.strip_prefix(name.as_str()));
        line.map_or(0, |count| count.parse().unwrap())
    }

    /// A client that is here.
    pub(in crate::account) fn client(&self, client_id: &'static str) -> PlayedClient {
        self.client_of(client_id, Version::V5, Rights::all(), self.account.options.inbox)
    }

    /// One for whom only so many messages wait.
    pub(in crate::account) fn slow_client(&self, client_id: &'static str, feed_messages: usize) -> PlayedClient {
        let limits = InboxLimits { feed_messages, ..self.account.options.inbox };
        self.client_of(client_id, Version::V5, Rights::all(), limits)
    }

    pub(in crate::account) fn client_of(
        &self,
        client_id: &'static str,
        version: Version,
        rights: Rights,
        limits: InboxLimits,
    ) -> PlayedClient {
        let (account, rights) = (Arc::clone(&self.account), Arc::new(rights));
        let id = account.next_session_id();
        let control = Control::new(id, client_id.into(), version, u32::MAX, Arc::clone(&rights), limits);
        let control = Arc::new(control);
        assert!(matches!(account.registry.enter(&control, || false), Entered::Alone | Entered::Behind(_)));
        let key = account.client_key(&client_id.into());
        let publishing = Publishing::new(Arc::clone(&account), Arc::clone(control.completions()), key).by(rights);
        PlayedClient { account, control, publishing, filters: HashSet::new(), last_token: 0, wakes: Wakes::default() }
    }
}

/// What a connection is to an account.
pub(in crate::account) struct PlayedClient {
    pub(in crate::account) account: Arc<Account>,
    pub(in crate::account) control: Arc<Control>,
    pub(in crate::account) publishing: Publishing,
    pub(in crate::account) filters: HashSet<TopicFilter>,
    last_token: u64,
    wakes: Wakes,
}

impl PlayedClient {
    /// Subscribes to filters at this QoS.
    pub(in crate::account) async fn subscribe(&mut self, filters: &[&str], qos: QoS) -> Subscribed {
        self.subscribe_with(filters, SubscriptionOptions { qos, ..SubscriptionOptions::default() }).await
    }

    pub(in crate::account) async fn subscribe_with(
        &mut self,
        filters: &[&str],
        options: SubscriptionOptions,
    ) -> Subscribed {
        let filter = |text: &&str| TopicFilter::new(ByteString::from(*text)).map_err(|_| ByteString::from(*text));
        let entries = filters.iter().map(|text| SubscribeEntry { filter: filter(text), options }).collect();
        let (packet_id, subscription_id) = (PacketId(NonZeroU16::MIN), NonZeroU32::new(7));
        let request = SubscribeRequest { packet_id, subscription_id, entries };
        let inbox = self.control.inbox();
        let planned = self.account.plan_subscribes(inbox, &mut self.filters, None, vec![request]);
        self.account.subscribe(inbox, planned).await
    }

    /// Publishes with the next token, if it is to be answered.
    pub(in crate::account) fn publish(&mut self, topic: &str, qos: QoS, retain: bool, payload: &str) -> Token {
        self.try_publish(topic, qos, retain, payload).expect("it is not refused")
    }

    pub(in crate::account) fn try_publish(
        &mut self,
        topic: &str,
        qos: QoS,
        retain: bool,
        payload: &str,
    ) -> Result<Token, super::Refused> {
        let publication = self.publication(topic, qos, retain, payload);
        self.publish_as(publication)
    }

    pub(in crate::account) fn publication(&self, topic: &str, qos: QoS, retain: bool, payload: &str) -> Publication {
        Publication {
            token: (qos > QoS::AtMostOnce).then_some(self.last_token),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            ..Self::publication_on(topic, qos, retain)
        }
    }

    /// Without payload and token.
    pub(in crate::account) fn publication_on(topic: &str, qos: QoS, retain: bool) -> Publication {
        let (topic, payload) = (TopicName::new(topic.to_owned()).unwrap(), Bytes::new());
        Publication { token: None, once: None, topic, qos, retain, payload, properties: None }
    }

    pub(in crate::account) fn publish_as(&mut self, publication: Publication) -> Result<Token, super::Refused> {
        self.last_token += 1;
        let token = publication.token.unwrap_or(self.last_token - 1);
        self.publishing.publish(publication, &mut self.wakes).map_err(|refused| refused.1)?;
        self.wakes.wake_all();
        Ok(token)
    }

    /// Follows what was published until it is settled.
    pub(in crate::account) async fn settle(&mut self) -> Vec<PublishOutcome> {
        self.publishing.settle().await.expect("it is settled")
    }

    /// What was left for it at QoS 1 and 2, as payloads.
    pub(in crate::account) fn stored(&self) -> Vec<String> {
        self.outgoing().into_iter().map(|(_, outgoing)| text(&outgoing.message.payload)).collect()
    }

    /// The same with its places, as it is granted.
    pub(in crate::account) fn outgoing(&self) -> Vec<(Position, Outgoing)> {
        let (mut out, mut messages, mut behind) = (Segments::default(), Vec::new(), Vec::new());
        self.control.inbox().take_messages(&mut out, 10_000, &mut messages, &mut behind);
        for place in behind {
            self.account.catch_up(place, self.control.inbox());
        }
        messages
    }

    /// Waits until so many have come.
    pub(in crate::account) async fn receives(&self, count: usize) -> Vec<String> {
        let all = parking_lot::Mutex::new(Vec::new());
        let look = || {
            let mut all = all.lock();
            all.extend(self.stored());
            (all.len() >= count).then(|| all.clone())
        };
        until("messages", look).await
    }
}

pub(in crate::account) fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The answers, by tokens.
pub(in crate::account) fn answers(outcomes: &[PublishOutcome]) -> Vec<(u64, ReasonCode)> {
    outcomes.iter().map(|(token, result)| (*token, result.unwrap_or_else(|reason| reason))).collect()
}
