//! Names are readable where they can be, come back exactly, and never collide.

use std::collections::HashMap;

use mqtt_codec::{TopicFilter, TopicName};
use proptest::prelude::*;
use proto_map::{
    BanSubject, MapError, Names, SessionSubject, Subject, queue_group, share_consumer, subject_of, subjects_of,
};

fn retained_key(topic: &str) -> String {
    let subject = subject_of(&TopicName::new(topic).unwrap()).unwrap();
    let full = Names::default().retained_subject(&subject).unwrap();
    full.strip_prefix("$KV.MQTT_retained.").unwrap().to_owned()
}

/// The rule by which client tools judge keys.
fn is_tool_key(key: &str) -> bool {
    !key.starts_with('.')
        && !key.ends_with('.')
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-/_=.".contains(&byte))
}

#[test]
fn default_names_are_those_of_the_design() {
    let names = Names::default();
    assert_eq!(names, Names::new("MQTT", "$NMQ").unwrap());
    let subject = Subject::new("plant.line1.temp").unwrap();
    for (name, expected) in [
        (names.log_stream(), "MQTT_log"),
        (names.backlog_stream(), "MQTT_backlog"),
        (names.retained_bucket(), "MQTT_retained"),
        (names.retained_stream(), "KV_MQTT_retained"),
        (names.sessions_stream(), "KV_MQTT_sessions"),
        (names.nodes_stream(), "KV_MQTT_nodes"),
        (names.keys_stream(), "KV_MQTT_keys"),
        (names.log_subjects(), "$NMQ.log.>"),
        (names.backlog_subjects(), "$NMQ.backlog.*"),
        (names.log_subject(&subject).to_string(), "$NMQ.log.plant.line1.temp"),
        (names.session_record("sensor-1").unwrap().to_string(), "$KV.MQTT_sessions.sensor-1"),
        (names.session_progress("sensor-1").unwrap().to_string(), "$KV.MQTT_sessions.sensor-1.progress"),
        (names.session_page("sensor-1", 9, 3).unwrap().to_string(), "$KV.MQTT_sessions.sensor-1.subs.9.3"),
        (names.session_pages("sensor-1", 9).unwrap().to_string(), "$KV.MQTT_sessions.sensor-1.subs.9.*"),
        (names.client_pages("sensor-1").unwrap().to_string(), "$KV.MQTT_sessions.sensor-1.subs.>"),
        (names.all_session_pages(), "$KV.MQTT_sessions.*.subs.*.*"),
        (names.session_will("sensor-1", 9).unwrap().to_string(), "$KV.MQTT_sessions.sensor-1.will.9"),
        (names.all_session_wills(), "$KV.MQTT_sessions.*.will.*"),
        (names.session_received("sensor-1", 7).unwrap().to_string(), "$KV.MQTT_sessions.sensor-1.qos2.7"),
        (names.session_parts("sensor-1").unwrap().to_string(), "$KV.MQTT_sessions.sensor-1.>"),
        (names.backlog_subject("esp.kitchen.1").unwrap().to_string(), "$NMQ.backlog.esp=2Ekitchen=2E1"),
        (names.backlog_subject("Shelly Plug").unwrap().to_string(), "$NMQ.backlog.Shelly=20Plug"),
        (names.node_lease("node-a").unwrap().to_string(), "$KV.MQTT_nodes.node-a"),
        (names.node_subject("node-a").unwrap().to_string(), "$NMQ.node.node-a"),
        (names.account_entry("T.1").unwrap().to_string(), "$KV.MQTT_accounts.T=2E1"),
        (names.account_jwt("AB").unwrap().to_string(), "$KV.MQTT_accounts.AB.jwt"),
    ] {
        assert_eq!(name, expected);
    }
    assert_eq!(names.strip_log("$NMQ.log.plant.line1.temp"), Some("plant.line1.temp"));
    assert_eq!(names.strip_log("$NMQ.logs.plant"), None);
    // The JWT of an account is no account, whatever that is called.
    let stripped = |subject: &str| (names.strip_account_entry(subject), names.strip_account_jwt(subject));
    for account in ["AB", "jwt", ".jwt", ""] {
        let (entry, jwt) = (names.account_entry(account).unwrap(), names.account_jwt(account).unwrap());
        assert_eq!(stripped(&entry), (Some(account.to_owned()), None));
        assert_eq!(stripped(&jwt), (None, Some(account.to_owned())));
    }
}

