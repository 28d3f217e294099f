//! The labels of the metrics. None is made of what a device sends.

use mqtt_codec::ReasonCode;

/// Which way a packet or a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    In = 0,
    /// To the client.
    Out = 1,
}

/// Makes an enum whose variants are the values of one label.
macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            pub(super) const TEXTS: &[&str] = &[$($text,)*];

            /// The value of the label.
            #[must_use]
            pub fn text(self) -> &'static str {
                Self::TEXTS.get(self as usize).copied().unwrap_or_default()
            }
        }
    };
}

labels! {
    /// How the session of a connected client is fed.
    SessionState {
        /// From the tail of the log.
        Live = "live",
        /// From its cursor.
        CatchingUp = "catching_up",
    }
}

labels! {
    /// Why a message did not reach a subscriber.
    DropReason {
        /// The subscriber reads too slowly and its QoS 0 buffer is full.
        SlowReader = "slow_reader",
        /// The queue of the offline session is full.
        QueueFull = "queue_full",
        /// Its expiry passed.
        Expired = "expired",
        /// It is larger than the client accepts.
        TooLarge = "too_large",
        /// The publisher or the subscriber may not use its topic.
        NotAuthorized = "not_authorized",
        /// The log discarded it before the session read it.
        LogDiscarded = "log_discarded",
        /// JetStream or NATS could not take it.
        NatsUnavailable = "nats_unavailable",
        /// Its subject has no topic or its topic no subject.
        NoTopic = "no_topic",
        /// Its publisher's connection had ended, and its client had published something later when it was stored.
        EndedEpoch = "ended_epoch",
    }
}

labels! {
    /// Why a will was published.
    WillCause {
        /// The connection was lost.
        ConnectionLost = "connection_lost",
        /// Nothing came within 1.5 × keep alive.
        KeepAlive = "keep_alive",
        /// DISCONNECT with reason 0x04.
        Requested = "requested",
        /// Another connection took the session over.
        TakenOver = "taken_over",
        /// We closed the connection because of an error.
        ServerClosed = "server_closed",
        /// The sidecar that had the connection is gone.
        NodeLost = "node_lost",
    }
}

labels! {
    /// What became of requests between MQTT and NATS.
    RequestEvent {
        /// A client asked NATS.
        Asked = "asked",
        /// NATS answered a client.
        Answered = "answered",
        /// NATS answered when the request was over.
        AnsweredLate = "answered_late",
        /// Nobody on NATS listens.
        NoResponders = "no_responders",
        /// NATS did not answer in time.
        TimedOut = "timed_out",
        /// It was given up unanswered, because there were too many.
        Evicted = "evicted",
        /// A request of NATS was given a Response Topic.
        Offered = "offered",
        /// A device answered NATS.
        Replied = "replied",
        /// A device could not answer: too late, or nothing to answer.
        Refused = "refused",
    }
}

labels! {
    /// What became of messages of shared subscriptions.
    ShareEvent {
        /// A member got it.
        Given = "given",
        /// Of those, one that the group had given to somebody before.
        Redelivered = "redelivered",
        /// A member left that had not acknowledged it.
        Left = "left",
        /// No member had room for it.
        NoRoom = "no_room",
    }
}

labels! {
    /// Who has taken the client id of a connection of this sidecar.
    TakenBy {
        /// A connection to the same sidecar.
        Local = "local",
        /// A connection to another one.
        Other = "other_sidecar",
    }
}

