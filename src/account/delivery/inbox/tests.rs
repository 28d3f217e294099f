//! What is left for a session comes in its order, within its limits, and whoever waits for room is woken by whatever makes some.
//! What there is no memory for does not wait.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use mqtt_codec::{MessageProperties, QoS, TopicName, Version};
use mqtt_ownership::ServerTime;
use mqtt_session::{Feed, FeedState, GONE, Offer, Position, Sequence};
use tokio::sync::Notify;

use super::{Inbox, InboxLimits, Outgoing, Permits as _, Wakes};
use crate::account::Segments;
use crate::account::delivery::grant::{Grant, SubscriptionIds};
use crate::account::delivery::message::Message;
use crate::account::session_id::SessionId;
use crate::overload::{Budget, Held};

const LOG: u16 = 0;
const LIMITS: InboxLimits = InboxLimits { qos0_bytes: 1_000, feed_messages: 4, feed_bytes: 1_000 };

fn outgoing() -> Outgoing {
    let message = Message::new(TopicName::new("t").unwrap(), Bytes::new(), None);
    let grant = Grant { qos: QoS::AtLeastOnce, retain: false, ids: SubscriptionIds::One(None) };
    Outgoing { message: Arc::new(message), grant, others: Box::default(), share: None }
}

/// One that a scan has filled, with so many messages held behind that.
fn full(held: u64) -> Arc<Inbox> {
    let inbox = Arc::new(Inbox::new(
        SessionId(1),
        "c".into(),
        Version::V5,
        u32::MAX,
        Arc::new(crate::account::Rights::all()),
        LIMITS,
        Arc::default(),
    ));
    inbox.with_feed(LOG, |feed| feed.fall_behind(Sequence(1)));
    inbox.with_feed(LOG, Feed::begin_scan);
    inbox.with_feed(LOG, |feed| feed.join(Sequence(100)));
    let mut wakes = Wakes::default();
    for sequence in 0..held {
        inbox.offer_live(LOG, Sequence(101 + sequence), 1, outgoing, &mut wakes);
    }
    let mut sequence = 0;
    while inbox.with_feed(LOG, |feed| feed.has_room()) {
        sequence += 1;
        assert_eq!(inbox.offer_scanned(LOG, Sequence(sequence), 1, outgoing, &mut wakes), Offer::Taken);
    }
    inbox
}

fn take(inbox: &Inbox, count: usize) {
    let (mut out, mut messages, mut catching_up) = (Segments::default(), Vec::new(), Vec::new());
    inbox.take_messages(&mut out, count, &mut messages, &mut catching_up);
    assert_eq!(messages.len(), count);
}

/// What wakes it, and whether it has room then.
type Ending = (&'static str, bool, fn(&Arc<Inbox>));

#[tokio::test]
async fn a_scan_that_waits_is_woken_by_whatever_ends_its_wait() {
    let endings: [Ending; 5] = [
        ("messages are taken", true, |inbox| take(inbox, 2)),
        ("too much is held", true, |inbox| {
            take(inbox, 1);
            inbox.offer_live(LOG, Sequence(200), 1, outgoing, &mut Wakes::default());
        }),
        ("the log is gone", false, |inbox| inbox.forget_log(LOG)),
        ("the log is made anew", false, |inbox| inbox.log_restarted(LOG, Sequence(1))),
        ("the session is over", false, |inbox| inbox.close()),
    ];
    for (what, has_room, end) in endings {
        let inbox = full(2);
        let waiting = inbox.room_for_scan(LOG);
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none(), "{what}: it has room already");
        end(&inbox);
        let woken = tokio::time::timeout(Duration::from_secs(5), waiting).await;
        assert_eq!(woken, Ok(has_room), "{what}");
    }
}

#[tokio::test]
async fn a_session_that_is_behind_asks_for_a_scan_when_it_is_worth_its_while() {
    let inbox = full(0);
    inbox.with_feed(LOG, Feed::end_scan);
    let catching_up = |count| {
        let (mut out, mut messages, mut catching_up) = (Segments::default(), Vec::new(), Vec::new());
        inbox.take_messages(&mut out, count, &mut messages, &mut catching_up);
        catching_up
    };
    assert!(catching_up(1).is_empty());
    assert_eq!(catching_up(1), [Position::in_main_log(Sequence(5))]);
}

fn inbox(client_max_packet_size: u32) -> Arc<Inbox> {
    let rights = Arc::new(crate::account::Rights::all());
    Arc::new(Inbox::new(SessionId(1), "c".into(), Version::V5, client_max_packet_size, rights, LIMITS, Arc::default()))
}

fn message(payload: usize) -> Message {
    Message::new(TopicName::new("t").unwrap(), Bytes::from(vec![b'x'; payload]), None)
}

