//! The name of a node, held by a lease: when it is refreshed, whether its holder may rely on it, and when it gives up.
//!
//! ```text
//!   sent ── refresh_every ──▶ the next refresh is sent …
//!   sent ─────────────── fence_after ──▶ Held ─▶ InDoubt
//!   stored ──────────────────── ttl ──▶ the server lets it expire: the others see that, and take what is the node's
//!   sent ───────────────────────────────────── give_up_after ──▶ InDoubt ─▶ Lost
//!
//!   InDoubt ── a refresh is stored ──▶ Held          InDoubt ── nobody has it, and it is taken again ──▶ Held, behind a gap
//!   Held, InDoubt ── somebody else has the name ──▶ Lost
//! ```
//!
//! **Invariant:** what counts for the holder is when the last refresh that is known to be stored was *sent*, so `sent ≤ stored`
//! and, with `fence_after` below the lifetime, it is in doubt before anybody can see the lease as ended, however long the
//! acknowledgement took, and whether the process ran meanwhile or not.
//!
//! **Invariant:** whenever somebody may have seen the lease as ended, [`Standing::Held`] has another number of gaps behind that.
//!
//! A lease proves nothing about a session: each write of a session is compared with its record. It only says when others may take
//! without asking. So its end ends nothing that the node has; it makes it doubtful.

use std::collections::VecDeque;

use super::state::Revision;

/// Puts that may be stored without our knowing; of more the oldest is forgotten.
const PUTS_MAX: usize = 64;

/// The times of a lease, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenureTimes {
    /// How often it is refreshed.
    pub refresh_every_ms: u64,
    /// Behind the last refresh: the holder does not rely on it any more. Below its lifetime at the server.
    pub fence_after_ms: u64,
    /// Behind the last refresh: the holder gives up.
    pub give_up_after_ms: u64,
    /// How long whoever was not heard for a while is heard before it judges others.
    pub settle_ms: u64,
    /// One that has ended is taken again, when nobody else has it.
    pub is_taken_again: bool,
}

/// How a lease stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is held, for a while at least.
    Held {
        /// How often it had ended, as others may have seen, before it was taken again.
        gaps: u32,
    },
    /// It was not refreshed in time: others may see that it has ended.
    InDoubt,
    /// It was not refreshed for too long, or somebody else has the name. This is final.
    Lost,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TenureInput {
    /// What was waited for is over.
    Time,
    /// What was put is stored.
    Stored(Revision),
    /// It is not: something else is there than was expected.
    Refused,
    /// Nobody answered in time. A put may be stored all the same, now or later.
    NoAnswer,
    /// What is there.
    Found(Found),
}

