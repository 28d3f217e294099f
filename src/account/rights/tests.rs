use mqtt_access::{DeviceRules, Mode, Origin, PermissionLists, SubjectLists, User};
use mqtt_ownership::ServerTime;

use super::*;

/// Allowed and denied publishes, allowed and denied subscriptions.
fn permissions(lists: [&[&str]; 4]) -> Permissions {
    let [publish, no_publish, subscribe, no_subscribe] = lists;
    let publish = SubjectLists::new(publish, no_publish);
    let subscribe = SubjectLists::new(subscribe, no_subscribe);
    Permissions::new(PermissionLists { publish, subscribe, responses: None }).unwrap()
}

fn principal(permissions: Permissions) -> Arc<Principal> {
    let user = User { name: "lamp".to_owned(), ..User::default() };
    Arc::new(Principal { permissions: Arc::new(permissions), user, ..Principal::all() })
}

fn rights(lists: [&[&str]; 4]) -> Rights {
    Rights::new(principal(permissions(lists)), RightsOptions::default())
}

/// From now on it is this one.
fn change(rights: &Rights, principal: Arc<Principal>) {
    assert!(rights.change(&rights.principal(), principal, &AtomicBool::default()));
}

fn subject(topic: &str) -> Subject {
    proto_map::map_topic(&TopicName::new(topic.to_owned()).unwrap(), proto_map::MAX_SUBJECT_LEN).unwrap().subject
}

fn topic(topic: &str) -> TopicName {
    TopicName::new(topic.to_owned()).unwrap()
}

fn filter(filter: &str) -> TopicFilter {
    TopicFilter::new(filter.to_owned()).unwrap()
}

#[test]
fn topics_are_judged_as_the_subjects_that_they_are_mapped_to() {
    let rights = rights([&["dev.lamp.>"], &["dev.lamp.secret"], &[], &[]]);
    for (topic, is_allowed) in [
        ("dev/lamp/x", true),
        ("dev/lamp/x/y", true),
        ("dev/lamp", false),
        ("dev/lamp/secret", false),
        ("dev/other/x", false),
        // A dot is no level, and a level that looks like a wildcard is none.
        ("dev.lamp.x", false),
        ("dev/*/x", false),
    ] {
        assert_eq!(rights.may_publish(&subject(topic)), is_allowed, "{topic}");
    }
}

#[test]
fn a_filter_is_within_what_is_allowed_or_refused() {
    let rights = rights([&[], &[], &["cmd.lamp.>", "cmd.all", "work.* crew"], &["cmd.lamp.secret.>"]]);
    let closed = ClosedTrees::default();
    for (text, is_granted) in [
        ("cmd/lamp/on", true),
        ("cmd/lamp/+", true),
        // Two subjects: what is below is allowed, and that is enough.
        ("cmd/lamp/#", true),
        ("cmd/all", true),
        ("cmd/+", false),
        ("cmd/#", false),
        ("#", false),
        ("+/+", false),
        ("cmd/lamp/secret/x", false),
        ("cmd/lamp/secret/#", false),
        ("$SYS/broker/uptime", false),
        ("work/x", false),
        ("$share/crew/work/x", true),
        ("$share/others/work/x", false),
        ("$share/crew/cmd/lamp/on", true),
    ] {
        let granted = rights.judge_filter(&filter(text), &closed);
        assert_eq!(granted, if is_granted { Ok(()) } else { Err(ReasonCode::NotAuthorized) }, "{text}");
    }
}

#[test]
fn a_wide_filter_is_granted_where_that_is_asked_for_and_brings_what_is_allowed() {
    let permissions = permissions([&[], &[], &["cmd.lamp.>"], &["cmd.lamp.secret"]]);
    let options = RightsOptions { filters_wide: true, ..RightsOptions::default() };
    let rights = Rights::new(principal(permissions), options);
    let closed = ClosedTrees::default();
    for (text, is_granted) in [("#", true), ("cmd/#", true), ("+/lamp/on", true), ("state/#", false), ("a/b", false)] {
        assert_eq!(rights.judge_filter(&filter(text), &closed).is_ok(), is_granted, "{text}");
    }
    for (text, is_received) in [("cmd/lamp/on", true), ("cmd/lamp/secret", false), ("cmd/lamp", false), ("x", false)] {
        assert_eq!(rights.may_receive(&topic(text)), is_received, "{text}");
    }
}

#[test]
fn what_is_denied_inside_a_wildcard_is_withheld() {
    let rights = rights([&[], &[], &[], &["a.*.secret", "b.> crew"]]);
    assert_eq!(rights.judge_filter(&filter("a/#"), &ClosedTrees::default()), Ok(()));
    assert!(rights.may_receive(&topic("a/1/open")) && !rights.may_receive(&topic("a/1/secret")));
    assert!(rights.may_receive(&topic("b/1")) && rights.in_group("others").may_receive(&topic("b/1")));
    assert!(!rights.in_group("crew").may_receive(&topic("b/1")));
}

