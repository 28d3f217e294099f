//! The chain of JWTs: each step refuses with its own reason, in its own place.

use mqtt_access::jwt::{Circumstances, JwtError, Listener, Proof, Refusal, UserJwt};
use mqtt_access::{DeviceRules, Ending, Limit, Limits, Principal, SubjectLists, SubscribeVerdict, UnixTime};
use serde_json::{Value, json};

use crate::mint::{NOW, NOW_S, World, circumstances, sign};

fn judged_at(world: &World, circumstances: &Circumstances<'_>) -> Result<Principal, Refusal> {
    UserJwt::decode(&world.user_jwt(), circumstances)?.judge(&world.account(), &world.operators(), circumstances)
}

fn judged(world: &World) -> Result<Principal, Refusal> {
    judged_at(world, &circumstances())
}

fn refusal(world: &World) -> Option<Refusal> {
    judged(world).err()
}

#[test]
fn a_user_gets_in() {
    let principal = judged(&World::new()).unwrap();
    let world = World::new();
    assert_eq!(principal.account.as_str(), world.account.public_key());
    assert_eq!(principal.account_name, "Tenant");
    assert_eq!((principal.user.name.as_str(), principal.user.owner()), ("lamp", "lamp"));
    assert_eq!(principal.user.key, Some(world.user.public_key()));
    assert_eq!(principal.user.issuer, Some(world.account.public_key()));
    assert_eq!(principal.user.issued_at, Some(UnixTime::from_secs(NOW_S - 1000)));
    assert_eq!(principal.limits, Limits::UNLIMITED);
    assert_eq!(principal.rules, DeviceRules::default());
    assert_eq!(principal.ends(NOW), None);
    assert!(principal.permissions.is_publish_allowed("anything"));
}

#[test]
fn users_of_signing_keys() {
    let principal = judged(&World::new().with_signing_key()).unwrap();
    assert_eq!(principal.user.issuer, Some(World::new().account_signing.public_key()));

    let principal = judged(&World::new().with_scope()).unwrap();
    assert!(principal.permissions.is_publish_allowed("dev.lamp.x"));
    assert!(!principal.permissions.is_publish_allowed("dev.other.x"));
    assert_eq!(principal.permissions.subscribe("cmd.lamp.>", None), SubscribeVerdict::Allowed);
    assert_eq!(principal.permissions.subscribe("cmd.>", None), SubscribeVerdict::TooWide);
    assert_eq!(principal.limits, Limits::UNLIMITED, "what a template leaves out is not limited");
}

/// What is put over the claims of a user, and the reason that it is refused for; `None` lets it in.
fn refuse(table: &[(Value, Option<Refusal>)]) {
    for (over, expected) in table {
        assert_eq!(refusal(&World::new().over_user(over)), *expected, "{over}");
    }
}

