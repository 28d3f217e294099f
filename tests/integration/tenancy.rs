//! Mode `jwt` with the tools of its operators: docs/tenancy.md as it stands, typed in, with a sidecar that has the configuration from there.

use mqtt_codec::{ReasonCode, Secret};

use crate::harness::{
    Client, NatsServer, Nsc, Options, Resolver, Sidecar, SidecarBuilder, Watch, eventually, msg, shown,
};
use crate::nsc::{TENANCY, typed};

/// The configuration of the documentation, with other lines in the place of some.
async fn sidecar(nsc: &Nsc, server: &NatsServer, instead: &[(&str, String)]) -> Sidecar {
    let block = TENANCY.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
    let mut text = block.expect("a configuration in docs/tenancy.md").replace("nats://127.0.0.1:4222", &server.url());
    for (line, new) in instead {
        assert!(text.contains(line), "{line}");
        text = text.replace(line, new);
    }
    for file in ["home.creds", "sys.creds", "mqtt.nk"] {
        text = text.replace(&format!("\"{file}\""), &format!("{:?}", nsc.file(file)));
    }
    std::fs::write(nsc.file("nats-mqtt.toml"), text).unwrap();
    SidecarBuilder::new("tenants", &["-c", nsc.file("nats-mqtt.toml").to_str().unwrap()]).start().await
}

