//! From a server's address to a connection that stands: INFO, TLS, CONNECT, PING and its PONG.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::BytesMut;
use nats_wire::{ConnectInfo, Decoder, Limits, ServerInfo, ServerOp, encode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::Zeroize as _;

use super::error::ConnectError;
use super::options::LinkOptions;
use super::pool::Server;
use super::stream::{self, Stream};
use super::tls;
use super::url::Scheme;

/// How long a server may take, from the first packet to its PONG.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// A connection that stands.
pub(super) struct Established {
    pub(super) stream: Stream,
    pub(super) decoder: Decoder,
    /// What came behind the PONG.
    pub(super) buffer: BytesMut,
    pub(super) info: ServerInfo,
}

/// Connects to one server.
pub(super) async fn establish(server: &Server, options: &LinkOptions) -> Result<Established, ConnectError> {
    let established = tokio::time::timeout(CONNECT_WITHIN, shake_hands(server, options)).await;
    established.unwrap_or(Err(ConnectError::TimedOut))
}

async fn shake_hands(server: &Server, options: &LinkOptions) -> Result<Established, ConnectError> {
    let mut talk = Talk {
        stream: stream::open(server, &options.tls).await?,
        decoder: Decoder::new(Limits::default()),
        buffer: BytesMut::with_capacity(4 * 1024),
    };
    let ServerOp::Info(json) = talk.next().await? else {
        return Err(ConnectError::Protocol("a server begins with INFO".to_owned()));
    };
    let info = ServerInfo::parse(&json).map_err(|error| ConnectError::Protocol(error.to_string()))?;
    let url = &server.url;
    let is_encrypted = options.tls.first || url.scheme.is_websocket();
    let wants_tls = options.tls.required || url.scheme == Scheme::Tls;
    if !is_encrypted && (wants_tls || info.tls_required) {
        if !info.tls_required && !info.tls_available {
            return Err(ConnectError::Tls("the server has no TLS".to_owned()));
        }
        talk = talk.encrypted(server, options).await?;
    } else if options.tls.required && url.scheme == Scheme::Ws {
        return Err(ConnectError::Tls("ws:// is not encrypted, wss:// is".to_owned()));
    }
    let mut out = BytesMut::new();
    let mut said = connect_info(options, &info, wants_tls)?;
    encode::connect(&mut out, &said);
    for secret in [&mut said.pass, &mut said.auth_token, &mut said.jwt] {
        secret.zeroize();
    }
    encode::ping(&mut out);
    talk.stream.write_all(&out).await?;
    talk.stream.flush().await?;
    out.as_mut().zeroize();
    loop {
        match talk.next().await? {
            ServerOp::Pong => {
                let Talk { stream, decoder, buffer } = talk;
                return Ok(Established { stream, decoder, buffer, info });
            }
            ServerOp::Error(text) => return Err(refusal(&text)),
            ServerOp::Info(_) | ServerOp::Ok | ServerOp::Ping => {}
            ServerOp::Message(_) | ServerOp::Skipped { .. } => {
                return Err(ConnectError::Protocol("a message before the connection stands".to_owned()));
            }
        }
    }
}

/// What a server says instead of PONG.
fn refusal(text: &[u8]) -> ConnectError {
    let text = String::from_utf8_lossy(text);
    if text.to_ascii_lowercase().starts_with("authorization violation") {
        ConnectError::Authorization
    } else {
        ConnectError::Protocol(text.into_owned())
    }
}

fn connect_info(options: &LinkOptions, info: &ServerInfo, tls_required: bool) -> Result<ConnectInfo, ConnectError> {
    let mut login = (options.identify)(info.nonce.as_bytes()).map_err(ConnectError::Credentials)?;
    Ok(ConnectInfo {
        verbose: false,
        pedantic: false,
        tls_required,
        name: Some(options.name.clone()),
        lang: "rust".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: 1,
        echo: !options.no_echo,
        headers: true,
        no_responders: true,
        user: login.user.take(),
        pass: login.password.take(),
        auth_token: login.token.take(),
        jwt: login.jwt.take(),
        nkey: login.nkey.take(),
        sig: login.signature.take().map(|signature| URL_SAFE_NO_PAD.encode(signature)),
    })
}

/// A stream on which one speaks at a time.
struct Talk {
    stream: Stream,
    decoder: Decoder,
    buffer: BytesMut,
}

impl Talk {
    async fn next(&mut self) -> Result<ServerOp, ConnectError> {
        loop {
            match self.decoder.decode(&mut self.buffer) {
                Ok(Some(op)) => return Ok(op),
                Ok(None) => {}
                Err(error) => return Err(ConnectError::Protocol(error.to_string())),
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(ConnectError::Io("the server has closed the connection".to_owned()));
            }
        }
    }

    async fn encrypted(self, server: &Server, options: &LinkOptions) -> Result<Self, ConnectError> {
        // What was said in the clear must not count as said inside.
        if !self.buffer.is_empty() {
            return Err(ConnectError::Protocol("the server speaks before TLS".to_owned()));
        }
        let stream = tls::wrap(self.stream, stream::tls_name(server), &options.tls).await?;
        Ok(Self { stream: Box::new(stream), ..self })
    }
}