#[test]
fn replies_go_where_they_are_allowed() {
    let inbox = |number: usize| subject(&format!("_INBOX/x/{number}"));
    assert!(Rights::all().take_reply(&inbox(1), ServerTime(0)));
    assert!(!rights([&["dev.>"], &[], &[], &[]]).take_reply(&inbox(1), ServerTime(0)));
    let lists = PermissionLists { responses: Some(Default::default()), ..PermissionLists::default() };
    let replies = Rights::new(principal(Permissions::new(lists).unwrap()), RightsOptions::default());
    assert!(
        replies.take_reply(&inbox(1), ServerTime(0)) && !replies.may_publish(&subject("dev/x")),
        "it may answer, and no more"
    );
    assert!(!replies.take_reply(&inbox(1), ServerTime(0)), "once, as nats-server has it");
    assert!((2..200).all(|number| replies.take_reply(&inbox(number), ServerTime(0))), "each request by itself");
    assert_eq!(replies.replies.lock().len(), REPLIES_MAX);
}

#[test]
fn tags_lower_what_is_offered() {
    let rules = DeviceRules {
        max_qos: Some(1),
        retain_denied: true,
        share_denied: true,
        session_expiry_s_max: Some(60),
        ..DeviceRules::default()
    };
    let rights = Rights::new(Arc::new(Principal { rules, ..Principal::all() }), RightsOptions::default());
    assert!(rights.may_publish_as(QoS::AtLeastOnce, false));
    assert!(!rights.may_publish_as(QoS::ExactlyOnce, false) && !rights.may_publish_as(QoS::AtMostOnce, true));
    let shared = rights.judge_filter(&filter("$share/g/a"), &ClosedTrees::default());
    assert_eq!(shared, Err(ReasonCode::SharedSubscriptionsNotSupported));
    assert_eq!(rights.judge_filter(&filter("a"), &ClosedTrees::default()), Ok(()));
}

#[test]
fn a_session_is_its_users_unless_it_is_the_accounts() {
    let of = |mode, name: &str, shares_sessions| {
        let user = User { name: name.to_owned(), ..User::default() };
        let options = RightsOptions { shares_sessions, ..RightsOptions::default() };
        Rights::new(Arc::new(Principal { user, origin: Origin::of(mode), ..Principal::all() }), options)
    };
    let user = |name: &str, mode: Option<Mode>| {
        let mode = mode.map(|mode| mode.as_str().to_owned());
        Some(SessionUser { name: name.to_owned(), mode })
    };
    let (file, oidc) = (Some(Mode::File), Some(Mode::Oidc));
    for (mode, name, session, may_own) in [
        (Mode::File, "lamp", user("lamp", file), true),
        (Mode::File, "lamp", user("door", file), false),
        (Mode::File, "lamp", user("lamp", oidc), false),
        (Mode::File, "lamp", user("lamp", None), true),
        (Mode::File, "lamp", user("", file), false),
        (Mode::File, "lamp", None, true),
        // Whoever gives no name is somebody too, and not anybody.
        (Mode::File, "", user("lamp", file), false),
        (Mode::File, "", user("lamp", None), false),
        (Mode::File, "", user("", file), true),
        (Mode::Nats, "", user("lamp", Some(Mode::Nats)), false),
        (Mode::Nats, "", user("", file), false),
        // In mode `none` everybody is, and has what is the account's.
        (Mode::None, "", user("lamp", file), false),
        (Mode::None, "", user("lamp", None), false),
        (Mode::None, "", user("", file), false),
        (Mode::None, "", None, true),
    ] {
        assert_eq!(of(mode, name, false).may_own(session.as_ref()), may_own, "{mode:?} {name} {session:?}");
        assert!(of(mode, name, true).may_own(session.as_ref()), "{mode:?} {name} {session:?}");
    }
    assert_eq!(of(Mode::File, "lamp", false).owner(), user("lamp", file));
    assert_eq!(of(Mode::File, "lamp", true).owner(), None);
    assert_eq!(of(Mode::None, "", false).owner(), None);
}

#[test]
fn who_is_somebody_else_now_has_that_ones_rights() {
    let rights = Rights::all();
    let version = rights.version();
    assert!(rights.may_receive(&topic("a")) && rights.may_publish(&subject("a")));
    change(&rights, principal(permissions([&["b"], &[], &["b"], &[]])));
    assert_ne!(rights.version(), version, "what was cached is judged again");
    assert!(!rights.may_receive(&topic("a")) && !rights.may_publish(&subject("a")));
    assert!(rights.may_receive(&topic("b")) && rights.may_publish(&subject("b")));
    change(&rights, Arc::new(Principal::all()));
    assert!(rights.may_receive(&topic("a")));
}

