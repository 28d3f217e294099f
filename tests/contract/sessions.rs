//! What `SessionStore` promises.

use futures_util::future::join_all;
use mqtt_ownership::{Epoch, Trace};
use nats_mqtt::store::{
    Arrival, Beside, Loaded, PAGES_MAX, PageRecord, ProgressRecord, SessionRecord, SessionStore, StoredSubscription,
    StoredWill, WillNumber, WriteError,
};

use super::{Bench, eventually};

macro_rules! session_contract {
    ($test:meta, $bench:ty) => {
        contract::each_promise!(
            $test,
            $bench,
            a_record_is_written_in_the_place_of_what_its_writer_knows,
            of_many_who_take_a_session_over_one_does,
            who_has_lost_a_session_writes_nothing_of_it,
            what_the_owner_before_has_saved_is_there_for_the_next_one,
            pages_are_of_the_session_that_wrote_them,
            a_will_is_there_before_a_record_names_it_and_until_it_is_removed,
            a_session_that_ends_leaves_a_marker_and_nothing_else,
            a_record_has_a_time_to_live_and_its_end_shuts_its_owner_out,
            a_write_whose_answer_is_lost_is_not_said_to_be_somebody_elses,
            a_record_that_was_there_is_never_said_not_to_have_been,
            progress_that_arrives_late_undoes_nothing_behind_a_new_record,
            without_an_answer_nothing_is_said
        );
    };
}
pub(crate) use session_contract;

fn record(client_id: &str, epoch: u64) -> SessionRecord {
    let subscription = StoredSubscription { filter: format!("devices/{client_id}/#"), qos: 1, ..Default::default() };
    SessionRecord {
        client_id: client_id.to_owned(),
        epoch,
        first_epoch: 1,
        owner: Some("node-a".to_owned()),
        connected: true,
        protocol: "5.0".to_owned(),
        subscriptions: vec![subscription],
        ..SessionRecord::default()
    }
}

fn progress(epoch: u64, cursor: u64) -> ProgressRecord {
    ProgressRecord { epoch, cursor, ..ProgressRecord::default() }
}

fn page(filters: std::ops::Range<usize>) -> PageRecord {
    let subscription = |number| StoredSubscription { filter: format!("f/{number}"), qos: 1, ..Default::default() };
    PageRecord { subscriptions: filters.map(subscription).collect(), ..PageRecord::default() }
}

const ID: &str = "pump 7/é";

pub(crate) async fn a_record_is_written_in_the_place_of_what_its_writer_knows<B: Bench>(bench: B) {
    let (near, far) = (&bench.near().sessions, &bench.far().sessions);
    assert_eq!(near.load(ID).await, Ok(Loaded::default()));
    let first = near.put_record(&record(ID, 1), 0, None).await.unwrap();
    assert_eq!(far.put_record(&record(ID, 7), 0, None).await, Err(WriteError::Fenced), "somebody was faster");
    assert_eq!(far.load(ID).await, Ok(Loaded { record: Some(record(ID, 1)), sequence: first, newer: None }));
    let second = far.put_record(&record(ID, 2), first, None).await.unwrap();
    assert!(second > first);
    assert_eq!(near.put_record(&record(ID, 7), first, None).await, Err(WriteError::Fenced), "it is out of date");
    assert_eq!(near.load(ID).await, Ok(Loaded { record: Some(record(ID, 2)), sequence: second, newer: None }));
    assert_eq!(near.load("another").await, Ok(Loaded::default()));
}

pub(crate) async fn of_many_who_take_a_session_over_one_does<B: Bench>(bench: B) {
    let (near, far) = (&bench.near().sessions, &bench.far().sessions);
    let first = near.put_record(&record(ID, 1), 0, None).await.unwrap();
    let takeovers = (0..40_u64).map(|number| async move {
        let sessions = if number % 2 == 0 { near } else { far };
        sessions.put_record(&record(ID, 100 + number), first, None).await
    });
    let outcomes = join_all(takeovers).await;
    let won: Vec<u64> = outcomes.iter().flatten().copied().collect();
    assert_eq!(won.len(), 1, "{outcomes:?}");
    assert!(outcomes.iter().all(|outcome| outcome.is_ok() || *outcome == Err(WriteError::Fenced)), "{outcomes:?}");
    assert_eq!(near.load(ID).await.unwrap().sequence, won[0]);
}

