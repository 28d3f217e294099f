//! What the fuzz targets do, on their seeds and on texts near them: the targets themselves need a nightly compiler, and nobody builds
//! them with every change.

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;

#[path = "../../fuzz/bodies/jwt.rs"]
mod jwt;
#[path = "../../fuzz/bodies/permissions.rs"]
mod permissions;

/// The seeds of a target.
fn seeds(target: &str) -> Vec<String> {
    let files = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)).unwrap();
    let seeds: Vec<String> = files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect();
    assert!(!seeds.is_empty(), "{target} has no seeds");
    seeds
}

/// A seed in which some places have been overwritten.
fn near(target: &str, with: &'static str) -> impl Strategy<Value = String> + use<> {
    let edit = (any::<prop::sample::Index>(), 0..4_usize, with);
    (prop::sample::select(seeds(target)), vec(edit, 0..4)).prop_map(|(mut text, edits)| {
        for (at, cut, new) in edits {
            let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            let from = at.index(ends.len());
            text.replace_range(ends[from]..ends[(from + cut).min(ends.len() - 1)], &new);
        }
        text
    })
}

#[test]
fn every_seed_gets_past_what_would_stop_it() {
    assert!(seeds("jwt").iter().all(|seed| jwt::run(seed)), "its user does not get in");
    assert!(seeds("permissions").iter().all(|seed| permissions::run(seed)), "its filter is not granted");
}

proptest! {
    #[test]
    fn claims_near_those_that_are_known(text in near("jwt", "[\\[\\]{}\":,<OAU>a-z0-9.*-]{0,6}")) {
        jwt::run(&text);
    }

    #[test]
    fn permissions_near_those_that_are_known(text in near("permissions", "([ab.*>! q\n]|\\PC|\\{\\{client-id\\(\\)\\}\\}){0,4}")) {
        permissions::run(&text);
    }
}
