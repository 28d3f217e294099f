//! The same user JWTs presented to a nats-server with a MEMORY resolver and to the chain here: who gets in, and what those who
//! do may publish and subscribe to.
//!
//! They are presented to nats-server on its own protocol, so that a key can be proven; what is `MQTT` here is `STANDARD` there.

use mqtt_access::jwt::{Account, Circumstances, Listener, Operators, Proof, UserJwt};
use mqtt_access::{Principal, UnixTime};
use serde_json::{Value, json};

use super::connection::Connection;
use super::server::Server;
use crate::mint::World;

/// The numbers of the two operators.
const LENIENT: u16 = 0;
const STRICT: u16 = 1;

/// Subjects that whoever gets in is asked about, and filters that hold none but themselves.
const PROBES: [&str; 16] = [
    "a",
    "a.b",
    "x",
    "own",
    "def.a",
    "dev.lamp.x",
    "dev.other.x",
    "dev.*.x",
    "cmd.lamp.x",
    "s1.x",
    "s2.x",
    "s1.s2",
    "s1.eu",
    "lamp",
    "Tenant.x",
    "deny.x",
];

enum Issuer {
    Account,
    SigningKey,
    Scope,
}

/// A user, and how it differs from one that gets in.
struct Row {
    issuer: Issuer,
    operator: u16,
    user: Value,
    account: Value,
    template: Value,
    proves_key: bool,
    /// Why we refuse it and nats-server does not.
    is_stricter: Option<&'static str>,
}

fn row() -> Row {
    let (user, account, template) = (json!({}), json!({}), json!({}));
    let issuer = Issuer::Account;
    Row { issuer, operator: LENIENT, user, account, template, proves_key: false, is_stricter: None }
}

fn user(over: Value) -> Row {
    Row { user: over, ..row() }
}

fn user_nats(over: &Value) -> Row {
    user(json!({ "nats": over }))
}

fn account(over: Value) -> Row {
    Row { account: over, ..row() }
}

fn scope(template: Value) -> Row {
    Row { issuer: Issuer::Scope, template, ..row() }
}

/// A scope whose template publishes, with tags of the user.
fn template(allow: &[&str], deny: &[&str], name: &str, tags: &[&str]) -> Row {
    let lists = json!({ "allow": allow, "deny": deny });
    Row { user: json!({ "name": name, "nats": { "tags": tags } }), ..scope(json!({ "pub": lists, "sub": lists })) }
}

impl Row {
    fn signing_key(self) -> Self {
        Self { issuer: Issuer::SigningKey, ..self }
    }

    fn strict(self) -> Self {
        Self { operator: STRICT, ..self }
    }

    fn proven(self) -> Self {
        Self { proves_key: true, ..self }
    }

    fn stricter(self, why: &'static str) -> Self {
        Self { is_stricter: Some(why), ..self }
    }

    fn world(&self, number: u16, now_s: i64) -> World {
        let world = World::numbered(self.operator, number, now_s);
        let world = if self.operator == STRICT { world.strict() } else { world };
        let world = match self.issuer {
            Issuer::Account => world,
            Issuer::SigningKey => world.with_signing_key(),
            Issuer::Scope => world.with_scope(),
        };
        let tags = json!({ "nats": { "tags": ["region:eu", "region:us"] } });
        world.over_account(&tags).over_account(&self.account).over_template(&self.template).over_user(&self.user)
    }
}

