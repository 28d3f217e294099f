//! Real sockets on localhost, with tokio-tungstenite as the client.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest,
        http::{HeaderValue, StatusCode},
        protocol::frame::{
            Frame,
            coding::{CloseCode, Data, OpCode},
        },
    },
};

use super::*;
use crate::app::Mqtt;
use crate::bans::Bans;
use crate::config::{ByteSize, Config, Overrides};
use crate::metrics::Metrics;
use crate::shutdown::ShutdownSignal;

/// The most that the task of a connection may have, bytes: its stream, its peer, and the wait of its loop. What the connection
/// is has a place of its own, see `connection`.
const TASK_MAX: usize = 1_536;

/// What calling it gives, which is not called.
const fn size_of_future<A, F: Future>(_: &impl FnOnce(A) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn the_task_of_a_connection_is_small() {
    let run = |(dispatch, stream, peer, taken): (Dispatch<Mqtt>, _, _, _)| dispatch.run(stream, peer, taken);
    let size = size_of_future(&run);
    assert!(size <= TASK_MAX, "{size} bytes are taken for every connection, for as long as it is there");
}

/// Sends back what it reads, in pieces of eight bytes and one flush for each read; tells when it ends and how.
#[derive(Clone)]
pub(super) struct Echo {
    ended: mpsc::UnboundedSender<std::io::Result<()>>,
    complete: bool,
    seen: Arc<AtomicUsize>,
    came: Arc<parking_lot::Mutex<Vec<String>>>,
    remotes: Arc<parking_lot::Mutex<Vec<String>>>,
}

impl Serve for Echo {
    async fn serve<S>(&self, mut stream: S, mut peer: Peer)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if let Some(refused) = peer.refused {
            let why = if let Refused::Limit(limit) = refused { limit.text() } else { "banned" };
            return self.came.lock().push(format!("refused {why}"));
        }
        self.seen.fetch_add(1, SeqCst);
        self.remotes.lock().push(peer.addr.to_string());
        let identities = peer.certificate.as_deref().map_or(&[][..], mqtt_access::Certificate::identities);
        let identities: Vec<String> = identities.iter().map(ToString::to_string).collect();
        self.came.lock().push(format!("{} {}", peer.account.as_deref().unwrap_or("-"), identities.join(" ")));
        if self.complete {
            peer.handshake.complete();
        }
        let mut buf = vec![0; 100_000];
        let result = loop {
            let read = tokio::select! {
                () = peer.handshake.evicted() => break Ok(()),
                read = stream.read(&mut buf) => read,
            };
            match read {
                Ok(0) => break stream.shutdown().await,
                Ok(n) => {
                    let mut write = async || {
                        for piece in buf[..n].chunks(8) {
                            stream.write_all(piece).await?;
                        }
                        stream.flush().await
                    };
                    if let Err(error) = write().await {
                        break Err(error);
                    }
                }
                Err(error) => break Err(error),
            }
        };
        let _ = self.ended.send(result);
    }
}

pub(super) struct Running {
    pub(super) listening: Listening<Echo>,
    pub(super) config: Config,
    shutdown: ShutdownSignal,
    pub(super) metrics: Arc<Metrics>,
    pub(super) ended: mpsc::UnboundedReceiver<std::io::Result<()>>,
    seen: Arc<AtomicUsize>,
    pub(super) revocations: Arc<Revocations>,
    /// Account and identities of each.
    pub(super) came: Arc<parking_lot::Mutex<Vec<String>>>,
    /// Who each was.
    pub(super) remotes: Arc<parking_lot::Mutex<Vec<String>>>,
}

