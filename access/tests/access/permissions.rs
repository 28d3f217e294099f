//! What lists of permissions allow.

use mqtt_access::SubscribeVerdict::{Allowed, AllowedInPart, Denied, TooWide};
use mqtt_access::{
    CurrentPermissions, MultiLevelVerdict, PermissionLists, Permissions, ResponseLimits, SubjectLists, SubscribeVerdict,
};
use std::sync::Arc;

fn publishing(allow: &[&str], deny: &[&str]) -> Permissions {
    let lists = PermissionLists { publish: SubjectLists::new(allow, deny), ..PermissionLists::default() };
    Permissions::new(lists).unwrap()
}

fn subscribing(allow: &[&str], deny: &[&str]) -> Permissions {
    let lists = PermissionLists { subscribe: SubjectLists::new(allow, deny), ..PermissionLists::default() };
    Permissions::new(lists).unwrap()
}

#[test]
fn publishes() {
    type Row<'a> = (&'a [&'a str], &'a [&'a str], &'a [&'a str], &'a [&'a str]);
    /// Allow, deny, what may be published, what may not.
    const TABLE: &[Row<'_>] = &[
        (&[], &[], &["a", "a.b", "$X", "*", "a.>"], &["", ".", "a.", ".a", "a..b"]),
        (&["a"], &[], &["a"], &["b", "a.b", "A"]),
        (&["a.*"], &[], &["a.b", "a.*"], &["a", "a.b.c", "b.a"]),
        (&["a.>"], &[], &["a.b", "a.b.c"], &["a", "b"]),
        (&["*"], &[], &["a"], &["a.b"]),
        (&[">"], &[], &["a", "a.b"], &[""]),
        (&["a.*.c"], &[], &["a.b.c"], &["a.c", "a.b.d", "a.b.c.d"]),
        (&["*.b", "a.c"], &[], &["x.b", "a.b", "a.c"], &["a.d", "b"]),
        (&["a.b*"], &[], &["a.b*"], &["a.bc", "a.b"]),
        (&[], &["a"], &["b", "a.b"], &["a"]),
        (&[], &["a.>"], &["a", "b"], &["a.b", "a.b.c"]),
        (&[], &[">"], &[], &["a", "a.b"]),
        (&["a.>"], &["a.x", "a.*.y"], &["a.b", "a.x.z"], &["a.x", "a.b.y", "b"]),
        (&["a.x"], &["a.>"], &[], &["a.x"]),
        // The queue of a deny has no meaning; that of an allow makes it an entry that allows nothing.
        (&[], &["a.> q"], &["b"], &["a.b"]),
        (&["a.> q"], &[], &[], &["a.b", "b"]),
        (&["a b c", "a"], &[], &["a"], &["b"]),
        (&["dev.ä.>"], &[], &["dev.ä.1"], &["dev.a.1"]),
    ];
    for (allow, deny, allowed, denied) in TABLE {
        let permissions = publishing(allow, deny);
        for (subjects, expected) in [(allowed, true), (denied, false)] {
            for subject in *subjects {
                assert_eq!(permissions.is_publish_allowed(subject), expected, "{allow:?} {deny:?}: {subject}");
            }
        }
    }
}

#[test]
fn subjects_are_bytes() {
    let permissions = publishing(&["a.*"], &["a.x"]);
    assert!(permissions.is_publish_allowed(b"a.\xff"));
    assert!(!permissions.is_publish_allowed(b"b.\xff"));
}

#[test]
fn an_empty_allow_beside_a_deny_allows_no_publish_and_every_subscription() {
    let empty = SubjectLists { allow: Some(vec![]), deny: Some(vec!["x".into()]) };
    let lists = PermissionLists { publish: empty.clone(), subscribe: empty, responses: None };
    let permissions = Permissions::new(lists).unwrap();
    assert!(!permissions.is_publish_allowed("a"));
    assert_eq!(permissions.subscribe("a", None), Allowed);
    let alone = SubjectLists { allow: Some(vec![]), deny: None };
    let lists = PermissionLists { publish: alone, ..PermissionLists::default() };
    assert!(Permissions::new(lists).unwrap().is_publish_allowed("a"));
}

#[test]
fn whoever_may_reply_may_publish_only_what_is_allowed() {
    let responses = Some(ResponseLimits::default());
    let lists = PermissionLists { responses, ..PermissionLists::default() };
    let permissions = Permissions::new(lists.clone()).unwrap();
    assert!(!permissions.is_publish_allowed("a"));
    assert_eq!(permissions.response_limits(), Some(ResponseLimits { max: 1, ttl_ns: 120_000_000_000 }));
    let permissions = Permissions::new(PermissionLists { publish: SubjectLists::new(&["a"], &[]), ..lists }).unwrap();
    assert!(permissions.is_publish_allowed("a") && !permissions.is_publish_allowed("b"));
}

#[test]
fn subscriptions() {
    type Row<'a> = (&'a [&'a str], &'a [&'a str], &'a [(&'a str, SubscribeVerdict)]);
    /// Allow, deny, what is asked for and the verdict. `filter queue` is by a queue group.
    const TABLE: &[Row<'_>] = &[
        (&[], &[], &[("a", Allowed), (">", Allowed), ("a q", Allowed), ("", Denied), ("a..b", Denied)]),
        (&["foo"], &[], &[("foo", Allowed), ("foo.>", Denied), ("*", TooWide), (">", TooWide), ("bar", Denied)]),
        // nats-server lets `foo.>` through `foo.*`, and `>` through `*`.
        (
            &["foo.*"],
            &[],
            &[("foo.a", Allowed), ("foo.*", Allowed), ("foo.>", TooWide), ("*.x", TooWide), ("*.*", TooWide)],
        ),
        (&["*"], &[], &[("a", Allowed), ("*", Allowed), (">", TooWide), ("a.b", Denied)]),
        (&["foo.>"], &[], &[("foo.>", Allowed), ("foo.a.*", Allowed), ("foo", Denied), ("*.>", TooWide)]),
        (&["foo.*", "foo.*.>"], &[], &[("foo.>", TooWide), ("foo.*.>", Allowed)]),
        (&["foo", "foo.>"], &[], &[("foo", Allowed), ("foo.>", Allowed)]),
        (&[], &["foo"], &[("foo", Denied), ("*", AllowedInPart), (">", AllowedInPart), ("foo.>", Allowed)]),
        (&[], &["foo.*"], &[("foo.a", Denied), ("foo.*", Denied), ("*.a", AllowedInPart), ("foo", Allowed)]),
        // As nats-server: a `>` of a filter is a token that `*` matches, and so all of it is denied.
        (&[], &["foo.*"], &[("foo.>", Denied), (">", AllowedInPart)]),
        (&[], &["*"], &[(">", Denied), ("a", Denied), ("a.b", Allowed)]),
        (&[], &[">"], &[("a", Denied), (">", Denied)]),
        (
            &["foo.>"],
            &["foo.x"],
            &[("foo.>", AllowedInPart), ("foo.x", Denied), ("foo.y", Allowed), ("foo.*", AllowedInPart)],
        ),
        (&["foo.*"], &["foo.x.>"], &[("foo.*", Allowed), ("foo.>", TooWide)]),
        (&["foo.x"], &["foo.>"], &[("foo.x", Denied), ("foo.*", Denied)]),
        // Queue groups.
        (&["jobs.> w"], &[], &[("jobs.x", Denied), ("jobs.x w", Allowed), ("jobs.x v", Denied), ("jobs.> w", Allowed)]),
        (&["jobs.>"], &[], &[("jobs.x w", Allowed), ("jobs.x", Allowed), ("jobs.> v", Allowed)]),
        (&["jobs.*", "jobs.> w"], &[], &[("jobs.x v", TooWide), ("jobs.x w", Allowed), ("jobs.x", Allowed)]),
        (&["jobs.*", "jobs.a w"], &[], &[("jobs.b v", Allowed), ("jobs.* v", Allowed), ("jobs.a v", TooWide)]),
        (&["jobs.>", "jobs.* w"], &[], &[("jobs.> w", Allowed), ("jobs.> v", TooWide), ("jobs.a.b v", Allowed)]),
        (&["jobs.* w.*"], &[], &[("jobs.a w.1", Allowed), ("jobs.a w", Denied), ("jobs.a w.1.2", Denied)]),
        (&["jobs.a w.>"], &[], &[("jobs.a w.1.2", Allowed), ("jobs.a w", Denied)]),
        (&["jobs.a *"], &[], &[("jobs.a any", Allowed), ("jobs.a a.b", Denied), ("jobs.a", Denied)]),
        (&["jobs.* w"], &[], &[("jobs.> w", TooWide), ("*.a w", TooWide), ("other w", Denied)]),
        (
            &[],
            &["jobs.> bad"],
            &[("jobs.x", Allowed), ("jobs.x bad", Denied), ("jobs.x good", Allowed), ("> bad", AllowedInPart)],
        ),
        (&[], &["jobs.x"], &[("jobs.x any", Denied), ("jobs.* any", AllowedInPart)]),
        (&[], &["jobs.> w.*"], &[("jobs.x w.1", Denied), ("jobs.x w", Allowed)]),
        (&["jobs.> w"], &["jobs.x w"], &[("jobs.> w", AllowedInPart), ("jobs.x w", Denied), ("jobs.y w", Allowed)]),
        // An entry that is no subject allows nothing, but it is a list all the same.
        (&["a b c"], &[], &[("a", Denied)]),
        (&["a..b", "c"], &[], &[("c", Allowed), ("a", Denied)]),
    ];
    for (allow, deny, asked) in TABLE {
        let permissions = subscribing(allow, deny);
        for (asked, expected) in *asked {
            let (filter, queue) = asked.split_once(' ').map_or((*asked, None), |(filter, queue)| (filter, Some(queue)));
            assert_eq!(permissions.subscribe(filter, queue), *expected, "{allow:?} {deny:?}: {asked}");
        }
    }
}

#[test]
fn both_halves_of_a_multi_level_wildcard() {
    for (allow, deny, below, parent) in [
        (&[][..], &[][..], Allowed, Allowed),
        (&["foo.>"][..], &[][..], Allowed, Denied),
        (&["foo.>", "foo"][..], &[][..], Allowed, Allowed),
        (&["foo"][..], &[][..], Denied, Allowed),
        (&[">"][..], &["foo"][..], Allowed, Denied),
        (&[">"][..], &["foo.secret"][..], AllowedInPart, Allowed),
        (&[">"][..], &["foo.>"][..], Denied, Allowed),
    ] {
        let verdict = subscribing(allow, deny).subscribe_multi_level("foo.>", "foo", None);
        assert_eq!(verdict, MultiLevelVerdict { below, parent }, "{allow:?} {deny:?}");
    }
}

#[test]
fn a_deny_inside_a_wildcard_is_for_each_message() {
    let permissions = subscribing(&["foo.>"], &["foo.x", "foo.*.y", "foo.z w"]);
    for (subject, queue, denied) in [
        ("foo.a", None, false),
        ("foo.x", None, true),
        ("foo.x", Some("w"), true),
        ("foo.a.y", None, true),
        ("foo.z", None, false),
        ("foo.z", Some("w"), true),
        ("foo.z", Some("v"), false),
        // Whether a subject is allowed is not asked at delivery: the subscription was granted.
        ("bar", None, false),
        // What has an empty token is no subject, and nobody gets it.
        ("foo..a", None, true),
        ("foo.a.", None, true),
        ("", None, true),
    ] {
        assert_eq!(permissions.is_delivery_denied(subject, queue), denied, "{subject} {queue:?}");
    }
}

#[test]
fn a_wide_filter_is_cut_down_to_what_is_allowed() {
    let permissions = subscribing(&["foo.*", "jobs.a w"], &["foo.x"]);
    for (subject, queue, allowed) in [
        ("foo.a", None, true),
        ("foo.x", None, false),
        ("foo.a.b", None, false),
        ("bar", None, false),
        ("jobs.a", None, false),
        ("jobs.a", Some("w"), true),
        ("jobs.a", Some("v"), false),
        ("foo.a", Some("v"), true),
        ("", None, false),
    ] {
        assert_eq!(permissions.is_receive_allowed(subject, queue), allowed, "{subject} {queue:?}");
    }
}

#[test]
fn a_deny_that_is_no_subject_is_refused_and_an_allow_is_dropped() {
    for deny in ["", "a..b", "a b c", "a.>.b", "a q..r"] {
        for lists in [
            PermissionLists { publish: SubjectLists::new(&[], &[deny]), ..PermissionLists::default() },
            PermissionLists { subscribe: SubjectLists::new(&[], &[deny]), ..PermissionLists::default() },
        ] {
            assert_eq!(Permissions::new(lists).unwrap_err().entry, deny);
        }
    }
    let lists = PermissionLists {
        publish: SubjectLists::new(&["a q", "a"], &[]),
        subscribe: SubjectLists::new(&["a..b", "a q"], &[]),
        responses: None,
    };
    assert_eq!(Permissions::new(lists).unwrap().dropped(), ["a q", "a..b"]);
}

#[test]
fn a_version_stays_until_the_permissions_say_something_else() {
    let mut current = CurrentPermissions::new(Arc::new(publishing(&["a"], &[])));
    let first = current.version();
    assert!(!current.replace(Arc::new(publishing(&["a"], &[]))));
    assert_eq!(current.version(), first);
    assert!(current.replace(Arc::new(publishing(&["a"], &["b"]))));
    assert!(current.version() > first && !current.get().is_publish_allowed("b"));
    assert!(Permissions::all().is_publish_allowed("b") && Permissions::all().subscribe(">", None) == Allowed);
}

#[test]
fn lists_are_read_and_written_as_in_a_jwt() {
    let text = r#"{"pub":{"allow":["a"]},"sub":{"deny":["b q"]},"resp":{"max":2,"ttl":1000}}"#;
    let lists: PermissionLists = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&lists).unwrap(), text);
    assert_eq!(lists.responses, Some(ResponseLimits { max: 2, ttl_ns: 1000 }));
    assert!(!lists.is_empty() && serde_json::from_str::<PermissionLists>("{}").unwrap().is_empty());
}

#[test]
fn long_lists_and_subjects_of_others_are_no_burden() {
    let many: Vec<String> = (0..20_000).map(|index| format!("dev.{index}.>")).collect();
    let deep = vec!["*"; 50_000].join(".");
    let lists = SubjectLists { allow: Some(many.into_iter().chain([deep.clone()]).collect()), deny: None };
    let permissions = Permissions::new(PermissionLists { publish: lists, ..PermissionLists::default() }).unwrap();
    assert!(permissions.is_publish_allowed("dev.19999.x") && !permissions.is_publish_allowed("dev.20000.x"));
    assert!(permissions.is_publish_allowed(&deep) && !permissions.is_publish_allowed(format!("{deep}.x")));
}