#[test]
fn claims_of_users() {
    let account = World::new().account.public_key();
    let tags = |tags: Value| json!({ "nats": { "tags": tags } });
    let table: &[(Value, Option<Refusal>)] = &[
        (json!({}), None),
        (json!({ "jti": "x", "aud": "y", "nats": { "unknown": [1] } }), None),
        (json!({ "exp": NOW_S + 1 }), None),
        (json!({ "exp": NOW_S }), Some(Refusal::Expired)),
        (json!({ "exp": 1 }), Some(Refusal::Expired)),
        (json!({ "exp": 0 }), None),
        (json!({ "exp": "tomorrow" }), Some(Refusal::Jwt(JwtError::Claims))),
        (json!({ "exp": 1.5 }), Some(Refusal::Jwt(JwtError::Claims))),
        (json!({ "nbf": NOW_S }), None),
        (json!({ "nbf": NOW_S + 1 }), Some(Refusal::NotYetValid)),
        (json!({ "nats": { "type": "account" } }), Some(Refusal::Jwt(JwtError::Kind))),
        (json!({ "nats": { "type": null } }), Some(Refusal::Jwt(JwtError::Kind))),
        (json!({ "nats": { "version": 1 } }), Some(Refusal::Jwt(JwtError::Version))),
        (json!({ "nats": { "version": 3 } }), Some(Refusal::Jwt(JwtError::Version))),
        (json!({ "nats": { "version": null } }), Some(Refusal::Jwt(JwtError::Version))),
        (json!({ "type": "user" }), Some(Refusal::Jwt(JwtError::Version))),
        (json!({ "nats": null }), Some(Refusal::Jwt(JwtError::Claims))),
        (json!({ "sub": account }), Some(Refusal::Jwt(JwtError::Key))),
        (json!({ "sub": "lamp" }), Some(Refusal::Jwt(JwtError::Key))),
        (json!({ "iss": "nobody" }), Some(Refusal::Jwt(JwtError::Key))),
        (json!({ "nats": { "issuer_account": account } }), None),
        (json!({ "nats": { "issuer_account": "ACME" } }), Some(Refusal::IssuerAccount)),
        (json!({ "nats": { "pub": { "allow": ["a q"] } } }), Some(Refusal::Claims)),
        (json!({ "nats": { "sub": { "allow": ["a q"] } } }), None),
        (json!({ "nats": { "sub": { "deny": ["a b c"] } } }), Some(Refusal::Claims)),
        (json!({ "nats": { "sub": { "deny": ["a..b"] } } }), Some(Refusal::Claims)),
        (json!({ "nats": { "pub": { "deny": [""] } } }), Some(Refusal::Claims)),
        // What the library that makes JWTs lets through, and is no subject all the same.
        (json!({ "nats": { "pub": { "allow": ["a.>.b"] } } }), None),
        (json!({ "nats": { "pub": { "deny": ["a.>.b"] } } }), Some(Refusal::Permissions)),
        (tags(json!(["site:berlin", "mqtt:max-qos=1"])), None),
        (tags(json!(["mqtt:max-qos=7"])), Some(Refusal::Tags)),
    ];
    refuse(table);
}

#[test]
fn where_when_and_how_users_come() {
    let sources = |sources: Value| json!({ "nats": { "src": sources } });
    let table: &[(Value, Option<Refusal>)] = &[
        (sources(json!(["10.0.0.0/8"])), None),
        (sources(json!(["192.168.0.0/16", "10.1.2.3/32"])), None),
        (sources(json!("192.168.0.0/16, 10.0.0.0/8")), None),
        (sources(json!([])), None),
        (sources(json!("")), None),
        (sources(json!(["192.168.0.0/16"])), Some(Refusal::SourceAddress)),
        (sources(json!(["::/0"])), Some(Refusal::SourceAddress)),
        (sources(json!(["10.0.0.0"])), Some(Refusal::Claims)),
        (sources(json!(["10.0.0.0/8", "x"])), Some(Refusal::Claims)),
        (json!({ "nats": { "times": [{ "start": "22:00:00", "end": "23:00:00" }] } }), None),
        (json!({ "nats": { "times": [{ "start": "08:00:00", "end": "12:00:00" }] } }), Some(Refusal::TimeWindow)),
        (json!({ "nats": { "times": [{ "start": "08:00", "end": "12:00" }] } }), Some(Refusal::Claims)),
        (json!({ "nats": { "times": [{ "start": "22:00:00" }] } }), Some(Refusal::Claims)),
        (json!({ "nats": { "times_location": "Mars/Base" } }), Some(Refusal::Claims)),
        (
            json!({ "nats": { "times": [{ "start": "22:00:00", "end": "23:00:00" }], "times_location": "Europe/Berlin" } }),
            Some(Refusal::TimeWindow),
        ),
        (
            json!({ "nats": { "times": [{ "start": "23:00:00", "end": "01:00:00" }], "times_location": "Europe/Berlin" } }),
            None,
        ),
        (json!({ "nats": { "allowed_connection_types": ["MQTT"] } }), None),
        (json!({ "nats": { "allowed_connection_types": ["mqtt"] } }), None),
        (json!({ "nats": { "allowed_connection_types": [] } }), None),
        (json!({ "nats": { "allowed_connection_types": ["FUTURE", "MQTT"] } }), None),
        (json!({ "nats": { "allowed_connection_types": ["MQTT_WS"] } }), Some(Refusal::ConnectionType)),
        (json!({ "nats": { "allowed_connection_types": ["STANDARD", "FUTURE"] } }), Some(Refusal::ConnectionType)),
        (json!({ "nats": { "allowed_connection_types": ["FUTURE"] } }), Some(Refusal::ConnectionType)),
        (json!({ "nats": { "bearer_token": false } }), Some(Refusal::SignatureMissing)),
        (json!({ "nats": { "bearer_token": null } }), Some(Refusal::SignatureMissing)),
        (json!({ "nats": { "proxy_required": true } }), Some(Refusal::ProxyRequired)),
    ];
    refuse(table);
}

