//! Replies: how many to one request, and for how long.

use serde::{Deserialize, Serialize};

use crate::time::UnixTime;

/// What nats-server takes where a limit is 0: replies to one request.
const MAX_DEFAULT: i64 = 1;
/// What nats-server takes where a limit is 0: two minutes.
const TTL_NS_DEFAULT: i64 = 120_000_000_000;

/// `resp` of a JWT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResponseLimits {
    /// Replies to one request; 0 is one, negative is any number.
    pub max: i64,
    /// Nanoseconds in which they are allowed; 0 is two minutes, negative is for ever.
    #[serde(rename = "ttl")]
    pub ttl_ns: i64,
}

impl ResponseLimits {
    /// With what nats-server puts in the place of 0.
    #[must_use]
    pub const fn resolved(self) -> Self {
        Self {
            max: if self.max == 0 { MAX_DEFAULT } else { self.max },
            ttl_ns: if self.ttl_ns == 0 { TTL_NS_DEFAULT } else { self.ttl_ns },
        }
    }
}

/// What is left of the replies to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyBudget {
    limits: ResponseLimits,
    since: UnixTime,
    used: i64,
    over: bool,
}

impl ReplyBudget {
    /// Of a request that was handed to the user now.
    #[must_use]
    pub const fn new(limits: ResponseLimits, now: UnixTime) -> Self {
        Self { limits: limits.resolved(), since: now, used: 0, over: false }
    }

    /// Takes one reply; `false` when it is one too many or too late. After that all are.
    pub fn take(&mut self, now: UnixTime) -> bool {
        let age_ns = i64::try_from(now.since(self.since).as_nanos()).unwrap_or(i64::MAX);
        self.used = self.used.saturating_add(1);
        self.over |= self.limits.max > 0 && self.used > self.limits.max;
        self.over |= self.limits.ttl_ns > 0 && age_ns > self.limits.ttl_ns;
        !self.over
    }
}

#[cfg(test)]
mod tests {
    use super::{ReplyBudget, ResponseLimits};
    use crate::time::UnixTime;

    /// Limits, then when each reply comes and whether it is allowed.
    #[test]
    fn replies() {
        type Row<'a> = (i64, i64, &'a [(i64, bool)]);
        const TABLE: &[Row<'_>] = &[
            (0, 0, &[(0, true), (0, false)]),
            (0, 0, &[(120_000, true)]),
            (0, 0, &[(120_001, false), (0, false)]),
            (2, 1_000_000_000, &[(0, true), (1000, true), (1000, false)]),
            (2, 1_000_000_000, &[(1001, false)]),
            (-1, 1_000_000, &[(0, true), (1, true), (1, true), (2, false)]),
            (3, -1, &[(0, true), (i64::MAX, true), (0, true), (0, false)]),
            (-1, -1, &[(0, true), (i64::MAX, true)]),
        ];
        for (max, ttl_ns, replies) in TABLE {
            let mut budget = ReplyBudget::new(ResponseLimits { max: *max, ttl_ns: *ttl_ns }, UnixTime::from_millis(0));
            for (at, allowed) in *replies {
                assert_eq!(budget.take(UnixTime::from_millis(*at)), *allowed, "{max} {ttl_ns} {replies:?} at {at}");
            }
        }
    }
}
