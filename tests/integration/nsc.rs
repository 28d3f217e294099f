//! Operators and accounts as nsc makes them, beside nats-server alone: the chain that mode `jwt` reads, and what nats-server itself says of
//! each link. Its own listener for MQTT shows what a device's JWT is worth there.

use mqtt_codec::{ReasonCode, Secret};

use crate::harness::{Client, NatsServer, Nsc, Options, Resolver, SidecarBuilder, Watch, eventually, msg};

pub(crate) const TENANCY: &str = include_str!("../../docs/tenancy.md");
const OPERATIONS: &str = include_str!("../../docs/operations.md");

/// nats-server's own MQTT, on a free port.
const OWN_MQTT: &str = "mqtt { listen: \"127.0.0.1:-1\" }";

/// The block of the documentation in which a command is, with the address of this server.
pub(crate) fn block_of(command: &str, server: &NatsServer) -> String {
    let blocks = TENANCY.split("```sh\n").skip(1).filter_map(|block| block.split("```").next());
    let block = blocks.into_iter().find(|block| block.contains(command)).expect("a block of docs/tenancy.md");
    block.replace("nats://127.0.0.1:4222", &server.url())
}

/// What a CONNECT with a JWT is answered by nats-server itself.
async fn device(server: &NatsServer, jwt: &str) -> Client {
    let mut options = Options::v311("lamp");
    options.connect.username = Some("lamp".into());
    options.connect.password = Some(Secret::from(jwt.as_bytes()));
    Client::open(server.own_mqtt(), options).await
}

/// Two tenants on a full resolver, typed in as the documentation has it.
pub(crate) async fn typed() -> Option<(Nsc, NatsServer)> {
    let nsc = Nsc::empty()?;
    let mut server = NatsServer::prepared(true, "");
    nsc.types(&block_of("nsc add operator", &server)).await;
    let resolver = std::fs::read_to_string(nsc.file("resolver.conf")).unwrap();
    server.configure(true, &format!("{OWN_MQTT}\n{resolver}"));
    server.restart();
    for block in ["nsc generate nkey", "--role device", "--role backend"] {
        nsc.types(&block_of(block, &server)).await;
    }
    Some((nsc, server))
}

