//! What the worker reads, and when it runs: against a server that the test plays.

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt as _;
use parking_lot::Mutex;

use super::*;
use crate::nats::tests::{Peer, Server, pair};
use crate::store::publisher::OneSink;
use crate::store::publisher::lane::Token;
use crate::store::{Put, PutTarget};

const PATIENCE: Duration = Duration::from_secs(20);
const STREAM: &str = "MQTT_log";

/// A worker that serves, and counts how often it was woken.
struct Serving {
    shared: Arc<Shared>,
    peer: Peer,
    polls: Arc<AtomicUsize>,
    /// Ends it when it is dropped.
    _alive: oneshot::Sender<()>,
}

/// What the server was sent.
struct Published {
    subject: String,
    reply: String,
}

fn shared() -> Arc<Shared> {
    let (names, known) = (Names::default(), (Horizons::default(), Rooms::new(Vec::new())));
    Shared::new("in.box".to_owned(), &names, PublisherLimits::default(), ApiErrors::default(), known, true)
}

async fn publish(shared: &Shared) -> oneshot::Receiver<Result<Stored, PutError>> {
    let (tx, rx) = oneshot::channel();
    let permit = shared.permits.acquire(1).await;
    let sink = Arc::new(OneSink(Mutex::new(Some(tx))));
    let (target, payload) = (PutTarget::Log("log.a".into()), bytes::Bytes::from_static(b"x"));
    let (headers, ttl_s, expected_last, guard, token) = (Vec::new(), None, None, None, 0);
    shared.submit(permit, Put { target, headers, payload, ttl_s, expected_last, guard, sink, token });
    rx
}

impl Serving {
    async fn start() -> Self {
        let server = Server::start().await;
        let (client, peer) = pair(&server, server.options()).await;
        let shared = shared();
        let (lost, (_, denied)) = (client.state(), tokio::sync::mpsc::channel(1));
        let (alive, mut ended) = oneshot::channel();
        let (mut worker, epoch) = (Worker::new(Arc::clone(&shared)), Epoch { client, lost, denied });
        let polls = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&polls);
        tokio::spawn(async move {
            let mut serving = std::pin::pin!(worker.serve(epoch, &mut ended));
            poll_fn(|cx| {
                counted.fetch_add(1, Ordering::Relaxed);
                serving.as_mut().poll(cx).map(|_| ())
            })
            .await;
        });
        let mut this = Self { shared, peer, polls, _alive: alive };
        assert!(this.hears("SUB ").await.starts_with("SUB in.box.* 1"));
        this.hears("SUB ").await;
        this
    }

    /// The next line that begins with this.
    async fn hears(&mut self, begin: &str) -> String {
        loop {
            let line = self.peer.hear().await;
            if line.starts_with(begin) {
                return line;
            }
        }
    }

    /// A message, or a question, which has no headers.
    async fn published(&mut self, verb: &str) -> Published {
        let line = self.hears(verb).await;
        let mut parts = line.split(' ').skip(1).map(str::to_owned);
        Published { subject: parts.next().unwrap(), reply: parts.next().unwrap() }
    }

    async fn answer(&mut self, reply: &str, answer: &str) {
        self.peer.say(&format!("MSG {reply} 1 {}", answer.len())).await;
        self.peer.say(answer).await;
    }

    /// How often the worker is woken in some seconds when nothing is under way.
    async fn wakes_in_idle(&self) -> usize {
        // From here the clock runs ahead whenever nothing has anything to do.
        tokio::time::pause();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = self.polls.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let wakes = self.polls.load(Ordering::Relaxed) - before;
        tokio::time::resume();
        wakes
    }
}

