//! Who of those who are alive does what all of them could do: rendezvous hashing. Everybody comes to the same answer without
//! asking, nobody has to do it for correctness' sake, and when one is gone only its part is divided anew.

/// The place of `node` among those alive who could do what `key` names: 0 does it, 1 does it when 0 does not, and so on.
pub(crate) fn place<'a>(key: &str, node: &str, alive: impl Iterator<Item = &'a str>) -> usize {
    let mine = (weight(key, node), node);
    alive.filter(|other| (weight(key, other), *other) > mine).count()
}

/// The same on every sidecar of every version: FNV-1a, mixed so that names that differ little have weights that differ much.
fn weight(key: &str, node: &str) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    // No UTF-8 text has this byte.
    let bytes = node.bytes().chain([0xff]).chain(key.bytes());
    let mut hash = bytes.fold(BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: [&str; 3] = ["00000000000000a1", "00000000000000a2", "00000000000000a3"];

    fn of(key: &str, node: &str, alive: &[&'static str]) -> usize {
        place(key, node, alive.iter().copied())
    }

    #[test]
    fn each_key_has_one_that_does_it_and_all_do_about_as_much() {
        let mut counts = [0; 3];
        for n in 0..9_000 {
            let key = format!("device-{n}");
            let mut places = NODES.map(|node| of(&key, node, &NODES));
            let first = places.iter().position(|place| *place == 0).unwrap();
            counts[first] += 1;
            places.sort_unstable();
            assert_eq!(places, [0, 1, 2], "{key}");
        }
        assert!(counts.iter().all(|count| (2_700..3_300).contains(count)), "{counts:?}");
    }

    #[test]
    fn when_one_is_gone_the_others_keep_what_they_have() {
        for n in 0..1_000 {
            let key = format!("device-{n}");
            let (before, after) = (of(&key, NODES[0], &NODES), of(&key, NODES[0], &NODES[..2]));
            assert!(after <= before && (before > 0 || after == 0), "{key}");
        }
    }

    #[test]
    fn every_version_divides_alike() {
        assert_eq!(weight("device-1", NODES[0]), 0x919e_8ec8_9549_6cbf);
    }
}
