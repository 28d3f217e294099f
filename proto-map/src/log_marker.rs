//! The marker on the copy of a stored message on its natural subject: `Mqtt-Log: <sequence>:<check>`. The check is of
//! the subject, so that a message that somebody forwards to another subject, headers and all, is not taken for it.

use std::fmt::Write as _;

use bytestring::ByteString;

/// Digits of the check.
const CHECK_LEN: usize = 8;

/// The value of the marker for the copy on `subject` of the message with this sequence in its log.
#[must_use]
pub fn log_marker(seq: u64, subject: &str) -> ByteString {
    // Made for every message, so its memory is what it needs and no more.
    let digits = seq.checked_ilog10().unwrap_or(0) as usize + 1;
    let mut marker = String::with_capacity(digits + 1 + CHECK_LEN);
    // A string takes everything.
    let _ = write!(marker, "{seq}:{:08x}", check(subject));
    marker.into()
}

/// The sequence in the log, and the check of the subject, in the value of a marker; `None` when it is none.
#[must_use]
pub fn parse_log_marker(value: &str) -> Option<(u64, u32)> {
    let (seq, check) = value.split_once(':')?;
    let is_check = check.len() == CHECK_LEN && check.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_seq = !seq.is_empty() && seq.bytes().all(|byte| byte.is_ascii_digit());
    if !is_check || !is_seq {
        return None;
    }
    Some((seq.parse().ok()?, u32::from_str_radix(check, 16).ok()?))
}

/// Whether a message on `subject` with this marker is the copy of a stored one.
#[must_use]
pub fn is_log_copy(value: &str, subject: &str) -> bool {
    parse_log_marker(value).is_some_and(|(_, found)| found == check(subject))
}

/// FNV-1a: nobody gains anything by forging it, because a forged marker hides only the forger's own message.
fn check(subject: &str) -> u32 {
    subject.bytes().fold(0x811C_9DC5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