#[test]
fn a_ban_is_found_under_what_an_operator_writes_and_under_what_somebody_hostile_is_called() {
    let names = Names::default();
    let (home, other) = (None, Some("T.1".to_owned()));
    let client = |account: &Option<String>, id: &str| BanSubject::Client {
        account: account.clone(),
        client_id: id.into(),
        user: None,
        address: None,
    };
    let of_user = |account: &Option<String>, id: &str, user: &str| {
        let user = Some(user.into());
        BanSubject::Client { account: account.clone(), client_id: id.into(), user, address: None }
    };
    let at = |id: &str, user: &str, address: &str| BanSubject::Client {
        account: None,
        client_id: id.into(),
        user: Some(user.into()),
        address: Some(address.parse().unwrap()),
    };
    let user = |account: &Option<String>, user: &str| BanSubject::User { account: account.clone(), user: user.into() };
    for (key, subject) in [
        ("address.192.0.2.7", BanSubject::Address("192.0.2.7".into())),
        ("address.192.0.2.0/24", BanSubject::Address("192.0.2.0/24".into())),
        ("address.2001=3Adb8=3A=3A/64", BanSubject::Address("2001:db8::/64".into())),
        ("client.lamp", client(&home, "lamp")),
        ("client.T=2E1.a=2Eb=20=3E=2A", client(&other, "a.b >*")),
        ("client.=C3=A4=3D", client(&home, "ä=")),
        ("client.T=2E1.=", client(&other, "")),
        ("client.=.lamp.eve", of_user(&home, "lamp", "eve")),
        ("client.T=2E1.lamp.e=2Eve", of_user(&other, "lamp", "e.ve")),
        ("client.=.lamp.eve.192=2E0=2E2=2E7", at("lamp", "eve", "192.0.2.7")),
        ("client.=.lamp.=.2001=3Adb8=3A=3A", at("lamp", "", "2001:db8::")),
        ("user.lamp", user(&home, "lamp")),
        ("user.T=2E1.lamp", user(&other, "lamp")),
    ] {
        let full = format!("$KV.MQTT_bans.{key}");
        assert_eq!(names.ban(&subject).unwrap().to_string(), full);
        assert_eq!(names.strip_ban(&full), Some(subject), "{key}");
    }
    for key in [
        "client",
        "client.a.b.c.d",
        "client.=.a.b.192=2E0=2E2=2E7.e",
        "client.=4",
        "client.a=2eb",
        "address.=ZZ",
        "other.x",
        "users.x",
        "client..",
    ] {
        assert_eq!(names.strip_ban(&format!("$KV.MQTT_bans.{key}")), None, "{key}");
    }
    assert!(names.ban(&client(&home, &"\u{1}".repeat(4_000))).is_err());
}

#[test]
fn prefixes_that_make_no_name_are_refused() {
    for (prefix, subject_prefix) in [
        ("", "$NMQ"),
        ("a.b", "$NMQ"),
        ("$MQTT", "$NMQ"),
        ("a b", "$NMQ"),
        ("MQTT", ""),
        ("MQTT", "a.b"),
        ("MQTT", "$JS"),
        ("MQTT", "_INBOX"),
        ("MQTT", "*"),
        ("MQTT", ">"),
        ("ü", "$NMQ"),
    ] {
        assert_eq!(Names::new(prefix, subject_prefix), Err(MapError::InvalidName), "{prefix} {subject_prefix}");
    }
    assert!(Names::new("site_2", "nmq-2").is_ok());
}

#[test]
fn retained_keys_are_readable_and_taken_by_client_tools() {
    for (topic, key) in [
        ("plant/line1/temp", "plant.line1.temp"),
        ("foo.bar", "foo//bar"),
        ("/foo/", "/.foo./"),
        ("zigbee2mqtt/Living Room", "zigbee2mqtt.Living=2520Room"),
        ("$aws/x", "=24aws.x"),
        ("a=b", "a=b"),
        ("a=41", "a=41"),
        ("a=20", "a=20"),
        ("a=24", "a=3D24"),
        ("a=3D24", "a=3D3D24"),
        ("ä", "=C3=A4"),
        ("*", "=252A"),
    ] {
        assert_eq!(retained_key(topic), key);
        assert!(is_tool_key(key));
    }
}

