//! How times and bytes are written in records.

/// Milliseconds since the epoch as RFC 3339.
pub(crate) mod instant {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::store::time::{rfc3339, rfc3339_ms};

    pub(crate) fn serialize<S: Serializer>(ms: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&rfc3339(*ms))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        rfc3339_ms(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is no time")))
    }
}

/// The same, if there is one.
pub(super) mod maybe_instant {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::instant;

    pub(in crate::store::sessions) fn serialize<S: Serializer>(
        ms: &Option<u64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match ms {
            Some(ms) => instant::serialize(ms, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(in crate::store::sessions) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<u64>, D::Error> {
        #[derive(Deserialize)]
        struct Instant(#[serde(with = "instant")] u64);
        Ok(Option::<Instant>::deserialize(deserializer)?.map(|instant| instant.0))
    }
}

/// Bytes as base64.
pub(super) mod base64_bytes {
    use std::fmt;

    use base64::Engine as _;
    use base64::display::Base64Display;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use bytes::Bytes;
    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    pub(in crate::store::sessions) fn serialize<S: Serializer>(
        bytes: &Bytes,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(bytes, &BASE64))
    }

    pub(in crate::store::sessions) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Bytes, D::Error> {
        deserializer.deserialize_str(Decoding)
    }

    /// Decodes a text where it is: it is larger than what it says.
    struct Decoding;

    impl Visitor<'_> for Decoding {
        type Value = Bytes;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("bytes as base64")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Bytes, E> {
            BASE64.decode(text).map(Bytes::from).map_err(E::custom)
        }
    }
}

/// The same, if there are any.
pub(super) mod maybe_base64_bytes {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::base64_bytes;

    pub(in crate::store::sessions) fn serialize<S: Serializer>(
        bytes: &Option<Bytes>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => base64_bytes::serialize(bytes, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(in crate::store::sessions) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Bytes>, D::Error> {
        #[derive(Deserialize)]
        struct Binary(#[serde(with = "base64_bytes")] Bytes);
        Ok(Option::<Binary>::deserialize(deserializer)?.map(|binary| binary.0))
    }
}
