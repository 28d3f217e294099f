//! Property identifiers of MQTT 5 [2.2.2.2]. Which packet takes which property is in the packet's own file.

use std::fmt;

macro_rules! properties {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $text:literal;)*) => {
        /// A property of MQTT 5 [2.2.2.2].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Property { $($(#[$doc])* $name = $value,)* }

        impl Property {
            pub(crate) const fn from_id(id: u32) -> Option<Self> {
                match id { $($value => Some(Self::$name),)* _ => None }
            }

            /// Name as the specification writes it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

properties! {
    /// Payload Format Indicator
    PayloadFormatIndicator = 0x01, "Payload Format Indicator";
    /// Message Expiry Interval
    MessageExpiryInterval = 0x02, "Message Expiry Interval";
    /// Content Type
    ContentType = 0x03, "Content Type";
    /// Response Topic
    ResponseTopic = 0x08, "Response Topic";
    /// Correlation Data
    CorrelationData = 0x09, "Correlation Data";
    /// Subscription Identifier
    SubscriptionIdentifier = 0x0B, "Subscription Identifier";
    /// Session Expiry Interval
    SessionExpiryInterval = 0x11, "Session Expiry Interval";
    /// Assigned Client Identifier
    AssignedClientIdentifier = 0x12, "Assigned Client Identifier";
    /// Server Keep Alive
    ServerKeepAlive = 0x13, "Server Keep Alive";
    /// Authentication Method
    AuthenticationMethod = 0x15, "Authentication Method";
    /// Authentication Data
    AuthenticationData = 0x16, "Authentication Data";
    /// Request Problem Information
    RequestProblemInformation = 0x17, "Request Problem Information";
    /// Will Delay Interval
    WillDelayInterval = 0x18, "Will Delay Interval";
    /// Request Response Information
    RequestResponseInformation = 0x19, "Request Response Information";
    /// Response Information
    ResponseInformation = 0x1A, "Response Information";
    /// Server Reference
    ServerReference = 0x1C, "Server Reference";
    /// Reason String
    ReasonString = 0x1F, "Reason String";
    /// Receive Maximum
    ReceiveMaximum = 0x21, "Receive Maximum";
    /// Topic Alias Maximum
    TopicAliasMaximum = 0x22, "Topic Alias Maximum";
    /// Topic Alias
    TopicAlias = 0x23, "Topic Alias";
    /// Maximum QoS
    MaximumQoS = 0x24, "Maximum QoS";
    /// Retain Available
    RetainAvailable = 0x25, "Retain Available";
    /// User Property
    UserProperty = 0x26, "User Property";
    /// Maximum Packet Size
    MaximumPacketSize = 0x27, "Maximum Packet Size";
    /// Wildcard Subscription Available
    WildcardSubscriptionAvailable = 0x28, "Wildcard Subscription Available";
    /// Subscription Identifiers Available
    SubscriptionIdentifiersAvailable = 0x29, "Subscription Identifiers Available";
    /// Shared Subscription Available
    SharedSubscriptionAvailable = 0x2A, "Shared Subscription Available";
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
