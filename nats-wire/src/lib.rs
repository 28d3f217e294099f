//! The NATS client protocol, from the client's side: what a server sends is decoded, what a client sends is encoded.
//!
//! # Layout
//! - [`Decoder`]: bytes to [`ServerOp`]s, incrementally; [`Limits`]: what it is ready to hold
//! - [`Message`]: one MSG or HMSG, in the bytes that it came in; [`HeaderBlock`]: its headers, in their order
//! - [`encode`]: CONNECT, PUB, HPUB, SUB, UNSUB, PING, PONG
//! - [`ServerInfo`], [`ConnectInfo`]: the JSON of INFO and CONNECT
//!
//! Not here: sockets, time, subscriptions, and what a subject or a header means.
//!
//! **Invariant:** subjects, header names and header values are bytes. Arguments end at an ASCII space or tab and nowhere else,
//! because that is where nats-server ends them; a subject may hold anything else, valid UTF-8 or not.
//!
//! **Invariant:** what cannot be understood of one message is that message skipped: its length stands in its control line. Only
//! a length that cannot be believed ends the stream of bytes ([`FrameError`]), because nobody knows where the next line begins.
//!
//! **Invariant:** sizes are checked before anything is buffered.

mod args;
mod decode;
pub mod encode;
mod error;
mod headers;
mod info;
mod limits;
mod message;

pub use decode::{Decoder, ServerOp};
pub use encode::{Publish, can_publish, can_subscribe, subscribe_len};
pub use error::{EncodeError, FrameError, Skipped};
pub use headers::{HeaderBlock, HeaderLine};
pub use info::{ConnectInfo, InfoError, ServerInfo};
pub use limits::Limits;
pub use message::Message;
