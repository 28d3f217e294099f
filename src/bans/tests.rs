//! Bans as whoever lets clients in sees them.

use super::strikes::{Rule, Strikes};
use super::*;
use crate::config::{BanRule, Duration as Span};

fn addr(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn account(name: &str) -> AccountId {
    AccountId::new(name)
}

fn rule(count: u32, window_s: u64, duration_s: u64) -> BanRule {
    BanRule { count, window: Span::from_secs(window_s), duration: Span::from_secs(duration_s) }
}

#[test]
fn so_many_within_the_window_are_too_often_and_counted_anew_then() {
    let mut strikes = Strikes::default();
    assert_eq!(strikes.strike(0, || 1), None, "without a rule nothing is counted");
    assert_eq!(strikes.len(), 0);
    strikes.set_rule(Rule::of(&rule(3, 10, 60)));
    let banned = Some(Duration::from_secs(60));
    for (now_s, who, expected) in [
        (0, 1, None),
        (1, 2, None),
        (9, 1, None),
        // The window of the first is over: it is the first of the next.
        (10, 1, None),
        (11, 2, None),
        (12, 1, None),
        (19, 1, banned),
        (19, 1, None),
        (20, 1, None),
        (21, 1, banned),
        (21, 2, None),
    ] {
        assert_eq!(strikes.strike(now_s * 1_000, || who), expected, "{who} at {now_s} s");
    }
    strikes.set_rule(Rule::of(&rule(1, 10, 60)));
    assert_eq!(strikes.strike(0, || 1), banned);
    strikes.set_rule(Rule::of(&rule(0, 10, 60)));
    assert_eq!(strikes.strike(0, || 1), None);
}

#[test]
fn ten_million_client_ids_have_an_end() {
    let mut strikes = Strikes::default();
    strikes.set_rule(Rule::of(&rule(2, 10, 60)));
    for id in 0..10_000_000_u32 {
        assert_eq!(strikes.strike(u64::from(id) / 10_000_000, || id), None);
    }
    assert_eq!(strikes.len(), BANS_MAX);
    assert_eq!(strikes.strike(0, || 0), Some(Duration::from_secs(60)), "who is watched still is");
    assert_eq!(strikes.strike(0, || 10_000_000), None);
    assert_eq!(strikes.strike(10_000, || 10_000_001), None);
    assert_eq!(strikes.len(), 1, "those whose window is over make room");
}

#[test]
fn the_configuration_bans_addresses_clients_and_users_of_an_account() {
    let list = |text: &str| {
        let config = crate::config::Config::assemble(Some(("f", text)), &[], &crate::config::Overrides::default());
        config.unwrap().bans
    };
    let config = list(
        "[[bans.list]]\naddress = \"192.0.2.0/28\"\n[[bans.list]]\naddress = \"2001:db8::/64\"\n\
         [[bans.list]]\nclient_id = \"lamp\"\n[[bans.list]]\nuser = \"eve\"\naccount = \"T1\"",
    );
    let bans = Bans::new(&config, None, Metrics::new());
    let v6 = |text: &str| text.parse::<IpAddr>().unwrap();
    assert!(bans.is_address_banned(addr(15)) && !bans.is_address_banned(addr(16)));
    assert!(bans.is_address_banned(v6("::ffff:192.0.2.1")) && bans.is_address_banned(v6("2001:db8::7:1")));
    assert!(!bans.is_address_banned(v6("2001:db8:0:1::1")));
    let of = |account_name: &str, user: &str, id: &str| bans.of_client(&account(account_name), user, &id.into(), None);
    assert_eq!(of("", "", "lamp"), Some(BanKind::Client));
    assert_eq!(of("T1", "adam", "lamp"), None, "of another account");
    assert_eq!(of("T1", "eve", "x"), Some(BanKind::User));
    assert_eq!(of("", "eve", "x"), None);
    let mount = proto_map::MountPoint::new("site7/", "$NMQ").unwrap();
    assert_eq!(
        of("", "", &proto_map::session_name(Some(&mount), "lamp")),
        Some(BanKind::Client),
        "wherever it is mounted"
    );
    assert_eq!(bans.judge(Some(addr(1)), &account(""), "", &"x".into()), Some(BanKind::Address));
    // Another configuration: whoever is not in it any more is not banned.
    bans.configure(&list("[[bans.list]]\nuser = \"adam\""));
    assert!(!bans.is_address_banned(addr(1)));
    assert_eq!((of("", "", "lamp"), of("", "adam", "x")), (None, Some(BanKind::User)));
    assert!(bans.take_fresh().is_everybody);
    // The home account by its name, which clients of it do not have.
    let bans = Bans::new(&list("[[bans.list]]\nuser = \"eve\"\naccount = \"HOME\""), Some("HOME"), Metrics::new());
    assert_eq!(bans.of_client(&account(""), "eve", &"x".into(), None), Some(BanKind::User));
}

#[test]
fn a_ban_ends_by_itself_by_its_end_and_with_what_others_know() {
    let bans = Bans::none();
    let client = |id: &str| Whom::Client(account(""), id.into(), None);
    let is_banned = |id: &str| bans.of_client(&account(""), "", &id.into(), None).is_some();
    bans.put(client("short"), Some(Duration::ZERO), By::Operator);
    bans.put(client("long"), Some(Duration::from_secs(600)), By::Operator);
    bans.put(client("ever"), None, By::Operator);
    assert!(!is_banned("short") && is_banned("long") && is_banned("ever"));
    bans.sweep();
    bans.put(client("long"), Some(Duration::ZERO), By::Operator);
    assert!(!is_banned("long"), "it has another end by now");
    bans.put(client("long"), None, By::Operator);
    bans.remove(&client("ever"));
    assert!(!is_banned("ever") && is_banned("long"));
    bans.retain(|_| false);
    assert!(!is_banned("long"));
}

#[test]
fn what_a_rule_bans_is_to_be_written_and_stays_while_it_is_not() {
    let config = BansConfig { flapping: rule(3, 60, 600), failed_logins: rule(2, 60, 60), ..BansConfig::default() };
    let bans = Bans::new(&config, None, Metrics::new());
    let connect = |id: &str| bans.connected(&account("T1"), "eve", &id.into(), None);
    (0..2).for_each(|_| connect("lamp"));
    connect("other");
    assert!(!bans.has_made());
    connect("lamp");
    assert_eq!(bans.of_client(&account("T1"), "eve", &"lamp".into(), None), Some(BanKind::Client));
    assert_eq!(bans.of_client(&account("T1"), "adam", &"lamp".into(), None), None, "whose client id it may be");
    let network: [IpAddr; 2] = ["2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap()];
    network.iter().for_each(|addr| bans.failed_login(*addr));
    assert!(bans.is_address_banned("2001:db8::3".parse().unwrap()), "one network of 64 bits");
    bans.violated(addr(1));
    // Everything that others know is read: what they could not know stays, also while it is written.
    bans.retain(|_| false);
    let made = bans.take_made();
    bans.retain(|_| false);
    assert_eq!(bans.of_client(&account("T1"), "eve", &"lamp".into(), None), Some(BanKind::Client));
    let shown: Vec<_> = made.iter().map(|made| (made.whom.to_string(), made.cause)).collect();
    let flapping = ("client lamp of user eve of account T1".to_owned(), BanCause::Flapping);
    assert_eq!(shown, [flapping, ("address 2001:db8::/64".to_owned(), BanCause::FailedLogins)]);
    assert!(made.iter().all(|made| made.left > Duration::from_secs(50)) && !bans.has_made());
    bans.give_back(made);
    assert_eq!(bans.take_made().len(), 2);
    assert_eq!(bans.take_fresh().some.len(), 2);
    // What others have said and do not say any more is over.
    let flapping = Whom::Client(account("T1"), "lamp".into(), Some("eve".into()));
    bans.put(flapping, Some(Duration::from_secs(500)), By::Operator);
    bans.retain(|_| false);
    assert_eq!(bans.of_client(&account("T1"), "eve", &"lamp".into(), None), None);
    assert!(bans.is_address_banned("2001:db8::3".parse().unwrap()));
}

#[test]
fn there_is_an_end_to_bans_and_those_that_are_over_make_room() {
    let mut table = Table::new(Room { of_operators: 2, of_rules: 1 });
    let client = |id: &str| Whom::Client(account(""), id.into(), None);
    let until = |until_s: u64| Ban { until: Some(until_s * 1_000), by: By::Operator, is_ours: false };
    assert!(table.put(client("a"), until(10), 0) && table.put(client("b"), until(20), 0));
    assert!(
        !table.put(client("c"), until(30), 0) && table.put(client("b"), until(30), 0),
        "another end is no other ban"
    );
    assert!(table.put(client("c"), until(30), 10_000));
    assert!(!table.has(&client("a"), 10_000) && table.has(&client("b"), 29_999) && !table.has(&client("b"), 30_000));
    assert!(!table.put(client("d"), until(90), 29_999));
    assert!(!table.put(client("d"), until(90), 30_500), "it was looked for room a moment ago");
    assert!(table.put(client("d"), until(90), 30_999));
    assert_eq!(table.counts(), [0, 1, 0]);
}

#[test]
fn a_flood_of_bans_by_rules_keeps_no_operator_from_banning() {
    let mut table = Table::new(Room { of_operators: 100, of_rules: 50 });
    let client = |id: u32| Whom::Client(account(""), id.to_string().into(), None);
    let ban = |by| Ban { until: None, by, is_ours: false };
    let by_rules = (0..1_000).filter(|id| table.put(client(*id), ban(By::Rule), 0)).count();
    assert_eq!(by_rules, 50);
    // One of them is an operator's from now on, and makes room for another rule.
    assert!(table.put(client(0), ban(By::Operator), 0) && table.put(client(50), ban(By::Rule), 0));
    let by_operators = (1_000..2_000).filter(|id| table.put(client(*id), ban(By::Operator), 0)).count();
    assert_eq!((by_operators, table.counts()), (99, [0, 150, 0]));
    assert!(!table.put(client(1), ban(By::Operator), 0) && table.has(&client(1), 0), "it stays the rule's");
    table.remove(&client(0));
    table.retain(|whom| *whom != client(2));
    assert_eq!(table.counts(), [0, 148, 0]);
    assert!(table.put(client(3_000), ban(By::Operator), 0) && table.put(client(3_001), ban(By::Rule), 0));
    assert!(!table.put(client(3_002), ban(By::Operator), 0) && !table.put(client(3_002), ban(By::Rule), 0));
}

#[test]
fn whoever_looks_for_who_is_banned_finds_the_ban() {
    let (bans, rounds) = (Bans::none(), 50_000_u32);
    let client = |number: u32| Whom::Client(account(""), number.to_string().into(), None);
    std::thread::scope(|scope| {
        let puts = scope.spawn(|| (0..rounds).for_each(|number| bans.put(client(number), None, By::Operator)));
        loop {
            let is_over = puts.is_finished();
            for whom in bans.take_fresh().some {
                let Whom::Client(account, id, _) = &whom else { unreachable!() };
                assert!(bans.of_client(account, "", id, None).is_some(), "{whom} is said to be banned, and is not");
            }
            if is_over {
                break;
            }
        }
    });
}

#[test]
fn a_ban_that_is_put_while_another_one_ends_counts() {
    let bans = Bans::none();
    let of = |user: String| Whom::User(account(""), user.into());
    for round in 0..20_000 {
        let (ends, begins) = (of(format!("a{round}")), of(format!("b{round}")));
        bans.put(ends.clone(), None, By::Operator);
        let barrier = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                barrier.wait();
                bans.remove(&ends);
            });
            barrier.wait();
            bans.put(begins.clone(), None, By::Operator);
        });
        assert!(bans.of_client(&account(""), &format!("b{round}"), &"x".into(), None).is_some(), "round {round}");
        bans.remove(&begins);
    }
}

