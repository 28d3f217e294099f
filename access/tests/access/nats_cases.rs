//! nats-server's own cases of permissions and JWTs that have a meaning for MQTT, built again as tables, each row with the name
//! of the test there. `docs/nats-cases.md` has all of them, also those without a meaning here.

use mqtt_access::SubscribeVerdict::{Allowed, AllowedInPart, Denied, TooWide};
use mqtt_access::jwt::{Account, AccountRefusal, Circumstances, Listener, Proof, Refusal, UserJwt};
use mqtt_access::{
    Limit, PermissionLists, Permissions, Principal, ReplyBudget, ResponseLimits, SubjectLists, SubscribeVerdict,
    UnixTime,
};
use serde_json::{Value, json};

use crate::mint::{NOW, NOW_S, World, circumstances};

fn judged_at(world: &World, circumstances: &Circumstances<'_>) -> Result<Principal, Refusal> {
    UserJwt::decode(&world.user_jwt(), circumstances)?.judge(&world.account(), &world.operators(), circumstances)
}

fn judged(world: &World) -> Result<Principal, Refusal> {
    judged_at(world, &circumstances())
}

fn subscribing(allow: &[&str], deny: &[&str]) -> Permissions {
    let lists = PermissionLists { subscribe: SubjectLists::new(allow, deny), ..PermissionLists::default() };
    Permissions::new(lists).unwrap()
}

/// The test there; allow, deny, the filter with its queue, and our verdict.
type Subscription<'a> = (&'a str, &'a [&'a str], &'a [&'a str], &'a str, SubscribeVerdict);

const SUBSCRIPTIONS: &[Subscription<'_>] = &[
    ("TestQueueSubscribePermissions", &["in"], &[], "in", Allowed),
    ("TestQueueSubscribePermissions", &["in g"], &[], "in g", Allowed),
    ("TestQueueSubscribePermissions", &["in g.*"], &[], "in g.x", Allowed),
    ("TestQueueSubscribePermissions", &["> g.>"], &[], "other g.x", Allowed),
    ("TestQueueSubscribePermissions", &["> g.>"], &[], "other", Denied),
    ("TestQueueSubscribePermissions", &[">"], &["in"], "in g", Denied),
    ("TestQueueSubscribePermissions", &[">"], &["in"], "out", Allowed),
    ("TestQueueSubscribePermissions", &[">"], &[">"], "in g", Denied),
    ("TestQueueSubscribePermissions", &["> one.>"], &[], "in one.live", Allowed),
    ("TestQueueSubscribePermissions", &[">"], &["> >"], "in", Allowed),
    ("TestQueueSubscribePermissions", &[], &["> >"], "in g", Denied),
    ("TestQueueSubscribePermissions", &[], &["> *.test", "> *.trial"], "in g", Allowed),
    ("TestQueueSubscribePermissions", &["> *.test", "> *.trial"], &[], "in g", Denied),
    ("TestQueueSubscribePermissions", &[], &["in >"], "in g", Denied),
    ("TestQueueSubscribePermissions", &["in g"], &[], "in h", Denied),
    ("TestQueueSubscribePermissions", &["in"], &[], "in g", Allowed),
    ("TestQueueSubscribePermissions", &[">"], &["root.>", "> closed"], "root.key crew", Denied),
    ("TestJWTQueuePermissions", &["in.> *.test"], &[], "in.a g.test", Allowed),
    ("TestJWTQueuePermissions", &["in.> *.test"], &[], "in.a", Denied),
    ("TestJWTQueuePermissions", &["in.> *.test"], &[], "in.a g", Denied),
    ("TestJWTQueuePermissions", &[], &["in.> *.test"], "in.a", Allowed),
    ("TestJWTQueuePermissions", &[], &["in.> *.test"], "in.a g.test", Denied),
    ("TestSplitSubjectQueue", &["in"], &[], "in", Allowed),
    ("TestSplitSubjectQueue", &[" in g "], &[], "in g", Allowed),
    ("TestSplitSubjectQueue", &["in  g"], &[], "in g", Allowed),
    ("TestSplitSubjectQueue", &["in  g h"], &[], "in g", Denied),
    ("TestSplitSubjectQueue", &[""], &[], "in", Denied),
    ("TestSplitSubjectQueue", &["\t"], &[], "in", Denied),
    ("TestSplitSubjectQueue", &[" \t\r\n"], &[], "in", Denied),
    ("TestAccountUserSubPermsWithQueueGroups", &["in.>"], &["in.closed"], "in.> g", AllowedInPart),
    (
        "TestClientQueueScopedSubscribeDenyBlocksOnlyMatchingQueue",
        &[">"],
        &["root.key crew"],
        "root.* crew",
        AllowedInPart,
    ),
    ("TestClientQueueScopedSubscribeDenyBlocksOnlyMatchingQueue", &[">"], &["root.key crew"], "root.* other", Allowed),
    ("TestClientQueueScopedSubscribeDenyBlocksOnlyMatchingQueue", &[">"], &["root.key crew"], "root.*", Allowed),
    ("TestClientDenySysGroupSub", &[], &[], "in _sys_", Denied),
    ("TestClientDenySysGroupSub", &[">"], &[], "in _sys_", Denied),
    ("TestMQTTPermissionsViolation", &["in.*"], &["in.key"], "in.*", AllowedInPart),
    ("TestMQTTPermissionsViolation", &["in.*"], &["in.key"], "in.key", Denied),
    ("TestMQTTPermissionsViolation", &["in.*"], &["in.key"], "in.*.*", Denied),
    ("TestMQTTPermissionsViolation", &["in.*"], &["in.key"], "in.>", TooWide),
    ("TestMQTTPermissionsViolation", &["in.*"], &["in.key"], "in.*.>", Denied),
    ("TestMQTTPermissionsViolation", &["in.*"], &["in.key"], "$MQTT.msgs.>", Denied),
    ("TestMQTTSubscribeDenyRetainedAndQoSReplay", &[">"], &["closed.>"], ">", AllowedInPart),
    ("TestMQTTSubscribeDenyInternalMessageSubject", &["in"], &["$MQTT.msgs.in"], "$MQTT.msgs.in", Denied),
    ("TestJWTUserPermissionClaims", &["in", "out"], &["key"], "key", Denied),
];