#[test]
fn of_several_changes_each_knows_the_one_before() {
    let (rights, of_inbox) = (Rights::all(), AtomicBool::default());
    let (first, limited) = (rights.principal(), principal(permissions([&[], &[], &["b"], &[]])));
    assert!(rights.change(&first, Arc::clone(&limited), &of_inbox));
    assert!(rights.limits_receiving() && of_inbox.load(Ordering::SeqCst));
    let version = rights.version();
    assert!(!rights.change(&first, Arc::new(Principal::all()), &of_inbox), "it was decided by what it was before");
    assert!(!rights.while_is(&first, || panic!("that is nobody any more")));
    assert!(rights.limits_receiving() && of_inbox.load(Ordering::SeqCst) && rights.version() == version);
    let mut done = false;
    assert!(rights.while_is(&limited, || done = true) && done);
}

/// Those who are judged at the same time, by whoever has read what they are.
#[test]
fn flags_are_those_of_who_it_is_whoever_changes_it_at_the_same_time() {
    let (rights, of_inbox) = (Rights::all(), AtomicBool::default());
    let limited = principal(permissions([&[], &[], &["b"], &[]]));
    let (turn, free) = (std::sync::Barrier::new(2), Arc::new(Principal::all()));
    let wrong = AtomicU64::new(0);
    let race = |to: &Arc<Principal>| {
        for _ in 0..1_000 {
            turn.wait();
            while !rights.change(&rights.principal(), Arc::clone(to), &of_inbox) {}
            turn.wait();
            let (is_limited, flag) = (Arc::ptr_eq(&rights.principal(), &limited), of_inbox.load(Ordering::SeqCst));
            let is_wrong = (rights.limits_receiving(), flag) != (is_limited, is_limited);
            wrong.fetch_add(u64::from(is_wrong), Ordering::SeqCst);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| race(&limited));
        race(&free);
    });
    assert_eq!(wrong.into_inner(), 0);
}

#[test]
fn limits_of_a_user_hold_and_are_said() {
    let offered = crate::app::options::account(&crate::config::Config::default()).limits;
    let with = |subscriptions, payload| {
        let limits = mqtt_access::Limits { subscriptions, payload, connections: Limit::Unlimited };
        Rights::new(Arc::new(Principal { limits, ..Principal::all() }), RightsOptions::default())
    };
    let free = with(Limit::Unlimited, Limit::Unlimited);
    assert!(free.may_send(usize::MAX) && free.may_subscribe_beside(usize::MAX));
    assert_eq!(free.limits(&offered).max_packet_size, offered.max_packet_size);
    let limited = with(Limit::Max(2), Limit::Max(10));
    assert!(limited.may_send(10) && !limited.may_send(11));
    assert!(limited.may_subscribe_beside(1) && !limited.may_subscribe_beside(2));
    assert_eq!(limited.limits(&offered).max_packet_size.get(), 10 + 8 * 1024);
    change(&free, limited.principal());
    assert!(!free.may_send(11) && !free.may_subscribe_beside(2));
}

#[test]
fn an_account_that_stores_nothing_offers_qos_0_whatever_its_user_may() {
    let offered = crate::app::options::account(&crate::config::Config::default()).limits;
    let options = RightsOptions { stores_nothing: true, ..RightsOptions::default() };
    let rules = DeviceRules { max_qos: Some(1), session_expiry_s_max: Some(60), ..DeviceRules::default() };
    for principal in [Principal::all(), Principal { rules, ..Principal::all() }] {
        let rights = Rights::new(Arc::new(principal), options);
        // Somebody else's are no more.
        for _ in 0..2 {
            let limits = rights.limits(&offered);
            assert_eq!((limits.max_qos, rights.max_qos()), (QoS::AtMostOnce, QoS::AtMostOnce));
            assert_eq!((limits.retain_available, limits.max_session_expiry_s), (false, 0));
            assert!(limits.shared_subscriptions, "groups are queue groups");
            assert!(rights.may_publish_as(QoS::AtMostOnce, false));
            assert!(!rights.may_publish_as(QoS::AtLeastOnce, false) && !rights.may_publish_as(QoS::AtMostOnce, true));
            change(&rights, Arc::new(Principal::all()));
        }
    }
}

#[test]
fn under_a_mount_point_a_client_receives_what_it_has_a_name_for_and_may() {
    let mount = || Some(Arc::new(MountPoint::new("site7/", "$NMQ").unwrap()));
    let everything = Rights::all().within(mount());
    let some = rights([&[], &[], &["site7.a.>", "$SYS.>"], &["site7.a.secret"]]).within(mount());
    assert!(everything.limits_receiving(), "or nobody asks");
    for (text, by_all, by_some) in [
        ("site7/a/b", true, true),
        ("site7/a/secret", true, false),
        ("site7/b", true, false),
        ("$SYS/broker/uptime", true, true),
        ("site7", false, false),
        ("site7/", false, false),
        ("site8/a/b", false, false),
        ("a/b", false, false),
    ] {
        let topic = topic(text);
        assert_eq!((everything.may_receive(&topic), some.may_receive(&topic)), (by_all, by_some), "{text}");
        assert_eq!(everything.in_group("g").may_receive(&topic), by_all, "{text}");
    }
    // Whoever it becomes, it stays there.
    change(&everything, Arc::new(Principal::all()));
    assert!(everything.limits_receiving() && !everything.may_receive(&topic("a/b")));
}