#[test]
fn who_signed_it() {
    let stranger = World::new().stranger.public_key();
    let account = World::new().account.public_key();
    let operator = World::new().operator.public_key();
    let signing = World::new().account_signing.public_key();
    // A stranger signs, and says that the user is of our account, or of its own.
    let world = World::new().over_user(&json!({ "iss": stranger, "nats": { "issuer_account": account } }));
    assert_eq!(refusal(&world), Some(Refusal::Issuer));
    assert_eq!(refusal(&World::new().over_user(&json!({ "iss": stranger }))), Some(Refusal::AccountMismatch));
    // Our account's key is named, and a stranger signed.
    let forged = sign(&World::new().user_claims, &world.stranger);
    assert_eq!(UserJwt::decode(&forged, &circumstances()).err(), Some(Refusal::Jwt(JwtError::Signature)));
    // A signing key without `issuer_account` is an account that nobody knows.
    assert_eq!(refusal(&World::new().over_user(&json!({ "iss": signing }))), Some(Refusal::AccountMismatch));
    // An operator signs no users.
    assert_eq!(refusal(&World::new().over_user(&json!({ "iss": operator }))), Some(Refusal::Jwt(JwtError::Key)));
    // A key that was taken from the account.
    let mut world = World::new().with_signing_key();
    world.account_claims["nats"]["signing_keys"] = json!([]);
    assert_eq!(refusal(&world), Some(Refusal::Issuer));
}

#[test]
fn a_strict_operator_wants_signing_keys() {
    let account = World::new().account.public_key();
    assert_eq!(refusal(&World::new().strict()), Some(Refusal::Issuer));
    let named = World::new().strict().over_user(&json!({ "nats": { "issuer_account": account } }));
    assert_eq!(refusal(&named), Some(Refusal::Issuer));
    assert_eq!(refusal(&World::new().strict().with_signing_key()), None);
    assert_eq!(refusal(&World::new().strict().with_scope()), None);
}

#[test]
fn an_operator_that_does_not_trust_the_account_any_more() {
    let world = World::new();
    let (account, circumstances) = (world.account(), circumstances());
    let user = UserJwt::decode(&world.user_jwt(), &circumstances).unwrap();
    let strict = World::new().strict().operators();
    assert_eq!(user.judge(&account, &strict, &circumstances).err(), Some(Refusal::AccountUntrusted));
    let nobody = mqtt_access::jwt::Operators::default();
    assert_eq!(user.judge(&account, &nobody, &circumstances).err(), Some(Refusal::AccountUntrusted));
}

