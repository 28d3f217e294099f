//! What the client is sent: the window, packet ids, QoS 2 from the sender's side, repetition on the next connection.

use mqtt_session::{Position, Sequence};

use crate::script::{V5, V311, check};

/// [MQTT-3.3.1-1], [MQTT-4.3.2-2], [MQTT-4.3.3-2], [MQTT-4.3.3-4]
#[test]
fn qos_1_ends_with_puback_and_qos_2_with_pubcomp() {
    check(V5.window(2), "deliver q1 10; < send q1 1 #10; = room 1; > PUBACK 1; = room 2; = in_flight; = cursor 10");
    check(
        V311.window(2),
        "deliver q2 10; < send q2 1 #10; = room 1; > PUBREC 1; < PUBREL 1; = room 1; = in_flight 1:q2:#10:released;
         > PUBCOMP 1; = room 2; = in_flight",
    );
}

/// [MQTT-3.3.4-9], [MQTT-4.9.0-2]
#[test]
fn the_window_is_as_wide_as_agreed() {
    check(
        V5.window(3),
        "= room 3; deliver q1 1; < send q1 1 #1; deliver q1 2; < send q1 2 #2; deliver q2 3; < send q2 3 #3; = room 0;
         deliver q1 4; < nothing; > PUBACK 2; = room 1; deliver q1 4; < send q1 4 #4; = room 0",
    );
}

/// [MQTT-4.4.0-2]
#[test]
fn what_is_acknowledged_with_an_error_is_over_all_the_same() {
    check(
        V5.durable(),
        "deliver q1 1; < send q1 1 #1; deliver q2 2; saved; < send q2 2 #2; > PUBACK 1 0x97; > PUBREC 2 0x97; = in_flight;
         = unknown 0; reconnect; resend; < nothing",
    );
}

/// [MQTT-3.10.4-3]
#[test]
fn what_was_begun_is_finished_after_unsubscribe() {
    check(
        V5.durable(),
        "deliver q1 1; < send q1 1 #1; deliver q2 2; saved; < send q2 2 #2; > UNSUBSCRIBE 9 a; < unsubscribe 9 a;
         unsubscribed 9 0x00; < UNSUBACK 9 0x00; > PUBREC 2; saved; < PUBREL 2; reconnect; resend; < DUP q1 1 #1; < PUBREL 2;
         > PUBACK 1; > PUBCOMP 2; = in_flight; = unknown 0",
    );
}

/// [MQTT-4.6.0-4]
#[test]
fn pubrels_leave_in_the_order_of_the_pubrecs() {
    let three = "deliver q2 1; saved; < send q2 1 #1; deliver q2 2; saved; < send q2 2 #2; deliver q2 3; saved; < send q2 3 #3;";
    for given in [V5.durable(), V311.durable()] {
        check(
            given,
            &format!(
                "{three} > PUBREC 2; > PUBREC 3; > PUBREC 1; < nothing; saved; < PUBREL 2; < PUBREL 3; < PUBREL 1"
            ),
        );
    }
}

#[test]
fn mqtt_4_3_3_4_a_pubrec_with_an_error_ends_the_delivery() {
    check(
        V5,
        "deliver q2 1; < send q2 1 #1; > PUBREC 1 0x97; < nothing; = in_flight; = room 100; > PUBCOMP 1; = unknown 1",
    );
}

#[test]
fn a_repeated_pubrec_is_answered_by_another_pubrel() {
    check(V5, "deliver q2 1; < send q2 1 #1; > PUBREC 1; < PUBREL 1; > PUBREC 1; < PUBREL 1; > PUBCOMP 1; = in_flight");
}

#[test]
fn acknowledgements_of_what_is_not_in_flight_are_counted_and_do_no_harm() {
    check(V5, "> PUBACK 1; > PUBCOMP 2; > PUBREC 3; < PUBREL 3 0x92; > PUBREC 4 0x97; = unknown 4; = room 100");
    check(V311, "> PUBREC 3; < PUBREL 3; > PUBCOMP 3; = unknown 2");
    // Nor are those of the other QoS, or those that come too early.
    check(
        V5,
        "deliver q1 1; < send q1 1 #1; deliver q2 2; < send q2 2 #2; > PUBREC 1; < PUBREL 1 0x92; > PUBCOMP 1; > PUBACK 2;
         > PUBCOMP 2; = unknown 4; = in_flight 1:q1:#1:sent 2:q2:#2:sent; > PUBREC 2; < PUBREL 2; > PUBACK 2; = unknown 5; > PUBCOMP 2;
         > PUBACK 1; = in_flight; = room 100",
    );
}

/// Takes packet ids up to and with `last`, acknowledging each but those in `kept`.
fn take_ids(from: u16, last: u16, kept: &[u16]) -> String {
    let one = |id: u16| {
        let sent = format!("deliver q1 {id}; < send q1 {id} #{id};");
        if kept.contains(&id) { sent } else { format!("{sent} > PUBACK {id};") }
    };
    (from..=last).map(one).collect()
}

/// [MQTT-2.2.1-4], [MQTT-4.3.2-1], [MQTT-4.3.3-1]
#[test]
fn packet_ids_wrap_and_skip_those_in_flight() {
    let round = take_ids(1, 65535, &[1, 2, 4, 65534]);
    check(
        V5,
        &format!(
            "{round} deliver q1 70000; < send q1 3 #70000; deliver q1 70001; < send q1 5 #70001; > PUBACK 4;
             deliver q1 70002; < send q1 6 #70002;
             = in_flight 1:q1:#1:sent 2:q1:#2:sent 65534:q1:#65534:sent 3:q1:#70000:sent 5:q1:#70001:sent 6:q1:#70002:sent"
        ),
    );
}

