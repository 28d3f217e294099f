//! From a stored or core message to the sessions that get it.
//!
//! - `logs`: which streams are read, and which of them owns a subject; `message`, `segments`: messages, and their bytes for clients
//! - `router`, `subscriptions`: who gets a message; `grant`: what of it; `core_subscriptions`: what core NATS is asked for; `subscribing`: SUBSCRIBE
//! - `inbox`: what waits for a session; `catch_up`: sessions behind the tail; `retained`: retained messages at SUBSCRIBE
//! - `backlog`: what sessions are owed that the log is about to lose

pub(in crate::account) mod backlog;
pub(in crate::account) mod catch_up;
pub(in crate::account) mod core_subscriptions;
pub(crate) mod grant;
pub(in crate::account) mod inbox;
pub(in crate::account) mod logs;
pub(in crate::account) mod message;
pub(in crate::account) mod retained;
pub(in crate::account) mod router;
pub(in crate::account) mod segments;
pub(in crate::account) mod subscribing;
pub(in crate::account) mod subscriptions;

#[cfg(test)]
mod tests;
