//! Who publishes something when nobody is connected any more: what of a principal is kept for its will.

use crate::principal::{Mode, Principal};

/// Bytes of texts that are kept. Tags are left out first.
const TEXTS_MAX: usize = 1_024;

/// What of a principal is kept beyond its connection: who it is, so that whoever knows users finds what it may do by then. No
/// JWT, no password, and no lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publisher {
    /// Who has accepted it.
    pub mode: Mode,
    /// The account that it has brought; empty where its listener gave it one, or it has that of our own NATS user.
    pub account: String,
    /// The user's name.
    pub user: String,
    /// Its public NKey.
    pub key: Option<String>,
    /// The key that signed it.
    pub issuer: Option<String>,
    /// All its tags, where templates of its account may ask for them; `None` when they are too many to be kept.
    pub tags: Option<Vec<String>>,
    /// Its own JWT said what it may do, and that is not kept.
    pub has_own_permissions: bool,
}

impl Publisher {
    /// Of a principal. `None` when its names are too long to be kept.
    #[must_use]
    pub fn new(principal: &Principal) -> Option<Self> {
        let user = &principal.user;
        let texts = [&user.name, principal.brought_account()];
        let keys = [&user.key, &user.issuer].into_iter().flatten().map(String::len);
        let len = texts.iter().map(|text| text.len()).chain(keys).sum::<usize>();
        let with_tags = principal.tags.iter().fold(len, |len, tag| len.saturating_add(tag.len()));
        (len <= TEXTS_MAX).then(|| Self {
            mode: principal.origin.mode,
            account: principal.brought_account().to_owned(),
            user: user.name.clone(),
            key: user.key.clone(),
            issuer: user.issuer.clone(),
            tags: (user.issuer.is_some() && with_tags <= TEXTS_MAX).then(|| principal.tags.clone()),
            has_own_permissions: principal.origin.has_own_permissions,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::principal::{AccountId, Origin, User};

    #[test]
    fn what_is_kept_of_a_principal_has_an_end() {
        let principal = |name: usize, tags: usize| Principal {
            account: AccountId::new("T1"),
            user: User { name: "n".repeat(name), issuer: Some("A".repeat(56)), ..User::default() },
            tags: vec!["t".repeat(10); tags],
            origin: Origin::of(Mode::Jwt),
            ..Principal::all()
        };
        let kept = Publisher::new(&principal(4, 2)).unwrap();
        assert_eq!((&*kept.account, &*kept.user, kept.mode), ("T1", "nnnn", Mode::Jwt));
        assert_eq!(kept.tags.map(|tags| tags.len()), Some(2));
        assert_eq!(Publisher::new(&principal(4, 100)).map(|kept| kept.tags), Some(None), "tags are left out first");
        assert_eq!(Publisher::new(&principal(1_000, 0)), None);
    }

    #[test]
    fn an_account_of_the_listener_is_not_the_users() {
        let mut principal = Principal { account: AccountId::new("T1"), ..Principal::all() };
        principal.origin.has_account_of_listener = true;
        assert_eq!(Publisher::new(&principal).unwrap().account, "");
    }
}
