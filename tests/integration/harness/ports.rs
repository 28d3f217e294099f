//! Ports for the processes of tests. Sidecars and nats-servers keep theirs over restarts, so they cannot ask for port 0.
//!
//! A test process takes blocks of ports and keeps them locked as long as it lives: what is down for a moment finds its
//! port again, whatever other test processes do at the same time.

use std::fs::File;
use std::net::TcpListener;
use std::ops::Range;
use std::sync::Mutex;

/// Below what the system gives to outgoing connections.
const PORTS: Range<u16> = 12_000..32_000;
const BLOCK: usize = 100;

/// The blocks of this process.
#[derive(Default)]
struct Blocks {
    locks: Vec<File>,
    /// Ports of the last one that were not given out yet.
    ports: Range<u16>,
}

/// A port on 127.0.0.1 where nobody listens, and that nobody else gets.
pub(crate) fn free_port() -> u16 {
    static BLOCKS: Mutex<Option<Blocks>> = Mutex::new(None);
    let mut blocks = BLOCKS.lock().unwrap();
    let blocks = blocks.get_or_insert_default();
    loop {
        match blocks.ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()) {
            Some(port) => return port,
            None => blocks.take_another(),
        }
    }
}

impl Blocks {
    fn take_another(&mut self) {
        let dir = std::env::temp_dir().join("nats-mqtt-test-ports");
        std::fs::create_dir_all(&dir).unwrap();
        let (first, lock) = PORTS
            .step_by(BLOCK)
            .find_map(|first| {
                let file = File::create(dir.join(first.to_string())).unwrap();
                file.try_lock().ok().map(|()| (first, file))
            })
            .expect("a block of ports that no other test process has");
        self.locks.push(lock);
        self.ports = first..first + BLOCK as u16;
    }
}
