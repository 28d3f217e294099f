//! What clients may do whose authenticator says less than everything.

use std::collections::HashMap;

use mqtt_access::{DeviceRules, Mode, Origin, PermissionLists, Permissions, SubjectLists, User};
use mqtt_codec::Will;
use mqtt_session::{Credentials, Verdict};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::*;
use crate::account::{Rights, RightsOptions};
use crate::auth::{Again, Authenticator, Judging, Principal};
use crate::config::OnDeniedPublish;
use crate::connection::judge_again;
use crate::metrics::AuthStep;
use crate::store::played::{Fate, PlayedServer};

/// Knows users by their names.
#[derive(Clone, Default)]
pub(super) struct Known {
    users: Arc<Mutex<HashMap<&'static str, Arc<Principal>>>>,
    changes: watch::Sender<u64>,
}

impl Known {
    /// A user that may publish and receive below these subjects.
    fn add(&self, name: &'static str, publish: &[&str], subscribe: &[&str]) {
        let (publish, subscribe) = (SubjectLists::new(publish, &[]), SubjectLists::new(subscribe, &[]));
        let lists = PermissionLists { publish, subscribe, responses: None };
        let (permissions, user) = (Permissions::new(lists).unwrap(), User { name: name.to_owned(), ..User::default() });
        self.set(name, Principal { permissions: Arc::new(permissions), user, ..Principal::all() });
    }

    pub(super) fn set(&self, name: &'static str, principal: Principal) {
        self.users.lock().insert(name, Arc::new(principal));
    }
}

impl Authenticator for Known {
    fn judge<'a>(&'a self, credentials: Credentials<'a>, _peer: &'a Peer) -> Judging<'a> {
        let name = credentials.connect.username.as_deref().unwrap_or_default();
        let verdict = match self.users.lock().get(name) {
            Some(principal) => Verdict::Accepted(Arc::clone(principal), None),
            None => Verdict::Refused(ReasonCode::BadUserNameOrPassword),
        };
        Box::pin(std::future::ready(verdict))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn judge_again(&self, principal: &Principal, _client_id: &str) -> Again {
        match self.users.lock().get(&*principal.user.name) {
            Some(now) if now.permissions == principal.permissions => Again::Same,
            Some(now) => Again::Changed(Arc::clone(now)),
            None => Again::Gone(AuthStep::UnknownUser),
        }
    }
}

impl World {
    pub(super) async fn with_users() -> (Self, Known) {
        Self::new().await.known()
    }

    fn known(mut self) -> (Self, Known) {
        let (known, size) = (Known::default(), self.account.max_packet_size());
        let door = options::door(&Config::default(), Arc::new(known.clone()), size, Metrics::new());
        self.door = Arc::new(door);
        (self, known)
    }

    /// Connects a client of a user, or says how it is refused.
    async fn try_user(
        &self,
        user: &'static str,
        client_id: &'static str,
        will: Option<Will>,
    ) -> Result<Client, ConnAck> {
        let Packet::Connect(mut packet) = connect(client_id, ConnectProperties::default()) else { unreachable!() };
        (packet.username, packet.will) = (Some(user.into()), will.map(Box::new));
        let (wire, served, connack) = self.answered(PIPE, &Packet::Connect(packet)).await;
        if connack.reason.is_error() {
            return Err(connack);
        }
        Ok(Client { wire, control: self.account.control_of(client_id).unwrap(), served })
    }

    async fn user(&self, user: &'static str, client_id: &'static str) -> Client {
        self.try_user(user, client_id, None).await.ok().unwrap()
    }
}

async fn refused(client: &mut Client, topic: &'static str) -> ReasonCode {
    client.publish(topic, Delivery::AtLeastOnce(id(9))).await;
    acks(&[client.wire.next().await.unwrap()])[0].1
}

#[tokio::test]
async fn a_publish_that_is_denied_says_so_and_costs_nothing_else() {
    let (world, known) = World::with_users().await;
    known.add("lamp", &["dev.lamp.>"], &["cmd.lamp.>"]);
    known.add("panel", &[], &["dev.>"]);
    let (mut lamp, mut panel) = (world.user("lamp", "lamp").await, world.user("panel", "panel").await);
    assert_eq!(panel.subscribe("dev/#").await, ReasonCode::Success);
    assert_eq!(refused(&mut lamp, "dev/other/x").await, ReasonCode::NotAuthorized);
    lamp.publish("dev/other/x", Delivery::AtMostOnce).await;
    lamp.publish("dev/lamp/x", Delivery::AtMostOnce).await;
    assert_eq!(lamp.ping().await, []);
    panel.receive().await;
    assert_eq!(panel.ping().await, [], "only what was allowed arrives");
}

