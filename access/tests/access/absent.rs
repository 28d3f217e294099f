//! What a user may do who is not connected any more.

use mqtt_access::Publisher;
use mqtt_access::jwt::UserJwt;
use serde_json::json;

use crate::mint::{World, circumstances};

/// What is kept of a user who gets in.
fn kept(world: &World) -> Publisher {
    let user = UserJwt::decode(&world.user_jwt(), &circumstances()).unwrap();
    let principal = user.judge(&world.account(), &world.operators(), &circumstances()).unwrap();
    Publisher::new(&principal).unwrap()
}

/// Whether it may publish on a subject by what the account is now; `None` where nobody knows.
fn may_publish(kept: &Publisher, now: &World, subject: &str) -> Option<bool> {
    let permissions = now.account().permissions_of(kept, &now.operators());
    permissions.map(|permissions| permissions.is_publish_allowed(subject))
}

#[test]
fn a_user_of_a_scope_may_do_what_the_scope_says_now() {
    let world = || World::new().with_scope().over_user(&json!({ "nats": { "tags": ["site:x"] } }));
    let kept = kept(&world());
    assert_eq!(may_publish(&kept, &world(), "dev.lamp.x"), Some(true));
    let template = |allow: &str| world().over_template(&json!({ "pub": { "allow": [allow] } }));
    for (allow, expected) in [
        ("cmd.>", Some(false)),
        ("*.{{name()}}.x", Some(true)),
        ("dev.{{subject()}}.>", Some(false)),
        ("dev.*.{{tag(site)}}", Some(true)),
        ("{{nothing()}}", None),
    ] {
        assert_eq!(may_publish(&kept, &template(allow), "dev.lamp.x"), expected, "{allow}");
    }
    // Without a list it has what everybody of the account has who says nothing.
    let defaults = json!({ "nats": { "default_permissions": { "pub": { "deny": ["dev.>"] } } } });
    let by_default = world().over_template(&json!({ "pub": null, "sub": null })).over_account(&defaults);
    assert_eq!(may_publish(&kept, &by_default, "dev.lamp.x"), Some(false));
    let many = Publisher { tags: None, ..kept.clone() };
    assert_eq!(may_publish(&many, &template("cmd.>"), "dev.lamp.x"), None, "its tags are not known");
    let other = Publisher { account: World::new().stranger.public_key(), ..kept };
    assert_eq!(may_publish(&other, &world(), "dev.lamp.x"), None);
}

#[test]
fn a_user_without_permissions_has_those_of_its_account() {
    let kept = kept(&World::new());
    assert_eq!(may_publish(&kept, &World::new(), "a"), Some(true));
    let denied = json!({ "nats": { "default_permissions": { "pub": { "deny": ["a"] } } } });
    assert_eq!(may_publish(&kept, &World::new().over_account(&denied), "a"), Some(false));
    let revoked = json!({ "nats": { "revocations": { "*": 4_000_000_000_i64 } } });
    assert_eq!(may_publish(&kept, &World::new().over_account(&revoked), "a"), Some(true));
}

#[test]
fn what_its_own_jwt_has_said_nobody_knows_any_more() {
    let own = World::new().with_signing_key().over_user(&json!({ "nats": { "pub": { "allow": ["a"] } } }));
    assert_eq!(may_publish(&kept(&own), &own, "a"), None);
    // Nor what one may do whose key is gone.
    let kept = kept(&World::new().with_signing_key());
    let without = World::new().over_account(&json!({ "nats": { "signing_keys": [] } }));
    assert_eq!((may_publish(&kept, &World::new(), "a"), may_publish(&kept, &without, "a")), (Some(true), None));
}
