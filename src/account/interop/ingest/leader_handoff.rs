//! What is left when a leader is gone: messages that those who stood by have heard and not seen in the log. A new leader may
//! not have heard all of them, least of all one that has just been started, so it asks everybody before it leads.
//!
//! **Invariant:** what is asked for is left, and is not on its way. Whoever is asked by a later term stores nothing more in an
//! earlier one. So everybody is asked twice: first to stop, answered when nothing is under way, and then, when the log is
//! read as far as that, for what is left.
//!
//! An answer is a page of frames, each the length of a head (four bytes, little endian), the head in JSON, and the payload;
//! an empty page is the last one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use bytestring::ByteString;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use super::standby::StandbyNumber;
use super::{ANSWER_WITHIN, Ingest, LOOK_AGAIN, standby};
use crate::account::lead::Term;
use crate::metrics::DropReason;
use crate::store::{CoreMessage, NodeInfo, RequestError, Served};

/// How long a new leader waits to see what the old one has stored, and to know what is wanted.
const SEE_WITHIN: Duration = Duration::from_secs(10);

/// How long somebody who is asked waits to see it.
const SEE_WITHIN_ASKED: Duration = Duration::from_secs(1);

/// Bytes of a page, unless one message is larger.
const PAGE_BYTES: usize = 256 << 10;

/// Bytes that a head may be larger than what is in it.
const HEAD_ROOM: usize = 4096;

/// Asks for the messages that are left, from this number on, on behalf of the leader of a term; without a number, to stop.
#[derive(Debug, Serialize, Deserialize)]
struct Question {
    term: Term,
    from: Option<StandbyNumber>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    number: StandbyNumber,
    subject: String,
    headers: Option<Vec<(String, String)>>,
    reply: Option<String>,
    len: usize,
}

impl Ingest {
    /// Leads from now on, when all that is left is known.
    pub(super) async fn lead(&self, term: Term) {
        let is_ready = async {
            self.wants.is_complete().await;
            // What is published from now on we hear ourselves.
            let _ = self.core.flush().await;
            self.log_is_read().await;
        };
        if tokio::time::timeout(SEE_WITHIN, is_ready).await.is_err() {
            tracing::warn!("the log is not read to its end; messages of NATS may be stored again");
        }
        let nodes = self.others().await;
        let stop = Question { term, from: None };
        join_all(nodes.iter().map(|info| self.ask(&info.node, &stop))).await;
        if tokio::time::timeout(SEE_WITHIN, self.log_is_read()).await.is_err() {
            tracing::warn!("what the last leader stored is not read to its end; messages of NATS may be stored again");
        }
        let others = join_all(nodes.iter().map(|info| self.left_of(&info.node, term))).await;
        // What they had heard when they answered we have heard when this is answered.
        let _ = self.core.flush().await;
        let mut state = self.state.lock();
        if !state.terms.lead(term, Instant::now()) {
            tracing::debug!(term = term.0, "somebody leads in a later term");
            return;
        }
        let left = others.into_iter().fold(state.standby.take().collect(), standby::merge);
        let count = left.len();
        let dropped = left.into_iter().filter_map(|message| (!state.queue(message)).then_some(())).count();
        drop(state);
        self.metrics.dropped(DropReason::QueueFull, dropped as u64);
        self.wake.notify_one();
        tracing::info!(term = term.0, left = count, "this sidecar copies messages of NATS into the log");
    }

    /// Waits until all that is in our logs is seen.
    async fn log_is_read(&self) {
        for log in self.logs.all().into_iter().filter(|log| !log.is_attached()) {
            let Ok(end) = log.log.last_sequence().await else { continue };
            while log.tail_sequence().0 < end {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }

    /// Where a node is asked what is left.
    fn left_subject(&self, node: &str) -> String {
        format!("{}.{node}", self.left)
    }

    /// Everybody who may have heard something.
    async fn others(&self) -> Vec<NodeInfo> {
        self.nodes.alive().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "nobody can be asked what the last leader has left");
            Vec::new()
        })
    }

    async fn ask(&self, node: &str, question: &Question) -> Option<Bytes> {
        let question = serde_json::to_vec(question).unwrap_or_default();
        match self.core.request(&self.left_subject(node), question.into(), ANSWER_WITHIN).await {
            Ok(page) => Some(page),
            // It has died, and its lease has not ended.
            Err(RequestError::Nobody) => None,
            Err(error) => {
                tracing::warn!(node, %error, "a sidecar does not say what the last leader has left");
                None
            }
        }
    }

    async fn left_of(&self, node: &str, term: Term) -> Vec<CoreMessage> {
        let (mut all, mut bytes, mut from) = (Vec::new(), 0, StandbyNumber(0));
        // Nobody keeps more than that, so whoever has more is not one of us.
        while all.len() <= standby::MESSAGES_MAX && bytes <= standby::BYTES_MAX {
            let Some(page) = self.ask(node, &Question { term, from: Some(from) }).await else { break };
            let page = read_page(page);
            let Some(next) = behind(from, &page) else { break };
            from = next;
            bytes += page.iter().map(|(_, message)| message.payload.len()).sum::<usize>();
            all.extend(page.into_iter().map(|(_, message)| message));
        }
        all
    }

    /// Answers a new leader. `None` to what is no question.
    async fn tell_what_is_left(&self, question: &[u8]) -> Option<Bytes> {
        let Question { term, from } = serde_json::from_slice(question).ok()?;
        // The news may be on their way.
        self.heard(term);
        let Some(from) = from else {
            let _ = tokio::time::timeout(SEE_WITHIN_ASKED, self.nothing_is_in_flight()).await;
            return Some(Bytes::new());
        };
        if from == StandbyNumber(0) {
            let _ = tokio::time::timeout(SEE_WITHIN_ASKED, self.log_is_read()).await;
        }
        let size_max = self.core.max_payload().saturating_sub(HEAD_ROOM);
        let (state, mut page) = (self.state.lock(), BytesMut::new());
        if state.terms.newest() > term {
            // It leads no more, and another one asks.
            return Some(Bytes::new());
        }
        for (number, message) in state.standby.from(from) {
            let frame = frame(number, message)?;
            if !page.is_empty() && page.len() + frame.len() > PAGE_BYTES.min(size_max) {
                break;
            }
            // One that is too large for an answer cannot be told.
            if frame.len() <= size_max {
                page.extend_from_slice(&frame);
            }
        }
        Some(page.freeze())
    }

    /// Answers new leaders under the name of a node, until what this returns is dropped.
    pub(crate) async fn serve_left(self: &Arc<Self>, node: &str) -> Option<Served> {
        let ingest = Arc::clone(self);
        let answer = move |question: Bytes| {
            let ingest = Arc::clone(&ingest);
            async move { ingest.tell_what_is_left(&question).await }
        };
        let served = self.core.serve(&self.left_subject(node), answer).await;
        served.inspect_err(|error| tracing::warn!(%error, "the other sidecars cannot ask what is left")).ok()
    }
}

