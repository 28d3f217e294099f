//! What each client did and saw, in a file for each when something is wrong.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::witness::now;

/// Packets that are remembered of each client.
const PACKETS_MAX: usize = 6_000;

/// Connections, ends and the like that are remembered of each client.
const EVENTS_MAX: usize = 20_000;

/// The memory of one client.
#[derive(Clone, Debug)]
pub(crate) struct Trace(Arc<Lines>);

#[derive(Debug)]
struct Lines {
    name: String,
    lines: Mutex<[VecDeque<(SystemTime, String)>; 2]>,
}

/// Those of all.
#[derive(Debug, Default)]
pub(crate) struct Traces(Mutex<BTreeMap<String, Trace>>);

impl Trace {
    fn push(&self, kind: usize, max: usize, what: String) {
        let lines = &mut self.0.lines.lock()[kind];
        if lines.len() == max {
            lines.pop_front();
        }
        lines.push_back((now(), what));
    }

    /// A connection, or its end.
    pub(crate) fn event(&self, what: impl Into<String>) {
        self.push(0, EVENTS_MAX, format!("== {}", what.into()));
    }

    /// A packet.
    pub(crate) fn packet(&self, what: impl Into<String>) {
        self.push(1, PACKETS_MAX, what.into());
    }

    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    fn text(&self) -> String {
        let lines = self.0.lines.lock();
        let mut all: Vec<_> = lines.iter().flatten().collect();
        all.sort_by_key(|(time, _)| *time);
        all.iter().map(|(time, what)| format!("{} {what}\n", humantime::format_rfc3339_millis(*time))).collect()
    }
}

impl Traces {
    /// That of a client, which is new or goes on.
    pub(crate) fn of(&self, name: &str) -> Trace {
        let make = || Trace(Arc::new(Lines { name: name.to_owned(), lines: Mutex::default() }));
        self.0.lock().entry(name.to_owned()).or_insert_with(make).clone()
    }

    /// Writes them into a directory: all, or those of some clients.
    pub(crate) fn write(&self, dir: &Path, names: Option<&[String]>) {
        // What cannot be written is not missed.
        let _ = std::fs::create_dir_all(dir);
        for trace in self.0.lock().values() {
            if names.is_none_or(|names| names.contains(&trace.0.name)) {
                let _ = std::fs::write(dir.join(format!("{}.log", trace.0.name.replace(' ', "-"))), trace.text());
            }
        }
    }
}
