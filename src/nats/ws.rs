//! A WebSocket as a byte stream: what is written between two flushes is one binary frame or several.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message, protocol::WebSocketConfig};

use super::error::ConnectError;
use super::url::ServerUrl;

/// Bytes of one frame that we send.
const FRAME_MAX: usize = 64 * 1024;
/// The largest message that nats-server sends is 64 MiB, and it may come in one frame with others.
const INCOMING_MAX: usize = 256 << 20;

#[derive(Debug)]
pub(super) struct WsStream<S> {
    ws: WebSocketStream<S>,
    incoming: Bytes,
    outgoing: BytesMut,
}

/// Opens a WebSocket on a stream that stands.
pub(super) async fn open<S>(stream: S, url: &ServerUrl) -> Result<WsStream<S>, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default().max_message_size(Some(INCOMING_MAX)).max_frame_size(Some(INCOMING_MAX));
    let uri = format!("{url}{}", url.path);
    let (ws, _) = tokio_tungstenite::client_async_with_config(uri, stream, Some(config))
        .await
        .map_err(|error| ConnectError::Io(format!("WebSocket: {error}")))?;
    Ok(WsStream { ws, incoming: Bytes::new(), outgoing: BytesMut::new() })
}

impl<S: AsyncRead + AsyncWrite + Unpin> WsStream<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.outgoing.is_empty() {
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut self.ws).poll_ready(cx)).map_err(broken)?;
        let frame = self.outgoing.split().freeze();
        Poll::Ready(Pin::new(&mut self.ws).start_send(Message::Binary(frame)).map_err(broken))
    }
}

fn broken(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::new(io::ErrorKind::BrokenPipe, other),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WsStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.incoming.is_empty() {
            match ready!(Pin::new(&mut this.ws).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => this.incoming = bytes,
                // Pings are answered by the crate.
                Some(Ok(_)) => {}
                None | Some(Err(Error::ConnectionClosed | Error::AlreadyClosed)) => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
        let count = this.incoming.len().min(buf.remaining());
        buf.put_slice(&this.incoming.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WsStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.outgoing.len() >= FRAME_MAX {
            ready!(this.poll_send(cx))?;
        }
        let count = bytes.len().min(FRAME_MAX - this.outgoing.len());
        this.outgoing.extend_from_slice(bytes.get(..count).unwrap_or_default());
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.ws).poll_flush(cx).map_err(broken)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.ws).poll_close(cx).map_err(broken)
    }
}
