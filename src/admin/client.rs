//! One GET to an admin listener, for `nats-mqtt health` and for tests. No TLS, no redirects.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Bytes of an answer that are read.
const BODY_MAX: usize = 4 * 1024 * 1024;

/// No answer came.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// Nobody listens there.
    #[error("{0}")]
    Connect(#[from] std::io::Error),
    /// What listens there does not speak HTTP, or the address or path cannot be used.
    #[error("{0}")]
    Http(String),
}

/// Gets `path` from `addr` (`HOST:PORT`) and answers status and body. Takes as long as it takes: wrap it in a timeout.
///
/// # Errors
/// No connection, or no HTTP answer of at most 4 MiB.
pub async fn get(addr: &str, path: &str, accept: Option<&str>) -> Result<(u16, String), GetError> {
    let http = |error: &dyn std::fmt::Display| GetError::Http(error.to_string());
    let stream = TcpStream::connect(addr).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| http(&error))?;
    let mut request = Request::get(path).header(header::HOST, addr).header(header::CONNECTION, "close");
    if let Some(accept) = accept {
        request = request.header(header::ACCEPT, accept);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| http(&error))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| http(&error))?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), BODY_MAX).collect().await.map_err(|error| http(&error))?;
        Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
    };
    // The connection has to be polled for the exchange to go on; its own result adds nothing to the exchange's.
    tokio::pin!(exchange);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        answer = &mut exchange => answer,
        _ = &mut connection => exchange.await,
    }
}