#[test]
fn what_a_nats_client_puts_under_a_plain_key_is_retained_under_that_topic() {
    let names = Names::default();
    for key in ["plant.line1.temp", "a=b", "a=", "=", "a-b_c/d", "a=41.b=zz"] {
        let subject = names.strip_retained(&format!("$KV.MQTT_retained.{key}")).unwrap();
        assert_eq!(subject.as_str(), key);
        assert_eq!(*names.retained_subject(&subject).unwrap(), *format!("$KV.MQTT_retained.{key}"));
    }
    for key in ["", "a..b", "=C3", "=2A", "=3E.x", "a%20b", "$x", "*", "a.>"] {
        assert_eq!(names.strip_retained(&format!("$KV.MQTT_retained.{key}")), None, "{key}");
    }
    assert_eq!(names.strip_retained("$KV.MQTT_sessions.a"), None);
}

#[test]
fn a_key_that_nobody_has_escaped_names_its_subject() {
    for key in ["$aws.things.x", "$x", "a%20b", "ä", "$a=24"] {
        let subject = proto_map::subject_of_unescaped_key(key).unwrap();
        assert_eq!(subject.as_str(), key);
        let names = Names::default();
        assert_ne!(*names.retained_subject(&subject).unwrap(), *format!("$KV.MQTT_retained.{key}"));
    }
    // What is taken as a key, and what is no subject.
    for key in ["plant.temp", "=24aws.x", "=2A", "a=", "", "a..$", "$a.*", "$a.>", "$a b"] {
        assert_eq!(proto_map::subject_of_unescaped_key(key), None, "{key}");
    }
}

#[test]
fn filters_of_retained_keys_keep_their_wildcards() {
    let names = Names::default();
    let subjects = subjects_of(&TopicFilter::new("$aws/+/Living Room/#").unwrap()).unwrap();
    let filter = names.retained_filter(&subjects.subject).unwrap();
    assert_eq!(&*filter, "$KV.MQTT_retained.=24aws.*.Living=2520Room.>");
    assert_eq!(&*names.log_filter(&subjects.subject), "$NMQ.log.$aws.*.Living%20Room.>");
}

#[test]
fn session_subjects_say_what_they_hold() {
    let names = Names::default();
    for client_id in ["sensor-1", "esp.kitchen.1", "Shelly Plug", "ü/+#*>", "", "=", "=2E", "qos2", "a.progress"] {
        let client_id = client_id.to_owned();
        let record = names.session_record(&client_id).unwrap();
        let progress = names.session_progress(&client_id).unwrap();
        let received = names.session_received(&client_id, 65_535).unwrap();
        let (page, will) =
            (names.session_page(&client_id, u64::MAX, 3).unwrap(), names.session_will(&client_id, 7).unwrap());
        let expected = SessionSubject::Subscriptions { client_id: client_id.clone(), first_epoch: u64::MAX, page: 3 };
        assert_eq!(names.strip_session(&page), Some(expected));
        let expected = SessionSubject::Will { client_id: client_id.clone(), number: 7 };
        assert_eq!(names.strip_session(&will), Some(expected));
        assert_eq!(names.strip_session(&record), Some(SessionSubject::Record { client_id: client_id.clone() }));
        assert_eq!(names.strip_session(&progress), Some(SessionSubject::Progress { client_id: client_id.clone() }));
        let expected = SessionSubject::Received { client_id: client_id.clone(), packet_id: 65_535 };
        assert_eq!(names.strip_session(&received), Some(expected));
        assert!(
            [&record, &progress, &received, &page, &will]
                .iter()
                .all(|subject| is_tool_key(&subject["$KV.MQTT_sessions.".len()..]))
        );
        assert_eq!(names.strip_backlog(&names.backlog_subject(&client_id).unwrap()), Some(client_id));
    }
    for key in [
        "a.other",
        "a.qos2",
        "a.qos2.x",
        "a.qos2.+1",
        "a.qos2.70000",
        "a.qos2.1.2",
        "a.progress.x",
        "a.subs",
        "a.subs.1",
        "a.subs.1.x",
        "a.subs.01.1",
        "a.subs.1.4294967296",
        "a.subs.1.2.3",
        "a.will",
        "a.will.x",
        "a.will.1.2",
        "a=41",
        "a=4",
        "=GG",
        "a b",
        "=FF",
        "=mark",
    ] {
        assert_eq!(names.strip_session(&format!("$KV.MQTT_sessions.{key}")), None, "{key}");
    }
}

