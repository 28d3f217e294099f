//! A nats-server that the tests play, for unit tests of what is driven: links reach it over pipes, so that time may be paused, and
//! it does with what it is sent what the test says. Of core NATS and JetStream it has what this program asks for, on one server.
//!
//! - `wire`: its connections; `streams`: what streams hold; `consumers`: who reads them; `api`: what is asked of JetStream
//!
//! Not here: that messages expire, leaders, acknowledgements of consumers. What nats-server itself does with what we send it is
//! for the integration tests.

mod api;
mod consumers;
mod streams;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use self::streams::PlayedStream;
use self::wire::Peer;
use crate::nats::pipes::PipeListener;

/// Its time when it starts, milliseconds since the epoch.
const STARTS_MS: u64 = 1_800_000_000_000;

/// A message that it was sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    pub(crate) subject: String,
    pub(crate) reply: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) payload: Bytes,
    /// The connection that it came on.
    from: u64,
}

impl Said {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

/// What becomes of a message that it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is dealt with.
    Taken,
    /// It is dealt with, and not answered.
    Deaf,
    /// It is dealt with, and answered when the answers are released.
    Held,
    /// It is dealt with, and answered twice.
    Twice,
    /// It is lost.
    Lost,
    /// JetStream refuses it with this number.
    Refused(u32),
    /// Another sidecar has said this on its subject a moment before.
    Overtaken(&'static str),
}

type Rule = Box<dyn FnMut(&Said) -> Fate + Send>;

/// See the module.
#[derive(Clone)]
pub(crate) struct PlayedServer {
    state: Arc<Mutex<State>>,
    url: Arc<str>,
}

struct State {
    me: std::sync::Weak<Mutex<State>>,
    began: Instant,
    peers: BTreeMap<u64, Peer>,
    last_peer: u64,
    last_pull: u64,
    streams: BTreeMap<String, PlayedStream>,
    rule: Option<Rule>,
    /// Connections whose names end so do not stand.
    shut: Option<&'static str>,
    /// Where they go, and what they are.
    held: Vec<(String, String)>,
    /// All that it was sent but what is asked of JetStream.
    said: Vec<Said>,
}

impl PlayedServer {
    pub(crate) fn start() -> Self {
        let mut listener = PipeListener::bind();
        let url = Arc::from(listener.url());
        let state = Arc::new_cyclic(|me| {
            Mutex::new(State {
                me: me.clone(),
                began: Instant::now(),
                peers: BTreeMap::new(),
                last_peer: 0,
                last_pull: 0,
                streams: BTreeMap::new(),
                rule: None,
                shut: None,
                held: Vec::new(),
                said: Vec::new(),
            })
        });
        let served = Arc::downgrade(&state);
        tokio::spawn(async move {
            loop {
                let stream = listener.accept().await;
                match served.upgrade() {
                    Some(state) => wire::welcome(&state, stream),
                    None => return,
                }
            }
        });
        Self { state, url }
    }

    pub(crate) fn url(&self) -> String {
        (*self.url).to_owned()
    }

    /// What becomes of what it is sent from now on.
    pub(crate) fn rule(&self, rule: impl FnMut(&Said) -> Fate + Send + 'static) {
        self.state.lock().rule = Some(Box::new(rule));
    }

    /// Everything is dealt with from now on.
    pub(crate) fn obey(&self) {
        self.state.lock().rule = None;
    }

    /// What goes to subjects that begin so is lost, however often it is sent again.
    pub(crate) fn lose(&self, begin: &'static str) {
        self.rule(move |said| if said.subject.starts_with(begin) { Fate::Lost } else { Fate::Taken });
    }

    /// Gives the answers that were held, the last one first when `is_reversed`.
    pub(crate) fn release(&self, is_reversed: bool) {
        let mut state = self.state.lock();
        let mut held = std::mem::take(&mut state.held);
        if is_reversed {
            held.reverse();
        }
        held.into_iter().for_each(|(reply, answer)| state.answer(&reply, &answer));
    }

    /// How many answers are held.
    pub(crate) fn held(&self) -> usize {
        self.state.lock().held.len()
    }

