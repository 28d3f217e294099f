//! Tokens of replies: whole they open, and whatever else a device sends does not.

use bytes::Bytes;
use mqtt_codec::{QoS, TopicName};
use proto_map::{ClosedTrees, Question, ReplyError, ReplyKey, ReplyTopic, ReplyTopics, Subject, is_answerable};

const NOW_S: u32 = 1_800_000_000;

fn key(seed: u8) -> ReplyKey {
    ReplyKey::new(&[seed; 32])
}

fn inbox() -> Subject {
    Subject::new("_INBOX.Zk3bYwQh9LxJb2.7").unwrap()
}

#[test]
fn a_token_opens_until_its_time_is_over() {
    let token = key(1).seal(&inbox(), NOW_S);
    assert_eq!(key(1).open(&token, NOW_S - 600), Ok(inbox()));
    assert_eq!(key(1).open(&token, NOW_S), Ok(inbox()));
    assert_eq!(key(1).open(&token, NOW_S + 1), Err(ReplyError::Expired));
    assert_eq!(key(2).open(&token, NOW_S), Err(ReplyError::Forged));
}

#[test]
fn no_change_of_a_token_opens() {
    let token = key(1).seal(&inbox(), NOW_S);
    for index in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert_eq!(key(1).open(&changed, NOW_S), Err(ReplyError::Forged), "{index}");
        assert_eq!(key(1).open(&token[..index], NOW_S), Err(ReplyError::Forged), "cut at {index}");
    }
    for text in ["", "next", "%%%", "_INBOX.x.1", &format!("{token}AAAA")] {
        assert_eq!(key(1).open(text, NOW_S), Err(ReplyError::Forged), "{text}");
    }
}

#[test]
fn topics_of_replies_are_told_apart() {
    let topics = ReplyTopics::new("$NMQ");
    let token = key(1).seal(&inbox(), NOW_S);
    let topic = topics.of_token(&token).unwrap();
    assert_eq!(topic.as_str(), format!("$NMQ/reply/{token}"));
    for (text, expected) in [
        (topic.as_str(), Some(ReplyTopic::Token(&token))),
        ("$NMQ/reply/next/devices/42/cmd", Some(ReplyTopic::Next("devices/42/cmd"))),
        ("$NMQ/reply/last//cmd/", Some(ReplyTopic::Last("/cmd/"))),
        ("$NMQ/reply/next", Some(ReplyTopic::Token("next"))),
        ("$NMQ/reply/", Some(ReplyTopic::Token(""))),
        ("$NMQ/reply", None),
        ("$NMQ/log/a", None),
        ("a/$NMQ/reply/x", None),
    ] {
        assert_eq!(topics.parse(text), expected, "{text}");
    }
    assert!(ClosedTrees::default().is_closed_topic(&topic));
}

#[test]
fn a_sidecar_cannot_be_made_to_answer_where_only_it_may_publish() {
    let closed = ClosedTrees::default();
    for (reply, expected) in [
        ("_INBOX.a.1", true),
        ("_INBOX_alice.a.1", true),
        ("_R_.x.y", true),
        ("answers.here", true),
        ("$JS.API.STREAM.DELETE.ORDERS", false),
        ("$JS.ACK.S.C.1.1.1.1.0", false),
        ("$SYS.REQ.SERVER.PING", false),
        ("$KV.MQTT_sessions.x", false),
        ("$NMQ.log.a", false),
    ] {
        assert_eq!(is_answerable(reply, &closed), expected, "{reply}");
    }
    assert!(!is_answerable(&"x".repeat(1025), &closed));
}

fn question(topic: &str, correlation_data: Option<&[u8]>, qos: QoS) -> Question {
    let response_topic = TopicName::new(topic.to_owned()).unwrap();
    Question { response_topic, correlation_data: correlation_data.map(Bytes::copy_from_slice), qos }
}

#[test]
fn a_question_comes_back_as_it_was() {
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        for correlation in [None, Some(&[][..]), Some(&[0, 255, b'.', b' ']), Some(&[7; 700])] {
            for topic in ["a", "/", "antworten/für mich/☃", "a/b.c/*/>"] {
                let question = question(topic, correlation, qos);
                let token = key(1).seal_question(&question, NOW_S).unwrap();
                assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)), "{token}");
                assert_eq!(key(1).open_question(&token, NOW_S), Ok(question));
            }
        }
    }
}

#[test]
fn a_question_is_one_of_ours_in_time_and_not_too_long() {
    let token = key(1).seal_question(&question("answers", None, QoS::AtLeastOnce), NOW_S).unwrap();
    assert_eq!(key(1).open_question(&token, NOW_S + 1), Err(ReplyError::Expired));
    assert_eq!(key(2).open_question(&token, NOW_S), Err(ReplyError::Forged));
    // Neither kind of token is taken for the other.
    assert_eq!(key(1).open(&token, NOW_S), Err(ReplyError::Forged));
    assert_eq!(key(1).open_question(&key(1).seal(&inbox(), NOW_S), NOW_S), Err(ReplyError::Forged));
    for index in 0..token.len() {
        assert_eq!(key(1).open_question(&token[..index], NOW_S), Err(ReplyError::Forged), "cut at {index}");
    }
    let longest = (0..2000)
        .rev()
        .find_map(|n| key(1).seal_question(&question("answers", Some(&vec![0; n]), QoS::AtLeastOnce), NOW_S));
    assert!((1000..1100).contains(&longest.unwrap().len()));
}