impl Running {
    pub(super) async fn with(change: impl FnOnce(&mut Config), complete: bool) -> Self {
        let overrides = Overrides {
            listen: Some("127.0.0.1:0".into()),
            listen_ws: Some("127.0.0.1:0".into()),
            ..Overrides::default()
        };
        let mut config = Config::assemble(None, &[], &overrides).unwrap();
        change(&mut config);
        let (ended, ends) = mpsc::unbounded_channel();
        let (shutdown, metrics, seen) = (ShutdownSignal::new(), Metrics::new(), Arc::new(AtomicUsize::new(0)));
        let revocations = Arc::<Revocations>::default();
        let [came, remotes] = [0, 1].map(|_| Arc::<parking_lot::Mutex<Vec<String>>>::default());
        let serve = Echo { ended, complete, seen: seen.clone(), came: came.clone(), remotes: remotes.clone() };
        let listening =
            spawn(&config, metrics.clone(), (&revocations, &Bans::none()), serve, shutdown.clone()).await.unwrap();
        Self { listening, config, shutdown, metrics, ended: ends, seen, came, remotes, revocations }
    }

    async fn new() -> Self {
        Self::with(|_| (), true).await
    }

    pub(super) fn addr(&self, protocol: Protocol) -> SocketAddr {
        self.listening
            .bound()
            .iter()
            .find(|bound| bound.entrance.protocol == protocol)
            .and_then(|bound| bound.to.addr())
            .unwrap()
    }

    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.addr(Protocol::Mqtt)).await.unwrap()
    }

    async fn ws(
        &self,
        path: &str,
        subprotocols: Option<&str>,
    ) -> Result<(WebSocketStream<TcpStream>, Option<String>), Error> {
        let addr = self.addr(Protocol::Ws);
        let mut request = format!("ws://{addr}{path}").into_client_request().unwrap();
        if let Some(subprotocols) = subprotocols {
            request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_str(subprotocols).unwrap());
        }
        let (ws, response) = client_async(request, TcpStream::connect(addr).await.unwrap()).await?;
        let chosen = response.headers().get("Sec-WebSocket-Protocol").map(|value| value.to_str().unwrap().to_owned());
        Ok((ws, chosen))
    }

    async fn http(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.addr(Protocol::Ws)).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

#[tokio::test]
async fn port_0_reports_the_real_one_and_bytes_flow() {
    let running = Running::new().await;
    assert!(running.listening.bound().iter().all(|bound| bound.to.addr().is_some_and(|addr| addr.port() != 0)));
    let mut stream = running.tcp().await;
    stream.write_all(b"hello").await.unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"hello");
}

/// [MQTT-6.0.0-1]
#[tokio::test]
async fn what_is_flushed_at_once_is_one_binary_frame() {
    let running = Running::new().await;
    let (mut ws, chosen) = running.ws("/mqtt", Some("mqtt")).await.unwrap();
    assert_eq!(chosen.as_deref(), Some("mqtt"));
    let packets: Vec<u8> = (0..100).collect();
    ws.send(Message::binary(packets.clone())).await.unwrap();
    assert_eq!(ws.next().await.unwrap().unwrap(), Message::binary(packets));
}

/// [MQTT-6.0.0-2]
#[tokio::test]
async fn a_stream_of_bytes_survives_any_cut_into_frames() {
    let running = Running::new().await;
    let (ws, _) = running.ws("/", None).await.unwrap();
    let (mut sink, mut source) = ws.split();
    let sent: Vec<u8> = (0..700_000_u32).map(|i| (i % 251) as u8).collect();
    let to_send = sent.clone();
    let sender = tokio::spawn(async move {
        let (mut rest, mut size) = (to_send.as_slice(), 1);
        while !rest.is_empty() {
            let (frame, after) = rest.split_at(size.min(rest.len()));
            sink.send(Message::binary(frame.to_vec())).await.unwrap();
            rest = after;
            size = size * 3 % 200_003;
        }
        sink
    });
    let mut received = Vec::new();
    while received.len() < sent.len() {
        match source.next().await.unwrap().unwrap() {
            Message::Binary(frame) => received.extend_from_slice(&frame),
            other => panic!("{other:?}"),
        }
    }
    assert!(received == sent);
    drop(sender.await.unwrap());
}

