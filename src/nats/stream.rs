//! A byte stream to a server, whatever it goes over.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::error::ConnectError;
use super::options::TlsFiles;
use super::pool::Server;
use super::url::Scheme;
use super::{tls, ws};

/// What a connection needs of a stream.
pub(super) trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for S {}

pub(super) type Stream = Box<dyn ByteStream>;

/// The name that a server's certificate is for.
pub(super) fn tls_name(server: &Server) -> &str {
    server.tls_name.as_deref().unwrap_or(&server.url.host)
}

/// Opens a stream to one of the addresses of a server, up to where the server begins to speak.
pub(super) async fn open(server: &Server, files: &TlsFiles) -> Result<Stream, ConnectError> {
    let url = &server.url;
    #[cfg(test)]
    if let Some(pipe) = super::pipes::open(url) {
        return pipe;
    }
    let tcp = tcp(server).await?;
    Ok(match url.scheme {
        Scheme::Ws => Box::new(Box::pin(ws::open(tcp, url)).await?),
        Scheme::Wss => {
            let tls = Box::pin(tls::wrap(tcp, tls_name(server), files)).await?;
            Box::new(Box::pin(ws::open(tls, url)).await?)
        }
        Scheme::Nats | Scheme::Tls if files.first => Box::new(Box::pin(tls::wrap(tcp, tls_name(server), files)).await?),
        Scheme::Nats | Scheme::Tls => Box::new(tcp),
    })
}

async fn tcp(server: &Server) -> Result<TcpStream, ConnectError> {
    let (host, port) = (server.url.host.as_str(), server.url.port);
    let unknown = |reason: String| ConnectError::Dns { host: host.to_owned(), reason };
    let addresses = tokio::net::lookup_host((host, port)).await.map_err(|error| unknown(error.to_string()))?;
    let mut failed = unknown("it has none".to_owned());
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => failed = error.into(),
        }
    }
    Err(failed)
}
