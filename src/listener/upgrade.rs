//! The HTTP side of WebSocket: which requests become MQTT connections [MQTT 5, 6.0]. hyper parses the request; what
//! is asked of it is checked here; then the socket is taken back from hyper.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
    upgrade::{OnUpgrade, Parts},
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::WsStream;

/// Subprotocols that mean MQTT, in the order in which they are preferred. The answer is `mqtt` [MQTT-6.0.0-4] but to who asks
/// for the name before it alone.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// Bytes of a request line and headers together.
const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// What a listener asks of a request.
#[derive(Debug)]
pub(super) struct Upgrade {
    /// Paths that are MQTT.
    pub(super) paths: Vec<String>,
    /// A request without one of our subprotocols is refused [MQTT-6.0.0-3].
    pub(super) strict: bool,
    /// From accept to CONNECT, which the HTTP exchange is a part of.
    pub(super) within: Duration,
}

/// No WebSocket connection came of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpgradeError {
    #[error("no complete request in time")]
    TimedOut,
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("answered {0}")]
    Refused(StatusCode),
    #[error("closed before a request")]
    Closed,
    #[error("the socket did not come back from HTTP")]
    Lost,
}

/// What came of the one request.
type Outcome = Result<OnUpgrade, StatusCode>;

impl Upgrade {
    /// Speaks HTTP until the connection is a WebSocket, or the request was answered with an error.
    pub(super) async fn accept<S>(&self, stream: S, since: Instant) -> Result<WsStream<S>, UpgradeError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let exchange = async {
            let outcome: Mutex<Option<Outcome>> = Mutex::new(None);
            let service = service_fn(|mut request: Request<Incoming>| {
                let (response, result) = match self.answer(&request) {
                    Ok(response) => (response, Ok(hyper::upgrade::on(&mut request))),
                    Err(refusal) => (refusal.response(), Err(refusal.status)),
                };
                *outcome.lock() = Some(result);
                std::future::ready(Ok::<_, Infallible>(response))
            });
            http1::Builder::new()
                .max_buf_size(REQUEST_BYTES_MAX)
                .header_read_timeout(None)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await?;
            let outcome = outcome.lock().take();
            let upgraded = outcome.ok_or(UpgradeError::Closed)?.map_err(UpgradeError::Refused)?.await?;
            upgraded.downcast::<TokioIo<S>>().map_err(|_| UpgradeError::Lost)
        };
        let Parts { io, read_buf, .. } =
            timeout_at(since + self.within, exchange).await.map_err(|_| UpgradeError::TimedOut)??;
        Ok(WsStream::new(io.into_inner(), &read_buf))
    }

    /// The switching answer, or why there is none.
    fn answer<B>(&self, request: &Request<B>) -> Result<Response<Full<Bytes>>, Refusal> {
        let headers = request.headers();
        if !self.paths.iter().any(|path| path == request.uri().path()) {
            return Err(Refusal { status: StatusCode::NOT_FOUND, text: "There is no MQTT on this path.\n" });
        }
        if request.method() != Method::GET {
            return Err(Refusal { status: StatusCode::METHOD_NOT_ALLOWED, text: "WebSocket begins with GET.\n" });
        }
        if !has_token(headers, &header::UPGRADE, "websocket") || !has_token(headers, &header::CONNECTION, "upgrade") {
            return Err(Refusal { status: StatusCode::UPGRADE_REQUIRED, text: "This is MQTT over WebSocket.\n" });
        }
        if !has_token(headers, &header::SEC_WEBSOCKET_VERSION, "13") {
            return Err(Refusal {
                status: StatusCode::UPGRADE_REQUIRED,
                text: "WebSocket version 13 is spoken here.\n",
            });
        }
        let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| key.len() == 24) else {
            return Err(Refusal { status: StatusCode::BAD_REQUEST, text: "Sec-WebSocket-Key is missing or wrong.\n" });
        };
        let subprotocol = subprotocol(headers);
        if subprotocol.is_none() && self.strict {
            return Err(Refusal { status: StatusCode::BAD_REQUEST, text: "Ask for the subprotocol mqtt.\n" });
        }
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let out = response.headers_mut();
        out.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        out.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
            out.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        if let Some(subprotocol) = subprotocol {
            out.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
        }
        Ok(response)
    }
}

/// An answer that is not a WebSocket connection.
struct Refusal {
    status: StatusCode,
    text: &'static str,
}

impl Refusal {
    fn response(&self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from_static(self.text.as_bytes())));
        *response.status_mut() = self.status;
        let out = response.headers_mut();
        out.insert(header::CONNECTION, HeaderValue::from_static("close"));
        out.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if self.status == StatusCode::UPGRADE_REQUIRED {
            out.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            out.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        response
    }
}

/// The elements of a header whose value is a comma-separated list, over all its lines.
fn tokens<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

fn has_token(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    tokens(headers, name).any(|token| token.eq_ignore_ascii_case(wanted))
}

/// The best of the client's subprotocols that mean MQTT.
fn subprotocol(headers: &HeaderMap) -> Option<&'static str> {
    SUBPROTOCOLS.into_iter().find(|ours| has_token(headers, &header::SEC_WEBSOCKET_PROTOCOL, ours))
}
