//! Whether a will has to be published, must not be, or may be, and from when on.
//!
//! A *life* is one connection of a client with a will of its own. What decides is what the client knows for sure: when it was
//! let in, when it last heard of the server, how it ended, and whether a later connection of the same client id came before
//! the will was due. What it cannot know is [`Expectation::Maybe`].
//!
//! - A CONNECT that was refused has no will; one without an answer may have one.
//! - DISCONNECT 0x00 takes it back [MQTT-3.14.4-3] when the server has closed behind it. When the sidecar was killed, drained
//!   or without a lease meanwhile, nobody knows whether it was read.
//! - Every other end makes it due [MQTT-3.1.2-8]: DISCONNECT 0x04, a lost socket, the keep alive, a connection that takes over,
//!   a sidecar that is killed, drains, or lost its lease.
//! - Due is after the delay, or with the session, whichever is first [MQTT-3.1.3-9]; not before it, counted from when the server
//!   was last heard of, as it may have lost the client at any time behind that.
//! - A connection that goes on with the session before that, and is let in in time, takes it back [MQTT-3.1.3-9]. One that comes
//!   later does not, but a server that was away itself cannot know how late it is: that is a Maybe, unless the sidecar on which
//!   the first one ended is the one of the second, and was there all the time.
//! - One with clean start ends the session, and the will is due at once.

/// Milliseconds of the clock of this machine, which is that of all its processes.
pub(crate) type Ms = u64;

/// A goodbye is answered within this time, or nobody knows.
const GOODBYE_MS: Ms = 5_000;

/// How CONNECT was answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Connect {
    /// Not at all.
    #[default]
    Unanswered,
    Refused,
    Accepted,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum End {
    /// Nobody knows.
    #[default]
    Unknown,
    /// By DISCONNECT 0x00.
    Goodbye {
        sent: Ms,
        closed: Option<Ms>,
        /// The server said something first, or its sidecar had to end the connection for reasons of its own.
        is_disturbed: bool,
    },
    /// By DISCONNECT 0x04, a reset, silence, or whatever the server does.
    Lost,
}

/// A later CONNECT of the same client id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Successor {
    pub(crate) accepted: Option<Ms>,
    pub(crate) is_clean: bool,
    /// It came when the will was due for sure, to the sidecar that had lost the first one and was there all the time.
    pub(crate) is_late: bool,
}

/// One connection with a will.
#[derive(Clone, Debug, Default)]
pub(crate) struct Life {
    /// What is known of it, for people.
    pub(crate) story: String,
    pub(crate) client_id: String,
    /// Where it is.
    pub(crate) sidecar: usize,
    pub(crate) qos: u8,
    pub(crate) is_retained: bool,
    /// How long after the end of the connection the will is due: the delay, or the session's expiry if that is shorter.
    pub(crate) due_after_ms: Ms,
    /// The session ends with the connection, so a newcomer may find it alive or not.
    pub(crate) is_short: bool,
    pub(crate) connect: Connect,
    /// When the server was last heard of; first when CONNECT was sent.
    pub(crate) alive: Ms,
    /// At least so long after that, the server cannot have given up.
    pub(crate) keep_alive_ms: Ms,
    pub(crate) end: End,
    pub(crate) successors: Vec<Successor>,
}

/// What is expected of a will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expectation {
    Never,
    Maybe { not_before: Ms },
    Due { not_before: Ms },
}

/// What was wrong with a will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WillFault {
    Lost,
    Unwanted,
    Twice,
    Early,
}

impl Life {
    pub(crate) fn expectation(&self) -> Expectation {
        let not_before = self.alive + self.keep_alive_ms + self.due_after_ms;
        let maybe = Expectation::Maybe { not_before };
        match (self.connect, self.end) {
            (Connect::Refused, _) => Expectation::Never,
            (Connect::Unanswered, _) | (_, End::Unknown) => Expectation::Maybe { not_before: self.alive },
            (_, End::Goodbye { sent, closed, is_disturbed }) => {
                let is_taken_back = !is_disturbed && closed.is_some_and(|closed| closed <= sent + GOODBYE_MS);
                if is_taken_back { Expectation::Never } else { maybe }
            }
            (_, End::Lost) => self.when_lost(not_before),
        }
    }

