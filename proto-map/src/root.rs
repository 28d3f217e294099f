//! What a filter covers whose first level is a wildcard (`#`, `+`, `+/…`): it would match whatever is published in the account,
//! and makes the account's interest that of everything.

use mqtt_codec::{TopicFilter, TopicName};

/// The trees that a list may have.
pub const ROOT_TREES_MAX: usize = 32;

/// What filters cover whose first level is a wildcard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RootWildcard {
    /// All that is published, on whichever side.
    #[default]
    Full,
    /// What is published in some trees; see [`RootWildcard::trees`].
    Trees(Vec<String>),
    /// Nobody can have them.
    Refuse,
}

impl RootWildcard {
    /// Narrowed to trees of topics: `home` and `home/#` are both `home` and everything below. What is in another one is left
    /// out, and at most [`ROOT_TREES_MAX`] count.
    #[must_use]
    pub fn trees<'a>(trees: impl IntoIterator<Item = &'a str>) -> Self {
        let mut all: Vec<&str> = trees.into_iter().map(|tree| tree.strip_suffix("/#").unwrap_or(tree)).collect();
        all.sort_by_key(|tree| tree.len());
        let mut apart: Vec<String> = Vec::new();
        for tree in all {
            if apart.len() < ROOT_TREES_MAX && !apart.iter().any(|other| is_in(tree, other)) {
                apart.push(tree.to_owned());
            }
        }
        Self::Trees(apart)
    }

    /// Whether a filter whose first level is a wildcard does not see a topic.
    pub(crate) fn hides(&self, topic: &TopicName) -> bool {
        match self {
            Self::Full => false,
            Self::Trees(trees) => !trees.iter().any(|tree| is_in(topic.as_str(), tree)),
            Self::Refuse => true,
        }
    }

    /// The filters that together match what is left of a filter; `None`: all of it.
    pub(crate) fn narrowed(&self, filter: &TopicFilter) -> Option<Vec<TopicFilter>> {
        let filter = filter.matching_part();
        match self {
            _ if !begins_wild(filter) => None,
            Self::Full => None,
            Self::Trees(trees) => Some(trees.iter().filter_map(|tree| within(filter, tree)).collect()),
            Self::Refuse => Some(Vec::new()),
        }
    }
}

/// Whether the first level is a wildcard.
fn begins_wild(filter: &str) -> bool {
    matches!(filter.split('/').next(), Some("#" | "+"))
}

fn is_in(topic: &str, tree: &str) -> bool {
    topic.strip_prefix(tree).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What a filter matches of a tree, as a filter.
fn within(filter: &str, tree: &str) -> Option<TopicFilter> {
    let mut levels = filter.split('/').peekable();
    let mut out: Vec<&str> = Vec::new();
    for level in tree.split('/') {
        match levels.peek().copied()? {
            // It stays, for what is below.
            "#" => {}
            "+" => {
                levels.next();
            }
            same if same == level => {
                levels.next();
            }
            _ => return None,
        }
        out.push(level);
    }
    out.extend(levels);
    TopicFilter::new(out.join("/")).ok()
}