#[tokio::test]
async fn a_filter_beyond_what_is_allowed_is_refused_by_itself() {
    let (world, known) = World::with_users().await;
    known.add("lamp", &[], &["cmd.lamp.>"]);
    let mut lamp = world.user("lamp", "lamp").await;
    for filter in ["#", "cmd/#", "cmd/+/on", "other"] {
        assert_eq!(lamp.subscribe(filter).await, ReasonCode::NotAuthorized, "{filter}");
    }
    assert_eq!(lamp.subscribe("cmd/lamp/#").await, ReasonCode::Success);
    for topic in ["cmd/lamp/on", "cmd/other/on", "cmd/lamp"] {
        lamp.publish(topic, Delivery::AtMostOnce).await;
    }
    lamp.receive().await;
    assert_eq!(lamp.ping().await, [], "what is beside its permissions does not come by a filter that is wider");
}

#[tokio::test]
async fn a_will_that_may_not_be_published_is_refused_with_its_connect() {
    let (world, known) = World::with_users().await;
    known.add("lamp", &["dev.lamp.>"], &[]);
    let rules = DeviceRules { will_denied: true, ..DeviceRules::default() };
    known.set("mute", Principal { rules, ..Principal::all() });
    let will = |topic: &'static str| Will {
        topic: TopicName::new(topic).unwrap(),
        payload: Bytes::new(),
        qos: QoS::AtMostOnce,
        retain: false,
        delay_interval_s: 0,
        properties: None,
    };
    for (user, topic) in [("lamp", "dev/other"), ("mute", "dev/lamp/x")] {
        let connack = world.try_user(user, "c", Some(will(topic))).await.err().unwrap();
        assert_eq!(connack.reason, ReasonCode::NotAuthorized, "{user} {topic}");
    }
}

/// Not every sidecar that finds the will later knows the rights of its client, so none is accepted only to be dropped.
#[tokio::test]
async fn a_will_that_may_not_be_published_is_refused_in_every_version_whatever_becomes_of_a_publish() {
    for on_denied in [OnDeniedPublish::Acknowledge, OnDeniedPublish::Disconnect] {
        let world = World::with(|config| config.mqtt.on_denied_publish = on_denied).await;
        let known = Known::default();
        known.add("lamp", &["dev.lamp.>"], &[]);
        let rights = Arc::new(Rights::new(Arc::clone(&known.users.lock()["lamp"]), RightsOptions::default()));
        for (version, topic, judged) in [
            (Version::V311, "dev/other", Err(ReasonCode::NotAuthorized)),
            (Version::V31, "dev/other", Err(ReasonCode::NotAuthorized)),
            (Version::V5, "dev/other", Err(ReasonCode::NotAuthorized)),
            (Version::V311, "dev/lamp/x", Ok(())),
        ] {
            let Packet::Connect(packet) = connect("c", ConnectProperties::default()) else { unreachable!() };
            let will = Will {
                topic: TopicName::new(topic).unwrap(),
                payload: Bytes::new(),
                qos: QoS::AtMostOnce,
                retain: false,
                delay_interval_s: 0,
                properties: None,
            };
            let packet = Connect { version, will: Some(Box::new(will)), ..*packet };
            assert_eq!(world.account.judge_will(&packet, &"c".into(), &rights), judged, "{version:?} {topic}");
        }
    }
}

#[tokio::test]
async fn a_client_id_of_another_user_is_refused_and_that_one_stays() {
    let (world, known) = World::with_users().await;
    known.add("lamp", &[], &[]);
    known.add("door", &[], &[]);
    let mut lamp = world.user("lamp", "c").await;
    let connack = world.try_user("door", "c", None).await.err().unwrap();
    assert_eq!(connack.reason, ReasonCode::ClientIdentifierNotValid);
    assert_eq!(lamp.ping().await, []);
    let mut again = world.user("lamp", "c").await;
    let told = lamp.wire.next().await;
    assert!(matches!(told, Some(Packet::Disconnect(Disconnect { reason: ReasonCode::SessionTakenOver, .. }))));
    assert_eq!(again.ping().await, []);
}