#[test]
fn subscriptions() {
    for (case, allow, deny, asked, expected) in SUBSCRIPTIONS {
        let (filter, queue) = asked.split_once(' ').map_or((*asked, None), |(filter, queue)| (filter, Some(queue)));
        assert_eq!(subscribing(allow, deny).subscribe(filter, queue), *expected, "{case} {allow:?} {deny:?} {asked}");
    }
}

#[test]
fn deliveries_inside_a_wildcard() {
    /// The test there; deny, subject with its queue, and whether it is withheld.
    const TABLE: &[(&str, &str, &str, bool)] = &[
        ("TestClientSubscribeDenyWildcardOverlapBlocksDelivery", "*.key", "in.key g", true),
        ("TestClientSubscribeDenyWildcardOverlapBlocksDelivery", "*.key", "in.open g", false),
        ("TestClientSubscribeDenyWildcardOverlapBlocksDelivery", "in.*.z", "in.y.z g", true),
        ("TestClientSubscribeDenyWildcardOverlapBlocksDelivery", "in.*.z", "in.y.x g", false),
        ("TestClientSubscribeDenyWildcardOverlapBlocksDelivery", "*.*.z", "in.y.z g", true),
        ("TestClientSubscribeDenyWildcardOverlapBlocksDelivery", "*.*.z", "in.y.x g", false),
        ("TestClientSubscribeDenyWildcardOverlapBlocksDelivery", "in.>", "in.z g", true),
        ("TestClientSubscribeDenyWildcardOverlapBlocksDelivery", "in.>", "out.z g", false),
        ("TestClientQueueScopedSubscribeDenyBlocksOnlyMatchingQueue", "root.key crew", "root.key crew", true),
        ("TestClientQueueScopedSubscribeDenyBlocksOnlyMatchingQueue", "root.key crew", "root.key other", false),
        ("TestClientQueueScopedSubscribeDenyBlocksOnlyMatchingQueue", "root.key crew", "root.key", false),
        ("TestClientQueueScopedSubscribeDenyBlocksOnlyMatchingQueue", "root.key crew.*", "root.key crew.a", true),
        ("TestClientQueueScopedSubscribeDenyBlocksOnlyMatchingQueue", "root.key crew.*", "root.key other.a", false),
        ("TestAccountUserSubPermsWithQueueGroups", "in.closed", "in.closed g", true),
        ("TestMQTTSubscribeDenyRetainedAndQoSReplay", "closed.>", "closed.one", true),
        ("TestMQTTSubscribeDenyRetainedAndQoSReplay", "closed.>", "open.one", false),
    ];
    for (case, deny, asked, expected) in TABLE {
        let (subject, queue) = asked.split_once(' ').map_or((*asked, None), |(subject, queue)| (subject, Some(queue)));
        assert_eq!(subscribing(&[">"], &[deny]).is_delivery_denied(subject, queue), *expected, "{case} {deny} {asked}");
    }
}

