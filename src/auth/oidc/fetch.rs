//! Fetches a small document over HTTP: no redirects, a limited size, a limited time.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::nats::{TlsFiles, wrap_in_tls};

/// Bytes that it may have.
const SIZE_MAX: usize = 256 * 1024;

/// How long it may take.
const WITHIN: Duration = Duration::from_secs(5);

/// What is at a URL. `ca`: authorities to trust in place of the system's. The error is a text for the log.
pub(super) async fn fetch(url: &str, ca: Option<PathBuf>) -> Result<Bytes, String> {
    let fetched = tokio::time::timeout(WITHIN, Box::pin(fetch_from(url, ca))).await;
    fetched.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

async fn fetch_from(url: &str, ca: Option<PathBuf>) -> Result<Bytes, String> {
    let uri: Uri = url.parse().map_err(|_| "not a URL".to_owned())?;
    let is_https = uri.scheme_str() == Some("https");
    let host = uri.host().ok_or("no host")?.trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
    let stream = connect(host, port, is_https).await?;
    if !is_https {
        return Box::pin(get(stream, &uri)).await;
    }
    let files = TlsFiles { required: true, ca, ..TlsFiles::default() };
    let stream = wrap_in_tls(stream, host, &files).await.map_err(|error| error.to_string())?;
    Box::pin(get(stream, &uri)).await
}

/// To the first address that answers; without TLS only to this machine, whatever its name resolves to.
async fn connect(host: &str, port: u16, is_https: bool) -> Result<TcpStream, String> {
    let addresses = tokio::net::lookup_host((host, port)).await.map_err(|error| error.to_string())?;
    let mut failed = "its name has no address".to_owned();
    for address in addresses.filter(|address| is_https || address.ip().is_loopback()) {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error.to_string(),
        }
    }
    Err(failed)
}

async fn get<S>(stream: S, uri: &Uri) -> Result<Bytes, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let host = uri.authority().map_or_else(String::new, ToString::to_string);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        if response.status() != StatusCode::OK {
            return Err(format!("it answers {}", response.status()));
        }
        let body = Limited::new(response.into_body(), SIZE_MAX).collect().await.map_err(|error| error.to_string())?;
        Ok(body.to_bytes())
    };
    tokio::select! {
        biased;
        result = exchange => result,
        // What has come before its end is read by the exchange, which ends with it.
        never = async { let _ = connection.await; std::future::pending::<Result<Bytes, String>>().await } => never,
    }
}