#[test]
fn scoped_users_have_nothing_of_their_own() {
    for over in [
        json!({ "subs": -1 }),
        json!({ "payload": 5 }),
        json!({ "data": -1 }),
        json!({ "bearer_token": true }),
        json!({ "proxy_required": true }),
        json!({ "pub": { "allow": ["a"] } }),
        json!({ "pub": { "allow": [] } }),
        json!({ "sub": { "deny": ["a"] } }),
        json!({ "resp": { "max": 0, "ttl": 0 } }),
        json!({ "src": ["10.0.0.0/8"] }),
        json!({ "src": [] }),
        json!({ "times": [{ "start": "22:00:00", "end": "23:00:00" }] }),
        json!({ "times_location": "UTC" }),
        json!({ "allowed_connection_types": ["MQTT"] }),
    ] {
        let world = World::new().with_scope().over_user(&json!({ "nats": over }));
        let through_proxy = Circumstances { has_trusted_proxy: true, ..circumstances() };
        assert_eq!(judged_at(&world, &through_proxy).err(), Some(Refusal::ScopedUserNotEmpty), "{over}");
    }
    let zeros = json!({ "nats": { "subs": 0, "data": 0, "payload": 0, "bearer_token": false, "tags": ["a:b"] } });
    assert_eq!(refusal(&World::new().with_scope().over_user(&zeros)), None);
}

/// What is put over the template of a scope, and the reason that its user is refused for.
#[test]
fn templates_of_scopes() {
    for (over, expected) in [
        (json!({ "pub": { "allow": ["{{nonsense()}}"] } }), Some(Refusal::ScopeTemplate)),
        (json!({ "pub": { "deny": ["{{tag(none)}}"] } }), Some(Refusal::ScopeTemplate)),
        (json!({ "pub": { "allow": ["{{tag(none)}}"] } }), None),
        (json!({ "bearer_token": false }), Some(Refusal::SignatureMissing)),
        (json!({ "allowed_connection_types": ["MQTT_WS"] }), Some(Refusal::ConnectionType)),
        (json!({ "allowed_connection_types": ["FUTURE"] }), Some(Refusal::ConnectionType)),
        (json!({ "src": ["192.168.0.0/16"] }), Some(Refusal::SourceAddress)),
        (json!({ "src": ["10.0.0.0/8"] }), None),
        (json!({ "src": ["nonsense"] }), Some(Refusal::SourceAddress)),
        (json!({ "times": [{ "start": "08:00:00", "end": "09:00:00" }] }), Some(Refusal::TimeWindow)),
        (json!({ "times": [{ "start": "nonsense", "end": "09:00:00" }] }), Some(Refusal::TimeWindow)),
        (json!({ "proxy_required": true }), Some(Refusal::ProxyRequired)),
        (json!({ "sub": { "deny": ["a b c"] } }), Some(Refusal::Permissions)),
        (json!({ "subs": 0 }), None),
    ] {
        assert_eq!(refusal(&World::new().with_scope().over_template(&over)), expected, "{over}");
    }
    let dropped = World::new().with_scope().over_template(&json!({ "pub": { "allow": ["{{tag(none)}}"] } }));
    let principal = judged(&dropped).unwrap();
    assert!(!principal.permissions.is_publish_allowed("a"), "all of allow is gone, so everything is denied");
}

#[test]
fn accounts() {
    let user = World::new().user.public_key();
    let other = nkeys::KeyPair::new_user().public_key();
    let until = |key: &str, until: i64| json!({ "nats": { "revocations": { key: until } } });
    let table = [
        (json!({ "exp": NOW_S + 1 }), None),
        (json!({ "nats": { "limits": { "disallow_bearer": true } } }), Some(Refusal::BearerDisallowed)),
        (until(&user, NOW_S - 1000), Some(Refusal::Revoked)),
        (until(&user, NOW_S - 1001), None),
        (until("*", NOW_S - 1000), Some(Refusal::Revoked)),
        (until("*", NOW_S - 1001), None),
        (until(&other, NOW_S), None),
        (json!({ "nats": { "authorization": { "auth_users": [other] } } }), Some(Refusal::AuthCallout)),
        (json!({ "nats": { "authorization": { "auth_users": [other, user] } } }), None),
    ];
    for (over, expected) in table {
        assert_eq!(refusal(&World::new().over_account(&over)), expected, "{over}");
    }
    // Revocation of a signing key's id does nothing.
    let signing = World::new().account_signing.public_key();
    assert_eq!(refusal(&World::new().with_signing_key().over_account(&until(&signing, NOW_S))), None);
}