#[test]
fn publishes() {
    type Row<'a> = (&'a str, &'a [&'a str], &'a [&'a str], &'a str, bool);
    /// The test there; allow, deny, a subject, and whether it is allowed.
    const TABLE: &[Row<'_>] = &[
        ("TestClientSetPermissionsPublishDenyQueueQualifierFailsClosed", &[], &["root.key crew"], "root.key", false),
        ("TestMQTTPermissionsViolation", &["in.a"], &[], "in.a", true),
        ("TestMQTTPermissionsViolation", &["in.a"], &[], "in.key", false),
        ("TestMQTTPermissionsViolation", &["in.a"], &[], "$MQTT.msgs.x", false),
        ("TestMQTTPublishRetainPermViolation", &["in"], &[], "out", false),
        ("TestMQTTWillRetainPermViolation", &["in"], &[], "in", true),
        ("TestMQTTWillRetainPermViolation", &["in"], &[], "out", false),
        ("TestJWTUserPermissionClaims", &["in", "out"], &["key"], "out", true),
        ("TestJWTUserPermissionClaims", &["in", "out"], &["key"], "key", false),
        ("TestJWTUserPermissionClaims", &["in", "out"], &["key"], "else", false),
        ("TestWildcardCharsInLiteralSubjectWorks", &["in.*x", "in.y>"], &[], "in.*x", true),
        ("TestWildcardCharsInLiteralSubjectWorks", &["in.*x", "in.y>"], &[], "in.ax", false),
        ("TestWildcardCharsInLiteralSubjectWorks", &["in.*x", "in.y>"], &[], "in.y>", true),
    ];
    for (case, allow, deny, subject, expected) in TABLE {
        let lists = PermissionLists { publish: SubjectLists::new(allow, deny), ..PermissionLists::default() };
        assert_eq!(Permissions::new(lists).unwrap().is_publish_allowed(subject), *expected, "{case} {subject}");
    }
}

#[test]
fn replies() {
    const HOUR_NS: i64 = 3_600_000_000_000;
    /// The test there; `max`, `ttl`, then when each reply comes in milliseconds, and how many are allowed.
    const TABLE: &[(&str, i64, i64, &[i64], usize)] = &[
        ("TestResponsePermissions", 2, HOUR_NS, &[0, 0, 0, 0], 2),
        ("TestResponsePermissions", 3, -1_000_000, &[0, 50, 86_400_000], 3),
        ("TestResponsePermissions", 1000, 100_000_000, &[0, 200, 400], 1),
        ("TestResponsePermissions", -1, 100_000_000, &[0, 200], 1),
        ("TestJWTUserResponsePermissionClaimsDefaultValues", 0, 0, &[0, 0], 1),
        ("TestJWTUserResponsePermissionClaimsDefaultValues", 0, 0, &[120_001], 0),
        ("TestJWTUserResponsePermissionClaimsNegativeValues", -1, -1_000_000_000, &[0, 9, 86_400_000], 3),
        ("TestJWTUserResponsePermissionClaims", 5, HOUR_NS, &[0, 0, 0, 0, 0, 0], 5),
    ];
    for (case, max, ttl_ns, replies, expected) in TABLE {
        let limits = ResponseLimits { max: *max, ttl_ns: *ttl_ns };
        let mut budget = ReplyBudget::new(limits, UnixTime::from_millis(0));
        let allowed = replies.iter().filter(|at| budget.take(UnixTime::from_millis(**at))).count();
        assert_eq!(allowed, *expected, "{case} {max} {ttl_ns}");
        // Whoever has such a permission and no list publishes nothing else.
        let world = World::new().over_user(&json!({ "nats": { "resp": { "max": max, "ttl": ttl_ns } } }));
        assert!(!judged(&world).unwrap().permissions.is_publish_allowed("in"), "{case}");
    }
}