/// What is in the place of the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The put of ours with this number.
    Ours(u64, Revision),
    /// No lease; the next put has to expect this.
    Nobody(Revision),
    /// That of somebody else of our name.
    Theirs,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TenureStep {
    /// Wait until then.
    Wait(u64),
    /// Wait a moment, longer each time in a row.
    Pause,
    /// Put the lease, if this is there, under a number that no other put has.
    Put {
        /// What has to be there.
        expected: Revision,
        /// Tells it from other puts.
        number: u64,
    },
    /// See what is there.
    Look,
    /// Nothing: it is lost.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sent {
    number: u64,
    at_ms: u64,
    /// It takes the lease when nobody has it.
    takes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Waiting,
    Putting(Sent),
    Looking,
    Over,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Tenure {
    times: TenureTimes,
    /// Of the last put that is known to be stored.
    revision: Revision,
    /// When that was sent.
    sent_ms: u64,
    gaps: u32,
    /// Puts that may be stored although we do not know it.
    puts: VecDeque<Sent>,
    number: u64,
    at: At,
    /// When a put was last known to be stored.
    heard_ms: u64,
    /// Since when that came about as often as it should.
    steady_ms: u64,
}

impl Tenure {
    /// One that was taken by a put that was sent then and is stored at this revision.
    #[must_use]
    pub const fn new(times: TenureTimes, revision: Revision, sent_ms: u64, now_ms: u64) -> Self {
        Self {
            times,
            revision,
            sent_ms,
            gaps: 0,
            puts: VecDeque::new(),
            number: 0,
            at: At::Waiting,
            heard_ms: now_ms,
            steady_ms: now_ms,
        }
    }

    /// Of the last put that is known to be stored.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// When that was sent, milliseconds.
    #[must_use]
    pub const fn sent_ms(&self) -> u64 {
        self.sent_ms
    }

    /// How it stands.
    #[must_use]
    pub fn standing(&self, now_ms: u64) -> Standing {
        if self.at == At::Over || now_ms >= self.sent_ms + self.times.give_up_after_ms {
            Standing::Lost
        } else if now_ms >= self.held_until_ms() {
            Standing::InDoubt
        } else {
            Standing::Held { gaps: self.gaps }
        }
    }

    /// Until when it is held, should nothing happen.
    #[must_use]
    pub const fn held_until_ms(&self) -> u64 {
        self.sent_ms + self.times.fence_after_ms
    }

    /// When its standing changes, should nothing happen.
    #[must_use]
    pub const fn changes_at_ms(&self, now_ms: u64) -> u64 {
        let held_until_ms = self.held_until_ms();
        if now_ms < held_until_ms { held_until_ms } else { self.sent_ms + self.times.give_up_after_ms }
    }

    /// From when on the holder may say of others that their leases have ended; `None` while it is not heard itself.
    ///
    /// **Invariant:** when nothing was stored for anybody, nobody judges before all have had time to be heard again.
    #[must_use]
    pub fn judges_from_ms(&self, now_ms: u64) -> Option<u64> {
        let is_heard = matches!(self.standing(now_ms), Standing::Held { .. }) && self.is_steady(now_ms);
        is_heard.then_some(self.steady_ms + self.times.settle_ms)
    }

    const fn is_steady(&self, now_ms: u64) -> bool {
        now_ms <= self.heard_ms + self.times.refresh_every_ms * 3 / 2
    }

    /// The first thing to do.
    #[must_use]
    pub const fn begin(&self) -> TenureStep {
        TenureStep::Wait(self.sent_ms + self.times.refresh_every_ms)
    }

    /// What happened, and what to do next.
    pub fn handle(&mut self, now_ms: u64, input: TenureInput) -> TenureStep {
        let next = self.take(now_ms, input);
        if self.standing(now_ms) == Standing::Lost {
            self.at = At::Over;
            return TenureStep::End;
        }
        next
    }

    fn take(&mut self, now_ms: u64, input: TenureInput) -> TenureStep {
        match (self.at, input) {
            (At::Over, _) => TenureStep::End,
            (At::Putting(put), TenureInput::Stored(revision)) => {
                self.is_stored(now_ms, put, revision);
                self.at = At::Waiting;
                self.begin()
            }
            (At::Putting(_), TenureInput::Refused) => {
                self.at = At::Looking;
                TenureStep::Look
            }
            // An earlier put of ours may be what stands there.
            (At::Looking, TenureInput::Found(Found::Ours(number, revision))) => {
                // One that is forgotten may have taken it.
                let forgotten = Sent { number, at_ms: self.sent_ms, takes: true };
                let put = self.puts.iter().find(|put| put.number == number).copied();
                // The very first has no number of its own in the list.
                let put = if revision == self.revision { None } else { Some(put.unwrap_or(forgotten)) };
                if let Some(put) = put {
                    self.is_stored(now_ms, put, revision);
                }
                self.put(now_ms, self.revision, false)
            }
            (At::Looking, TenureInput::Found(Found::Nobody(revision))) if self.times.is_taken_again => {
                self.put(now_ms, revision, true)
            }
            (At::Looking, TenureInput::Found(Found::Nobody(_) | Found::Theirs)) => {
                self.at = At::Over;
                TenureStep::End
            }
            (At::Waiting, _) => self.put(now_ms, self.revision, false),
            (At::Putting(_) | At::Looking, _) => {
                self.at = At::Waiting;
                TenureStep::Pause
            }
        }
    }

    fn put(&mut self, now_ms: u64, expected: Revision, takes: bool) -> TenureStep {
        self.number += 1;
        let sent = Sent { number: self.number, at_ms: now_ms, takes };
        if self.puts.len() >= PUTS_MAX {
            self.puts.pop_front();
        }
        self.puts.push_back(sent);
        self.at = At::Putting(sent);
        TenureStep::Put { expected, number: sent.number }
    }

    fn is_stored(&mut self, now_ms: u64, put: Sent, revision: Revision) {
        self.gaps += u32::from(put.takes);
        self.revision = revision;
        self.sent_ms = self.sent_ms.max(put.at_ms);
        // The others expect what was there before.
        self.puts.clear();
        if !self.is_steady(now_ms) {
            self.steady_ms = now_ms;
        }
        self.heard_ms = now_ms;
    }
}
