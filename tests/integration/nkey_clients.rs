//! The clients of `examples/nkey`, as they stand there: each gets in by the key of a user of mode `file`, and of one of mode `jwt`
//! who is no bearer, and by no other key. Skipped, with a line that says so, is the one for Node.js where that or
//! MQTT.js is missing; `make tools` fetches MQTT.js.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use nkeys::KeyPair;
use serde_json::json;
use tempfile::TempDir;

use crate::auth_jwt::{creds, device, world};
use crate::harness::nats::find_program;
use crate::harness::{NatsServer, PATIENCE, Sidecar, SidecarBuilder, Watch, run};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/nkey");

/// A sidecar in each mode, and users of them in files.
struct Site {
    file: Sidecar,
    jwt: Sidecar,
    nats: NatsServer,
    dir: TempDir,
}

impl Site {
    async fn start() -> Self {
        let (dir, world) = (TempDir::with_prefix("nats-mqtt-nkey-").unwrap(), world(&json!({})));
        let put = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let account = format!("{} {{ jetstream: enabled, users: [ {{ user: us }} ] }}", world.account.public_key());
        let nats = NatsServer::start_with(true, &format!("accounts {{ {account} }}\nno_auth_user: us\n"));
        let start = async |mode: &str, text: String| {
            let config = put(&format!("{mode}.toml"), &format!("[auth]\nmode = {mode:?}\n{text}"));
            SidecarBuilder::new(mode, &["--nats", &nats.url(), "-c", config.to_str().unwrap()]).start().await
        };
        let [key, other] = [KeyPair::new_user(), KeyPair::new_user()];
        let file = start("file", format!("[[users]]\nname = \"lamp\"\nnkey = {:?}\n", key.public_key())).await;
        let operator = put("operator.jwt", &world.operator_jwt());
        let resolver = put("account.jwt", &world.account_jwt());
        let jwt = start("jwt", format!("[auth.jwt]\noperator = {operator:?}\nresolver = {resolver:?}\n")).await;
        put("file.right", &key.seed().unwrap());
        put("file.wrong", &other.seed().unwrap());
        let (user, seed) = device("lamp", &json!({ "nats": { "bearer_token": false } }));
        put("jwt.right", &creds(&KeyPair::from_seed(&seed).unwrap(), &user));
        put("jwt.wrong", &creds(&other, &user));
        Self { file, jwt, nats, dir }
    }

    /// Runs a client, which takes the file of its user, an address and its client id.
    async fn tries(&self, client: impl Fn() -> Command, scheme: &str) {
        let mut heard = Watch::new(&self.nats.client().await, "nkey.example").await;
        for (mode, sidecar, refusal) in [("file", &self.file, "unknown_user"), ("jwt", &self.jwt, "signature_wrong")] {
            let run = async |which: &str| {
                let (user, address) = (format!("{mode}.{which}"), format!("{scheme}127.0.0.1:{}", sidecar.mqtt_port));
                let mut client = client();
                client.arg(self.dir.path().join(user)).args([&*address, &*format!("lamp-{mode}")]);
                run(client, PATIENCE).await
            };
            let refused = run("wrong").await;
            let said = format!("{mode}: {refused:?}");
            assert!(refused.code == 1 && refused.stdout.is_empty() && refused.stderr.contains("refused: "), "{said}");
            let counted = sidecar.metric(&format!("mqtt_auth_refused_total{{step=\"{refusal}\"}}")).await;
            assert_eq!(counted, 1.0, "{said}");
            let done = run("right").await;
            assert_eq!((done.code, &*done.stdout), (0, "connected\npublished\n"), "{mode}: {done:?}");
            assert_eq!(heard.next().await.payload, "hello");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_in_python_gets_in_by_its_key_and_by_no_other() {
    let inherited = std::env::var_os("PYTHONPATH").unwrap_or_default();
    let local = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/python");
    let packages = std::env::join_paths(std::env::split_paths(&inherited).chain([local])).unwrap();
    let client = || {
        let mut client = Command::new("python3");
        client.arg(format!("{EXAMPLE}/nkey.py")).env("PYTHONPATH", &packages).env("PYTHONDONTWRITEBYTECODE", "1");
        client
    };
    Site::start().await.tries(client, "").await;
}

/// Node.js, and the folder into which npm has put MQTT.js.
fn tools() -> Option<(PathBuf, PathBuf)> {
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/node/node_modules");
    Some((find_program("node")?, modules)).filter(|(_, modules)| modules.join("mqtt").is_dir())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_for_node_gets_in_by_its_key_and_by_no_other() {
    let Some((node, modules)) = tools() else {
        let line = "skipped: the_client_for_node_gets_in_by_its_key_and_by_no_other: there is no Node.js, or no MQTT.js; `make tools` fetches that where there is Node.js\n";
        return std::io::stderr().write_all(line.as_bytes()).unwrap();
    };
    let site = Site::start().await;
    // It takes what it imports from beside it, and from nowhere else.
    let program = site.dir.path().join("nkey.mjs");
    std::fs::copy(format!("{EXAMPLE}/nkey.mjs"), &program).unwrap();
    std::os::unix::fs::symlink(modules, site.dir.path().join("node_modules")).unwrap();
    let client = || {
        let mut client = Command::new(&node);
        client.arg(&program);
        client
    };
    site.tries(client, "mqtt://").await;
}
