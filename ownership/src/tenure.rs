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
use std::time::Duration;

use super::state::Revision;

/// A time by the holder's own clock: how long it is since a moment that is the same one for all of its times.
pub type Moment = Duration;

/// Tells a put of the holder from its other ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutNumber(pub u64);

/// Puts that may be stored without our knowing; of more the oldest is forgotten.
const PUTS_MAX: usize = 64;

/// The times of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenureTimes {
    /// How often it is refreshed.
    pub refresh_every: Duration,
    /// Behind the last refresh: the holder does not rely on it any more. Below its lifetime at the server.
    pub fence_after: Duration,
    /// Behind the last refresh: the holder gives up.
    pub give_up_after: Duration,
    /// How long whoever was not heard for a while is heard before it judges others.
    pub settle: Duration,
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
    Ours(PutNumber, Revision),
    /// No lease; the next put has to expect this.
    Nobody(Revision),
    /// That of somebody else of our name.
    Theirs,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TenureStep {
    /// Wait until then.
    Wait(Moment),
    /// Wait a moment, longer each time in a row.
    Pause,
    /// Put the lease, if this is there, under a number that no other put has.
    Put {
        /// What has to be there.
        expected: Revision,
        /// Tells it from other puts.
        number: PutNumber,
    },
    /// See what is there.
    Look,
    /// Nothing: it is lost.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sent {
    number: PutNumber,
    at: Moment,
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
    sent: Moment,
    gaps: u32,
    /// Puts that may be stored although we do not know it.
    puts: VecDeque<Sent>,
    number: PutNumber,
    at: At,
    /// When a put was last known to be stored.
    heard: Moment,
    /// Since when that came about as often as it should.
    steady: Moment,
}

impl Tenure {
    /// One that was taken by a put that was sent then and is stored at this revision.
    #[must_use]
    pub const fn new(times: TenureTimes, revision: Revision, sent: Moment, now: Moment) -> Self {
        Self {
            times,
            revision,
            sent,
            gaps: 0,
            puts: VecDeque::new(),
            number: PutNumber(0),
            at: At::Waiting,
            heard: now,
            steady: now,
        }
    }

    /// Of the last put that is known to be stored.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// When that was sent.
    #[must_use]
    pub const fn sent(&self) -> Moment {
        self.sent
    }

    /// How it stands.
    #[must_use]
    pub fn standing(&self, now: Moment) -> Standing {
        if self.at == At::Over || now >= self.sent + self.times.give_up_after {
            Standing::Lost
        } else if now >= self.held_until() {
            Standing::InDoubt
        } else {
            Standing::Held { gaps: self.gaps }
        }
    }

    /// Until when it is held, should nothing happen.
    #[must_use]
    pub fn held_until(&self) -> Moment {
        self.sent + self.times.fence_after
    }

    /// When its standing changes, should nothing happen.
    #[must_use]
    pub fn changes_at(&self, now: Moment) -> Moment {
        let held_until = self.held_until();
        if now < held_until { held_until } else { self.sent + self.times.give_up_after }
    }

    /// From when on the holder may say of others that their leases have ended; `None` while it is not heard itself.
    ///
    /// **Invariant:** when nothing was stored for anybody, nobody judges before all have had time to be heard again.
    #[must_use]
    pub fn judges_from(&self, now: Moment) -> Option<Moment> {
        let is_heard = matches!(self.standing(now), Standing::Held { .. }) && self.is_steady(now);
        is_heard.then_some(self.steady + self.times.settle)
    }

    fn is_steady(&self, now: Moment) -> bool {
        now <= self.heard + self.times.refresh_every * 3 / 2
    }

    /// The first thing to do.
    #[must_use]
    pub fn begin(&self) -> TenureStep {
        TenureStep::Wait(self.sent + self.times.refresh_every)
    }

    /// What happened, and what to do next.
    pub fn handle(&mut self, now: Moment, input: TenureInput) -> TenureStep {
        let next = self.take(now, input);
        if self.standing(now) == Standing::Lost {
            self.at = At::Over;
            return TenureStep::End;
        }
        next
    }

    fn take(&mut self, now: Moment, input: TenureInput) -> TenureStep {
        match (self.at, input) {
            (At::Over, _) => TenureStep::End,
            (At::Putting(put), TenureInput::Stored(revision)) => {
                self.is_stored(now, put, revision);
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
                let forgotten = Sent { number, at: self.sent, takes: true };
                let put = self.puts.iter().find(|put| put.number == number).copied();
                // The very first has no number of its own in the list.
                let put = if revision == self.revision { None } else { Some(put.unwrap_or(forgotten)) };
                if let Some(put) = put {
                    self.is_stored(now, put, revision);
                }
                self.put(now, self.revision, false)
            }
            (At::Looking, TenureInput::Found(Found::Nobody(revision))) if self.times.is_taken_again => {
                self.put(now, revision, true)
            }
            (At::Looking, TenureInput::Found(Found::Nobody(_) | Found::Theirs)) => {
                self.at = At::Over;
                TenureStep::End
            }
            (At::Waiting, _) => self.put(now, self.revision, false),
            (At::Putting(_) | At::Looking, _) => {
                self.at = At::Waiting;
                TenureStep::Pause
            }
        }
    }

    fn put(&mut self, now: Moment, expected: Revision, takes: bool) -> TenureStep {
        self.number.0 += 1;
        let sent = Sent { number: self.number, at: now, takes };
        if self.puts.len() >= PUTS_MAX {
            self.puts.pop_front();
        }
        self.puts.push_back(sent);
        self.at = At::Putting(sent);
        TenureStep::Put { expected, number: sent.number }
    }

    fn is_stored(&mut self, now: Moment, put: Sent, revision: Revision) {
        self.gaps += u32::from(put.takes);
        self.revision = revision;
        self.sent = self.sent.max(put.at);
        // The others expect what was there before.
        self.puts.clear();
        if !self.is_steady(now) {
            self.steady = now;
        }
        self.heard = now;
    }
}
