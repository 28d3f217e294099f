//! How fast one client is read while those who publish most are read from later. All have the same cap, and only who sends more
//! notices it.
//!
//! No clock: it is told when a second is over.

/// Slower nobody is read, bytes a second: a client that is held back has to be able to say PINGREQ and acknowledge.
const LEAST: u64 = 16 * 1024;

/// A cap that is so many times what it was first is none any more.
const GONE_AT: u64 = 16;

/// The cap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cap {
    /// Bytes a second, now and when it began.
    now: Option<(u64, u64)>,
}

impl Cap {
    /// Bytes a second of one client.
    pub(crate) fn bytes_per_second(self) -> Option<u64> {
        self.now.map(|(cap, _)| cap)
    }

    /// A second is over, in which so many bytes came from so many clients. It begins with what each would have if all sent the same,
    /// which holds back who sends more than that; it is halved as long as that does not help, and doubled when it has.
    pub(crate) fn next(self, is_needed: bool, bytes: u64, clients: u64) -> Self {
        let now = match (self.now, is_needed) {
            (None, false) => None,
            (None, true) => {
                let mean = (bytes / clients.max(1)).max(LEAST);
                Some((mean, mean))
            }
            (Some((cap, first)), true) => Some(((cap / 2).max(LEAST), first)),
            (Some((cap, first)), false) => {
                Some((cap.saturating_mul(2), first)).filter(|(cap, first)| *cap / GONE_AT < *first)
            }
        };
        Self { now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_begins_at_the_mean_tightens_while_it_is_needed_and_goes_by_steps() {
        let mut cap = Cap::default();
        assert_eq!(cap.next(false, 1 << 30, 10), Cap::default());
        // Eight loud ones among three hundred that are silent.
        cap = cap.next(true, 300 << 20, 300);
        assert_eq!(cap.bytes_per_second(), Some(1 << 20));
        cap = cap.next(true, 8 << 20, 300);
        assert_eq!(cap.bytes_per_second(), Some(512 << 10));
        let tightest = (0..20).fold(cap, |cap, _| cap.next(true, 0, 300));
        assert_eq!(tightest.bytes_per_second(), Some(LEAST));
        let mut steps = 0;
        let mut loosened = tightest;
        while let Some(before) = loosened.bytes_per_second() {
            loosened = loosened.next(false, 0, 300);
            steps += 1;
            assert!(loosened.bytes_per_second().is_none_or(|now| now == before * 2));
        }
        assert!((5..20).contains(&steps), "{steps} seconds");
        // Needed again on the way out, it goes on from where it is.
        let half = tightest.next(false, 0, 1).next(true, 0, 1);
        assert_eq!(half.bytes_per_second(), Some(LEAST));
    }

    #[test]
    fn nobody_is_read_so_slowly_that_it_is_silent() {
        assert_eq!(Cap::default().next(true, 10, 100_000).bytes_per_second(), Some(LEAST));
        assert_eq!(Cap::default().next(true, 10, 0).bytes_per_second(), Some(LEAST));
    }
}
