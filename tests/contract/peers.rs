//! What `Peers` promises.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use nats_mqtt::store::{LeaseState, LeaseView, Peers, RequestError};

use super::{Bench, PATIENCE, eventually};

macro_rules! peers_contract {
    ($test:meta, $bench:ty) => {
        contract::each_promise!(
            $test,
            $bench,
            who_has_a_lease_is_there_until_it_is_given_back,
            a_lease_outlives_its_time_as_long_as_it_is_kept_and_no_longer,
            who_takes_a_lease_over_has_it_and_the_other_one_knows,
            a_holder_is_in_doubt_before_anybody_sees_its_lease_ended,
            a_request_is_answered_by_who_serves_the_name,
            whether_nobody_works_on_a_request_is_known
        );
    };
}
pub(crate) use peers_contract;

async fn becomes(mut view: LeaseView, wanted: impl Fn(LeaseState) -> bool) {
    let so = async {
        while !wanted(view.state()) {
            assert!(view.changed().await || wanted(view.state()), "it ends as {:?}", view.state());
        }
    };
    assert!(tokio::time::timeout(PATIENCE, so).await.is_ok(), "it stays {:?}", view.state());
}

pub(crate) async fn who_has_a_lease_is_there_until_it_is_given_back<B: Bench>(bench: B) {
    let (near, far) = (&bench.near().peers, &bench.far().peers);
    assert_eq!(near.is_gone("node-a").await, Ok(true), "it never was");
    let lease = far.acquire("node-a", vec!["10.0.0.1:1883".to_owned()]).await.unwrap();
    assert_eq!(far.view(&lease).state(), LeaseState::Held { gaps: 0 });
    assert_eq!(near.is_gone("node-a").await, Ok(false));
    let alive = near.alive().await.unwrap();
    assert_eq!(
        alive.iter().map(|info| (&*info.node, &*info.mqtt[0])).collect::<Vec<_>>(),
        [("node-a", "10.0.0.1:1883")]
    );
    far.release(lease).await;
    assert_eq!(near.is_gone("node-a").await, Ok(true));
    assert!(near.alive().await.unwrap().is_empty());
}

pub(crate) async fn a_lease_outlives_its_time_as_long_as_it_is_kept_and_no_longer<B: Bench>(bench: B) {
    let (near, far) = (&bench.near().peers, &bench.far().peers);
    let lease = far.acquire("node-a", Vec::new()).await.unwrap();
    let view = far.view(&lease);
    // Refreshed often enough that it would have ended without.
    let mut refreshed = view.clone();
    for _ in 0..10 {
        assert!(refreshed.changed().await);
        assert_eq!((view.state(), near.is_gone("node-a").await), (LeaseState::Held { gaps: 0 }, Ok(false)));
    }
    drop(lease);
    eventually("it ends with its time to live", async || near.is_gone("node-a").await == Ok(true)).await;
}

pub(crate) async fn who_takes_a_lease_over_has_it_and_the_other_one_knows<B: Bench>(bench: B) {
    let (near, far) = (&bench.near().peers, &bench.far().peers);
    let first = far.acquire("same", Vec::new()).await.unwrap();
    let second = near.acquire("same", Vec::new()).await.unwrap();
    becomes(far.view(&first), |state| state == LeaseState::Lost).await;
    far.release(first).await;
    assert_eq!(far.is_gone("same").await, Ok(false), "who has lost it does not end it");
    assert_eq!(near.view(&second).state(), LeaseState::Held { gaps: 0 });
}

pub(crate) async fn a_holder_is_in_doubt_before_anybody_sees_its_lease_ended<B: Bench>(bench: B) {
    let (near, far) = (&bench.near().peers, &bench.far().peers);
    let lease = far.acquire("node-a", Vec::new()).await.unwrap();
    let view = far.view(&lease);
    bench.stall();
    eventually("it is gone for the others", async || {
        let is_gone = near.is_gone("node-a").await == Ok(true);
        assert!(!is_gone || !view.state().is_held(), "its holder relies on it still");
        is_gone
    })
    .await;
    bench.mend();
    // It is taken again, and its holder can see that it had ended.
    becomes(view, |state| matches!(state, LeaseState::Held { gaps: 1.. })).await;
    assert_eq!(near.is_gone("node-a").await, Ok(false));
}

pub(crate) async fn a_request_is_answered_by_who_serves_the_name<B: Bench>(bench: B) {
    let (near, far) = (&bench.near().peers, &bench.far().peers);
    let answer = |question: Bytes| async move { Some([question.as_ref(), b" heard"].concat().into()) };
    let _served = far.serve("node-b", answer).await.unwrap();
    let questions = (0..200).map(|number| near.ask("node-b", format!("{number}").into(), PATIENCE));
    for (number, answer) in join_all(questions).await.into_iter().enumerate() {
        assert_eq!(answer.unwrap(), format!("{number} heard"));
    }
}

pub(crate) async fn whether_nobody_works_on_a_request_is_known<B: Bench>(bench: B) {
    let (near, far) = (&bench.near().peers, &bench.far().peers);
    let ask = async || near.ask("node-b", Bytes::new(), Duration::from_millis(500)).await;
    assert_eq!(ask().await, Err(RequestError::Nobody));
    let served = far.serve("node-b", |_: Bytes| async { None }).await.unwrap();
    assert_eq!(ask().await, Err(RequestError::TimedOut), "somebody may have");
    drop(served);
    eventually("it is not served any more", async || ask().await == Err(RequestError::Nobody)).await;
}