    fn when_lost(&self, not_before: Ms) -> Expectation {
        let (due, maybe) = (Expectation::Due { not_before }, Expectation::Maybe { not_before });
        let at_once = self.alive;
        let (mut is_perhaps_resumed, mut is_perhaps_over) = (false, false);
        for successor in &self.successors {
            match successor {
                Successor { accepted: Some(_), is_clean: true, .. } if is_perhaps_resumed => {
                    return Expectation::Maybe { not_before: at_once };
                }
                Successor { accepted: Some(_), is_clean: true, .. } => {
                    return Expectation::Due { not_before: at_once };
                }
                Successor { accepted: Some(_), .. } if self.due_after_ms == 0 => {
                    return if self.is_short { maybe } else { due };
                }
                Successor { accepted: Some(at), .. } if *at < self.alive + self.due_after_ms && !is_perhaps_over => {
                    return Expectation::Never;
                }
                Successor { accepted: Some(_), is_late, .. } => {
                    let is_due = *is_late && !is_perhaps_resumed;
                    let not_before = if is_perhaps_over { at_once } else { not_before };
                    return if is_due { Expectation::Due { not_before } } else { Expectation::Maybe { not_before } };
                }
                Successor { accepted: None, is_clean: true, .. } => is_perhaps_over = true,
                Successor { accepted: None, .. } => is_perhaps_resumed = true,
            }
        }
        let not_before = if is_perhaps_over { at_once } else { not_before };
        if is_perhaps_resumed && (self.due_after_ms > 0 || self.is_short) {
            return Expectation::Maybe { not_before };
        }
        Expectation::Due { not_before }
    }

    /// A sidecar that loses its lease ends connections for reasons of its own, and cannot know what becomes of their wills. One that
    /// is without lease for a while and takes it again cannot either: others may have adopted what it has.
    /// `lost`: from when to when that of this life was.
    pub(crate) fn forgive(&mut self, lost: &[(Ms, Ms)]) {
        const ABOUT_MS: Ms = 1_000;
        let find = |from: Ms, to: Ms| lost.iter().find(|lost| lost.1 + ABOUT_MS >= from && lost.0 <= to + ABOUT_MS);
        let is_lost = |from: Ms, to: Ms| find(from, to).is_some();
        if let End::Goodbye { sent, closed, is_disturbed } = &mut self.end {
            *is_disturbed |= is_lost(*sent, closed.unwrap_or(*sent));
        }
        let alive = self.alive;
        if let Some((from, _)) = find(alive, alive + 2 * self.keep_alive_ms) {
            (self.alive, self.keep_alive_ms) = (alive.min(*from), 0);
        }
        for successor in &mut self.successors {
            successor.is_late &= !is_lost(alive, successor.accepted.unwrap_or(alive));
        }
    }

