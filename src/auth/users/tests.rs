//! Users of a configuration, and what clients become that are one of them.

use mqtt_access::{SubscribeVerdict, UnixTime};

use super::*;
use crate::config::{Config, Overrides};

const LIGHT: &str =
    "$7$10$MDEyMzQ1Njc4OWFi$NrzwjNkm0devHqjYkA7HqLMvRhp+AsLReNF6SvsV8eCNpQ1+C4DLO/N1v2TyhqbZt6lLUVErC2CGca242OSJCA==";
const DARK: &str =
    "$7$10$MDEyMzQ1Njc4OWFi$+Q6JcCccUhX6taJBsV2DpwYub6oG14yYRDFmcjfnToT3aPihgMUyGdPS3j+A9XuYUbUHeIJ/6p4AAlE6yFUoYg==";

fn configured(users: &[(&str, &str, &str)]) -> Vec<UserConfig> {
    let user = |(name, hash, more): &(&str, &str, &str)| {
        format!("[[users]]\nname = \"{name}\"\npassword = \"{hash}\"\n{more}\n")
    };
    let text: String = users.iter().map(user).collect();
    Config::assemble(Some(("c.toml", &text)), &[], &Overrides::default()).unwrap().users
}

fn users(users: &[(&str, &str, &str)]) -> Users {
    Users::new(configured(users).iter(), false, None)
}

fn admitted(users: &Users, name: &str, client_id: &str) -> Result<Arc<Principal>, AuthStep> {
    users.get(name).unwrap().admit(client_id)
}

#[test]
fn a_user_has_its_password_and_no_other() {
    let users = users(&[("lamp", LIGHT, ""), ("sensor", DARK, "")]);
    for (name, password, is_right) in [
        ("lamp", "light", true),
        ("lamp", "dark", false),
        ("lamp", "", false),
        ("sensor", "dark", true),
        ("Lamp", "light", false),
        ("", "light", false),
        ("nobody", "light", false),
    ] {
        assert_eq!(users.verify(name, &Secret::from(password)), is_right, "{name} {password}");
    }
}

#[test]
fn whoever_is_unknown_costs_what_most_users_cost() {
    let bcrypt = "$2a$04$abcdefghijklmnopqrstuuJFuvyM6C2EZ8WGSLXXVRsQ5M3X2RhXq";
    let users = users(&[("a", LIGHT, ""), ("b", bcrypt, ""), ("c", DARK, "")]);
    assert_eq!(users.usual_hash.map(|hash| hash.kind()), Some("mosquitto"));
    assert_eq!(Users::default().usual_hash, None);
}

#[test]
fn a_template_is_filled_with_one_token_and_whoever_has_none_is_refused() {
    let of =
        |entry: &str| format!("permissions = {{ publish = {{ allow = [\"{entry}\"] }} }}\ntags = [\"site:berlin\"]");
    let (by_id, by_name) = (of("dev.{{client-id()}}.>"), of("{{tag(site)}}.{{name()}}"));
    let users = users(&[("esp", LIGHT, &by_id), ("esp.1", LIGHT, &by_name)]);
    for (client_id, subject) in
        [("lamp", "dev.lamp.x"), ("esp.1", "dev.esp//1.x"), ("*", "dev.%2A.x"), ("a b", "dev.a%20b.x")]
    {
        let principal = admitted(&users, "esp", client_id).unwrap();
        assert!(principal.permissions.is_publish_allowed(subject), "{client_id}: {:?}", principal.permissions.lists());
        assert!(!principal.permissions.is_publish_allowed("dev.other.x"), "{client_id}");
    }
    for client_id in ["", "a/b", "+", "#", "/", "a\u{a0}b"] {
        assert_eq!(admitted(&users, "esp", client_id).err(), Some(AuthStep::Template), "{client_id:?}");
    }
    let principal = admitted(&users, "esp.1", "").unwrap();
    assert!(principal.permissions.is_publish_allowed("berlin.esp//1"), "{:?}", principal.permissions.lists());
}

#[test]
fn what_does_not_depend_on_the_client_is_made_once() {
    let users = users(&[("lamp", LIGHT, "permissions = { subscribe = { allow = [\"cmd.{{name()}}\"] } }")]);
    let (one, other) = (admitted(&users, "lamp", "a").unwrap(), admitted(&users, "lamp", "b").unwrap());
    assert!(Arc::ptr_eq(&one, &other));
    assert_eq!(one.permissions.subscribe("cmd.lamp", None), SubscribeVerdict::Allowed);
    assert_eq!(one.user.name, "lamp");
}

#[test]
fn a_client_id_goes_with_the_name_where_a_tag_says_so() {
    let users = users(&[("lamp", LIGHT, "tags = [\"mqtt:client-id=name\"]")]);
    assert!(admitted(&users, "lamp", "lamp-1").is_ok());
    for client_id in ["", "lamp1", "other"] {
        assert_eq!(admitted(&users, "lamp", client_id).err(), Some(AuthStep::ClientId), "{client_id}");
    }
}

#[test]
fn nobody_has_a_name_and_everything_unless_it_is_said_otherwise() {
    let everything = Users::new([].into_iter(), true, None);
    assert!(admitted(&everything, "", "x").unwrap().permissions.is_publish_allowed("a"));
    let said = configured(&[("", LIGHT, "permissions = { publish = { allow = [\"public.>\"] } }")]);
    let some = Users::new(said.iter(), true, None);
    let principal = admitted(&some, "", "x").unwrap();
    assert!(principal.permissions.is_publish_allowed("public.a") && !principal.permissions.is_publish_allowed("a"));
    assert!(Users::new(said.iter(), false, None).get("").is_none());
}

#[test]
fn whoever_gets_another_password_is_another_user() {
    let (first, second) = (UnixTime::from_millis(1), UnixTime::from_millis(2));
    let before = users(&[("same", LIGHT, ""), ("changed", LIGHT, ""), ("gone", LIGHT, "")]);
    let of = |name: &str| admitted(&before, name, "c").unwrap();
    let more = "permissions = { publish = { deny = [\"x\"] } }";
    let now = configured(&[("same", LIGHT, more), ("changed", DARK, ""), ("new", LIGHT, "")]);
    let after = Users::new(now.iter(), false, Some((&before, first)));
    assert!(after.get("same").unwrap().is_user_of(&of("same")));
    assert!(!after.get("changed").unwrap().is_user_of(&of("changed")));
    let changed = admitted(&after, "changed", "c").unwrap();
    // Nothing changes for those who came since.
    let later = Users::new(now.iter(), false, Some((&after, second)));
    assert!(later.get("changed").unwrap().is_user_of(&changed));
    // Who was away meanwhile is another one, with the same password as well.
    let gone = configured(&[("gone", LIGHT, "")]);
    let back = Users::new(gone.iter(), false, Some((&after, second)));
    assert!(!back.get("gone").unwrap().is_user_of(&of("gone")));
}

#[test]
fn tags_that_begin_as_ours_do_and_are_none_can_be_told() {
    let users = users(&[("lamp", LIGHT, "tags = [\"mqtt:new=1\", \"mqtt:max-qos=1\", \"site:x\"]")]);
    assert_eq!(users.unknown_tags().collect::<Vec<_>>(), [("lamp", "mqtt:new=1")]);
    assert_eq!(admitted(&users, "lamp", "c").unwrap().rules.max_qos, Some(1));
}
