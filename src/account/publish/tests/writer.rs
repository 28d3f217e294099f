//! Who else writes the key of a retained message, and what becomes of a put then.

use std::sync::Arc;
use std::time::Duration;

use mqtt_codec::{QoS, ReasonCode, Version};
use mqtt_ownership::Epoch;

use super::{is_for_bucket, logged, payload};
use crate::account::played::PlayedServer;
use crate::account::played::{Fate, RETAINED, World, answers, until};
use crate::account::publish::Publishing;
use crate::account::publish::completions::Completions;
use crate::store::{SessionRecord, StoredWill};

fn retained(server: &PlayedServer) -> Vec<String> {
    server.messages(RETAINED).iter().map(|(_, said)| payload(said)).collect()
}

/// Somebody else writes the key, of whom this sidecar has not heard when it writes: so often.
fn race(server: &PlayedServer, theirs: &'static str, mut times: u32) {
    server.rule(move |said| {
        if !is_for_bucket(said) || times == 0 {
            return Fate::Taken;
        }
        times -= 1;
        Fate::Overtaken(theirs)
    });
}

async fn record(world: &World, epoch: u64, change: impl FnOnce(&mut SessionRecord)) -> SessionRecord {
    let mut record = SessionRecord { client_id: "c".into(), epoch, first_epoch: 1, expiry_s: 60, ..Default::default() };
    change(&mut record);
    let sessions = world.account.store.sessions();
    let expected = sessions.load("c").await.unwrap().sequence;
    sessions.put_record(&record, expected, None).await.unwrap();
    record
}

#[tokio::test]
async fn who_finds_another_message_puts_its_own_behind_it_as_long_as_its_client_is_here() {
    let world = World::start().await;
    record(&world, 5, |_| ()).await;
    let mut client = world.client("c");
    client.control.completions().set_epoch(Epoch(5));
    world.is_beyond_doubt().await;
    for times in [1, 4] {
        race(&world.server, "theirs", times);
        let token = client.publish("a", QoS::AtLeastOnce, true, "ours");
        assert_eq!(answers(&client.settle().await), [(token, ReasonCode::Success)]);
        assert_eq!(retained(&world.server), ["ours"]);
    }
    assert_eq!(logged(&world.server), ["ours", "ours"]);
    // And a deletion, as long as something else is there.
    race(&world.server, "theirs", 1);
    client.publish("a", QoS::AtLeastOnce, true, "");
    client.settle().await;
    assert_eq!(world.server.messages(RETAINED)[0].1.header("KV-Operation"), Some("PURGE"));
}

#[tokio::test]
async fn who_finds_another_message_and_its_client_elsewhere_writes_nothing() {
    let world = World::start().await;
    record(&world, 6, |_| ()).await;
    let mut client = world.client("c");
    client.control.completions().set_epoch(Epoch(5));
    world.is_beyond_doubt().await;
    race(&world.server, "newer", 1);
    let mut at_qos0 = world.client("c");
    at_qos0.control.completions().set_epoch(Epoch(5));
    at_qos0.publish("a", QoS::AtMostOnce, true, "late at QoS 0");
    at_qos0.settle().await;
    assert!(world.server.said("a").is_empty(), "nobody hears of it either");
    assert!(at_qos0.control.completions().has_failed(), "its client is elsewhere");
    race(&world.server, "newest", 1);
    client.publish("a", QoS::AtLeastOnce, true, "late");
    client.publish("a", QoS::AtLeastOnce, true, "later");
    let outcomes = answers(&client.settle().await);
    assert_eq!(outcomes.first(), Some(&(0, ReasonCode::ServerBusy)));
    assert!(outcomes.iter().all(|(_, reason)| *reason == ReasonCode::ServerBusy));
    assert_eq!(retained(&world.server), ["newest"]);
    assert!(logged(&world.server).is_empty());
}

#[tokio::test]
async fn a_will_is_retained_while_the_record_owes_it_and_not_when_it_is_done_with() {
    for (is_owed, expected) in [(true, "will"), (false, "theirs")] {
        let world = World::start().await;
        record(&world, 5, |record| {
            if is_owed {
                record.will = Some(Box::new(StoredWill { topic: "a".into(), ..StoredWill::default() }));
            }
        })
        .await;
        let client = world.client("other");
        world.is_beyond_doubt().await;
        race(&world.server, "theirs", 1);
        let completions = Arc::new(Completions::new(world.account.next_session_id(), "c".into(), Version::V5));
        let mut will = Publishing::of_will(Arc::clone(&world.account), completions, Some("c".into()), Epoch(5));
        let publication = client.publication("a", QoS::AtLeastOnce, true, "will");
        will.publish(mqtt_session::Publication { token: Some(0), ..publication }, &mut Default::default()).unwrap();
        let outcomes = answers(&will.settle().await.unwrap());
        let reason = if is_owed { ReasonCode::Success } else { ReasonCode::ServerBusy };
        assert_eq!(outcomes, [(0, reason)], "{is_owed}");
        assert_eq!(retained(&world.server), [expected]);
    }
}