fn scope(template: &Value, tags: &[&str]) -> Result<PermissionLists, Refusal> {
    let account_tags = json!({ "nats": { "tags": ["unit:north", "unit:south"] } });
    let world = World::new().with_scope().over_template(&json!({ "pub": null, "sub": null }));
    let world = world.over_template(template).over_account(&account_tags);
    judged(&world.over_user(&json!({ "nats": { "tags": tags } }))).map(|user| user.permissions.lists().clone())
}

#[test]
fn templates() {
    let tags = ["room:r1", "room:r2", "desk:d1", "desk:d2", "desk:d3"];
    let (user, account) = (World::new().user.public_key(), World::new().account.public_key());
    let all = ["r1.x.d1", "r1.x.d2", "r1.x.d3", "r2.x.d1", "r2.x.d2", "r2.x.d3"];
    let deny = ["r1.north", "r1.south", "r2.north", "r2.south"];
    let named = format!("a.lamp.{user}.Tenant.{account}.z");
    for (case, template, publish, subscribe) in [
        (
            "TestJWTTemplates",
            json!({ "pub": { "allow": ["{{tag(room)}}.x.{{tag(desk)}}"], "deny": ["{{tag(room)}}.{{account-tag(unit)}}"] } }),
            (&all[..], &deny[..]),
            (&[][..], vec![]),
        ),
        (
            "TestJWTTemplates",
            json!({ "sub": {
                "allow": ["{{tag(NONE)}}"],
                "deny": ["a.{{name()}}.{{subject()}}.{{account-name()}}.{{account-subject()}}.z"],
            } }),
            (&[], &[]),
            (&[], vec![named.as_str(), ">"]),
        ),
        (
            "TestJWTInLineTemplates",
            json!({ "pub": { "allow": ["$JS.API.STREAM.INFO.KV_{{tag(room)}}"] } }),
            (&["$JS.API.STREAM.INFO.KV_r1", "$JS.API.STREAM.INFO.KV_r2"], &[]),
            (&[], vec![]),
        ),
        (
            "TestJWTLimitsTemplate",
            json!({ "pub": { "allow": ["in.{{name()}}"], "deny": ["key"] }, "sub": { "allow": ["in.{{name()}}"] } }),
            (&["in.lamp"], &["key"]),
            (&["in.lamp"], vec![]),
        ),
    ] {
        let lists = scope(&template, &tags).unwrap();
        assert_eq!(
            (lists.publish.allowed(), lists.publish.denied()),
            (&strings(publish.0)[..], &strings(publish.1)[..]),
            "{case}"
        );
        assert_eq!(lists.subscribe.allowed(), strings(subscribe.0), "{case}");
        assert_eq!(lists.subscribe.denied(), strings(&subscribe.1), "{case}");
    }
    let many: Vec<String> = (0..128).flat_map(|index| [format!("one:v{index}"), format!("two:v{index}")]).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (case, template, tags) in [
        ("TestJWTTemplates", json!({ "pub": { "deny": ["{{tag(NONE)}}"] } }), &tags[..]),
        ("TestJWTTemplateGoodTagAfterBadTag", json!({ "pub": { "deny": ["{{tag(NONE)}}.{{tag(room)}}"] } }), &tags),
        ("TestProcessUserPermissionsTemplateMalformedOpDoesNotPanic", json!({ "sub": { "deny": ["in.{{x}}"] } }), &[]),
        (
            "TestProcessUserPermissionsTemplateUnknownAllowOpDoesNotPanic",
            json!({ "pub": { "allow": ["in.{{what()}}"] } }),
            &[],
        ),
        (
            "TestProcessUserPermissionsTemplateRejectsExcessiveTagExpansions",
            json!({ "pub": { "allow": ["in.{{tag(one)}}.{{tag(two)}}"] } }),
            &many,
        ),
    ] {
        assert_eq!(scope(&template, tags), Err(Refusal::ScopeTemplate), "{case}");
    }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| String::from(*text)).collect()
}

