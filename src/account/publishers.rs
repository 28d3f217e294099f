//! What somebody may publish who is not connected any more, as far as anybody knows it now. Who knows users is above accounts, and
//! given to them.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use mqtt_access::{Permissions, Publisher};

/// An answer that may take a moment.
pub(crate) type Looking<'a> = Pin<Box<dyn Future<Output = Option<Arc<Permissions>>> + Send + 'a>>;

/// Knows users.
pub(crate) trait KnowsUsers: Send + Sync {
    /// What a user may do now, with this client id. `None`: nobody can say it, or there is no such user any more.
    fn permissions_of<'a>(&'a self, publisher: &'a Publisher, client_id: &'a str) -> Looking<'a>;
}

/// Who knows users, if anybody does.
#[derive(Clone, Default)]
pub struct Publishers(Option<Arc<dyn KnowsUsers>>);

impl Publishers {
    /// Whom this one knows.
    pub(crate) fn known_by(users: Arc<dyn KnowsUsers>) -> Self {
        Self(Some(users))
    }

    /// See [`KnowsUsers::permissions_of`].
    pub(in crate::account) async fn permissions_of(
        &self,
        publisher: &Publisher,
        client_id: &str,
    ) -> Option<Arc<Permissions>> {
        self.0.as_ref()?.permissions_of(publisher, proto_map::client_of(client_id).1).await
    }
}

impl fmt::Debug for Publishers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Publishers")
    }
}