labels! {
    /// What a client had no more of.
    Limit {
        /// `mqtt.max_subscriptions`.
        Subscriptions = "subscriptions",
        /// `subs` of a user, or of its account.
        UserSubscriptions = "user_subscriptions",
        /// `nats.max_accounts`.
        Accounts = "accounts",
        /// Clients of the account, by the account itself.
        AccountConnections = "account_connections",
        /// `mqtt.max_filters_per_packet`.
        FiltersPerPacket = "filters_per_packet",
        /// `mqtt.max_filter_length`.
        FilterLength = "filter_length",
        /// `mqtt.max_session_size`.
        SessionSize = "session_size",
        /// `mqtt.max_sessions`.
        Sessions = "sessions",
        /// `mqtt.max_will_size`.
        WillSize = "will_size",
        /// `mqtt.max_opening_size`.
        OpeningSize = "opening_size",
        /// `mqtt.max_retained_messages`.
        RetainedMessages = "retained_messages",
        /// `mqtt.max_retained_bytes`.
        RetainedBytes = "retained_bytes",
        /// `mqtt.max_retained_size`.
        RetainedSize = "retained_size",
        /// `jetstream.shared.max_groups`.
        Groups = "groups",
        /// Consumers of a stream, of which some are kept for sidecars.
        Consumers = "consumers",
        /// `jetstream.shared.max_groups_per_client`.
        GroupsPerClient = "groups_per_client",
        /// `jetstream.shared.max_name_length`.
        ShareNameLength = "share_name_length",
        /// `mqtt.max_topic_levels`.
        TopicLevels = "topic_levels",
        /// `mqtt.max_packet_size`.
        PacketSize = "packet_size",
        /// What NATS takes in one message: `max_payload` of nats-server, `max_msg_size` of a stream.
        MessageSize = "message_size",
        /// Clients that say something about themselves below `$SYS/broker/connection`.
        BridgeStates = "bridge_states",
        /// `limits.connections`.
        Connections = "connections",
        /// `limits.connections` of one listener.
        ListenerConnections = "listener_connections",
        /// `limits.connections_per_address`.
        ConnectionsPerAddress = "connections_per_address",
        /// `limits.connections_per_user`.
        ConnectionsPerUser = "connections_per_user",
        /// `limits.connection_rate`.
        ConnectionRate = "connection_rate",
        /// `limits.connection_rate_per_address`.
        ConnectionRatePerAddress = "connection_rate_per_address",
        /// Bans that are in force.
        Bans = "bans",
        /// `limits.message_rate`: clients that were held back.
        MessageRate = "message_rate",
        /// `limits.byte_rate`: clients that were held back.
        ByteRate = "byte_rate",
        /// `limits.message_rate_per_user`: clients that were held back.
        MessageRatePerUser = "message_rate_per_user",
        /// `limits.byte_rate_per_user`: clients that were held back.
        ByteRatePerUser = "byte_rate_per_user",
        /// `limits.message_rate_per_account`: clients that were held back.
        MessageRatePerAccount = "message_rate_per_account",
        /// `limits.byte_rate_per_account`: clients that were held back.
        ByteRatePerAccount = "byte_rate_per_account",
        /// `listeners.max_handshakes`.
        Handshakes = "handshakes",
    }
}

labels! {
    /// Why no TLS connection came of a socket.
    TlsFailure {
        /// The peer closed it, or the network did.
        Closed = "closed",
        /// It took too long.
        Timeout = "timeout",
        /// The peer does not speak TLS.
        NotTls = "not_tls",
        /// There is no version, cipher, group or protocol that both sides have.
        NothingShared = "nothing_shared",
        /// The peer does not want our certificate, or something else that we said.
        RefusedByPeer = "refused_by_peer",
        /// The peer has shown no certificate, and one is required.
        CertificateMissing = "certificate_missing",
        /// The certificate of the peer has expired, or is not valid yet.
        CertificateExpired = "certificate_expired",
        /// The certificate of the peer is revoked.
        CertificateRevoked = "certificate_revoked",
        /// Nobody whom we trust has signed the certificate of the peer.
        UnknownAuthority = "unknown_authority",
        /// The certificate of the peer is wrong in another way.
        Certificate = "certificate",
        /// What the peer sent is not as TLS says.
        Protocol = "protocol",
    }
}

labels! {
    /// Why a connection was closed that should have begun with a header of the PROXY protocol.
    ProxyRefusal {
        /// It came from an address that is not trusted.
        Untrusted = "untrusted",
        /// It began with something else.
        Absent = "absent",
        /// The header is not as the protocol has it, too long, or damaged.
        Malformed = "malformed",
        /// It was closed within the header.
        Closed = "closed",
        /// The header did not come in time.
        Timeout = "timeout",
    }
}

labels! {
    /// Why a request to a WebSocket listener did not become a connection.
    WebSocketRefusal {
        /// The page that a browser has it from may not.
        Origin = "origin",
        /// There is no MQTT on this path.
        Path = "path",
        /// It asks for no subprotocol of ours, with `mqtt.strict`.
        Subprotocol = "subprotocol",
        /// It is no request for a WebSocket.
        Request = "request",
    }
}