/// Where from and when: what is put over the user, with its hours as seconds from now, and why it is refused.
#[test]
fn addresses_and_hours() {
    // It is 22:13:20, so that the hours of the tests there are moved.
    let hours = |ranges: &[(&str, &str)]| {
        let ranges: Vec<Value> = ranges.iter().map(|(start, end)| json!({ "start": start, "end": end })).collect();
        json!({ "nats": { "times": ranges, "times_location": "UTC" } })
    };
    let sources = |sources: &str| json!({ "nats": { "src": sources } });
    let (address, hour) = (Some(Refusal::SourceAddress), Some(Refusal::TimeWindow));
    let ends = |seconds: i64| Some(seconds);
    for (case, over, refused, remaining_s) in [
        ("TestJWTUserLimits", json!({}), None, None),
        ("TestJWTUserLimits", sources("8.8.8.8/8"), address, None),
        ("TestJWTUserLimits", sources("8.8.8.8/0"), None, None),
        ("TestJWTUserLimits", sources("10.1.2.3/8"), None, None),
        ("TestJWTUserLimits", sources("8.8.8.8/8,10.1.2.3/8"), None, None),
        ("TestJWTUserLimits", sources("8.8.8.8/8,9.9.9.9/8"), address, None),
        ("TestJWTUserLimits", hours(&[("22:13:19", "23:13:20")]), None, ends(3600)),
        ("TestJWTUserLimits", hours(&[("23:13:20", "00:13:20")]), hour, None),
        ("TestJWTUserLimits", hours(&[("23:13:20", "00:13:20"), ("22:13:19", "23:13:20")]), None, ends(3600)),
        ("TestJWTUserLimits", hours(&[("23:13:20", "00:13:20"), ("00:13:20", "01:13:20")]), hour, None),
        ("TestJWTUserLimits", hours(&[("23:13:20", "02:13:20"), ("00:13:20", "02:13:20")]), hour, None),
        ("TestJWTUserLimits", hours(&[("23:13:20", "02:13:20"), ("00:13:20", "01:13:20")]), hour, None),
        ("TestJWTUserLimits", hours(&[("22:13:19", "21:13:20")]), None, ends(82_800)),
        ("TestJWTValidateTimesAt", hours(&[("17:00:00", "23:00:00")]), None, ends(2800)),
        ("TestJWTValidateTimesAt", hours(&[("22:30:00", "23:00:00")]), hour, None),
        ("TestJWTValidateTimesAt", hours(&[("09:00:00", "17:00:00")]), hour, None),
        ("TestJWTValidateTimesAt", hours(&[("22:00:00", "06:00:00")]), None, ends(28_000)),
        ("TestJWTValidateTimesAt", hours(&[("23:00:00", "22:30:00")]), None, ends(1000)),
        ("TestJWTValidateTimesAt", hours(&[("23:00:00", "06:00:00")]), hour, None),
        ("TestJWTValidateTimesAt", hours(&[("23:00:00", "22:00:00")]), hour, None),
        ("TestJWTValidateTimesAt", hours(&[("20:00:00", "23:00:00"), ("22:00:00", "06:00:00")]), None, ends(28_000)),
        ("TestJWTValidateTimesAt", hours(&[("22:00:00", "06:00:00"), ("20:00:00", "23:00:00")]), None, ends(28_000)),
        (
            "TestJWTTimeExpiration",
            json!({ "exp": NOW_S + 10, "nats": { "times": [{ "start": "22:00:00", "end": "22:13:22" }] } }),
            None,
            ends(2),
        ),
        (
            "TestJWTTimeExpiration",
            json!({ "nats": { "times": [{ "start": "17:13:19", "end": "17:13:22" }], "times_location": "America/New_York" } }),
            None,
            ends(2),
        ),
    ] {
        let judged = judged(&World::new().over_user(&over));
        let remaining = judged.as_ref().ok().and_then(|user| user.ends(NOW)).map(|(at, _)| at.as_secs() - NOW_S);
        assert_eq!((judged.err(), remaining), (refused, remaining_s), "{case} {over}");
    }
}

