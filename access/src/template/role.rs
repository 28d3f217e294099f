//! Templates of our own roles: `[[users]]`, a file of users, and the roles of identity providers.

use std::collections::BTreeMap;

use super::{TemplateError, Token, combination, count, operation, placeholders};
use crate::lists::{PermissionLists, SubjectLists};
use crate::subject;

/// What a principal has for the placeholders of a role: for each operation, as it is written between the braces
/// (`client-id()`, `tag(site)`, `sub`), its values.
#[derive(Clone, Debug, Default)]
pub struct RoleValues {
    values: BTreeMap<String, Vec<Token>>,
}

impl RoleValues {
    /// Without any.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more value for an operation. Entries with several multiply.
    #[must_use]
    pub fn with(mut self, operation: impl Into<String>, value: Token) -> Self {
        self.values.entry(operation.into()).or_default().push(value);
        self
    }

    /// With the values that tags have, `tag(x)` for each `x:value`; what is not a token has none.
    #[must_use]
    pub fn with_tags(self, tags: &[String]) -> Self {
        tags.iter().filter_map(|tag| tag.split_once(':')).fold(self, |values, (key, value)| match Token::new(value) {
            Ok(value) => values.with(format!("tag({key})"), value),
            Err(_) => values,
        })
    }

    /// The permissions of the principal. A value that is missing refuses it, in allow and deny alike.
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
        let expand = |list: &Option<Vec<String>>| list.as_ref().map(|list| self.expand_list(list)).transpose();
        Ok(SubjectLists { allow: expand(&lists.allow)?, deny: expand(&lists.deny)? })
    }

    fn expand_list(&self, list: &[String]) -> Result<Vec<String>, TemplateError> {
        let mut expanded = Vec::with_capacity(list.len());
        for entry in list {
            let placeholders = distinct(placeholders(entry));
            let values = placeholders.iter().map(|of| self.values(operation(of))).collect::<Result<Vec<_>, _>>()?;
            for index in 0..count(&values, expanded.len())? {
                let subject = substituted(entry, &placeholders, &combination(&values, index));
                if subject::split_queue(&subject).is_none() {
                    return Err(TemplateError::InvalidSubject(entry.clone()));
                }
                expanded.push(subject);
            }
        }
        Ok(expanded)
    }

    fn values(&self, operation: &str) -> Result<Vec<String>, TemplateError> {
        let values = self.values.get(operation).ok_or_else(|| TemplateError::Missing(operation.to_owned()))?;
        Ok(values.iter().map(|value| value.as_str().to_owned()).collect())
    }
}

/// The same placeholder has one value within an entry.
fn distinct(placeholders: Vec<&str>) -> Vec<&str> {
    let mut distinct: Vec<&str> = Vec::with_capacity(placeholders.len());
    for placeholder in placeholders {
        if !distinct.contains(&placeholder) {
            distinct.push(placeholder);
        }
    }
    distinct
}

/// The entry with its values in it. It is read once from left to right: what a value brings along is never a placeholder.
fn substituted(entry: &str, of: &[&str], values: &[&str]) -> String {
    let mut subject = String::with_capacity(entry.len());
    let mut rest = entry;
    for placeholder in placeholders(entry) {
        let Some((before, after)) = rest.split_once(placeholder) else { continue };
        let value = of.iter().position(|other| *other == placeholder).and_then(|index| values.get(index));
        subject.push_str(before);
        subject.push_str(value.copied().unwrap_or_default());
        rest = after;
    }
    subject + rest
}
