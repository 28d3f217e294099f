//! Who fails again and again waits for the answer. Only the refusal waits: who has the right password is not held up by those who
//! guess at it, nor by those behind the same address.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::time::Duration;

use foldhash::HashMap;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::network::network_of;

/// What the first refusal waits; each further one twice as long.
const DELAY_FIRST: Duration = Duration::from_millis(100);

/// What a refusal waits at most. It is below the time that judging may take.
pub(super) const DELAY_MAX: Duration = Duration::from_secs(4);

/// Who has not failed for so long has not failed.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// Addresses and users whose failures are known. What finds no room waits for as long as any.
const KNOWN_MAX: usize = 16_384;

/// Those that are to be forgotten are looked for at most so often when there is no room.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Failures of addresses and of users.
#[derive(Default)]
pub(super) struct Failures {
    hasher: RandomState,
    known: Mutex<Known>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Who {
    Address(IpAddr),
    /// By the hash of its name, which is as long as a device likes.
    User(u64),
}

#[derive(Default)]
struct Known {
    failures: HashMap<Who, (u32, Instant)>,
    swept: Option<Instant>,
}

impl Known {
    /// One more failure; how many there are by now, unless there is no room.
    fn count(&mut self, who: Who, now: Instant) -> Option<u32> {
        if let Some((count, last)) = self.failures.get_mut(&who) {
            *count = if now - *last < FORGOTTEN_AFTER { count.saturating_add(1) } else { 1 };
            *last = now;
            return Some(*count);
        }
        if self.failures.len() >= KNOWN_MAX && self.swept.is_none_or(|swept| now - swept >= SWEEP_EVERY) {
            self.swept = Some(now);
            self.failures.retain(|_, (_, last)| now - *last < FORGOTTEN_AFTER);
        }
        (self.failures.len() < KNOWN_MAX).then(|| {
            self.failures.insert(who, (1, now));
            1
        })
    }
}

impl Failures {
    /// An address has failed as a user, if it named one. How long its answer waits.
    pub(super) fn failed(&self, address: IpAddr, user: Option<&str>) -> Duration {
        let user = user.map(|user| Who::User(self.hasher.hash_one(user)));
        let (mut known, now) = (self.known.lock(), Instant::now());
        let all = [Some(Who::Address(network_of(address))), user];
        all.into_iter().flatten().map(|who| known.count(who, now).map_or(DELAY_MAX, delay)).max().unwrap_or(DELAY_FIRST)
    }
}

fn delay(failures: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
    DELAY_FIRST.saturating_mul(doubled).min(DELAY_MAX)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(last: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0A00_0000 + last).into()
    }

    #[tokio::test(start_paused = true)]
    async fn each_failure_waits_twice_as_long_up_to_a_limit_until_it_is_forgotten() {
        let failures = Failures::default();
        let mut waited = [100, 200, 400, 800, 1600, 3200, 4000, 4000].map(Duration::from_millis).into_iter();
        assert!(waited.by_ref().all(|wait| failures.failed(address(1), None) == wait));
        tokio::time::advance(FORGOTTEN_AFTER - Duration::from_millis(1)).await;
        assert_eq!(failures.failed(address(1), None), DELAY_MAX);
        tokio::time::advance(FORGOTTEN_AFTER).await;
        assert_eq!(failures.failed(address(1), None), DELAY_FIRST);
    }

    #[tokio::test(start_paused = true)]
    async fn the_address_counts_and_the_user_counts() {
        let failures = Failures::default();
        let _ = (failures.failed(address(1), Some("a")), failures.failed(address(1), Some("b")));
        assert_eq!(failures.failed(address(1), Some("c")).as_millis(), 400, "whatever the user is called");
        assert_eq!(failures.failed(address(2), Some("c")).as_millis(), 200, "wherever it comes from");
        assert_eq!(failures.failed(address(3), Some("d")), DELAY_FIRST);
        let network: [IpAddr; 2] = ["2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap()];
        let _ = failures.failed(network[0], None);
        assert_eq!(failures.failed(network[1], None).as_millis(), 200, "of one network");
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_an_end_to_who_is_known_and_who_is_not_waits_longest() {
        let failures = Failures::default();
        for number in 0..u32::try_from(KNOWN_MAX).unwrap() {
            assert_eq!(failures.failed(address(number), None), DELAY_FIRST);
        }
        assert_eq!(failures.failed(address(1 << 20), None), DELAY_MAX);
        assert_eq!(failures.known.lock().failures.len(), KNOWN_MAX);
        tokio::time::advance(FORGOTTEN_AFTER).await;
        assert_eq!(failures.failed(address(1 << 20), None), DELAY_FIRST);
        assert_eq!(failures.known.lock().failures.len(), 1);
    }
}
