//! Hours in which a user may be connected, in a time zone.

use jiff::Timestamp;
use jiff::civil::{Date, Time};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use serde::{Deserialize, Serialize};

use crate::time::UnixTime;

/// `times` of a JWT, as it is written: `15:04:05`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TimeRange {
    /// When it begins.
    pub start: String,
    /// When it ends; before the beginning is on the next day.
    pub end: String,
}

/// Windows that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// Not a time of the day.
    #[error("`{0}` is not a time such as 09:30:00")]
    Time(String),
    /// Not the name of a time zone.
    #[error("`{0}` is not the name of an IANA time zone")]
    Zone(String),
}

/// The windows of a user. Without any, every time is fine.
#[derive(Clone, Debug, PartialEq)]
pub struct TimeWindows {
    windows: Vec<(Time, Time)>,
    zone: TimeZone,
}

/// Whether a time is within the windows of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowVerdict {
    /// There are no windows.
    Always,
    /// It is, until then.
    Until(UnixTime),
    /// It is not.
    Outside,
}

impl TimeWindows {
    /// Reads windows, and the zone that they are in. nats-server takes its own zone where none is named, and for `Local`: here
    /// that is UTC, as it is on servers.
    ///
    /// # Errors
    /// A time or the zone is not understood.
    pub fn new(ranges: &[TimeRange], zone: &str) -> Result<Self, WindowError> {
        let windows = ranges.iter().map(|range| Ok((time_of_day(&range.start)?, time_of_day(&range.end)?)));
        Ok(Self { windows: windows.collect::<Result<_, _>>()?, zone: zone_named(zone)? })
    }

    /// No windows.
    #[must_use]
    pub const fn always() -> Self {
        Self { windows: Vec::new(), zone: TimeZone::UTC }
    }

    /// Whether a time is within one of them. Neither the first nor the last instant is.
    #[must_use]
    pub fn verdict(&self, now: UnixTime) -> WindowVerdict {
        if self.windows.is_empty() {
            return WindowVerdict::Always;
        }
        let Ok(timestamp) = Timestamp::from_millisecond(now.as_millis()) else { return WindowVerdict::Outside };
        let today = timestamp.to_zoned_datetime(self.zone.clone()).date();
        let ends = self.windows.iter().filter_map(|window| self.end_of(*window, today, now));
        ends.max().map_or(WindowVerdict::Outside, WindowVerdict::Until)
    }

    /// When a window ends that a time is in.
    fn end_of(&self, (start, end): (Time, Time), today: Date, now: UnixTime) -> Option<UnixTime> {
        let start = self.instant(today, start)?;
        let end_today = self.instant(today, end)?;
        if start < now && now < end_today {
            return Some(end_today);
        }
        if start <= end_today {
            return None;
        }
        // Over midnight: it began yesterday, or ends tomorrow.
        if now < end_today {
            return Some(end_today);
        }
        let end_tomorrow = self.instant(today.tomorrow().ok()?, end)?;
        (start < now && now < end_tomorrow).then_some(end_tomorrow)
    }

    fn instant(&self, date: Date, time: Time) -> Option<UnixTime> {
        let zoned = self.zone.to_zoned_datetime(date.to_datetime(time)).ok()?;
        Some(UnixTime::from_millis(zoned.timestamp().as_millisecond()))
    }
}

impl Default for TimeWindows {
    fn default() -> Self {
        Self::always()
    }
}

/// Names are compared with their case, as where they are files.
fn zone_named(name: &str) -> Result<TimeZone, WindowError> {
    if matches!(name, "" | "UTC" | "Local") {
        return Ok(TimeZone::UTC);
    }
    let zone = TimeZoneDatabase::bundled().get(name).ok().filter(|zone| zone.iana_name() == Some(name));
    zone.ok_or_else(|| WindowError::Zone(name.to_owned()))
}

