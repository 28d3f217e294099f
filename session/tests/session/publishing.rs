//! What the client publishes: acknowledgements, their order, QoS 2 from the receiver's side, receive maximum.

use crate::script::{V5, V311, check};

#[test]
fn qos_0_is_published_and_nobody_waits() {
    check(V5, "> PUBLISH q0; < store - q0 t; = save no");
    check(V5, "> PUBLISH q0 retain topic=a/b; < store - q0 a/b retain");
    check(V5.durable(), "> PUBLISH q0; < store - q0 t; = save no");
}

/// [MQTT-2.2.1-5], [MQTT-3.3.4-1], [MQTT-4.3.2-4]
#[test]
fn mqtt_4_6_0_2_pubacks_leave_in_the_order_of_arrival() {
    for given in [V5, V311, V5.durable(), V311.durable()] {
        check(
            given,
            "> PUBLISH q1 id5; < store 0 q1; > PUBLISH q1 id4; < store 1 q1; > PUBLISH q1 id3; < store 2;
             stored 2 ok; < nothing; stored 1 ok; < nothing; stored 0 ok; < PUBACK 5; < PUBACK 4; < PUBACK 3",
        );
    }
}

/// [MQTT-2.2.1-5], [MQTT-3.3.4-1], [MQTT-4.3.3-8]
#[test]
fn mqtt_4_6_0_3_pubrecs_leave_in_the_order_of_arrival() {
    check(
        V311,
        "> PUBLISH q2 id1; < store 0 q2 t 7.0; > PUBLISH q1 id2; < store 1; > PUBLISH q2 id3; < store 2 q2 t 7.1;
         stored 1 ok; < nothing; stored 0 ok; < PUBREC 1; < PUBACK 2; stored 2 ok; < PUBREC 3",
    );
}

/// [MQTT-4.3.2-5]
#[test]
fn behind_its_puback_a_packet_id_is_that_of_a_new_message_whatever_dup_says() {
    for given in [V5, V311, V5.durable()] {
        check(
            given,
            "> PUBLISH q1 id1; < store 0 q1; stored 0 ok; < PUBACK 1; > PUBLISH q1 id1 dup; < store 1 q1; stored 1 ok; < PUBACK 1;
             > PUBLISH q1 id1; < store 2 q1",
        );
    }
}

#[test]
fn a_completion_that_nobody_waits_for_is_ignored() {
    check(
        V5,
        "stored 0 ok; stored 99 0x97; > PUBLISH q1 id1; < store 0; stored 1 ok; stored 0 ok; < PUBACK 1; stored 0 ok",
    );
}

#[test]
fn a_reason_that_is_no_error_is_passed_on() {
    check(V5, "> PUBLISH q1 id1; < store 0; stored 0 ok 0x10; < PUBACK 1 0x10");
    check(V5, "> PUBLISH q2 id1; < store 0; stored 0 ok 0x10; < PUBREC 1 0x10; > PUBREL 1; < PUBCOMP 1");
}

#[test]
fn a_failure_is_said_in_5_and_the_connection_goes_on() {
    check(
        V5,
        "> PUBLISH q1 id1; < store 0; > PUBLISH q1 id2; < store 1; stored 0 0x97; < PUBACK 1 0x97; stored 1 ok; < PUBACK 2",
    );
    check(V5, "> PUBLISH q2 id1; < store 0 q2 t 7.0; stored 0 0x97; < PUBREC 1 0x97; > PUBREL 1; < PUBCOMP 1 0x92");
}

#[test]
fn mqtt_4_3_3_9_after_a_pubrec_with_an_error_the_packet_id_is_free() {
    check(
        V5,
        "> PUBLISH q2 id1; < store 0 q2 t 7.0; stored 0 0x87; < PUBREC 1 0x87; = received;
         > PUBLISH q2 id1; < store 1 q2 t 7.1; stored 1 ok; < PUBREC 1",
    );
}

/// [MQTT-4.8.0-2 of 3.1.1]
#[test]
fn a_failure_in_3x_ends_the_connection_in_its_turn() {
    for qos in ["q1", "q2"] {
        check(
            V311,
            &format!(
                "> PUBLISH {qos} id2; < store 0; > PUBLISH q1 id3; < store 1; > PUBLISH q1 id4; < store 2;
                 stored 1 0x97; < nothing; stored 2 ok; < nothing; stored 0 ok; < {} 2; < close 0x97;
                 > PUBLISH q1 id5; < nothing; stored 2 ok; < nothing",
                if qos == "q1" { "PUBACK" } else { "PUBREC" },
            ),
        );
    }
}

/// [MQTT-4.3.3-11, -12]
#[test]
fn mqtt_4_3_3_10_a_repeated_qos_2_publish_is_stored_once() {
    // While it is being stored; when it is received; and it is a new one after PUBREL.
    check(
        V311,
        "> PUBLISH q2 id1; < store 0 q2 t 7.0; > PUBLISH q2 id1 dup; < nothing; stored 0 ok; < PUBREC 1;
         > PUBLISH q2 id1 dup; < PUBREC 1; > PUBLISH q2 id1; < PUBREC 1; > PUBREL 1; < PUBCOMP 1;
         > PUBLISH q2 id1 dup; < store 1 q2 t 7.1; stored 1 ok; < PUBREC 1",
    );
}

