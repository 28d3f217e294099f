//! A link against a server that the test plays, so that it says what no honest server says, at the moment that matters.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::tasks::Tasks;

const PATIENCE: Duration = Duration::from_secs(20);
const INFO: &str = r#"INFO {"server_id":"S","version":"2.15.1","max_payload":1048576,"headers":true}"#;
const ROOMY: QueueLimits = QueueLimits { of_each_max: 1_000, bytes_max: 1 << 20, on_full: OnFull::Drop };

/// Where clients connect to.
pub(crate) struct Server(TcpListener);

/// One connection, from the server's side.
pub(crate) struct Peer(BufReader<TcpStream>);

impl Server {
    pub(crate) async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(crate) fn options(&self) -> LinkOptions {
        LinkOptions {
            servers: Arc::new(vec![format!("nats://{}", self.0.local_addr().unwrap()).parse().unwrap()]),
            ignore_discovered_servers: true,
            tls: TlsFiles::default(),
            name: "test".to_owned(),
            no_echo: false,
            reconnects: true,
            queue_max: 100,
            inbox_prefix: "_INBOX".to_owned(),
            identify: Arc::new(|_| Ok(Login::default())),
            on_event: Arc::new(|_| {}),
            counts: LinkCounts::default(),
            tasks: Tasks::default(),
        }
    }

    /// A connection that begins with INFO; what the client says next is for the test.
    async fn accept(&self) -> Peer {
        let (stream, _) = tokio::time::timeout(PATIENCE, self.0.accept()).await.unwrap().unwrap();
        let mut peer = Peer(BufReader::new(stream));
        peer.say(INFO).await;
        peer
    }

    /// A connection that stands.
    async fn welcome(&self) -> Peer {
        let mut peer = self.accept().await;
        assert!(peer.hear().await.starts_with("CONNECT {"));
        peer.hears("PING").await;
        peer.say("PONG").await;
        peer
    }
}

/// A link and the server's side of it.
pub(crate) async fn pair(server: &Server, options: LinkOptions) -> (Client, Peer) {
    let (client, peer) = tokio::join!(connect(options), server.welcome());
    (client.unwrap(), peer)
}

