//! Who listens to a subject.
//!
//! nats-server says "no responders" only when nobody at all is subscribed, and one subscription to everything, whoever has it
//! and on whichever server, ends that for the whole account. So nothing depends on it. Who is there is asked: a message that
//! is only traced (`Nats-Trace-Only`, nats-server 2.11) is delivered to nobody and stored nowhere, and each server that would
//! have handed it on says to whom.
//!
//! What JetStream listens to as `$JS.>` for its own purposes is not said: direct gets, pulls, acknowledgements. Nobody is asked
//! about that. That a stream has a subject is said.
//!
//! **Invariant:** that nobody listens is said only when every server that has to say something has said it. Whatever is not
//! understood listens.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use nats_wire::Message;
use serde::Deserialize;
use tokio::time::Instant;

use super::client::Client;
use super::looks::Look;
use super::outgoing::Outbound;

/// Where servers say what they would do with the message.
const TRACE_DEST: &str = "Nats-Trace-Dest";
/// They only say it.
const TRACE_ONLY: &str = "Nats-Trace-Only";
/// The message has come from another server.
const TRACE_HOP: &str = "Nats-Trace-Hop";
/// Begins subjects on which servers listen without saying so.
const UNSAID: &[u8] = b"$JS.";
/// A connection of a client, as servers call it.
const KIND_CLIENT: u8 = 0;

/// How long a look may take; then nothing is known.
const LOOK_WITHIN: Duration = Duration::from_millis(800);

/// Who would be handed a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Listener {
    /// A client.
    Client {
        /// Of its connection, as it calls itself.
        name: String,
        /// What it is subscribed to.
        subscription: String,
        /// As a member of a queue group, which may have others: a server names one, and another one each time.
        is_in_group: bool,
    },
    /// JetStream, an import, another part of a server, or somebody that we do not understand.
    Other,
}

impl Listener {
    /// Whether it may be who serves the subject, as sidecars and JetStream do: not somebody who listens to more than that.
    fn serves(&self, subject: &[u8]) -> bool {
        match self {
            Self::Client { subscription, .. } => subscription.as_bytes() == subject,
            Self::Other => true,
        }
    }
}

/// What one server says.
#[derive(Deserialize)]
struct Trace<'a> {
    #[serde(borrow, default)]
    request: TracedRequest<'a>,
    /// Servers that the message went on to.
    #[serde(default)]
    hops: usize,
    #[serde(borrow)]
    events: Vec<TraceEvent<'a>>,
}

#[derive(Default, Deserialize)]
struct TracedRequest<'a> {
    #[serde(borrow, default)]
    header: HashMap<Cow<'a, str>, serde_json::Value>,
}

#[derive(Deserialize)]
struct TraceEvent<'a> {
    #[serde(borrow, rename = "type")]
    what: Cow<'a, str>,
    kind: Option<u8>,
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    hop: Option<Cow<'a, str>>,
    #[serde(borrow)]
    sub: Option<Cow<'a, str>>,
    #[serde(borrow)]
    queue: Option<Cow<'a, str>>,
    #[serde(borrow)]
    error: Option<Cow<'a, str>>,
}

/// What has been said so far.
#[derive(Debug, Default)]
struct Said {
    listeners: Vec<Listener>,
    /// Whether the server that we are connected to has said something.
    is_begun: bool,
    heard: usize,
    expected: usize,
}

impl Said {
    /// Takes what one server says; `None` when it does not know.
    fn take(&mut self, payload: &[u8]) -> Option<()> {
        let trace: Trace<'_> = serde_json::from_slice(payload).ok()?;
        self.is_begun |= !trace.request.header.contains_key(TRACE_HOP);
        self.heard += 1;
        self.expected += trace.hops;
        for event in trace.events {
            let has_failed = event.error.is_some_and(|error| !error.is_empty());
            match &*event.what {
                "in" if has_failed => return None,
                "in" | "sm" => {}
                "eg" if event.kind == Some(KIND_CLIENT) => {
                    let text = |text: Option<Cow<'_, str>>| text.unwrap_or_default().into_owned();
                    let (name, subscription) = (text(event.name), text(event.sub));
                    let is_in_group = event.queue.is_some_and(|group| !group.is_empty());
                    self.listeners.push(Listener::Client { name, subscription, is_in_group });
                }
                "eg" if event.hop.is_some() && !has_failed => {}
                _ => self.listeners.push(Listener::Other),
            }
        }
        Some(())
    }

    const fn is_complete(&self) -> bool {
        self.is_begun && self.heard > self.expected
    }
}

impl Client {
    /// Who would be handed a message to a subject. `None` when nobody can say in time.
    pub(crate) async fn listeners(&self, subject: &[u8], within: Duration) -> Option<Vec<Listener>> {
        if subject.starts_with(UNSAID) {
            return None;
        }
        let deadline = Instant::now() + within;
        let mut asked = self.ask_many().ok()?;
        let headers = [
            (ByteString::from_static(TRACE_DEST), ByteString::from(asked.reply.as_str())),
            (ByteString::from_static(TRACE_ONLY), ByteString::from_static("true")),
        ];
        let payload = Bytes::new();
        self.try_publish(&Outbound { subject, headers: &headers, ..Outbound::plain("", &payload) }).ok()?;
        let mut said = Said::default();
        while !said.is_complete() {
            let answer: Message = tokio::time::timeout_at(deadline, asked.answer.recv()).await.ok()??;
            said.take(answer.payload())?;
        }
        Some(said.listeners)
    }

