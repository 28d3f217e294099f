//! What is neither publishing nor delivering: keep alive, topic aliases, DISCONNECT, subscriptions, and packets that a
//! client must not send.

use mqtt_codec::QoS;

use crate::script::{V5, V311, check};

#[test]
fn mqtt_3_1_2_22_a_silent_client_is_cut_off_after_one_and_a_half_times_its_keep_alive() {
    check(V311.keep_alive(10), "= deadline 15000; time 14999; < nothing; time 15000; < close 0x8d");
    check(V5.keep_alive(1), "at 700; > PINGREQ; < PINGRESP; = deadline 2200; time 2199; time 2200; < close 0x8d");
}

#[test]
fn every_packet_of_the_client_counts_as_a_sign_of_life_and_nothing_else_does() {
    check(
        V5.keep_alive(10),
        "at 1000; > PUBLISH q1 id1; < store 0; = deadline 16000; at 2000; stored 0 ok; < PUBACK 1; = deadline 16000;
         at 3000; > PUBACK 9; = deadline 18000; at 4000; deliver q1 1; < send q1 1 #1; = deadline 18000; time 5000; = deadline 18000",
    );
}

#[test]
fn a_packet_that_takes_longer_than_the_keep_alive_is_a_sign_of_life_while_it_comes() {
    check(
        V5.keep_alive(3),
        "at 4000; heard; = deadline 8500; time 4500; < nothing; at 8000; heard; time 8500; < nothing;
         at 9000; > PUBLISH q1 id1; < store 0; = deadline 13500; time 13500; < close 0x8d",
    );
}

#[test]
fn without_a_keep_alive_there_is_no_deadline() {
    check(V5, "= deadline none; time 99999999; < nothing");
}

#[test]
fn the_longest_keep_alive_does_not_overflow() {
    check(V5.keep_alive(65535), "at 18446744073709551615; > PINGREQ; < PINGRESP; = deadline 18446744073709551615");
}

/// [MQTT-3.3.2-12]
#[test]
fn an_alias_stands_for_the_topic_that_defined_it_last() {
    check(
        V5,
        "> PUBLISH q0 topic=a alias=1; < store - q0 a; > PUBLISH q0 topic=b alias=3; < store - q0 b;
         > PUBLISH q0 alias=1; < store - q0 a; > PUBLISH q1 id1 alias=3; < store 0 q1 b;
         > PUBLISH q0 topic=c alias=1; < store - q0 c; > PUBLISH q0 alias=1; < store - q0 c",
    );
}

/// [MQTT-3.2.2-17, -18]
#[test]
fn mqtt_3_3_2_9_an_alias_beyond_the_maximum_ends_the_connection() {
    check(V5, "> PUBLISH q0 topic=a alias=4; < close 0x94; > PINGREQ; < nothing");
    check(V5, "> PUBLISH q1 id1 alias=4; < close 0x94");
    check(V5.topic_alias_maximum(0), "> PUBLISH q0 topic=a alias=1; < close 0x94");
}

#[test]
fn an_alias_that_was_never_defined_ends_the_connection() {
    check(V5, "> PUBLISH q0 alias=2; < close 0x82");
}

/// [MQTT-3.3.2-7]
#[test]
fn aliases_end_with_their_connection() {
    check(V5.durable(), "> PUBLISH q0 topic=a alias=1; < store - q0 a; reconnect; > PUBLISH q0 alias=1; < close 0x82");
}

#[test]
fn disconnect_ends_the_connection_without_the_will_unless_it_says_so() {
    check(V311, "> DISCONNECT; < close client; > PINGREQ; time 99999; stored 0 ok; deliver q1 1; saved; < nothing");
    check(V5, "> DISCONNECT; < close client");
    check(V5, "> DISCONNECT 0x04; < close client will");
}