#[test]
fn an_account_that_expires_while_we_have_it() {
    let world = World::new().over_account(&json!({ "exp": NOW_S + 10 }));
    let (account, operators) = (world.account(), world.operators());
    let user = UserJwt::decode(&world.user_jwt(), &circumstances()).unwrap();
    let at = |seconds| Circumstances { now: UnixTime::from_secs(NOW_S + seconds), ..circumstances() };
    let principal = user.judge(&account, &operators, &at(9)).unwrap();
    assert_eq!(principal.ends(NOW), Some((UnixTime::from_secs(NOW_S + 10), Ending::AccountExpires)));
    assert_eq!(user.judge(&account, &operators, &at(10)).err(), Some(Refusal::AccountExpired));
}

#[test]
fn the_nonce_unless_bearer() {
    let world = World::new().over_user(&json!({ "nats": { "bearer_token": null } }));
    let (mine, other) = (world.user.sign(b"nonce").unwrap(), world.stranger.sign(b"nonce").unwrap());
    for (signed, signature, expected) in [
        (&b"nonce"[..], &mine[..], None),
        (b"other", &mine, Some(Refusal::SignatureWrong)),
        (b"nonce", &other, Some(Refusal::SignatureWrong)),
        (b"nonce", b"", Some(Refusal::SignatureWrong)),
        (b"nonce", &mine[..63], Some(Refusal::SignatureWrong)),
    ] {
        let proof = Proof::Signature { signed, signature };
        assert_eq!(judged_at(&world, &Circumstances { proof, ..circumstances() }).err(), expected);
    }
    let earlier = Circumstances { proof: Proof::Earlier, ..circumstances() };
    assert!(judged_at(&world, &earlier).is_ok());
    // A bearer needs none, and a wrong one is not looked at.
    let proof = Proof::Signature { signed: b"nonce", signature: b"" };
    assert!(judged_at(&World::new(), &Circumstances { proof, ..circumstances() }).is_ok());
}

#[test]
fn listeners_addresses_and_proxies() {
    let over_ws = Circumstances { listener: Listener::MqttWs, ..circumstances() };
    for (types, mqtt, ws) in [
        (json!(["MQTT"]), None, Some(Refusal::ConnectionType)),
        (json!(["mqtt_ws"]), Some(Refusal::ConnectionType), None),
        (json!(["MQTT", "MQTT_WS"]), None, None),
        (json!(["WEBSOCKET"]), Some(Refusal::ConnectionType), Some(Refusal::ConnectionType)),
    ] {
        let world = World::new().over_user(&json!({ "nats": { "allowed_connection_types": types } }));
        assert_eq!(refusal(&world), mqtt, "{types}");
        assert_eq!(judged_at(&world, &over_ws).err(), ws, "{types}");
    }
    let here = World::new().over_user(&json!({ "nats": { "src": ["10.0.0.0/8"] } }));
    for (peer, expected) in [
        (Some("10.9.9.9"), None),
        (Some("::ffff:10.9.9.9"), None),
        (Some("11.0.0.1"), Some(Refusal::SourceAddress)),
        (Some("::1"), Some(Refusal::SourceAddress)),
        (None, Some(Refusal::SourceAddress)),
    ] {
        let peer = peer.map(|peer| peer.parse().unwrap());
        assert_eq!(judged_at(&here, &Circumstances { peer, ..circumstances() }).err(), expected, "{peer:?}");
    }
    let nowhere = Circumstances { peer: None, ..circumstances() };
    assert!(judged_at(&World::new(), &nowhere).is_ok());
    let proxied = World::new().over_user(&json!({ "nats": { "proxy_required": true } }));
    assert!(judged_at(&proxied, &Circumstances { has_trusted_proxy: true, ..circumstances() }).is_ok());
}