    /// Whether it is known that nobody serves a subject, whoever else listens to it, at some moment after `sent_at`.
    pub(super) async fn is_unserved(&self, subject: &[u8], sent_at: Instant) -> bool {
        let (looks, now) = (self.looks(), Instant::now());
        // Another request may have found out.
        if looks.lock().unserved.get(subject).is_some_and(|asked_at| *asked_at > sent_at) {
            return true;
        }
        let Some(_look) = Look::begin(looks, now) else { return false };
        let listeners = self.listeners(subject, LOOK_WITHIN).await;
        let is_unserved = listeners.is_some_and(|all| !all.iter().any(|listener| listener.serves(subject)));
        if is_unserved {
            looks.lock().note_unserved(subject, now);
        }
        is_unserved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(hop: Option<&str>, hops: usize, events: &str) -> String {
        let header = hop.map_or_else(String::new, |hop| format!(r#","Nats-Trace-Hop":["{hop}"]"#));
        let header = format!(r#"{{"Nats-Trace-Dest":["i.1"]{header}}}"#);
        let hops = if hops > 0 { format!(r#""hops":{hops},"#) } else { String::new() };
        let ingress = r#"{"type":"in","kind":0,"cid":7,"name":"us","acc":"$G","subj":"s"}"#;
        let comma = if events.is_empty() { "" } else { "," };
        format!(
            r#"{{"server":{{"name":"n"}},"request":{{"header":{header}}},{hops}"events":[{ingress}{comma}{events}]}}"#
        )
    }

    fn client(name: &str, subscription: &str) -> Listener {
        Listener::Client { name: name.to_owned(), subscription: subscription.to_owned(), is_in_group: false }
    }

    #[test]
    fn it_is_known_who_listens_when_every_server_has_spoken_in_whichever_order() {
        let here = trace(
            None,
            2,
            r#"{"type":"eg","kind":0,"cid":5,"name":"o","sub":">"},{"type":"eg","kind":1,"name":"s2","hop":"1"},
            {"type":"eg","kind":1,"name":"s3","hop":"2"}"#,
        );
        let (second, third) = (
            trace(Some("1"), 0, ""),
            trace(Some("2"), 0, r#"{"type":"eg","kind":0,"cid":9,"name":"svc","sub":"s","queue":"g"}"#),
        );
        for order in [[&here, &second, &third], [&third, &second, &here], [&second, &here, &third]] {
            let mut said = Said::default();
            for (count, trace) in order.into_iter().enumerate() {
                assert!(!said.is_complete(), "{count}");
                said.take(trace.as_bytes()).unwrap();
            }
            assert!(said.is_complete());
            said.listeners.sort_by_key(|listener| format!("{listener:?}"));
            let svc = Listener::Client { name: "svc".to_owned(), subscription: "s".to_owned(), is_in_group: true };
            assert_eq!(said.listeners, [client("o", ">"), svc]);
        }
    }

    #[test]
    fn what_is_not_understood_listens_and_what_failed_says_nothing() {
        let listeners = |events: &str| {
            let mut said = Said::default();
            said.take(trace(None, 0, events).as_bytes()).map(|()| said.listeners)
        };
        for (events, expected) in [
            ("", vec![]),
            (r#"{"type":"eg","kind":0,"cid":5,"sub":"s.*"}"#, vec![client("", "s.*")]),
            (r#"{"type":"eg","kind":0,"cid":5,"sub":">","error":"slow"}"#, vec![client("", ">")]),
            (r#"{"type":"eg","kind":1,"name":"s2","hop":"1","error":"no support"}"#, vec![Listener::Other]),
            (r#"{"type":"eg","kind":5,"sub":"s"}"#, vec![Listener::Other]),
            (r#"{"type":"eg","kind":4,"name":"leaf"}"#, vec![Listener::Other]),
            (r#"{"type":"js","stream":"S"}"#, vec![Listener::Other]),
            (r#"{"type":"si","acc":"$SYS","from":"s","to":"t"}"#, vec![Listener::Other]),
            (r#"{"type":"of the future"}"#, vec![Listener::Other]),
        ] {
            assert_eq!(listeners(events), Some(expected), "{events}");
        }
        for bad in ["", "{}", "[]", r#"{"events":[{}]}"#, r#"{"events":[{"type":"in","error":"denied"}]}"#] {
            assert_eq!(Said::default().take(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn who_listens_to_more_than_a_subject_does_not_serve_it() {
        let serves = |listener: Listener| listener.serves(b"$NMQ.x");
        assert!(serves(client("", "$NMQ.x")) && serves(Listener::Other));
        assert!(!serves(client("", ">")) && !serves(client("", "$NMQ.>")) && !serves(client("", "$NMQ.*")));
    }
}
