//! Which of several owners has a subject. Owners have filters, as streams have subjects; no two of them overlap, or the
//! first that was entered wins.

use std::collections::HashMap;

use bytestring::ByteString;

use crate::subject::matches;

/// Whether some subject matches both filters, by the rules of NATS.
#[must_use]
pub fn overlaps(one: &str, other: &str) -> bool {
    let (mut ones, mut others) = (one.split('.'), other.split('.'));
    loop {
        match (ones.next(), others.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
            _ => return false,
        }
    }
}

/// From subjects to their owners.
#[derive(Clone, Debug)]
pub struct SubjectMap<T> {
    exact: HashMap<ByteString, T>,
    wildcards: Vec<(ByteString, T)>,
}

impl<T> Default for SubjectMap<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), wildcards: Vec::new() }
    }
}

impl<T: Copy> SubjectMap<T> {
    /// Whether nobody has anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcards.is_empty()
    }

    /// Gives an owner the subjects that match a filter.
    pub fn insert(&mut self, filter: ByteString, owner: T) {
        if filter.split('.').any(|token| token == "*" || token == ">") {
            self.wildcards.push((filter, owner));
        } else {
            self.exact.entry(filter).or_insert(owner);
        }
    }

    /// The owner of a subject.
    #[must_use]
    pub fn get(&self, subject: &str) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        let exact = self.exact.get(subject).copied();
        exact.or_else(|| self.wildcards.iter().find(|(filter, _)| matches(filter, subject)).map(|(_, owner)| *owner))
    }

    /// The owners of subjects that match a filter too, some of them more than once.
    pub fn overlapping<'a>(&'a self, filter: &'a str) -> impl Iterator<Item = T> + 'a {
        let exact = self.exact.iter().filter(move |(subject, _)| matches(filter, subject)).map(|(_, owner)| *owner);
        exact.chain(self.wildcards.iter().filter(move |(other, _)| overlaps(filter, other)).map(|(_, owner)| *owner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every pair of filters over a small alphabet: they overlap when some subject matches both.
    #[test]
    fn filters_overlap_when_a_subject_matches_both() {
        let words = |alphabet: &[&str], max: usize| {
            let mut all: Vec<Vec<String>> = Vec::new();
            let mut last: Vec<Vec<String>> = vec![Vec::new()];
            for _ in 0..max {
                last = last
                    .iter()
                    .flat_map(|w| alphabet.iter().map(move |a| [w.clone(), vec![(*a).to_owned()]].concat()))
                    .collect();
                all.extend(last.clone());
            }
            all.into_iter().map(|tokens| tokens.join(".")).collect::<Vec<_>>()
        };
        let is_filter = |text: &String| !text.split('.').rev().skip(1).any(|token| token == ">");
        let filters: Vec<String> = words(&["a", "b", "*", ">"], 3).into_iter().filter(is_filter).collect();
        // A `>` is at least one token, so one token more than the longest filter is enough.
        let subjects = words(&["a", "b", "c"], 4);
        for one in &filters {
            for other in &filters {
                let expected = subjects.iter().any(|subject| matches(one, subject) && matches(other, subject));
                assert_eq!(overlaps(one, other), expected, "{one} {other}");
            }
        }
    }

    #[test]
    fn a_subject_has_the_owner_whose_filter_it_matches() {
        let mut map = SubjectMap::default();
        assert_eq!(map.get("a"), None);
        map.insert("orders.>".into(), 1);
        map.insert("orders".into(), 2);
        map.insert("*.x".into(), 3);
        assert_eq!(map.get("orders.new"), Some(1));
        assert_eq!(map.get("orders.x"), Some(1), "the first one wins");
        assert_eq!(map.get("orders"), Some(2));
        assert_eq!(map.get("a.x"), Some(3));
        assert_eq!(map.get("a.y"), None);
        let mut overlapping: Vec<i32> = map.overlapping("*").collect();
        overlapping.extend(map.overlapping("*.x"));
        assert_eq!(overlapping, [2, 1, 3]);
    }
}