/// What is put over the user and the account, and why it is refused.
#[test]
fn users_and_accounts() {
    let (user, stranger) = (World::new().user.public_key(), World::new().stranger.public_key());
    let account = World::new().account.public_key();
    let types = |types: &[&str]| json!({ "nats": { "allowed_connection_types": types } });
    let revoked = |key: &str, at: i64| json!({ "nats": { "revocations": { key: at } } });
    let connection = Some(Refusal::ConnectionType);
    for (case, over_user, over_account, expected) in [
        ("TestJWTUser", json!({}), json!({}), None),
        ("TestJWTUserExpired", json!({ "exp": NOW_S - 60 }), json!({}), Some(Refusal::Expired)),
        ("TestMQTTJWTWithAllowedConnectionTypes", types(&["STANDARD"]), json!({}), connection),
        ("TestMQTTJWTWithAllowedConnectionTypes", types(&["STANDARD", "mqtt"]), json!({}), None),
        ("TestMQTTJWTWithAllowedConnectionTypes", types(&["MQTT", "NewType"]), json!({}), None),
        ("TestMQTTJWTWithAllowedConnectionTypes", types(&["NewType"]), json!({}), connection),
        ("TestUserUnknownAllowedConnectionType", types(&["STANDARD", "newType"]), json!({}), connection),
        ("TestInProcessAllowedConnectionType", types(&["IN_PROCESS"]), json!({}), connection),
        ("TestJWTBearerToken", json!({}), json!({}), None),
        ("TestJWTBearerToken", json!({ "nats": { "bearer_token": null } }), json!({}), Some(Refusal::SignatureMissing)),
        (
            "TestJWTBearerWithIssuerSameAsAccountToken",
            json!({ "nats": { "issuer_account": account } }),
            json!({}),
            None,
        ),
        (
            "TestJWTBearerWithBadIssuerToken",
            json!({ "nats": { "issuer_account": stranger } }),
            json!({}),
            Some(Refusal::AccountMismatch),
        ),
        (
            "TestJWTLimits",
            json!({}),
            json!({ "nats": { "limits": { "disallow_bearer": true } } }),
            Some(Refusal::BearerDisallowed),
        ),
        ("TestJWTUserRevoked", json!({}), revoked(&user, NOW_S), Some(Refusal::Revoked)),
        ("TestJWTUserRevocation", json!({}), revoked(&user, NOW_S - 1000), Some(Refusal::Revoked)),
        ("TestJWTUserRevocation", json!({ "iat": NOW_S - 999 }), revoked(&user, NOW_S - 1000), None),
        ("TestJWTUserRevocation", json!({}), revoked("*", NOW_S - 1000), Some(Refusal::Revoked)),
        ("TestJWTUserRevocation", json!({ "iat": NOW_S - 999 }), revoked("*", NOW_S - 1000), None),
        (
            "TestAuthProxyRequired",
            json!({ "nats": { "proxy_required": true } }),
            json!({}),
            Some(Refusal::ProxyRequired),
        ),
        (
            "TestDefaultSentinelUser",
            json!({}),
            json!({ "nats": { "authorization": { "auth_users": [nkeys::KeyPair::new_user().public_key()] } } }),
            Some(Refusal::AuthCallout),
        ),
    ] {
        let world = World::new().over_user(&over_user).over_account(&over_account);
        assert_eq!(judged(&world).err(), expected, "{case} {over_user} {over_account}");
    }
}

#[test]
fn signing_keys() {
    let template = json!({
        "pub": { "allow": null, "deny": ["key"] }, "sub": null, "payload": 5, "allowed_connection_types": ["MQTT"],
    });
    let scoped = || World::new().with_scope().over_template(&template);
    // TestJWTScopedSigningKeys
    let own = scoped().over_user(&json!({ "nats": { "subs": -1, "data": -1, "payload": -1 } }));
    assert_eq!(judged(&own).err(), Some(Refusal::ScopedUserNotEmpty));
    assert!(judged(&World::new().with_signing_key()).unwrap().permissions.is_publish_allowed("key"));
    let principal = judged(&scoped()).unwrap();
    assert_eq!(principal.limits.payload, Limit::Max(5));
    assert!(!principal.permissions.is_publish_allowed("key") && principal.permissions.is_publish_allowed("in"));
    let over_ws = Circumstances { listener: Listener::MqttWs, ..circumstances() };
    assert_eq!(judged_at(&scoped(), &over_ws).err(), Some(Refusal::ConnectionType));
    let changed = json!({ "payload": -1, "pub": { "deny": null }, "allowed_connection_types": ["MQTT", "MQTT_WS"] });
    let principal = judged_at(&scoped().over_template(&changed), &over_ws).unwrap();
    assert!(principal.permissions.is_publish_allowed("key") && principal.limits.payload == Limit::Unlimited);
    // TestJWTUserSigningKey: a key that is taken away.
    let mut without = World::new().with_signing_key();
    assert!(judged(&without).is_ok());
    without.account_claims["nats"]["signing_keys"] = json!([]);
    assert_eq!(judged(&without).err(), Some(Refusal::Issuer));
    // TestJWTStrictSigningKeys: an account by the identity key, then users by either.
    let operator = World::new().operator.public_key();
    let by_identity = World::new().strict().over_account(&json!({ "iss": operator }));
    let refused = Account::verify(&by_identity.account_jwt(), &by_identity.operators(), NOW).err();
    assert_eq!(refused, Some(AccountRefusal::Foreign));
    assert_eq!(judged(&World::new().strict()).err(), Some(Refusal::Issuer));
    assert!(judged(&World::new().strict().with_signing_key()).is_ok());
}

