//! What sidecars ask of each other is sealed with a key of the account, and so is what they answer: whoever else may publish
//! on our subjects can neither make a request nor an answer, nor send one again.
//!
//! **Invariant:** what is acted upon was made by a sidecar of the account, for this subject, within [`WINDOW_MS`], and is acted
//! upon once.
//!
//! A sidecar of a version that does not seal says nothing of it in its lease. As long as one that says nothing has a lease,
//! what is not sealed at all is believed, so that sidecars can be replaced one after the other.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytestring::ByteString;
use parking_lot::Mutex;
use proto_map::{Headers, Judgement, SealedRequest, name};

use crate::nats::Message;
use crate::store::clock::SERVERS_DIFFER_MS;
use crate::store::keys::Keys;
use crate::store::nodes::Nodes;

/// How far the time of a request may be from ours, both by the clocks of servers, milliseconds.
const WINDOW_MS: u64 = SERVERS_DIFFER_MS;
/// Requests that are remembered; of more, the oldest are forgotten, and what is as old as they is refused.
const REMEMBERED_MAX: usize = 65_536;
/// Bytes of a nonce as text.
const NONCE_LEN: usize = 32;
/// For how long it is known whether a sidecar does not seal.
const PEERS_KNOWN_FOR: Duration = Duration::from_secs(2);
/// How often it is said that something is not genuine.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Seals and judges for one process.
#[derive(Clone)]
pub(crate) struct Seals {
    shared: Arc<Shared>,
}

struct Shared {
    keys: Keys,
    nodes: Nodes,
    remembered: Mutex<Remembered>,
    /// Whether a sidecar does not seal, and when that was found out.
    peers: tokio::sync::Mutex<Option<(Instant, bool)>>,
    said: Mutex<Option<Instant>>,
}

/// Requests that were acted upon.
#[derive(Default)]
struct Remembered {
    nonces: HashSet<u128>,
    /// With their times, as they came.
    order: VecDeque<(u64, u128)>,
    /// What is as old or older was forgotten.
    forgotten_ms: u64,
}

/// Who asks: what the answer has to name.
#[derive(Clone, Debug)]
pub(super) struct Asker(Option<ByteString>);

impl Seals {
    pub(crate) fn new(keys: Keys, nodes: Nodes) -> Self {
        let (remembered, peers, said) = Default::default();
        Self { shared: Arc::new(Shared { keys, nodes, remembered, peers, said }) }
    }

    /// Headers of a request, and its nonce.
    pub(super) fn request(&self, subject: &str, payload: &[u8]) -> (Headers, ByteString) {
        let keys = &self.shared.keys;
        let (nonce, now_ms) = (format!("{:032x}", rand::random::<u128>()), keys.now_ms());
        let seal = keys.ring().at(now_ms).seal_request(subject, now_ms, &nonce, payload);
        (header(seal), nonce.into())
    }

    /// Headers of an answer.
    pub(super) fn answer(&self, asker: &Asker, payload: &[u8]) -> Headers {
        let keys = &self.shared.keys;
        let seal = asker.0.as_ref().map(|nonce| keys.ring().at(keys.now_ms()).seal_answer(nonce, payload));
        seal.map(header).unwrap_or_default()
    }

    /// Whether an answer to the request with this nonce is a sidecar's.
    pub(super) async fn is_answer(&self, answer: &Message, nonce: &str) -> bool {
        let keys = &self.shared.keys;
        let judgement = sealed(answer).map(|seal| keys.ring().judge_answer(seal, nonce, answer.payload()));
        match judgement {
            Some(Judgement::Genuine(())) => true,
            Some(Judgement::UnknownKey) => {
                keys.look_again();
                false
            }
            Some(Judgement::Forged) => self.is_not_genuine(answer.subject()),
            None => self.has_peers_without().await || self.is_not_genuine(answer.subject()),
        }
    }

    /// Who asks, when a request is a sidecar's and was not acted upon before.
    pub(super) async fn admit(&self, request: &Message) -> Option<Asker> {
        let keys = &self.shared.keys;
        let Some(seal) = sealed(request) else {
            let is_believed = self.has_peers_without().await || self.is_not_genuine(request.subject());
            return is_believed.then_some(Asker(None));
        };
        // It has come to a subject of ours, so it is text.
        let subject = std::str::from_utf8(request.subject()).unwrap_or_default();
        match keys.ring().judge_request(seal, subject, request.payload()) {
            Judgement::Genuine(SealedRequest { at_ms, nonce }) => {
                let is_new = self.shared.remembered.lock().is_new(at_ms, nonce, keys.now_ms());
                (is_new || self.is_not_genuine(request.subject())).then(|| Asker(Some(nonce.into())))
            }
            Judgement::UnknownKey => {
                keys.look_again();
                None
            }
            Judgement::Forged => {
                self.is_not_genuine(request.subject());
                None
            }
        }
    }

