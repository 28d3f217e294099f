//! Accounts that never reach NATS, by a clock that waits for nobody: who enters which, when they are closed, and that nothing is
//! left of them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use mqtt_access::{AccountId, Limit, Limits, Principal};
use parking_lot::Mutex;
use proto_map::ClosedTrees;

use super::room::For;
use super::serving::IDLE;
use super::{Accounts, NotServed, Opener, Opening};
use crate::account::Account;
use crate::app::options;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::store::Store;

async fn unconnected(metrics: &Arc<Metrics>) -> Arc<Account> {
    let config = Config::default();
    let (store, of_account) = (options::store(&config, None).unwrap(), options::account(&config));
    let names = store.assets.names.clone();
    let closed = ClosedTrees::new(names.subject_prefix(), &[]);
    Account::unconnected(of_account, Store::unconnected(store), names, closed, metrics.account()).await
}

/// Opens accounts, but one of the name `broken`, and one of the name `waiting` never.
#[derive(Default)]
struct Opens {
    metrics: Arc<Metrics>,
    opened: Mutex<Vec<Weak<Account>>>,
    tried: AtomicUsize,
    /// Accounts that were opened while one opened before was still there, where only one name is used.
    overlapping: AtomicUsize,
}

struct Opened(Arc<Opens>);

impl Opener for Opened {
    fn open<'a>(&'a self, account: &'a AccountId, _home: &'a Account) -> Opening<'a> {
        self.0.tried.fetch_add(1, Ordering::Relaxed);
        Box::pin(async {
            match account.as_str() {
                "broken" => return Err("mend it".to_owned()),
                "waiting" => std::future::pending().await,
                _ => {}
            }
            if self.0.opened.lock().iter().any(|before| before.strong_count() > 0) {
                self.0.overlapping.fetch_add(1, Ordering::Relaxed);
            }
            let account = unconnected(&self.0.metrics).await;
            self.0.opened.lock().push(Arc::downgrade(&account));
            Ok(account)
        })
    }
}

struct World {
    opens: Arc<Opens>,
    accounts: Arc<Accounts>,
}

impl World {
    async fn new(most: usize) -> Self {
        let opens = Arc::new(Opens { metrics: Metrics::new(), ..Opens::default() });
        let home = unconnected(&opens.metrics).await;
        Self { accounts: super::begin(home, Box::new(Opened(Arc::clone(&opens))), most), opens }
    }

    async fn enter(&self, id: &str) -> Result<super::Stay, NotServed> {
        self.accounts.enter(&AccountId::new(id), For::Client).await
    }

    /// Accounts that have been opened and are in memory.
    fn left(&self) -> usize {
        self.opens.opened.lock().iter().filter(|account| account.strong_count() > 0).count()
    }

    fn tried(&self) -> usize {
        self.opens.tried.load(Ordering::Relaxed)
    }
}

/// Longer than an account stays open without anybody, and than it takes to close it.
const CLOSED_AFTER: Duration = Duration::from_secs(120);

/// How often somebody comes while it is being closed, each time a step later.
const ROUNDS: usize = 40;

#[tokio::test(start_paused = true)]
async fn a_thousand_accounts_that_were_open_leave_nothing() {
    let world = World::new(1_000).await;
    for number in 0..1_000 {
        drop(world.enter(&format!("tenant-{number}")).await.unwrap());
    }
    assert_eq!((world.left(), world.opens.metrics.accounts()), (1_000, 1_001));
    tokio::time::sleep(CLOSED_AFTER).await;
    assert_eq!((world.left(), world.opens.metrics.accounts()), (0, 1), "the home account alone is there");
    assert_eq!(world.accounts.all().len(), 1);
    let others = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    world.accounts.close().await;
    assert!(others < 100, "{others} tasks for one account");
}

#[tokio::test(start_paused = true)]
async fn who_enters_while_it_is_closing_waits_and_finds_it_open_again() {
    let world = World::new(10).await;
    let (first, second) = (world.enter("a").await.unwrap(), world.enter("a").await.unwrap());
    assert!(Arc::ptr_eq(first.account(), second.account()), "it is opened once");
    drop(first);
    tokio::time::sleep(CLOSED_AFTER).await;
    assert_eq!(world.tried(), 1, "somebody is in it");
    drop(second);
    // Somebody comes a little before it is closed, and at each step of that.
    for steps in 0..ROUNDS {
        tokio::time::sleep(IDLE - Duration::from_millis(1)).await;
        if steps > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for _ in 1..steps {
            tokio::task::yield_now().await;
        }
        drop(world.enter("a").await.unwrap());
        assert_eq!(world.left(), 1, "after {steps} steps");
    }
    assert_eq!(world.opens.overlapping.load(Ordering::Relaxed), 0, "two of one account are open");
    let tried = world.tried();
    assert!((2..=ROUNDS).contains(&tried), "closed before somebody came, and not: {tried}");
}

#[tokio::test(start_paused = true)]
async fn one_with_a_will_that_is_due_later_stays_open_until_that_is_published() {
    let world = World::new(10).await;
    let stay = world.enter("a").await.unwrap();
    let will = stay.account().has_something_due();
    drop(stay);
    tokio::time::sleep(10 * CLOSED_AFTER).await;
    assert_eq!((world.left(), world.accounts.all().len()), (1, 2));
    drop(will);
    tokio::time::sleep(CLOSED_AFTER).await;
    assert_eq!(world.left(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_be_opened_is_refused_for_a_while_and_no_other_waits_for_it() {
    let world = World::new(10).await;
    let waits = world.enter("waiting");
    let mut waits = std::pin::pin!(waits);
    assert!(waits.as_mut().now_or_never().is_none());
    for _ in 0..3 {
        assert_eq!(world.enter("broken").await.err(), Some(NotServed::Refused("mend it".into())));
    }
    assert_eq!(world.tried(), 2, "who comes soon after is told what is known");
    world.enter("sound").await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(world.enter("broken").await.is_err());
    assert_eq!(world.tried(), 4, "it is tried again");
}

#[tokio::test(start_paused = true)]
async fn there_are_no_more_than_may_be_and_none_at_the_end() {
    let world = World::new(1).await;
    let stay = world.enter("a").await.unwrap();
    assert_eq!(world.enter("b").await.err(), Some(NotServed::TooMany));
    assert!(world.enter("").await.is_ok(), "the home account is no other");
    drop(stay);
    tokio::time::sleep(CLOSED_AFTER).await;
    world.enter("b").await.unwrap();
    world.accounts.drain(Duration::ZERO, Duration::from_secs(1)).await;
    assert_eq!(world.enter("b").await.err(), Some(NotServed::Ending));
    world.accounts.close().await;
    assert_eq!(world.left(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_account_has_as_many_clients_as_it_allows() {
    let world = World::new(10).await;
    let limits = Limits { connections: Limit::Max(2), ..Limits::UNLIMITED };
    let of = |account: &str| Principal { account: AccountId::new(account), limits, ..Principal::all() };
    let enter = async |account: &str| world.accounts.enter_as(&of(account), "c", Limit::Unlimited).await;
    let first = enter("a").await.unwrap();
    let _second = enter("a").await.unwrap();
    assert_eq!(enter("a").await.err(), Some(NotServed::Full));
    assert!(enter("b").await.is_ok(), "the places of one are not those of another");
    drop(first);
    assert!(enter("a").await.is_ok());
    assert!(
        world
            .accounts
            .enter_as(&Principal { limits: Limits::UNLIMITED, ..of("a") }, "c", Limit::Unlimited)
            .await
            .is_ok()
    );
}
