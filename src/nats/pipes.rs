//! Servers in this process, for unit tests: a pipe in place of TCP, so that time may be paused while bytes are on their way.

use std::collections::HashMap;
use std::sync::LazyLock;

use parking_lot::Mutex;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;

use super::error::ConnectError;
use super::stream::Stream;
use super::url::ServerUrl;

/// Host of their URLs.
const HOST: &str = "pipe";

/// Bytes on their way in one direction.
const PIPE: usize = 1 << 20;

static LISTENERS: LazyLock<Mutex<HashMap<u16, mpsc::UnboundedSender<DuplexStream>>>> = LazyLock::new(Mutex::default);

/// Where links connect to.
pub(crate) struct PipeListener {
    port: u16,
    incoming: mpsc::UnboundedReceiver<DuplexStream>,
}

impl PipeListener {
    pub(crate) fn bind() -> Self {
        let (tx, incoming) = mpsc::unbounded_channel();
        let mut listeners = LISTENERS.lock();
        let port = (1..).find(|port| !listeners.contains_key(port)).expect("a port is free");
        listeners.insert(port, tx);
        Self { port, incoming }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://{HOST}:{}", self.port)
    }

    pub(crate) async fn accept(&mut self) -> DuplexStream {
        self.incoming.recv().await.expect("it is known as long as this is there")
    }
}

impl Drop for PipeListener {
    fn drop(&mut self) {
        LISTENERS.lock().remove(&self.port);
    }
}

/// A stream to one of them; `None`: the server is elsewhere.
pub(super) fn open(url: &ServerUrl) -> Option<Result<Stream, ConnectError>> {
    if url.host != HOST {
        return None;
    }
    let (near, far) = tokio::io::duplex(PIPE);
    let is_there = LISTENERS.lock().get(&url.port).is_some_and(|listener| listener.send(far).is_ok());
    Some(if is_there { Ok(Box::new(near)) } else { Err(ConnectError::Io("nobody listens".to_owned())) })
}
