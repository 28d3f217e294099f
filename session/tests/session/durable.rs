//! What a session that outlives its connection saves, and what waits until it is saved.

use crate::script::{V5, V311, check, check_windows};

#[test]
fn a_session_that_ends_with_its_connection_waits_for_nothing() {
    check(
        V5,
        "> PUBLISH q2 id1; < store 0 q2 t 7.0; stored 0 ok; < PUBREC 1; > PUBREL 1; < PUBCOMP 1;
         deliver q2 5; < send q2 1 #5; > PUBREC 1; < PUBREL 1; > PUBCOMP 1; deliver q1 6; < send q1 2 #6; = save no; = unsaved 0",
    );
}

#[test]
fn that_it_was_received_is_saved_before_it_is_stored() {
    for given in [V5.durable(), V311.durable()] {
        check(
            given,
            "> PUBLISH q2 id1; < nothing; = save now; = received 1:7.0>0; save; < nothing; saved; < store 0 q2 t 7.0; = save no;
             stored 0 ok; < PUBREC 1; = save no; > PUBREL 1; < nothing; = save now; = received; saved; < PUBCOMP 1; = save no",
        );
    }
}

#[test]
fn qos_1_publishes_wait_for_nothing() {
    check(
        V5.durable(),
        "> PUBLISH q2 id1; > PUBLISH q1 id2 topic=u; < store 1 q1; stored 1 ok; < nothing; saved; < store 0; stored 0 ok; < PUBREC 1; < PUBACK 2",
    );
}

#[test]
fn mqtt_4_6_0_6_what_is_published_on_a_topic_waits_behind_qos_2_there() {
    for given in [V5.durable(), V311.durable()] {
        check(
            given,
            "> PUBLISH q2 id1 retain; > PUBLISH q1 id2 retain; > PUBLISH q0 retain; > PUBLISH q0 topic=u; < store - q0 u; < nothing;
             saved; < store 0 q2 t; < store 1 q1 t; < store - q0 t; > PUBLISH q0; < store - q0 t",
        );
    }
}

#[test]
fn what_is_repeated_at_qos_2_does_not_overtake_what_waits_on_its_topic() {
    check(
        V5.durable(),
        "> PUBLISH q2 id1; saved; < store 0 q2 t 7.0; reconnect; > PUBLISH q2 id2; > PUBLISH q2 id1 dup; < nothing;
         saved; < store 0 q2 t 8.0; < store 1 q2 t 7.0>0",
    );
}

#[test]
fn what_waits_behind_qos_2_is_limited_at_qos_0_too() {
    check(
        V5.durable().receive_maximum(3),
        "> PUBLISH q2 id1; > PUBLISH q0; = takes yes; > PUBLISH q0; = takes no; saved; < store 0; < store; < store; = takes yes",
    );
}

#[test]
fn answers_that_wait_to_be_saved_are_limited_by_the_packet_ids_that_can_be_in_use() {
    check_windows(
        V5.durable().receive_maximum(1).window(2),
        &[2],
        "> PUBLISH q2 id1; saved; < store 0; stored 0 ok; < PUBREC 1; > PUBREL 1; < nothing; = takes yes; > PUBREL 9;
         > PUBREL 9; = takes yes; > PUBREL 9; = takes no; saved; < PUBCOMP 1; < PUBCOMP 9 0x92;
         < PUBCOMP 9 0x92; < PUBCOMP 9 0x92; = takes yes",
    );
}

#[test]
fn a_save_covers_what_there_was_when_it_began() {
    check(
        V5.durable(),
        "> PUBLISH q2 id1; save; > PUBLISH q2 id2; < nothing; saved; < store 0 q2 t 7.0; = save now; = unsaved 1;
         saved; < store 1 q2 t 7.1; = save no",
    );
}

#[test]
fn a_qos_2_packet_id_is_saved_before_the_client_sees_it() {
    check(
        V5.durable(),
        "deliver q2 5; < nothing; = save now; = in_flight 1:q2:#5:sent; saved; < send q2 1 #5; = save no;
         > PUBREC 1; < nothing; = save now; = in_flight 1:q2:#5:released; saved; < PUBREL 1; = save no;
         > PUBCOMP 1; = save lazily; = in_flight; saved; = save no",
    );
}

#[test]
fn qos_1_is_saved_when_there_is_time() {
    check(
        V5.durable(),
        "deliver q1 5; < send q1 1 #5; = save lazily; = unsaved 1; > PUBACK 1; = unsaved 2; saved; = unsaved 0; = save no",
    );
}

#[test]
fn what_is_saved_is_let_go_in_order() {
    check(
        V5.durable(),
        "deliver q2 5; > PUBLISH q2 id1; deliver q2 6; deliver q1 7; < send q1 3 #7; = save now;
         saved; < send q2 1 #5; < store 0; < send q2 2 #6",
    );
}

#[test]
fn a_pubrec_that_is_repeated_while_its_pubrel_waits_lets_nothing_out_early() {
    check(
        V5.durable(),
        "deliver q2 5; saved; < send q2 1 #5; > PUBREC 1; > PUBREC 1; < nothing; saved; < PUBREL 1; < PUBREL 1; > PUBREC 1; < PUBREL 1",
    );
}

#[test]
fn after_a_crash_a_qos_2_message_keeps_its_packet_id() {
    check(
        V5.durable(),
        "deliver q2 5; saved; < send q2 1 #5; > PUBREC 1; < nothing; crash; resend; < DUP q2 1 #5; > PUBREC 1; saved; < PUBREL 1;
         crash; resend; < PUBREL 1; > PUBCOMP 1; = in_flight; crash; resend; < PUBREL 1; > PUBCOMP 1; saved; crash; resend; < nothing",
    );
}

