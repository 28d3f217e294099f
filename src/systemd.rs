//! The service manager: what it is told, and what it has opened for us. Where none has started the process, nothing of it happens.
//!
//! # Layout
//! - `notify`: the words, and the socket that they go to.
//! - `sockets`: those that it has opened for us.
//! - `keeping`: who tells what when, while the process runs.

mod keeping;
mod notify;
mod sockets;

pub(crate) use keeping::{keep_alive, keep_starting, keep_told};
pub use notify::Notifier;
pub(crate) use sockets::{Claim, passed};
