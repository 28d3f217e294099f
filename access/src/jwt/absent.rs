//! What a user may do who is not connected any more, by what its account is now.

use super::account::Account;
use super::operator::Operators;
use crate::permissions::Permissions;
use crate::publisher::Publisher;
use crate::template::ScopeValues;

impl Account {
    /// The permissions of a user who was accepted before. `None` where nobody knows: its own JWT has them, which nobody has any
    /// more, or it would not be accepted now.
    #[must_use]
    pub fn permissions_of(&self, publisher: &Publisher, operators: &Operators) -> Option<Permissions> {
        if publisher.account != self.id() || publisher.has_own_permissions || !operators.trusts(self.issuer()) {
            return None;
        }
        let own = match self.scope_of(publisher.issuer.as_deref()?, operators)? {
            None => None,
            Some(scope) => {
                let values = ScopeValues {
                    name: &publisher.user,
                    subject: publisher.key.as_deref()?,
                    account_name: self.name(),
                    account_subject: self.id(),
                    tags: publisher.tags.as_deref()?,
                    account_tags: &self.tags,
                };
                Some(values.expand(&scope.template.permissions()).ok()?).filter(|lists| !lists.is_empty())
            }
        };
        Permissions::new(own.unwrap_or_else(|| self.default_permissions.clone())).ok()
    }
}
