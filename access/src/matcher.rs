//! A list of subjects with wildcards, compiled into a tree of tokens. A question costs at most as many steps as the tree has
//! tokens, and commonly as many as the subject has.

use std::collections::BTreeMap;

use crate::subject;

/// What a question is about: the same walk answers all of them, and differs in what a wildcard of the asked subject meets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Question {
    /// A wildcard of the subject is a token like any other, as nats-server treats one in a SUB: `foo.>` matches `foo.*`.
    Matches,
    /// One entry has to match all that the filter matches.
    Covers,
    /// One entry has to match something that the filter matches too.
    Overlaps,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    literals: BTreeMap<Box<[u8]>, usize>,
    /// The node of `*`.
    star: Option<usize>,
    /// An entry ends with `>` here.
    rest: bool,
    /// An entry ends here.
    end: bool,
}

/// The compiled list. Entries have to be valid subjects; the queue of an entry is not here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Matcher {
    nodes: Vec<Node>,
}

impl Default for Matcher {
    fn default() -> Self {
        Self { nodes: vec![Node::default()] }
    }
}

impl Matcher {
    pub(crate) fn insert(&mut self, entry: &str) {
        let mut at = 0;
        for token in entry.split('.') {
            if token == ">" {
                self.nodes[at].rest = true;
                return;
            }
            let new = self.nodes.len();
            let node = &mut self.nodes[at];
            at = match token {
                "*" => *node.star.get_or_insert(new),
                _ => *node.literals.entry(token.as_bytes().into()).or_insert(new),
            };
            if at == new {
                self.nodes.push(Node::default());
            }
        }
        self.nodes[at].end = true;
    }

    /// Whether an entry matches a subject. Of a filter: whether nats-server thinks so.
    pub(crate) fn matches(&self, subject: &[u8]) -> bool {
        self.answer(subject, Question::Matches)
    }

    /// Whether one entry matches all that a filter matches.
    pub(crate) fn covers(&self, filter: &[u8]) -> bool {
        self.answer(filter, Question::Covers)
    }

    /// Whether one entry matches something that a filter matches.
    pub(crate) fn overlaps(&self, filter: &[u8]) -> bool {
        self.answer(filter, Question::Overlaps)
    }

    /// No recursion: lists and subjects are of others. Every node is looked at once at most, since there is one way to it.
    fn answer(&self, asked: &[u8], question: Question) -> bool {
        if !subject::has_tokens(asked) {
            return false;
        }
        // Nodes that are still to be looked at, and what of the subject is left there.
        let mut open: Vec<(usize, Option<&[u8]>)> = Vec::new();
        let mut next = Some((0, Some(asked)));
        while let Some((node, rest)) = next.or_else(|| open.pop()) {
            next = None;
            let node = &self.nodes[node];
            let Some(rest) = rest else {
                if node.end {
                    return true;
                }
                continue;
            };
            if node.rest {
                return true;
            }
            let (token, rest) = split(rest);
            match (question, token) {
                (Question::Covers, b">") => {}
                // Something ends below each node.
                (Question::Overlaps, b">") if node.star.is_some() || !node.literals.is_empty() => return true,
                (Question::Overlaps, b"*") => {
                    open.extend(node.literals.values().chain(&node.star).map(|child| (*child, rest)));
                }
                _ => {
                    next = node.literals.get(token).map(|child| (*child, rest));
                    let star = node.star.map(|child| (child, rest));
                    match next {
                        Some(_) => open.extend(star),
                        None => next = star,
                    }
                }
            }
        }
        false
    }
}

/// The first token, and what follows it.
fn split(subject: &[u8]) -> (&[u8], Option<&[u8]>) {
    match subject.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&subject[..dot], Some(&subject[dot + 1..])),
        None => (subject, None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Matcher;
    use crate::subject;

    fn compiled(entries: &[String]) -> Matcher {
        let mut matcher = Matcher::default();
        entries.iter().for_each(|entry| matcher.insert(entry));
        matcher
    }

    /// A subject with few names, so that they meet.
    fn filter() -> impl Strategy<Value = String> {
        let tokens = prop::collection::vec(prop::sample::select(vec!["a", "b", "*", "a*"]), 1..5);
        (tokens, any::<bool>()).prop_map(|(tokens, rest)| {
            let text = tokens.join(".");
            if rest { text + ".>" } else { text }
        })
    }

    fn literal() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "a*"]), 1..6).prop_map(|tokens| tokens.join("."))
    }

    /// All literals of three names with as many tokens as can matter to a filter of five, plus one.
    fn universe() -> Vec<String> {
        let mut all = vec![String::new()];
        let mut subjects = Vec::new();
        for _ in 0..6 {
            all = all.iter().flat_map(|head| ["a", "b", "a*"].map(|name| format!("{head}.{name}"))).collect();
            subjects.extend(all.iter().map(|subject| subject[1..].to_owned()));
        }
        subjects
    }

    proptest! {
        #[test]
        fn matching_is_what_the_entries_say(entries in prop::collection::vec(filter(), 0..6), subject in literal()) {
            let expected = entries.iter().any(|entry| subject::is_subset(&subject, entry));
            prop_assert_eq!(compiled(&entries).matches(subject.as_bytes()), expected);
            prop_assert_eq!(compiled(&entries).covers(subject.as_bytes()), expected);
            prop_assert_eq!(compiled(&entries).overlaps(subject.as_bytes()), expected);
        }

        #[test]
        fn covering_is_that_one_entry_holds_all(entries in prop::collection::vec(filter(), 0..6), asked in filter()) {
            let expected = entries.iter().any(|entry| subject::is_subset(&asked, entry));
            prop_assert_eq!(compiled(&entries).covers(asked.as_bytes()), expected);
            prop_assert!(!expected || compiled(&entries).matches(asked.as_bytes()));
            prop_assert!(!expected || compiled(&entries).overlaps(asked.as_bytes()));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn overlapping_is_that_a_subject_is_in_both(entries in prop::collection::vec(filter(), 0..4), asked in filter()) {
            let matcher = compiled(&entries);
            let expected = universe()
                .iter()
                .any(|subject| subject::is_subset(subject, &asked) && matcher.matches(subject.as_bytes()));
            prop_assert_eq!(matcher.overlaps(asked.as_bytes()), expected);
        }
    }

    #[test]
    fn what_has_an_empty_token_matches_nothing() {
        let matcher = compiled(&[">".to_owned()]);
        for subject in ["", ".", "a.", ".a", "a..b"] {
            assert!(!matcher.matches(subject.as_bytes()) && !matcher.covers(subject.as_bytes()), "{subject:?}");
        }
    }

    #[test]
    fn a_filter_matches_as_nats_server_has_it() {
        let matcher = compiled(&["foo.*".to_owned()]);
        assert!(matcher.matches(b"foo.>") && !matcher.covers(b"foo.>"));
        assert!(!matcher.matches(b"*.x") && !matcher.matches(b">") && !matcher.matches(b"*.*"));
        assert!(matcher.overlaps(b"*.x") && matcher.overlaps(b">") && !matcher.overlaps(b"*"));
    }
}