#[test]
fn what_was_recorded_on_an_older_connection_is_looked_for_before_it_is_stored() {
    check(
        V5.durable(),
        "log 100; > PUBLISH q2 id1; < nothing; saved; < store 0 q2 t 7.0; = received 1:7.0>100; reconnect;
         log 200; = received 1:7.0>100; > PUBLISH q2 id1 dup; < store 0 q2 t 7.0>100; > PUBLISH q2 id1 dup; < nothing;
         stored 0 ok; < PUBREC 1; > PUBLISH q2 id1 dup; < PUBREC 1; = received 1:7.0>100;
         reconnect; > PUBLISH q2 id1 dup; < store 0 q2 t 7.0>100; stored 0 ok; < PUBREC 1;
         > PUBREL 1; saved; < PUBCOMP 1; = received; > PUBLISH q2 id1; saved; < store 1 q2 t 9.0",
    );
}

#[test]
fn a_pubrel_releases_what_was_recorded_on_an_older_connection() {
    check(
        V5.durable(),
        "> PUBLISH q2 id1; saved; < store 0; stored 0 ok; < PUBREC 1; reconnect; > PUBREL 1; < nothing; saved; < PUBCOMP 1;
         = received; > PUBREL 1; < PUBCOMP 1 0x92",
    );
}

#[test]
fn a_pubrel_for_an_unknown_packet_id_is_answered() {
    for given in [V5, V311, V5.durable()] {
        check(given, "> PUBREL 9; < PUBCOMP 9 0x92; = save no");
    }
}

#[test]
fn qos_1_and_qos_2_packet_ids_are_told_apart() {
    check(
        V5,
        "> PUBLISH q2 id1; < store 0 q2; stored 0 ok; < PUBREC 1; > PUBLISH q1 id1; < store 1 q1; stored 1 ok; < PUBACK 1;
         > PUBREL 1; < PUBCOMP 1",
    );
}

#[test]
fn a_lenient_session_stops_reading_at_the_receive_maximum_and_goes_on() {
    check(
        V5.receive_maximum(2),
        "= takes yes; > PUBLISH q1 id1; < store 0; = takes yes; > PUBLISH q2 id2; < store 1; = takes no;
         > PUBLISH q1 id3; < store 2; = takes no; stored 0 ok; < PUBACK 1; = takes no; stored 1 ok; < PUBREC 2; = takes yes",
    );
    // A publish that waits until it is recorded counts as well.
    check(
        V5.durable().receive_maximum(1),
        "> PUBLISH q2 id1; = takes no; saved; < store 0; = takes no; stored 0 ok; < PUBREC 1; = takes yes",
    );
}

#[test]
fn mqtt_3_3_4_7_a_strict_session_ends_beyond_the_receive_maximum() {
    check(V5.receive_maximum(1).strict(), "> PUBLISH q1 id1; < store 0; > PUBLISH q1 id2; < close 0x93");
    check(
        V5.receive_maximum(1).strict(),
        "> PUBLISH q1 id1; < store 0; stored 0 ok; < PUBACK 1; > PUBLISH q1 id2; < store 1",
    );
    // QoS 2 counts until PUBREL is answered; repetitions and QoS 0 do not count.
    check(
        V5.receive_maximum(1).strict(),
        "> PUBLISH q2 id1; < store 0; > PUBLISH q2 id1 dup; > PUBLISH q0; < store -; stored 0 ok; < PUBREC 1;
         > PUBLISH q2 id1 dup; < PUBREC 1; > PUBREL 1; < PUBCOMP 1; > PUBLISH q2 id2; < store 1; stored 1 ok; < PUBREC 2;
         > PUBLISH q1 id3; < close 0x93",
    );
    // A failed one does not count any more.
    check(
        V5.receive_maximum(1).strict(),
        "> PUBLISH q2 id1; < store 0; stored 0 0x97; < PUBREC 1 0x97; > PUBLISH q1 id2; < store 1",
    );
}

#[test]
fn a_strict_session_counts_repetitions_of_an_older_connection_once() {
    check(
        V5.durable().receive_maximum(1).strict(),
        "> PUBLISH q2 id1; saved; < store 0; reconnect; > PUBLISH q2 id1 dup; < store 0; stored 0 ok; < PUBREC 1;
         > PUBLISH q1 id2; < close 0x93",
    );
}

#[test]
fn what_an_older_connection_left_does_not_count_towards_the_receive_maximum() {
    check(
        V5.durable().receive_maximum(1).strict(),
        "> PUBLISH q2 id1; saved; < store 0; stored 0 ok; < PUBREC 1; reconnect; > PUBLISH q1 id2; < store 0 q1; stored 0 ok; < PUBACK 2;
         > PUBREL 1; saved; < PUBCOMP 1; > PUBLISH q2 id3; saved; < store 1; > PUBLISH q1 id2; < close 0x93",
    );
}

#[test]
fn when_nobody_knows_whether_it_is_stored_the_connection_ends_and_the_repetition_is_looked_for() {
    for (given, reason) in [(V5.durable(), "0x89"), (V311.durable(), "0x97")] {
        check(
            given,
            &format!(
                "log 5; > PUBLISH q2 id1; saved; < store 0 q2 t 7.0; stored 0 {reason}; < close {reason}; = received 1:7.0>5;
                 reconnect; > PUBLISH q2 id1 dup; < store 0 q2 t 7.0>5; stored 0 ok; < PUBREC 1"
            ),
        );
    }
    check(V5, "> PUBLISH q1 id1; < store 0; stored 0 0x89; < close 0x89");
}
