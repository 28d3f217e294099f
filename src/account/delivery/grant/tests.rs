//! Every combination of what a subscription asks for and what a message is, against the text of the standard.

use super::*;

const QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
const BOTH: [bool; 2] = [false, true];
const AUDIENCES: [Audience; 3] = [Audience::Everyone, Audience::Qos0Only, Audience::DurableOnly];

fn id(number: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(number)
}

fn topic() -> TopicName {
    TopicName::new("plant/secret").unwrap()
}

fn terms(qos: QoS, number: u32) -> Terms {
    Terms { qos, retain_as_published: false, no_local: false, id: id(number), is_due: true, leads: false }
}

fn facts(topic: &TopicName, qos: QoS) -> MessageFacts<'_> {
    let (retain, is_retained, is_own, audience) = (false, false, false, Audience::Everyone);
    MessageFacts { topic, qos, retain, is_retained, is_own, audience }
}

/// Calls `judge` with every subscription and every message, and what the one gets of the other.
fn all(mut judge: impl FnMut(Terms, MessageFacts<'_>, Option<Grant>)) {
    let topic = topic();
    let mut count = 0;
    for (asked, published, audience) in
        QOS.iter().flat_map(|a| QOS.iter().flat_map(move |p| AUDIENCES.iter().map(move |audience| (*a, *p, *audience))))
    {
        for bits in 0..64_u32 {
            let bit = |number: u32| bits >> number & 1 == 1;
            let (retain_as_published, no_local, is_due) = (bit(0), bit(1), bit(2));
            let (retain, is_retained, is_own) = (bit(3), bit(4), bit(5));
            let terms = Terms { qos: asked, retain_as_published, no_local, id: id(7), is_due, leads: false };
            let facts = MessageFacts { topic: &topic, qos: published, retain, is_retained, is_own, audience };
            judge(terms, facts, grant(&terms, &facts, &Everybody));
            count += 1;
        }
    }
    assert_eq!(count, 3 * 3 * 3 * 64);
}

/// All but one tree.
struct Without(&'static str);

impl Permits for Without {
    fn may_receive(&self, topic: &TopicName) -> bool {
        !topic.as_str().starts_with(self.0)
    }
}

#[test]
fn mqtt_3_8_3_3_no_local_withholds_what_the_client_has_published_and_nothing_else() {
    all(|terms, facts, granted| {
        let is_for = match facts.audience {
            Audience::Everyone => true,
            Audience::Qos0Only => terms.qos == QoS::AtMostOnce,
            Audience::DurableOnly => terms.qos != QoS::AtMostOnce,
        };
        let is_withheld = terms.no_local && facts.is_own;
        assert_eq!(granted.is_some(), is_for && terms.is_due && !is_withheld, "{terms:?} {facts:?}");
    });
}

#[test]
fn mqtt_3_8_4_8_the_lower_qos_of_message_and_subscription_is_sent() {
    all(|terms, facts, granted| {
        let Some(granted) = granted else { return };
        assert_eq!(granted.qos as u8, (terms.qos as u8).min(facts.qos as u8), "{terms:?} {facts:?}");
    });
}

#[test]
fn mqtt_3_3_1_12_without_retain_as_published_what_is_published_comes_without_retain() {
    all(|terms, facts, granted| {
        let Some(granted) = granted.filter(|_| !facts.is_retained && !terms.retain_as_published) else { return };
        assert!(!granted.retain, "{terms:?} {facts:?}");
    });
}

#[test]
fn mqtt_3_3_1_13_with_retain_as_published_what_is_published_comes_with_the_flag_that_it_had() {
    all(|terms, facts, granted| {
        let Some(granted) = granted.filter(|_| !facts.is_retained && terms.retain_as_published) else { return };
        assert_eq!(granted.retain, facts.retain, "{terms:?} {facts:?}");
    });
}

#[test]
fn mqtt_311_3_3_1_8_what_a_subscribe_brings_has_retain() {
    all(|terms, facts, granted| {
        let Some(granted) = granted.filter(|_| facts.is_retained) else { return };
        assert!(granted.retain, "{terms:?} {facts:?}");
    });
}

#[test]
fn mqtt_3_3_4_4_one_subscription_is_named_by_its_identifier_if_it_has_one() {
    let topic = topic();
    for number in [0, 7] {
        let granted = grant(&terms(QoS::AtLeastOnce, number), &facts(&topic, QoS::AtLeastOnce), &Everybody).unwrap();
        assert_eq!(granted.ids.as_slice(), id(number).as_slice());
        assert!(matches!(granted.ids, SubscriptionIds::One(_)));
    }
}

#[test]
fn mqtt_4_8_2_3_a_shared_message_comes_at_no_more_than_its_members_qos() {
    // A shared subscription has no other terms: No Local is an error of protocol there.
    let topic = topic();
    for (asked, published) in QOS.iter().flat_map(|a| QOS.iter().map(move |p| (*a, *p))) {
        for (retain, retain_as_published) in BOTH.iter().flat_map(|r| BOTH.iter().map(move |a| (*r, *a))) {
            let member = Terms { retain_as_published, ..terms(asked, 3) };
            let message = MessageFacts { retain, ..facts(&topic, published) };
            let granted = grant(&member, &message, &Everybody).unwrap();
            let expected = Grant {
                qos: asked.min(published),
                retain: retain && retain_as_published,
                ids: SubscriptionIds::One(id(3)),
            };
            assert_eq!(granted, expected);
        }
    }
}

/// What several subscriptions get of a message: QoS, RETAIN and identifiers of each copy.
fn of_several(all: &[Terms], message: &MessageFacts<'_>, is_each: bool) -> Vec<(u8, bool, Vec<u32>)> {
    let copies = grants(all.iter().copied(), message, is_each, &Everybody);
    copies
        .iter()
        .map(|c| (c.qos as u8, c.retain, c.ids.as_slice().iter().map(|id| id.get()).collect::<Vec<_>>()))
        .collect()
}

#[test]
fn mqtt_3_3_4_2_overlapping_subscriptions_get_one_copy_at_the_highest_qos_of_them() {
    let topic = topic();
    for published in QOS {
        for (one, two, three) in
            QOS.iter().flat_map(|a| QOS.iter().flat_map(move |b| QOS.iter().map(move |c| (*a, *b, *c))))
        {
            let all = [terms(one, 1), terms(two, 2), terms(three, 3)];
            let highest = published.min(one.max(two).max(three)) as u8;
            assert_eq!(of_several(&all, &facts(&topic, published), false), [(highest, false, vec![1, 2, 3])]);
        }
    }
}

#[test]
fn mqtt_3_3_4_3_the_one_copy_has_the_identifiers_of_all_that_have_one_and_take_it() {
    let topic = topic();
    let message = MessageFacts { is_own: true, ..facts(&topic, QoS::ExactlyOnce) };
    let all = [
        terms(QoS::AtMostOnce, 1),
        terms(QoS::AtLeastOnce, 0),
        Terms { no_local: true, ..terms(QoS::ExactlyOnce, 3) },
        Terms { is_due: false, ..terms(QoS::ExactlyOnce, 4) },
        terms(QoS::AtMostOnce, 5),
    ];
    assert_eq!(of_several(&all, &message, false), [(1, false, vec![1, 5])]);
    assert_eq!(of_several(&all[2..4], &message, false), []);
    assert_eq!(of_several(&[], &message, false), []);
}

#[test]
fn mqtt_3_3_1_13_the_one_copy_has_retain_when_one_that_takes_it_wants_it() {
    let topic = topic();
    let message = MessageFacts { retain: true, is_own: true, ..facts(&topic, QoS::AtLeastOnce) };
    let plain = terms(QoS::AtLeastOnce, 1);
    let as_published = Terms { retain_as_published: true, ..terms(QoS::AtMostOnce, 2) };
    let not_own = Terms { no_local: true, ..as_published };
    assert_eq!(of_several(&[plain, as_published], &message, false), [(1, true, vec![1, 2])]);
    assert_eq!(of_several(&[plain, not_own], &message, false), [(1, false, vec![1])]);
    assert_eq!(of_several(&[plain, not_own], &MessageFacts { is_own: false, ..message }, false).len(), 1);
}

#[test]
fn mqtt_3_3_4_5_of_a_copy_for_each_every_one_has_its_own_qos_flag_and_identifier() {
    let topic = topic();
    let message = MessageFacts { retain: true, is_own: true, ..facts(&topic, QoS::AtLeastOnce) };
    let all = [
        Terms { retain_as_published: true, ..terms(QoS::ExactlyOnce, 1) },
        terms(QoS::AtMostOnce, 2),
        Terms { no_local: true, ..terms(QoS::AtLeastOnce, 3) },
        terms(QoS::AtLeastOnce, 0),
    ];
    let expected = [(0, false, vec![2]), (1, true, vec![1]), (1, false, vec![])];
    assert_eq!(of_several(&all, &message, true), expected);
}

#[test]
fn of_two_copies_of_a_message_a_session_gets_the_one_that_its_highest_subscription_is_for() {
    let topic = topic();
    for (is_each, highest) in BOTH.iter().flat_map(|e| QOS.iter().map(move |q| (*e, *q))) {
        // The one above is not for this message; who it is for is said by it all the same.
        for is_due in BOTH {
            let all = [terms(QoS::AtMostOnce, 1), Terms { is_due, ..terms(highest, 2) }];
            let gets = |audience| {
                let message = MessageFacts { audience, ..facts(&topic, QoS::ExactlyOnce) };
                !of_several(&all, &message, is_each).is_empty()
            };
            let is_stored = highest > QoS::AtMostOnce;
            assert_eq!((gets(Audience::Qos0Only), gets(Audience::DurableOnly)), (!is_stored, is_stored));
            assert!(gets(Audience::Everyone));
        }
    }
}

#[test]
fn mqtt_4_4_0_1_what_is_in_flight_is_sent_again_also_when_its_subscriptions_are_gone() {
    let topic = topic();
    let again = |all: &[Terms], message: &MessageFacts<'_>| {
        grant_again(QoS::ExactlyOnce, all.iter().copied(), message, &Everybody).unwrap()
    };
    for is_retained in BOTH {
        let message = MessageFacts { retain: true, is_retained, ..facts(&topic, QoS::ExactlyOnce) };
        let nobody = Grant { qos: QoS::ExactlyOnce, retain: is_retained, ids: SubscriptionIds::One(None) };
        assert_eq!(again(&[], &message), nobody);
        // At the QoS at which it was sent first, whatever the subscription is now.
        let lowered = Terms { retain_as_published: true, ..terms(QoS::AtMostOnce, 4) };
        let granted = Grant { qos: QoS::ExactlyOnce, retain: true, ids: SubscriptionIds::One(id(4)) };
        assert_eq!(again(&[lowered], &message), granted);
    }
}

#[test]
fn what_a_client_may_not_receive_is_withheld_whichever_way_it_comes() {
    let (topic, other) = (topic(), TopicName::new("plant/1").unwrap());
    let permits = Without("plant/secret");
    let all = [terms(QoS::AtMostOnce, 1), terms(QoS::ExactlyOnce, 2)];
    for (audience, is_retained) in AUDIENCES.iter().flat_map(|a| BOTH.iter().map(move |r| (*a, *r))) {
        let [denied, allowed] =
            [&topic, &other].map(|topic| MessageFacts { audience, is_retained, ..facts(topic, QoS::AtLeastOnce) });
        assert!(all.iter().all(|terms| grant(terms, &denied, &permits).is_none()));
        assert!(audience != Audience::Everyone || all.iter().all(|terms| grant(terms, &allowed, &permits).is_some()));
        for is_each in BOTH {
            assert!(grants(all.into_iter(), &denied, is_each, &permits).is_empty());
            assert_eq!(grants(all.into_iter(), &allowed, is_each, &permits).is_empty(), audience == Audience::Qos0Only);
        }
        assert_eq!(grant_again(QoS::AtLeastOnce, all.into_iter(), &denied, &permits), None);
        assert!(grant_again(QoS::AtLeastOnce, all.into_iter(), &allowed, &permits).is_some());
    }
}

#[test]
fn identifiers_are_in_their_order_and_one_of_them_is_not_allocated() {
    let of = |numbers: &[u32]| numbers.iter().filter_map(|n| NonZeroU32::new(*n)).collect::<SubscriptionIds>();
    assert_eq!(of(&[]), SubscriptionIds::One(None));
    assert_eq!(of(&[5]), SubscriptionIds::One(id(5)));
    assert_eq!(of(&[5, 2, 9]).as_slice().iter().map(|id| id.get()).collect::<Vec<_>>(), [5, 2, 9]);
    assert_eq!(size_of::<SubscriptionIds>(), 2 * size_of::<usize>());
}

/// Below a mount point.
struct Site(MountPoint);

impl Permits for Site {
    fn may_receive(&self, topic: &TopicName) -> bool {
        self.0.has(topic)
    }

    fn mount(&self) -> Option<&MountPoint> {
        Some(&self.0)
    }
}

#[test]
fn mqtt_4_7_2_1_a_wildcard_behind_a_mount_point_matches_no_topic_that_begins_with_a_dollar_there() {
    let permits = Site(MountPoint::new("site7/", "$NMQ").unwrap());
    let filter = |text: &str| TopicFilter::new(text.to_owned()).unwrap();
    let leads = ["site7/#", "site7/+/x", "$share/g/site7/+", "site7/$x/#", "site7/a/#"]
        .map(|text| permits.leads(&filter(text)));
    assert_eq!(leads, [true, true, true, false, false]);
    let (hidden, other) = (TopicName::new("site7/$x/y").unwrap(), TopicName::new("site7/a").unwrap());
    let wide = Terms { leads: true, ..terms(QoS::ExactlyOnce, 1) };
    let exact = terms(QoS::AtMostOnce, 2);
    for is_each in BOTH {
        let of = |topic| grants([wide, exact].into_iter(), &facts(topic, QoS::ExactlyOnce), is_each, &permits);
        let [got] = &of(&hidden)[..] else { panic!("{:?}", of(&hidden)) };
        assert_eq!((got.qos, got.ids.as_slice()), (QoS::AtMostOnce, exact.id.as_slice()));
        assert_eq!(of(&other).iter().flat_map(|grant| grant.ids.as_slice()).count(), 2);
    }
    assert_eq!(grant(&wide, &facts(&hidden, QoS::AtMostOnce), &permits), None);
    assert!(grant(&wide, &facts(&other, QoS::AtMostOnce), &permits).is_some());
    assert!(grant(&wide, &facts(&hidden, QoS::AtMostOnce), &Everybody).is_some(), "it is about the mount");
}
