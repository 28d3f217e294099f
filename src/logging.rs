//! Log lines on stderr, as text or JSON, times in UTC. Fields have the same names everywhere: `client_id`, `account`,
//! `user`, `remote`, `listener`, `protocol`, `reason_code`. Text that a device chose is given as a plain value
//! (`client_id = id.as_str()`), never with `%`: a plain value is quoted and escaped, so that a device cannot write
//! lines or colours into the log. Payloads and passwords are never logged.
//!
//! How many lines there are is decided in `limits`.

mod limits;

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer, Registry, filter::Targets, fmt, layer::SubscriberExt, registry, reload, util::SubscriberInitExt,
};

use limits::LineLimits;

use crate::config::{LogConfig, LogFormat, parse_level};

/// How often it is looked whether lines were left out that are to be told of.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Of this process, to be replaced.
static LEVELS: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Of this process.
static LIMITS: OnceLock<LineLimits> = OnceLock::new();

/// Lines that were left out so far, because there were too many of their kind.
#[must_use]
pub fn lines_left_out() -> u64 {
    LIMITS.get().map_or(0, LineLimits::left_out)
}

/// Says at the end of each minute what was left out in it, for ever.
pub async fn tell_left_out() {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        for limits::LeftOut { line, count } in
            LIMITS.get().map(|limits| limits.turn(Instant::now())).unwrap_or_default()
        {
            tracing::warn!(target: limits::LEFT_OUT, left_out = count, line, "lines were left out");
        }
    }
}

/// Installs the subscriber for the whole process. `RUST_LOG` wins over the configured level; what it says is ignored
/// when it cannot be read. A second call changes nothing.
pub fn init(config: &LogConfig) {
    let filter = level_of_environment()
        .or_else(|| parse_level(&config.level))
        .unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let lines = fmt::layer().with_writer(std::io::stderr);
    let limits = LIMITS.get_or_init(|| LineLimits::new(filter.clone()));
    let (filter, handle) = reload::Layer::new(filter);
    let installed = match config.format {
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let lines = lines.with_ansi(colours).with_target(false).with_filter(limits);
            registry().with(filter).with(lines).try_init()
        }
        LogFormat::Json => {
            registry().with(filter).with(lines.json().flatten_event(true).with_filter(limits)).try_init()
        }
    };
    match installed {
        Ok(()) => drop(LEVELS.set(handle)),
        Err(_) => tracing::debug!("logging was set up before"),
    }
}

/// Other levels from now on. Returns whether they count, which they do not while `RUST_LOG` says something else.
pub fn set_level(level: &str) -> bool {
    let (None, Some(levels)) = (level_of_environment(), parse_level(level)) else { return false };
    if let Some(limits) = LIMITS.get() {
        limits.set_levels(levels.clone());
    }
    LEVELS.get().is_some_and(|handle| handle.reload(levels).is_ok())
}

/// What `RUST_LOG` says, if it can be read.
fn level_of_environment() -> Option<Targets> {
    parse_level(&std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty())?)
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_client_id_cannot_write_lines_or_colours_into_the_log() {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = registry().with(fmt::layer().with_ansi(false).with_writer(move || writer.clone()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(client_id = "a\nb\u{1b}[31m", "connected");
        });
        let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text:?}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
}