fn offer(inbox: &Arc<Inbox>, message: &Message, now_ms: u64) -> bool {
    let grant = Grant { qos: QoS::AtMostOnce, retain: false, ids: SubscriptionIds::One(None) };
    inbox.offer_qos0(message, &grant, ServerTime(now_ms), &mut Wakes::default())
}

fn counts(inbox: &Inbox) -> [u64; 2] {
    let (mut out, mut messages, mut catching_up) = (Segments::default(), Vec::new(), Vec::new());
    inbox.take_messages(&mut out, 0, &mut messages, &mut catching_up)
}

#[test]
fn at_qos_0_the_lane_takes_what_it_has_room_for_and_one_that_is_larger_when_it_is_empty() {
    let inbox = inbox(u32::MAX);
    assert!(offer(&inbox, &message(2_000), 0), "nothing else waits");
    assert!(!offer(&inbox, &message(1), 0));
    assert!(inbox.is_qos0_full());
    assert_eq!(counts(&inbox), [1, 2_000], "copies, and the bytes of their payloads");
    assert!(!inbox.is_qos0_full());
    assert!(offer(&inbox, &message(400), 0) && offer(&inbox, &message(400), 0));
    assert!(!offer(&inbox, &message(400), 0), "dropped");
    assert_eq!(counts(&inbox), [2, 800]);
    assert_eq!(counts(&inbox), [0, 0]);
}

/// [MQTT-3.1.2-24], [MQTT-3.1.2-25], [MQTT-3.3.2-5]
#[test]
fn what_the_client_cannot_have_is_passed_over_and_is_no_loss_of_the_lane() {
    let inbox = inbox(100);
    assert!(offer(&inbox, &message(200), 0), "larger than its client takes");
    let mut expired = message(1);
    let properties = MessageProperties { message_expiry_interval_s: Some(1), ..MessageProperties::default() };
    (expired.properties, expired.since) = (Some(Box::new(properties)), ServerTime(1_000));
    assert!(offer(&inbox, &expired, 5_000));
    assert_eq!(counts(&inbox)[0], 0);
    assert!(offer(&inbox, &expired, 1_500));
    assert_eq!(counts(&inbox)[0], 1);
    inbox.close();
    assert!(offer(&inbox, &message(1), 0) && inbox.is_closed());
    assert_eq!(counts(&inbox)[0], 0);
}

/// What came first leaves first, from whichever log.
#[test]
fn several_logs_take_turns_in_the_order_in_which_their_messages_came() {
    let inbox = inbox(u32::MAX);
    let mut wakes = Wakes::default();
    for (log, sequence) in [(0, 1), (2, 50), (1, 7), (0, 2), (2, 51)] {
        inbox.offer_live(log, Sequence(sequence), 1, outgoing, &mut wakes);
    }
    let (mut out, mut messages, mut catching_up) = (Segments::default(), Vec::new(), Vec::new());
    inbox.take_messages(&mut out, 4, &mut messages, &mut catching_up);
    inbox.take_messages(&mut out, 4, &mut messages, &mut catching_up);
    let places: Vec<_> = messages.iter().map(|(place, _)| (place.log(), place.sequence().0)).collect();
    assert_eq!(places, [(0, 1), (2, 50), (1, 7), (0, 2), (2, 51)]);
    assert_eq!((inbox.reads(), inbox.feeds_behind(), catching_up), (vec![0, 2, 1], 0, vec![]));
    inbox.release();
}

/// It knows of it before it gets anything of what the log has now.
#[test]
fn when_a_log_is_made_anew_what_was_read_of_it_stays_and_has_no_place_any_more() {
    let inbox = inbox(u32::MAX);
    let mut wakes = Wakes::default();
    for (log, sequence) in [(0, 10), (1, 5), (0, 11)] {
        inbox.offer_live(log, Sequence(sequence), 1, outgoing, &mut wakes);
    }
    inbox.log_restarted(0, Sequence(3));
    inbox.log_restarted(9, Sequence(3));
    assert_eq!((inbox.restarts_at(0), inbox.restarts_at(1), inbox.restarts_at(9)), (Some(Sequence(3)), None, None));
    inbox.offer_live(0, Sequence(3), 1, outgoing, &mut wakes);
    let places = || {
        let (mut out, mut messages, mut catching_up) = (Segments::default(), Vec::new(), Vec::new());
        inbox.take_messages(&mut out, 10, &mut messages, &mut catching_up);
        messages.iter().map(|(place, _)| (place.log(), place.sequence().0)).collect::<Vec<_>>()
    };
    assert_eq!(places(), []);
    let restarts = inbox.take_restarts();
    assert_eq!(restarts.iter().map(|restart| (restart.log, restart.next.0)).collect::<Vec<_>>(), [(0, 3)]);
    assert_eq!(places(), [(GONE, 10), (1, 5), (GONE, 11), (0, 3)]);
    inbox.close();
    inbox.log_restarted(0, Sequence(1));
    assert_eq!(inbox.restarts_at(0), None, "nobody is there to know");
}