    /// Whether a sidecar that has a lease does not seal what it says.
    async fn has_peers_without(&self) -> bool {
        let mut known = self.shared.peers.lock().await;
        if let Some((_, has)) = known.filter(|(at, _)| at.elapsed() < PEERS_KNOWN_FOR) {
            return has;
        }
        let Ok(alive) = self.shared.nodes.alive().await else { return false };
        let has = alive.iter().any(|node| !node.seals);
        *known = Some((Instant::now(), has));
        has
    }

    /// Says so now and then; false.
    fn is_not_genuine(&self, subject: &[u8]) -> bool {
        let mut said = self.shared.said.lock();
        if said.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
            *said = Some(Instant::now());
            tracing::warn!(
                subject = subject.escape_ascii().to_string(),
                "somebody who is no sidecar publishes on subjects of the sidecars, or does so again; others should be denied to"
            );
        }
        false
    }
}

impl Remembered {
    fn is_new(&mut self, at_ms: u64, nonce: &str, now_ms: u64) -> bool {
        let is_text = nonce.len() == NONCE_LEN;
        let Some(number) = u128::from_str_radix(nonce, 16).ok().filter(|_| is_text) else { return false };
        if at_ms.abs_diff(now_ms) > WINDOW_MS || at_ms <= self.forgotten_ms {
            return false;
        }
        // What is as old as this is refused for its time.
        while let Some((oldest, of)) = self.order.front().copied() {
            let is_over = oldest.saturating_add(2 * WINDOW_MS) < now_ms;
            if !is_over && self.order.len() < REMEMBERED_MAX {
                break;
            }
            if !is_over {
                self.forgotten_ms = self.forgotten_ms.max(oldest);
            }
            self.order.pop_front();
            self.nonces.remove(&of);
        }
        let is_new = self.nonces.insert(number);
        if is_new {
            self.order.push_back((at_ms, number));
        }
        is_new
    }
}

fn sealed(message: &Message) -> Option<&str> {
    std::str::from_utf8(message.headers()?.first(name::MAC)?).ok()
}

fn header(seal: impl Into<ByteString>) -> Headers {
    vec![(ByteString::from_static(name::MAC), seal.into())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nonce(number: u128) -> String {
        format!("{number:032x}")
    }

    #[test]
    fn a_request_is_acted_upon_once_and_in_time() {
        let mut remembered = Remembered::default();
        let now = 1_000_000;
        assert!(remembered.is_new(now, &nonce(1), now));
        assert!(!remembered.is_new(now, &nonce(1), now));
        assert!(!remembered.is_new(now, &nonce(1), now + WINDOW_MS));
        assert!(remembered.is_new(now, &nonce(2), now + WINDOW_MS));
        assert!(!remembered.is_new(now, &nonce(3), now + WINDOW_MS + 1), "too late");
        assert!(!remembered.is_new(now + WINDOW_MS + 1, &nonce(3), now), "too early");
        for bad in ["", "1", "x", "0000000000000000000000000000000x"] {
            assert!(!remembered.is_new(now, bad, now), "{bad}");
        }
    }

    #[test]
    fn what_is_forgotten_for_want_of_room_is_refused_for_its_age() {
        let mut remembered = Remembered::default();
        let now = 1_000_000;
        assert!(remembered.is_new(now, &nonce(0), now));
        for number in 1..=REMEMBERED_MAX as u128 {
            assert!(remembered.is_new(now + 1, &nonce(number), now + 1));
        }
        assert!(remembered.order.len() <= REMEMBERED_MAX && remembered.nonces.len() == remembered.order.len());
        assert!(!remembered.is_new(now, &nonce(0), now + 1), "it was acted upon");
        // Some minutes later nothing of that is left.
        let later = now + 3 * WINDOW_MS;
        assert!(remembered.is_new(later, &nonce(7), later));
        assert_eq!(remembered.order.len(), 1);
    }
}