    /// Compares with what the log has of it. `first`: when it was stored.
    pub(crate) fn fault(&self, times: u64, first: Option<Ms>) -> Option<WillFault> {
        /// What clocks of two processes and their rounding may differ by.
        const ROUNDING_MS: Ms = 20;
        let expectation = self.expectation();
        match expectation {
            _ if times > 1 => Some(WillFault::Twice),
            Expectation::Never => (times > 0).then_some(WillFault::Unwanted),
            Expectation::Due { .. } if times == 0 => Some(WillFault::Lost),
            Expectation::Due { not_before } | Expectation::Maybe { not_before } => {
                first.filter(|first| first + ROUNDING_MS < not_before).map(|_| WillFault::Early)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(due_after_ms: Ms, successors: &[Successor]) -> Life {
        Life {
            due_after_ms,
            connect: Connect::Accepted,
            alive: 10_000,
            end: End::Lost,
            successors: successors.to_vec(),
            ..Life::default()
        }
    }

    const fn back(accepted: Option<Ms>, is_clean: bool) -> Successor {
        Successor { accepted, is_clean, is_late: false }
    }

    #[test]
    fn a_lost_connection_makes_it_due_after_its_delay() {
        assert_eq!(lost(3_000, &[]).expectation(), Expectation::Due { not_before: 13_000 });
        let silent = Life { keep_alive_ms: 3_000, ..lost(0, &[]) };
        assert_eq!(silent.expectation(), Expectation::Due { not_before: 13_000 });
    }

    #[test]
    fn who_comes_back_before_the_delay_is_over_takes_it_back() {
        assert_eq!(lost(3_000, &[back(Some(12_900), false)]).expectation(), Expectation::Never);
        // Too late, and nobody knows how the server sees it, or when it is one that knows.
        let late = back(Some(13_000), false);
        assert_eq!(lost(3_000, &[late]).expectation(), Expectation::Maybe { not_before: 13_000 });
        let known = Successor { is_late: true, ..late };
        assert_eq!(lost(3_000, &[known]).expectation(), Expectation::Due { not_before: 13_000 });
        // Without a delay it is due whoever comes.
        assert_eq!(lost(0, &[back(Some(10_001), false)]).expectation(), Expectation::Due { not_before: 10_000 });
    }

    #[test]
    fn a_clean_start_ends_the_session_and_its_will_is_due_at_once() {
        assert_eq!(lost(3_000, &[back(Some(11_000), true)]).expectation(), Expectation::Due { not_before: 10_000 });
    }

    #[test]
    fn a_connect_without_an_answer_leaves_it_open() {
        let doubtful = lost(3_000, &[back(None, false)]);
        assert_eq!(doubtful.expectation(), Expectation::Maybe { not_before: 13_000 });
        let cancelled = lost(3_000, &[back(None, false), back(Some(12_000), false)]);
        assert_eq!(cancelled.expectation(), Expectation::Never);
        let cleaned = lost(3_000, &[back(None, true), back(Some(12_000), false)]);
        assert_eq!(cleaned.expectation(), Expectation::Maybe { not_before: 10_000 });
        assert_eq!(lost(0, &[back(None, false)]).expectation(), Expectation::Due { not_before: 10_000 });
        let unanswered = Life { connect: Connect::Unanswered, ..lost(3_000, &[]) };
        assert_eq!(unanswered.expectation(), Expectation::Maybe { not_before: 10_000 });
    }

    #[test]
    fn a_goodbye_that_was_heard_takes_it_back() {
        let said =
            |closed, is_disturbed| Life { end: End::Goodbye { sent: 11_000, closed, is_disturbed }, ..lost(0, &[]) };
        assert_eq!(said(Some(11_100), false).expectation(), Expectation::Never);
        for doubtful in [said(Some(11_100), true), said(Some(17_000), false), said(None, false)] {
            assert_eq!(doubtful.expectation(), Expectation::Maybe { not_before: 10_000 });
        }
        let refused = Life { connect: Connect::Refused, ..lost(0, &[]) };
        assert_eq!(refused.expectation(), Expectation::Never);
    }

    #[test]
    fn a_lost_lease_explains_much() {
        let end = End::Goodbye { sent: 11_000, closed: Some(11_100), is_disturbed: false };
        let mut life =
            Life { end, keep_alive_ms: 3_000, ..lost(0, &[Successor { is_late: true, ..back(Some(15_000), false) }]) };
        life.forgive(&[(5_000, 5_000), (30_000, 30_000)]);
        assert_eq!((life.expectation(), life.keep_alive_ms), (Expectation::Never, 3_000));
        life.forgive(&[(11_900, 11_900)]);
        assert_eq!((life.expectation(), life.keep_alive_ms), (Expectation::Maybe { not_before: 10_000 }, 0));
        assert!(!life.successors[0].is_late);
        let mut adopted = Life { keep_alive_ms: 3_000, ..lost(0, &[]) };
        adopted.forgive(&[(8_000, 10_500)]);
        assert_eq!(adopted.expectation(), Expectation::Due { not_before: 8_000 }, "others had it before it knew");
    }

    #[test]
    fn what_the_log_has_is_compared() {
        let due = lost(3_000, &[]);
        assert_eq!(due.fault(1, Some(13_000)), None);
        assert_eq!(due.fault(0, None), Some(WillFault::Lost));
        assert_eq!(due.fault(2, Some(13_000)), Some(WillFault::Twice));
        assert_eq!(due.fault(1, Some(12_500)), Some(WillFault::Early));
        let never = lost(3_000, &[back(Some(11_000), false)]);
        assert_eq!((never.fault(0, None), never.fault(1, Some(13_000))), (None, Some(WillFault::Unwanted)));
    }
}