#[test]
fn a_client_id_is_never_truncated() {
    let names = Names::default();
    assert!(names.session_record(&"a".repeat(3900)).is_ok());
    // What CONNECT takes has room for every key of its session.
    let longest = (3_000..4_000).rev().find(|len| names.client_key(&"a".repeat(*len)).is_ok()).unwrap();
    let longest = "a".repeat(longest);
    assert!(names.session_page(&longest, u64::MAX, u32::MAX).is_ok() && names.session_will(&longest, u64::MAX).is_ok());
    assert!(names.session_progress(&longest).is_ok() && names.session_received(&longest, u16::MAX).is_ok());
    assert!(matches!(names.session_record(&"ü".repeat(1000)), Err(MapError::TooLong { .. })));
}

#[test]
fn share_groups_have_readable_consumers() {
    for (group, filter, expected) in [
        ("workers", "jobs/+/new", "workers@jobs,+,new"),
        ("workers", "jobs/#", "workers@jobs,#"),
        ("my team", "a.b/c,d", "my=20team@a=2F=2Fb,c=2Cd"),
        ("$queue", "x", "$queue@x"),
    ] {
        let subjects = subjects_of(&TopicFilter::new(filter).unwrap()).unwrap();
        assert_eq!(&*share_consumer(group, &subjects), expected);
    }
    assert_eq!(&*queue_group("workers"), "workers");
    assert_eq!(&*queue_group("my team\r\n100%"), "my%20team%0D%0A100%25");
}

#[test]
fn consumers_of_long_groups_fit_and_differ() {
    let mut seen = HashMap::new();
    for group in ["g".repeat(300), "g".repeat(301), "ü".repeat(200)] {
        for filter in ["a/#", "a/+", "a"] {
            let name = share_consumer(&group, &subjects_of(&TopicFilter::new(filter).unwrap()).unwrap());
            assert!(name.len() <= 255 && name.is_ascii(), "{name}");
            assert_eq!(seen.insert(name, (group.clone(), filter)), None);
        }
    }
}

proptest! {
    #[test]
    fn retained_keys_come_back(text in "[ -~ä=/.]{1,12}") {
        if let Ok(topic) = TopicName::new(text) {
            let names = Names::default();
            let subject = subject_of(&topic).unwrap();
            let full = names.retained_subject(&subject).unwrap();
            prop_assert!(is_tool_key(&full["$KV.MQTT_retained.".len()..]));
            prop_assert_eq!(names.strip_retained(&full), Some(subject));
        }
    }

    #[test]
    fn keys_of_others_come_back_or_are_none(key in "[a=.234ADEC0/]{1,8}") {
        let names = Names::default();
        let full = format!("$KV.MQTT_retained.{key}");
        if let Some(subject) = names.strip_retained(&full) {
            prop_assert_eq!(&*names.retained_subject(&subject).unwrap(), full.as_str());
        }
    }

    #[test]
    fn client_keys_come_back(id in any::<String>()) {
        let names = Names::default();
        let subject = names.session_record(&id).unwrap();
        prop_assert_eq!(names.strip_session(&subject), Some(SessionSubject::Record { client_id: id }));
    }

    #[test]
    fn different_groups_and_filters_have_different_consumers(
        one in "[a@,.+*%= ]{1,4}", other in "[a@,.+*%= ]{1,4}", left in "[a@,.*%= /]{1,4}", right in "[a@,.*%= /]{1,4}",
    ) {
        let name = |group: &str, filter: &str| {
            share_consumer(group, &subjects_of(&TopicFilter::new(filter).unwrap()).unwrap())
        };
        prop_assert_eq!((&one, &left) == (&other, &right), name(&one, &left) == name(&other, &right));
    }
}