#[test]
fn who_is_banned_is_not_counted_and_no_ban_of_a_rule_ends_another_one_sooner() {
    let config = BansConfig { flapping: rule(1, 60, 60), violations: rule(1, 60, 60), ..BansConfig::default() };
    let bans = Bans::new(&config, None, Metrics::new());
    let network = |text: &str| Whom::Address(text.parse().unwrap());
    bans.put(network("192.0.2.1/32"), None, By::Operator);
    bans.put(network("192.0.2.128/25"), None, By::Operator);
    bans.put(Whom::Client(account(""), "lamp".into(), None), None, By::Operator);
    bans.violated(addr(1));
    bans.violated(addr(129));
    bans.connected(&account(""), "eve", &"lamp".into(), None);
    assert!(!bans.has_made(), "{:?}", bans.take_made());
    // Two are refused in the same moment, and an operator has banned it for longer in between.
    let of = |left| (network("192.0.2.2/32"), Duration::from_secs(left));
    let make = |(whom, left)| bans.make(whom, left, BanCause::Violations);
    make(of(60));
    bans.put(of(0).0, Some(Duration::from_secs(600)), By::Operator);
    make(of(60));
    assert_eq!(bans.take_made().len(), 1);
    bans.retain(|_| true);
    assert!(bans.shared.read().lasts_until(&of(0).0, bans.now() + 590_000));
    make(of(6_000));
    assert_eq!(bans.take_made().len(), 1, "for longer it may be");
}

#[test]
fn nobody_has_another_one_banned_by_taking_its_client_id() {
    let config = BansConfig { flapping: rule(3, 60, 600), ..BansConfig::default() };
    for (user, address_counts) in [("", true), ("shared", true), ("lamp", false)] {
        let bans = Bans::new(&config, None, Metrics::new());
        let connect = |from| bans.connected(&account("T1"), user, &"lamp".into(), Some(addr(from)));
        let is_banned = |user: &str, from| {
            bans.of_client(&account("T1"), user, &"lamp".into(), Some(addr(from))) == Some(BanKind::Client)
        };
        connect(1);
        connect(1);
        connect(2);
        assert_eq!(is_banned(user, 1), !address_counts, "{user:?}");
        connect(1);
        assert!(is_banned(user, 1), "{user:?}");
        assert_eq!(is_banned(user, 2), !address_counts, "{user:?}");
        assert!(!is_banned("adam", 1));
        bans.put(bans.take_made()[0].whom.clone(), None, By::Rule);
        assert!(is_banned(user, 1), "as others say it");
    }
}
