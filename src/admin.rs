//! The admin listener: health and metrics over plain HTTP, meant for loopback or a cluster's own network. Bare hyper,
//! which the WebSocket handshake needs anyway: three GET paths do not need a framework.
//!
//! # Layout
//! - `client`: one GET, for `nats-mqtt health` and for tests.
//! - `control`: the Unix socket for `nats-mqtt reload`.

pub mod client;
pub mod control;

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
};
use tracing::{debug, warn};

use crate::{
    config::BindAddr,
    listener,
    metrics::Metrics,
    readiness::{Missing, Readiness},
};

/// Connections at the same time; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 64;

/// From the start of a connection, or from the last answer, to the end of a request's headers.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Wait after an accept that failed.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(200);

/// Media type of the metrics.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The admin listener. It runs until this is dropped, so that `/readyz` can say that we drain.
#[derive(Debug)]
pub struct Admin {
    /// Where it listens; the port is the real one, also when the configuration says 0.
    pub addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The admin address cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("admin: cannot listen on {bind}: {source}")]
pub struct AdminError {
    /// What was configured.
    bind: BindAddr,
    /// What the system said.
    source: std::io::Error,
}

/// Opens the admin listener.
///
/// # Errors
/// The address cannot be bound.
pub async fn spawn(bind: &BindAddr, readiness: Readiness, metrics: Arc<Metrics>) -> Result<Admin, AdminError> {
    let opened = async {
        let (listener, claim) = listener::listen(bind).await?;
        let addr = listener.local_addr()?;
        Ok((listener, claim, addr))
    };
    let (listener, claim, addr) = opened.await.map_err(|source| AdminError { bind: bind.clone(), source })?;
    let task = tokio::spawn(async move {
        run(listener, Pages { readiness, metrics }).await;
        drop(claim);
    });
    Ok(Admin { addr, task })
}

async fn run(listener: TcpListener, pages: Pages) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(place) = places.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "admin: cannot accept; trying again");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        let pages = pages.clone();
        tokio::spawn(async move {
            serve(stream, pages).await;
            drop(place);
        });
    }
}

async fn serve(stream: TcpStream, pages: Pages) {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        std::future::ready(Ok::<_, Infallible>(pages.answer(&request)))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        debug!(%error, "admin: connection ended");
    }
}

/// What is answered.
#[derive(Clone)]
struct Pages {
    readiness: Readiness,
    metrics: Arc<Metrics>,
}

impl Pages {
    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "Only GET is possible here.\n".to_owned());
        }
        match request.uri().path() {
            "/livez" => text(StatusCode::OK, "alive\n".to_owned()),
            "/readyz" => self.ready(accepts_json(request)),
            "/metrics" => typed(StatusCode::OK, OPENMETRICS, self.metrics.render()),
            "/" => text(StatusCode::OK, "nats-mqtt: /livez /readyz /metrics\n".to_owned()),
            _ => text(StatusCode::NOT_FOUND, "There are /livez, /readyz and /metrics.\n".to_owned()),
        }
    }

    /// As text the names of what is missing, as JSON also why it is.
    fn ready(&self, as_json: bool) -> Response<Full<Bytes>> {
        let missing = self.readiness.missing();
        let names: Vec<&str> = missing.iter().map(|missing| missing.name).collect();
        let status = if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        if as_json {
            let details: serde_json::Map<_, _> =
                missing.iter().map(|Missing { name, why }| ((*name).to_owned(), why.as_str().into())).collect();
            let body = json!({ "ready": missing.is_empty(), "missing": names, "details": details });
            return typed(status, "application/json", format!("{body}\n"));
        }
        let body = if missing.is_empty() {
            "ready\n".to_owned()
        } else {
            format!("not ready, missing: {}\n", names.join(", "))
        };
        text(status, body)
    }
}

fn accepts_json<B>(request: &Request<B>) -> bool {
    let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|value| value.contains("application/json"))
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", body)
}

fn typed(status: StatusCode, media_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn admin(readiness: &Readiness) -> (Admin, String) {
        let metrics = Metrics::new();
        metrics.retained(3, 0);
        let admin = spawn(&BindAddr::new("127.0.0.1", 0), readiness.clone(), metrics).await.unwrap();
        let addr = admin.addr.to_string();
        (admin, addr)
    }

    #[tokio::test]
    async fn readyz_says_what_is_missing_and_livez_does_not_care() {
        let readiness = Readiness::new();
        let (nats, retained) = (readiness.condition("nats"), readiness.condition("retained"));
        let (_admin, addr) = admin(&readiness).await;
        nats.open();
        assert_eq!(client::get(&addr, "/readyz", None).await.unwrap(), (503, "not ready, missing: retained\n".into()));
        let json = client::get(&addr, "/readyz", Some("application/json")).await.unwrap();
        let expected = json!({ "ready": false, "missing": ["retained"], "details": { "retained": "not yet" } });
        assert_eq!((json.0, serde_json::from_str::<serde_json::Value>(&json.1).unwrap()), (503, expected));
        assert_eq!(client::get(&addr, "/livez", None).await.unwrap(), (200, "alive\n".into()));
        retained.open();
        assert_eq!(client::get(&addr, "/readyz", None).await.unwrap(), (200, "ready\n".into()));
        readiness.drain();
        assert_eq!(
            client::get(&addr, "/readyz", None).await.unwrap(),
            (503, "not ready, missing: not draining\n".into())
        );
    }

    #[tokio::test]
    async fn metrics_are_served_and_other_paths_are_not() {
        let (_admin, addr) = admin(&Readiness::new()).await;
        let (status, body) = client::get(&addr, "/metrics", None).await.unwrap();
        assert_eq!(status, 200);
        assert!(body.contains("\nmqtt_retained_messages 3\n") && body.ends_with("# EOF\n"), "{body}");
        assert_eq!(client::get(&addr, "/nothing", None).await.unwrap().0, 404);
    }

    #[tokio::test]
    async fn an_address_in_use_is_an_error_that_names_it() {
        let (first, addr) = admin(&Readiness::new()).await;
        let error = spawn(&BindAddr::from(first.addr), Readiness::new(), Metrics::new()).await.unwrap_err();
        assert!(error.to_string().starts_with(&format!("admin: cannot listen on {addr}: ")), "{error}");
    }
}
