//! What a session is told, and what it answers with.

use std::num::NonZeroU32;

use bytes::Bytes;
use bytestring::ByteString;
use mqtt_codec::{MessageProperties, Packet, PacketId, QoS, ReasonCode, SubscribeEntry, TopicFilter, TopicName};

use crate::handshake::Verdict;
use crate::inbound::{Once, Token};
use crate::position::Position;
use crate::progress::ProgressVersion;
use crate::reauthentication::Evidence;

/// Something that happened.
#[derive(Debug)]
pub enum Input<M> {
    /// Bytes of the client came, be they a packet or a part of one.
    Heard,
    /// The client sent a packet.
    Packet(Packet),
    /// A [`Publication`] with this token was stored (`Ok` with the reason code to acknowledge with), or was not and never
    /// will be (`Err`). Where nobody knows, an `Err` whose reason PUBACK cannot carry ends the connection, so that the
    /// client publishes again and a QoS 2 message is looked for.
    Stored(Token, Result<ReasonCode, ReasonCode>),
    /// A [`SubscribeRequest`] was carried out: a reason code an entry, in order.
    Subscribed(PacketId, Vec<ReasonCode>),
    /// An [`UnsubscribeRequest`] was carried out.
    Unsubscribed(PacketId, Vec<ReasonCode>),
    /// A QoS 1 or 2 message, with where it is stored, is to be delivered. Only while [`Session::window_room`](crate::Session::window_room) is above
    /// zero.
    Deliver(QoS, Position, M),
    /// The message with this packet id, of an [`Output::Transmit`] or a [`Resend::Publish`](crate::Resend::Publish), is not sent: it is lost, or the
    /// client cannot take it. That counts as delivered [MQTT-3.1.2-25].
    Unsendable(PacketId),
    /// The progress was saved up to and with this version; see [`Session::progress`](crate::Session::progress).
    Saved(ProgressVersion),
    /// Whoever knows users has answered [`Output::Authenticate`]. One that is accepted counts from before this on.
    Authenticated(Verdict<()>),
    /// Time went by; see [`Session::deadline`](crate::Session::deadline).
    Time,
}

/// Something to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Output<M> {
    /// Send this packet.
    Send(Packet),
    /// Publish for the client.
    Publish(Publication),
    /// Send the message in a PUBLISH with this QoS and packet id.
    Transmit(QoS, PacketId, M),
    /// The client has acknowledged this QoS 1 message of a shared subscription: nobody else is to get it. One at QoS 2 is
    /// this session's from the moment of its [`Output::Transmit`].
    Settled(PacketId),
    /// Subscribe, then tell [`Input::Subscribed`].
    Subscribe(SubscribeRequest),
    /// Unsubscribe, then tell [`Input::Unsubscribed`].
    Unsubscribe(UnsubscribeRequest),
    /// Ask who this is now, then tell [`Input::Authenticated`]. The client has to be the same user as before.
    Authenticate(Evidence),
    /// End the connection. Nothing follows.
    Close(Close),
}

/// A message of the client on its way to its subscribers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Names it for [`Input::Stored`]; `None` at QoS 0, where nobody waits.
    pub token: Option<Token>,
    /// At QoS 2: how it is kept from being stored twice.
    pub once: Option<Once>,
    /// Topic name, aliases resolved.
    pub topic: TopicName,
    /// Quality of service.
    pub qos: QoS,
    /// RETAIN flag.
    pub retain: bool,
    /// Payload.
    pub payload: Bytes,
    /// Message properties.
    pub properties: Option<Box<MessageProperties>>,
}

/// A SUBSCRIBE to carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeRequest {
    /// Answer with this packet id.
    pub packet_id: PacketId,
    /// Subscription Identifier of all entries.
    pub subscription_id: Option<NonZeroU32>,
    /// The entries, in order.
    pub entries: Vec<SubscribeEntry>,
}

/// An UNSUBSCRIBE to carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsubscribeRequest {
    /// Answer with this packet id.
    pub packet_id: PacketId,
    /// The filters, in order; `Err` is text that is no filter.
    pub filters: Vec<Result<TopicFilter, ByteString>>,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// The client said DISCONNECT. `with_will`: publish the will all the same (reason 0x04).
    ByClient {
        /// Whether the will is published.
        with_will: bool,
    },
    /// We end it: DISCONNECT with this reason in MQTT 5, a closed connection in 3.x. The will is published.
    ByServer(ReasonCode),
}

/// What a connection that is over leaves to be done.
#[derive(Debug, PartialEq, Eq)]
pub struct Left<M> {
    /// Messages of shared subscriptions at QoS 2 that were not sent: what is saved may say that they are the session's, until
    /// the progress is saved once more.
    pub withdrawn: Vec<M>,
    /// What the client published behind a QoS 2 message that was not saved in time. That one the client repeats; these it need
    /// not, so they are to be published, in this order.
    pub publications: Vec<Publication>,
}
