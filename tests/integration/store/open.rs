//! What a user reads when a store cannot be opened.

use super::*;
use nats_mqtt::store::Credentials;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jetstream_that_is_off_is_a_configuration_error() {
    let server = NatsServer::start_with(false, "");
    let error = open_error(options(&server)).await;
    assert_eq!(error, OpenError::JetStreamDisabled);
    assert!(error.is_configuration());
}

const ACCOUNTS: &str = r#"
accounts {
  A { users [ { user: a, password: a } ] }
  B { jetstream: enabled, users [
    { user: no_api, password: p, permissions: { publish: { deny: "$JS.API.>" } } }
    { user: no_inbox, password: p, permissions: { subscribe: { deny: "_INBOX.>" } } }
    { user: no_ack, password: p, permissions: { publish: { deny: "$JS.ACK.>" } } }
    { user: no_advisories, password: p, permissions: { subscribe: { deny: "$JS.EVENT.>" } } }
    { user: no_sessions, password: p, permissions: { publish: { deny: "$KV.MQTT_sessions.>" } } }
    { user: no_log, password: p, permissions: { publish: { deny: "$NMQ.log.forbidden" } } }
    { user: good, password: p }
  ] }
}
"#;

fn with_user(server: &NatsServer, user: &str, password: &str) -> StoreOptions {
    let mut options = options(server);
    options.nats.credentials = Credentials::UserPassword { user: user.to_owned(), password: password.to_owned() };
    options
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_without_jetstream_and_users_without_permissions_are_named() {
    let server = NatsServer::start_with(true, ACCOUNTS);
    let error = open_error(with_user(&server, "a", "a")).await;
    assert!(matches!(error, OpenError::JetStreamDisabledForAccount { .. }), "{error}");
    let error = open_error(with_user(&server, "no_api", "p")).await;
    assert!(matches!(&error, OpenError::Permission { what, .. } if what.contains("$JS.API")), "{error}");
    let error = open_error(with_user(&server, "no_inbox", "p")).await;
    assert!(matches!(&error, OpenError::Permission { what, .. } if what.contains("_INBOX")), "{error}");
    for (user, subject) in [("no_ack", "$JS.ACK"), ("no_advisories", "$JS.EVENT"), ("no_sessions", "$KV.MQTT_sessions")]
    {
        let error = open_error(with_user(&server, user, "p")).await;
        assert!(matches!(&error, OpenError::Permission { what, .. } if what.contains(subject)), "{error}");
        assert!(error.is_configuration());
    }
    let error = open_error(with_user(&server, "good", "wrong")).await;
    assert!(matches!(error, OpenError::Authorization { .. }), "{error}");
    assert!(error.is_configuration());
    Store::open(with_user(&server, "good", "p"), Collected::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_our_name_that_is_not_ours_is_left_alone() {
    let server = NatsServer::start();
    let client = plain(&server).await;
    api(&client, "STREAM.CREATE.MQTT_log", r#"{"name":"MQTT_log","subjects":["something.else"]}"#).await;
    let error = open_error(options(&server)).await;
    assert!(error.to_string().contains("something.else"), "{error}");
    assert!(error.is_configuration());
    api(&client, "STREAM.DELETE.MQTT_log", "").await;
    api(&client, "STREAM.CREATE.OTHER", r#"{"name":"OTHER","subjects":["$NMQ.log.>"]}"#).await;
    let error = open_error(options(&server)).await;
    assert!(matches!(error, OpenError::ForeignStream { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_server_is_waited_for_as_long_as_was_said() {
    let mut server = NatsServer::start();
    let mut options = options(&server);
    tokio::task::block_in_place(|| server.kill());
    options.connect_timeout = Some(Duration::from_millis(300));
    let error = open_error(options.clone()).await;
    assert!(matches!(error, OpenError::Unreachable { .. }), "{error}");
    assert!(!error.is_configuration());

    options.connect_timeout = None;
    let opening = tokio::spawn(Store::open(options, Collected::new()));
    tokio::task::block_in_place(|| server.restart());
    tokio::time::timeout(PATIENCE, opening).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_stores_that_start_at_once_agree() {
    let server = NatsServer::start();
    let mut opening = tokio::task::JoinSet::new();
    for _ in 0..10 {
        opening.spawn(Store::open(options(&server), Collected::new()));
    }
    while let Some(store) = opening.join_next().await {
        store.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_that_the_server_does_not_allow_fails_at_once_and_alone() {
    let server = NatsServer::start_with(true, ACCOUNTS);
    let store = Store::open(with_user(&server, "no_log", "p"), Collected::new()).await.unwrap();
    let put = |natural: &str| store.publisher().put(PutTarget::Log(log_subject(natural)), Vec::new(), "1".into(), None);
    let (allowed, denied, behind) = tokio::join!(put("allowed"), put("forbidden"), put("behind"));
    assert!(allowed.is_ok() && behind.is_ok());
    assert!(matches!(denied, Err(PutError::Rejected { code: 403, .. })), "{denied:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_with_less_room_than_configured_gets_smaller_streams() {
    let accounts =
        r#"accounts { S { jetstream: { max_file: 1GB, max_mem: 64MB }, users [ { user: s, password: p } ] } }"#;
    let server = NatsServer::start_with(true, accounts);
    let store = Store::open(with_user(&server, "s", "p"), Collected::new()).await.unwrap();
    store.publisher().put(PutTarget::Log(log_subject("a")), Vec::new(), "1".into(), None).await.unwrap();
    let client = async_nats::ConnectOptions::with_user_and_password("s".into(), "p".into());
    let client = client.connect(server.url()).await.unwrap();
    let log = api(&client, "STREAM.INFO.MQTT_log", "").await;
    assert_eq!(log["config"]["max_bytes"], 512 << 20, "half of what there is");
    assert_eq!(log["config"]["metadata"]["nats-mqtt.short"], "536870912 of 4294967296");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_two_servers_gets_two_replicas() {
    let servers = NatsServer::start_cluster(2);
    let store = Store::open(options(&servers[0]), Collected::new()).await.unwrap();
    store.publisher().put(PutTarget::Log(log_subject("a")), Vec::new(), "1".into(), None).await.unwrap();
    let client = plain(&servers[0]).await;
    let log = api(&client, "STREAM.INFO.MQTT_log", "").await;
    assert_eq!(log["config"]["num_replicas"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_whose_servers_have_less_room_than_configured_gets_smaller_streams() {
    let servers = NatsServer::start_cluster_with(2, "3GB");
    let store = Store::open(options(&servers[0]), Collected::new()).await.unwrap();
    store.publisher().put(PutTarget::Log(log_subject("a")), Vec::new(), "1".into(), None).await.unwrap();
    let client = plain(&servers[0]).await;
    let log = api(&client, "STREAM.INFO.MQTT_log", "").await;
    assert_eq!(log["config"]["num_replicas"], 2);
    assert_eq!(log["config"]["max_bytes"], 2_i64 << 30);
}
