//! Which server is tried next, and when. No I/O, no clock.

use std::sync::Arc;
use std::time::Duration;

use rand::seq::SliceRandom;

use super::url::ServerUrl;

/// Servers that are remembered beside those of the configuration.
pub(super) const DISCOVERED_MAX: usize = 256;
/// The longest pause before an attempt.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Attempts that are made at once after a loss.
const AT_ONCE: u32 = 2;

#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) url: ServerUrl,
    /// What its certificate has to be for, when that is not its host.
    pub(super) tls_name: Option<String>,
    is_discovered: bool,
    /// In a row.
    failures: u32,
    /// It has said that it is about to shut down.
    is_lame: bool,
}

/// The servers of one link.
#[derive(Debug)]
pub(super) struct Pool {
    servers: Vec<Server>,
    ignores_discovered: bool,
    attempts: u32,
}

impl Pool {
    pub(super) fn new(urls: &Arc<Vec<ServerUrl>>, ignores_discovered: bool) -> Self {
        let server = |url: &ServerUrl| Server {
            url: url.clone(),
            tls_name: None,
            is_discovered: false,
            failures: 0,
            is_lame: false,
        };
        Self { servers: urls.iter().map(server).collect(), ignores_discovered, attempts: 0 }
    }

    /// All of them in the order in which they are to be tried: those that failed least first, in a random order among
    /// themselves, so that links spread over a cluster.
    pub(super) fn round(&self) -> Vec<Server> {
        let mut round = self.servers.clone();
        round.shuffle(&mut rand::rng());
        round.sort_by_key(|server| (server.is_lame, server.failures));
        round
    }

    /// The pause before the next attempt: none at first, then growing, of a random length so that many links do not come at
    /// once.
    pub(super) fn pause(&mut self) -> Duration {
        self.attempts += 1;
        if self.attempts <= AT_ONCE {
            return Duration::ZERO;
        }
        let longest = Duration::from_millis(1 << self.attempts.min(10)).min(PAUSE_MAX);
        longest.mul_f64(0.5 + rand::random::<f64>() / 2.0)
    }

    pub(super) fn failed(&mut self, url: &ServerUrl) {
        if let Some(server) = self.server(url) {
            server.failures = server.failures.saturating_add(1);
        }
    }

    pub(super) fn connected(&mut self, url: &ServerUrl) {
        self.attempts = 0;
        if let Some(server) = self.server(url) {
            (server.failures, server.is_lame) = (0, false);
        }
    }

    /// Others are better now.
    pub(super) fn is_lame(&mut self, url: &ServerUrl) {
        if let Some(server) = self.server(url) {
            server.is_lame = true;
        }
    }

    /// `from` says which servers its cluster has now.
    pub(super) fn discovered(&mut self, from: &ServerUrl, addresses: &[String]) {
        if self.ignores_discovered || addresses.is_empty() {
            return;
        }
        let from = self.servers.iter().find(|server| server.url.is_at(from)).cloned();
        let Some(from) = from else { return };
        let name = from.tls_name.clone().or_else(|| (!from.url.is_numeric()).then(|| from.url.host.clone()));
        let neighbours = addresses.iter().take(DISCOVERED_MAX).filter_map(|address| from.url.neighbour(address));
        let neighbours: Vec<ServerUrl> = neighbours.collect();
        let is_there = |server: &Server| neighbours.iter().any(|url| url.is_at(&server.url));
        self.servers.retain(|server| !server.is_discovered || server.url.is_at(&from.url) || is_there(server));
        for url in neighbours {
            if !self.servers.iter().any(|server| server.url.is_at(&url)) {
                // The cluster's certificate is for the name that we were told, seldom for a number.
                let tls_name = name.clone().filter(|_| url.is_numeric());
                self.servers.push(Server { url, tls_name, is_discovered: true, failures: 0, is_lame: false });
            }
        }
    }

    fn server(&mut self, url: &ServerUrl) -> Option<&mut Server> {
        self.servers.iter_mut().find(|server| server.url.is_at(url))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(urls: &[&str]) -> Pool {
        Pool::new(&Arc::new(urls.iter().map(|url| url.parse().unwrap()).collect()), false)
    }

    fn shown(pool: &Pool) -> Vec<String> {
        pool.servers.iter().map(|server| server.url.to_string()).collect()
    }

    #[test]
    fn servers_that_failed_or_are_about_to_end_are_tried_last() {
        let mut pool = pool(&["a", "b", "c"]);
        pool.failed(&"a".parse().unwrap());
        pool.is_lame(&"b".parse().unwrap());
        for _ in 0..20 {
            let round: Vec<String> = pool.round().iter().map(|server| server.url.host.clone()).collect();
            assert_eq!(round, ["c", "a", "b"]);
        }
        pool.connected(&"b".parse().unwrap());
        assert!(pool.round().iter().all(|server| !server.is_lame));
    }

    #[test]
    fn pauses_grow_up_to_a_second_and_begin_again() {
        let mut pool = pool(&["a"]);
        let pauses: Vec<Duration> = (0..30).map(|_| pool.pause()).collect();
        assert_eq!(pauses[..2], [Duration::ZERO; 2]);
        assert!(pauses[2] >= Duration::from_millis(4) && pauses[2] <= Duration::from_millis(8), "{:?}", pauses[2]);
        assert!(pauses[29] >= PAUSE_MAX / 2 && pauses[29] <= PAUSE_MAX, "{:?}", pauses[29]);
        pool.connected(&"a".parse().unwrap());
        assert_eq!(pool.pause(), Duration::ZERO);
    }

    #[test]
    fn the_servers_of_a_cluster_come_and_go_and_those_of_the_configuration_stay() {
        let mut pool = pool(&["tls://one:1", "tls://two:2"]);
        let one = "tls://one:1".parse().unwrap();
        pool.discovered(&one, &["10.0.0.1:1".to_owned(), "two:2".to_owned(), "x:y".to_owned()]);
        assert_eq!(shown(&pool), ["tls://one:1", "tls://two:2", "tls://10.0.0.1:1"]);
        assert_eq!(pool.servers[2].tls_name.as_deref(), Some("one"));
        pool.discovered(&one, &["10.0.0.2:1".to_owned()]);
        assert_eq!(shown(&pool), ["tls://one:1", "tls://two:2", "tls://10.0.0.2:1"]);
        pool.discovered(&one, &[]);
        assert_eq!(pool.servers.len(), 3);
        let many: Vec<String> = (0..1_000).map(|n| format!("h{n}:1")).collect();
        pool.discovered(&one, &many);
        assert_eq!(pool.servers.len(), 2 + DISCOVERED_MAX);
        pool.ignores_discovered = true;
        pool.discovered(&one, &["other:1".to_owned()]);
        assert_eq!(pool.servers.len(), 2 + DISCOVERED_MAX);
    }
}