pub(crate) async fn who_has_lost_a_session_writes_nothing_of_it<B: Bench>(bench: B) {
    let (old, new) = (&bench.near().sessions, &bench.far().sessions);
    let first = old.put_record(&record(ID, 1), 0, None).await.unwrap();
    old.put_progress(ID, &progress(1, 41), first, None).await.unwrap();
    old.put_page(ID, 1, 1, &page(0..3), first).await.unwrap();
    let second = new.put_record(&record(ID, 2), first, None).await.unwrap();

    assert_eq!(old.put_record(&record(ID, 1), first, None).await, Err(WriteError::Fenced));
    assert_eq!(old.put_progress(ID, &progress(1, 99), first, None).await, Err(WriteError::Fenced));
    assert_eq!(old.put_page(ID, 1, 1, &page(7..9), first).await, Err(WriteError::Fenced));
    assert_eq!(old.end(ID, first, Beside::Perhaps).await, Err(WriteError::Fenced));

    assert_eq!(new.load(ID).await, Ok(Loaded { record: Some(record(ID, 2)), sequence: second, newer: None }));
    assert_eq!(new.load_progress(ID).await, Ok(Some(progress(1, 41))));
    assert_eq!(new.load_pages(ID, 1, 20, second).await.unwrap()[&1], page(0..3));
}

pub(crate) async fn what_the_owner_before_has_saved_is_there_for_the_next_one<B: Bench>(bench: B) {
    let (old, new) = (&bench.near().sessions, &bench.far().sessions);
    let first = old.put_record(&record(ID, 1), 0, None).await.unwrap();
    assert_eq!(old.trace(ID).await, Ok(None), "it has saved nothing");
    for cursor in 1..=20 {
        assert_eq!(old.put_progress(ID, &progress(1, cursor), first, None).await, Ok(Arrival::Once));
    }
    let second = new.put_record(&record(ID, 2), first, None).await.unwrap();
    assert_eq!(new.load_progress(ID).await, Ok(Some(progress(1, 20))));
    let (saved, trace) = new.trace(ID).await.unwrap().unwrap();
    assert_eq!(trace, Trace::Progress(Epoch(1)));
    assert!(saved.0 > first && saved.0 < second);
}

