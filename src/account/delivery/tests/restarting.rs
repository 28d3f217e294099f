//! A log that is made anew, or has lost its end: nobody waits for a sequence that it had.

use mqtt_codec::QoS;
use mqtt_ownership::Epoch;
use mqtt_session::Sequence;

use crate::account::played::{LOG, World, until};

#[tokio::test]
async fn when_the_log_is_made_anew_whoever_reads_it_goes_on_with_what_it_has_now() {
    let world = World::start().await;
    let (mut live, mut slow) = (world.client("live"), world.slow_client("slow", 4));
    let mut publisher = world.client("p");
    publisher.control.completions().set_epoch(Epoch(9));
    for number in 0..20 {
        publisher.publish("before", QoS::AtLeastOnce, false, &number.to_string());
    }
    publisher.settle().await;
    // What is there from then on is behind what the log had.
    for client in [&mut live, &mut slow] {
        client.subscribe(&["a/#"], QoS::AtLeastOnce).await;
    }
    for number in 0..10 {
        publisher.publish("a/b", QoS::AtLeastOnce, false, &number.to_string());
    }
    publisher.settle().await;
    live.receives(10).await;
    world.server.delete_stream(LOG);
    world.server.sever("-tail");
    let is_told = || live.control.inbox().restarts_at(0);
    assert_eq!(until("it is told", is_told).await, Sequence(1));
    assert_eq!(world.account.tail_sequence(), Sequence(0));
    assert!(live.stored().is_empty(), "its session is to know first");
    for client in [&live, &slow] {
        let restarts = client.control.inbox().take_restarts();
        assert_eq!(restarts.iter().map(|restart| (restart.log, restart.next.0)).collect::<Vec<_>>(), [(0, 1)]);
    }
    // Whose epochs the log had is forgotten with it: nothing of what it has now is late for that.
    let mut again = world.client("p");
    again.control.completions().set_epoch(Epoch(5));
    for payload in ["new", "newer"] {
        again.publish("a/b", QoS::AtLeastOnce, false, payload);
    }
    again.settle().await;
    assert_eq!(live.receives(2).await, ["new", "newer"], "its gate is lowered");
    let of_slow = slow.receives(6).await;
    assert_eq!(of_slow[..4], ["0", "1", "2", "3"], "what it has read already");
    assert_eq!(of_slow[4..], ["new", "newer"]);
}