impl Peer {
    pub(crate) async fn say(&mut self, line: &str) {
        self.send(format!("{line}\r\n").as_bytes()).await;
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn hear(&mut self) -> String {
        let mut line = Vec::new();
        tokio::time::timeout(PATIENCE, self.0.read_until(b'\n', &mut line)).await.unwrap().unwrap();
        String::from_utf8(line).unwrap().trim_end().to_owned()
    }

    async fn hears(&mut self, line: &str) {
        assert_eq!(self.hear().await, line);
    }

    /// Answers a PING, behind which the link has read everything that was sent before.
    async fn settles(&mut self, client: &Client) {
        let (flushed, ()) = tokio::join!(client.flush(), async {
            self.hears("PING").await;
            self.say("PONG").await;
        });
        flushed.unwrap();
    }
}

fn msg(subject: &[u8], sid: u64, payload: &[u8]) -> Vec<u8> {
    [b"MSG ", subject, format!(" {sid} {}\r\n", payload.len()).as_bytes(), payload, b"\r\n"].concat()
}

async fn next(subscriber: &mut Subscriber) -> Message {
    tokio::time::timeout(PATIENCE, subscriber.next()).await.unwrap().unwrap()
}

async fn until(client: &Client, wanted: impl FnMut(&LinkState) -> bool) {
    tokio::time::timeout(PATIENCE, client.state().wait_for(wanted)).await.unwrap().unwrap();
}

fn publish(client: &Client, payload: &'static str) -> Result<(), PublishError> {
    client.try_publish(&Outbound::plain("a", &Bytes::from_static(payload.as_bytes())))
}

#[tokio::test]
async fn no_message_ends_a_link_and_what_cannot_be_understood_is_counted() {
    let server = Server::start().await;
    let (client, mut peer) = pair(&server, server.options()).await;
    let mut subscriber = client.subscribe(">", ROOMY).unwrap();
    peer.hears("SUB > 1").await;
    for subject in ["caf\u{e9}\u{a0}x".as_bytes(), "\u{2028}".as_bytes(), b"\xff", b"a\x0cb\0"] {
        peer.send(&msg(subject, 1, b"x")).await;
        assert_eq!(next(&mut subscriber).await.subject(), subject);
    }
    for block in
        [&b"NATS/1.0\r\nNats-Stream-Source: S \x0c >\r\n\r\n"[..], b"\xff\0", b"NATS/1.0\r\nno colon\r\n: x\r\n"]
    {
        peer.send(format!("HMSG a 1 {} {}\r\n", block.len(), block.len()).as_bytes()).await;
        peer.send(&[block, b"\r\n"].concat()).await;
        assert_eq!(next(&mut subscriber).await.headers().unwrap().as_bytes(), block);
    }
    peer.send(b"MSG a x 1\r\nz\r\nHMSG a 1 9 1\r\nz\r\nMSG a 1 99999999 1 1\r\nz\r\n").await;
    peer.send(&msg(b"marker", 1, b"")).await;
    assert_eq!(next(&mut subscriber).await.subject(), b"marker");
    assert_eq!(client.counts().skips().next(), Some((SkipReason::Arguments, 3)));
    assert_eq!(*client.state().borrow(), LinkState { connected: true, epoch: 1 });
}

#[tokio::test]
async fn after_a_loss_the_subscriptions_come_first_and_nothing_that_was_handed_over_before() {
    let server = Server::start().await;
    let (client, mut peer) = pair(&server, server.options()).await;
    let mut first = client.subscribe("first.>", ROOMY).unwrap();
    let second = client.subscribe("second", ROOMY).unwrap();
    peer.hears("SUB first.> 1").await;
    peer.hears("SUB second 2").await;
    drop(second);
    peer.hears("UNSUB 2").await;
    drop(peer);
    until(&client, |state| !state.connected).await;
    assert_eq!(publish(&client, "lost"), Err(PublishError::Disconnected));
    let group = Queue::new(ROOMY);
    let _third = client.subscribe_into(&group, "third", Some("g"), 7).unwrap();
    let mut peer = server.welcome().await;
    until(&client, |state| state.epoch == 2).await;
    publish(&client, "new").unwrap();
    for line in ["SUB first.> 1", "SUB third g 3", "PUB a 3", "new"] {
        peer.hears(line).await;
    }
    peer.send(&msg(b"first.x", 1, b"again")).await;
    assert_eq!(next(&mut first).await.payload(), b"again");
    assert_eq!(client.counts().reconnects(), 1);
}

#[tokio::test]
async fn a_flush_returns_when_the_server_has_answered_and_fails_when_it_cannot() {
    let server = Server::start().await;
    let (client, mut peer) = pair(&server, server.options()).await;
    let mut flush = Box::pin(client.flush());
    assert!(futures_util::poll!(&mut flush).is_pending());
    peer.hears("PING").await;
    peer.say("PING").await;
    peer.hears("PONG").await;
    assert!(futures_util::poll!(&mut flush).is_pending());
    peer.say("PONG").await;
    flush.await.unwrap();
    let flush = tokio::spawn({
        let client = client.clone();
        async move { client.flush().await }
    });
    peer.hears("PING").await;
    drop(peer);
    assert_eq!(flush.await.unwrap(), Err(RequestFailure::Lost));
}

/// Where the next request has to be answered. It may be asked meanwhile who serves it.
async fn next_question(peer: &mut Peer) -> String {
    loop {
        if let Some(rest) = peer.hear().await.strip_prefix("PUB q ") {
            peer.hears("?").await;
            return rest.split(' ').next().unwrap().to_owned();
        }
    }
}

#[tokio::test]
async fn a_request_is_answered_once_or_fails_as_it_should() {
    let server = Server::start().await;
    let (client, mut peer) = pair(&server, server.options()).await;
    let ask = |within: Duration| {
        let client = client.clone();
        tokio::spawn(async move { client.request(Outbound::plain("q", &Bytes::from_static(b"?")), within).await })
    };
    let asked = ask(PATIENCE);
    let inbox = peer.hear().await;
    let inbox = inbox.strip_prefix("SUB _INBOX.").and_then(|rest| rest.strip_suffix(".* 1")).unwrap().to_owned();
    assert_eq!(inbox.len(), 32);
    let first = next_question(&mut peer).await;
    assert!(first.starts_with(&format!("_INBOX.{inbox}.")));
    // Guesses, and an answer that comes twice.
    peer.send(&msg(format!("_INBOX.{inbox}.1").as_bytes(), 1, b"guess")).await;
    peer.send(&msg(b"\xff", 1, b"guess")).await;
    peer.send(&msg(first.as_bytes(), 1, b"!")).await;
    peer.send(&msg(first.as_bytes(), 1, b"again")).await;
    assert_eq!(asked.await.unwrap().unwrap().payload(), b"!");
    let asked = ask(PATIENCE);
    let second = next_question(&mut peer).await;
    assert_ne!(first, second);
    peer.send(format!("HMSG {second} 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n").as_bytes()).await;
    assert_eq!(asked.await.unwrap(), Err(RequestFailure::NoResponders));
    assert_eq!(ask(Duration::from_millis(20)).await.unwrap(), Err(RequestFailure::TimedOut));
    let asked = ask(PATIENCE);
    for _ in 0..2 {
        next_question(&mut peer).await;
    }
    drop(peer);
    assert_eq!(asked.await.unwrap(), Err(RequestFailure::Lost));
}

/// What a server says of a traced message that goes to one client.
fn traced(dest: &str, subscription: &str) -> Vec<u8> {
    let events = format!(r#"{{"type":"in","kind":0}},{{"type":"eg","kind":0,"name":"x","sub":"{subscription}"}}"#);
    msg(dest.as_bytes(), 1, format!(r#"{{"request":{{}},"events":[{events}]}}"#).as_bytes())
}

#[tokio::test]
async fn a_request_that_nobody_serves_fails_soon_whoever_listens_to_more_than_that() {
    let server = Server::start().await;
    let (client, mut peer) = pair(&server, server.options()).await;
    let asked = tokio::spawn({
        let client = client.clone();
        async move { client.request(Outbound::plain("q", &Bytes::from_static(b"?")), PATIENCE).await }
    });
    assert!(peer.hear().await.starts_with("SUB _INBOX."));
    assert!(peer.hear().await.starts_with("PUB q _INBOX."));
    peer.hears("?").await;
    // Somebody serves it, and then nobody does, in the words of two servers.
    for subscription in ["q", ">"] {
        assert!(peer.hear().await.starts_with("HPUB q "));
        peer.hears("NATS/1.0").await;
        let dest = peer.hear().await.strip_prefix("Nats-Trace-Dest: ").unwrap().to_owned();
        peer.hears("Nats-Trace-Only: true").await;
        peer.hears("").await;
        peer.hears("").await;
        peer.send(&traced(&dest, subscription)).await;
    }
    assert_eq!(asked.await.unwrap(), Err(RequestFailure::Unserved));
}

#[tokio::test]
async fn a_server_that_does_not_read_fills_the_queue_and_who_waits_goes_on_when_it_reads() {
    let server = Server::start().await;
    let (client, mut peer) = pair(&server, server.options()).await;
    let payload = Bytes::from(vec![b'x'; 256 * 1_024]);
    let message = Outbound::plain("a", &payload);
    let mut sent = 0_usize;
    while client.try_publish(&message).is_ok() {
        sent += 1;
        tokio::task::yield_now().await;
        assert!(sent < 100_000);
    }
    assert_eq!(client.try_publish(&message), Err(PublishError::Full));
    let waiting = tokio::spawn({
        let (client, payload) = (client.clone(), payload.clone());
        async move { client.publish(&Outbound::plain("b", &payload)).await }
    });
    let mut bytes = vec![0; payload.len() + 2];
    for n in 0..=sent {
        peer.hears(&format!("PUB {} {}", if n < sent { "a" } else { "b" }, payload.len())).await;
        peer.0.read_exact(&mut bytes).await.unwrap();
    }
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_finds_no_room_is_dropped_and_counted_and_others_are_not_touched() {
    let server = Server::start().await;
    let (client, mut peer) = pair(&server, server.options()).await;
    let queue = Queue::new(QueueLimits { of_each_max: 3, ..ROOMY });
    let _flooded = client.subscribe_into(&queue, "flooded", None, 1).unwrap();
    let _quiet = client.subscribe_into(&queue, "quiet", None, 2).unwrap();
    peer.hears("SUB flooded 1").await;
    peer.hears("SUB quiet 2").await;
    for _ in 0..10 {
        peer.send(&msg(b"flooded", 1, b"x")).await;
    }
    peer.send(&msg(b"quiet", 2, b"y")).await;
    peer.settles(&client).await;
    let mut got = VecDeque::new();
    queue.take_now(100, &mut |tag, _| got.push_back(tag));
    assert_eq!(got, [1, 1, 1, 2]);
    assert_eq!((client.overflows(), client.counts().overflows()), (7, 7));
}

#[tokio::test]
async fn what_waits_for_nobody_goes_with_its_subscription() {
    let server = Server::start().await;
    let (client, mut peer) = pair(&server, server.options()).await;
    let queue = Queue::new(ROOMY);
    let subscription = client.subscribe_into(&queue, "a", None, 1).unwrap();
    peer.hears("SUB a 1").await;
    peer.send(&msg(b"a", 1, b"x")).await;
    peer.settles(&client).await;
    let of_queue = Arc::downgrade(&queue);
    drop((subscription, queue));
    peer.hears("UNSUB 1").await;
    assert!(of_queue.upgrade().is_none());
}

#[tokio::test]
async fn a_link_that_must_not_lose_stops_reading_until_there_is_room() {
    let server = Server::start().await;
    let (client, mut peer) = pair(&server, server.options()).await;
    let limits = QueueLimits { of_each_max: 3, on_full: OnFull::StopReading, ..ROOMY };
    let mut subscriber = client.subscribe("a", limits).unwrap();
    peer.hears("SUB a 1").await;
    for n in 0..1_000 {
        peer.send(&msg(b"a", 1, n.to_string().as_bytes())).await;
    }
    for n in 0..1_000 {
        assert_eq!(next(&mut subscriber).await.payload(), n.to_string().as_bytes());
    }
    assert_eq!(client.overflows(), 0);
}

#[tokio::test]
async fn a_link_that_does_not_reconnect_gives_what_has_come_and_ends() {
    let server = Server::start().await;
    let (client, mut peer) = pair(&server, LinkOptions { reconnects: false, ..server.options() }).await;
    let mut subscriber = client.subscribe("a", ROOMY).unwrap();
    peer.hears("SUB a 1").await;
    peer.send(&msg(b"a", 1, b"last")).await;
    drop(peer);
    assert_eq!(next(&mut subscriber).await.payload(), b"last");
    assert!(tokio::time::timeout(PATIENCE, subscriber.next()).await.unwrap().is_none());
    assert_eq!(publish(&client, "late"), Err(PublishError::Disconnected));
    assert_eq!(*client.state().borrow(), LinkState { connected: false, epoch: 1 });
}

#[tokio::test]
async fn a_drained_subscription_gives_what_was_on_its_way() {
    let server = Server::start().await;
    let (client, mut peer) = pair(&server, server.options()).await;
    let subscriber = client.subscribe("a", ROOMY).unwrap();
    peer.hears("SUB a 1").await;
    let mut rest = Vec::new();
    tokio::join!(subscriber.drain(&mut rest), async {
        peer.hears("UNSUB 1").await;
        peer.hears("PING").await;
        peer.send(&[msg(b"a", 1, b"1"), msg(b"a", 1, b"2"), b"PONG\r\n".to_vec(), msg(b"a", 1, b"3")].concat()).await;
    });
    let rest: Vec<&[u8]> = rest.iter().map(Message::payload).collect();
    assert_eq!(rest[..2], [b"1", b"2"]);
}

#[tokio::test]
async fn a_server_that_answers_no_question_any_more_is_left() {
    let server = Server::start().await;
    let (client, mut peer) = pair(&server, LinkOptions { reconnects: false, ..server.options() }).await;
    tokio::time::pause();
    peer.hears("PING").await;
    peer.hears("PING").await;
    until(&client, |state| !state.connected).await;
}

#[tokio::test]
async fn a_link_that_nobody_holds_ends_when_the_last_was_written() {
    let server = Server::start().await;
    let (client, mut peer) = pair(&server, server.options()).await;
    publish(&client, "last").unwrap();
    drop(client);
    peer.hears("PUB a 4").await;
    peer.hears("last").await;
    peer.hears("").await;
}

#[tokio::test]
async fn why_there_is_no_connection_is_said() {
    let server = Server::start().await;
    let refused = async |options: LinkOptions, says: &'static str| {
        let (result, ()) = tokio::join!(connect(options), async {
            let mut peer = server.accept().await;
            if !says.is_empty() {
                peer.hear().await;
                peer.say(says).await;
            }
        });
        result.unwrap_err()
    };
    assert_eq!(refused(server.options(), "-ERR 'Authorization Violation'").await, ConnectError::Authorization);
    let full = ConnectError::Protocol("maximum connections exceeded".to_owned());
    assert_eq!(refused(server.options(), "-ERR 'maximum connections exceeded'").await, full);
    let tls = TlsFiles { required: true, ..TlsFiles::default() };
    let error = refused(LinkOptions { tls, ..server.options() }, "").await;
    assert_eq!(error, ConnectError::Tls("the server has no TLS".to_owned()));
    let identify = Arc::new(|_: &[u8]| Err("no seed".to_owned()));
    let error = refused(LinkOptions { identify, ..server.options() }, "").await;
    assert_eq!(error, ConnectError::Credentials("no seed".to_owned()));
}

#[tokio::test]
async fn what_a_server_says_of_itself_later_counts_from_then_on() {
    let server = Server::start().await;
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&events);
    let on_event = Arc::new(move |event: Event<'_>| seen.lock().push(format!("{event:?}")));
    let (client, mut peer) = pair(&server, LinkOptions { on_event, ..server.options() }).await;
    peer.say(r#"INFO {"max_payload":3,"ldm":true}"#).await;
    peer.say("INFO nonsense").await;
    peer.say("-ERR 'Permissions Violation for Publish to \"a b\"'").await;
    peer.settles(&client).await;
    assert_eq!(client.max_payload(), 3);
    assert_eq!(publish(&client, "1234"), Err(PublishError::TooLarge));
    assert_eq!(publish(&client, "123"), Ok(()));
    let want = ["Connected", "LameDuck", r#"ServerError("Permissions Violation for Publish to \"a b\"")"#];
    assert_eq!(*events.lock(), want);
}

#[tokio::test]
async fn a_link_ends_with_its_account_and_whoever_holds_it_is_told() {
    let server = Server::start().await;
    let options = server.options();
    let tasks = options.tasks.clone();
    let (client, mut peer) = pair(&server, options).await;
    let mut subscriber = client.subscribe("a", ROOMY).unwrap();
    peer.hears("SUB a 1").await;
    let mut flush = Box::pin(client.flush());
    assert!(futures_util::poll!(&mut flush).is_pending());
    tasks.close().await;
    assert_eq!(flush.await, Err(RequestFailure::Lost));
    assert_eq!(publish(&client, "late"), Err(PublishError::Disconnected));
    assert!(!client.state().borrow().connected);
    assert!(tokio::time::timeout(PATIENCE, subscriber.next()).await.unwrap().is_none());
    let mut rest = String::new();
    peer.0.read_to_string(&mut rest).await.unwrap();
}