#[test]
fn two_tenants_are_ten_commands() {
    let section = TENANCY.split("\n## ").find(|section| section.starts_with("From nothing")).unwrap();
    let blocks = section.split("```sh\n").skip(1).filter_map(|block| block.split("```").next());
    let commands = blocks.flat_map(str::lines).filter(|line| line.trim_start_matches([' ', '(']).contains("nsc "));
    let made: Vec<&str> = commands.filter(|line| !line.contains("nsc describe")).collect();
    assert_eq!(made.len(), 10, "{made:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_documentation_says_makes_two_tenants_and_puts_a_device_out() {
    let Some((nsc, server)) = typed().await else { return };
    // The resolver has what nsc has.
    let system = nsc.client(&server, &nsc.creds("SYS", "sys")).await;
    for account in ["MQTT", "T1", "T2"] {
        let lookup = format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.LOOKUP", nsc.account_id(account).await);
        let found = system.request(lookup, "".into()).await.unwrap().payload;
        assert_eq!(String::from_utf8_lossy(&found), nsc.account_jwt(account).await, "{account}");
    }
    // A device publishes where its name lets it; the other tenant hears nothing of it.
    let backend = |account: &str| nsc.file(&format!("{account}.creds"));
    let (t1, t2) = (nsc.client(&server, &backend("T1")).await, nsc.client(&server, &backend("T2")).await);
    let (mut first, mut second) = (Watch::new(&t1, "dev.>").await, Watch::new(&t2, "dev.>").await);
    let mut lamp = device(&server, &nsc.user_jwt("T1", "lamp").await).await;
    assert_eq!(lamp.connack.reason, ReasonCode::Success);
    lamp.publish(msg("dev/other/state", "denied").qos(1)).await;
    lamp.publish(msg("dev/lamp/state", "on").qos(1)).await;
    let heard = first.next().await;
    assert_eq!((heard.subject.as_str(), &heard.payload[..]), ("dev.lamp.state", &b"on"[..]));
    let said = nsc.nats(&server, &backend("T2"), &["pub", "dev.lamp.state", "of T2"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(&second.next().await.payload[..], b"of T2");
    // What is the sidecars' alone is denied to a backend.
    let said = nsc.nats(&server, &backend("T1"), &["pub", "$NMQ.log.x", "no"]).await;
    assert!(said.code != 0 && said.stderr.contains("Permissions Violation"), "{said:?}");
    // A device that is connected is put out, and does not come back; its namesake does.
    nsc.types(&block_of("nsc revocations", &server)).await;
    lamp.closed().await;
    let refused = device(&server, &nsc.user_jwt("T1", "lamp").await).await.connack.reason;
    assert_eq!(refused, ReasonCode::NotAuthorized);
    assert_eq!(device(&server, &nsc.user_jwt("T2", "lamp").await).await.connack.reason, ReasonCode::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_of_the_documentation_is_enough_for_a_sidecar() {
    let Some((nsc, server)) = typed().await else { return };
    let needed = OPERATIONS.lines().filter(|line| line.starts_with("| publish |") || line.starts_with("| subscribe |"));
    for subject in needed.flat_map(|line| line.split('`').skip(1).step_by(2)) {
        assert!(TENANCY.contains(subject), "docs/tenancy.md has to grant, or to deny to others: {subject}");
    }
    nsc.user("T1", "mqtt.nk", "probe").await;
    let creds = nsc.creds("T1", "probe");
    let sidecar = SidecarBuilder::of(&server, "scoped").set("NATS__CREDS", creds.to_str().unwrap()).start().await;
    let backend = nsc.client(&server, &nsc.file("T1.creds")).await;
    let mut heard = Watch::new(&backend, "dev.>").await;
    let mut lamp = sidecar.connect(Options::v5("lamp").durable(60)).await;
    lamp.subscribe("cmd/lamp/#", 1).await;
    lamp.publish(msg("dev/lamp/state", "on").qos(2).retained()).await;
    assert_eq!(&heard.next().await.payload[..], b"on");
    backend.publish("cmd.lamp.light", "off".into()).await.unwrap();
    assert_eq!(lamp.receive_shown().await, "cmd/lamp/light off qos1");
    assert!(!sidecar.log().contains("ermissions"), "{}", sidecar.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_reaches_a_memory_resolver_with_the_configuration_and_by_no_push() {
    let Some(nsc) = Nsc::acme().await else { return };
    nsc.account("T1").await;
    nsc.role("T1", "device", "generate", &["--bearer", "--conn-type", "MQTT"]).await;
    nsc.role("T1", "backend", "generate", &["--deny-pub", "closed.>"]).await;
    nsc.user("T1", "device", "lamp").await;
    nsc.user("T1", "backend", "backend").await;
    let configuration = async || format!("{OWN_MQTT}\n{}", nsc.resolver(Resolver::Memory).await);
    let server = NatsServer::start_with(true, &configuration().await);
    let jwt = nsc.user_jwt("T1", "lamp").await;
    let mut lamp = device(&server, &jwt).await;
    assert_eq!(lamp.connack.reason, ReasonCode::Success);
    // Devices are not for the port of NATS.
    let said = nsc.nats(&server, &nsc.creds("T1", "lamp"), &["pub", "x", "y"]).await;
    assert!(said.code != 0 && said.stderr.contains("Authorization Violation"), "{said:?}");
    nsc.nsc(&["revocations", "add-user", "-a", "T1", "-n", "lamp"]).await;
    assert_ne!(nsc.push(&server, &["-a", "T1"]).await.code, 0);
    lamp.ping().await;
    server.configure(true, &configuration().await);
    server.reload();
    lamp.closed().await;
    assert_eq!(device(&server, &jwt).await.connack.reason, ReasonCode::NotAuthorized);
    eventually("a backend gets in", async || {
        nsc.nats(&server, &nsc.creds("T1", "backend"), &["pub", "x", "y"]).await.code == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_resolver_knows_who_was_pushed_until_they_are_removed() {
    let Some(nsc) = Nsc::acme().await else { return };
    nsc.account("T1").await;
    nsc.role("T1", "backend", "generate", &["--deny-pub", "closed.>"]).await;
    nsc.user("T1", "backend", "backend").await;
    let removable = nsc.resolver(Resolver::Full).await.replace("allow_delete: false", "allow_delete: true");
    let server = NatsServer::start_with(true, &removable);
    let publishes = async || {
        let said = nsc.nats(&server, &nsc.creds("T1", "backend"), &["pub", "x", "y"]).await;
        assert!(said.code == 0 || said.stderr.contains("Authorization Violation"), "{said:?}");
        said.code == 0
    };
    assert!(!publishes().await);
    for (what, then) in [("-a", true), ("-R", false)] {
        let pushed = nsc.push(&server, &[what, "T1"]).await;
        assert_eq!(pushed.code, 0, "{pushed:?}");
        assert_eq!(publishes().await, then, "{what}");
    }
}
