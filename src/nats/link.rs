//! The task of a link: connects, runs the connection, connects again.
//!
//! ```text
//!   connect() ──▶ connected ──lost──▶ (reconnects?) ──no──▶ ended
//!                     ▲                     │ yes
//!                     └────── a server ◀── pauses, round after round
//! ```

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use super::client::Client;
use super::connection::{Connection, Heard};
use super::error::ConnectError;
use super::handshake::{Established, establish};
use super::options::{Event, LinkOptions};
use super::pool::Pool;
use super::shared::Shared;
use super::url::ServerUrl;

/// How long what was handed over last may take to leave when nobody holds the link any more.
const LAST_WITHIN: Duration = Duration::from_secs(2);

/// Why a link has ended that its holders have let go.
pub(crate) const ABANDONED: &str = "nobody needs it any more";

/// Opens a link: tries every server once. When one takes us, the link runs by itself.
pub(crate) async fn connect(options: LinkOptions) -> Result<Client, ConnectError> {
    let mut pool = Pool::new(&options.servers, options.ignore_discovered_servers);
    let (url, established) = round(&mut pool, &options).await?;
    let tasks = options.tasks.clone();
    let shared = Shared::new(options);
    let client = Client::new(Arc::clone(&shared));
    shared.connected(established.info.clone());
    tasks.spawn(Link { shared, pool }.run(url, established));
    Ok(client)
}

/// Tries every server, the best first.
async fn round(pool: &mut Pool, options: &LinkOptions) -> Result<(ServerUrl, Established), ConnectError> {
    let mut failed = ConnectError::Io("there is no server to try".to_owned());
    for server in pool.round() {
        tokio::time::sleep(pool.pause()).await;
        match establish(&server, options).await {
            Ok(established) => {
                pool.connected(&server.url);
                pool.discovered(&server.url, &established.info.connect_urls);
                return Ok((server.url, established));
            }
            Err(error) => {
                tracing::debug!(server = %server.url, %error, "no connection");
                pool.failed(&server.url);
                if error.is_same_everywhere() {
                    return Err(error);
                }
                failed = error;
            }
        }
    }
    Err(failed)
}

struct Link {
    shared: Arc<Shared>,
    pool: Pool,
}

/// However the task ends, whoever holds the link learns that there is none any more.
impl Drop for Link {
    fn drop(&mut self) {
        if self.shared.state.borrow().connected {
            self.shared.lost(ABANDONED);
        }
        self.shared.end();
    }
}

impl Link {
    async fn run(mut self, mut url: ServerUrl, mut established: Established) {
        loop {
            let why = self.serve(&url, established).await;
            self.shared.lost(&why);
            if !self.shared.options.reconnects || self.is_abandoned() {
                break;
            }
            let Some(again) = self.reconnect().await else { break };
            (url, established) = again;
            self.shared.options.counts.reconnected();
            self.shared.connected(established.info.clone());
        }
    }

    /// Uses a connection until it is lost; says why it was.
    async fn serve(&mut self, url: &ServerUrl, established: Established) -> String {
        let mut is_lame = false;
        let mut connection = Connection::new(Arc::clone(&self.shared), established);
        loop {
            let heard = poll_fn(|cx| match connection.poll(cx) {
                Poll::Pending if self.is_abandoned() => Poll::Ready(None),
                heard => heard.map(Some),
            });
            match heard.await {
                Some(Heard::Over(why)) => return why,
                Some(Heard::Info(info)) => {
                    self.pool.discovered(url, &info.connect_urls);
                    if info.is_lame_duck && !is_lame {
                        is_lame = true;
                        self.pool.is_lame(url);
                        self.shared.emit(Event::LameDuck);
                    }
                    self.shared.learn(info);
                }
                None => {
                    // What was handed over before the last one let go leaves still.
                    let last = poll_fn(|cx| connection.poll_write(cx));
                    let _ = tokio::time::timeout(LAST_WITHIN, last).await;
                    return ABANDONED.to_owned();
                }
            }
        }
    }

    /// Tries until a server takes us, or nobody needs the link any more.
    async fn reconnect(&mut self) -> Option<(ServerUrl, Established)> {
        loop {
            let Self { shared, pool } = &mut *self;
            let abandoned = poll_fn(|cx| {
                shared.task.register(cx.waker());
                if shared.is_abandoned.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
            });
            let result = tokio::select! {
                result = round(pool, &shared.options) => result,
                () = abandoned => return None,
            };
            match result {
                Ok(established) => return Some(established),
                Err(error) => shared.emit(Event::NotConnected(&error)),
            }
        }
    }

    fn is_abandoned(&self) -> bool {
        self.shared.is_abandoned.load(Ordering::Acquire)
    }
}
