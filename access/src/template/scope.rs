//! Templates of scoped signing keys, as nats-server 2.15 expands them.

use super::{TemplateError, combination, count, operation, placeholders};
use crate::lists::{PermissionLists, SubjectLists};
use crate::subject;

/// What a user JWT and its account have for the placeholders of a scope. All of it is the account owner's choice.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScopeValues<'a> {
    /// `name()`: the user's name.
    pub name: &'a str,
    /// `subject()`: the user's public NKey.
    pub subject: &'a str,
    /// `account-name()`
    pub account_name: &'a str,
    /// `account-subject()`: the account's public NKey.
    pub account_subject: &'a str,
    /// For `tag(x)`: the values of the tags `x:value`.
    pub tags: &'a [String],
    /// For `account-tag(x)`.
    pub account_tags: &'a [String],
}

/// What an allow puts in the place of a tag that nobody has: never part of a subject.
const NO_VALUE: &str = " ";

/// The values of a placeholder.
struct Values {
    values: Vec<String>,
    /// A tag can have several, or none.
    is_tag: bool,
}

impl ScopeValues<'_> {
    /// The permissions of the user. In an allow, an entry that becomes no subject is left out, and when all are, everything is
    /// denied; nothing of a deny can be left out.
    ///
    /// # Errors
    /// See [`TemplateError`].
    pub fn expand(&self, lists: &PermissionLists) -> Result<PermissionLists, TemplateError> {
        Ok(PermissionLists {
            publish: self.expand_lists(&lists.publish)?,
            subscribe: self.expand_lists(&lists.subscribe)?,
            responses: lists.responses,
        })
    }

    fn expand_lists(&self, lists: &SubjectLists) -> Result<SubjectLists, TemplateError> {
        let expand =
            |list: &Option<Vec<String>>, is_deny| list.as_ref().map(|list| self.expand_list(list, is_deny)).transpose();
        let allow = expand(&lists.allow, false)?;
        let mut deny = expand(&lists.deny, true)?;
        if !lists.allowed().is_empty() && allow.as_ref().is_none_or(Vec::is_empty) {
            deny.get_or_insert_default().push(">".to_owned());
        }
        Ok(SubjectLists { allow, deny })
    }

    /// A list without any placeholder stays as it is; in others each entry has to be a plain subject, so that one with a queue
    /// counts as none.
    fn expand_list(&self, list: &[String], is_deny: bool) -> Result<Vec<String>, TemplateError> {
        if list.iter().all(|entry| placeholders(entry).is_empty()) {
            return Ok(list.to_vec());
        }
        let mut expanded = Vec::with_capacity(list.len());
        for entry in list {
            let placeholders = placeholders(entry);
            let all = placeholders.iter().map(|of| self.values(of, is_deny)).collect::<Result<Vec<_>, _>>()?;
            let has_tags = all.iter().any(|values| values.is_tag);
            let values: Vec<Vec<String>> = all.into_iter().map(|values| values.values).collect();
            let combinations = if has_tags { count(&values, expanded.len())? } else { 1 };
            for index in 0..combinations {
                let chosen = combination(&values, index);
                let subject = substituted(entry, placeholders.iter().copied().zip(chosen))?;
                if subject::is_valid(&subject) {
                    expanded.push(subject);
                } else if is_deny {
                    return Err(TemplateError::InvalidSubject(entry.clone()));
                }
            }
        }
        Ok(expanded)
    }

    fn values(&self, placeholder: &str, is_deny: bool) -> Result<Values, TemplateError> {
        let operation = operation(placeholder);
        let one = |value: &str| Ok(Values { values: vec![value.to_owned()], is_tag: false });
        let is = |name: &str| operation.eq_ignore_ascii_case(name);
        if is("name()") {
            one(self.name)
        } else if is("subject()") {
            one(self.subject)
        } else if is("account-name()") {
            one(self.account_name)
        } else if is("account-subject()") {
            one(self.account_subject)
        } else if let Some(key) = tag_key(operation, "tag(") {
            of_tag(self.tags, key, is_deny)
        } else if let Some(key) = tag_key(operation, "account-tag(") {
            of_tag(self.account_tags, key, is_deny)
        } else {
            Err(TemplateError::Undefined(operation.to_owned()))
        }
    }
}

/// The key in `tag(key)`. nats-server knows the operation in any case, but takes its name off in lower case only.
fn tag_key<'a>(operation: &'a str, name: &str) -> Option<&'a str> {
    let is_tag = operation.get(..name.len()).is_some_and(|head| head.eq_ignore_ascii_case(name));
    let rest = operation.strip_suffix(')').filter(|_| is_tag)?;
    Some(rest.strip_prefix(name).unwrap_or(rest))
}

fn of_tag(tags: &[String], key: &str, is_deny: bool) -> Result<Values, TemplateError> {
    let prefix = format!("{}:", key.to_lowercase());
    let mut values: Vec<String> = tags.iter().filter_map(|tag| tag.strip_prefix(&prefix)).map(str::to_owned).collect();
    if values.is_empty() {
        if is_deny {
            return Err(TemplateError::Missing(key.to_owned()));
        }
        values.push(NO_VALUE.to_owned());
    }
    Ok(Values { values, is_tag: true })
}

/// The entry with its values in it, one placeholder after the other, as nats-server does it: all of the same at once, and
/// those that a value before has brought along. What grows beyond reason that way is no subject.
fn substituted<'a>(entry: &str, chosen: impl Iterator<Item = (&'a str, &'a str)>) -> Result<String, TemplateError> {
    /// More than a control line of nats-server can have.
    const LENGTH_MAX: usize = 65_536;
    let mut subject = entry.to_owned();
    for (placeholder, value) in chosen {
        let found = subject.matches(placeholder).count();
        if subject.len() + found * value.len() > LENGTH_MAX {
            return Err(TemplateError::InvalidSubject(entry.to_owned()));
        }
        subject = subject.replace(placeholder, value);
    }
    Ok(subject)
}
