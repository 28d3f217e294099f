//! A browser: Chromium without a window and MQTT.js, over `wss`, from a page that may connect and from one that may not. Skipped,
//! with a line that says so, where one of them is missing; `make tools` fetches them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::harness::{NatsServer, PATIENCE, Process, SidecarBuilder, unique};
use crate::tls::Pki;

/// Says what becomes of its connection by what it asks its server for.
const PAGE: &str = r#"<!doctype html><script src="/mqtt.js"></script><script>
const say = text => fetch("/said/" + encodeURIComponent(text));
const client = mqtt.connect("wss://127.0.0.1:PORT/mqtt", { protocolVersion: 5, reconnectPeriod: 0, clientId: "ID" });
client.on("connect", () => client.subscribe("TOPIC", { qos: 1 }, () => client.publish("TOPIC", "a".repeat(70000), { qos: 1 })));
client.on("message", (topic, payload) => say("message " + payload.length));
client.on("close", () => say("close"));
</script>"#;

/// Chromium and MQTT.js.
fn tools() -> Option<(PathBuf, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/chromium-headless-shell");
    let (browser, script) = (root.join("usr/lib/chromium/chromium-headless-shell"), root.join("mqtt.min.js"));
    (browser.is_file() && script.is_file()).then_some((browser, script))
}

/// A site with one page; returns its origin, and what the page says.
async fn site(listener: TcpListener, page: String, script: PathBuf) -> mpsc::UnboundedReceiver<String> {
    let (said, heard) = mpsc::unbounded_channel();
    let script = std::fs::read_to_string(script).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (page, script, said) = (page.clone(), script.clone(), said.clone());
            tokio::spawn(async move { answer(stream, &page, &script, &said).await });
        }
    });
    heard
}

async fn answer(mut stream: TcpStream, page: &str, script: &str, said: &mpsc::UnboundedSender<String>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => return,
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let path = request.split(' ').nth(1).unwrap_or_default();
    let (kind, body) = match path.strip_prefix("/said/") {
        Some(text) => {
            let _ = said.send(text.replace("%20", " "));
            ("text/plain", "")
        }
        None if path == "/mqtt.js" => ("text/javascript", script),
        None => ("text/html", page),
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    // It may have gone elsewhere.
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(body.as_bytes()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_an_allowed_origin_connects_from_a_browser_and_another_does_not() {
    let Some((browser, script)) = tools() else {
        let line = "skipped: a_page_of_an_allowed_origin_connects_from_a_browser_and_another_does_not: there is no Chromium or no MQTT.js; `make tools` fetches them\n";
        return std::io::stderr().write_all(line.as_bytes()).unwrap();
    };
    let (nats, pki) = (NatsServer::start(), Pki::new());
    let [ours, foreign] =
        [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
    let origin = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
    let urls = [origin(&ours), origin(&foreign)];
    let (cert, key) = (pki.path("server.pem"), pki.path("server.key"));
    pki.put(
        "browser.toml",
        &format!(
            "[listeners.ws]\nallowed_origins = [{:?}]\n[listeners.ws.tls]\ncert_file = {cert:?}\nkey_file = {key:?}\n",
            urls[0]
        ),
    );
    let builder = SidecarBuilder::new("browser", &["--nats", &nats.url(), "-c", &pki.path("browser.toml")]);
    let sidecar = builder.open().start().await;
    let root = browser.parent().unwrap().parent().unwrap().to_owned();
    let libraries =
        ["x86_64-linux-gnu", "x86_64-linux-gnu/pulseaudio"].map(|path| root.join(path).display().to_string());
    for (index, (listener, expected)) in [(ours, "message 70000"), (foreign, "close")].into_iter().enumerate() {
        let page = PAGE.replace("PORT", &sidecar.ws_port.to_string()).replace("ID", &unique("browser"));
        let mut said = site(listener, page.replace("TOPIC", &unique("page")), script.clone()).await;
        let mut command = Command::new(&browser);
        command.env("LD_LIBRARY_PATH", libraries.join(":")).args([
            "--no-sandbox",
            "--disable-gpu",
            // Of an authority that no browser knows.
            "--ignore-certificate-errors",
            "--remote-debugging-port=0",
        ]);
        command.arg(format!("--user-data-dir={}", pki.path(&format!("profile-{index}")))).arg(&urls[index]);
        let _process = Process::spawn("chromium", &mut command, &pki.dir.path().join("chromium.log"));
        let first = tokio::time::timeout(PATIENCE, said.recv()).await.expect("the page says something").unwrap();
        assert_eq!(first, expected, "{}", sidecar.log());
    }
    assert_eq!(sidecar.metric("mqtt_websocket_refused_total{reason=\"origin\"}").await, 1.0);
    assert!(sidecar.log().contains(&format!("origin=\"{}\"", urls[1])), "{}", sidecar.log());
}
