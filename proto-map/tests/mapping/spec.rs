//! What we create, in the terms of the JetStream API, and which existing streams will do.

use proto_map::{Discard, Names, PerSubject, SpecOptions, Storage, replicas_for};
use serde_json::{Value, json};

fn log_json() -> Value {
    Names::default().log_spec(&SpecOptions::default()).to_json()
}

#[test]
fn the_log_is_24_hours_and_4_gib() {
    let log = log_json();
    for (field, value) in [
        ("name", json!("MQTT_log")),
        ("subjects", json!(["$NMQ.log.>"])),
        ("retention", json!("limits")),
        ("max_age", json!(86_400_000_000_000_u64)),
        ("max_bytes", json!(4_294_967_296_u64)),
        ("max_msgs_per_subject", json!(-1)),
        ("discard", json!("old")),
        ("storage", json!("file")),
        ("num_replicas", json!(1)),
        ("duplicate_window", json!(120_000_000_000_u64)),
        ("allow_msg_ttl", json!(true)),
        ("allow_direct", json!(true)),
        ("metadata", json!({"nats-mqtt.mapping": "1"})),
        ("subject_delete_marker_ttl", Value::Null),
    ] {
        assert_eq!(log[field], value, "{field}");
    }
}

#[test]
fn buckets_are_what_client_tools_take_for_buckets() {
    let names = Names::default();
    let options = SpecOptions { replicas: 3, storage: Storage::Memory, ..SpecOptions::default() };
    for (spec, name) in [
        (names.retained_spec(&options), "MQTT_retained"),
        (names.sessions_spec(&options), "MQTT_sessions"),
        (names.nodes_spec(&options), "MQTT_nodes"),
    ] {
        let bucket = spec.to_json();
        assert_eq!(bucket["name"], format!("KV_{name}"));
        assert_eq!(bucket["subjects"], json!([format!("$KV.{name}.>")]));
        assert_eq!(bucket["max_msgs_per_subject"], 1);
        assert_eq!((&bucket["discard"], &bucket["storage"]), (&json!("new"), &json!("file")));
        assert_eq!(bucket["num_replicas"], 3);
        for field in ["allow_rollup_hdrs", "deny_delete", "allow_direct", "allow_msg_ttl"] {
            assert_eq!(bucket[field], true, "{field}");
        }
        assert!(bucket["subject_delete_marker_ttl"].as_u64().unwrap() >= 1_000_000_000);
    }
}

#[test]
fn a_full_backlog_drops_its_oldest_or_refuses_the_newest() {
    let names = Names::default();
    let oldest = names.backlog_spec(&SpecOptions { session_queue_max: 50, ..SpecOptions::default() });
    assert_eq!((oldest.per_subject, oldest.discard), (PerSubject::AtMost(50), Discard::Old));
    let options = SpecOptions { session_queue_discard_oldest: false, ..SpecOptions::default() };
    let newest = names.backlog_spec(&options).to_json();
    assert_eq!((&newest["discard"], &newest["discard_new_per_subject"]), (&json!("new"), &json!(true)));
}

#[test]
fn replicas_follow_the_servers_up_to_three() {
    assert_eq!([0, 1, 2, 3, 4, 7].map(replicas_for), [1, 1, 2, 3, 3, 3]);
}

#[test]
fn the_duplicate_window_is_not_longer_than_the_log() {
    let options = SpecOptions { log_max_age_s: 60, ..SpecOptions::default() };
    assert_eq!(Names::default().log_spec(&options).duplicate_window_s, 60);
}

#[test]
fn what_we_create_we_can_use() {
    for spec in Names::default().specs(&SpecOptions::default()) {
        assert_eq!(spec.differences(&spec.to_json()), Vec::<String>::new());
        assert_eq!(spec.warnings(&spec.to_json()), Vec::<String>::new());
    }
}

