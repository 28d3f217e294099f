//! How many connections are taken in a second, of all and of each address.

use std::net::IpAddr;

use foldhash::HashMap;
use parking_lot::Mutex;

use crate::metrics::Limit;
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

/// A rate, and where it is counted.
pub(super) type Paced<'a> = (&'a Pacing, Option<Allowance>);

/// One more comes, from an address if it is known: whether it may, by the rate of all and by that of the address, which is one for
/// all its neighbours in a network of IPv6. It takes of both or of neither. What is of the address is looked at first: whoever asks
/// too often is told so.
pub(super) fn take(all: Paced<'_>, address: Option<(IpAddr, Paced<'_>)>, now: Nanos) -> Result<(), Limit> {
    // The lock of all before that of addresses.
    let mut of_all = all.1.map(|allowance| (all.0.all.lock(), allowance));
    let mut known = address.and_then(|(addr, (pacing, allowance))| Some((pacing.addresses.lock(), addr, allowance?)));
    let address = known.as_mut().and_then(|(known, addr, allowance)| known.bucket(*addr, *allowance, now));
    if address.as_ref().is_some_and(|bucket| bucket.tokens(now) == 0) {
        return Err(Limit::ConnectionRatePerAddress);
    }
    if let Some((bucket, allowance)) = &mut of_all
        && !as_allowed(bucket.get_or_insert_with(|| Bucket::new(*allowance, now)), *allowance, now).take(now)
    {
        return Err(Limit::ConnectionRate);
    }
    if let Some(bucket) = address {
        bucket.spend(1, now);
    }
    Ok(())
}

impl Known {
    /// That of an address, unless there is no room for one more.
    fn bucket(&mut self, addr: IpAddr, allowance: Allowance, now: Nanos) -> Option<&mut Bucket> {
        if !self.buckets.contains_key(&addr) {
            self.make_room(now);
            if self.buckets.len() >= ADDRESSES_MAX {
                return None;
            }
        }
        Some(as_allowed(self.buckets.entry(addr).or_insert_with(|| Bucket::new(allowance, now)), allowance, now))
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

/// A bucket that fills as it may now.
fn as_allowed(bucket: &mut Bucket, allowance: Allowance, now: Nanos) -> &mut Bucket {
    if bucket.allowance() != allowance {
        bucket.change(allowance, now);
    }
    bucket
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
        let takes = |number: u32, now| {
            let addr = IpAddr::V4(Ipv4Addr::from_bits(number));
            take((&pacing, None), Some((addr, (&pacing, one))), now).is_ok()
        };
        assert!(takes(0, SECOND) && !takes(0, SECOND));
        assert!((1..10_000_000).all(|number| takes(number, SECOND)));
        assert_eq!(pacing.addresses.lock().buckets.len(), ADDRESSES_MAX);
        assert!(!takes(0, SECOND));
        assert!(takes(0, 2 * SECOND), "what a second brings");
        // Those that have rested make room.
        assert!(takes(10_000_000, 2 * SECOND));
        assert_eq!(pacing.addresses.lock().buckets.len(), 2);
        assert!(!takes(10_000_000, 2 * SECOND));
    }

    #[test]
    fn whoever_is_refused_by_one_rate_has_taken_nothing_of_the_other() {
        let (pacing, addr) = (Pacing::default(), IpAddr::from([192, 0, 2, 1]));
        let rate = |burst| Some(Allowance::new(NonZeroU64::MIN, NonZeroU64::new(burst)));
        let takes = |all, address| take((&pacing, rate(all)), Some((addr, (&pacing, rate(address)))), SECOND);
        assert_eq!(takes(1, 3), Ok(()));
        assert!((0..10).all(|_| takes(1, 3) == Err(Limit::ConnectionRate)));
        // A second brings one to all; of the address two are left, and that one.
        let later = 2 * SECOND;
        let takes = |all| take((&pacing, all), Some((addr, (&pacing, rate(3)))), later);
        assert_eq!([takes(rate(1)), takes(None), takes(None)], [Ok(()); 3]);
        assert!((0..10).all(|_| takes(rate(1)) == Err(Limit::ConnectionRatePerAddress)));
        assert_eq!(take((&pacing, rate(1)), None, 3 * SECOND), Ok(()));
    }
}