labels! {
    /// At which step somebody was refused of whom it was to be found out who it is.
    AuthStep {
        /// It names an authentication method that is not offered.
        Method = "method",
        /// It has no user name, and without one nobody is let in.
        NoCredentials = "no_credentials",
        /// Nobody knows the user.
        UnknownUser = "unknown_user",
        /// The password is another one.
        WrongPassword = "wrong_password",
        /// The user may not have this client id.
        ClientId = "client_id",
        /// The permissions of the user need a client id that can stand in a subject.
        Template = "template",
        /// Too many waited to be judged.
        Busy = "busy",
        /// The user JWT is larger than one can be.
        JwtTooLong = "jwt_too_long",
        /// What should be a user JWT is none.
        JwtMalformed = "jwt_malformed",
        /// The user JWT is not signed with an NKey.
        JwtAlgorithm = "jwt_algorithm",
        /// The claims of the user JWT cannot be read.
        JwtClaims = "jwt_claims",
        /// The user JWT is of another version.
        JwtVersion = "jwt_version",
        /// It is the JWT of something else than a user.
        JwtKind = "jwt_kind",
        /// Issuer or subject of the user JWT is no key that it can be.
        JwtKey = "jwt_key",
        /// The signature of the user JWT does not match.
        JwtSignature = "jwt_signature",
        /// The user has to come through a trusted proxy.
        ProxyRequired = "proxy_required",
        /// The user JWT has expired.
        Expired = "expired",
        /// The user JWT is not valid yet.
        NotYetValid = "not_yet_valid",
        /// Permissions, networks or hours of the user JWT cannot be understood.
        Claims = "claims",
        /// `issuer_account` of the user JWT is no account.
        IssuerAccount = "issuer_account",
        /// The account is not among those that may connect.
        AccountNotPinned = "account_not_pinned",
        /// Nobody has a JWT of the account, or it is deleted.
        AccountUnknown = "account_unknown",
        /// The JWT of the account cannot be read.
        AccountJwt = "account_jwt",
        /// Whoever has the JWTs of accounts, or of the operator, cannot be asked.
        ResolverUnreachable = "resolver_unreachable",
        /// The account JWT is that of another account.
        AccountMismatch = "account_mismatch",
        /// No trusted operator signed the account JWT.
        AccountUntrusted = "account_untrusted",
        /// The user JWT is not signed by its account or one of its signing keys.
        Issuer = "issuer",
        /// A user of a scoped signing key has permissions or limits of its own.
        ScopedUserNotEmpty = "scoped_user_not_empty",
        /// The template of the scoped signing key has no meaning for the user.
        ScopeTemplate = "scope_template",
        /// The account has expired.
        AccountExpired = "account_expired",
        /// The account leaves its users to an auth callout.
        AuthCallout = "auth_callout",
        /// The account allows no bearers.
        BearerDisallowed = "bearer_disallowed",
        /// The user may not connect with MQTT on this listener.
        ConnectionType = "connection_type",
        /// The user JWT is that of no bearer, and its key was not proven.
        SignatureMissing = "signature_missing",
        /// The nonce is not signed by the user's key.
        SignatureWrong = "signature_wrong",
        /// The user is revoked.
        Revoked = "revoked",
        /// The user may not connect from this address.
        SourceAddress = "source_address",
        /// The user may not connect at this time.
        TimeWindow = "time_window",
        /// The permissions have a deny that cannot be understood.
        Permissions = "permissions",
        /// The user has an `mqtt:` tag that cannot be understood.
        Tags = "tags",
        /// A client that is connected has said that it is another user.
        OtherUser = "other_user",
        /// Its certificate is needed and missing, or is another user's.
        Certificate = "certificate",
        /// Its certificate is revoked.
        CertificateRevoked = "certificate_revoked",
        /// Its account is not the one of the listener.
        Account = "account",
        /// nats-server does not take its credentials.
        NatsRefused = "nats_refused",
        /// No nats-server could be asked, or none wanted to say.
        NatsUnreachable = "nats_unreachable",
        /// Its user may not publish the question who it is.
        NatsQuestion = "nats_question",
        /// The answer has reached none of our links.
        NatsNoAnswer = "nats_no_answer",
        /// More than one has answered.
        NatsAnswers = "nats_answers",
        /// The answer cannot be understood.
        NatsAnswer = "nats_answer",
        /// What its JWT says of addresses, hours or connections does not let it in.
        NatsJwt = "nats_jwt",
        /// What should be a token is none that can be verified.
        OidcToken = "oidc_token",
        /// The token is of another issuer.
        OidcIssuer = "oidc_issuer",
        /// The token is for somebody else.
        OidcAudience = "oidc_audience",
        /// The token has expired, or is not valid yet.
        OidcTime = "oidc_time",
        /// No key is known that the token may be signed with.
        OidcKey = "oidc_key",
        /// The key that the token names has not signed it.
        OidcSignature = "oidc_signature",
        /// The claims of the token match no role.
        OidcRole = "oidc_role",
        /// The keys of the identity provider cannot be had.
        OidcUnreachable = "oidc_unreachable",
    }
}

labels! {
    /// What a ban is of.
    BanKind {
        /// An address or a network.
        Address = "address",
        /// A client id of an account.
        Client = "client",
        /// A user of an account.
        User = "user",
    }
}

labels! {
    /// Why somebody was banned by a rule.
    BanCause {
        /// The client id has connected too often.
        Flapping = "flapping",
        /// Too many were refused at the address for what they said about who they are.
        FailedLogins = "failed_logins",
        /// The protocol was broken too often at the address.
        Violations = "violations",
    }
}

impl BanKind {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Address, Self::Client, Self::User];
}

labels! {
    /// What takes of `mqtt.max_opening_size`.
    Opening {
        /// Sessions that are being opened or left.
        Turn = "turn",
        /// CONNECTs that wait for their turn.
        Waiting = "waiting",
        /// Large wills that are read again, to be published.
        Wills = "wills",
    }
}

impl Limit {
    /// How many there are.
    pub(crate) const COUNT: usize = Self::TEXTS.len();
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisconnectReason {
    /// The client sent DISCONNECT.
    Client,
    /// The connection broke, or ended without DISCONNECT.
    ConnectionLost,
    /// We ended it, for this reason (also where MQTT 3.x cannot be told).
    Server(ReasonCode),
}
