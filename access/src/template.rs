//! `{{name()}}` and its like in the permissions of a role: what they become for one user.
//!
//! There are two kinds. A scoped signing key's template is expanded as nats-server expands it, [`ScopeValues`], surprises
//! included: what it allows to a device on nats-server it has to allow here. The roles of our own configuration,
//! [`RoleValues`], hold to more: a value is one token, never a wildcard, since devices and identity providers choose some.

mod role;
mod scope;
mod token;

use std::collections::BTreeSet;

use crate::lists::PermissionLists;

pub use self::role::RoleValues;
pub use self::scope::ScopeValues;
pub use self::token::{NotAToken, Token};

/// Entries that one list may have when its templates are expanded; as nats-server.
pub const EXPANSIONS_MAX: usize = 4096;

/// Why a template cannot be expanded for a user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// There is no such operation.
    #[error("`{{{{{0}}}}}` is not defined")]
    Undefined(String),
    /// A deny needs a value that the user has not, or any entry of a role does.
    #[error("the user has no value for `{0}`")]
    Missing(String),
    /// What a deny becomes is not a subject, or what any entry of a role does.
    #[error("`{0}` becomes something that is not a subject")]
    InvalidSubject(String),
    /// More than [`EXPANSIONS_MAX`] entries.
    #[error("a list becomes more than {EXPANSIONS_MAX} entries")]
    TooMany,
}

/// The placeholders of an entry, each with its braces: two braces, at least one character that is not `}`, two braces. The
/// first that can be found counts, as in a regular expression.
fn placeholders(entry: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = entry[at..].find("{{").map(|start| at + start) {
        let inner = &entry[start + 2..];
        let length = inner.find('}').unwrap_or(inner.len());
        if length > 0 && inner[length..].starts_with("}}") {
            let end = start + 2 + length + 2;
            found.push(&entry[start..end]);
            at = end;
        } else {
            at = start + 1;
        }
    }
    found
}

/// The operation in a placeholder.
fn operation(placeholder: &str) -> &str {
    let inner = placeholder.strip_prefix("{{").unwrap_or(placeholder);
    inner.strip_suffix("}}").unwrap_or(inner).trim()
}

/// The operations that the entries of lists ask for, each as it is written between the braces.
#[must_use]
pub fn operations(lists: &PermissionLists) -> BTreeSet<&str> {
    let directions = [&lists.publish, &lists.subscribe];
    let entries = directions.iter().flat_map(|lists| lists.allowed().iter().chain(lists.denied()));
    entries.flat_map(|entry| operations_of(entry)).collect()
}

/// The operations that a text asks for.
#[must_use]
pub fn operations_of(text: &str) -> Vec<&str> {
    placeholders(text).into_iter().map(operation).collect()
}

/// A text with the values of its operations in it; it is read once, so that what a value brings along is no placeholder. It is
/// a name, and not for subjects: nothing is asked of the values.
///
/// # Errors
/// An operation has no value.
pub fn expand_text(text: &str, value: impl Fn(&str) -> Option<String>) -> Result<String, TemplateError> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    for placeholder in placeholders(text) {
        let Some((before, after)) = rest.split_once(placeholder) else { continue };
        let operation = operation(placeholder);
        expanded.push_str(before);
        expanded.push_str(&value(operation).ok_or_else(|| TemplateError::Missing(operation.to_owned()))?);
        rest = after;
    }
    Ok(expanded + rest)
}

/// How many combinations there are of one value of each, together with those that a list has already.
fn count(values: &[Vec<String>], already: usize) -> Result<usize, TemplateError> {
    let mut count = 1_usize;
    for values in values {
        count = count.saturating_mul(values.len());
        if count > EXPANSIONS_MAX {
            return Err(TemplateError::TooMany);
        }
    }
    if already + count > EXPANSIONS_MAX {
        return Err(TemplateError::TooMany);
    }
    Ok(count)
}

/// One of the combinations: the last value changes first.
fn combination<'a>(values: &'a [Vec<String>], mut index: usize) -> Vec<&'a str> {
    let mut chosen: Vec<&'a str> = Vec::with_capacity(values.len());
    for values in values.iter().rev() {
        chosen.push(&values[index % values.len()]);
        index /= values.len();
    }
    chosen.reverse();
    chosen
}

#[cfg(test)]
mod tests {
    use super::{TemplateError, combination, expand_text, operation, operations_of, placeholders};

    #[test]
    fn placeholders_of_an_entry() {
        let table: &[(&str, &[&str])] = &[
            ("a.b", &[]),
            ("{{name()}}", &["{{name()}}"]),
            ("a.{{x}}.{{ y }}b", &["{{x}}", "{{ y }}"]),
            ("{{}}", &[]),
            ("{{x}", &[]),
            ("{{x}y}}", &[]),
            ("{{{x}}", &["{{{x}}"]),
            ("{{{{x}}", &["{{{{x}}"]),
            ("{{x}y}}.{{z}}", &["{{z}}"]),
            ("{{x}}}}", &["{{x}}"]),
            ("{{ä}}{{", &["{{ä}}"]),
        ];
        for (entry, expected) in table {
            assert_eq!(placeholders(entry), *expected, "{entry}");
        }
        assert_eq!(operation("{{ name() }}"), "name()");
        assert_eq!(operation("{{{x}}"), "{x");
    }

    #[test]
    fn a_text_is_read_once() {
        let value = |operation: &str| (operation == "sub").then(|| "{{sub}}".to_owned());
        assert_eq!(expand_text("a-{{sub}}.{{ sub }}", value).as_deref(), Ok("a-{{sub}}.{{sub}}"));
        assert_eq!(expand_text("plain", value).as_deref(), Ok("plain"));
        assert_eq!(expand_text("{{x}}", value), Err(TemplateError::Missing("x".to_owned())));
        assert_eq!(operations_of("a.{{sub}}.{{claim.a.b}}"), ["sub", "claim.a.b"]);
    }

    #[test]
    fn combinations_in_order() {
        let values = [vec!["a".to_owned(), "b".to_owned()], vec!["1".to_owned(), "2".to_owned()]];
        let all: Vec<String> = (0..4).map(|index| combination(&values, index).concat()).collect();
        assert_eq!(all, ["a1", "a2", "b1", "b2"]);
    }
}
