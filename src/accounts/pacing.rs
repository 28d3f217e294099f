//! Clients are let go in even steps: all at once they would come to the other sidecars all at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::account::{Control, Order};

/// Steps are no shorter than this: clients that are due within it go together.
const STEP_MIN: Duration = Duration::from_millis(10);

/// How many of `count` clients have been let go so long after the beginning: the first at once, the last one step before the end.
fn due(count: usize, over: Duration, elapsed: Duration) -> usize {
    if elapsed >= over {
        return count;
    }
    let steps = (count as u128) * elapsed.as_nanos() / over.as_nanos();
    usize::try_from(steps).unwrap_or(usize::MAX).saturating_add(1).min(count)
}

/// How long after the beginning more than `gone` of `count` are to go.
fn next_at(gone: usize, count: usize, over: Duration) -> Duration {
    if count == 0 {
        return Duration::ZERO;
    }
    let nanos = (over.as_nanos() * gone as u128).div_ceil(count as u128);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Lets clients go over this time. Those whose CONNECT is not answered go at once: nothing is begun for them any more.
pub(super) async fn let_go(clients: Vec<Arc<Control>>, over: Duration) {
    let (answered, arriving): (Vec<_>, Vec<_>) = clients.into_iter().partition(|control| control.is_answered());
    arriving.iter().for_each(|control| control.order(Order::Drain));
    let (began, count) = (Instant::now(), answered.len());
    let mut waiting = answered.into_iter();
    loop {
        let gone = count - waiting.len();
        let more = due(count, over, began.elapsed()) - gone;
        waiting.by_ref().take(more).for_each(|control| control.order(Order::Drain));
        if waiting.len() == 0 {
            return;
        }
        let next = began + next_at(count - waiting.len(), count, over);
        tokio::time::sleep_until(next.max(Instant::now() + STEP_MIN)).await;
    }
}

/// Those of several accounts in turn, so that none of them waits until another one is empty.
pub(super) fn in_turn<T>(of_accounts: Vec<Vec<T>>) -> Vec<T> {
    let mut places: Vec<(usize, usize, T)> = Vec::new();
    for clients in of_accounts {
        let count = clients.len();
        // By how much of its account is before it.
        places.extend(clients.into_iter().enumerate().map(|(at, client)| (at, count, client)));
    }
    places.sort_by(|(at, count, _), (other, others, _)| (at * others).cmp(&(other * count)));
    places.into_iter().map(|(_, _, client)| client).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn clients_go_in_even_steps() {
        for (count, elapsed_ms, expected) in [
            (0, 0, 0),
            (1, 0, 1),
            (4, 0, 1),
            (4, 249, 1),
            (4, 250, 2),
            (4, 500, 3),
            (4, 750, 4),
            (4, 2_000, 4),
            (10_000, 0, 1),
            (10_000, 500, 5_001),
            (10_000, 999, 9_991),
        ] {
            assert_eq!(due(count, SECOND, Duration::from_millis(elapsed_ms)), expected, "{count} {elapsed_ms}");
        }
        assert_eq!(due(7, Duration::ZERO, Duration::ZERO), 7, "all at once");
    }

    #[test]
    fn the_next_step_is_when_one_more_is_due() {
        for count in [1, 2, 3, 7, 1_000, 10_007] {
            for gone in 1..count {
                let next = next_at(gone, count, SECOND);
                assert!(due(count, SECOND, next) > gone, "{gone} of {count}");
                let just_before = next.saturating_sub(Duration::from_nanos(1));
                assert!(due(count, SECOND, just_before) <= gone, "{gone} of {count}");
            }
        }
    }

    #[test]
    fn accounts_become_empty_together() {
        let of = |name: char, count: usize| vec![name; count];
        let all: String = in_turn(vec![of('a', 6), of('b', 2), of('c', 0), of('d', 1)]).into_iter().collect();
        assert_eq!(all, "abdaaabaa");
    }
}