#[test]
fn a_window_of_all_packet_ids_uses_all_of_them() {
    let all: String = (1..=65535).map(|id| format!("deliver q1 {id}; < send q1 {id} #{id};")).collect();
    check(
        V5.window(65535),
        &format!("{all} = room 0; deliver q1 1; < nothing; > PUBACK 77; = room 1; deliver q1 2; < send q1 77 #2"),
    );
}

/// [MQTT-4.3.2-3], [MQTT-4.3.3-3], [MQTT-4.3.3-5, -6], [MQTT-4.6.0-1]
#[test]
fn mqtt_4_4_0_1_the_next_connection_repeats_in_order_before_anything_new() {
    check(
        V5.durable(),
        "deliver q1 10; < send q1 1 #10; deliver q2 11; saved; < send q2 2 #11; deliver q1 12; < send q1 3 #12;
         deliver q2 13; saved; < send q2 4 #13; > PUBREC 2; saved; < PUBREL 2; > PUBACK 1; reconnect;
         = room 0; deliver q1 14; < nothing; resend; < PUBREL 2; < DUP q1 3 #12; < DUP q2 4 #13; = room 97;
         resend; < nothing; deliver q1 14; < send q1 5 #14; = cursor 14",
    );
}

#[test]
fn what_is_in_flight_may_be_more_than_the_window_of_the_next_connection() {
    let sent = "deliver q1 1; < send q1 1 #1; deliver q1 2; < send q1 2 #2; deliver q1 3; < send q1 3 #3; deliver q1 4; < send q1 4 #4;";
    check(
        V5.durable().window(4),
        &format!(
            "{sent} = room 0; reconnect; resend; < DUP q1 1 #1; < DUP q1 2 #2; < DUP q1 3 #3; < DUP q1 4 #4; = room 0"
        ),
    );
}

#[test]
fn an_acknowledgement_makes_room_for_the_next_repetition() {
    crate::script::check_windows(
        V5.durable(),
        &[3, 1],
        "deliver q1 1; < send q1 1 #1; deliver q2 2; saved; < send q2 2 #2; deliver q1 3; < send q1 3 #3; = room 0; reconnect;
         = room 0; resend; < DUP q1 1 #1; resend; < nothing; > PUBACK 1; = room 0; resend; < DUP q2 2 #2; > PUBREC 2; saved; < PUBREL 2;
         resend; < nothing; > PUBCOMP 2; = room 0; resend; < DUP q1 3 #3; = room 0; > PUBACK 3; = room 1;
         deliver q1 4; < send q1 4 #4; = room 0",
    );
}

#[test]
fn what_is_acknowledged_before_it_is_repeated_is_not_repeated() {
    check(
        V5.durable(),
        "deliver q1 1; < send q1 1 #1; deliver q1 2; < send q1 2 #2; reconnect; > PUBACK 1; = in_flight 2:q1:#2:sent;
         resend; < DUP q1 2 #2; = room 99",
    );
}

#[test]
fn a_lost_qos_1_message_is_forgotten() {
    check(
        V5.durable().window(1),
        "deliver q1 1; < send q1 1 #1; reconnect; resend; < DUP q1 1 #1; unsendable 1; = in_flight; = room 1;
         unsendable 1; = room 1",
    );
}

#[test]
fn a_lost_qos_2_message_gives_its_packet_id_back() {
    // The client may have got it: without PUBREL it would take the next message with this packet id for a repetition.
    check(
        V5.durable().window(1),
        "deliver q2 1; saved; < send q2 1 #1; reconnect; resend; < DUP q2 1 #1; unsendable 1; = room 0;
         = in_flight 1:q2:#1:released; unsendable 1; = in_flight 1:q2:#1:released; = save now; saved; < PUBREL 1; = room 0;
         resend; < nothing; > PUBCOMP 1; = in_flight; = room 1; = unknown 0",
    );
}

#[test]
fn a_qos_2_message_that_is_passed_over_does_not_come_again_behind_its_pubrel() {
    // It is too large for this connection and not for the next one, which does not know of the PUBREL.
    check(
        V5.durable(),
        "deliver q2 1; saved; < send q2 1 #1; reconnect; resend; < DUP q2 1 #1; unsendable 1; < nothing; crash; resend;
         < DUP q2 1 #1; unsendable 1; saved; < PUBREL 1; crash; resend; < PUBREL 1",
    );
}

#[test]
fn packet_ids_go_on_after_those_of_the_last_connection() {
    check(
        V5.durable(),
        "deliver q1 1; < send q1 1 #1; > PUBACK 1; deliver q1 2; < send q1 2 #2; reconnect; resend; < DUP q1 2 #2;
         deliver q1 3; < send q1 3 #3; > PUBACK 2; > PUBACK 3; reconnect; deliver q1 4; < send q1 1 #4",
    );
}

#[test]
fn the_cursor_is_what_was_read_and_never_goes_back() {
    check(V5, "read 7; = cursor 7; read 5; = cursor 7; deliver q1 9; < send q1 1 #9; = cursor 9; read 8; = cursor 9");
}

#[test]
fn a_retained_message_is_repeated_like_any_other_and_does_not_move_the_cursor() {
    let retained = Position::of_retained(Sequence(10)).0;
    check(
        V5.durable(),
        &format!(
            "deliver q1 5; < send q1 1 #5; deliver q1 {retained}; < send q1 2 #{retained}; = cursor 5; reconnect; = cursor 5;
             resend; < DUP q1 1 #5; < DUP q1 2 #{retained}"
        ),
    );
}
