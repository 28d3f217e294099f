//! What holds whatever the lists, subjects, values and texts are.

use mqtt_access::jwt::{Account, Deletion, Operator, UserJwt};
use mqtt_access::password::PasswordHash;
use mqtt_access::subject::{is_subset, is_valid};
use mqtt_access::template::{RoleValues, ScopeValues, Token};
use mqtt_access::{DeviceRules, PermissionLists, Permissions, SubjectLists, TimeRange, TimeWindows};
use proptest::prelude::*;

use crate::mint::{NOW, World, circumstances};

/// A subject of few names, with wildcards or without.
fn subject(names: &'static [&'static str], with_rest: bool) -> impl Strategy<Value = String> {
    let tokens = prop::collection::vec(prop::sample::select(names), 1..5);
    (tokens, any::<bool>()).prop_map(move |(tokens, rest)| {
        let text = tokens.join(".");
        if rest && with_rest { text + ".>" } else { text }
    })
}

fn filter() -> impl Strategy<Value = String> {
    subject(&["a", "b", "*"], true)
}

fn literal() -> impl Strategy<Value = String> {
    subject(&["a", "b", "c"], false)
}

fn entry() -> impl Strategy<Value = String> {
    (filter(), prop::option::of(prop::sample::select(vec!["q", "w", "w.*", ">"])))
        .prop_map(|(subject, queue)| queue.map_or(subject.clone(), |queue| format!("{subject} {queue}")))
}

fn lists() -> impl Strategy<Value = SubjectLists> {
    let list = |max| prop::option::of(prop::collection::vec(entry(), 0..max));
    (list(4), list(3)).prop_map(|(allow, deny)| SubjectLists { allow, deny })
}

fn queue() -> impl Strategy<Value = Option<&'static str>> {
    prop::option::of(prop::sample::select(vec!["q", "w", "w.1", "v"]))
}

proptest! {
    /// What is granted may be received, but for what is denied inside.
    #[test]
    fn what_is_granted_may_be_received(lists in lists(), filter in filter(), subject in literal()) {
        let permissions = Permissions::new(PermissionLists { subscribe: lists, ..PermissionLists::default() }).unwrap();
        let verdict = permissions.subscribe(&filter, None);
        if verdict.is_granted() && is_subset(&subject, &filter) {
            prop_assert_ne!(permissions.is_receive_allowed(&subject, None), permissions.is_delivery_denied(&subject, None));
        }
    }

    /// Nothing of what is refused altogether may be received.
    #[test]
    fn nothing_of_what_is_denied_may_be_received(lists in lists(), filter in filter(), subject in literal(), queue in queue()) {
        use mqtt_access::SubscribeVerdict::{Allowed, Denied};
        let denied_inside = lists.denied().iter().any(|entry| !entry.contains(' ') && is_subset(&filter, entry));
        let permissions = Permissions::new(PermissionLists { subscribe: lists, ..PermissionLists::default() }).unwrap();
        let verdict = permissions.subscribe(&filter, queue);
        prop_assert!(!denied_inside || verdict == Denied);
        if is_subset(&subject, &filter) {
            // A `>` that a deny's `*` matches is denied as a whole, as nats-server has it.
            prop_assert!(verdict != Denied || filter.ends_with('>') || !permissions.is_receive_allowed(&subject, queue));
            prop_assert!(verdict != Allowed || !permissions.is_delivery_denied(&subject, queue));
        }
    }

    /// Fewer rights never grant more.
    #[test]
    fn one_more_deny_takes_away(lists in lists(), more in entry(), filter in filter(), subject in literal(), queue in queue()) {
        let narrower = SubjectLists {
            deny: Some(lists.denied().iter().cloned().chain([more]).collect()),
            allow: lists.allow.clone(),
        };
        let of = |lists: SubjectLists| Permissions::new(PermissionLists { publish: lists.clone(), subscribe: lists, responses: None });
        let (wide, narrow) = (of(lists).unwrap(), of(narrower).unwrap());
        prop_assert!(wide.is_publish_allowed(&subject) || !narrow.is_publish_allowed(&subject));
        prop_assert!(wide.subscribe(&filter, queue).is_granted() || !narrow.subscribe(&filter, queue).is_granted());
        prop_assert!(wide.is_receive_allowed(&subject, queue) || !narrow.is_receive_allowed(&subject, queue));
    }

    /// Whatever a device chose, what it may publish has it as one token at its place.
    #[test]
    fn a_role_gives_a_device_its_own_place_only(value in "\\PC{1,8}", subject in literal()) {
        let Ok(token) = Token::new(value.clone()) else { return Ok(()) };
        let values = RoleValues::new().with("client-id()", token);
        let lists = SubjectLists::new(&["a.{{client-id()}}", "b.x{{client-id()}}.c"], &[]);
        let lists = values.expand(&PermissionLists { publish: lists, ..PermissionLists::default() }).unwrap();
        let permissions = Permissions::new(lists).unwrap();
        prop_assert!(permissions.dropped().is_empty());
        let own = [format!("a.{value}"), format!("b.x{value}.c")];
        prop_assert!(own.iter().all(|subject| permissions.is_publish_allowed(subject)));
        prop_assert_eq!(permissions.is_publish_allowed(&subject), own.contains(&subject));
    }

    /// Whatever is in a template and its values: an error, or subjects.
    #[test]
    fn scopes_become_subjects(
        entries in prop::collection::vec("(\\PC|\\{\\{(name\\(\\)|tag\\(s\\)|subject\\(\\))\\}\\}){0,6}", 0..4),
        name in "\\PC{0,8}",
        tags in prop::collection::vec("s:\\PC{0,4}", 0..3),
    ) {
        let values = ScopeValues { name: &name, subject: "UA", tags: &tags, ..ScopeValues::default() };
        let had_template = entries.iter().any(|entry| entry.contains("{{name()}}"));
        let lists = PermissionLists { publish: SubjectLists { allow: Some(entries), deny: None }, ..PermissionLists::default() };
        if let Ok(lists) = values.expand(&lists) {
            prop_assert!(!had_template || lists.publish.allowed().iter().all(|subject| is_valid(subject)));
            prop_assert!(Permissions::new(lists).is_ok());
        }
    }

    #[test]
    fn one_changed_character_of_a_jwt_refuses_it(place in any::<prop::sample::Index>(), character in "[A-Za-z0-9_.-]") {
        let text = World::new().user_jwt();
        let place = place.index(text.len());
        let changed = format!("{}{character}{}", &text[..place], &text[place + 1..]);
        prop_assert_eq!(UserJwt::decode(&changed, &circumstances()).is_ok(), changed == text);
    }

    #[test]
    fn texts_of_anybody(text in "\\PC{0,64}", json in "[\\[\\]{}\",:a-z0-9.]{0,64}") {
        let operators = World::new().operators();
        prop_assert!(UserJwt::decode(&text, &circumstances()).is_err());
        prop_assert!(Account::verify(&text, &operators, NOW).is_err());
        prop_assert!(Operator::decode(&text).is_err() && Deletion::verify(&text, &operators).is_err());
        let world = World::new();
        let signed = crate::mint::sign_with(r#"{"typ":"JWT","alg":"ed25519-nkey"}"#, &json, &world.account);
        prop_assert!(UserJwt::decode(&signed, &circumstances()).is_err());
        if let Ok(hash) = text.parse::<PasswordHash>() {
            prop_assert_eq!(hash.to_string(), text.clone());
        }
        let _ = DeviceRules::new(&[format!("mqtt:{text}")]);
        let _ = TimeWindows::new(&[TimeRange { start: text.clone(), end: text.clone() }], &text);
    }
}
