//! Times as nats-server writes them, and as milliseconds since the epoch. Whose clock they are of is said where they are.

/// `2026-01-02T03:04:05.678Z`, as nats-server writes it, to milliseconds since the epoch.
pub(crate) fn rfc3339_ms(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut time = time.splitn(3, ':').map(|part| part.parse::<i64>().ok());
    let seconds = time.next()?? * 3600 + time.next()?? * 60 + time.next()??;
    let milliseconds = format!("{fraction:0<3}").get(..3)?.parse::<i64>().ok()?;
    // Days since 1970 in the proleptic Gregorian calendar, years beginning in March.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468;
    u64::try_from((days * 86_400 + seconds) * 1000 + milliseconds).ok()
}

/// Milliseconds since the epoch as `2026-01-02T03:04:05.678Z`.
pub(crate) fn rfc3339(ms: u64) -> String {
    let (seconds, milliseconds) = (ms / 1000, ms % 1000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // The way of `rfc3339_ms` back: years begin in March, eras have 400 of them.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z", era * 400 + year)
}

#[cfg(test)]
mod tests {
    use super::{rfc3339, rfc3339_ms};

    #[test]
    fn times_of_the_server_are_read() {
        assert_eq!(rfc3339_ms("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(rfc3339_ms("2000-02-29T12:00:00.5Z"), Some(951_825_600_500));
        assert_eq!(rfc3339_ms("2026-09-17T23:59:59.123456789Z"), Some(1_789_689_599_123));
        assert_eq!(rfc3339_ms("2026-09-17T23:59:59+02:00"), None);
        assert_eq!(rfc3339_ms("yesterday"), None);
    }

    #[test]
    fn times_are_written_as_they_are_read() {
        let mut ms = 1;
        while ms < 9_000_000_000_000 {
            assert_eq!(rfc3339_ms(&rfc3339(ms)), Some(ms), "{}", rfc3339(ms));
            ms = ms * 21 / 20 + 86_399_999;
        }
        assert_eq!(rfc3339(951_825_600_500), "2000-02-29T12:00:00.500Z");
    }
}
