//! The accounts that this process serves. The home account is there from the start to the end; any other is opened for the first
//! client of it, or for a duty, and closed when it has had neither for a while.
//!
//! ```text
//!               enter, or a duty                    nobody for IDLE
//!   not there ───────────────────▶ opening ─▶ open ────────────────▶ closing ─▶ not there
//!                                     └─ it cannot be served ─▶ refused ─ for a while ─▶ not there
//! ```
//!
//! # Layout
//! - `serving`: who enters, what opens and closes them; `room`: one account, from when it is wanted to when it is closed; `users`: how many
//!   connections a user has; `rates`: how fast all clients of a user or an account are heard together
//! - `banning`: ends those who are banned, and shares bans with other sidecars
//! - `duties`: accounts that are open although nobody is connected
//! - `pacing`: clients are let go in even steps
//!
//! **Invariant:** of an account no more than one [`Account`] is open in a process: who wants it while it is closing waits.
//!
//! **Invariant:** what one account waits for, no other waits for.

mod banning;
mod duties;
mod pacing;
mod rates;
mod room;
mod serving;
mod users;

use std::sync::Arc;

pub(crate) use banning::keep_bans;
pub(crate) use rates::Shared;
pub(crate) use room::{NotServed, Stay};
pub(crate) use serving::{Accounts, Opener, Opening};

use crate::account::Account;

/// Serves accounts beside a home account that is open. `most`: those that may be there beside it.
pub(crate) fn begin(home: Arc<Account>, opener: Box<dyn Opener>, most: usize) -> Arc<Accounts> {
    let accounts = Accounts::new(home, opener, most);
    if let Some(list) = accounts.home().store().accounts() {
        accounts.tasks().spawn(duties::keep(Arc::clone(&accounts), list.clone()));
    }
    accounts
}

#[cfg(test)]
mod tests;
