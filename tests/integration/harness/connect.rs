//! How the raw client connects.

use std::net::Ipv4Addr;
use std::num::{NonZeroU16, NonZeroU32};

use mqtt_codec::{Connect, Version, Will};

use super::{Message, credentials_of};

/// A CONNECT, and how our side of the socket is.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) connect: Connect,
    /// Bytes that the kernel keeps for us unread, when not its default.
    pub(crate) receive_buffer: Option<u32>,
    /// Where it comes from.
    pub(crate) from: Ipv4Addr,
    /// Seed of the user's NKey, which signs what AUTH asks for.
    pub(crate) seed: Option<String>,
}

impl Options {
    /// A clean session without keep alive and will, of the user of the tests where they run with authentication.
    pub(crate) fn new(version: Version, id: &str) -> Self {
        let mut connect = Connect::new(version, id);
        if let Some((user, password)) = credentials_of(id) {
            connect.username = Some(user.into());
            connect.password = Some(password.as_bytes().into());
        }
        Self { connect, receive_buffer: None, from: Ipv4Addr::LOCALHOST, seed: None }
    }

    pub(crate) fn v5(id: &str) -> Self {
        Self::new(Version::V5, id)
    }

    pub(crate) fn v311(id: &str) -> Self {
        Self::new(Version::V311, id)
    }

    /// Does not say who it is.
    pub(crate) fn anonymous(mut self) -> Self {
        (self.connect.username, self.connect.password) = (None, None);
        self
    }

    /// Gives this as its password.
    pub(crate) fn password(mut self, password: &str) -> Self {
        self.connect.username = Some("whoever".into());
        self.connect.password = Some(password.as_bytes().into());
        self
    }

    /// Shows by `NATS-NKEY` that it has the key of what it names.
    pub(crate) fn nkey(self, named: &str, seed: &str) -> Self {
        let mut options = self.anonymous();
        options.connect.properties.authentication_method = Some("NATS-NKEY".into());
        options.connect.properties.authentication_data = Some(named.as_bytes().into());
        options.seed = Some(seed.to_owned());
        options
    }

    pub(crate) fn keep_alive(mut self, seconds: u16) -> Self {
        self.connect.keep_alive_s = seconds;
        self
    }

    /// Sends `message` as the will.
    pub(crate) fn will(mut self, message: Message) -> Self {
        let Message { topic, payload, qos, retain, properties } = message;
        self.connect.will = Some(Box::new(Will { topic, payload, qos, retain, delay_interval_s: 0, properties }));
        self
    }

    pub(crate) fn receive_maximum(mut self, maximum: u16) -> Self {
        self.connect.properties.receive_maximum = NonZeroU16::new(maximum);
        self
    }

    pub(crate) fn maximum_packet_size(mut self, bytes: u32) -> Self {
        self.connect.properties.maximum_packet_size = NonZeroU32::new(bytes);
        self
    }

    /// Comes from the address 127.0.0.`last`.
    pub(crate) fn from(mut self, last: u8) -> Self {
        self.from = Ipv4Addr::new(127, 0, 0, last);
        self
    }

    /// The kernel keeps little for us, so that not reading is felt soon at the other end.
    pub(crate) fn receive_buffer(mut self, bytes: u32) -> Self {
        self.receive_buffer = Some(bytes);
        self
    }
}