/// `9:30:00` is fine too, as it is for nats-server.
fn time_of_day(text: &str) -> Result<Time, WindowError> {
    let error = || WindowError::Time(text.to_owned());
    let number = |part: &str, lengths: std::ops::RangeInclusive<usize>| {
        let is_number = lengths.contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| part.parse::<i8>().ok()).flatten().ok_or_else(error)
    };
    let mut parts = text.split(':');
    let mut next = |lengths| number(parts.next().unwrap_or_default(), lengths);
    let (hour, minute, second) = (next(1..=2)?, next(2..=2)?, next(2..=2)?);
    if parts.next().is_some() {
        return Err(error());
    }
    Time::new(hour, minute, second, 0).map_err(|_| error())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{TimeRange, TimeWindows, WindowVerdict};
    use crate::time::UnixTime;

    fn windows(ranges: &[(&str, &str)], zone: &str) -> Option<TimeWindows> {
        let ranges: Vec<TimeRange> =
            ranges.iter().map(|(start, end)| TimeRange { start: (*start).into(), end: (*end).into() }).collect();
        TimeWindows::new(&ranges, zone).ok()
    }

    fn at(text: &str) -> UnixTime {
        UnixTime::from_millis(text.parse::<Timestamp>().unwrap().as_millisecond())
    }

    /// Windows, their zone, a time, and the end of the window that it is in.
    #[test]
    fn times_and_windows() {
        let day: &[(&str, &str)] = &[("11:00:00", "22:00:00")];
        let night: &[(&str, &str)] = &[("22:00:00", "06:00:00")];
        let two: &[(&str, &str)] = &[("08:00:00", "12:00:00"), ("10:00:00", "14:00:00"), ("20:00:00", "21:00:00")];
        for (ranges, zone, now, end) in [
            (day, "UTC", "2024-01-10T13:00:00Z", Some("2024-01-10T22:00:00Z")),
            (day, "", "2024-01-10T13:00:00Z", Some("2024-01-10T22:00:00Z")),
            (day, "UTC", "2024-01-10T10:59:59Z", None),
            (day, "UTC", "2024-01-10T11:00:00Z", None),
            (day, "UTC", "2024-01-10T11:00:00.001Z", Some("2024-01-10T22:00:00Z")),
            (day, "UTC", "2024-01-10T21:59:59.999Z", Some("2024-01-10T22:00:00Z")),
            (day, "UTC", "2024-01-10T22:00:00Z", None),
            (night, "UTC", "2024-01-10T05:00:00Z", Some("2024-01-10T06:00:00Z")),
            (night, "UTC", "2024-01-10T23:30:00Z", Some("2024-01-11T06:00:00Z")),
            (night, "UTC", "2024-01-10T06:00:00Z", None),
            (night, "UTC", "2024-01-10T12:00:00Z", None),
            (night, "UTC", "2024-12-31T23:30:00Z", Some("2025-01-01T06:00:00Z")),
            (two, "UTC", "2024-01-10T11:00:00Z", Some("2024-01-10T14:00:00Z")),
            (two, "UTC", "2024-01-10T09:00:00Z", Some("2024-01-10T12:00:00Z")),
            (two, "UTC", "2024-01-10T15:00:00Z", None),
            // Winter and summer in Berlin, and a zone where the day is another one.
            (day, "Europe/Berlin", "2024-01-10T10:30:00Z", Some("2024-01-10T21:00:00Z")),
            (day, "Europe/Berlin", "2024-07-10T09:30:00Z", Some("2024-07-10T20:00:00Z")),
            (day, "Europe/Berlin", "2024-01-10T09:30:00Z", None),
            (day, "Pacific/Auckland", "2024-01-09T23:00:00Z", Some("2024-01-10T09:00:00Z")),
            (day, "America/New_York", "2024-01-11T02:00:00Z", Some("2024-01-11T03:00:00Z")),
            // The night in which clocks go forward is an hour shorter.
            (night, "Europe/Berlin", "2024-03-30T22:00:00Z", Some("2024-03-31T04:00:00Z")),
            (&[("09:00:00", "09:00:00")][..], "UTC", "2024-01-10T09:00:00Z", None),
            (&[("9:00:00", "23:59:59")][..], "UTC", "2024-01-10T10:00:00Z", Some("2024-01-10T23:59:59Z")),
        ] {
            let expected = end.map_or(WindowVerdict::Outside, |end| WindowVerdict::Until(at(end)));
            assert_eq!(windows(ranges, zone).unwrap().verdict(at(now)), expected, "{ranges:?} {zone} {now}");
        }
    }

    #[test]
    fn without_windows_every_time_is_fine() {
        for zone in ["", "Asia/Tokyo"] {
            assert_eq!(windows(&[], zone).unwrap().verdict(UnixTime::from_millis(i64::MAX)), WindowVerdict::Always);
        }
        let some = windows(&[("00:00:00", "23:00:00")], "UTC").unwrap();
        assert_eq!(some.verdict(UnixTime::from_millis(i64::MAX)), WindowVerdict::Outside);
    }

    #[test]
    fn what_is_no_window() {
        for time in
            ["", "9", "09:00", "24:00:00", "09:60:00", "09:00:60", "09:0:00", "+9:00:00", "09:00:00 ", "009:00:00", "a"]
        {
            assert!(
                windows(&[(time, "10:00:00")], "").is_none() && windows(&[("10:00:00", time)], "").is_none(),
                "{time}"
            );
        }
        for zone in ["Mars/Base", "europe/berlin", "Europe", "../etc/passwd", "UTC+1"] {
            assert!(windows(&[("09:00:00", "10:00:00")], zone).is_none(), "{zone}");
        }
    }
}
