//! Who leads, of several that believe it: the one with the latest term. Each knows only what it has heard.
//!
//! Terms ascend as long as the bucket that they come from is not made anew, so what was heard counts for a while only.

use std::time::{Duration, Instant};

use crate::account::lead::Term;

/// How long it counts that somebody has a later term: longer than an election takes.
const COUNTS_FOR: Duration = Duration::from_secs(30);

/// The terms that one sidecar knows of.
#[derive(Debug, Default)]
pub(super) struct Terms {
    /// The one in which we lead.
    ours: Option<Term>,
    /// The latest that anybody has, also one in which nobody leads yet: it is held from before its holder knows all
    /// that the last one has left.
    newest: Term,
    /// When it was heard of.
    heard_at: Option<Instant>,
}

impl Terms {
    /// Whether we lead.
    pub(super) const fn is_leading(&self) -> bool {
        self.ours.is_some()
    }

    /// The latest term that was heard of.
    pub(super) const fn newest(&self) -> Term {
        self.newest
    }

    /// Somebody has this term. Returns whether we lead in an earlier one, and have to stop.
    pub(super) fn hear(&mut self, term: Term, now: Instant) -> bool {
        let is_forgotten = self.heard_at.is_none_or(|at| now.saturating_duration_since(at) > COUNTS_FOR);
        if term >= self.newest || is_forgotten {
            (self.newest, self.heard_at) = (term, Some(now));
        }
        self.ours.is_some_and(|ours| ours < term)
    }

    /// We lead from now on, unless somebody has a later term by now.
    pub(super) fn lead(&mut self, term: Term, now: Instant) -> bool {
        self.hear(term, now);
        self.ours = (self.newest == term).then_some(term);
        self.is_leading()
    }

    /// We lead no more.
    pub(super) const fn stop(&mut self) {
        self.ours = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_hears_of_a_later_term_before_it_leads_does_not_lead() {
        let (mut terms, now) = (Terms::default(), Instant::now());
        assert!(!terms.hear(Term(10), now) && !terms.is_leading());
        assert!(!terms.hear(Term(12), now), "there is nothing to stop");
        assert!(!terms.lead(Term(10), now) && !terms.is_leading());
        assert!(terms.lead(Term(12), now) && terms.is_leading());
    }

    #[test]
    fn a_later_term_stops_an_earlier_one_and_not_the_other_way_round() {
        let (mut terms, now) = (Terms::default(), Instant::now());
        assert!(terms.lead(Term(7), now));
        assert!(!terms.hear(Term(7), now) && !terms.hear(Term(3), now));
        assert!(terms.hear(Term(8), now));
        terms.stop();
        assert!(!terms.is_leading() && terms.newest() == Term(8));
    }

    #[test]
    fn terms_that_begin_anew_are_led_in_after_a_while() {
        let (mut terms, now) = (Terms::default(), Instant::now());
        terms.hear(Term(1_000), now);
        assert!(!terms.lead(Term(5), now + COUNTS_FOR));
        assert!(terms.lead(Term(5), now + COUNTS_FOR + Duration::from_millis(1)));
    }
}