pub(crate) async fn pages_are_of_the_session_that_wrote_them<B: Bench>(bench: B) {
    let (old, new) = (&bench.near().sessions, &bench.far().sessions);
    let first = old.put_record(&record(ID, 1), 0, None).await.unwrap();
    for number in 1..=20 {
        let page = page(number as usize..number as usize + 50);
        assert_eq!(old.put_page(ID, 1, number, &page, first).await, Ok(Arrival::Once));
    }
    assert_eq!(old.put_page(ID, 1, 20, &page(0..1), first).await, Ok(Arrival::Once), "it is written again");
    let second = new.put_record(&record(ID, 2), first, None).await.unwrap();
    let loaded = new.load_pages(ID, 1, 20, second).await.unwrap();
    assert_eq!(loaded.keys().copied().collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
    assert_eq!((&loaded[&3], &loaded[&20]), (&page(3..53), &page(0..1)));
    // What no record names is nobody's, and there is an end to what is read.
    let three = new.load_pages(ID, 1, 3, second).await.unwrap();
    assert_eq!(three.into_keys().collect::<Vec<_>>(), [1, 2, 3]);
    assert!(new.load_pages(ID, 1, PAGES_MAX + 1, second).await.is_err());
    // A session that begins anew has none of them.
    let third = old.put_record(&SessionRecord { first_epoch: 3, ..record(ID, 3) }, second, None).await.unwrap();
    assert!(old.load_pages(ID, 3, 20, third).await.unwrap().is_empty());
    assert_eq!(old.put_page(ID, 3, 1, &page(0..2), third).await, Ok(Arrival::Once));
    new.remove_pages(ID, 1).await.unwrap();
    assert!(new.load_pages(ID, 1, 20, third).await.unwrap().is_empty());
    assert_eq!(new.load_pages(ID, 3, 20, third).await.unwrap().len(), 1);
}

pub(crate) async fn a_will_is_there_before_a_record_names_it_and_until_it_is_removed<B: Bench>(bench: B) {
    let (near, far) = (&bench.near().sessions, &bench.far().sessions);
    let will = StoredWill { topic: "gone".to_owned(), payload: "x".into(), ..StoredWill::default() };
    assert_eq!(far.load_will(ID, WillNumber(5)).await, Ok(None));
    near.put_will(ID, WillNumber(5), &will).await.unwrap();
    near.put_will(ID, WillNumber(5), &will).await.expect("once more does nothing");
    near.put_will(ID, WillNumber(6), &will).await.unwrap();
    assert_eq!(far.load_will(ID, WillNumber(5)).await, Ok(Some(will.clone())));
    // The end of the session takes no will: who ended it publishes it, or has.
    let fence = near.put_record(&record(ID, 1), 0, None).await.unwrap();
    near.end(ID, fence, Beside::Perhaps).await.unwrap();
    assert_eq!(far.load_will(ID, WillNumber(5)).await, Ok(Some(will.clone())));
    far.remove_wills(ID, &[WillNumber(5)]).await.unwrap();
    assert_eq!(
        (near.load_will(ID, WillNumber(5)).await, near.load_will(ID, WillNumber(6)).await),
        (Ok(None), Ok(Some(will)))
    );
}

pub(crate) async fn a_session_that_ends_leaves_a_marker_and_nothing_else<B: Bench>(bench: B) {
    let (near, far) = (&bench.near().sessions, &bench.far().sessions);
    let fence = near.put_record(&record(ID, 1), 0, None).await.unwrap();
    near.put_progress(ID, &progress(1, 7), fence, None).await.unwrap();
    near.put_page(ID, 1, 1, &page(0..3), fence).await.unwrap();
    near.end(ID, fence, Beside::Perhaps).await.unwrap();

    let after = far.load(ID).await.unwrap();
    assert_eq!(after.record, None);
    assert!(after.sequence > fence);
    assert_eq!(far.load_progress(ID).await, Ok(None));
    assert!(matches!(far.trace(ID).await, Ok(Some((_, Trace::Over)))));
    assert_eq!(near.put_progress(ID, &progress(1, 8), fence, None).await, Err(WriteError::Fenced));
    assert_eq!(near.put_record(&record(ID, 2), 0, None).await, Err(WriteError::Fenced), "something was there");

    // The next session begins behind the marker, without the pages of the one before.
    let next = far.put_record(&record(ID, 2), after.sequence, None).await.unwrap();
    assert!(next > after.sequence);
    assert!(far.load_pages(ID, 1, 20, next).await.unwrap().is_empty());
    assert_eq!(far.put_progress(ID, &progress(2, 9), next, None).await, Ok(Arrival::Once));
}

pub(crate) async fn a_record_has_a_time_to_live_and_its_end_shuts_its_owner_out<B: Bench>(bench: B) {
    let (near, far) = (&bench.near().sessions, &bench.far().sessions);
    let fence = near.put_record(&record(ID, 1), 0, Some(1)).await.unwrap();
    near.put_progress(ID, &progress(1, 7), fence, None).await.unwrap();
    assert_eq!(far.load(ID).await.unwrap().record, Some(record(ID, 1)), "it is not over");
    eventually("it is", async || far.load(ID).await.unwrap().record.is_none()).await;
    let marker = far.load(ID).await.unwrap().sequence;
    assert!(marker > fence);
    assert_eq!(near.put_progress(ID, &progress(1, 8), fence, None).await, Err(WriteError::Fenced));
    assert_eq!(near.put_record(&record(ID, 1), fence, None).await, Err(WriteError::Fenced));
    assert_eq!(far.load_progress(ID).await, Ok(Some(progress(1, 7))), "what is beside it stays");
    far.put_record(&record(ID, 2), marker, None).await.unwrap();
}

pub(crate) async fn a_write_whose_answer_is_lost_is_not_said_to_be_somebody_elses<B: Bench>(bench: B) {
    let (near, far) = (&bench.near().sessions, &bench.far().sessions);
    let fence = far.put_record(&record(ID, 1), 0, None).await.unwrap();
    bench.lose_answers();
    let is_there = async {
        eventually("it arrives", async || near.load(ID).await.unwrap().sequence > fence).await;
        bench.mend();
    };
    let second = record(ID, 2);
    let (written, ()) = tokio::join!(far.put_record(&second, fence, None), is_there);
    let stands = near.load(ID).await.unwrap();
    assert_eq!(stands.record, Some(second));
    match written {
        Ok(sequence) => assert_eq!(stands.sequence, sequence),
        Err(error) => assert!(matches!(error, WriteError::Unavailable { .. }), "{error:?}"),
    }
}

pub(crate) async fn a_record_that_was_there_is_never_said_not_to_have_been<B: Bench>(bench: B) {
    let (near, far) = (&bench.near().sessions, &bench.far().sessions);
    let fence = far.put_record(&record(ID, 1), 0, None).await.unwrap();
    bench.lose_answers();
    let is_taken_over = async {
        eventually("it arrives", async || near.load(ID).await.unwrap().sequence > fence).await;
        let theirs = near.load(ID).await.unwrap().sequence;
        near.put_record(&record(ID, 3), theirs, None).await.unwrap();
        bench.mend();
    };
    let second = record(ID, 2);
    let (written, ()) = tokio::join!(far.put_record(&second, fence, None), is_taken_over);
    assert!(matches!(written, Err(WriteError::Unavailable { .. })), "{written:?}");
    assert_eq!(near.load(ID).await.unwrap().record, Some(record(ID, 3)));
}

pub(crate) async fn progress_that_arrives_late_undoes_nothing_behind_a_new_record<B: Bench>(bench: B) {
    let (near, far) = (&bench.near().sessions, &bench.far().sessions);
    let fence = far.put_record(&record(ID, 1), 0, None).await.unwrap();
    assert_eq!(far.put_progress(ID, &progress(1, 1), fence, None).await, Ok(Arrival::Once));
    bench.hold();
    let is_on_its_way = async {
        bench.has_held().await;
        bench.mend();
    };
    // The first attempt is on its way when the link breaks; the second one is answered.
    let second = progress(1, 2);
    let (saved, ()) = tokio::join!(far.put_progress(ID, &second, fence, None), is_on_its_way);
    assert_eq!(saved, Ok(Arrival::Again));
    assert_eq!(near.load_progress(ID).await, Ok(Some(second)));
    let next = far.put_record(&record(ID, 1), fence, None).await.unwrap();
    assert_eq!(far.put_progress(ID, &progress(1, 3), next, None).await, Ok(Arrival::Once));
    bench.release().await;
    assert_eq!(near.load_progress(ID).await, Ok(Some(progress(1, 3))));
    assert_eq!(near.load(ID).await, Ok(Loaded { record: Some(record(ID, 1)), sequence: next, newer: None }));
}

pub(crate) async fn without_an_answer_nothing_is_said<B: Bench>(bench: B) {
    let (near, far) = (&bench.near().sessions, &bench.far().sessions);
    let fence = far.put_record(&record(ID, 1), 0, None).await.unwrap();
    bench.stall();
    let second = record(ID, 2);
    let (written, loaded, traced) = tokio::join!(far.put_record(&second, fence, None), far.load(ID), far.trace(ID));
    assert!(matches!(written, Err(WriteError::Unavailable { .. })), "{written:?}");
    assert!(loaded.is_err() && traced.is_err());
    bench.mend();
    // It may have been written, and may be yet. Whoever writes behind what is there shuts it out.
    eventually("somebody takes the session over", async || {
        let stands = near.load(ID).await.unwrap().sequence;
        near.put_record(&record(ID, 3), stands, None).await.is_ok()
    })
    .await;
    // Who is shut out may be without an answer for a while yet, and is never told that it has written.
    eventually("it hears that it is shut out", async || match far.put_record(&record(ID, 4), fence, None).await {
        Err(WriteError::Fenced) => true,
        Err(WriteError::Unavailable { .. }) => false,
        written => panic!("{written:?}"),
    })
    .await;
    assert_eq!(near.load(ID).await.unwrap().record, Some(record(ID, 3)));
}