/// A device with its JWT.
async fn device(sidecar: &Sidecar, nsc: &Nsc, account: &str, name: &str) -> Client {
    let mut options = Options::v5(name);
    options.connect.username = Some(name.into());
    options.connect.password = Some(Secret::from(nsc.user_jwt(account, name).await.as_bytes()));
    Client::open(sidecar.mqtt_port, options).await
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_do_what_their_role_says_and_are_put_out_by_a_push() {
    let Some((nsc, server)) = typed().await else { return };
    let sidecar = sidecar(&nsc, &server, &[]).await;
    let mut lamp = device(&sidecar, &nsc, "T1", "lamp").await;
    assert_eq!(lamp.connack.reason, ReasonCode::Success);
    assert_eq!(lamp.publish(msg("dev/lamp/state", "on").qos(1)).await, ReasonCode::Success);
    assert_eq!(lamp.publish(msg("dev/fan/state", "on").qos(1)).await, ReasonCode::NotAuthorized);
    assert_eq!(lamp.asks_for("cmd/#", 1).await, ReasonCode::NotAuthorized);
    assert_eq!(lamp.asks_for("cmd/lamp/+", 1).await, ReasonCode::GrantedQoS1);
    // A new device needs no push, and no restart.
    nsc.user("T1", "device", "fan").await;
    assert_eq!(device(&sidecar, &nsc, "T1", "fan").await.connack.reason, ReasonCode::Success);
    // A backend is not for MQTT without a bearer's JWT.
    assert_eq!(device(&sidecar, &nsc, "T1", "backend").await.connack.reason, ReasonCode::NotAuthorized);
    nsc.nsc(&["revocations", "add-user", "-a", "T1", "-n", "lamp"]).await;
    assert_eq!(nsc.push(&server, &["-a", "T1"]).await.code, 0);
    assert_eq!(lamp.closed().await, Some(ReasonCode::AdministrativeAction));
    assert_eq!(device(&sidecar, &nsc, "T1", "lamp").await.connack.reason, ReasonCode::NotAuthorized);
    assert_eq!(device(&sidecar, &nsc, "T2", "lamp").await.connack.reason, ReasonCode::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_resolver_is_the_file_that_nats_server_reads() {
    let Some(nsc) = Nsc::acme().await else { return };
    for account in ["MQTT", "T1"] {
        nsc.account(account).await;
    }
    nsc.role("MQTT", "sidecar", "generate", &["--deny-pub", "closed.>"]).await;
    nsc.user("MQTT", "sidecar", "sidecar").await;
    nsc.nsc(&["generate", "creds", "-a", "MQTT", "-n", "sidecar", "-o", "home.creds"]).await;
    nsc.types("nsc generate nkey --account | grep ^SA > mqtt.nk").await;
    nsc.role("T1", "sidecar", "mqtt.nk", &["--deny-pub", "closed.>"]).await;
    nsc.role("T1", "device", "generate", &["--bearer", "--conn-type", "MQTT"]).await;
    nsc.user("T1", "device", "lamp").await;
    let accounts = nsc.file("resolver.conf");
    std::fs::write(&accounts, nsc.resolver(Resolver::Memory).await).unwrap();
    let server = NatsServer::start_with(true, &std::fs::read_to_string(&accounts).unwrap());
    let operator = nsc.file(".local/share/nats/nsc/stores/ACME/ACME.jwt");
    let files =
        [("system_creds = \"sys.creds\"", format!("operator = {operator:?}")), ("\"system\"", format!("{accounts:?}"))];
    let sidecar = sidecar(&nsc, &server, &files).await;
    let mut lamp = device(&sidecar, &nsc, "T1", "lamp").await;
    assert_eq!(lamp.connack.reason, ReasonCode::Success);
    nsc.nsc(&["revocations", "add-user", "-a", "T1", "-n", "lamp"]).await;
    std::fs::write(nsc.file("new"), nsc.resolver(Resolver::Memory).await).unwrap();
    std::fs::rename(nsc.file("new"), &accounts).unwrap();
    assert_eq!(lamp.closed().await, Some(ReasonCode::AdministrativeAction));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_changes_changes_what_its_users_have() {
    let Some((nsc, server)) = typed().await else { return };
    let sidecar = sidecar(&nsc, &server, &[]).await;
    let mut lamp = device(&sidecar, &nsc, "T1", "lamp").await;
    assert_eq!(lamp.publish(msg("dev/all/x", "y").qos(1)).await, ReasonCode::NotAuthorized);
    let key = nsc.role_key("T1", "device").await;
    nsc.nsc(&["edit", "signing-key", "-a", "T1", "--sk", &key, "--role", "device", "--allow-pub", "dev.all.>"]).await;
    assert_eq!(nsc.push(&server, &["-a", "T1"]).await.code, 0);
    eventually("it may publish more", async || lamp.publish(msg("dev/all/x", "y").qos(1)).await == ReasonCode::Success)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_id_in_two_tenants_is_two_devices() {
    let Some((nsc, server)) = typed().await else { return };
    let sidecar = sidecar(&nsc, &server, &[]).await;
    let (mut lamps, mut heard) = (Vec::new(), Vec::new());
    for account in ["T1", "T2"] {
        let backend = nsc.client(&server, &nsc.file(&format!("{account}.creds"))).await;
        heard.push((Watch::new(&backend, "dev.>").await, backend));
        let mut lamp = device(&sidecar, &nsc, account, "lamp").await;
        lamp.subscribe("cmd/lamp/#", 1).await;
        lamps.push(lamp);
    }
    // Neither has taken the other over, and each is in its own account, both ways.
    for (lamp, account) in lamps.iter_mut().zip(["T1", "T2"]) {
        lamp.publish(msg("dev/lamp/state", account).qos(1).retained()).await;
    }
    for ((watch, backend), account) in heard.iter_mut().zip(["T1", "T2"]) {
        assert_eq!(&watch.next().await.payload[..], account.as_bytes());
        backend.publish("cmd.lamp.light", account.into()).await.unwrap();
        backend.publish("cmd.lamp.last", "last".into()).await.unwrap();
    }
    for (lamp, account) in lamps.iter_mut().zip(["T1", "T2"]) {
        let received: Vec<String> = lamp.receive_until("last").await.iter().map(shown).collect();
        assert_eq!(received, [format!("cmd/lamp/light {account} qos1")]);
    }
}
