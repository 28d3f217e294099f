//! How subcommands end, and what they say.

use std::fmt;

use crate::app::AppError;
use crate::config::ConfigError;

/// Something failed; a line on stderr says what.
pub(super) const FAILED: u8 = 1;
/// The command line is wrong. clap ends with the same code.
pub(super) const USAGE: u8 = 2;
/// The configuration is wrong (`EX_CONFIG` of sysexits).
pub(super) const CONFIG: u8 = 78;

/// Why the program ends with another code than 0, as one line for stderr.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: u8,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(code: u8, message: impl fmt::Display) -> Self {
        Self { code, message: message.to_string() }
    }
}

impl From<AppError> for Failure {
    fn from(error: AppError) -> Self {
        Self::new(if error.is_configuration() { CONFIG } else { FAILED }, error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(if error.is_of_the_command_line() { USAGE } else { CONFIG }, error)
    }
}

/// Writes a line to stdout. Whoever reads it may be gone (`| head`), which is not a failure of ours.
pub(super) fn say(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{line}");
}