#[test]
fn after_a_crash_what_was_not_saved_is_read_again() {
    check(
        V5.durable(),
        "deliver q1 5; < send q1 1 #5; saved; deliver q1 6; < send q1 2 #6; = cursor 6; crash; = cursor 5; resend; < DUP q1 1 #5;
         deliver q1 6; < send q1 2 #6",
    );
}

#[test]
fn a_crash_before_a_publish_was_recorded_leaves_nothing_of_it() {
    check(
        V5.durable(),
        "> PUBLISH q2 id1; < nothing; crash; = received; > PUBLISH q2 id1 dup; saved; < store 0 q2 t 8.0",
    );
}

#[test]
fn a_crash_before_a_release_was_saved_leaves_the_publish_received() {
    check(
        V5.durable(),
        "> PUBLISH q2 id1; saved; < store 0; stored 0 ok; < PUBREC 1; > PUBREL 1; < nothing; crash; > PUBREL 1; saved; < PUBCOMP 1",
    );
}

#[test]
fn a_pubrel_that_is_repeated_while_its_pubcomp_waits_lets_nothing_out_early() {
    // Devices of 3.1 repeat PUBREL on a timer. Were the second one answered at once, a crash would leave the packet id
    // recorded, and the next message with it would be taken for a repetition.
    check(
        V311.durable(),
        "> PUBLISH q2 id1; saved; < store 0; stored 0 ok; < PUBREC 1; > PUBREL 1; > PUBREL 1; < nothing;
         saved; < PUBCOMP 1; < PUBCOMP 1 0x92; > PUBREL 1; < PUBCOMP 1 0x92",
    );
}

#[test]
fn progress_keeps_the_order_of_sending_and_of_arrival() {
    check(
        V5.durable(),
        "log 3; > PUBLISH q2 id9; log 4; > PUBLISH q2 id2; deliver q2 5; deliver q2 6; = received 9:7.0>3 2:7.1>4;
         = in_flight 1:q2:#5:sent 2:q2:#6:sent; saved; < store 0; < store 1; < send q2 1 #5; < send q2 2 #6;
         > PUBREC 2; > PUBREC 1; = in_flight 1:q2:#5:released 2:q2:#6:released; saved; < PUBREL 2; < PUBREL 1;
         reconnect; resend; < PUBREL 1; < PUBREL 2; = received 9:7.0>3 2:7.1>4",
    );
}

#[test]
fn nothing_that_waits_leaves_after_the_end() {
    check(
        V5.durable(),
        "> PUBLISH q2 id1; deliver q2 5; > DISCONNECT; < close client; saved; < nothing; = received 1:7.0>0; = in_flight 1:q2:#5:sent",
    );
}

#[test]
fn what_was_not_published_is_new_when_it_is_repeated() {
    // It waited to be recorded when the connection ended, in spite of which the record may have arrived.
    check(
        V5.durable(),
        "> PUBLISH q2 id1; < nothing; = received 1:7.0>0; leave; = received; reconnect; > PUBLISH q2 id1 dup; saved;
         < store 0 q2 t 8.0",
    );
    // The caller says so.
    check(
        V311.durable(),
        "> PUBLISH q2 id1; saved; < store 0 q2 t 7.0; unpublished 0; = received; stored 0 0x87; < close 0x87; reconnect;
         > PUBLISH q2 id1 dup; saved; < store 0 q2 t 8.0",
    );
    // One that is with the store stays recorded.
    check(V5.durable(), "> PUBLISH q2 id1; saved; < store 0; leave; = received 1:7.0>0");
}

#[test]
fn what_waits_behind_qos_2_and_is_not_repeated_is_published_when_the_connection_ends() {
    check(
        V5.durable(),
        "> PUBLISH q2 id1; > PUBLISH q0; > PUBLISH q1 id2; > PUBLISH q2 id3 topic=b; > PUBLISH q0 topic=b;
         leave; < store - q0 t; < store 1 q1 t; < store - q0 b; = received",
    );
    // Saved in time, nothing has waited.
    check(V5.durable(), "> PUBLISH q2 id1; > PUBLISH q0; saved; < store 0 q2 t; < store - q0 t; leave; < nothing");
}

#[test]
fn what_an_earlier_connection_has_received_is_looked_for_also_when_this_one_ends_before_that() {
    check(
        V5.durable(),
        "log 100; > PUBLISH q2 id1; saved; < store 0 q2 t 7.0; crash;
         > PUBLISH q2 id2; > PUBLISH q2 id1 dup; leave; = received 1:7.0>100; reconnect;
         > PUBLISH q2 id1 dup; < store 0 q2 t 7.0>100",
    );
}

#[test]
fn a_log_that_is_made_anew_takes_the_places_of_what_it_had_with_it() {
    check(
        V5.durable(),
        "log 100; > PUBLISH q2 id1; saved; < store 0 q2 t 7.0; deliver q1 90; < send q1 1 #90; = cursor 90;
         restart 1; = cursor 0; = in_flight 1:q1:#gone:sent; = received 1:7.0>0; = save lazily;
         deliver q1 1; < send q1 2 #1; = cursor 1; log 3; > PUBLISH q2 id2; saved; < store 1 q2 t 7.1;
         = received 1:7.0>0 2:7.1>3",
    );
    // It has lost its end only.
    check(
        V5.durable(),
        "deliver q1 40; < send q1 1 #40; deliver q1 90; < send q1 2 #90; restart 51; = cursor 50; = in_flight 1:q1:#40:sent 2:q1:#gone:sent",
    );
}
