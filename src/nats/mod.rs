//! Our links to nats-server: the driver of `nats-wire`.
//!
//! # Layout
//! - `url`, `pool`: servers, and which is tried next; `tls`, `ws`, `stream`: how one is reached
//! - `handshake`: from a byte stream to a connection that stands; `options`: who we are and what the link is for
//! - `link`: the one task of a link; `outgoing`: what it writes; `connection`: what it reads
//! - `client`: what others hold of a link; `shared`: what they have in common with its task
//! - `subscriptions`, `queue`, `subscriber`: from a subscription to whoever reads it; `requests`: questions and answers;
//!   `listeners`: who is there to answer; `looks`: how often that is asked
//! - `trial`: a connection with somebody else's credentials
//! - `counts`: what was skipped, dropped and connected anew
//!
//! Not here: JetStream, and what a subject or a header means.
//!
//! **Invariant:** a message never ends a link. What cannot be understood is one message, skipped and counted.
//!
//! **Invariant:** what is handed over is written on the connection that stood then, or not at all. Nothing waits for a
//! reconnect: whoever gave it away hours ago has forgotten it, or sent it again. So after a reconnect the subscriptions come
//! first, and nothing stands before what is handed over then.
//!
//! **Invariant:** a link is one task, however many subscriptions it has; a subscription ends when its handle is dropped.
//!
//! **Invariant:** everything that waits has a limit: commands (`queue_max`, `QUEUE_BYTES_MAX`), messages of a subscription and
//! bytes of a queue ([`QueueLimits`]), servers of a pool (`DISCOVERED_MAX`).

mod client;
mod connection;
mod counts;
mod error;
mod handshake;
mod link;
mod listeners;
mod looks;
mod options;
mod outgoing;
#[cfg(test)]
pub(crate) mod pipes;
mod pool;
mod queue;
mod requests;
mod shared;
mod stream;
mod subscriber;
mod subscriptions;
mod tls;
pub(crate) mod trial;
mod url;
mod ws;

pub(crate) use client::{Client, Subscription};
pub use counts::{LinkCounts, SkipReason};
pub(crate) use error::{ConnectError, PublishError, RequestFailure};
pub(crate) use link::{ABANDONED, connect};
pub(crate) use listeners::Listener;
pub(crate) use nats_wire::Message;
pub(crate) use options::{Event, LinkOptions, Login, TlsFiles};
pub(crate) use outgoing::Outbound;
pub(crate) use queue::{OnFull, Queue, QueueLimits};
pub(crate) use shared::LinkState;
pub(crate) use subscriber::Subscriber;
pub(crate) use tls::wrap as wrap_in_tls;
pub(crate) use url::ServerUrl;

#[cfg(test)]
pub(crate) mod tests;
