//! Mode `jwt` with the tools of its operators: docs/tenancy.md as it stands, typed in, with a sidecar that has the configuration from there.

use std::fmt::Display;
use std::time::Duration;

use async_nats::{HeaderMap, Subscriber};
use futures_util::StreamExt as _;
use mqtt_codec::ReasonCode;

use crate::harness::{
    Client, NatsServer, Nsc, Options, PATIENCE, Resolver, Sidecar, SidecarBuilder, Watch, eventually, msg, settle,
    shown,
};
use crate::nsc::{TENANCY, block_of, typed};
use crate::requests::{answer_to, ask, has_nothing, request};

/// Commands of a backend to a group.
const COMMANDS: usize = 20;

/// The configuration of the documentation, with other lines in the place of some.
async fn sidecar(nsc: &Nsc, server: &NatsServer, instead: &[(String, String)]) -> Sidecar {
    let block = TENANCY.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
    let mut text = block.expect("a configuration in docs/tenancy.md").replace("nats://127.0.0.1:4222", &server.url());
    for (line, new) in instead {
        assert!(text.contains(line), "{line}");
        text = text.replace(line, new);
    }
    text = text.replace("/home/acme", nsc.file("").to_str().unwrap().trim_end_matches('/'));
    text = text.replace("\"mqtt.nk\"", &format!("{:?}", nsc.file("mqtt.nk")));
    std::fs::write(nsc.file("nats-mqtt.toml"), text).unwrap();
    SidecarBuilder::new("tenants", &["-c", nsc.file("nats-mqtt.toml").to_str().unwrap()]).start().await
}

