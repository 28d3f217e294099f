//! What may stand behind the addresses: type, length, value. Those that mean nothing here are skipped, and nothing that counts
//! may be said twice.

use crate::crc;
use crate::header::{ClientTls, HeaderError};

/// `PP2_TYPE_AUTHORITY`, `PP2_TYPE_CRC32C`, `PP2_TYPE_SSL`.
const AUTHORITY: u8 = 0x02;
const CRC32C: u8 = 0x03;
const SSL: u8 = 0x20;

/// `PP2_SUBTYPE_SSL_CN`, inside `PP2_TYPE_SSL`.
const SSL_CN: u8 = 0x22;

/// `PP2_CLIENT_SSL`; `PP2_CLIENT_CERT_CONN` and `PP2_CLIENT_CERT_SESS`.
const CLIENT_SSL: u8 = 0x01;
const CLIENT_CERT: u8 = 0x02 | 0x04;

/// Bytes of a host name, at most.
const AUTHORITY_MAX: usize = 255;

/// What counts.
#[derive(Default)]
pub(crate) struct Said {
    pub(crate) tls: Option<ClientTls>,
    pub(crate) authority: Option<String>,
}

/// Reads what stands behind the addresses of a header.
pub(crate) fn read(whole: &[u8], mut rest: &[u8]) -> Result<Said, HeaderError> {
    let (mut said, mut has_checksum) = (Said::default(), false);
    while !rest.is_empty() {
        let (kind, value) = next(&mut rest)?;
        match kind {
            AUTHORITY => put(&mut said.authority, authority(value)?)?,
            SSL => {
                if let Some(tls) = tls(value)? {
                    put(&mut said.tls, tls)?;
                }
            }
            CRC32C => {
                if std::mem::replace(&mut has_checksum, true) {
                    return Err(TWICE);
                }
                let at = whole.len() - rest.len() - value.len();
                check(whole, at, value)?;
            }
            _ => {}
        }
    }
    Ok(said)
}

const TWICE: HeaderError = HeaderError::Malformed("something is said twice");

fn put<T>(place: &mut Option<T>, value: T) -> Result<(), HeaderError> {
    if place.replace(value).is_some() { Err(TWICE) } else { Ok(()) }
}

fn next<'a>(rest: &mut &'a [u8]) -> Result<(u8, &'a [u8]), HeaderError> {
    const SHORT: HeaderError = HeaderError::Malformed("a value is cut off");
    let ([kind, high, low], behind) = rest.split_first_chunk().ok_or(SHORT)?;
    let len = usize::from(u16::from_be_bytes([*high, *low]));
    let (value, behind) = behind.split_at_checked(len).ok_or(SHORT)?;
    *rest = behind;
    Ok((*kind, value))
}

fn authority(value: &[u8]) -> Result<String, HeaderError> {
    let text = std::str::from_utf8(value).ok().filter(|text| !text.is_empty() && text.len() <= AUTHORITY_MAX);
    text.map(str::to_owned).ok_or(HeaderError::Malformed("a host name"))
}

/// `None`: the client does not speak TLS.
fn tls(value: &[u8]) -> Result<Option<ClientTls>, HeaderError> {
    let ([client, verify @ ..], mut rest) =
        value.split_first_chunk::<5>().ok_or(HeaderError::Malformed("too little is said of TLS"))?;
    let mut common_name = None;
    while !rest.is_empty() {
        if let (SSL_CN, value) = next(&mut rest)? {
            put(&mut common_name, value)?;
        }
    }
    if client & CLIENT_SSL == 0 {
        return Ok(None);
    }
    let is_verified = client & CLIENT_CERT != 0 && u32::from_be_bytes(*verify) == 0;
    let common_name = common_name.and_then(named);
    Ok(Some(ClientTls { is_verified, common_name }))
}

/// What is no text names nobody, nor does what looks like another name than it is.
fn named(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?;
    (!text.is_empty() && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

/// The checksum is of the whole header, with zeros in its own place.
fn check(whole: &[u8], at: usize, value: &[u8]) -> Result<(), HeaderError> {
    let said = value.try_into().map(u32::from_be_bytes).map_err(|_| HeaderError::Malformed("a checksum"))?;
    let (before, behind) = (&whole[..at], &whole[at + value.len()..]);
    if crc::crc32c([before, &[0; 4], behind]) == said { Ok(()) } else { Err(HeaderError::Checksum) }
}
