//! The user that a session belongs to.
//!
//! **Invariant:** two users are one only when the same mode has proven both: a name says nothing beyond its mode. Whoever has no
//! name is a user as well, one for each mode, and is nobody else.

use mqtt_access::{Mode, Principal};

/// A user of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SessionUser {
    /// Its name, or the NKey of one without a name; of one without both nothing.
    pub(crate) name: String,
    /// The mode that knows it, by its name in the configuration; versions before have not written it down.
    pub(crate) mode: Option<String>,
}

impl SessionUser {
    /// The user that a principal is; `None` in mode `none`, where sessions are the account's.
    pub(crate) fn of(principal: &Principal) -> Option<Self> {
        let (mode, name) = (principal.origin.mode, principal.user.owner());
        let is_nobody = mode == Mode::None && name.is_empty();
        (!is_nobody).then(|| Self { name: name.to_owned(), mode: Some(mode.as_str().to_owned()) })
    }

    /// Whether it is the same one; of which nobody has written down the mode, the one of that name.
    pub(crate) fn is(&self, other: &Self) -> bool {
        let is_of_mode = || match (&self.mode, &other.mode) {
            (Some(mode), Some(other)) => mode == other,
            _ => true,
        };
        self.name == other.name && is_of_mode()
    }
}

#[cfg(test)]
mod tests {
    use mqtt_access::{Origin, User};

    use super::*;

    fn user(mode: Mode, name: &str, key: Option<&str>) -> Option<SessionUser> {
        let user = User { name: name.to_owned(), key: key.map(ToOwned::to_owned), ..User::default() };
        SessionUser::of(&Principal { user, origin: Origin::of(mode), ..Principal::all() })
    }

    #[test]
    fn a_user_is_a_mode_and_a_name_or_else_a_key() {
        let lamp = user(Mode::File, "lamp", None).unwrap();
        let before = SessionUser { mode: None, ..lamp.clone() };
        for (other, is) in [
            (user(Mode::File, "lamp", Some("UA")), true),
            (user(Mode::Oidc, "lamp", None), false),
            (user(Mode::Nats, "lamp", None), false),
            (user(Mode::File, "door", None), false),
            (user(Mode::File, "", None), false),
        ] {
            let other = other.unwrap();
            assert_eq!((lamp.is(&other), other.is(&lamp)), (is, is), "{other:?}");
            assert_eq!(before.is(&other), other.name == "lamp", "{other:?}");
        }
        assert_eq!(user(Mode::Jwt, "", Some("UA")).unwrap().name, "UA");
        assert_eq!(user(Mode::None, "", None), None);
        let anonymous = user(Mode::File, "", None).unwrap();
        assert!(anonymous.is(&anonymous) && !anonymous.is(&user(Mode::Nats, "", None).unwrap()));
    }
}
