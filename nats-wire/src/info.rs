//! INFO and CONNECT.

use std::fmt;

use serde::{Deserialize, Serialize};

/// INFO was not the JSON that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the server's INFO cannot be read: {reason}")]
pub struct InfoError {
    /// What the parser says.
    pub reason: String,
}

/// What a server says of itself. What we do not use is not here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ServerInfo {
    /// Its id, which another start does not have.
    pub server_id: String,
    /// Its name.
    pub server_name: String,
    /// Its version.
    pub version: String,
    /// Largest message that it takes, header block included, in bytes.
    pub max_payload: usize,
    /// Whether it goes on only after TLS.
    pub tls_required: bool,
    /// Whether TLS can be had.
    pub tls_available: bool,
    /// Whether messages can have headers.
    pub headers: bool,
    /// What is signed to prove who we are.
    pub nonce: String,
    /// Addresses of the servers of its cluster, `host:port`.
    pub connect_urls: Vec<String>,
    /// It is going to shut down.
    #[serde(rename = "ldm")]
    pub is_lame_duck: bool,
    /// It runs JetStream.
    pub jetstream: bool,
    /// Our number on it.
    pub client_id: u64,
    /// The account that the connection is in; said after CONNECT, by some servers.
    pub remote_account: Option<String>,
}

impl ServerInfo {
    /// Reads the JSON of INFO.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(json: &[u8]) -> Result<Self, InfoError> {
        serde_json::from_slice(json).map_err(|error| InfoError { reason: error.to_string() })
    }
}

/// What we say of ourselves.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
pub struct ConnectInfo {
    /// +OK for every operation.
    pub verbose: bool,
    /// Stricter checks.
    pub pedantic: bool,
    /// Insist on TLS.
    pub tls_required: bool,
    /// Name of the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Programming language of the client.
    pub lang: String,
    /// Version of the client.
    pub version: String,
    /// 1: INFO may come again.
    pub protocol: u8,
    /// Send us what we publish.
    pub echo: bool,
    /// Messages can have headers.
    pub headers: bool,
    /// Say when nobody listens to a request.
    pub no_responders: bool,
    /// User name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pass: Option<String>,
    /// Token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_token: Option<String>,
    /// User JWT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt: Option<String>,
    /// Public NKey.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nkey: Option<String>,
    /// Signature of the nonce, base64url without padding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sig: Option<String>,
}

impl fmt::Debug for ConnectInfo {
    // Secrets stay out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectInfo").field("name", &self.name).field("user", &self.user).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_info_of_nats_server_is_read_and_unknown_fields_are_left_out() {
        let info = ServerInfo::parse(
            br#"{"server_id":"N","version":"2.15.1","proto":1,"max_payload":1048576,"headers":true,"jetstream":true,
                "nonce":"n","connect_urls":["a:1","[::1]:2"],"ldm":true,"xkey":"X"}"#,
        );
        let info = info.unwrap();
        assert_eq!((info.max_payload, info.is_lame_duck, info.connect_urls.len()), (1_048_576, true, 2));
        assert!(ServerInfo::parse(b"{").is_err());
        assert_eq!(ServerInfo::parse(b"{}"), Ok(ServerInfo::default()));
    }

    #[test]
    fn secrets_are_not_shown() {
        let info = ConnectInfo { pass: Some("secret".to_owned()), ..ConnectInfo::default() };
        assert!(!format!("{info:?}").contains("secret"));
    }
}
