//! Which subjects and topics devices have nothing to do with: the internals of NATS and our own. Permissions of users
//! are not here; this holds for everyone.

use mqtt_codec::{TopicFilter, TopicName};

use crate::MapError;
use crate::root::RootWildcard;
use crate::subject::SubjectFilter;

/// First token of our subjects, unless configured.
pub const DEFAULT_SUBJECT_PREFIX: &str = "$NMQ";

/// First tokens that belong to nats-server and its clients: the JetStream API and its cross-account form, system
/// account, services, key-value and object buckets and the older names of the latter, RAFT groups, nats-server's own
/// MQTT, inboxes, replies across accounts and gateways (two generations), and leaf-node loop detection.
const INTERNAL: [&str; 14] =
    ["$JS", "$JSC", "$SYS", "$SRV", "$KV", "$OBJ", "$O", "$NRG", "$MQTT", "_INBOX", "_R_", "_GR_", "$GNR", "$LDS"];

/// The closed trees of one deployment. A tree is closed as a whole, by its first token, and the operator can open
/// parts of it by name.
///
/// `$SYS` is closed towards NATS like the others. That devices can read `$SYS/broker/…` is the business of whoever
/// serves those topics, before asking here.
#[derive(Clone, Debug)]
pub struct ClosedTrees {
    own: String,
    opened: Vec<String>,
    root: RootWildcard,
}

impl ClosedTrees {
    /// Closes the internals of NATS and the tree of `own_prefix` (`$NMQ`), of which only the first token counts, and
    /// opens the subject trees `opened`, such as `$KV.config` or `$KV.config.>`. Our own tree cannot be opened.
    #[must_use]
    pub fn new(own_prefix: &str, opened: &[&str]) -> Self {
        let own = first(own_prefix, '.').to_owned();
        let opened = opened
            .iter()
            .map(|tree| tree.strip_suffix(".>").unwrap_or(tree).to_owned())
            .filter(|tree| !tree.is_empty() && first(tree, '.') != own)
            .collect();
        Self { own, opened, root: RootWildcard::Full }
    }

    /// The same, with what filters cover whose first level is a wildcard.
    #[must_use]
    pub fn with_root_wildcard(self, root: RootWildcard) -> Self {
        Self { root, ..self }
    }

    /// Whether devices cannot publish to, or receive from, a subject.
    #[must_use]
    pub fn is_closed_subject(&self, subject: &str) -> bool {
        self.is_closed_name(first(subject, '.')) && !self.is_opened(subject, '.')
    }

    /// The same of a topic.
    #[must_use]
    pub fn is_closed_topic(&self, topic: &TopicName) -> bool {
        self.is_closed_name(first(topic.as_str(), '/')) && !self.is_opened_levels(topic.as_str())
    }

    /// Whether a filter asks for something closed: its first level names a closed tree, and not all that it matches
    /// is opened. Of a shared subscription it is the filter behind the share name that counts.
    #[must_use]
    pub fn filter_is_closed(&self, filter: &TopicFilter) -> bool {
        let filter = filter.matching_part();
        self.is_closed_name(first(filter, '/')) && !self.is_opened_levels(filter)
    }

    /// Whether nobody can have a filter because its first level is a wildcard: all of them are refused, or nothing is left of
    /// it in the trees that they are narrowed to.
    #[must_use]
    pub fn refuses_wildcard(&self, filter: &TopicFilter) -> bool {
        self.root.narrowed(filter).is_some_and(|left| left.is_empty())
    }

    /// The subjects that match what a filter matches here: as [`crate::subjects_of`], but a filter whose first level is a
    /// wildcard has those of the trees that they are narrowed to. No two of them match the same, and there are at most twice
    /// as many as trees.
    ///
    /// # Errors
    /// [`MapError::TooLong`]
    pub fn subjects_of(&self, filter: &TopicFilter) -> Result<Vec<SubjectFilter>, MapError> {
        let mut all = Vec::with_capacity(2);
        match self.root.narrowed(filter) {
            None => all.extend(crate::subjects_of(filter)?.iter().cloned()),
            Some(filters) => {
                for filter in &filters {
                    all.extend(crate::subjects_of(filter)?.iter().cloned());
                }
            }
        }
        Ok(all)
    }

    /// Whether filters whose first level is a wildcard see all that is not closed.
    #[must_use]
    pub fn wildcard_sees_all(&self) -> bool {
        self.root == RootWildcard::Full
    }

    /// Whether a filter whose first level is a wildcard does not see a topic: it begins with `$` [MQTT-4.7.2-1], it is in a
    /// closed tree, opened or not, or in none that they are narrowed to.
    #[must_use]
    pub fn hides_topic_from_wildcard(&self, topic: &TopicName) -> bool {
        topic.as_str().starts_with('$') || self.is_closed_name(first(topic.as_str(), '/')) || self.root.hides(topic)
    }

    fn is_closed_name(&self, name: &str) -> bool {
        name == self.own || (name.starts_with(['$', '_']) && INTERNAL.contains(&name))
    }

    /// A closed name has no special characters, so topic and subject begin with the same text; below it levels are
    /// compared with tokens as they are mapped.
    fn is_opened_levels(&self, topic_or_filter: &str) -> bool {
        !self.opened.is_empty() && self.is_opened(&crate::topic::levels_to_tokens(topic_or_filter), '.')
    }

    fn is_opened(&self, subject: &str, separator: char) -> bool {
        self.opened.iter().any(|tree| {
            subject.strip_prefix(tree.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(separator))
        })
    }
}

impl Default for ClosedTrees {
    /// With the default prefix of our subjects, and nothing opened.
    fn default() -> Self {
        Self::new(DEFAULT_SUBJECT_PREFIX, &[])
    }
}

/// The text up to the separator.
fn first(text: &str, separator: char) -> &str {
    text.split(separator).next().unwrap_or(text)
}
