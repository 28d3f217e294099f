//! A scan that waits for room is woken by whatever ends its wait.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use mqtt_codec::{QoS, TopicName, Version};
use mqtt_session::{Feed, Offer};

use super::{Mailbox, MailboxLimits, Outgoing, Wakes};
use crate::account::Segments;
use crate::account::delivery::grant::{Grant, SubscriptionIds};
use crate::account::delivery::message::Message;

const LOG: u16 = 0;
const LIMITS: MailboxLimits = MailboxLimits { qos0_bytes: 1_000, feed_messages: 4, feed_bytes: 1_000 };

fn outgoing() -> Outgoing {
    let message = Message::new(TopicName::new("t").unwrap(), Bytes::new(), None);
    let grant = Grant { qos: QoS::AtLeastOnce, retain: false, ids: SubscriptionIds::One(None) };
    Outgoing { message: Arc::new(message), grant, others: Box::default(), share: None }
}

/// One that a scan has filled, with so many messages held behind that.
fn full(held: u64) -> Arc<Mailbox> {
    let mailbox = Arc::new(Mailbox::new(1, "c".into(), Version::V5, u32::MAX, LIMITS));
    mailbox.with_feed(LOG, |feed| feed.fall_behind(1));
    mailbox.with_feed(LOG, Feed::begin_scan);
    mailbox.with_feed(LOG, |feed| feed.join(100));
    let mut wakes = Wakes::default();
    for sequence in 0..held {
        mailbox.offer_live(LOG, 101 + sequence, 1, outgoing, &mut wakes);
    }
    let mut sequence = 0;
    while mailbox.with_feed(LOG, |feed| feed.has_room()) {
        sequence += 1;
        assert_eq!(mailbox.offer_scanned(LOG, sequence, 1, outgoing, &mut wakes), Offer::Taken);
    }
    mailbox
}

fn take(mailbox: &Mailbox, count: usize) {
    let (mut out, mut messages, mut behind) = (Segments::default(), Vec::new(), Vec::new());
    mailbox.take_messages(&mut out, count, &mut messages, &mut behind);
    assert_eq!(messages.len(), count);
}

/// What wakes it, and whether it has room then.
type Ending = (&'static str, bool, fn(&Arc<Mailbox>));

#[tokio::test]
async fn a_scan_that_waits_is_woken_by_whatever_ends_its_wait() {
    let endings: [Ending; 5] = [
        ("messages are taken", true, |mailbox| take(mailbox, 2)),
        ("too much is held", true, |mailbox| {
            take(mailbox, 1);
            mailbox.offer_live(LOG, 200, 1, outgoing, &mut Wakes::default());
        }),
        ("the log is gone", false, |mailbox| mailbox.forget_log(LOG)),
        ("the log is made anew", false, |mailbox| mailbox.log_restarted(LOG, 1)),
        ("the session is over", false, |mailbox| mailbox.close()),
    ];
    for (what, has_room, end) in endings {
        let mailbox = full(2);
        let waiting = mailbox.room_for_scan(LOG);
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none(), "{what}: it has room already");
        end(&mailbox);
        let woken = tokio::time::timeout(Duration::from_secs(5), waiting).await;
        assert_eq!(woken, Ok(has_room), "{what}");
    }
}

#[tokio::test]
async fn a_session_that_is_behind_asks_for_a_scan_when_it_is_worth_its_while() {
    let mailbox = full(0);
    mailbox.with_feed(LOG, Feed::end_scan);
    let behind = |count| {
        let (mut out, mut messages, mut behind) = (Segments::default(), Vec::new(), Vec::new());
        mailbox.take_messages(&mut out, count, &mut messages, &mut behind);
        behind
    };
    assert!(behind(1).is_empty());
    assert_eq!(behind(1), [5]);
}
