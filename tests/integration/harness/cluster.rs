//! Nats-servers that are one cluster.

use std::net::TcpListener;

use super::NatsServer;

/// Some nats-servers, of which each can be killed and started again.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) servers: Vec<NatsServer>,
}

impl Cluster {
    /// Starts that many. A cluster of one is a server alone.
    pub(crate) fn start(count: usize) -> Self {
        if count == 1 {
            return Self { servers: vec![NatsServer::start()] };
        }
        Self::start_with(count, |_| String::new())
    }

    /// Starts several, each with more lines in its configuration.
    pub(crate) fn start_with(count: usize, more: impl Fn(usize) -> String) -> Self {
        let listeners: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("bind")).collect();
        let port = |listener: &TcpListener| listener.local_addr().expect("an address").port();
        let ports: Vec<u16> = listeners.iter().map(port).collect();
        drop(listeners);
        let routes: Vec<String> = ports.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
        let member = |(number, port): (usize, &u16)| {
            let listen = format!("name: c, listen: \"127.0.0.1:{port}\"");
            let cluster = format!("cluster {{ {listen}, routes: [{}], no_advertise: true }}", routes.join(", "));
            NatsServer::start_with(true, &format!("server_name: n{number}\n{cluster}\n{}", more(number)))
        };
        Self { servers: ports.iter().enumerate().map(member).collect() }
    }

    /// Where all of them are, for `--nats`.
    pub(crate) fn urls(&self) -> String {
        self.servers.iter().map(NatsServer::url).collect::<Vec<_>>().join(",")
    }

    /// How many copies of what is stored there are to be.
    pub(crate) fn replicas(&self) -> &'static str {
        if self.servers.len() < 3 { "1" } else { "3" }
    }
}
