//! What the key of an account vouches for, and what it does not.

use bytestring::ByteString;
use proptest::prelude::*;
use proto_map::{AccountKey, Headers, Judgement, KNOWN_AFTER_MS, KeyId, KeyRing, MessageName, SealedRequest, name};

fn key(number: u32, made_at_ms: u64) -> AccountKey {
    AccountKey::new(KeyId::new(number).unwrap(), made_at_ms, [u8::try_from(number).unwrap(); 32])
}

fn ring() -> KeyRing {
    KeyRing::new([key(1, 0)]).unwrap()
}

fn headers(pairs: &[(&str, &str)]) -> Headers {
    pairs.iter().map(|(name, value)| (ByteString::from(*name), ByteString::from(*value))).collect()
}

#[test]
fn a_message_has_one_id_whoever_makes_it_and_no_two_have_the_same() {
    let plain = headers(&[("Nats-Msg-Id", "1")]);
    let other = headers(&[("Nats-Msg-Id", "1"), ("a", "")]);
    let names = [
        MessageName::OfSession { client_id: "a", epoch: 1, number: 2 },
        MessageName::OfSession { client_id: "a", epoch: 2, number: 1 },
        MessageName::OfSession { client_id: "ab", epoch: 1, number: 2 },
        MessageName::OfConnection { process: "a", connection: 1, number: 2 },
        MessageName::ById { client_id: "a", id: "bc" },
        MessageName::ById { client_id: "ab", id: "c" },
        MessageName::Put { stored_at_ms: 1, sequence: 2 },
        MessageName::Core { subject: "a", headers: &plain, payload: b"bc" },
        MessageName::Core { subject: "ab", headers: &plain, payload: b"c" },
        MessageName::Core { subject: "a", headers: &other, payload: b"bc" },
    ];
    let mut all: Vec<ByteString> = names.iter().map(|name| key(1, 0).message_id(*name)).collect();
    assert_eq!(all, names.map(|name| key(1, 5).message_id(name)), "another process with the same secret");
    all.extend(names.iter().map(|name| key(2, 0).message_id(*name)));
    assert!(all.iter().all(|id| id.len() == 22));
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count);
}

#[test]
fn a_new_key_is_used_when_everybody_has_it_and_the_first_at_once() {
    assert_eq!(KeyRing::new([]), None);
    let made = 1_000_000;
    let ring = KeyRing::new([key(3, made), key(2, 10), key(1, 0)]).unwrap();
    for (at_ms, expected) in
        [(0, 1), (10 + KNOWN_AFTER_MS, 2), (made + KNOWN_AFTER_MS - 1, 2), (made + KNOWN_AFTER_MS, 3)]
    {
        assert_eq!(ring.at(at_ms).id().get(), expected, "{at_ms}");
    }
    assert_eq!(KeyRing::new([key(1, made)]).unwrap().at(0).id().get(), 1);
    assert!(ring.get(KeyId::new(2).unwrap()).is_some() && ring.get(KeyId::new(9).unwrap()).is_none());
}

#[test]
fn names_of_keys_are_eight_digits() {
    for (text, number) in [("00000001", 1), ("ffffffff", u32::MAX)] {
        assert_eq!(KeyId::parse(text).map(KeyId::get), Some(number));
        assert_eq!(KeyId::parse(text).unwrap().to_string(), text);
    }
    for bad in ["", "00000000", "1", "0000000g", "+0000001", "000000001", "FFFFFFFF"] {
        assert_eq!(KeyId::parse(bad), None, "{bad}");
    }
    assert!(!format!("{:?}", key(7, 0)).contains("[7"), "secrets stay out of logs");
}

#[test]
fn a_request_is_genuine_as_it_was_made_and_its_answer_answers_it_only() {
    let seal = key(1, 0).seal_request("s", 5, "n", b"p");
    assert_eq!(ring().judge_request(&seal, "s", b"p"), Judgement::Genuine(SealedRequest { at_ms: 5, nonce: "n" }));
    for (subject, payload) in [("t", &b"p"[..]), ("s", b"q"), ("", b"sp")] {
        assert_eq!(ring().judge_request(&seal, subject, payload), Judgement::Forged);
    }
    for changed in [seal.replace(".5.", ".6."), seal.replace(".n.", ".m."), format!("{seal}.x"), format!("{seal}A")] {
        assert_eq!(ring().judge_request(&changed, "s", b"p"), Judgement::Forged, "{changed}");
    }
    assert_eq!(ring().judge_request(&key(2, 0).seal_request("s", 5, "n", b"p"), "s", b"p"), Judgement::UnknownKey);
    let answer = key(1, 0).seal_answer("n", b"p");
    assert_eq!(ring().judge_answer(&answer, "n", b"p"), Judgement::Genuine(()));
    assert_eq!(ring().judge_answer(&answer, "m", b"p"), Judgement::Forged);
    assert_eq!(ring().judge_answer(&answer, "n", b"q"), Judgement::Forged);
    assert_eq!(ring().judge_answer(&seal, "n", b"p"), Judgement::Forged);
    for bad in ["", ".", "x", "00000001"] {
        assert_eq!(ring().judge_answer(bad, "n", b"p"), Judgement::Forged, "{bad}");
        assert_eq!(ring().judge_request(bad, "s", b"p"), Judgement::Forged, "{bad}");
    }
}