#[test]
fn default_permissions_are_for_users_without_any() {
    let defaults = json!({ "nats": { "default_permissions": {
        "pub": { "allow": ["def.>"] }, "sub": { "deny": ["x"] }, "resp": { "max": 3, "ttl": 5 } } } });
    let with = |over: Value| judged(&World::new().over_account(&defaults).over_user(&json!({ "nats": over }))).unwrap();
    let principal = with(json!({}));
    assert!(principal.permissions.is_publish_allowed("def.a") && !principal.permissions.is_publish_allowed("a"));
    assert_eq!(principal.permissions.response_limits().unwrap().max, 3);
    for own in [
        json!({ "pub": { "allow": ["own"] } }),
        json!({ "sub": { "deny": ["own"] } }),
        json!({ "resp": { "max": 1, "ttl": 1 } }),
    ] {
        let principal = with(own.clone());
        assert!(!principal.permissions.is_publish_allowed("def.a") || own["sub"].is_object(), "{own}: not merged");
        assert_ne!(principal.permissions.lists().subscribe, SubjectLists::new(&[], &["x"]), "{own}: not merged");
    }
    // A scope without permissions has the account's too.
    let world = World::new().with_scope().over_account(&defaults).over_template(&json!({ "pub": null, "sub": null }));
    assert!(judged(&world).unwrap().permissions.is_publish_allowed("def.a"));
}

/// Of the account, of the user, and what counts.
#[test]
fn limits() {
    use Limit::{Max, Unlimited};
    for (account, user, expected) in [
        (json!(-1), json!(-1), Unlimited),
        (json!(5), json!(-1), Max(5)),
        (json!(-1), json!(5), Max(5)),
        (json!(5), json!(3), Max(3)),
        (json!(3), json!(5), Max(3)),
        (json!(null), json!(-1), Max(0)),
        (json!(-1), json!(null), Max(0)),
        (json!(-1), json!(-7), Max(0)),
    ] {
        let world = World::new()
            .over_account(&json!({ "nats": { "limits": { "subs": account, "payload": account, "conn": account } } }))
            .over_user(&json!({ "nats": { "subs": user, "payload": user } }));
        let limits = judged(&world).unwrap().limits;
        assert_eq!((limits.subscriptions, limits.payload), (expected, expected), "{account} {user}");
        assert_eq!(limits.connections, Limit::of_claim(account.as_i64().unwrap_or(0)));
    }
    let scoped = World::new().with_scope().over_template(&json!({ "subs": 0, "payload": 9 }));
    let limits = judged(&scoped).unwrap().limits;
    assert_eq!((limits.subscriptions, limits.payload), (Max(0), Max(9)));
}

#[test]
fn when_a_connection_ends() {
    let at = |seconds| UnixTime::from_secs(NOW_S + seconds);
    let window = json!([{ "start": "22:00:00", "end": "22:30:00" }]);
    for (user, account, expected) in [
        (json!({}), json!({}), None),
        (json!({ "exp": NOW_S + 60 }), json!({}), Some((at(60), Ending::UserExpires))),
        (json!({ "exp": NOW_S + 60 }), json!({ "exp": NOW_S + 30 }), Some((at(30), Ending::AccountExpires))),
        (json!({ "nats": { "times": window } }), json!({}), Some((at(1000), Ending::WindowEnds))),
        (json!({ "exp": NOW_S + 60, "nats": { "times": window } }), json!({}), Some((at(60), Ending::UserExpires))),
    ] {
        let principal = judged(&World::new().over_user(&user).over_account(&account)).unwrap();
        assert_eq!(principal.ends(NOW), expected, "{user} {account}");
    }
    let principal = judged(&World::new().over_user(&json!({ "nats": { "times": window } }))).unwrap();
    assert_eq!(principal.ends(at(2000)), Some((at(2000), Ending::WindowEnds)));
}

