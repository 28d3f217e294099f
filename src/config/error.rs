//! What is wrong with a configuration, and where.

use std::{fmt, sync::Arc};

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// In nobody's text: a default of ours.
    Default,
    /// In the configuration file, in this line (from 1).
    File { file: Arc<str>, line: usize },
    /// In this environment variable.
    Env(String),
    /// On the command line, with this flag.
    Flag(&'static str),
}

impl Origin {
    /// Values from the environment and the command line are text, whatever their key wants.
    pub(super) fn is_untyped(&self) -> bool {
        matches!(self, Self::Env(_) | Self::Flag(_))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("configuration"),
            Self::File { file, line } => write!(f, "{file}:{line}"),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "option {name}"),
        }
    }
}

/// The configuration cannot be used. The message is one line and says where and what to do; the process ends with
/// exit code 78.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{file}: {source}: check the path given with -c")]
    Read {
        /// Path as given.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file of users cannot be read.
    #[error("{file}: {source}: check auth.users_file")]
    Users {
        /// Path as given.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{file}:{line}: {message}")]
    Syntax {
        /// Path as given.
        file: String,
        /// Line, from 1.
        line: usize,
        /// What the parser said.
        message: String,
    },
    /// A key has a value that it cannot have, or the key does not exist.
    #[error("{location}: {key}: {message}")]
    Invalid {
        /// `FILE:LINE`, `environment variable NAME` or `option --NAME`.
        location: String,
        /// The key, as `listeners.tcp.bind`.
        key: String,
        /// What is wrong and what would be right.
        message: String,
    },
}

impl ConfigError {
    /// The value at fault was on the command line: exit code 2, not 78.
    #[must_use]
    pub fn is_of_the_command_line(&self) -> bool {
        matches!(self, Self::Invalid { location, .. } if location.starts_with("option "))
    }

    pub(super) fn invalid(origin: &Origin, key: &str, message: impl Into<String>) -> Self {
        Self::Invalid { location: origin.to_string(), key: key.to_owned(), message: message.into().replace('\n', " ") }
    }
}
