//! Payloads that several have, counted once for as long as one of them has it: clients have them that have not the message any more.
//!
//! **Invariant:** who keeps a payload for ever (the index of retained messages) has it as it is and holds nothing for it; what is
//! held is held by those who will be done with it.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;

use super::budget::Budget;
use super::held::Held;

/// A payload on its way, and what is held for it.
#[derive(Debug)]
struct Loan {
    payload: Bytes,
    _held: Held,
}

impl Loan {
    fn of(budget: &'static Budget, payload: Bytes) -> Self {
        let held = Held::exactly(budget, payload.len());
        Self { payload, _held: held }
    }
}

/// Has a part in a loan.
struct Part(Arc<Loan>);

impl AsRef<[u8]> for Loan {
    fn as_ref(&self) -> &[u8] {
        &self.payload
    }
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.0.payload
    }
}

/// The same payload, counted until nobody has what is returned.
pub(crate) fn counted(budget: &'static Budget, payload: Bytes) -> Bytes {
    Bytes::from_owner(Loan::of(budget, payload))
}

/// Belongs to a payload that is kept, and remembers whether somebody has it beside who keeps it.
#[derive(Debug, Default)]
pub(crate) struct Lent(Mutex<Weak<Loan>>);

/// Who has a payload makes no difference to what it is.
impl PartialEq for Lent {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Eq for Lent {}

impl Lent {
    /// The payload that this belongs to, counted once for all who have it.
    pub(crate) fn lend(&self, budget: &'static Budget, payload: &Bytes) -> Bytes {
        let mut current = self.0.lock();
        let loan = current.upgrade().unwrap_or_else(|| {
            let loan = Arc::new(Loan::of(budget, payload.clone()));
            *current = Arc::downgrade(&loan);
            loan
        });
        Bytes::from_owner(Part(loan))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_that_is_kept_is_counted_once_while_somebody_has_it() {
        let budget: &'static Budget = Box::leak(Box::new(Budget::new()));
        let (kept, lent) = (Bytes::from(vec![7; 100_000]), Lent::default());
        let mut all: Vec<Bytes> = (0..50).map(|_| lent.lend(budget, &kept)).collect();
        assert_eq!(budget.held(), 100_000);
        assert!(all.iter().all(|lent| lent.as_ptr() == kept.as_ptr()), "it is one buffer");
        let last = all.pop();
        drop(all);
        assert_eq!(budget.held(), 100_000);
        // Also when it is not kept any more.
        drop((kept, lent));
        assert_eq!(budget.held(), 100_000);
        drop(last);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn it_is_counted_again_when_somebody_has_it_again() {
        let budget: &'static Budget = Box::leak(Box::new(Budget::new()));
        let (kept, lent) = (Bytes::from(vec![7; 10_000]), Lent::default());
        for _ in 0..3 {
            let part = lent.lend(budget, &kept);
            let clone = part.clone();
            drop(part);
            assert_eq!(budget.held(), 10_000);
            drop(clone);
            assert_eq!(budget.held(), 0);
        }
    }
}