/// [MQTT-6.0.0-3, -4]
#[tokio::test]
async fn the_subprotocol_is_mqtt_when_the_client_offers_it() {
    let running = Running::new().await;
    for (asked, chosen) in [
        (Some("mqtt"), Some("mqtt")),
        (Some("mqttv3.1"), Some("mqttv3.1")),
        (Some("chat, mqttv3.1, mqtt"), Some("mqtt")),
        (None, None),
    ] {
        let (_ws, answer) = running.ws("/mqtt?x=1", asked).await.unwrap();
        assert_eq!(answer.as_deref(), chosen);
    }
    let strict = Running::with(|config| config.mqtt.strict = true, true).await;
    assert!(
        matches!(strict.ws("/", None).await, Err(Error::Http(response)) if response.status() == StatusCode::BAD_REQUEST)
    );
    assert!(strict.ws("/", Some("mqtt")).await.is_ok());
    // What a listener says stands in place of what is said for all.
    let of_listener = |config: &mut Config| (config.mqtt.strict, config.listeners.ws[0].strict) = (true, Some(false));
    assert!(Running::with(of_listener, true).await.ws("/", None).await.is_ok());
}

#[tokio::test]
async fn requests_that_are_no_websocket_get_an_http_answer() {
    let mut running = Running::new().await;
    assert!(
        matches!(running.ws("/other", Some("mqtt")).await, Err(Error::Http(response)) if response.status() == StatusCode::NOT_FOUND)
    );
    let plain = running.http("GET /mqtt HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(plain.starts_with("HTTP/1.1 426 ") && plain.to_lowercase().contains("upgrade: websocket"), "{plain}");
    let upgrade = "Host: x\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n";
    let old = running.http(&format!("GET / HTTP/1.1\r\n{upgrade}Sec-WebSocket-Version: 8\r\n\r\n")).await;
    assert!(old.starts_with("HTTP/1.1 426 ") && old.to_lowercase().contains("sec-websocket-version: 13"), "{old}");
    let keyless = running.http(&format!("GET / HTTP/1.1\r\n{upgrade}Sec-WebSocket-Version: 13\r\n\r\n")).await;
    assert!(keyless.starts_with("HTTP/1.1 400 "), "{keyless}");
    let mqtt = running.http("\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0").await;
    assert!(mqtt.is_empty() || mqtt.starts_with("HTTP/1.1 400 "), "{mqtt}");
    running.shutdown.trigger();
    running.listening.drained().await;
    assert!(running.ended.try_recv().is_err(), "none of them reached the server");
}

#[tokio::test]
async fn a_frame_right_behind_the_request_is_not_lost() {
    let running = Running::new().await;
    let mut stream = TcpStream::connect(running.addr(Protocol::Ws)).await.unwrap();
    let mut bytes =
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            .to_vec();
    // Final, binary, masked with zeros, three bytes.
    bytes.extend_from_slice(&[0x82, 0x83, 0, 0, 0, 0, b'a', b'b', b'c']);
    stream.write_all(&bytes).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(&[0x82, 0x03, b'a', b'b', b'c']) {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "{}", String::from_utf8_lossy(&answer));
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
}

/// [MQTT-6.0.0-1]
#[tokio::test]
async fn a_text_frame_is_closed_with_1003() {
    let mut running = Running::new().await;
    let (mut ws, _) = running.ws("/", Some("mqtt")).await.unwrap();
    ws.send(Message::text("hello")).await.unwrap();
    match ws.next().await.unwrap().unwrap() {
        Message::Close(Some(frame)) => assert_eq!(frame.code, CloseCode::Unsupported),
        other => panic!("{other:?}"),
    }
    assert_eq!(running.ended.recv().await.unwrap().unwrap_err().kind(), std::io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn a_message_may_be_larger_than_a_packet_in_one_frame_or_in_many() {
    let running = Running::with(|config| config.mqtt.max_packet_size = ByteSize(1_000), true).await;
    let (ws, _) = running.ws("/mqtt", Some("mqtt")).await.unwrap();
    let (mut sink, mut source) = ws.split();
    let sent: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 253) as u8).collect();
    let (first, rest) = (sent.clone(), sent.clone());
    let sender = tokio::spawn(async move {
        sink.send(Message::binary(first)).await.unwrap();
        let pieces: Vec<&[u8]> = rest.chunks(700_001).collect();
        for (index, piece) in pieces.iter().enumerate() {
            let code = OpCode::Data(if index == 0 { Data::Binary } else { Data::Continue });
            let frame = Frame::message(piece.to_vec(), code, index + 1 == pieces.len());
            sink.send(Message::Frame(frame)).await.unwrap();
            // Between the parts of a message there may be control frames.
            sink.send(Message::Ping("and now".into())).await.unwrap();
        }
        sink
    });
    let (mut received, mut pongs) = (Vec::new(), 0);
    while received.len() < 2 * sent.len() {
        match source.next().await.unwrap().unwrap() {
            Message::Binary(frame) => received.extend_from_slice(&frame),
            Message::Pong(_) => pongs += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(received == [sent.as_slice(), sent.as_slice()].concat());
    drop(sender.await.unwrap());
    assert!(pongs > 0);
}

#[tokio::test]
async fn what_is_not_the_websocket_protocol_is_closed_with_1002() {
    let mut running = Running::new().await;
    let (mut ws, _) = running.ws("/", Some("mqtt")).await.unwrap();
    let frame = Frame::message(vec![1], OpCode::Data(Data::Continue), true);
    ws.send(Message::Frame(frame)).await.unwrap();
    match ws.next().await.unwrap().unwrap() {
        Message::Close(Some(frame)) => assert_eq!(frame.code, CloseCode::Protocol),
        other => panic!("{other:?}"),
    }
    assert_eq!(running.ended.recv().await.unwrap().unwrap_err().kind(), std::io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn pings_are_answered_and_a_close_frame_is_an_ordinary_end() {
    let mut running = Running::new().await;
    let (mut ws, _) = running.ws("/", Some("mqtt")).await.unwrap();
    ws.send(Message::Ping("are you there".into())).await.unwrap();
    assert_eq!(ws.next().await.unwrap().unwrap(), Message::Pong("are you there".into()));
    ws.close(None).await.unwrap();
    assert!(matches!(ws.next().await, Some(Ok(Message::Close(_))) | None));
    assert!(running.ended.recv().await.unwrap().is_ok());
    let (ws, _) = running.ws("/", Some("mqtt")).await.unwrap();
    drop(ws);
    let end = running.ended.recv().await.unwrap();
    assert!(end.is_ok() || end.unwrap_err().kind() != std::io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn a_websocket_handshake_that_never_ends_is_closed() {
    let short = |config: &mut Config| config.mqtt.connect_timeout = crate::config::Duration(Duration::from_millis(50));
    let running = Running::with(short, true).await;
    let mut stream = TcpStream::connect(running.addr(Protocol::Ws)).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert_eq!(running.seen.load(SeqCst), 0);
}

/// It is counted that a connection was closed or refused because of a limit.
pub(super) fn assert_counted(running: &Running, limit: &str) {
    let (text, line) = (running.metrics.render(), format!("mqtt_over_limit_total{{limit=\"{limit}\"}} 1"));
    assert!(text.lines().any(|have| have == line), "no line {line}\n{text}");
}

/// The limit is one connection.
async fn second_is_refused_and_counted(name: &str, limit: impl FnOnce(&mut Config)) {
    let running = Running::with(limit, true).await;
    let mut first = running.tcp().await;
    first.write_all(b"x").await.unwrap();
    first.read_exact(&mut [0]).await.unwrap();
    let mut second = running.tcp().await;
    assert!(matches!(second.read(&mut [0]).await, Ok(0) | Err(_)));
    assert_eq!(running.came.lock().last(), Some(&format!("refused {name}")), "it is told");
    assert_counted(&running, name);
}

#[tokio::test]
async fn a_connection_beyond_the_limit_is_refused_and_counted() {
    second_is_refused_and_counted("connections", |config| config.limits.connections = Some(1)).await;
    let own = |config: &mut Config| config.listeners.tcp[0].limits.connections = Some(1);
    second_is_refused_and_counted("listener_connections", own).await;
}

#[tokio::test]
async fn a_connection_beyond_the_limit_of_its_address_is_refused_and_counted() {
    let limit = |config: &mut Config| config.limits.connections_per_address = Some(1);
    second_is_refused_and_counted("connections_per_address", limit).await;
}

#[tokio::test]
async fn connections_that_come_too_fast_are_told_so_up_to_a_limit_and_closed_beyond() {
    let limit = |config: &mut Config| config.limits.connection_rate = Some(crate::config::Rate(1));
    let running = Running::with(limit, true).await;
    let mut first = running.tcp().await;
    first.write_all(b"x").await.unwrap();
    first.read_exact(&mut [0]).await.unwrap();
    for _ in 0..300 {
        let mut next = running.tcp().await;
        assert!(matches!(next.read(&mut [0]).await, Ok(0) | Err(_)));
    }
    let told = running.came.lock().iter().filter(|came| came.starts_with("refused")).count();
    let text = running.metrics.render();
    let counted = |series: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.unwrap().parse::<f64>().unwrap()
    };
    let closed = counted("mqtt_connect_total{result=\"over_limit\"}");
    assert!(told >= 100 && closed > 0.0, "{told} are told, {closed} closed");
    assert_eq!(counted("mqtt_over_limit_total{limit=\"connection_rate\"}"), told as f64 + closed);
}

#[tokio::test]
async fn connections_without_connect_hold_nobody_back() {
    let mut running = Running::with(|config| config.listeners.max_handshakes = 1, false).await;
    let mut first = running.tcp().await;
    first.write_all(b"x").await.unwrap();
    first.read_exact(&mut [0]).await.unwrap();
    let mut second = running.tcp().await;
    second.write_all(b"y").await.unwrap();
    second.read_exact(&mut [0]).await.unwrap();
    running.ended.recv().await.unwrap().unwrap();
    assert!(matches!(first.read(&mut [0]).await, Ok(0) | Err(_)), "it was the oldest");
    assert_counted(&running, "handshakes");
}

#[tokio::test]
async fn shutdown_stops_accepting_and_waits_for_connections() {
    let running = Running::new().await;
    let mut stream = running.tcp().await;
    stream.write_all(b"x").await.unwrap();
    stream.read_exact(&mut [0]).await.unwrap();
    let addr = running.addr(Protocol::Mqtt);
    running.shutdown.trigger();
    // The listener closes its socket when its task sees the signal; until then a connection may get in.
    while TcpStream::connect(addr).await.is_ok() {
        tokio::task::yield_now().await;
    }
    stream.write_all(b"y").await.unwrap();
    stream.read_exact(&mut [0]).await.unwrap();
    drop(stream);
    running.listening.drained().await;
}

#[tokio::test]
async fn an_address_in_use_is_an_error_that_names_the_listener() {
    let running = Running::new().await;
    let addr = running.addr(Protocol::Mqtt);
    let overrides = Overrides { listen: Some(addr.to_string()), ..Overrides::default() };
    let config = Config::assemble(None, &[], &overrides).unwrap();
    let (ended, _ends) = mpsc::unbounded_channel();
    let serve = Echo { ended, complete: true, seen: Arc::default(), came: Arc::default(), remotes: Arc::default() };
    let error = spawn(&config, Metrics::new(), (&Arc::default(), &Bans::none()), serve, ShutdownSignal::new())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.starts_with(&format!("listener tcp: cannot listen on {addr}: ")), "{error}");
}