#[test]
fn shared_subscriptions_give_what_there_is_room_for_and_are_woken_when_there_is_more() {
    let inbox = inbox(u32::MAX);
    let (one, two) = (Arc::<Notify>::default(), Arc::<Notify>::default());
    let is_woken = |wake: &Arc<Notify>| wake.notified().now_or_never().is_some();
    inbox.offer_share_room(4);
    assert!(!inbox.is_sharing() && inbox.share_room() == 0, "nobody gives");
    inbox.join_share(&one);
    inbox.join_share(&two);
    inbox.join_share(&two);
    let give = |place| inbox.offer_shared(Position(place), &mut Wakes::default(), outgoing);
    assert!(!give(1), "it has not said that it has room");
    inbox.offer_share_room(3);
    assert!(is_woken(&one) && is_woken(&two));
    assert_eq!(inbox.share_room(), 2, "each may ask for a part, rounded up");
    assert!(give(1) && give(2) && give(3) && !give(4));
    // They wait here until they are taken.
    inbox.offer_share_room(3);
    assert!(!give(4) && !is_woken(&one));
    let mut mail = super::Mail::default();
    inbox.take(&mut mail);
    assert_eq!(mail.shared.iter().map(|(place, _)| place.0).collect::<Vec<_>>(), [1, 2, 3]);
    inbox.leave_share(&two);
    inbox.offer_share_room(1);
    assert!(is_woken(&one) && !is_woken(&two) && inbox.share_room() == 1);
    inbox.close();
    assert!(!give(4));
    inbox.offer_share_room(5);
    assert_eq!(inbox.share_room(), 0, "it takes nothing any more");
    mail.release();
}

/// A change of what it may do lets nothing through that neither says.
#[test]
fn what_it_may_receive_changes_with_its_principal() {
    use mqtt_access::{PermissionLists, Permissions, Principal, SubjectLists};
    let inbox = inbox(u32::MAX);
    let (a, b) = (TopicName::new("a").unwrap(), TopicName::new("b").unwrap());
    assert!(inbox.may_receive(&a) && inbox.may_receive(&b));
    let all = inbox.rights.principal();
    let (publish, subscribe) = (SubjectLists::new(&[], &[]), SubjectLists::new(&[], &["b"]));
    let permissions = Permissions::new(PermissionLists { publish, subscribe, responses: None }).unwrap();
    let limited = Principal { permissions: Arc::new(permissions), ..Principal::all() };
    assert!(inbox.change_rights(&all, Arc::new(limited)));
    assert!(inbox.may_receive(&a) && !inbox.may_receive(&b));
    assert!(!inbox.change_rights(&all, Arc::clone(&all)), "that one was not judged as who it is now");
    assert!(!inbox.may_receive(&b));
    assert!(inbox.change_rights(&inbox.rights.principal(), all));
    assert!(inbox.may_receive(&b));
}

/// One that has to get along with a budget of its own.
fn poor(bytes: usize) -> (Arc<Inbox>, &'static Budget) {
    let limits = InboxLimits { qos0_bytes: 1 << 20, feed_messages: 1_000, feed_bytes: 1 << 20 };
    let rights = Arc::new(crate::account::Rights::all());
    let inbox = Inbox::new(SessionId(1), "c".into(), Version::V311, u32::MAX, rights, limits, Arc::default());
    let budget: &'static Budget = Box::leak(Box::new(Budget::new()));
    budget.set_max(bytes);
    inbox.lanes.lock().held = Held::of(budget);
    (Arc::new(inbox), budget)
}

#[test]
fn a_lane_has_its_share_of_memory_and_gives_it_back() {
    let (inbox, budget) = poor(800_000);
    let message = Message::new(TopicName::new("t").unwrap(), Bytes::from(vec![0; 1_000]), None);
    let grant = Grant { qos: QoS::AtMostOnce, retain: false, ids: SubscriptionIds::One(None) };
    let mut wakes = Wakes::default();
    let mut offer = || inbox.offer_qos0(&message, &grant, ServerTime(0), &mut wakes);
    let taken = (0..10_000).take_while(|_| offer()).count();
    // x = (800,000 - x) / 8, and a little more for the pieces in which it is counted.
    assert!((80..115).contains(&taken), "{taken}");
    assert!(budget.held() <= 800_000 / 8, "{}", budget.held());
    let (mut out, mut messages, mut catching_up) = (Segments::default(), Vec::new(), Vec::new());
    let counted = inbox.take_messages(&mut out, 0, &mut messages, &mut catching_up);
    assert_eq!((counted, budget.held()), ([taken as u64, 1_000 * taken as u64], 0));
    // What is dropped is not counted as delivered.
    assert!((0..50).all(|_| offer()));
    assert_eq!((inbox.drop_qos0(1 << 20), inbox.drop_qos0(50_000)), (0, 50));
    let mut out = Segments::default();
    assert_eq!(inbox.take_messages(&mut out, 0, &mut messages, &mut catching_up), [0, 0]);
    assert!(out.is_empty() && budget.held() == 0);
}

