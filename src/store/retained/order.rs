//! The order in which the index keeps topics, and how a filter skips through it.
//!
//! Topics are ordered byte by byte, `/` before everything else. U+0000 cannot occur in a topic, so `/` may stand in its place
//! and all topics below a level are neighbours: `a`, `a/b`, `a/b/c`, `a!`. What comes after a whole subtree is found by one
//! seek, to the prefix followed by U+0001.

use std::borrow::Borrow;
use std::cmp::Ordering;

use bytestring::ByteString;

/// A topic as a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key(pub(super) ByteString);

/// A place between topics.
#[derive(Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Place<'a>(pub(super) &'a str);

/// Lets owned keys be looked up by borrowed text.
pub(super) trait Ordered {
    fn text(&self) -> &str;
}

impl Ordered for Key {
    fn text(&self) -> &str {
        &self.0
    }
}

impl Ordered for Place<'_> {
    fn text(&self) -> &str {
        self.0
    }
}

impl<'a> Borrow<dyn Ordered + 'a> for Key {
    fn borrow(&self) -> &(dyn Ordered + 'a) {
        self
    }
}

impl Ord for dyn Ordered + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(self.text(), other.text())
    }
}

impl PartialOrd for dyn Ordered + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn Ordered + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for dyn Ordered + '_ {}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(&self.0, &other.0)
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn compare(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let common = a.iter().zip(b).position(|(a, b)| a != b);
    match common {
        None => a.len().cmp(&b.len()),
        Some(at) => rank(a.get(at)).cmp(&rank(b.get(at))),
    }
}

fn rank(byte: Option<&u8>) -> u8 {
    match byte {
        Some(b'/') | None => 0,
        Some(byte) => *byte,
    }
}

/// What a filter says about a topic.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It matches.
    Match,
    /// It does not, and nothing before this place does.
    SeekTo(String),
    /// It does not, and nothing after it does.
    End,
}

/// Compares a topic with a filter that may have wildcards.
pub(super) fn judge(filter: &str, topic: &str) -> Verdict {
    // [MQTT-4.7.2-1]: a wildcard at the beginning does not match topics that begin with `$`.
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return Verdict::SeekTo("%".to_owned());
    }
    // Where the levels below the last `+` that has matched begin and end; from there a search goes on.
    let mut plus_end = None;
    let mut filter_rest = Some(filter);
    let mut at = 0;
    loop {
        let Some(rest) = filter_rest else {
            // The topic goes on below what the filter matches.
            return Verdict::SeekTo(after_subtree(&topic[..at - 1]));
        };
        let (level, next) = rest.split_once('/').map_or((rest, None), |(level, next)| (level, Some(next)));
        filter_rest = next;
        if level == "#" {
            return Verdict::Match;
        }
        let end = topic[at..].find('/').map_or(topic.len(), |length| at + length);
        let found = &topic[at..end];
        if level != "+" {
            match compare(found, level) {
                Ordering::Equal => {}
                Ordering::Less => return Verdict::SeekTo(format!("{}{level}", &topic[..at])),
                Ordering::Greater => {
                    return plus_end.map_or(Verdict::End, |end| Verdict::SeekTo(after_subtree(&topic[..end])));
                }
            }
        } else {
            plus_end = Some(end);
        }
        if end == topic.len() {
            return match filter_rest {
                // `a/#` matches `a` [MQTT 5, 4.7.1.2].
                None | Some("#") => Verdict::Match,
                Some(rest) => {
                    let level = rest.split('/').next().filter(|level| *level != "+").unwrap_or_default();
                    Verdict::SeekTo(format!("{topic}/{level}"))
                }
            };
        }
        at = end + 1;
    }
}

fn after_subtree(topic: &str) -> String {
    format!("{topic}\u{1}")
}

/// The first place where a match can be.
pub(super) fn first_place(filter: &str) -> &str {
    let literal = filter.find(['+', '#']).map_or(filter, |at| &filter[..at]);
    // `a/#` begins at `a`.
    if filter.ends_with("/#") && literal.len() + 1 == filter.len() { &literal[..literal.len() - 1] } else { literal }
}
