//! The HTTP side of WebSocket: which requests become MQTT connections [MQTT 5, 6.0]. hyper parses the request; what
//! is asked of it is checked here; then the socket is taken back from hyper. No extension is agreed on, so nothing is compressed.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

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
use tokio::time::timeout_at;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tracing::{debug, info};

use super::forwarded::{Forwarded, forwarded_for};
use super::{Peer, WsStream};
use crate::config::{Networks, Origin};
use crate::metrics::{Metrics, WebSocketRefusal};
use crate::network::PeerAddr;

/// Subprotocols that mean MQTT, in the order in which they are preferred. The answer is `mqtt` [MQTT-6.0.0-4] but to who asks
/// for the name before it alone.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// Bytes of a request line and headers together.
const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// What a listener asks of a request.
pub(super) struct Upgrade {
    /// Paths that are MQTT.
    pub(super) paths: Vec<String>,
    /// Where pages may be from that browsers have; `None`: from everywhere. Who says no origin is no browser.
    pub(super) allowed_origins: Option<Vec<Origin>>,
    /// Whose `X-Forwarded-For` counts.
    pub(super) trusted_forwarders: Networks,
    /// A request without one of our subprotocols is refused [MQTT-6.0.0-3].
    pub(super) strict: bool,
    /// From accept to CONNECT, which the HTTP exchange is a part of.
    pub(super) within: Duration,
    pub(super) metrics: Arc<Metrics>,
}

/// A connection that has become a WebSocket.
pub(super) struct Upgraded<S> {
    pub(super) stream: WsStream<S>,
    /// The client, where somebody who is trusted has said who it is.
    pub(super) forwarded: Option<SocketAddr>,
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
type Outcome = Result<(OnUpgrade, Option<SocketAddr>), StatusCode>;

impl Upgrade {
    /// Speaks HTTP until the connection is a WebSocket, or the request was answered with an error.
    pub(super) async fn accept<S>(&self, stream: S, peer: &Peer) -> Result<Upgraded<S>, UpgradeError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let exchange = async {
            let outcome: Mutex<Option<Outcome>> = Mutex::new(None);
            let service = service_fn(|mut request: Request<Incoming>| {
                let (response, result) = match self.answer(&request) {
                    Ok(response) => {
                        let forwarded = self.forwarded(request.headers(), peer);
                        (response, Ok((hyper::upgrade::on(&mut request), forwarded)))
                    }
                    Err(refusal) => (refusal.response(), Err(refusal.status)),
                };
                self.tell(&request, peer, response.status());
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
            let (upgraded, forwarded) = outcome.ok_or(UpgradeError::Closed)?.map_err(UpgradeError::Refused)?;
            let parts = upgraded.await?.downcast::<TokioIo<S>>().map_err(|_| UpgradeError::Lost)?;
            Ok::<_, UpgradeError>((parts, forwarded))
        };
        let (Parts { io, read_buf, .. }, forwarded) =
            timeout_at(peer.since + self.within, exchange).await.map_err(|_| UpgradeError::TimedOut)??;
        Ok(Upgraded { stream: WsStream::new(io.into_inner(), &read_buf), forwarded })
    }

    /// Whether those from there speak for others.
    pub(super) fn trusts(&self, addr: PeerAddr) -> bool {
        addr.ip().is_some_and(|ip| self.trusted_forwarders.contains(ip))
    }

    /// Whom the request was forwarded for, where that is believed.
    fn forwarded(&self, headers: &HeaderMap, peer: &Peer) -> Option<SocketAddr> {
        if !self.trusts(peer.addr) {
            return None;
        }
        match forwarded_for(headers, &self.trusted_forwarders) {
            Forwarded::For(client) => Some(client),
            Forwarded::Absent => None,
            Forwarded::Garbage => {
                debug!(remote = %peer.addr, listener = &*peer.entrance.name, "X-Forwarded-For says no address");
                None
            }
        }
    }

    /// What a device or a browser asked for, and got.
    fn tell<B>(&self, request: &Request<B>, peer: &Peer, status: StatusCode) {
        let text = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let (path, origin) = (request.uri().path(), text(header::ORIGIN));
        let (remote, listener, status) = (peer.addr, &*peer.entrance.name, status.as_u16());
        debug!(%remote, listener, path, origin, status, "a WebSocket was asked for");
        if status == StatusCode::FORBIDDEN.as_u16() {
            info!(%remote, listener, origin, "refused: the page is from an origin that is not in allowed_origins");
        }
    }

    /// Whether the page of a browser may connect. A browser says where it is from, once.
    fn allows_origin(&self, headers: &HeaderMap) -> bool {
        let Some(allowed) = &self.allowed_origins else { return true };
        let mut said = headers.get_all(header::ORIGIN).into_iter();
        match (said.next(), said.next()) {
            (None, _) => true,
            (Some(origin), None) => origin.to_str().is_ok_and(|said| allowed.iter().any(|origin| origin.is(said))),
            (Some(_), Some(_)) => false,
        }
    }

    /// The switching answer, or why there is none, which is counted.
    fn answer<B>(&self, request: &Request<B>) -> Result<Response<Full<Bytes>>, Refusal> {
        let answer = self.judge(request);
        if let Err(refusal) = &answer {
            self.metrics.websocket_refused(refusal.reason);
        }
        answer
    }

    fn judge<B>(&self, request: &Request<B>) -> Result<Response<Full<Bytes>>, Refusal> {
        use WebSocketRefusal as Reason;
        let headers = request.headers();
        let refused = |reason, status, text| Err(Refusal { reason, status, text });
        if !self.paths.iter().any(|path| path == request.uri().path()) {
            return refused(Reason::Path, StatusCode::NOT_FOUND, "There is no MQTT on this path.\n");
        }
        if request.method() != Method::GET {
            return refused(Reason::Request, StatusCode::METHOD_NOT_ALLOWED, "WebSocket begins with GET.\n");
        }
        if !has_token(headers, &header::UPGRADE, "websocket") || !has_token(headers, &header::CONNECTION, "upgrade") {
            return refused(Reason::Request, StatusCode::UPGRADE_REQUIRED, "This is MQTT over WebSocket.\n");
        }
        if !has_token(headers, &header::SEC_WEBSOCKET_VERSION, "13") {
            return refused(Reason::Request, StatusCode::UPGRADE_REQUIRED, "WebSocket version 13 is spoken here.\n");
        }
        let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| key.len() == 24) else {
            return refused(Reason::Request, StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing or wrong.\n");
        };
        if !self.allows_origin(headers) {
            return refused(Reason::Origin, StatusCode::FORBIDDEN, "Pages of this origin may not connect.\n");
        }
        let subprotocol = subprotocol(headers);
        if subprotocol.is_none() && self.strict {
            return refused(Reason::Subprotocol, StatusCode::BAD_REQUEST, "Ask for the subprotocol mqtt.\n");
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
    reason: WebSocketRefusal,
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