#[test]
fn an_epoch_is_sealed_for_itself_and_by_nobody_else() {
    let sealed = ring().seal_epoch(0, "1f.2e");
    assert!(sealed.starts_with("1f.2e."));
    assert!(ring().is_epoch_genuine(&sealed));
    assert!(!KeyRing::new([key(2, 0)]).unwrap().is_epoch_genuine(&sealed));
    for other in [sealed.replacen("2e", "2f", 1), sealed.replacen("1f", "1e", 1), "1f.2e".to_owned(), String::new()] {
        assert!(!ring().is_epoch_genuine(&other), "{other}");
    }
}

proptest! {
    #[test]
    fn a_marked_message_is_what_it_was_or_is_not_marked(
        subject in "[ab.]{1,4}", payload in any::<Vec<u8>>(),
        pairs in prop::collection::vec(("[A-Ca-c]{1,2}", "[a-c]{0,3}"), 0..5),
        other_subject in "[ab.]{1,4}", other_payload in any::<Vec<u8>>(),
        other_pairs in prop::collection::vec(("[A-Ca-c]{1,2}", "[a-c]{0,3}"), 0..5),
    ) {
        let plain: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (&**name, &**value)).collect();
        let mut marked = headers(&plain);
        ring().mark(0, &subject, &mut marked, &payload);
        prop_assert!(ring().is_marked(&subject, &marked, &payload));
        // In any order of names, and with what nats-server adds.
        let mut shuffled = marked.clone();
        shuffled.sort_by(|(a, _), (b, _)| b.cmp(a));
        shuffled.push(("Nats-Sequence".into(), "1".into()));
        prop_assert!(ring().is_marked(&subject, &shuffled, &payload));
        prop_assert!(!KeyRing::new([key(2, 0)]).unwrap().is_marked(&subject, &marked, &payload));
        prop_assert_eq!(ring().is_marked(&other_subject, &marked, &payload), other_subject == subject);
        prop_assert_eq!(ring().is_marked(&subject, &marked, &other_payload), other_payload == payload);
        let mark = marked.last().unwrap().clone();
        prop_assert_eq!(&*mark.0, name::MAC);
        let other: Vec<(&str, &str)> = other_pairs.iter().map(|(name, value)| (&**name, &**value)).collect();
        let mut moved = headers(&other);
        moved.push(mark);
        let by_name = |mut all: Headers| { all.sort_by(|(a, _), (b, _)| a.cmp(b)); all };
        prop_assert_eq!(
            ring().is_marked(&subject, &moved, &payload),
            by_name(headers(&other)) == by_name(headers(&plain))
        );
        let mut twice = marked.clone();
        twice.push(marked.last().unwrap().clone());
        prop_assert!(!ring().is_marked(&subject, &twice, &payload));
    }
}

#[test]
fn the_keys_of_another_account_are_the_same_for_whoever_has_these_and_say_nothing_of_any_other() {
    let ring = KeyRing::new([key(2, 10), key(1, 0)]).unwrap();
    let (one, other) = (ring.for_account("T1"), ring.for_account("T2"));
    assert_eq!(one, ring.for_account("T1"), "another process with the same keys");
    let ids = |ring: &KeyRing| ring.keys().map(|key| (key.id(), key.made_at_ms())).collect::<Vec<_>>();
    assert_eq!(ids(&one), ids(&ring), "each takes the place of the one that it is made of");
    let rings = [&ring, &one, &other];
    let mut secrets: Vec<[u8; 32]> = rings.iter().flat_map(|ring| ring.keys()).map(|key| *key.secret()).collect();
    secrets.extend(rings.iter().flat_map(|ring| ring.keys()).map(AccountKey::for_replies));
    let count = secrets.len();
    secrets.sort_unstable();
    secrets.dedup();
    assert_eq!((secrets.len(), count), (12, 12));
    let sealed = one.at(u64::MAX).seal_request("a", 1, "n", b"x");
    assert!(matches!(one.judge_request(&sealed, "a", b"x"), Judgement::Genuine(_)));
    assert_eq!(other.judge_request(&sealed, "a", b"x"), Judgement::Forged);
    assert_eq!(ring.judge_request(&sealed, "a", b"x"), Judgement::Forged);
}
