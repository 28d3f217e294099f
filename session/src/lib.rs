//! One MQTT client's session as a state machine without I/O: it is told the time and what happened, and answers with
//! what to do. It knows control packets, not bytes; log sequences, not NATS.
//!
//! # Layout
//!
//! - [`Handshake`]: from a CONNECT to who the client is, with AUTH back and forth where it names a method
//! - [`negotiate`](negotiate()): from a CONNECT to what both sides agreed on, and its CONNACK
//! - [`Session`]: the connected session; [`Session::handle`] takes one [`Input`] and appends [`Output`]s, which the
//!   caller carries out, in order, before the next input
//! - `reauthentication`: the same exchange once more, of a client that is connected
//! - `exchange`: inputs and outputs; `held`: outputs that wait until the progress is saved
//! - `inbound`: what the client publishes, until it is acknowledged
//! - [`Progress`]: what a session that outlives its connection must not forget, and must have saved before it goes on
//! - `outbound`: what the client is sent at QoS 1 and 2, until it acknowledges
//! - [`Position`]: where a message is stored; its [`Sequence`] there; [`Cursors`]
//! - [`Feed`]: where the session reads in a log: live, behind, or catching up
//!
//! Deliberately absent: sockets, clocks, subscription matching, permissions, storage.

mod exchange;
mod feed;
mod handshake;
mod held;
mod inbound;
mod negotiate;
mod outbound;
mod position;
mod progress;
mod reauthentication;
mod session;

use std::time::Duration;

pub use exchange::{Close, Input, Left, Output, Publication, SubscribeRequest, UnsubscribeRequest};
pub use feed::{Feed, FeedState, Offer};
pub use handshake::{
    CHALLENGES_MAX, Credentials, Handshake, HandshakeInput, HandshakeStep, NoAnswer, Patience, Unwelcome, Verdict,
    Welcome,
};
pub use inbound::{Once, Token};
pub use negotiate::{Limits, Negotiated, Parameters, negotiate};
pub use outbound::Resend;
pub use position::{Cursors, GONE, LOG_MAX, Position, Sequence};
pub use progress::{InFlightState, MessageId, MessageNumber, Progress, ProgressVersion, ReceivedState, Save};
pub use reauthentication::Evidence;
pub use session::Session;

/// Milliseconds since any fixed point. The caller's clock; never read inside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Time {
    /// So much later. Less than a millisecond is nothing.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How much later this is; nothing when it is earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}
