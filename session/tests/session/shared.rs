//! Messages that the group of a shared subscription gave to the session.

use crate::script::{V5, V311, check};

#[test]
fn an_acknowledged_message_of_a_group_is_settled() {
    for given in [V5, V311, V5.durable()] {
        check(
            given,
            "deliver q1 s5; < send q1 1 #s5; deliver q1 6; < send q1 2 #6; > PUBACK 1; < settled 1; > PUBACK 2; < nothing;
             = cursor 6; > PUBACK 1; < nothing; = unknown 1",
        );
    }
}

/// [MQTT-4.8.2-6]
#[test]
fn what_a_member_refuses_with_an_error_is_settled() {
    check(
        V5.durable(),
        "deliver q1 s5; < send q1 1 #s5; deliver q2 s6; saved; < send q2 2 #s6; > PUBACK 1 0x97; < settled 1; > PUBREC 2 0x97;
         = in_flight; saved; leave; reconnect; resend; < nothing",
    );
}

#[test]
fn what_a_group_gives_takes_its_place_in_the_window_and_moves_no_cursor() {
    check(
        V5.window(2),
        "deliver q1 s50; < send q1 1 #s50; deliver q2 s51; < send q2 2 #s51; = room 0; = cursor 0; deliver q1 1; < nothing;
         > PUBACK 1; < settled 1; = room 1; > PUBREC 2 0x80; = room 2",
    );
}

#[test]
fn at_qos_1_nothing_is_saved_and_nothing_is_repeated() {
    check(
        V5.durable(),
        "deliver q1 s5; < send q1 1 #s5; = save no; = in_flight; deliver q1 6; < send q1 2 #6; = in_flight 2:q1:#6:sent; saved;
         leave; reconnect; resend; < DUP q1 2 #6; > PUBACK 1; < nothing; = unknown 1",
    );
}

#[test]
fn mqtt_4_8_2_4_what_was_sent_at_qos_2_is_finished_with_the_same_member() {
    for given in [V5.durable(), V311.durable()] {
        for end in ["leave; reconnect", "crash"] {
            let script = "deliver q2 s5; < nothing; saved; < send q2 1 #s5; deliver q2 s6; saved; < send q2 2 #s6; > PUBREC 2;
                 < nothing; saved; < PUBREL 2; END; = in_flight 1:q2:#s5:sent 2:q2:#s6:released; resend; < DUP q2 1 #s5;
                 < PUBREL 2; > PUBREC 1; saved; < PUBREL 1; > PUBCOMP 1; > PUBCOMP 2; < nothing; = in_flight; = cursor 0";
            check(given.clone(), &script.replace("END", end));
        }
    }
}

#[test]
fn what_was_not_sent_yet_is_given_back() {
    check(
        V5.durable(),
        "deliver q2 s5; saved; < send q2 1 #s5; deliver q2 s6; deliver q2 7; < nothing; leave;
         = in_flight 1:q2:#s5:sent 3:q2:#7:sent; reconnect; resend; < DUP q2 1 #s5; < DUP q2 3 #7",
    );
}