#[test]
fn a_session_without_memory_falls_behind_and_catches_up() {
    let (inbox, budget) = poor(0);
    let mut wakes = Wakes::default();
    let (small, large) = (5_000, 100_000);
    for sequence in 1..10 {
        inbox.offer_live(LOG, Sequence(sequence), small, outgoing, &mut wakes);
    }
    assert_eq!(inbox.with_feed(LOG, |feed| (feed.len(), feed.state())), (4, FeedState::Behind { next: Sequence(5) }));
    let (mut out, mut messages, mut catching_up) = (Segments::default(), Vec::new(), Vec::new());
    inbox.take_messages(&mut out, 10, &mut messages, &mut catching_up);
    assert_eq!(
        (messages.len(), &*catching_up),
        (4, &[Position::in_main_log(Sequence(5))][..]),
        "it has some, and asks for a scan"
    );
    assert_eq!(inbox.with_feed(LOG, Feed::begin_scan), Some(Sequence(5)));
    assert_eq!(
        inbox.offer_scanned(LOG, Sequence(5), large, outgoing, &mut wakes),
        Offer::Full,
        "not even one of those"
    );
    budget.set_max(1 << 20);
    assert_eq!(inbox.with_feed(LOG, Feed::begin_scan), Some(Sequence(5)));
    assert_eq!(inbox.offer_scanned(LOG, Sequence(5), large, outgoing, &mut wakes), Offer::Taken);
    inbox.take_messages(&mut out, 10, &mut messages, &mut catching_up);
    assert_eq!(messages.len(), 5);
}

#[test]
fn a_session_that_has_nothing_may_have_one_message_when_there_is_no_memory() {
    let (inbox, budget) = poor(0);
    assert!(budget.is_full());
    let (mut out, mut messages, mut catching_up) = (Segments::default(), Vec::new(), Vec::new());
    let (mut wakes, large) = (Wakes::default(), 100_000);
    for sequence in 1..5 {
        inbox.offer_live(LOG, Sequence(2 * sequence), large, outgoing, &mut wakes);
        assert_eq!(
            inbox.with_feed(LOG, |feed| (feed.len(), feed.state())),
            (1, FeedState::Live { after: Sequence(0) })
        );
        inbox.take_messages(&mut out, 10, &mut messages, &mut catching_up);
        // What was taken is still on its way.
        inbox.with_feed(LOG, |feed| feed.fall_behind(Sequence(2 * sequence + 1)));
        assert_eq!(inbox.with_feed(LOG, Feed::begin_scan), Some(Sequence(2 * sequence + 1)));
        assert_eq!(inbox.offer_scanned(LOG, Sequence(2 * sequence + 1), large, outgoing, &mut wakes), Offer::Full);
        // Now it is not any more.
        inbox.take_messages(&mut out, 10, &mut messages, &mut catching_up);
        inbox.with_feed(LOG, |feed| *feed = Feed::new(Sequence(0), 1_000, 0));
    }
    assert_eq!(messages.len(), 4);
}

#[test]
fn who_reads_gets_large_messages_at_qos_0_also_when_there_is_no_memory() {
    let (inbox, _) = poor(0);
    let message = Message::new(TopicName::new("t").unwrap(), Bytes::from(vec![0; 100_000]), None);
    let grant = Grant { qos: QoS::AtMostOnce, retain: false, ids: SubscriptionIds::One(None) };
    let (mut messages, mut catching_up, mut wakes) = (Vec::new(), Vec::new(), Wakes::default());
    for _ in 0..3 {
        assert!(inbox.offer_qos0(&message, &grant, ServerTime(0), &mut wakes));
        assert!(!inbox.offer_qos0(&message, &grant, ServerTime(0), &mut wakes), "one waits");
        let mut out = Segments::default();
        inbox.take_messages(&mut out, 0, &mut messages, &mut catching_up);
        assert!(!inbox.offer_qos0(&message, &grant, ServerTime(0), &mut wakes), "it is being written");
        out = Segments::default();
        inbox.take_messages(&mut out, 0, &mut messages, &mut catching_up);
    }
}
