//! `[listeners.unix]`: what a socket of the file system is like.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

/// Bytes of the longest path that the system takes (`sun_path`).
const PATH_MAX: usize = 107;

/// The file of a listener of `[listeners.unix]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnixSocketConfig {
    /// Where it is.
    pub path: PathBuf,
    /// Who may connect: whoever may write it.
    pub mode: FileMode,
    /// Its group, by name or number. `None`: that of the process.
    pub group: Option<String>,
}

/// Looks whether a socket can be there.
pub(super) fn check_path(path: &Path) -> Result<(), String> {
    let len = path.as_os_str().len();
    if len == 0 {
        return Err(r#"path is missing: write where the socket is to be, as in "/run/nats-mqtt.sock""#.to_owned());
    }
    if len > PATH_MAX {
        return Err(format!("path has {len} bytes: a socket can have {PATH_MAX}"));
    }
    Ok(())
}

impl UnixSocketConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        check_path(&self.path)?;
        if self.group.as_ref().is_some_and(String::is_empty) {
            return Err("group is empty: name a group, or leave it out".to_owned());
        }
        Ok(())
    }
}

/// Permissions of a file, in octal: `"0660"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(u32);

impl FileMode {
    /// `"0600"`: nobody but the user of the process.
    pub const OWNER: Self = Self(0o600);

    /// As the system has them.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl Default for FileMode {
    fn default() -> Self {
        Self(0o660)
    }
}

impl FromStr for FileMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        let is_octal = (3..=4).contains(&digits.len()) && digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
        let bits = if is_octal { u32::from_str_radix(digits, 8).ok() } else { None };
        let bits = bits.filter(|bits| *bits <= 0o777);
        bits.map(Self).ok_or_else(|| format!("{text:?} is not a mode: write it in octal, as in \"0660\""))
    }
}

impl<'de> Deserialize<'de> for FileMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        for (text, bits) in [("0660", 0o660), ("660", 0o660), ("0o600", 0o600), ("0777", 0o777), ("000", 0)] {
            assert_eq!(text.parse(), Ok(FileMode(bits)), "{text}");
        }
        for text in ["", "rw-rw----", "0680", "1777", "66", "06600", "-660", "+660"] {
            assert!(text.parse::<FileMode>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_path_is_needed_and_has_a_limit() {
        let check = |path: String| UnixSocketConfig { path: path.into(), ..UnixSocketConfig::default() }.check();
        assert!(check(String::new()).unwrap_err().starts_with("path is missing"));
        assert!(check("/".repeat(107)).is_ok());
        assert_eq!(check("/".repeat(108)).unwrap_err(), "path has 108 bytes: a socket can have 107");
    }
}