#[tokio::test]
async fn who_has_no_name_or_the_name_in_another_mode_gets_nothing_of_a_users_session() {
    let (world, known) = World::with_users().await;
    let of = |mode, name: &str| {
        let user = User { name: name.to_owned(), ..User::default() };
        Principal { user, origin: Origin::of(mode), ..Principal::all() }
    };
    known.set("lamp", of(Mode::File, "lamp"));
    let others = [("anonymous", Mode::File, ""), ("token", Mode::Nats, ""), ("open", Mode::None, "")];
    let strangers = others.into_iter().chain([("lamp of a provider", Mode::Oidc, "lamp")]);
    let mut lamp = world.user("lamp", "c").await;
    for (who, mode, name) in strangers {
        known.set(who, of(mode, name));
        let connack = world.try_user(who, "c", None).await.err().unwrap();
        assert_eq!(connack.reason, ReasonCode::ClientIdentifierNotValid, "{who}");
        assert_eq!(lamp.ping().await, [], "{who}");
    }
    // What is nobody's in particular is everybody's.
    let mut open = world.user("open", "d").await;
    let mut lamp = world.user("lamp", "d").await;
    let told = open.wire.next().await;
    assert!(matches!(told, Some(Packet::Disconnect(Disconnect { reason: ReasonCode::SessionTakenOver, .. }))));
    assert_eq!(lamp.ping().await, []);
}

/// More filters than are made at once, so that others have their turn in between.
const MANY: usize = 1_500;

#[tokio::test]
async fn what_may_not_be_any_more_when_it_is_made_is_refused_and_nothing_of_it_stays() {
    let (world, known) = World::with_users().await;
    known.add("lamp", &[], &["cmd.>"]);
    let mut lamp = world.user("lamp", "lamp").await;
    // One that is there is replaced.
    assert_eq!(lamp.subscribe("cmd/1499").await, ReasonCode::Success);
    let entry = |number: usize| SubscribeEntry {
        filter: Ok(TopicFilter::new(format!("cmd/{number}")).unwrap()),
        options: SubscriptionOptions::default(),
    };
    let entries = (0..MANY).map(entry).collect();
    let (packet_id, subscription_id, user_properties) = (id(2), None, Vec::new());
    lamp.wire.send(&Packet::Subscribe(Subscribe { packet_id, subscription_id, user_properties, entries })).await;
    while Arc::strong_count(lamp.control.inbox()) < 500 {
        tokio::task::yield_now().await;
    }
    assert!(Arc::strong_count(lamp.control.inbox()) < MANY, "they are being made");
    known.add("lamp", &[], &["cmd.0"]);
    judge_again(&known, &lamp.control);
    let Some(Packet::SubAck(suback)) = lamp.wire.next().await else { panic!("no SUBACK") };
    assert_eq!(suback.reasons[0], ReasonCode::Success);
    assert!(suback.reasons[1..].iter().all(|reason| *reason == ReasonCode::NotAuthorized));
    // Allowed again, they are made as if they had never been.
    known.add("lamp", &[], &["cmd.>"]);
    judge_again(&known, &lamp.control);
    assert_eq!(lamp.subscribe("cmd/1499").await, ReasonCode::Success);
    for topic in ["cmd/1498", "cmd/1499", "cmd/0"] {
        lamp.publish(topic, Delivery::AtMostOnce).await;
    }
    lamp.receive().await;
    lamp.receive().await;
    assert_eq!(lamp.ping().await, []);
    let Client { wire, control, served } = lamp;
    let inbox = Arc::downgrade(control.inbox());
    drop((wire, control));
    tokio::time::timeout(PATIENCE, served).await.expect("it ends").unwrap();
    let is_gone = async {
        while inbox.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(2), is_gone).await.expect("no subscription of it is left");
}