    /// Ends the connections whose names end so.
    pub(crate) fn sever(&self, name: &str) {
        self.state.lock().peers.retain(|_, peer| !peer.name.ends_with(name));
    }

    /// The same, and there are none until it opens.
    pub(crate) fn shut(&self, name: &'static str) {
        self.state.lock().shut = Some(name);
        self.sever(name);
    }

    pub(crate) fn open(&self) {
        self.state.lock().shut = None;
    }

    /// What it was sent on subjects that match, but for what is asked of JetStream, in its order.
    pub(crate) fn said(&self, filter: &str) -> Vec<Said> {
        let state = self.state.lock();
        state.said.iter().filter(|said| proto_map::matches(filter, &said.subject)).cloned().collect()
    }

    /// Somebody publishes.
    pub(crate) fn publish(&self, subject: &str, headers: &[(&str, &str)], payload: &str) {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let payload = Bytes::copy_from_slice(payload.as_bytes());
        self.state.lock().deal(&Said { subject: subject.to_owned(), reply: None, headers, payload, from: 0 });
    }

    /// Waits until something is so.
    pub(crate) async fn until<T>(&self, what: &str, is_so: impl Fn(&Self) -> Option<T>) -> T {
        until(what, || is_so(self)).await
    }
}

/// Waits until there is something.
pub(crate) async fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "{what}: it does not come");
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

impl State {
    fn now_ms(&self) -> u64 {
        STARTS_MS + u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A message comes in from a connection.
    fn hear(&mut self, said: &Said) {
        if said.header("Nats-Trace-Dest").is_some() {
            return;
        }
        let fate = self.rule.as_mut().map_or(Fate::Taken, |rule| rule(said));
        if let Fate::Overtaken(theirs) = fate {
            let (subject, payload) = (said.subject.clone(), Bytes::from_static(theirs.as_bytes()));
            let headers = vec![("Mqtt-Origin".to_owned(), "mqtt".to_owned())];
            self.deal(&Said { subject, headers, payload, ..Said::default() });
        }
        let answer = match fate {
            Fate::Lost => return,
            Fate::Refused(code) => Some(streams::refusal(code)),
            Fate::Taken | Fate::Deaf | Fate::Held | Fate::Twice | Fate::Overtaken(_) => match self.deal(said) {
                Dealt::Answered(answer) => Some(answer),
                Dealt::Heard => None,
                Dealt::Nobody => return self.say_nobody(said),
            },
        };
        let (Some(reply), Some(answer)) = (&said.reply, answer) else { return };
        match fate {
            Fate::Deaf | Fate::Lost => {}
            Fate::Held => self.held.push((reply.clone(), answer)),
            Fate::Twice => (0..2).for_each(|_| self.answer(reply, &answer)),
            Fate::Taken | Fate::Refused(_) | Fate::Overtaken(_) => self.answer(reply, &answer),
        }
    }

    fn deal(&mut self, said: &Said) -> Dealt {
        if let Some(verb) = said.subject.strip_prefix("$JS.API.") {
            return self.ask(verb, said).map_or(Dealt::Heard, Dealt::Answered);
        }
        self.said.push(said.clone());
        let is_heard = self.route(&said.subject, said, said.reply.as_deref());
        match self.store(said) {
            Some(answer) => Dealt::Answered(answer),
            None if is_heard => Dealt::Heard,
            None => Dealt::Nobody,
        }
    }

    fn answer(&mut self, reply: &str, answer: &str) {
        let said =
            Said { subject: reply.to_owned(), payload: Bytes::copy_from_slice(answer.as_bytes()), ..Said::default() };
        self.route(reply, &said, None);
    }

    fn say_nobody(&mut self, said: &Said) {
        if let Some(reply) = &said.reply {
            self.say_status(reply, "503", &[]);
        }
    }

    fn say_status(&mut self, reply: &str, status: &str, headers: &[(&str, String)]) {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        let status = std::iter::once((String::new(), status.to_owned()));
        let said = Said { subject: reply.to_owned(), headers: status.chain(headers).collect(), ..Said::default() };
        self.route(reply, &said, None);
    }
}

/// What became of a message.
enum Dealt {
    /// JetStream says this.
    Answered(String),
    /// Somebody has it.
    Heard,
    /// Nobody wants it.
    Nobody,
}
