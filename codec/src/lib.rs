//! MQTT 3.1, 3.1.1 and 5.0 control packets to and from bytes, without I/O.
//!
//! # Layout
//!
//! - [`packet`]: the packet model; one file a packet, each with its fields, how it is read and how it is written.
//!   The three versions share the types and differ only where the bytes differ.
//! - [`Decoder`]: bytes to packets, incremental; [`Violation`]: what a peer can do wrong, by clause.
//! - [`encode`], [`encode_limited`]: packets to bytes. [`PublishFrame`]: a PUBLISH encoded once for many subscribers.
//! - [`TopicName`], [`TopicFilter`]: text that was checked once and is not checked again.
//!
//! What is deliberately not here: sockets, time, sessions, topic alias tables, and any judgement about what a packet
//! asks for. A packet that this crate lets through is well formed; whether it is welcome is for others to say.

mod decode;
mod encode;
mod encode_error;
mod form;
mod frame;
pub mod packet;
mod packet_type;
mod property;
mod reader;
mod reason;
mod role;
mod secret;
mod sink;
mod topic;
mod violation;

pub use decode::{CONNECT_SIZE_MAX, Decoder, DecoderOptions};
pub use encode::{encode, encode_limited, encoded_len};
pub use encode_error::EncodeError;
pub use frame::{PAYLOAD_COPY_MAX, PublishFrame};
pub use packet::*;
pub use packet_type::PacketType;
pub use property::Property;
pub use reason::ReasonCode;
pub use role::Role;
pub use secret::Secret;
pub use topic::{Shared, TopicError, TopicFilter, TopicName};
pub use violation::Violation;