#[tokio::test]
async fn with_nothing_under_way_it_is_not_woken_and_then_nothing_is_stuck() {
    let mut serving = Serving::start().await;
    assert_eq!(serving.wakes_in_idle().await, 0, "at first");
    for _ in 0..2 {
        let stored = publish(&serving.shared).await;
        let copy = serving.published("HPUB ").await;
        assert_eq!(copy.subject, "log.a");
        // Nobody answers: after a while the leader is asked, which only a tick can begin.
        let question = serving.published("PUB ").await;
        assert_eq!(question.subject, question_subject(STREAM));
        let nothing = r#"{"error":{"code":404,"err_code":10037,"description":"no message found"}}"#;
        serving.answer(&question.reply, nothing).await;
        let copy = serving.published("HPUB ").await;
        serving.answer(&copy.reply, &format!(r#"{{"stream":"{STREAM}","seq":7}}"#)).await;
        let stored = tokio::time::timeout(PATIENCE, stored).await.unwrap().unwrap();
        assert_eq!(stored, Ok(Stored { sequence: 7, duplicate: false }));
        assert_eq!(serving.wakes_in_idle().await, 0, "afterwards");
    }
}

#[tokio::test]
async fn who_publishes_one_after_the_other_wakes_it_for_the_first() {
    let (shared, mut results) = (shared(), Vec::new());
    let is_woken = || shared.attention.notified().now_or_never().is_some();
    for expected in [true, false, false] {
        results.push(publish(&shared).await);
        assert_eq!(is_woken(), expected);
    }
    let worker = Worker::new(Arc::clone(&shared));
    worker.watch();
    results.push(publish(&shared).await);
    assert!(!is_woken(), "a look has found something under way");
    shared.state.lock().lanes.iter_mut().for_each(|lane| {
        lane.lane.give_up(Instant::now(), Duration::ZERO, &mut Vec::new());
    });
    results.push(publish(&shared).await);
    assert!(!is_woken(), "no look has found that there is nothing");
    shared.state.lock().lanes.iter_mut().for_each(|lane| {
        lane.lane.give_up(Instant::now(), Duration::ZERO, &mut Vec::new());
    });
    worker.watch();
    results.push(publish(&shared).await);
    assert!(is_woken(), "this is the first again");
}

#[test]
fn the_reply_to_a_copy_and_to_a_question_is_read() {
    let tokens = super::super::Tokens::new("in.box".to_owned());
    let copy = Reply::Copy(Token { number: u64::MAX, attempt: 3 });
    let ask = Reply::Ask(AskToken { subject: u64::MAX - 1, attempt: 4 });
    for (lane, reply) in [(0, copy), (12, ask)] {
        let mut subject = Vec::new();
        super::super::write_reply(&mut subject, &tokens, lane, reply);
        assert_eq!(tokens.read(&subject).and_then(parse_reply), Some((lane, reply)));
    }
    for bad in ["", "1", "1-x", "1-2", "1-2-x", "1-2-3-4", "1-ask-2", "1-ask-2-3-4"] {
        assert_eq!(parse_reply(bad), None, "{bad}");
    }
}

#[test]
fn a_sequence_that_no_stream_has_is_not_believed() {
    for (sequence, highest, expected) in
        [(1, 0, true), (1 << 40, 0, true), (u64::MAX, 0, false), (5, 9, true), (1 << 30, 9, true), (1 << 48, 9, false)]
    {
        assert_eq!(is_plausible(sequence, highest), expected, "{sequence} after {highest}");
    }
}

#[test]
fn errors_of_jetstream_become_ours() {
    let of = |code, err_code| classify(ApiError { code, err_code, description: String::new() });
    assert!(matches!(of(503, 10008), Answer::Refused));
    assert!(matches!(of(409, 10158), Answer::Refused), "it is on its way");
    assert!(matches!(of(400, 10054), Answer::Failed(PutError::TooLarge)));
    assert!(matches!(of(503, 10077), Answer::Failed(PutError::Full { .. })));
    assert!(matches!(of(429, 10167), Answer::Failed(PutError::Full { .. })));
    assert!(matches!(of(400, 10071), Answer::WrongLast(PutError::Rejected { code: 10071, .. })));
    assert!(matches!(of(400, 10164), Answer::WrongLast(_)), "it is not decided yet");
}