/// Each step comes before the next: a user that is wrong in two ways hears of the first.
#[test]
fn steps_are_in_the_order_of_nats_server() {
    let world = World::new();
    let mut user = json!({});
    let mut account = json!({});
    let key = world.user.public_key();
    // From the last step to the first, each laid over those before.
    let steps: Vec<(Value, Value, Refusal)> = vec![
        (json!({ "nats": { "tags": ["mqtt:will=x"] } }), json!({}), Refusal::Tags),
        (json!({ "nats": { "pub": { "deny": ["a.>.b"] } } }), json!({}), Refusal::Permissions),
        (json!({ "nats": { "times": [{ "start": "01:00:00", "end": "02:00:00" }] } }), json!({}), Refusal::TimeWindow),
        (json!({ "nats": { "src": ["192.168.0.0/16"] } }), json!({}), Refusal::SourceAddress),
        (json!({}), json!({ "nats": { "revocations": { key: NOW_S } } }), Refusal::Revoked),
        (json!({ "nats": { "bearer_token": null } }), json!({}), Refusal::SignatureMissing),
        (json!({ "nats": { "allowed_connection_types": ["STANDARD"] } }), json!({}), Refusal::ConnectionType),
        (
            json!({ "nats": { "bearer_token": true } }),
            json!({ "nats": { "limits": { "disallow_bearer": true } } }),
            Refusal::BearerDisallowed,
        ),
        (
            json!({}),
            json!({ "nats": { "authorization": { "auth_users": [nkeys::KeyPair::new_user().public_key()] } } }),
            Refusal::AuthCallout,
        ),
        (json!({ "iss": world.stranger.public_key() }), json!({}), Refusal::AccountMismatch),
        (json!({ "nats": { "issuer_account": world.account.public_key() } }), json!({}), Refusal::Issuer),
        (json!({ "nats": { "issuer_account": "x" } }), json!({}), Refusal::IssuerAccount),
        (json!({ "nats": { "sub": { "allow": ["a..b"] } } }), json!({}), Refusal::Claims),
        (json!({ "nbf": NOW_S + 5 }), json!({}), Refusal::NotYetValid),
        (json!({ "exp": NOW_S - 5 }), json!({}), Refusal::Expired),
        (json!({ "nats": { "proxy_required": true } }), json!({}), Refusal::ProxyRequired),
        (json!({ "nats": { "version": 1 } }), json!({}), Refusal::Jwt(JwtError::Version)),
    ];
    for (over_user, over_account, expected) in steps {
        crate::mint::merge(&mut user, &over_user);
        crate::mint::merge(&mut account, &over_account);
        // `null` has to stay, so that it takes fields of the whole world away.
        if over_user["nats"].get("bearer_token").is_some_and(Value::is_null) {
            user["nats"]["bearer_token"] = json!(false);
        }
        let world = World::new().over_user(&user).over_account(&account);
        assert_eq!(refusal(&world), Some(expected), "{over_user} {over_account}");
    }
}

#[test]
fn reasons_say_nothing_of_the_jwt_and_each_has_a_label() {
    let world = World::new().over_user(&json!({ "nats": { "issuer_account": "secret" } }));
    let refusal = refusal(&world).unwrap();
    assert!(!refusal.to_string().contains("secret"));
    assert_eq!(refusal.label(), "issuer_account");
    assert_eq!(Refusal::Jwt(JwtError::Signature).label(), "jwt_signature");
}

#[test]
fn pinned_accounts() {
    let world = World::new();
    let user = UserJwt::decode(&world.user_jwt(), &circumstances()).unwrap();
    assert_eq!(user.check_pinned(&[world.account.public_key()].into()), Ok(()));
    assert_eq!(user.check_pinned(&[world.stranger.public_key()].into()), Err(Refusal::AccountNotPinned));
    assert_eq!(user.check_pinned(&[].into()), Err(Refusal::AccountNotPinned));
}
