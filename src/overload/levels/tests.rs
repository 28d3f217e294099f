use super::*;

fn memory(permille: u64) -> Reading {
    Reading { memory_permille: permille, ..Reading::default() }
}

/// Takes readings, one each tenth of a second, and returns the levels in which that ended.
fn run(readings: impl IntoIterator<Item = Reading>) -> Vec<u8> {
    let mut levels = Levels::default();
    let mut seen = vec![0];
    for (n, reading) in readings.into_iter().enumerate() {
        if let Some(change) = levels.take(10_000 + n as u64 * 100, &reading) {
            assert_eq!(*seen.last().unwrap(), change.from as u8);
            assert_eq!((change.from as u8).abs_diff(change.to as u8), 1);
            seen.push(change.to as u8);
        }
    }
    seen
}

fn during(tenths: usize, reading: Reading) -> impl Iterator<Item = Reading> {
    std::iter::repeat_n(reading, tenths)
}

#[test]
fn memory_raises_the_level_by_steps_and_lowers_it_by_steps_when_it_is_calm() {
    assert_eq!(run(during(50, memory(799))), [0]);
    assert_eq!(run(during(1, memory(950))), [0, 1]);
    assert_eq!(run(during(50, memory(820))), [0, 1]);
    assert_eq!(run(during(50, memory(870))), [0, 1, 2]);
    assert_eq!(run(during(3, memory(950))), [0, 1, 2, 3]);
    // Between where a level begins and where it ends nothing changes.
    assert_eq!(run(during(3, memory(950)).chain(during(100, memory(850)))), [0, 1, 2, 3]);
    assert_eq!(run(during(3, memory(950)).chain(during(100, memory(849)))), [0, 1, 2, 3, 2]);
    assert_eq!(run(during(3, memory(950)).chain(during(100, memory(100)))), [0, 1, 2, 3, 2, 1, 0]);
    // Not two steps at once, and none before it was calm for a while.
    assert_eq!(run(during(3, memory(950)).chain(during(19, memory(100)))), [0, 1, 2, 3]);
    assert_eq!(run(during(3, memory(950)).chain(during(22, memory(100)))), [0, 1, 2, 3, 2]);
}

#[test]
fn what_may_be_a_hiccup_has_to_last() {
    let late = |lag_ms| Reading { lag_ms, ..Reading::default() };
    assert_eq!(run(during(29, late(9_999)).chain(during(50, late(0)))), [0]);
    assert_eq!(run(during(35, late(9_999))), [0, 1]);
    assert_eq!(run(during(100, late(9_999))), [0, 1, 2], "and never drops anything");
    assert_eq!(run(during(100, late(1_100)).chain(during(100, late(300)))), [0, 1]);
    assert_eq!(run(during(100, late(1_100)).chain(during(100, late(299)))), [0, 1, 0]);
    let slow = |publish_ms| Reading { publish_ms, ..Reading::default() };
    assert_eq!(run(during(100, slow(2_500))), [0, 1]);
    assert_eq!(run(during(100, slow(5_000))), [0, 1, 2]);
    // One that is good in between begins anew.
    let flickering = (0..200).map(|n| if n % 20 == 0 { slow(0) } else { slow(5_000) });
    assert_eq!(run(flickering), [0]);
}

#[test]
fn the_last_files_are_kept_and_nothing_else_is_done_for_them() {
    let left = |files| Reading { files_left: Some(files), ..Reading::default() };
    assert_eq!(run(during(100, left(1_000_000))), [0]);
    assert_eq!(run(during(100, left(33))), [0]);
    assert_eq!(run(during(100, left(32))), [0, 1]);
    assert_eq!(run(during(100, left(0)).chain(during(100, left(60)))), [0, 1]);
    assert_eq!(run(during(100, left(0)).chain(during(100, left(64)))), [0, 1, 0]);
}

#[test]
fn the_highest_level_that_is_asked_for_counts_and_says_why() {
    let mut levels = Levels::default();
    let reading = Reading { memory_permille: 820, files_left: Some(0), ..Reading::default() };
    assert_eq!(levels.take(0, &reading).map(|change| change.why), Some(Signal::Memory));
    let only_files = Reading { memory_permille: 10, ..reading };
    assert_eq!(levels.take(100_000, &only_files), None);
    let raised = levels.take(100_100, &memory(990)).unwrap();
    assert_eq!((raised.from, raised.to), (Level::Refuse, Level::ReadLater));
}

/// Signals that go up and down as they like: see the invariant of the module.
#[test]
fn levels_never_flap() {
    for seed in 1..200_u64 {
        let mut state = seed;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let (mut levels, mut now, mut last_change) = (Levels::default(), 0, 0);
        for _ in 0..5_000 {
            now += 50 + next(100);
            let reading = Reading {
                memory_permille: 700 + next(300),
                lag_ms: next(6_000),
                publish_ms: next(6_000),
                files_left: Some(next(200)),
            };
            let before = levels.level;
            let Some(change) = levels.take(now, &reading) else {
                assert_eq!(levels.level, before);
                continue;
            };
            assert_eq!((change.from, change.to), (before, levels.level), "seed {seed}");
            assert_eq!((change.from as u8).abs_diff(change.to as u8), 1, "seed {seed}");
            if change.to < change.from {
                assert!(now - last_change >= CALM_MS, "seed {seed}: {change:?} after {} ms", now - last_change);
            }
            last_change = now;
        }
        // Whatever was, calm is the end of it.
        for _ in 0..10 {
            now += CALM_MS;
            levels.take(now, &Reading::default());
        }
        assert_eq!(levels.level, Level::Normal, "seed {seed}");
    }
}
