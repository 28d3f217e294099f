//! Where a configuration comes from, so that it can be read again.

use std::path::{Path, PathBuf};

use super::{Config, ConfigError, Overrides, load::environment};

/// A file, the environment and a command line.
#[derive(Clone, Debug, Default)]
pub struct ConfigSource {
    file: Option<PathBuf>,
    overrides: Overrides,
    /// In place of `nats.urls`: those of a nats-server of ours.
    urls: Option<Vec<String>>,
}

impl ConfigSource {
    /// This file, if there is one, and this command line over it.
    #[must_use]
    pub const fn new(file: Option<PathBuf>, overrides: Overrides) -> Self {
        Self { file, overrides, urls: None }
    }

    /// With these in place of `nats.urls`.
    #[must_use]
    pub fn at(self, urls: Vec<String>) -> Self {
        Self { urls: Some(urls), ..self }
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Reads it.
    ///
    /// # Errors
    /// See [`Config::load`].
    pub fn load(&self) -> Result<Config, ConfigError> {
        Config::load(self.file(), &self.overrides).map(|config| self.with_urls(config))
    }

    /// The same with this text in place of that of its file.
    ///
    /// # Errors
    /// See [`Config::load`].
    pub fn load_as(&self, name: &str, text: &str) -> Result<Config, ConfigError> {
        let config = Config::assemble(Some((name, text)), &environment(), &self.overrides);
        config.map(|config| self.with_urls(config))
    }

    fn with_urls(&self, mut config: Config) -> Config {
        if let Some(urls) = &self.urls {
            config.nats.urls.clone_from(urls);
        }
        config
    }
}
