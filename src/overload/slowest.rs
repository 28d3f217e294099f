//! Who loses what waits at QoS 0, when somebody has to: those for whom most waits, until it is half of all that waits.

/// Whoever has less waiting than this keeps it, bytes: nothing is gained by what is in flight anyway.
const KEPT: usize = 8 * 1024;

/// Who has this many bytes or more waiting loses them; `None`: nobody has to. `waiting`: what waits for each, which is put in order.
pub(crate) fn cut_of(waiting: &mut [usize]) -> Option<usize> {
    waiting.sort_unstable_by(|a, b| b.cmp(a));
    let all: usize = waiting.iter().sum();
    let mut lost = 0;
    let mut cut = None;
    for bytes in waiting.iter().copied().take_while(|bytes| *bytes > KEPT) {
        if lost * 2 >= all {
            break;
        }
        lost += bytes;
        cut = Some(bytes);
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_lose_what_waits_until_half_of_it_is_gone() {
        const K: usize = 1_024;
        for (waiting, cut) in [
            (vec![], None),
            (vec![K, 2 * K, 8 * K], None),
            (vec![K, 100 * K, 2 * K], Some(100 * K)),
            (vec![100 * K, 90 * K, 10 * K, 9 * K], Some(90 * K)),
            // All of those who have as much as the last one that is needed.
            (vec![50 * K; 10], Some(50 * K)),
        ] {
            assert_eq!(cut_of(&mut waiting.clone()), cut, "{waiting:?}");
        }
    }
}