fn frame(number: StandbyNumber, message: &CoreMessage) -> Option<BytesMut> {
    let text = |text: &ByteString| text.to_string();
    let headers = message.headers.as_ref();
    let head = Head {
        number,
        subject: text(&message.subject),
        headers: headers.map(|all| all.iter().map(|(name, value)| (text(name), text(value))).collect()),
        reply: message.reply.as_ref().map(text),
        len: message.payload.len(),
    };
    let head = serde_json::to_vec(&head).ok()?;
    let mut frame = BytesMut::with_capacity(4 + head.len() + message.payload.len());
    frame.put_u32_le(u32::try_from(head.len()).ok()?);
    frame.put_slice(&head);
    frame.put_slice(&message.payload);
    Some(frame)
}

/// From where on the page behind this one is asked for. `None`: this was the last one, or is none that was asked for.
fn behind(from: StandbyNumber, page: &[(StandbyNumber, CoreMessage)]) -> Option<StandbyNumber> {
    let (last, _) = page.last()?;
    last.0.checked_add(1).filter(|_| *last >= from).map(StandbyNumber)
}

/// The messages of a page, with their numbers. What is malformed ends it.
fn read_page(mut page: Bytes) -> Vec<(StandbyNumber, CoreMessage)> {
    let mut all = Vec::new();
    while page.len() >= 4 {
        let head_len = page.get_u32_le() as usize;
        if page.len() < head_len {
            break;
        }
        let Ok(head) = serde_json::from_slice::<Head>(&page.split_to(head_len)) else { break };
        if page.len() < head.len {
            break;
        }
        let headers =
            head.headers.map(|all| all.into_iter().map(|(name, value)| (name.into(), value.into())).collect());
        let message = CoreMessage {
            subject: head.subject.into(),
            headers,
            payload: page.split_to(head.len),
            reply: head.reply.map(ByteString::from),
            status: None,
        };
        all.push((head.number, message));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_as_it_was_written_and_no_other() {
        let message = |payload: &'static [u8], headers, reply| CoreMessage {
            subject: "a.ü".into(),
            headers,
            payload: Bytes::from_static(payload),
            reply,
            status: None,
        };
        let messages = [
            message(b"\0\xff\n", None, None),
            message(b"", Some(vec![("A".into(), "1".into()), ("A".into(), "".into())]), Some("_INBOX.x".into())),
        ];
        let mut page = BytesMut::new();
        for (number, message) in (7..).zip(&messages) {
            page.extend_from_slice(&frame(StandbyNumber(number), message).unwrap());
        }
        let page = page.freeze();
        let read = read_page(page.clone());
        assert_eq!(read.iter().map(|(number, _)| number.0).collect::<Vec<_>>(), [7, 8]);
        for ((_, read), message) in read.iter().zip(&messages) {
            assert_eq!(format!("{read:?}"), format!("{message:?}"));
        }
        for end in 0..page.len() {
            assert!(read_page(page.slice(..end)).len() < 2);
        }
        assert!(read_page(Bytes::from_static(b"\xff\xff\xff\xff{}")).is_empty());
    }

    #[test]
    fn whoever_goes_back_is_not_asked_again() {
        let message =
            CoreMessage { subject: "a".into(), headers: None, payload: Bytes::new(), reply: None, status: None };
        for (from, last, expected) in [
            (0, None, None),
            (0, Some(0), Some(1)),
            (7, Some(9), Some(10)),
            (7, Some(6), None),
            (0, Some(u64::MAX), None),
        ] {
            let page: Vec<_> = last.map(|last| (StandbyNumber(last), message.clone())).into_iter().collect();
            assert_eq!(behind(StandbyNumber(from), &page), expected.map(StandbyNumber), "{from} {last:?}");
        }
    }
}