/// Whoever follows the events is told of a subscription that it begins before it is told that it ends.
#[tokio::test]
async fn what_is_refused_when_it_is_made_has_no_event() {
    let server = PlayedServer::start();
    let (world, known) = World::on(&server).await.known();
    known.add("lamp", &[], &["cmd.>"]);
    let mut lamp = world.user("lamp", "lamp").await;
    assert_eq!(lamp.subscribe("cmd/old").await, ReasonCode::Success);
    server.rule(|said| if said.subject.starts_with("$JS.API.") { Fate::Held } else { Fate::Taken });
    let entry = |filter: &'static str| SubscribeEntry {
        filter: Ok(TopicFilter::new(filter).unwrap()),
        options: SubscriptionOptions::default(),
    };
    let entries = ["cmd/new", "cmd/old", "cmd/new"].map(entry).to_vec();
    let (packet_id, subscription_id, user_properties) = (id(2), None, Vec::new());
    lamp.wire.send(&Packet::Subscribe(Subscribe { packet_id, subscription_id, user_properties, entries })).await;
    server.until("it is being made", |server| (server.held() > 0).then_some(())).await;
    known.add("lamp", &[], &["other"]);
    judge_again(&known, &lamp.control);
    server.obey();
    server.release(false);
    let Some(Packet::SubAck(suback)) = lamp.wire.next().await else { panic!("no SUBACK") };
    assert_eq!(suback.reasons, [ReasonCode::NotAuthorized; 3]);
    assert_eq!(lamp.subscribe("other").await, ReasonCode::Success);
    let told = |server: &PlayedServer| -> Vec<String> {
        let events = server.said("$NMQ.event.*.lamp").into_iter();
        let events = events.map(|said| serde_json::from_slice::<serde_json::Value>(&said.payload).unwrap());
        let filters = |event: &serde_json::Value| match &event["subscriptions"] {
            serde_json::Value::Null => event["filters"].to_string(),
            all => all.to_string(),
        };
        let is_about_filters = |event: &serde_json::Value| event["type"] != "connect";
        events.filter(is_about_filters).map(|event| format!("{} {}", event["type"], filters(&event))).collect()
    };
    let begun = |filter: &str| format!(r#""subscribe" [{{"filter":"{filter}","qos":0}}]"#);
    let all = server.until("all is told", |server| Some(told(server)).filter(|told| told.contains(&begun("other"))));
    assert_eq!(all.await, [begun("cmd/old"), r#""unsubscribe" ["cmd/old"]"#.to_owned(), begun("other")]);
}

/// [MQTT-3.2.2-9], [MQTT-3.2.2-10]
#[tokio::test]
async fn what_tags_deny_is_said_in_connack_and_holds() {
    let (world, known) = World::with_users().await;
    let rules = DeviceRules { max_qos: Some(0), retain_denied: true, share_denied: true, ..DeviceRules::default() };
    known.set("small", Principal { rules, ..Principal::all() });
    let Packet::Connect(mut packet) = connect("c", ConnectProperties::default()) else { unreachable!() };
    packet.username = Some("small".into());
    let (wire, served, connack) = world.answered(PIPE, &Packet::Connect(packet)).await;
    let properties = connack.properties;
    assert_eq!((properties.maximum_qos, properties.retain_available), (Some(QoS::AtMostOnce), Some(false)));
    assert_eq!(properties.shared_subscription_available, Some(false));
    let mut client = Client { wire, control: world.account.control_of("c").unwrap(), served };
    assert_eq!(client.subscribe_at("b", QoS::ExactlyOnce).await, ReasonCode::Success, "it is granted QoS 0");
    assert_eq!(client.subscribe("$share/g/a").await, ReasonCode::SharedSubscriptionsNotSupported);
    client.publish("a", Delivery::AtLeastOnce(id(1))).await;
    assert_eq!(client.disconnected(&world.account).await, ReasonCode::QoSNotSupported);
}

#[tokio::test]
async fn rights_that_change_act_at_once() {
    let (world, known) = World::with_users().await;
    known.add("lamp", &["dev.>"], &["cmd.>"]);
    known.add("panel", &[], &[]);
    let (mut lamp, mut panel) = (world.user("lamp", "lamp").await, world.user("panel", "panel").await);
    for filter in ["cmd/lamp", "cmd/all", "cmd/#"] {
        assert_eq!(lamp.subscribe(filter).await, ReasonCode::Success);
    }
    known.add("lamp", &["dev.lamp.>"], &["cmd.lamp"]);
    judge_again(&known, &lamp.control);
    assert_eq!(lamp.ping().await, []);
    assert_eq!(world.account.clients().len(), 2, "nobody is disconnected");
    assert_eq!(refused(&mut lamp, "dev/other").await, ReasonCode::NotAuthorized);
    for topic in ["cmd/all", "cmd/other", "cmd/lamp"] {
        panel.publish(topic, Delivery::AtMostOnce).await;
    }
    assert_eq!(panel.ping().await, []);
    lamp.receive().await;
    assert_eq!(lamp.ping().await, [], "one copy, for what is left");
    known.users.lock().remove("lamp");
    judge_again(&known, &lamp.control);
    assert_eq!(lamp.disconnected(&world.account).await, ReasonCode::AdministrativeAction);
}