#[test]
fn an_expiry_cannot_be_given_to_a_session_that_asked_for_none() {
    check(V5, "> DISCONNECT expiry=1; < close 0x82");
    check(V5, "> DISCONNECT expiry=0; < close client");
    check(V5.durable(), "= expiry 3600; > DISCONNECT expiry=1; < close client; = expiry 1");
    check(V5.durable(), "> DISCONNECT; < close client; = expiry 3600");
    check(V5.durable(), "> DISCONNECT expiry=0; < close client; = expiry 0");
    check(V5.durable(), "> DISCONNECT expiry=4294967295; < close client; = expiry 7200");
}

#[test]
fn mqtt_3_1_0_2_a_second_connect_ends_the_connection() {
    check(V5, "> CONNECT; < close 0x82; > PINGREQ; < nothing");
    check(V311, "> CONNECT; < close 0x82");
}

#[test]
fn packets_that_only_a_server_sends_end_the_connection() {
    for packet in ["CONNACK", "SUBACK 1", "UNSUBACK 1", "PINGRESP"] {
        check(V5, &format!("> {packet}; < close 0x82; > PINGREQ; < nothing"));
    }
}

#[test]
fn mqtt_4_12_0_7_auth_without_an_authentication_method_ends_the_connection() {
    check(V5, "> AUTH; < close 0x82");
}

/// [MQTT-2.2.1-6], [MQTT-3.8.4-1, -2], [MQTT-3.8.4-6], [MQTT-3.9.3-1], [MQTT-3.10.4-4, -5], [MQTT-3.11.3-1]
#[test]
fn subscriptions_are_carried_out_by_the_caller_and_answered_with_its_reasons() {
    check(
        V5,
        "> SUBSCRIBE 3 a/#:q1 b:q0 c#:q2; < subscribe 3 a/#:q1 b:q0 c#:q2; subscribed 3 0x01 0x00 0x8f; < SUBACK 3 0x01 0x00 0x8f;
         > UNSUBSCRIBE 4 a/# x#; < unsubscribe 4 a/# x#; unsubscribed 4 0x00 0x8f; < UNSUBACK 4 0x00 0x8f",
    );
}

/// [MQTT-3.3.4-10], [MQTT-3.12.4-1], [MQTT-4.9.0-3]
#[test]
fn what_is_no_message_of_ours_is_answered_when_the_window_is_full() {
    for given in [V5.window(1), V311.window(1), V5.window(1).durable()] {
        check(
            given,
            "deliver q1 1; < send q1 1 #1; = room 0; > PINGREQ; < PINGRESP; > SUBSCRIBE 1 a:q1; < subscribe 1 a:q1;
             subscribed 1 0x01; < SUBACK 1 0x01; > UNSUBSCRIBE 2 a; < unsubscribe 2 a; unsubscribed 2 0x00; < UNSUBACK 2 0x00;
             > PUBLISH q1 id9; < store 0; stored 0 ok; < PUBACK 9; = room 0",
        );
    }
}

#[test]
fn a_bridge_subscribes_without_its_own_messages_and_keeps_the_retain_flag() {
    check(V311.bridge(), "> SUBSCRIBE 1 a:q1 b:q2; < subscribe 1 a:q1:nl:rap b:q2:nl:rap");
}

/// [MQTT 5, 3.2.2.3.4, 3.2.2.3.5]
#[test]
fn a_publish_above_what_connack_has_said_ends_the_connection() {
    let at_least_once = V5.max_qos(QoS::AtLeastOnce);
    check(at_least_once.clone(), "> PUBLISH q2 id1 topic=a; < close 0x9b");
    check(at_least_once, "> PUBLISH q1 id1 topic=a; < store 0 q1 a");
    check(V5.max_qos(QoS::AtMostOnce), "> PUBLISH q1 id1 topic=a; < close 0x9b");
    check(V5.without_retain(), "> PUBLISH q0 topic=a retain; < close 0x9a");
    check(V5.without_retain(), "> PUBLISH q0 topic=a; < store - q0 a");
}
