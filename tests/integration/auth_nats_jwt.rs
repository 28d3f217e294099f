//! Mode `nats`, and devices whose passwords are user JWTs: nats-server verifies them, and what it cannot see of a device, or does not
//! know of MQTT, is judged here.

use mqtt_codec::{QoS, ReasonCode};
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::auth_jwt::{Site, device, id_of, now_s, world};
use crate::harness::{Options, msg};

/// A sidecar that asks nats-server, and again so often.
async fn site(recheck: &str) -> Site {
    Site::configured(|_| format!("[auth]\nmode = \"nats\"\nrecheck = \"{recheck}\"\ncache = \"0s\"\n")).await
}

/// Gives a name beside its JWT.
fn as_user(id: &str, user: &str, jwt: &str) -> Options {
    let mut options = Options::v5(id).password(jwt);
    options.connect.username = Some(user.into());
    options
}

/// A window of a user, that many seconds from now.
fn hours(from_s: i64, to_s: i64) -> Value {
    let hour_of = |at_s: i64| {
        let of_day = (now_s() + at_s).rem_euclid(86_400);
        format!("{:02}:{:02}:{:02}", of_day / 3600, of_day / 60 % 60, of_day % 60)
    };
    json!([{ "start": hour_of(from_s), "end": hour_of(to_s) }])
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_server_verifies_a_jwt_and_what_it_says_of_the_device_is_judged_here() {
    use ReasonCode::{BadUserNameOrPassword, ClientIdentifierNotValid, NotAuthorized, Success};
    let site = site("10m").await;
    let stranger = KeyPair::new_account().public_key();
    for (from, nats, expected, step) in [
        (2, json!({}), Success, ""),
        // nats-server sees where the sidecar is, and that is 127.0.0.1.
        (3, json!({ "src": ["127.0.0.1/32", "127.0.0.3/32"] }), Success, ""),
        (4, json!({ "src": ["127.0.0.1/32", "127.0.0.3/32"] }), NotAuthorized, "nats_jwt"),
        (5, json!({ "src": ["127.0.0.5/32"] }), BadUserNameOrPassword, "nats_refused"),
        (6, json!({ "allowed_connection_types": ["STANDARD", "MQTT"] }), Success, ""),
        (7, json!({ "allowed_connection_types": ["STANDARD"] }), NotAuthorized, "nats_jwt"),
        (8, json!({ "allowed_connection_types": ["STANDARD", "MQTT_WS"] }), NotAuthorized, "nats_jwt"),
        (9, json!({ "allowed_connection_types": ["MQTT"] }), BadUserNameOrPassword, "nats_refused"),
        (10, json!({ "times": hours(-1, 3600) }), Success, ""),
        (11, json!({ "times": hours(3600, 7200) }), NotAuthorized, "nats_jwt"),
        (12, json!({ "tags": ["mqtt:client-id=name"] }), ClientIdentifierNotValid, "client_id"),
        (13, json!({ "tags": ["mqtt:max-qos=7"] }), NotAuthorized, "nats_jwt"),
        (14, json!({ "bearer_token": false }), BadUserNameOrPassword, "nats_refused"),
        (15, json!({ "issuer_account": stranger }), BadUserNameOrPassword, "nats_refused"),
        (16, json!({ "sub": { "allow": ["cmd.>"] }, "pub": { "allow": ["dev.>"] } }), NotAuthorized, "nats_question"),
    ] {
        let (jwt, _) = device("lamp", &json!({ "nats": nats }));
        let before = if step.is_empty() { 0.0 } else { site.refused(step).await };
        // Each with a name and an address of its own: who has not failed before is answered soon.
        let id = format!("c{from}");
        let reason = site.answer(as_user(&id, &id, &jwt).from(from)).await;
        assert_eq!(reason, expected, "{nats}");
        assert!(step.is_empty() || site.refused(step).await == before + 1.0, "{nats} {step}");
    }
    let (expired, _) = device("lamp", &json!({ "exp": now_s() - 1 }));
    assert_eq!(site.answer(Options::v5("c").from(17).password(&expired)).await, NotAuthorized);
    assert_eq!(site.refused("expired").await, 1.0);
    assert!(site.sidecar.log().contains("add the connection type STANDARD"), "{}", site.sidecar.log());
    assert!(!site.sidecar.log().contains(&expired), "a JWT is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_has_the_permissions_and_the_tags_of_its_jwt() {
    let site = site("10m").await;
    let nats = json!({
        "pub": { "allow": ["dev.>", "$SYS.REQ.USER.INFO"], "deny": ["dev.x"] }, "sub": { "allow": ["cmd.>"] },
        "tags": ["mqtt:client-id=name", "mqtt:max-qos=1", "mqtt:retain=deny", "mqtt:will=deny"],
    });
    let (jwt, _) = device("lamp", &json!({ "nats": nats }));
    let with_will = Options::v5("lamp").will(msg("dev/will", "gone")).password(&jwt);
    assert_eq!(site.answer(with_will).await, ReasonCode::NotAuthorized);
    let mut lamp = site.sidecar.connect(Options::v5("lamp-1").password(&jwt)).await;
    let said = &lamp.connack.properties;
    assert_eq!((said.maximum_qos, said.retain_available), (Some(QoS::AtLeastOnce), Some(false)));
    assert_eq!(lamp.asks_for("cmd/#", 2).await, ReasonCode::GrantedQoS1);
    assert_eq!(lamp.asks_for("dev/a", 0).await, ReasonCode::NotAuthorized);
    assert_eq!(lamp.publish(msg("dev/a", "x").qos(1)).await, ReasonCode::Success);
    for topic in ["dev/x", "cmd/a"] {
        assert_eq!(lamp.publish(msg(topic, "x").qos(1)).await, ReasonCode::NotAuthorized, "{topic}");
    }
}

/// Whoever has a JWT is who it says, whatever name stands beside it.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_another_user_by_giving_that_ones_name() {
    let site = site("10m").await;
    let bound = json!({ "nats": { "tags": ["mqtt:client-id=name"] } });
    let (pump, lamp) = (device("pump", &json!({})).0, device("lamp", &json!({})).0);
    let (bound, _) = device("lamp", &bound);
    let durable = |user: &str, jwt: &str| as_user("pump", user, jwt).durable(600);
    let mut session = site.sidecar.connect(durable("pump", &pump)).await;
    session.subscribe("cmd/pump", 1).await;
    for jwt in [&lamp, &bound] {
        assert_eq!(site.answer(durable("pump", jwt)).await, ReasonCode::ClientIdentifierNotValid);
    }
    session.ping().await;
    session.goodbye().await;
    assert_eq!(site.answer(durable("pump", &lamp)).await, ReasonCode::ClientIdentifierNotValid);
    assert!(site.sidecar.connect(durable("whoever", &pump)).await.is_resumed(), "its own user has it");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_revoked_is_out_when_nats_server_is_asked_again() {
    let site = site("1s").await;
    let (watcher, _) = device("watcher", &json!({}));
    let mut watcher = site.sidecar.connect(Options::v5("watcher").password(&watcher)).await;
    watcher.subscribe("wills/#", 1).await;
    let (jwt, seed) = device("lamp", &json!({}));
    let mut lamp = site.sidecar.connect(Options::v5("lamp").password(&jwt).will(msg("wills/lamp", "gone"))).await;
    let mut old = site.sidecar.connect(Options::v311("old").password(&jwt)).await;
    site.push(&world(&json!({ "iat": now_s(), "nats": { "revocations": { id_of(&seed): now_s() } } }))).await;
    assert_eq!(lamp.closed().await, Some(ReasonCode::AdministrativeAction));
    assert_eq!(old.closed().await, None);
    assert_eq!(watcher.receive_shown().await, "wills/lamp gone qos0");
    let again = site.answer(Options::v5("lamp").from(2).password(&jwt)).await;
    assert_eq!((again, site.refused("nats_refused").await), (ReasonCode::BadUserNameOrPassword, 1.0));
    watcher.ping().await;
}

/// Long before nats-server is asked again.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_with_its_jwt_and_with_the_hours_in_it() {
    const OPEN_S: i64 = 4;
    let site = site("10m").await;
    let until = now_s() + OPEN_S;
    let connect =
        async |name: &str, over: Value| site.sidecar.connect(Options::v5(name).password(&device(name, &over).0)).await;
    let mut expiring = connect("expiring", json!({ "exp": until })).await;
    let mut closing = connect("closing", json!({ "nats": { "times": hours(-1, OPEN_S) } })).await;
    let mut staying = connect("staying", json!({})).await;
    for ends in [&mut expiring, &mut closing] {
        ends.ping().await;
    }
    for mut ends in [expiring, closing] {
        assert_eq!(ends.closed().await, Some(ReasonCode::MaximumConnectTime), "{}", ends.id());
        assert!(now_s() >= until);
    }
    staying.ping().await;
}
