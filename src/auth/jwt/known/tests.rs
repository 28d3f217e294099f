//! Which account JWTs count, one after the other.

use mqtt_access::jwt::AccountRefusal;
use nkeys::KeyPair;
use serde_json::json;

use super::super::memory::Recalling;
use super::*;
use crate::mint::{self, NOW, NOW_S, World};

fn known(world: &World) -> Known {
    let known = Known::default();
    known.set_operators(OperatorSource::File, vec![Operator::decode(&world.operator_jwt()).unwrap()]);
    known
}

fn issued(at: i64, more: &serde_json::Value) -> World {
    World::new().over_account(&json!({ "iat": at })).over_account(more)
}

fn name(known: &Known, id: &str) -> Option<String> {
    known.get(id).map(|current| current.account.name().to_owned())
}

#[tokio::test]
async fn what_is_newer_counts_and_what_does_not_leaves_the_one_before() {
    let first = issued(NOW_S - 100, &json!({ "name": "first" }));
    let id = &*first.account.public_key();
    let known = known(&first);
    let mut changes = known.changes();
    let offer = |world: &World| known.offer(id, &world.account_jwt(), Source::Stored, NOW);
    assert_eq!(offer(&first), Ok(()));
    assert!(!changes.has_changed().unwrap(), "nobody was judged by another one");
    let version = known.get(id).unwrap().version;
    assert_eq!(offer(&first), Ok(()));
    assert_eq!(known.get(id).unwrap().version, version);
    let foreign = json!({ "iss": first.foreign_operator.public_key(), "name": "foreign" });
    for (world, expected) in [
        (issued(NOW_S - 101, &json!({ "name": "older" })), AccountRefusal::Older),
        (issued(NOW_S, &foreign), AccountRefusal::Foreign),
        (issued(NOW_S - 100, &json!({ "exp": NOW_S, "name": "expired" })), AccountRefusal::Expired),
        (World::numbered(0, 1, NOW_S), AccountRefusal::OtherAccount),
    ] {
        assert_eq!(offer(&world), Err(expected));
        assert_eq!(name(&known, id).as_deref(), Some("first"));
    }
    assert!(!changes.has_changed().unwrap());
    // One of the same second counts.
    assert_eq!(offer(&issued(NOW_S - 100, &json!({ "name": "same second" }))), Ok(()));
    assert_eq!(name(&known, id).as_deref(), Some("same second"));
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    known.announce(&issued(NOW_S, &json!({ "name": "pushed" })).account_jwt(), NOW);
    assert_eq!(name(&known, id).as_deref(), Some("pushed"));
    assert!(changes.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn one_that_has_expired_before_it_is_heard_of_ends_the_one_before() {
    let first = issued(NOW_S - 100, &json!({ "name": "first" }));
    let id = &*first.account.public_key();
    let known = known(&first);
    let expired = issued(NOW_S - 50, &json!({ "exp": NOW_S - 10, "name": "expired" })).account_jwt();
    assert_eq!(known.offer(id, &expired, Source::Stored, NOW), Err(AccountRefusal::Expired), "there was none");
    known.offer(id, &first.account_jwt(), Source::Stored, NOW).unwrap();
    let mut changes = known.changes();
    assert_eq!(known.offer(id, &expired, Source::Stored, NOW), Ok(()));
    assert!(changes.has_changed().unwrap(), "who is connected is judged again");
    assert_eq!(name(&known, id).as_deref(), Some("expired"));
    assert_eq!(known.offer(id, &first.account_jwt(), Source::Update, NOW), Err(AccountRefusal::Older));
    // An operator deletes it like any other, and nothing that has expired brings it back.
    known.delete(&deletion(&first.operator, id, NOW_S));
    assert!(matches!(known.lookup(id), Lookup::Deleted));
    known.offer(id, &expired, Source::Stored, NOW).unwrap_err();
    assert!(known.get(id).is_none());
    changes.mark_unchanged();
    known.announce(&issued(NOW_S, &json!({ "name": "again" })).account_jwt(), NOW);
    assert_eq!(name(&known, id).as_deref(), Some("again"));
}

#[tokio::test]
async fn what_is_pushed_of_an_account_that_nobody_needed_is_not_kept() {
    let world = World::new();
    let id = world.account.public_key();
    let known = known(&world);
    known.set_absent(&id, None);
    assert!(matches!(known.lookup(&id), Lookup::Absent(None)));
    known.announce(&world.account_jwt(), NOW);
    assert!(matches!(known.lookup(&id), Lookup::Nothing), "but it is there now");
    known.announce("no JWT", NOW);
}

fn deletion(key: &KeyPair, account: &str, iat: i64) -> String {
    let key_id = key.public_key();
    mint::sign(&json!({ "iat": iat, "iss": key_id, "sub": key_id, "nats": { "accounts": [account] } }), key)
}

#[tokio::test(start_paused = true)]
async fn an_account_is_deleted_by_an_operator_and_made_again() {
    let world = issued(NOW_S - 100, &json!({}));
    let (id, text) = (&*world.account.public_key(), world.account_jwt());
    let known = known(&world);
    known.offer(id, &text, Source::Stored, NOW).unwrap();
    let mut changes = known.changes();
    for not_meant in [
        deletion(&world.foreign_operator, id, NOW_S),
        deletion(&world.operator, id, NOW_S - 200),
        deletion(&world.operator, &world.stranger.public_key(), NOW_S),
    ] {
        known.delete(&not_meant);
        assert!(known.get(id).is_some());
    }
    changes.mark_unchanged();
    known.delete(&deletion(&world.operator, id, NOW_S));
    assert!(changes.has_changed().unwrap());
    assert!(matches!(known.lookup(id), Lookup::Deleted));
    // A server that has not heard of it has it still.
    known.offer(id, &text, Source::Stored, NOW).unwrap();
    assert!(known.get(id).is_none());
    assert_eq!(
        known.offer(id, &issued(NOW_S - 101, &json!({})).account_jwt(), Source::Update, NOW),
        Err(AccountRefusal::Older)
    );
    known.announce(&text, NOW);
    assert!(known.get(id).is_some(), "somebody has pushed it again");
    known.delete(&deletion(&world.operator, id, NOW_S));
    tokio::time::advance(DELETED_FOR).await;
    assert!(matches!(known.lookup(id), Lookup::Nothing), "who has it now is believed");
    known.offer(id, &text, Source::Stored, NOW).unwrap();
    assert!(known.get(id).is_some());
}

#[tokio::test]
async fn what_either_operator_trusts_is_trusted() {
    let (old, new) = (World::new().over_operator(&json!({ "nats": { "signing_keys": [] } })), World::new());
    let by_new_key = World::new().over_account(&json!({ "iss": new.operator_signing.public_key() }));
    let (id, text) = (&*new.account.public_key(), by_new_key.account_jwt());
    let known = known(&old);
    assert_eq!(known.offer(id, &text, Source::Stored, NOW), Err(AccountRefusal::Foreign));
    assert!(matches!(known.lookup(id), Lookup::Absent(Some(AccountRefusal::Foreign))));
    let before = known.operators_version();
    known.set_operators(OperatorSource::Server, vec![Operator::decode(&new.operator_jwt()).unwrap()]);
    assert_ne!(known.operators_version(), before);
    assert_eq!(known.offer(id, &text, Source::Stored, NOW), Ok(()));
    let version = known.get(id).unwrap().version;
    known.set_operators(OperatorSource::Server, Vec::new());
    assert_ne!(known.get(id).unwrap().version, version, "its users are judged again");
}

#[tokio::test(start_paused = true)]
async fn accounts_that_do_not_exist_are_remembered_for_a_moment_and_not_without_end() {
    let known = Known::default();
    for number in 0..ABSENT_MAX + 10 {
        known.set_absent(&format!("A{number}"), None);
    }
    assert_eq!(known.state.lock().absent.len(), ABSENT_MAX);
    assert!(matches!(known.lookup("A0"), Lookup::Absent(None)));
    tokio::time::advance(ABSENT_FOR).await;
    assert!(matches!(known.lookup("A0"), Lookup::Nothing));
    known.set_absent("B", None);
    assert_eq!(known.state.lock().absent.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_account_is_in_use_as_long_as_somebody_holds_it() {
    let world = World::new();
    let id = world.account.public_key();
    let known = known(&world);
    known.offer(&id, &world.account_jwt(), Source::Stored, NOW).unwrap();
    assert!(known.in_use().is_empty());
    let held = known.get(&id).unwrap().in_use;
    assert_eq!(known.in_use(), [&*id]);
    drop(held);
    assert!(known.in_use().is_empty());
    tokio::time::advance(Duration::from_secs(7)).await;
    assert!(matches!(known.lookup(&id), Lookup::Known(_, age) if age == Duration::from_secs(7)));
    known.doubt();
    assert!(matches!(known.lookup(&id), Lookup::Known(_, Duration::MAX)));
    known.offer(&id, &world.account_jwt(), Source::Stored, NOW).unwrap();
    assert!(matches!(known.lookup(&id), Lookup::Known(_, Duration::ZERO)));
}

/// Remembers what it is told, and answers when it is read.
#[derive(Default)]
struct Remembered {
    is_unread: std::sync::atomic::AtomicBool,
    last: Mutex<Option<KnownAccount>>,
}

impl Memory for Remembered {
    fn recall<'a>(&'a self, _id: &'a str) -> Recalling<'a> {
        let recalled = match *self.last.lock() {
            _ if self.is_unread.load(std::sync::atomic::Ordering::Relaxed) => Recalled::Unread,
            None => Recalled::Nothing,
            Some(known) => Recalled::Known(known),
        };
        Box::pin(std::future::ready(recalled))
    }

    fn keep(&self, _id: &str, known: KnownAccount) {
        *self.last.lock() = Some(known);
    }
}

/// A process that has such a memory, the JWT of an account, and a client who wants it.
async fn first_use(memory: &Arc<Remembered>, world: &World) -> (Known, Option<Current>) {
    let (known, id) = (known(world), world.account.public_key());
    known.remember_in(Arc::clone(memory) as Arc<dyn Memory>);
    known.offer(&id, &world.account_jwt(), Source::Stored, NOW).unwrap();
    let current = known.get(&id).unwrap();
    let settled = known.settled(&id, current).await;
    (known, settled)
}

#[tokio::test(start_paused = true)]
async fn what_counted_before_a_restart_is_not_followed_by_something_older() {
    let memory = Arc::<Remembered>::default();
    let (old, new) = (issued(NOW_S - 100, &json!({})), issued(NOW_S - 50, &json!({})));
    let same_second = issued(NOW_S - 50, &json!({ "name": "same second" }));
    let id = &*old.account.public_key();
    let last = || memory.last.lock().map(|known| known.issued_at.as_secs());
    let (before, used) = first_use(&memory, &old).await;
    assert_eq!((used.is_some(), last()), (true, Some(NOW_S - 100)));
    // What comes once it is used is written down at once: it may be a revocation, and nobody connects after that.
    before.announce(&new.account_jwt(), NOW);
    assert_eq!(last(), Some(NOW_S - 50));
    let (after, used) = first_use(&memory, &old).await;
    assert!(used.is_none() && after.get(id).is_none());
    assert_eq!((after.held_back(id), last()), (Some(AccountRefusal::Older), Some(NOW_S - 50)));
    assert!(matches!(after.lookup(id), Lookup::Absent(Some(AccountRefusal::Older))));
    let offer = |world: &World| after.offer(id, &world.account_jwt(), Source::Stored, NOW);
    assert_eq!(offer(&old), Err(AccountRefusal::Older), "whoever has it");
    assert_eq!(offer(&new), Ok(()));
    assert_eq!(after.held_back(id), None);
    let current = after.get(id).unwrap();
    assert!(after.settled(id, current).await.is_some());
    assert!(first_use(&memory, &same_second).await.1.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_memory_that_comes_late_counts_from_then_on_and_one_account_alone_is_compared_once() {
    let memory = Arc::<Remembered>::default();
    let (old, new) = (issued(NOW_S - 100, &json!({})), issued(NOW_S - 50, &json!({})));
    let id = &*old.account.public_key();
    memory.keep(id, new.account().known());
    memory.is_unread.store(true, std::sync::atomic::Ordering::Relaxed);
    let (known, used) = first_use(&memory, &old).await;
    assert!(used.is_some(), "it goes on with what there is");
    let mut changes = known.changes();
    changes.mark_unchanged();
    memory.is_unread.store(false, std::sync::atomic::Ordering::Relaxed);
    let current = known.get(id).unwrap();
    assert!(known.settled(id, current).await.is_none());
    assert!(changes.has_changed().unwrap(), "who is connected is judged again");
    // What another sidecar has seen since takes nothing from who has compared.
    known.offer(id, &new.account_jwt(), Source::Stored, NOW).unwrap();
    memory.keep(id, issued(NOW_S, &json!({})).account().known());
    let current = known.get(id).unwrap();
    assert!(known.settled(id, current).await.is_some());
}
