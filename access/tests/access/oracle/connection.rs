//! A connection to nats-server, as simple as it can be: what is written is followed by a PING, and everything that comes before
//! the PONG is the answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

pub(super) struct Connection {
    reader: BufReader<TcpStream>,
    /// What the server signs its INFO with, for those who have a key.
    pub(super) nonce: String,
}

/// What came before a PONG.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) errors: Vec<String>,
    /// Subjects of messages.
    pub(super) messages: Vec<String>,
    /// The connection was closed.
    pub(super) is_closed: bool,
}

impl Connection {
    /// Connects and reads INFO.
    pub(super) fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let info: Value = serde_json::from_str(line.strip_prefix("INFO ").unwrap()).unwrap();
        let nonce = info["nonce"].as_str().unwrap_or_default().to_owned();
        Self { reader, nonce }
    }

    /// Logs in.
    pub(super) fn connect(&mut self, credentials: &Value) -> Answer {
        let mut connect = json!({ "verbose": false, "pedantic": false, "protocol": 1, "headers": true, "echo": true });
        connect.as_object_mut().unwrap().extend(credentials.as_object().unwrap().clone());
        self.ask(&format!("CONNECT {connect}\r\n"))
    }

    /// Connects and logs in, which has to succeed.
    pub(super) fn logged_in(port: u16, credentials: &Value) -> Self {
        let mut connection = Self::open(port);
        let answer = connection.connect(credentials);
        assert!(answer.errors.is_empty() && !answer.is_closed, "{answer:?}");
        connection
    }

    /// Sends operations and a PING, and reads up to the PONG.
    pub(super) fn ask(&mut self, operations: &str) -> Answer {
        let mut answer = Answer::default();
        if self.reader.get_mut().write_all(format!("{operations}PING\r\n").as_bytes()).is_err() {
            answer.is_closed = true;
        }
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line).unwrap_or(0) == 0 {
                answer.is_closed = true;
                return answer;
            }
            let line = line.trim_end();
            if let Some(error) = line.strip_prefix("-ERR ") {
                answer.errors.push(error.to_owned());
            } else if let Some(message) = line.strip_prefix("MSG ") {
                answer.messages.push(message.split(' ').next().unwrap().to_owned());
                let length: usize = message.rsplit(' ').next().unwrap().parse().unwrap();
                let mut payload = vec![0; length + 2];
                self.reader.read_exact(&mut payload).unwrap();
            } else if line == "PONG" {
                return answer;
            }
        }
    }

    /// Whether a message may be published.
    pub(super) fn publishes(&mut self, subject: &str) -> bool {
        let answer = self.ask(&format!("PUB {subject} 0\r\n\r\n"));
        judged(&answer, "Permissions Violation for Publish")
    }

    /// Whether a filter may be subscribed to.
    pub(super) fn subscribes(&mut self, filter: &str, queue: Option<&str>) -> bool {
        let answer = self.ask(&format!("SUB {filter} {} 1\r\n", queue.unwrap_or_default()));
        judged(&answer, "Permissions Violation for Subscription")
    }

    pub(super) fn unsubscribe(&mut self) {
        let answer = self.ask("UNSUB 1\r\n");
        assert!(answer.errors.is_empty(), "{answer:?}");
    }
}

/// Whether it was allowed; no other answer than a violation is expected.
fn judged(answer: &Answer, violation: &str) -> bool {
    let is_violation = |error: &String| error.trim_start_matches('\'').starts_with(violation);
    assert!(answer.errors.iter().all(is_violation) && !answer.is_closed, "{answer:?}");
    answer.errors.is_empty()
}