/// While it is in doubt whether others have asked this process in vain, the bucket is read before anything is put.
#[tokio::test]
async fn what_is_there_already_when_it_is_in_doubt_is_not_put_again() {
    let world = World::start().await;
    let mut client = world.client("c");
    client.publish("a", QoS::AtLeastOnce, true, "same");
    client.settle().await;
    let before = world.server.messages(RETAINED);
    world.account.registry.leave(&client.control);
    let is_in_doubt = || {
        let mut doubtful = world.account.registry.is_occupied();
        (!*doubtful.borrow_and_update()).then_some(())
    };
    until("nobody is here", is_in_doubt).await;
    // The link is lost for a moment: so nobody knows who has asked in vain.
    let mut again = world.client("c");
    world.server.shut("-core");
    world.account.store.connected().wait_for(|is_connected| !is_connected).await.unwrap();
    // A beat sees it.
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.server.open();
    world.account.store.connected().wait_for(|is_connected| *is_connected).await.unwrap();
    assert!(world.account.retained_writer.is_in_doubt());
    again.publish("a", QoS::AtLeastOnce, true, "same");
    assert_eq!(answers(&again.settle().await), [(0, ReasonCode::Success)]);
    let after = world.server.messages(RETAINED);
    assert_eq!((after.len(), after[0].0), (1, before[0].0), "it was there");
    assert_eq!(logged(&world.server), ["same", "same"]);
}

#[tokio::test]
async fn puts_of_one_key_go_one_behind_the_other_and_those_of_others_beside_them() {
    let world = World::start().await;
    let (mut one, mut two) = (world.client("one"), world.client("two"));
    world.is_beyond_doubt().await;
    // From here on it is known that the bucket answers, so that one silence is about one key.
    one.publish("c", QoS::AtLeastOnce, true, "first");
    one.settle().await;
    world.server.lose("$KV.MQTT_retained.a");
    one.publish("a", QoS::AtLeastOnce, true, "one");
    two.publish("a", QoS::AtLeastOnce, true, "two");
    two.publish("b", QoS::AtLeastOnce, true, "beside");
    world.server.until("the other key", |server| (retained(server) == ["first", "beside"]).then_some(())).await;
    world.server.obey();
    let (of_one, of_two) = tokio::join!(one.settle(), two.settle());
    assert_eq!((of_one.len(), of_two.len()), (1, 2));
    assert_eq!(retained(&world.server), ["first", "beside", "two"]);
}

/// Its publisher gives its messages ids, and has put something older again: what comes again under the id of the last one is put
/// behind that, though the bucket knows its id.
#[tokio::test]
async fn what_is_known_by_its_id_is_put_again_when_its_publisher_has_put_something_older_since() {
    use mqtt_codec::MessageProperties;
    use mqtt_session::Publication;
    let world = World::start().await;
    record(&world, 5, |_| ()).await;
    let mut client = world.client("c");
    client.control.completions().set_epoch(Epoch(5));
    for (id, expected) in [("1", "1"), ("2", "2"), ("1", "1"), ("2", "2")] {
        let user_properties = vec![("Nats-Msg-Id".into(), id.into())];
        let properties = Some(Box::new(MessageProperties { user_properties, ..MessageProperties::default() }));
        let publication = client.publication("a", QoS::AtLeastOnce, true, id);
        client.publish_as(Publication { properties, ..publication }).unwrap();
        assert_eq!(client.settle().await.len(), 1);
        assert_eq!(retained(&world.server), [expected]);
    }
    assert_eq!(logged(&world.server), ["1", "2"], "each is one message");
}

#[test]
fn last_puts_are_remembered_of_so_many_keys_and_the_last_ones_always() {
    use mqtt_session::Sequence;

    use crate::account::publish::retained_writer::{KEYS_MAX, LastPut, LastSequences};
    let mut last = LastSequences::default();
    let key = |number: usize| bytestring::ByteString::from(number.to_string());
    for number in 0..3 * KEYS_MAX {
        last.set(key(number), LastPut { sequence: Sequence(number as u64), behalf: None });
        assert_eq!(last.get(&key(number)).map(|put| put.sequence), Some(Sequence(number as u64)));
        if let Some(recent) = number.checked_sub(KEYS_MAX / 2 - 1) {
            assert!(last.get(&key(recent)).is_some(), "{recent} after {number}");
        }
    }
    assert!(last.get(&key(0)).is_none());
    assert!(last.len() <= KEYS_MAX);
}
