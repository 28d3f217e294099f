//! A link to NATS of somebody who needs no store: of another account, or of another user.

use super::connection::{Connector, Role};
use super::error::OpenError;
use super::options::NatsOptions;
use crate::nats::{Client, OnFull, QueueLimits};
use crate::tasks::EndOnDrop;

/// Commands between us and the socket.
const QUEUE: usize = 4_096;

/// Messages of one subscription, or their bytes, that wait to be read; what is beyond is dropped and counted.
const UNREAD_MAX: usize = 4_096;
const UNREAD_BYTES_MAX: usize = 64 << 20;

/// A link that stands, or is connected again and again. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct LoneLink {
    client: Client,
    _tasks: EndOnDrop,
}

impl LoneLink {
    /// Opens a link, and waits until it stands. `name` says on the server what it is for.
    ///
    /// # Errors
    /// A server refuses us, or something in the options is wrong.
    pub(crate) async fn open(options: NatsOptions, name: &'static str) -> Result<Self, OpenError> {
        let inbox = options.inbox_prefix.clone();
        let connector = Connector::new(options, inbox)?;
        let tasks = EndOnDrop(connector.links.clone());
        let role =
            Role { name, no_echo: false, is_answered_by_anybody: true, queue: QUEUE, subscription_queue: UNREAD_MAX };
        let link = connector.link(role, None).await?;
        Ok(Self { client: link.client, _tasks: tasks })
    }

    /// The link itself.
    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    /// How much of a subscription may wait.
    pub(crate) const fn queue_limits() -> QueueLimits {
        QueueLimits { of_each_max: UNREAD_MAX, bytes_max: UNREAD_BYTES_MAX, on_full: OnFull::Drop }
    }
}