#[test]
fn what_operators_tune_is_no_difference() {
    let log = Names::default().log_spec(&SpecOptions::default());
    let mut found = log_json();
    for (field, value) in [
        ("max_age", json!(0)),
        ("max_bytes", json!(-1)),
        ("num_replicas", json!(5)),
        ("duplicate_window", json!(1)),
        ("description", json!("ours")),
        ("compression", json!("s2")),
        ("max_msgs_per_subject", json!(0)),
        ("placement", json!({"tags": ["ssd"]})),
    ] {
        found[field] = value;
    }
    assert_eq!(log.differences(&found), Vec::<String>::new());
    assert_eq!(log.warnings(&found), Vec::<String>::new());
    let backlog = Names::default().backlog_spec(&SpecOptions::default());
    let mut found = backlog.to_json();
    found["max_msgs_per_subject"] = json!(17);
    found["discard"] = json!("new");
    assert_eq!(backlog.differences(&found), Vec::<String>::new());
}

#[test]
fn a_foreign_configuration_is_told_in_phrases() {
    let log = Names::default().log_spec(&SpecOptions::default());
    for (field, value, phrase) in [
        ("subjects", json!(["a.>", "b"]), "its subjects are a.> b, not $NMQ.log.>"),
        ("subjects", Value::Null, "its subjects are , not $NMQ.log.>"),
        ("retention", json!("workqueue"), "its retention is workqueue, not limits"),
        ("max_msgs_per_subject", json!(1), "it keeps 1 messages of a subject, not all"),
        ("discard", json!("new"), "it discards new messages, not old ones"),
        ("allow_msg_ttl", json!(false), "it does not allow a time to live per message (allow_msg_ttl)"),
        ("allow_direct", Value::Null, "it does not allow direct reads (allow_direct)"),
        ("sealed", json!(true), "it is sealed"),
        ("no_ack", json!(true), "it does not acknowledge (no_ack)"),
        ("deny_purge", json!(true), "it does not allow purging (deny_purge)"),
        ("mirror", json!({"name": "x"}), "it has `mirror`"),
        ("sources", json!([{"name": "x"}]), "it has `sources`"),
        ("subject_delete_marker_ttl", json!(1), "it leaves markers of what expires (subject_delete_marker_ttl)"),
        ("metadata", json!({"nats-mqtt.mapping": "2"}), "its mapping has version 2, not 1"),
    ] {
        let mut found = log_json();
        found[field] = value;
        assert_eq!(log.differences(&found), [phrase]);
    }
    assert!(!log.differences(&Value::Null).is_empty());

    let retained = Names::default().retained_spec(&SpecOptions::default());
    for (field, value, phrase) in [
        ("max_msgs_per_subject", json!(5), "it keeps 5 messages of a subject, not 1"),
        ("max_msgs_per_subject", json!(-1), "it keeps all messages of a subject, not 1"),
        ("allow_rollup_hdrs", json!(false), "it does not allow rollups (allow_rollup_hdrs)"),
        ("subject_delete_marker_ttl", Value::Null, "it leaves no markers of what expires (subject_delete_marker_ttl)"),
    ] {
        let mut found = retained.to_json();
        found[field] = value;
        assert_eq!(retained.differences(&found), [phrase]);
    }
}

#[test]
fn what_is_usable_but_odd_is_a_warning() {
    let log = Names::default().log_spec(&SpecOptions { replicas: 3, ..SpecOptions::default() });
    for (field, value, phrase) in [
        ("storage", json!("memory"), "it is stored in memory and does not outlive its servers"),
        ("max_msgs", json!(10), "it has a limit of messages (max_msgs)"),
        ("max_msg_size", json!(10), "it has a limit of message size (max_msg_size)"),
        ("num_replicas", json!(1), "it has 1 replicas, not 3"),
        ("metadata", Value::Null, "its metadata does not have nats-mqtt.mapping"),
    ] {
        let mut found = log.to_json();
        found[field] = value;
        assert_eq!(log.warnings(&found), [phrase]);
        assert_eq!(log.differences(&found), Vec::<String>::new());
    }
}
