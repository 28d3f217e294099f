//! The auth callout of `examples/auth-callout`, with the files that stand there, against slapd: devices log in with the names and
//! passwords of a directory. Skipped, with a line that says so, where there is no slapd; `make tools` fetches it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use mqtt_codec::ReasonCode;
use nkeys::KeyPair;
use tempfile::TempDir;

use crate::accounts::nats;
use crate::harness::{
    Client, NatsServer, Options, PATIENCE, Process, SidecarBuilder, Watch, eventually, free_port, msg, python, run,
};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/auth-callout");

/// Of the callout, and of the sidecars.
const PASSWORDS: [&str; 2] = ["of-the-callout", "of-the-sidecars"];

fn example(name: &str) -> String {
    std::fs::read_to_string(Path::new(EXAMPLE).join(name)).unwrap()
}

/// Where slapd is unpacked or installed: the directory that has its `usr` and `etc`.
fn slapd_root() -> Option<PathBuf> {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/slapd");
    [fetched, PathBuf::from("/")].into_iter().find(|root| root.join("usr/sbin/slapd").is_file())
}

/// A directory with the entries of the example.
struct Directory {
    process: Process,
    port: u16,
}

impl Directory {
    async fn start(root: &Path, dir: &Path) -> Self {
        let (db, port) = (dir.join("db"), free_port());
        std::fs::create_dir(&db).unwrap();
        let schemas = ["core", "cosine", "inetorgperson"]
            .map(|name| format!("include {}/etc/ldap/schema/{name}.schema\n", root.display()));
        let config = format!(
            "{}modulepath {}/usr/lib/ldap\nmoduleload back_mdb\npidfile {}\ndatabase mdb\nsuffix \"dc=example,dc=org\"\ndirectory {}\n\
             access to attrs=userPassword by anonymous auth by * none\naccess to * by self read by * none\n",
            schemas.concat(),
            root.display(),
            dir.join("pid").display(),
            db.display()
        );
        let file = dir.join("slapd.conf");
        std::fs::write(&file, config).unwrap();
        let slapd = || {
            let mut command = Command::new(root.join("usr/sbin/slapd"));
            command.env("LD_LIBRARY_PATH", root.join("usr/lib/x86_64-linux-gnu"));
            command
        };
        let mut add = slapd();
        add.args(["-T", "add", "-f"]).arg(&file).args(["-l", &format!("{EXAMPLE}/directory.ldif")]);
        let added = run(add, PATIENCE).await;
        assert_eq!(added.code, 0, "{added:?}");
        let mut serve = slapd();
        serve.args(["-h", &format!("ldap://127.0.0.1:{port}"), "-d", "0", "-f"]).arg(&file);
        let process = Process::spawn("slapd", &mut serve, &dir.join("slapd.log"));
        eventually("slapd listens", async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await;
        Self { process, port }
    }
}

/// nats-server as the example configures it, with keys and passwords of its own.
fn server(issuer: &str, xkey: &str) -> NatsServer {
    let values = [("ISSUER", issuer), ("XKEY", xkey), ("CALLOUT", PASSWORDS[0]), ("SIDECAR", PASSWORDS[1])];
    let config = example("nats.conf");
    // The harness has a port, a name and a store for it.
    let ours = |line: &&str| !["listen:", "server_name:", "jetstream {"].iter().any(|own| line.starts_with(own));
    let lines: Vec<&str> = config.lines().filter(ours).collect();
    let config = values
        .iter()
        .fold(lines.join("\n"), |config, (name, value)| config.replace(&format!("${name}"), &format!("\"{value}\"")));
    NatsServer::start_with(true, &config)
}

fn as_user(id: &str, name: &str, password: &str) -> Options {
    let mut options = Options::v5(id);
    options.connect.username = Some(name.into());
    options.connect.password = Some(password.as_bytes().into());
    options
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_log_in_with_what_a_directory_says() {
    let Some(root) = slapd_root() else {
        let line = "skipped: devices_log_in_with_what_a_directory_says: there is no slapd; `make tools` fetches it\n";
        return std::io::stderr().write_all(line.as_bytes()).unwrap();
    };
    let dir = TempDir::with_prefix("nats-mqtt-directory-").unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let mut directory = Directory::start(&root, dir.path()).await;
    let (issuer, curve) = (KeyPair::new_account(), python("curve.py", &[]).await);
    let (seed, xkey) = curve.trim().split_once('\n').unwrap();
    let (issuer_file, xkey_file) = (file("issuer.nk", &issuer.seed().unwrap()), file("callout.xk", seed));
    let server = server(&issuer.public_key(), xkey);

    let mut callout = Command::new("python3");
    callout.arg(format!("{EXAMPLE}/callout.py")).args(["--nats", &server.url(), "--issuer"]).arg(issuer_file);
    callout.arg("--xkey").arg(xkey_file).args(["--ldap", &format!("ldap://127.0.0.1:{}", directory.port)]);
    callout.args(["--base", "ou=devices,dc=example,dc=org", "--account", "T1", "--account", "T2"]);
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/python");
    callout.env("CALLOUT", PASSWORDS[0]).env("PYTHONDONTWRITEBYTECODE", "1");
    callout.env("PYTHONPATH", std::env::var_os("PYTHONPATH").unwrap_or_else(|| packages.into()));
    let callout = Process::spawn("callout", &mut callout, &dir.path().join("callout.log"));
    eventually("the callout is ready", async || callout.log().contains("ready")).await;

    let password = file("sidecar.password", PASSWORDS[1]);
    let config = example("nats-mqtt.toml").replace("\"sidecar.password\"", &format!("{password:?}"));
    let config = file("nats-mqtt.toml", &config);
    let args = ["--nats", &server.url(), "-c", config.to_str().unwrap()];
    let sidecar = SidecarBuilder::new("beside-callout", &args).start().await;
    let [one, two] = [nats(&server, "sidecar-T1", PASSWORDS[1]).await, nats(&server, "sidecar-T2", PASSWORDS[1]).await];
    let (mut of_one, mut of_two) = (Watch::new(&one, "dev.>").await, Watch::new(&two, "dev.>").await);

    let mut lamp = sidecar.connect(as_user("same", "lamp", "light")).await;
    let mut fan = sidecar.connect(as_user("same", "fan", "wind")).await;
    assert_eq!(lamp.publish(msg("dev/fan/x", "not its own").qos(1)).await, ReasonCode::NotAuthorized);
    assert_eq!(lamp.publish(msg("dev/lamp/x", "of-lamp").qos(1)).await, ReasonCode::Success);
    assert_eq!(fan.publish(msg("dev/fan/x", "of-fan").qos(1)).await, ReasonCode::Success);
    assert_eq!(of_one.next().await.payload, "of-lamp");
    assert_eq!(of_two.next().await.payload, "of-fan");
    assert_eq!(lamp.asks_for("cmd/fan/#", 1).await, ReasonCode::NotAuthorized);
    for (name, password) in [("lamp", "wind"), ("nobody", "light"), ("lamp", "")] {
        let refused = Client::open(sidecar.mqtt_port, as_user("refused", name, password)).await;
        assert_eq!(refused.connack.reason, ReasonCode::BadUserNameOrPassword, "{name} {password:?}");
    }
    // Whom nobody can be asked about is refused too, and who is connected stays.
    directory.process.kill();
    assert!(Client::open(sidecar.mqtt_port, as_user("late", "fan", "other")).await.connack.reason.is_error());
    lamp.ping().await;
}
