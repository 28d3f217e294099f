//! Mode `jwt` beside the other resolvers of nats-server: MEMORY, whose accounts stand in its configuration, and a cache beside a full
//! one on another server; and a folder that goes back. (The full one alone is in `auth_jwt`.)

use std::path::PathBuf;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mqtt_codec::ReasonCode;
use nkeys::KeyPair;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::auth_jwt::{Site, creds, device, device_of, id_of, now_s, tenant, user_of, world};
use crate::harness::cluster::Cluster;
use crate::harness::{
    Client, NatsServer, Options, PATIENCE, PROGRAM, Sidecar, SidecarBuilder, eventually, js_api, msg, run,
};
use crate::mint::{World, sign};

/// What an operator and its sidecars need to know, in files.
struct Operator {
    dir: TempDir,
    system: KeyPair,
    /// One text for as long as it lives: nats-server does not reload a configuration with another one.
    jwt: String,
}

impl Operator {
    fn new() -> Self {
        let jwt = world(&json!({})).operator_jwt();
        let operator = Self { dir: TempDir::new().unwrap(), system: KeyPair::new_account(), jwt };
        let (user, jwt) = user_of(&world(&json!({})).account);
        operator.file("home.creds", &creds(&user, &jwt));
        let (user, jwt) = user_of(&operator.system);
        operator.file("sys.creds", &creds(&user, &jwt));
        operator.file("operator.jwt", &operator.jwt);
        operator.file("tenant.nk", &tenant().account_signing.seed().unwrap());
        operator
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Lines of nats-server, with these accounts besides its own and the system's.
    fn server(&self, resolver: &str, accounts: &[World]) -> String {
        let home = world(&json!({}));
        let mut claims = World::numbered(0, 0, now_s()).account_claims;
        claims["sub"] = json!(self.system.public_key());
        claims["name"] = json!("SYS");
        let mut preload = vec![(self.system.public_key(), sign(&claims, &home.operator))];
        preload.push((home.account.public_key(), home.account_jwt()));
        preload.extend(accounts.iter().map(|world| (world.account.public_key(), world.account_jwt())));
        let preload: String = preload.iter().map(|(key, jwt)| format!("  {key}: {jwt}\n")).collect();
        format!(
            "operator: {}\nsystem_account: {}\n{resolver}\nresolver_preload: {{\n{preload}}}\n",
            self.jwt,
            self.system.public_key()
        )
    }

    async fn sidecar(&self, name: &'static str, nats: &NatsServer, of_jwt: &str) -> Sidecar {
        let file = |name: &str| self.dir.path().join(name);
        let config = format!(
            "[auth]\nmode = \"jwt\"\n[auth.jwt]\nsigning_keys = [{:?}]\n{of_jwt}\n[jetstream]\nreplicas = 1\n",
            file("tenant.nk")
        );
        let (config, creds) = (self.file("nats-mqtt.toml", &config), file("home.creds"));
        let args = ["--nats", &nats.url(), "--creds", creds.to_str().unwrap(), "-c", config.to_str().unwrap()];
        SidecarBuilder::new(name, &args).start().await
    }
}

/// A device of the tenant, and the NKey that it has.
fn device_of_tenant(name: &str) -> (Options, String) {
    let (jwt, key) = device_of(tenant(), name);
    (Options::v5(name).password(&jwt), key)
}

fn revoking(key: &str) -> World {
    let revoked: Value = json!({ "iat": now_s(), "nats": { "revocations": { key: now_s() } } });
    tenant().over_account(&revoked)
}

/// Gets in, hears itself, and is out when it is revoked.
async fn lives_and_is_revoked(sidecar: &Sidecar, revoke: impl AsyncFnOnce(World)) {
    let ((options, key), (other, _)) = (device_of_tenant("lamp"), device_of_tenant("pump"));
    let (mut lamp, mut pump) = (sidecar.connect(options.clone()).await, sidecar.connect(other).await);
    lamp.subscribe("a/#", 1).await;
    assert_eq!(lamp.publish(msg("a/b", "1").qos(1)).await, ReasonCode::Success);
    assert_eq!(lamp.receive_shown().await, "a/b 1 qos1");
    revoke(revoking(&key)).await;
    assert_eq!(lamp.closed().await, Some(ReasonCode::AdministrativeAction));
    assert_eq!(Client::open(sidecar.mqtt_port, options).await.connack.reason, ReasonCode::NotAuthorized);
    assert_eq!(sidecar.metric("mqtt_auth_refused_total{step=\"revoked\"}").await, 1.0);
    pump.ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_of_a_memory_resolver_are_read_from_its_configuration() {
    let operator = Operator::new();
    let nats = NatsServer::start_with(true, &operator.server("resolver: MEMORY", &[tenant()]));
    let (jwt, conf) = (operator.dir.path().join("operator.jwt"), nats.dir().join("nats.conf"));
    let sidecar = operator.sidecar("memory", &nats, &format!("operator = {jwt:?}\nresolver = {conf:?}")).await;
    lives_and_is_revoked(&sidecar, async |revoked| {
        nats.configure(true, &operator.server("resolver: MEMORY", &[revoked]));
        nats.reload();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_are_looked_up_by_a_cache_at_the_full_resolver_behind_it() {
    let operator = Operator::new();
    let resolver = |number: usize| match number {
        0 => "resolver { type: full, dir: jwt, allow_delete: true, timeout: \"1.9s\" }",
        _ => "resolver { type: cache, dir: jwt, ttl: \"1h\", timeout: \"1.9s\" }",
    };
    let cluster = Cluster::start_with(2, |number| operator.server(resolver(number), &[]));
    let creds = operator.dir.path().join("sys.creds");
    let options = async_nats::ConnectOptions::with_credentials_file(&creds).await.unwrap();
    let system = options.connect(cluster.servers[0].url()).await.unwrap();
    let push = async |world: World| {
        let answer = system.request("$SYS.REQ.CLAIMS.UPDATE", world.account_jwt().into()).await.unwrap();
        assert!(!String::from_utf8_lossy(&answer.payload).contains("error"), "{:?}", answer.payload);
    };
    push(tenant()).await;
    // It knows the server with the cache alone.
    let sidecar = operator.sidecar("cache", &cluster.servers[1], &format!("system_creds = {creds:?}")).await;
    lives_and_is_revoked(&sidecar, push).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_which_accounts_are_served_and_by_which_key() {
    let operator = Operator::new();
    let other = || World::numbered(0, 2, now_s()).over_account(&json!({ "name": "T2" }));
    let full = "resolver { type: full, dir: jwt, allow_delete: true, timeout: \"1.9s\" }";
    let nats = NatsServer::start_with(true, &operator.server(full, &[tenant(), other()]));
    let (tenant, other) = (tenant(), other());
    let (key, idle) = (operator.dir.path().join("tenant.nk"), KeyPair::new_account());
    let idle_file = operator.file("idle.nk", &idle.seed().unwrap());
    let check = async |of_jwt: &str| {
        let config = format!("[auth]\nmode = \"jwt\"\n[auth.jwt]\nsigning_keys = [{key:?}, {idle_file:?}]\n{of_jwt}\n");
        let (config, creds) = (operator.file("check.toml", &config), operator.dir.path().join("home.creds"));
        let mut check = Command::new(PROGRAM);
        check.args(["check", "--nats", &nats.url(), "--creds"]).arg(creds).arg("-c").arg(config);
        run(check, PATIENCE).await
    };
    let file = |name: &str| operator.dir.path().join(name);
    let of_server = format!("system_creds = {:?}", file("sys.creds"));
    let of_file = format!("operator = {:?}\nresolver = {:?}", file("operator.jwt"), nats.dir().join("nats.conf"));
    for (of_jwt, has_system) in [(of_server, true), (of_file, false)] {
        let checked = check(&of_jwt).await;
        assert_eq!(checked.code, 0, "{checked:?}");
        let signing = tenant.account_signing.public_key();
        for line in [
            format!("account \"T1\" ({}): ok (JetStream, messages up to ", tenant.account.public_key()),
            format!(", by signing key {signing})"),
            format!("account \"T2\" ({}): not served: there is no way into account", other.account.public_key()),
            format!("signing key {} ({}) leads into no account", idle.public_key(), idle_file.display()),
        ] {
            assert!(checked.stdout.contains(&line), "{line}\n{}", checked.stdout);
        }
        // What has no devices: our own, and where it is known the system's.
        assert!(!checked.stdout.contains(&world(&json!({})).account.public_key()), "{}", checked.stdout);
        assert_eq!(!checked.stdout.contains(&operator.system.public_key()), has_system, "{}", checked.stdout);
    }
    // Whoever has put credentials there means it to be served.
    let (user, jwt) = user_of(&tenant.account);
    let folder = file("creds");
    std::fs::create_dir(&folder).unwrap();
    operator.file("creds/T2.creds", &creds(&user, &jwt));
    let checked = check(&format!("system_creds = {:?}\ncreds = {folder:?}", file("sys.creds"))).await;
    assert_eq!(checked.code, 78, "{checked:?}");
    let line = format!("account \"T2\" ({}): its devices would be refused: ", other.account.public_key());
    assert!(checked.stdout.contains(&line), "{}", checked.stdout);
}

/// The JWT of an account that was used is remembered by all sidecars: of what lies in a folder, an older one does not come back.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_account_jwt_does_not_count_after_a_restart() {
    let site = Site::start().await;
    let (folder, config) = (site.dir.path().join("accounts"), site.dir.path().join("folder.toml"));
    std::fs::create_dir(&folder).unwrap();
    let operator = site.dir.path().join("O.jwt");
    std::fs::write(&operator, world(&json!({})).operator_jwt()).unwrap();
    let text = format!("[auth]\nmode = \"jwt\"\n[auth.jwt]\noperator = {operator:?}\nresolver = {folder:?}\n");
    std::fs::write(&config, text).unwrap();
    let put = |world: &World| {
        let (new, file) = (folder.join("new"), folder.join("account.jwt"));
        std::fs::write(&new, world.account_jwt()).unwrap();
        std::fs::rename(new, file).unwrap();
    };
    let issued = |iat: i64| world(&json!({ "iat": iat }));
    let (jwt, seed) = device("lamp", &json!({}));
    let options = || Options::v5("lamp").password(&jwt);
    let home_creds = site.dir.path().join("home.creds");
    let args = ["--nats", &site.nats.url(), "--creds", home_creds.to_str().unwrap(), "-c", config.to_str().unwrap()];
    let began = now_s();
    put(&issued(began - 100));
    let mut sidecar = SidecarBuilder::new("folder", &args).start().await;
    let mut lamp = sidecar.connect(options()).await;
    let home = async_nats::ConnectOptions::with_credentials_file(&home_creds).await.unwrap();
    let home = home.connect(site.nats.url()).await.unwrap();
    let id = world(&json!({})).account.public_key();
    let kept = async |key: &str| {
        let last = json!({ "last_by_subj": format!("$KV.MQTT_accounts.{key}") });
        let answer = js_api(&home, "STREAM.MSG.GET.KV_MQTT_accounts", &last).await;
        let entry = STANDARD.decode(answer["message"]["data"].as_str()?).unwrap();
        Some(serde_json::from_slice::<Value>(&entry).unwrap())
    };
    let iat = async || {
        let entry = kept(&format!("{id}.jwt")).await?;
        assert_eq!(entry["sha256"].as_str().unwrap().len(), 64);
        entry["iat"].as_i64()
    };
    eventually("it is written down", async || iat().await == Some(began - 100)).await;
    // It revokes the only one who is connected, and nobody comes after that.
    put(&issued(began - 50).over_account(&json!({ "nats": { "revocations": { id_of(&seed): began } } })));
    assert_eq!(lamp.closed().await, Some(ReasonCode::AdministrativeAction));
    eventually("the newer one is written down", async || iat().await == Some(began - 50)).await;
    sidecar.stop().await;
    put(&issued(began - 100));
    sidecar.restart().await;
    let refused = async |sidecar: &Sidecar| Client::open(sidecar.mqtt_port, options()).await.connack.reason;
    for _ in 0..2 {
        assert_eq!(refused(&sidecar).await, ReasonCode::NotAuthorized);
    }
    assert_eq!(sidecar.metric("mqtt_auth_refused_total{step=\"account_jwt\"}").await, 2.0);
    assert_eq!(sidecar.log().matches("an account JWT does not count").count(), 1);
    put(&issued(began));
    eventually("a newer one counts", async || refused(&sidecar).await == ReasonCode::Success).await;
    // It is no account that is held open.
    assert!(kept(&id).await.is_none());
}
