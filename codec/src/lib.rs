//! MQTT 3.1, 3.1.1 and 5.0 control packets to and from bytes, without I/O.

pub mod packet;
mod reason;
mod topic;

pub use packet::*;
pub use reason::ReasonCode;
pub use topic::{Shared, TopicError, TopicFilter, TopicName};