/// What is put over an account, and why it does not count.
#[test]
fn accounts() {
    let foreign = World::new().foreign_operator.public_key();
    for (case, over, expected) in [
        ("TestJWTUserBadTrusted", json!({ "iss": foreign }), Some(AccountRefusal::Foreign)),
        ("TestJWTAccountURLResolverReturnDifferentOperator", json!({ "iss": foreign }), Some(AccountRefusal::Foreign)),
        ("TestJWTAccountExpired", json!({ "exp": NOW_S - 60 }), Some(AccountRefusal::Expired)),
        ("TestJWTAccountRenew", json!({ "exp": NOW_S + 60, "iat": NOW_S }), None),
    ] {
        let world = World::new().over_account(&over);
        assert_eq!(Account::verify(&world.account_jwt(), &world.operators(), NOW).err(), expected, "{case}");
    }
}

/// Limits of the account and of the user, and what counts for the connection.
#[test]
fn limits() {
    use Limit::{Max, Unlimited};
    let large = i64::from(i32::MAX) + 1;
    let huge = Max(2_147_483_648);
    for (case, of_account, of_user, expected) in [
        ("TestJWTAccountLimitsSubs", 10, -1, Max(10)),
        ("TestJWTAccountLimitsMaxPayload", 8, -1, Max(8)),
        ("TestJWTAccountLimitsMaxConns", 8, -1, Max(8)),
        ("TestJWTAccountLimitsOverflowInt32", large, -1, huge),
        ("TestJWTUserLimitsOverflowInt32SubPub", -1, large, huge),
        ("TestClientLimits", 3, 5, Max(3)),
        ("TestClientLimits", 5, 3, Max(3)),
        ("TestClientLimits", -1, -1, Unlimited),
        ("TestClientLimits", -1, 5, Max(5)),
        ("TestClientClampMaxSubsErrReport", 1, -1, Max(1)),
    ] {
        let limits = json!({ "nats": { "limits": { "subs": of_account, "payload": of_account, "conn": of_account } } });
        let user = json!({ "nats": { "subs": of_user, "payload": of_user } });
        let principal = judged(&World::new().over_account(&limits).over_user(&user)).unwrap();
        assert_eq!((principal.limits.subscriptions, principal.limits.payload), (expected, expected), "{case}");
        assert_eq!(principal.limits.connections, Limit::of_claim(of_account), "{case}");
    }
}

#[test]
fn default_permissions_that_change() {
    // TestJWTAccountDefaultPermissionsUpdateRefreshesClients, …KeepsExplicitUserPermissions
    let defaults = |subject: &str| json!({ "nats": { "default_permissions": { "pub": { "allow": [subject] }, "sub": { "allow": [subject] } } } });
    let explicit = json!({ "nats": { "pub": { "allow": ["own"] }, "sub": { "allow": ["own"] } } });
    let later = Circumstances { proof: Proof::Earlier, ..circumstances() };
    for (over_user, before, after) in [(json!({}), "in", "out"), (explicit, "own", "own")] {
        let world = World::new().over_user(&over_user);
        let user = UserJwt::decode(&world.user_jwt(), &circumstances()).unwrap();
        for (default, allowed) in [("in", before), ("out", after)] {
            let account = World::new().over_account(&defaults(default)).account();
            let permissions = user.judge(&account, &world.operators(), &later).unwrap().permissions;
            for subject in ["in", "out", "own"] {
                assert_eq!(permissions.is_publish_allowed(subject), subject == allowed, "{default} {subject}");
                assert_eq!(
                    permissions.subscribe(subject, None).is_granted(),
                    subject == allowed,
                    "{default} {subject}"
                );
            }
        }
    }
}
