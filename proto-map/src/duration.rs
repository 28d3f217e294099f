//! The value of `Nats-TTL` as a message expiry interval.

/// Whole seconds, rounded up, of a number of seconds or a Go duration such as `1h30m` or `1.5s`; `None` for `never`,
/// for what is neither, for what is not above 0, and for what an interval of MQTT cannot say.
pub(crate) fn whole_seconds(value: &str) -> Option<u32> {
    if value.bytes().all(|byte| byte.is_ascii_digit()) {
        return value.parse().ok().filter(|seconds| *seconds > 0);
    }
    let mut rest = value;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..number_len].parse().ok()?;
        rest = &rest[number_len..];
        let unit_len = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..unit_len] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += number * unit;
        rest = &rest[unit_len..];
    }
    let seconds = seconds.ceil();
    // A float becomes an integer by saturating; the comparison keeps what that would change out.
    (seconds >= 1.0 && seconds <= f64::from(u32::MAX)).then_some(seconds as u32)
}

#[cfg(test)]
mod tests {
    use super::whole_seconds;

    #[test]
    fn reads_seconds_and_go_durations() {
        for (value, seconds) in [
            ("60", Some(60)),
            ("1h30m", Some(5400)),
            ("1.5s", Some(2)),
            ("1500ms", Some(2)),
            ("1m0.5s", Some(61)),
            ("4294967295", Some(u32::MAX)),
            ("4294967296", None),
            ("9999999h", None),
            ("never", None),
            ("0", None),
            ("0s", None),
            ("-5", None),
            ("", None),
            ("5 s", None),
            ("1..5s", None),
            ("NaN", None),
        ] {
            assert_eq!(whole_seconds(value), seconds, "{value:?}");
        }
    }
}