/// A device with its JWT.
async fn device(sidecar: &Sidecar, nsc: &Nsc, account: &str, name: &str) -> Client {
    let jwt = nsc.user_jwt(account, name).await;
    Client::open(sidecar.mqtt_port, Options::v5(name).password(&jwt)).await
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
    nsc.types("nsc generate nkey --account | grep ^SA > mqtt.nk").await;
    nsc.role("T1", "sidecar", "mqtt.nk", &["--deny-pub", "closed.>"]).await;
    nsc.role("T1", "device", "generate", &["--bearer", "--conn-type", "MQTT"]).await;
    nsc.user("T1", "device", "lamp").await;
    let accounts = nsc.file("resolver.conf");
    std::fs::write(&accounts, nsc.resolver(Resolver::Memory).await).unwrap();
    let server = NatsServer::start_with(true, &std::fs::read_to_string(&accounts).unwrap());
    let operator = nsc.file(".local/share/nats/nsc/stores/ACME/ACME.jwt");
    let system = "/home/acme/.local/share/nats/nsc/keys/creds/ACME/SYS/sys.creds";
    let files = [
        (format!("system_creds = {system:?}"), format!("operator = {operator:?}")),
        ("\"system\"".to_owned(), format!("{accounts:?}")),
    ];
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

/// A tenant with a backend, and devices that all have the same names in the other one.
struct Tenant {
    account: &'static str,
    backend: async_nats::Client,
    /// All that a backend sees.
    everything: Subscriber,
    lamp: Client,
    members: [Client; 2],
}

impl Tenant {
    async fn new(nsc: &Nsc, server: &NatsServer, sidecar: &Sidecar, account: &'static str) -> Self {
        let backend = nsc.client(server, &nsc.file(&format!("{account}.creds"))).await;
        let everything = backend.subscribe(">").await.unwrap();
        settle(&backend).await;
        let lamp = lamp_with(sidecar, nsc, account, "lamp", "cmd/lamp/#").await;
        let shared = "$share/g/cmd/lamp/light";
        let one = lamp_with(sidecar, nsc, account, "member-1", shared).await;
        let members = [one, lamp_with(sidecar, nsc, account, "member-2", shared).await];
        Self { account, backend, everything, lamp, members }
    }

    fn text(&self, what: impl Display) -> String {
        format!("{what} of {}", self.account)
    }

    /// Its lamp retains what nobody but its backend reads, and whoever subscribes gets what the backend has retained.
    async fn retains(&mut self, nsc: &Nsc, server: &NatsServer, sidecar: &Sidecar) {
        let state = msg("dev/lamp/state", self.text("on")).qos(1).retained();
        assert_eq!(self.lamp.publish(state).await, ReasonCode::Success);
        let creds = nsc.file(&format!("{}.creds", self.account));
        let read = nsc.nats(server, &creds, &["kv", "get", "--raw", "MQTT_retained", "dev.lamp.state"]).await;
        assert_eq!(read.stdout.trim_end(), self.text("on"), "{read:?}");
        let put = nsc.nats(server, &creds, &["kv", "put", "MQTT_retained", "cmd.lamp.mode", &self.text("dim")]).await;
        assert_eq!(put.code, 0, "{put:?}");
        assert_eq!(self.lamp.receive_shown().await, format!("cmd/lamp/mode {} qos1", self.text("dim")));
        let mut late = lamp_with(sidecar, nsc, self.account, "late", "cmd/lamp/+").await;
        assert_eq!(late.receive_shown().await, format!("cmd/lamp/mode {} qos1 retain", self.text("dim")));
        has_nothing(&mut late).await;
        late.disconnect(ReasonCode::Success).await;
    }

    /// Commands of the backend go to its lamp, and each to one member of its group.
    async fn shares(&mut self) {
        for number in 0..COMMANDS {
            self.backend.publish("cmd.lamp.light", self.text(number).into()).await.unwrap();
        }
        let wanted: Vec<String> =
            (0..COMMANDS).map(|number| format!("cmd/lamp/light {} qos1", self.text(number))).collect();
        for command in &wanted {
            assert_eq!(&self.lamp.receive_shown().await, command);
        }
        let [one, other] = &mut self.members;
        let mut shared = Vec::new();
        while shared.len() < COMMANDS {
            shared.push(tokio::select! { message = one.receive() => shown(&message), message = other.receive() => shown(&message) });
        }
        shared.sort_by_key(|command| wanted.iter().position(|wanted| wanted == command));
        assert_eq!(shared, wanted);
        for member in &mut self.members {
            has_nothing(member).await;
        }
    }

    /// The backend asks the lamp, and the lamp asks the backend.
    async fn asks(&mut self) {
        let answer = ask(&self.backend, "cmd.lamp.status", HeaderMap::new(), &self.text("status?"));
        let asked = self.lamp.receive().await;
        assert_eq!(asked.payload, self.text("status?"));
        self.lamp.publish(answer_to(&asked, &self.text("fine"), 1)).await;
        assert_eq!(answer.await.unwrap().payload, self.text("fine"));
        let mut service = Watch::new(&self.backend, "dev.lamp.ask").await;
        self.lamp.publish(request("dev/lamp/ask", "cmd/lamp/answer", b"7", 1)).await;
        let reply = service.next().await.reply.expect("somewhere to answer");
        self.backend.publish(reply, self.text("ten").into()).await.unwrap();
        assert_eq!(self.lamp.receive_shown().await, format!("cmd/lamp/answer {} qos1", self.text("ten")));
    }

    /// Nothing of the other one has come, to a device or to the backend.
    async fn has_nothing_else(&mut self, other: &str) {
        has_nothing(&mut self.lamp).await;
        self.backend.publish("the.end", "".into()).await.unwrap();
        let mut seen = 0;
        loop {
            let next = tokio::time::timeout(PATIENCE, self.everything.next()).await;
            let message = next.expect("the end in time").expect("the subscription goes on");
            if message.subject.as_str() == "the.end" {
                break;
            }
            let text = String::from_utf8_lossy(&message.payload).into_owned();
            assert!(!text.contains(&format!("of {other}")), "{}: {} {text}", self.account, message.subject);
            seen += usize::from(text.ends_with(&format!("of {}", self.account)));
        }
        assert!(seen > COMMANDS, "{seen}");
    }
}

/// A lamp with a session that stays, and a will.
async fn lamp_with(sidecar: &Sidecar, nsc: &Nsc, account: &str, client_id: &str, filter: &str) -> Client {
    let jwt = nsc.user_jwt(account, "lamp").await;
    let options = Options::v5(client_id)
        .password(&jwt)
        .durable(60)
        .will(msg("dev/lamp/gone", format!("gone of {account}")).qos(1));
    let mut lamp = sidecar.connect(options).await;
    lamp.subscribe(filter, 1).await;
    lamp
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tenants_have_the_same_of_everything_and_one_loses_its_lamp() {
    let Some((nsc, server)) = typed().await else { return };
    let sidecar = sidecar(&nsc, &server, &[]).await;
    let mut t1 = Tenant::new(&nsc, &server, &sidecar, "T1").await;
    let mut t2 = Tenant::new(&nsc, &server, &sidecar, "T2").await;
    tokio::join!(t1.shares(), t2.shares());
    tokio::join!(t1.retains(&nsc, &server, &sidecar), t2.retains(&nsc, &server, &sidecar));
    tokio::join!(t1.asks(), t2.asks());
    tokio::join!(t1.has_nothing_else("T2"), t2.has_nothing_else("T1"));

    let mut wills = Watch::new(&t1.backend, "dev.lamp.gone").await;
    let refused = "mqtt_auth_refused_total{step=\"revoked\"}";
    assert_eq!(sidecar.metric(refused).await, 0.0);
    nsc.types(&block_of("nsc revocations", &server)).await;
    let put_out = tokio::time::timeout(Duration::from_secs(1), t1.lamp.closed()).await;
    assert_eq!(put_out.expect("within a second"), Some(ReasonCode::AdministrativeAction));
    assert_eq!(&wills.next().await.payload[..], b"gone of T1");
    assert_eq!(device(&sidecar, &nsc, "T1", "lamp").await.connack.reason, ReasonCode::NotAuthorized);
    assert_eq!(sidecar.metric(refused).await, 1.0);
    t2.lamp.ping().await;
    has_nothing(&mut t2.lamp).await;
}
