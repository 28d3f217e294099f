//! How many connections are taken in a second, of all and of each address.

use std::net::IpAddr;

use foldhash::HashMap;
use parking_lot::Mutex;

use crate::rate::{Allowance, Bucket, Nanos};

/// Addresses of which it is known how often they have come. Whoever finds no room among them counts for all of them only.
const ADDRESSES_MAX: usize = 65_536;

/// Those that may be forgotten are looked for at most so often.
const SWEEP_EVERY: Nanos = 1_000_000_000;

/// Connections that come.
#[derive(Debug, Default)]
pub(super) struct Pacing {
    all: Mutex<Option<Bucket>>,
    addresses: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    buckets: HashMap<IpAddr, Bucket>,
    swept: Nanos,
}

impl Pacing {
    /// One more comes: whether it may.
    pub(super) fn takes(&self, allowance: Option<Allowance>, now: Nanos) -> bool {
        let Some(allowance) = allowance else { return true };
        let mut all = self.all.lock();
        take(all.get_or_insert_with(|| Bucket::new(allowance, now)), allowance, now)
    }

    /// One more comes of an address, which is one for all its neighbours in a network of IPv6: whether it may.
    pub(super) fn takes_address(&self, addr: IpAddr, allowance: Option<Allowance>, now: Nanos) -> bool {
        let Some(allowance) = allowance else { return true };
        let mut known = self.addresses.lock();
        if let Some(bucket) = known.buckets.get_mut(&addr) {
            return take(bucket, allowance, now);
        }
        known.make_room(now);
        if known.buckets.len() >= ADDRESSES_MAX {
            return true;
        }
        take(known.buckets.entry(addr).or_insert_with(|| Bucket::new(allowance, now)), allowance, now)
    }
}

impl Known {
    /// Forgets those that have not come for long: a bucket that is full is as good as a new one.
    fn make_room(&mut self, now: Nanos) {
        let is_full = self.buckets.len() >= ADDRESSES_MAX;
        if is_full && now.saturating_sub(self.swept) >= SWEEP_EVERY {
            self.swept = now;
            self.buckets.retain(|_, bucket| !bucket.is_full(now));
        }
    }
}

fn take(bucket: &mut Bucket, allowance: Allowance, now: Nanos) -> bool {
    if bucket.allowance() != allowance {
        bucket.change(allowance, now);
    }
    bucket.take(now)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::num::NonZeroU64;

    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    #[test]
    fn ten_million_addresses_have_an_end_and_who_is_known_is_still_held_to_its_rate() {
        let (pacing, one) = (Pacing::default(), Some(Allowance::new(NonZeroU64::MIN, None)));
        let addr = |number: u32| IpAddr::V4(Ipv4Addr::from_bits(number));
        assert!(pacing.takes_address(addr(0), one, SECOND) && !pacing.takes_address(addr(0), one, SECOND));
        assert!((1..10_000_000).all(|number| pacing.takes_address(addr(number), one, SECOND)));
        assert_eq!(pacing.addresses.lock().buckets.len(), ADDRESSES_MAX);
        assert!(!pacing.takes_address(addr(0), one, SECOND));
        assert!(pacing.takes_address(addr(0), one, 2 * SECOND), "what a second brings");
        // Those that have rested make room.
        assert!(pacing.takes_address(addr(10_000_000), one, 2 * SECOND));
        assert_eq!(pacing.addresses.lock().buckets.len(), 2);
        assert!(!pacing.takes_address(addr(10_000_000), one, 2 * SECOND));
    }
}