/// The time of the day, so many seconds from now.
fn time_of_day(now_s: i64, from_now_s: i64) -> String {
    let of_day = (now_s + from_now_s).rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

fn claims(now: i64) -> Vec<Row> {
    let key = World::new().user.public_key();
    vec![
        row(),
        user(json!({ "exp": now + 1000 })),
        user(json!({ "exp": now - 10 })),
        user(json!({ "nbf": now - 10 })),
        user(json!({ "nbf": now + 1000 })),
        user(json!({ "aud": "x", "jti": "y" })),
        // It reads fields in any case.
        user(json!({ "EXP": now - 10 })),
        user_nats(&json!({ "Pub": { "DENY": ["a"] } })).stricter("a field in another case"),
        user(json!({ "sub": World::new().account.public_key() })).stricter("the subject is no user"),
        user_nats(&json!({ "version": 1 })),
        user_nats(&json!({ "version": 3 })),
        user_nats(&json!({ "type": "account" })),
        user_nats(&json!({ "issuer_account": "x" })),
        user(json!({ "type": "user" })),
        row().signing_key(),
        row().strict(),
        row().strict().signing_key(),
        Row { operator: STRICT, ..scope(json!({})) },
        user(json!({ "iss": World::new().stranger.public_key() })),
        user(json!({ "iss": World::new().account_signing.public_key() })),
        user_nats(&json!({ "bearer_token": null })),
        user_nats(&json!({ "bearer_token": null })).proven(),
        row().proven(),
        user_nats(&json!({ "proxy_required": true })),
        account(json!({ "nats": { "limits": { "disallow_bearer": true } } })),
        Row {
            account: json!({ "nats": { "limits": { "disallow_bearer": true } } }),
            ..user_nats(&json!({ "bearer_token": null }))
        }
        .proven(),
        account(json!({ "nats": { "limits": { "conn": 0 } } })),
        account(json!({ "nats": { "limits": { "conn": null } } })),
        account(json!({ "exp": now + 1000 })),
        account(json!({ "nats": { "revocations": { key.as_str(): now - 1000 } } })),
        account(json!({ "nats": { "revocations": { key.as_str(): now - 1001 } } })),
        account(json!({ "nats": { "revocations": { "*": now - 1000 } } })),
        account(json!({ "nats": { "revocations": { "*": now - 1001 } } })),
        account(json!({ "iss": World::new().foreign_operator.public_key() })),
    ]
}

fn whence_and_when(now: i64) -> Vec<Row> {
    let types = |types: &[&str]| user_nats(&json!({ "allowed_connection_types": types }));
    let sources = |sources: Value| user_nats(&json!({ "src": sources }));
    let window = |start: i64, end: i64, zone: &str| {
        let range = json!({ "start": time_of_day(now, start), "end": time_of_day(now, end) });
        user_nats(&json!({ "times": [range], "times_location": zone }))
    };
    vec![
        types(&["MQTT"]),
        types(&["mqtt"]),
        types(&["MQTT_WS"]),
        types(&["MQTT_WS", "MQTT", "FUTURE"]),
        types(&["FUTURE"]),
        types(&["FUTURE", "MQTT_WS"]),
        types(&[]),
        sources(json!(["127.0.0.0/8"])),
        sources(json!(["10.0.0.0/8", "127.0.0.1/32"])),
        sources(json!("10.0.0.0/8, 127.0.0.0/8")),
        sources(json!("10.0.0.0/8")),
        sources(json!(["10.0.0.0/8"])),
        sources(json!(["::ffff:127.0.0.0/104"])),
        sources(json!(["::/0"])),
        sources(json!(["127.0.0.1"])),
        sources(json!([])),
        window(-3600, 3600, "UTC"),
        window(3600, 7200, "UTC"),
        window(-7200, -3600, "UTC"),
        window(-3600, 3600, "Mars/Base"),
        window(-3600, 3600, "Asia/Tokyo"),
        window(9 * 3600 - 3600, 9 * 3600 + 3600, "Asia/Tokyo"),
        window(9 * 3600 + 3600, 9 * 3600 - 3600, "Asia/Tokyo"),
        user_nats(&json!({ "times": [{ "start": "1:00", "end": "2:00" }] })),
        user_nats(
            &json!({ "times": [{ "start": "0:00:00", "end": "12:30:00" }, { "start": "12:00:00", "end": "0:30:00" }] }),
        ),
    ]
}

fn permissions() -> Vec<Row> {
    let lists = |over: Value| user_nats(&over);
    let defaults = json!({ "nats": { "default_permissions": {
        "pub": { "allow": ["def.>"] }, "sub": { "allow": ["def.>"], "deny": ["x"] } } } });
    let defaulted = |over: Value| Row { account: defaults.clone(), ..user_nats(&over) };
    vec![
        lists(json!({ "pub": { "allow": ["a"] } })),
        lists(json!({ "pub": { "deny": ["a", "dev.>"] } })),
        lists(json!({ "pub": { "allow": [], "deny": ["a"] } })),
        lists(json!({ "pub": { "allow": [] } })),
        lists(json!({ "sub": { "allow": [], "deny": ["a"] } })),
        lists(json!({ "sub": { "allow": ["a.*", "x"], "deny": ["a.b"] } })),
        lists(json!({ "sub": { "allow": ["a q"] } })),
        lists(json!({ "pub": { "allow": ["a q"] } })),
        lists(json!({ "sub": { "allow": ["a b c"] } })),
        lists(json!({ "sub": { "deny": [" a"] } })),
        lists(json!({ "pub": { "allow": ["a..b"] } })),
        lists(json!({ "pub": { "allow": ["a.>.b"] } })),
        lists(json!({ "pub": { "deny": ["a.>.b"] } })).stricter("a deny that is no subject"),
        lists(json!({ "resp": { "max": 1, "ttl": 1 } })),
        lists(json!({ "pub": { "allow": ["a"] }, "resp": { "max": 0, "ttl": 0 } })),
        defaulted(json!({})),
        defaulted(json!({ "pub": { "allow": ["own"] } })),
        defaulted(json!({ "sub": { "deny": ["own"] } })),
        defaulted(json!({ "resp": { "max": 1, "ttl": 1 } })),
        Row { account: defaults.clone(), ..scope(json!({ "pub": null, "sub": null })) },
        scope(json!({})),
        scope(json!({ "subs": null, "payload": null })),
        Row { user: json!({ "nats": { "subs": -1 } }), ..scope(json!({})) },
        Row { user: json!({ "nats": { "subs": 0, "payload": 0 } }), ..scope(json!({})) },
        Row { user: json!({ "nats": { "src": [] } }), ..scope(json!({})) },
        Row { user: json!({ "nats": { "pub": { "allow": [] } } }), ..scope(json!({})) },
        Row { user: json!({ "nats": { "bearer_token": true } }), ..scope(json!({})) },
        Row { user: json!({ "nats": { "tags": ["a:b"] } }), ..scope(json!({})) },
        scope(json!({ "bearer_token": false })),
        scope(json!({ "bearer_token": false })).proven(),
        scope(json!({ "allowed_connection_types": ["MQTT_WS"] })),
        scope(json!({ "src": ["10.0.0.0/8"] })),
        scope(json!({ "src": ["nonsense"] })),
        scope(json!({ "sub": { "deny": ["a b c"] } })).stricter("a deny that is no subject"),
    ]
}

fn templates() -> Vec<Row> {
    let many: Vec<String> = (0..70).map(|index| format!("t:{index}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    vec![
        template(&["dev.{{name()}}.>"], &[], "lamp", &[]),
        template(&["dev.{{ NAME() }}.>"], &[], "lamp", &[]),
        template(&["dev.{{name()}}.>"], &[], "*", &[]),
        template(&["{{name()}}.x"], &[], "dev.lamp", &[]),
        template(&["{{name()}}"], &[], ">", &[]),
        template(&["{{name()}}.a", "a"], &[], ">", &[]),
        template(&["{{name()}}"], &[], "a b", &[]),
        template(&["{{name()}}"], &["x"], "a b", &[]),
        template(&[">"], &["{{name()}}"], "a b", &[]),
        template(&["{{name()}}", "a"], &[], "", &[]),
        template(&["{{account-name()}}.>"], &["{{tag(s)}}.>"], "lamp", &["s:s1"]),
        template(&["{{tag(s)}}.x"], &[], "lamp", &["s:s1", "s:s2"]),
        template(&["{{tag(s)}}.{{tag(s)}}"], &[], "lamp", &["s:s1", "s:s2"]),
        template(&["{{tag(s)}}.{{account-tag(region)}}"], &[], "lamp", &["s:s1"]),
        template(&["{{tag(S)}}.x"], &[], "lamp", &["s:s1"]),
        template(&["{{tag(s)}}.x"], &[], "lamp", &["S:s1"]),
        template(&["{{TAG(s)}}.x"], &[], "lamp", &["s:s1"]),
        template(&["{{TAG(s)}}.x"], &[], "lamp", &["tag(s:s1"]),
        template(&["{{tag(s)}}.x", "a"], &[], "lamp", &[]),
        template(&["{{tag(s)}}.x"], &[], "lamp", &[]),
        template(&[">"], &["{{tag(s)}}.x"], "lamp", &[]),
        template(&[">"], &["{{tag(s)}}.x"], "lamp", &["s:a b", "s:s1"]),
        template(&["{{tag(s)}}.x"], &[], "lamp", &["s:a b", "s:s1"]),
        template(&["{{tag(s)}}"], &[], "lamp", &["s:"]),
        template(&["{{tag(s)}}"], &[], "lamp", &["s:a:b", "s"]),
        template(&["{{nonsense()}}", "a"], &[], "lamp", &[]),
        template(&["{{{name()}}"], &[], "lamp", &[]),
        template(&["{{}}", "a"], &[], "lamp", &[]),
        template(&["{{client-id()}}"], &[], "lamp", &[]),
        template(&["{{tag(t)}}.{{tag(t)}}"], &[], "lamp", &many),
        template(&["{{tag(t)}}.{{tag(t)}}"], &[], "lamp", &many[..64]),
        template(&["{{tag(t)}}.{{tag(t)}}", "{{tag(t)}}"], &[], "lamp", &many[..64]),
        template(&["{{name()}}.{{tag(s)}}"], &[], "{{tag(s)}}", &["s:a"]),
        template(&["{{name()}}", "a"], &[], "{{subject()}}", &[]),
        Row { template: json!({ "sub": { "allow": ["a q", "{{name()}}"] } }), ..scope(json!({})) },
        Row { template: json!({ "sub": { "allow": ["a q", "x"] } }), ..scope(json!({})) },
    ]
}

/// `MQTT` and `MQTT_WS` by the names of what the test uses.
fn for_server(text: &Value) -> Value {
    let text = text.to_string();
    let renamed = [("\"MQTT\"", "\"STANDARD\""), ("\"mqtt\"", "\"standard\""), ("\"MQTT_WS\"", "\"WEBSOCKET\"")];
    let text = renamed.iter().fold(text, |text, (here, there)| text.replace(here, there));
    serde_json::from_str(&text).unwrap()
}

fn here(world: &World, operators: &Operators, now: UnixTime, proof: Proof<'_>) -> Result<Principal, String> {
    let peer = Some([127, 0, 0, 1].into());
    let circumstances = Circumstances { now, listener: Listener::Mqtt, peer, has_trusted_proxy: false, proof };
    let account = Account::verify(&world.account_jwt(), operators, now).map_err(|refusal| refusal.to_string())?;
    let user = UserJwt::decode(&world.user_jwt(), &circumstances).map_err(|refusal| refusal.to_string())?;
    let principal = user.judge(&account, operators, &circumstances).map_err(|refusal| refusal.to_string())?;
    match principal.limits.connections.is_reached(0) {
        true => Err("the account has no connection".to_owned()),
        false => Ok(principal),
    }
}

/// Whether the user gets in, where both agree.
fn compare(number: usize, row: &Row, world: &World, server: &Server, operators: &Operators, now: UnixTime) -> bool {
    let what = format!("row {number}: {} {} {}", world.user_claims, world.account_claims, row.template);
    let mut connection = Connection::open(server.port);
    let signature = world.user.sign(connection.nonce.as_bytes()).unwrap();
    let proof = match row.proves_key {
        true => Proof::Signature { signed: connection.nonce.as_bytes(), signature: &signature },
        false => Proof::None,
    };
    let here = here(world, operators, now, proof);
    let mut credentials = json!({ "jwt": world.sign(&for_server(&world.user_claims)) });
    if row.proves_key {
        let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
        credentials["sig"] = base64::Engine::encode(&engine, &signature).into();
    }
    let answer = connection.connect(&credentials);
    let there = answer.errors.is_empty() && !answer.is_closed;
    let principal = match (here, there) {
        (Ok(principal), true) => principal,
        (Err(_), false) => return false,
        (Err(reason), true) => {
            assert!(row.is_stricter.is_some(), "only we refuse ({reason}) {what}");
            return false;
        }
        (Ok(_), false) => panic!("only nats-server refuses ({:?}) {what}", answer.errors),
    };
    assert_eq!(row.is_stricter, None, "nobody refuses {what}");
    for subject in PROBES {
        let here = principal.permissions.is_publish_allowed(subject);
        assert_eq!(here, connection.publishes(subject), "publish to {subject}: {what}");
        for queue in [None, Some("q")] {
            let here = principal.permissions.subscribe(subject, queue).is_granted();
            assert_eq!(here, connection.subscribes(subject, queue), "subscription to {subject} {queue:?}: {what}");
        }
        connection.unsubscribe();
    }
    true
}

#[test]
fn users_get_in_as_at_nats_server() {
    #[expect(clippy::disallowed_methods, reason = "nats-server has this clock, and no other can be given to it")]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now_s = i64::try_from(now.as_secs()).unwrap();
    let rows: Vec<Row> =
        [claims(now_s), whence_and_when(now_s), permissions(), templates()].into_iter().flatten().collect();
    let worlds: Vec<World> =
        rows.iter().enumerate().map(|(number, row)| row.world(u16::try_from(number).unwrap() + 1, now_s)).collect();
    let operators = [World::numbered(LENIENT, 0, now_s), World::numbered(STRICT, 0, now_s).strict()];
    let preload: serde_json::Map<String, Value> = worlds
        .iter()
        .map(|world| (world.account.public_key(), world.sign(&for_server(&world.account_claims)).into()))
        .collect();
    let config = json!({ "operator": operators.each_ref().map(World::operator_jwt), "resolver": "MEMORY", "resolver_preload": preload });
    let config: Vec<String> =
        config.as_object().unwrap().iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let server = Server::start(&config.join("\n"));
    let operators = Operators::new(operators.iter().flat_map(|world| world.operators().all().to_vec()).collect());
    let now = UnixTime::from_secs(now_s);
    let all = rows.iter().zip(&worlds).enumerate();
    let let_in = all.filter(|(number, (row, world))| compare(*number, row, world, &server, &operators, now)).count();
    println!("{} JWTs, of which {let_in} get in", rows.len());
    assert!(let_in > 50 && rows.len() - let_in > 50, "{let_in} of {}", rows.len());
}
