//! What is known, without nats-server.

use mqtt_access::{PermissionLists, Permissions, SubjectLists, UnixTime, User};
use mqtt_codec::{Connect, Version};

use super::*;
use crate::listener::{Entrance, Protocol};

const KEEP: Duration = Duration::from_secs(60);
const RECHECK: Duration = Duration::from_secs(600);

fn offered(user: Option<&str>, password: Option<&str>) -> Offered {
    let connect = Connect {
        username: user.map(Into::into),
        password: password.map(|password| password.as_bytes().into()),
        ..Connect::new(Version::V5, "c")
    };
    Offered::of(&connect).unwrap()
}

fn peer(listener: &str, protocol: Protocol) -> Peer {
    Peer::new(([192, 0, 2, 1], 1883).into(), Arc::new(Entrance::plain(listener, protocol)))
}

fn principal(deny: &[&str]) -> Principal {
    let lists = PermissionLists { publish: SubjectLists::new(&[], deny), ..PermissionLists::default() };
    Principal {
        user: User { name: "lamp".to_owned(), ..User::default() },
        permissions: Arc::new(Permissions::new(lists).unwrap()),
        ..Principal::all()
    }
}

#[test]
fn credentials_are_told_apart_by_each_of_their_parts() {
    let known = Known::new(KEEP, RECHECK);
    let mut all = Vec::new();
    for (listener, protocol) in [("a", Protocol::Mqtt), ("a", Protocol::Ws), ("b", Protocol::Mqtt)] {
        for (user, password) in [
            (None, None),
            (Some(""), None),
            (None, Some("")),
            (Some("x"), Some("y")),
            (Some("xy"), Some("")),
            (Some("y"), Some("x")),
        ] {
            all.push(known.fingerprint(&peer(listener, protocol), &offered(user, password)));
        }
    }
    let distinct: std::collections::HashSet<_> = all.iter().collect();
    assert_eq!(distinct.len(), all.len());
    let other = Known::new(KEEP, RECHECK).fingerprint(&peer("a", Protocol::Mqtt), &offered(None, None));
    assert_ne!(all[0], other, "a key of its own");
}

#[tokio::test(start_paused = true)]
async fn an_answer_counts_for_a_while_and_credentials_are_held_while_somebody_is_connected_by_them() {
    let known = Known::new(KEEP, RECHECK);
    let offered = offered(Some("lamp"), Some("light"));
    let of = known.fingerprint(&peer("a", Protocol::Mqtt), &offered);
    assert!(known.get(of, &offered).is_none());
    let (lamp, is_another) = known.keep(of, &offered, principal(&[])).unwrap();
    assert!(!is_another && Arc::ptr_eq(&known.get(of, &offered).unwrap(), &lamp));
    let is_held = || known.table.lock().entries.get(&of).map(|entry| entry.offered.is_some());
    tokio::time::advance(RECHECK).await;
    let (due, has_more) = known.take_due(10);
    assert_eq!((due.len(), has_more, is_held()), (1, true, Some(true)), "it is connected");
    assert!(known.take_due(10).0.is_empty(), "it was asked about a moment ago");
    assert!(known.get(of, &offered).is_none(), "the answer is old");
    let (again, _) = known.keep(of, &offered, principal(&[])).unwrap();
    drop((lamp, again));
    let _ = known.take_due(10);
    assert_eq!(is_held(), Some(false), "nobody is connected, and the answer counts still");
    assert!(known.get(of, &offered).is_some());
    tokio::time::advance(KEEP).await;
    assert!(!known.take_due(10).1);
    assert_eq!(is_held(), None);
}

#[tokio::test(start_paused = true)]
async fn who_is_connected_learns_what_nats_server_says_now() {
    let known = Known::new(Duration::ZERO, RECHECK);
    let offered = offered(Some("lamp"), Some("light"));
    let of = known.fingerprint(&peer("a", Protocol::Mqtt), &offered);
    let (lamp, _) = known.keep(of, &offered, principal(&[])).unwrap();
    // A copy, as a listener with an account makes one.
    let copy = Principal::clone(&lamp);
    drop(lamp);
    assert!(known.get(of, &offered).is_none(), "nothing is kept");
    let _ = known.take_due(10);
    assert!(matches!(known.judge_again(&copy), Again::Same));
    assert!(!known.keep(of, &offered, principal(&[])).unwrap().1);
    assert!(known.keep(of, &offered, principal(&["x"])).unwrap().1);
    let Again::Changed(now) = known.judge_again(&copy) else { panic!("its permissions are others") };
    assert!(!now.permissions.is_publish_allowed("x") && matches!(known.judge_again(&now), Again::Same));
    known.refuse(of);
    assert!(matches!(known.judge_again(&now), Again::Gone(_)));
    drop((copy, now));
    assert!(!known.take_due(10).1, "nobody is left to be told");
}

#[tokio::test(start_paused = true)]
async fn who_has_expired_is_not_known() {
    let known = Known::new(KEEP, RECHECK);
    let offered = offered(None, Some("t"));
    let of = known.fingerprint(&peer("a", Protocol::Mqtt), &offered);
    let expires = |millis: i64| Some(UnixTime::from_millis(now().as_millis() + millis));
    let _ = known.keep(of, &offered, Principal { expires: expires(-1), ..principal(&[]) });
    assert!(known.get(of, &offered).is_none());
    let (lamp, _) = known.keep(of, &offered, Principal { expires: expires(60_000), ..principal(&[]) }).unwrap();
    assert!(!known.keep(of, &offered, Principal { expires: expires(60_500), ..principal(&[]) }).unwrap().1);
    assert!(
        known.keep(of, &offered, Principal { expires: expires(90_000), ..principal(&[]) }).unwrap().1,
        "it has longer"
    );
    drop(lamp);
}
