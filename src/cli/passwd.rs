//! `nats-mqtt passwd`: the hash of a password, for a user of mode `file`.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::Path;

use mqtt_access::Secret;
use mqtt_access::password::PasswordHash;

use super::failure::{FAILED, Failure, USAGE, say};

/// Longest password that MQTT has.
const PASSWORD_MAX: u64 = 65_535;

pub(super) fn passwd() -> Result<(), Failure> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        eprintln!("Password (it is shown as you type it):");
    }
    let password = one_line(stdin)?;
    let hash = PasswordHash::make(&password, rand::random()).map_err(|error| Failure::new(FAILED, error))?;
    say(&hash.to_string());
    Ok(())
}

/// The password in a file.
pub(super) fn from_file(path: &Path) -> Result<Secret, Failure> {
    let file = File::open(path).map_err(|error| Failure::new(USAGE, format!("{}: {error}", path.display())))?;
    one_line(file)
}

/// A password: all there is but the end of its line.
fn one_line(from: impl Read) -> Result<Secret, Failure> {
    // Room for all of it, so that no copy is left behind.
    let mut text = Vec::with_capacity(PASSWORD_MAX as usize + 4);
    from.take(PASSWORD_MAX + 3).read_to_end(&mut text).map_err(|error| Failure::new(FAILED, error))?;
    for end in [b'\n', b'\r'] {
        text.pop_if(|last| *last == end);
    }
    let is_one_line = !text.contains(&b'\n');
    let (length, password) = (text.len() as u64, Secret::new(text));
    match length {
        0 => Err(Failure::new(USAGE, "there is no password: write it as one line")),
        _ if !is_one_line => Err(Failure::new(USAGE, "a password is one line, and there are more")),
        _ if length > PASSWORD_MAX => Err(Failure::new(USAGE, "MQTT has no password of more than 65,535 bytes")),
        _ => Ok(password),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_one_line() {
        for (text, password) in [
            ("light", Some("light")),
            ("light\n", Some("light")),
            ("light\r\n", Some("light")),
            (" li ght ", Some(" li ght ")),
            ("", None),
            ("\n", None),
            ("a\nb", None),
            ("a\n\n", None),
        ] {
            let read = one_line(text.as_bytes()).ok();
            assert_eq!(read.as_ref().map(Secret::expose), password.map(str::as_bytes), "{text:?}");
        }
        assert!(one_line(&vec![b'x'; 65_535][..]).is_ok());
        assert!(one_line(&vec![b'x'; 65_536][..]).is_err());
    }
}
