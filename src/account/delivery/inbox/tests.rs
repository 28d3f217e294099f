//! A scan that waits for room is woken by whatever ends its wait.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use mqtt_codec::{QoS, TopicName, Version};
use mqtt_session::{Feed, Offer};

use super::{Inbox, InboxLimits, Outgoing, Wakes};
use crate::account::Segments;
use crate::account::delivery::grant::{Grant, SubscriptionIds};
use crate::account::delivery::message::Message;

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
        1,
        "c".into(),
        Version::V5,
        u32::MAX,
        Arc::new(crate::account::Rights::all()),
        LIMITS,
        Arc::default(),
    ));
    inbox.with_feed(LOG, |feed| feed.fall_behind(1));
    inbox.with_feed(LOG, Feed::begin_scan);
    inbox.with_feed(LOG, |feed| feed.join(100));
    let mut wakes = Wakes::default();
    for sequence in 0..held {
        inbox.offer_live(LOG, 101 + sequence, 1, outgoing, &mut wakes);
    }
    let mut sequence = 0;
    while inbox.with_feed(LOG, |feed| feed.has_room()) {
        sequence += 1;
        assert_eq!(inbox.offer_scanned(LOG, sequence, 1, outgoing, &mut wakes), Offer::Taken);
    }
    inbox
}

fn take(inbox: &Inbox, count: usize) {
    let (mut out, mut messages, mut behind) = (Segments::default(), Vec::new(), Vec::new());
    inbox.take_messages(&mut out, count, &mut messages, &mut behind);
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
            inbox.offer_live(LOG, 200, 1, outgoing, &mut Wakes::default());
        }),
        ("the log is gone", false, |inbox| inbox.forget_log(LOG)),
        ("the log is made anew", false, |inbox| inbox.log_restarted(LOG, 1)),
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
    let behind = |count| {
        let (mut out, mut messages, mut behind) = (Segments::default(), Vec::new(), Vec::new());
        inbox.take_messages(&mut out, count, &mut messages, &mut behind);
        behind
    };
    assert!(behind(1).is_empty());
    assert_eq!(behind(1), [5]);
}
