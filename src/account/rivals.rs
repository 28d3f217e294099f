//! One client id on two devices: they take its session over from each other, each comes back for it, and neither works. Whoever
//! looks after them is told where the two are.
//!
//! **Invariant:** at most [`IDS_MAX`] client ids are watched; of those that find no room nothing is said.

use std::net::IpAddr;
use std::time::Duration;

use bytestring::ByteString;
use foldhash::HashMap;
use mqtt_session::Time;
use parking_lot::Mutex;

use crate::account::clock::uptime;

/// Take-overs from another address that follow each other within this are no device that has moved. Of one client id
/// it is said once in that time.
const WITHIN: Duration = Duration::from_secs(60);

/// Client ids that are watched at a time.
const IDS_MAX: usize = 1_024;

/// Those that may be forgotten are looked for at most so often.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Rivals(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    by_name: HashMap<ByteString, Rivalry>,
    swept: Option<Time>,
}

/// What is known of a client id.
#[derive(Debug)]
struct Rivalry {
    last: Time,
    /// Since the last line.
    takeovers: u32,
    said: Option<Time>,
}

impl Rivals {
    /// A session was taken over by a connection from another address, if both came from one. Says so when it is time.
    pub(in crate::account) fn taken_over(&self, session_name: &ByteString, from: Option<IpAddr>, by: Option<IpAddr>) {
        let (Some(from), Some(by)) = (from, by) else { return };
        if from == by {
            return;
        }
        if let Some(takeovers) = self.count(session_name, uptime()) {
            let client_id = session_name.escape_debug().to_string();
            tracing::warn!(client_id, %from, %by, takeovers, "two devices with one client id take its session over from each other: give each a client id of its own");
        }
    }

    /// How many take-overs there were since it was said last, when it is to be said.
    fn count(&self, session_name: &ByteString, now: Time) -> Option<u32> {
        let mut known = self.0.lock();
        let begins = || Rivalry { last: now, takeovers: 0, said: None };
        if !known.by_name.contains_key(session_name) && !known.has_room(now) {
            return None;
        }
        let rivalry = known.by_name.entry(session_name.clone()).or_insert_with(begins);
        if now.since(rivalry.last) >= WITHIN {
            *rivalry = begins();
        }
        (rivalry.last, rivalry.takeovers) = (now, rivalry.takeovers.saturating_add(1));
        let is_due = match rivalry.said {
            None => rivalry.takeovers > 1,
            Some(said) => now.since(said) >= WITHIN,
        };
        is_due.then(|| {
            rivalry.said = Some(now);
            std::mem::take(&mut rivalry.takeovers)
        })
    }
}

impl Known {
    fn has_room(&mut self, now: Time) -> bool {
        let is_full = self.by_name.len() >= IDS_MAX;
        if is_full && self.swept.is_none_or(|swept| now.since(swept) >= SWEEP_EVERY) {
            self.swept = Some(now);
            self.by_name.retain(|_, rivalry| now.since(rivalry.last) < WITHIN);
        }
        self.by_name.len() < IDS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_of_the_second_within_a_minute_and_then_once_a_minute() {
        let (rivals, id) = (Rivals::default(), ByteString::from("lamp"));
        for (now_s, expected) in [
            (0, None),
            // A device that has moved, twice.
            (60, None),
            (100, Some(2)),
            (101, None),
            (159, None),
            (160, Some(3)),
            (200, None),
            // Somebody has mended it; and then not.
            (900, None),
            (901, Some(2)),
        ] {
            assert_eq!(rivals.count(&id, Time(now_s * 1_000)), expected, "{now_s} s");
        }
    }

    #[test]
    fn a_million_client_ids_have_an_end() {
        let rivals = Rivals::default();
        let id = |number: u32| ByteString::from(number.to_string());
        assert!((0..1_000_000).all(|number| rivals.count(&id(number), Time(0)).is_none()));
        assert_eq!(rivals.0.lock().by_name.len(), IDS_MAX);
        assert_eq!(rivals.count(&id(0), Time(1)), Some(2), "who is watched still is");
        assert_eq!((rivals.count(&id(5_000_000), Time(1)), rivals.count(&id(5_000_000), Time(1))), (None, None));
        assert_eq!(
            (rivals.count(&id(5_000_000), Time(60_001)), rivals.count(&id(5_000_000), Time(60_002))),
            (None, Some(2))
        );
    }
}
