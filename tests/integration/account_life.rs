//! An account can be opened and closed in a process that goes on: nothing of it is left, however often. A child process does it,
//! so that its memory is its own.
//!
//! `ACCOUNTS=1000` opens so many.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_nats::Client;
use futures_util::FutureExt;
use nats_mqtt::account::Account;
use nats_mqtt::app::account_spec;
use nats_mqtt::config::{ByteSize, Config};
use nats_mqtt::metrics::Metrics;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::runtime::Handle;

use crate::harness::{LOOK_AGAIN, NatsServer, PATIENCE, http_get, js_api};

/// How many accounts are opened, unless `$ACCOUNTS` says so.
const ACCOUNTS: usize = 250;

/// How many before the memory is looked at for the first time.
const WARM_UP: usize = 150;

/// Accounts at a time, each with its own names.
const AT_A_TIME: usize = 4;

/// What the process may have grown by meanwhile: a leak of a few kilobytes for each account is more.
const GROWTH_MAX: usize = 2 << 20;

/// How long a lease may take to be there.
const LEASE: Duration = Duration::from_secs(10);

/// How long an account without clients is watched, once it does nothing more of its start.
const IDLE_AFTER: Duration = Duration::from_secs(6);
const IDLE_FOR: Duration = Duration::from_secs(10);

/// How often its threads may go to sleep in a second.
const IDLE_PARKS_MAX: f64 = 60.0;

/// How long the child may take for each.
const EACH: Duration = Duration::from_secs(2);

/// Has a test of this file run in a process of its own, against this server.
async fn in_a_process(test: &str, nats: &NatsServer, accounts: usize) {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", &format!("account_life::{test}"), "--ignored", "--nocapture"]);
    command.env("NATS_URL", nats.url()).env("NATS_MONITOR", nats.monitor()).env("ACCOUNTS", accounts.to_string());
    // The allocator gives back what one thread has freed that another one has asked for.
    command.env("MALLOC_ARENA_MAX", "1").kill_on_drop(true);
    let limit = PATIENCE + EACH * u32::try_from(accounts).expect("a number of accounts");
    let output = tokio::time::timeout(limit, command.output()).await.expect("it ends in time").expect("it runs");
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    let figures: Vec<&str> = said.lines().filter(|line| line.contains("accounts:")).collect();
    println!("{}", figures.join("\n"));
}

fn environment(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("${name} is for who starts this process"))
}

fn accounts() -> usize {
    std::env::var("ACCOUNTS").map_or(ACCOUNTS, |accounts| accounts.parse().expect("ACCOUNTS is a number"))
}

/// One of [`AT_A_TIME`] accounts that share a server.
fn config(place: usize) -> Config {
    let mut config = Config::default();
    config.nats.urls = vec![environment("NATS_URL")];
    config.jetstream.prefix = format!("MQTT{place}");
    config.jetstream.subject_prefix = format!("$NMQ{place}");
    config.jetstream.log.max_bytes = ByteSize(64 << 20);
    config.jetstream.backlog.max_bytes = ByteSize(64 << 20);
    config
}

/// Opens and closes one, after a drain or without.
async fn live(place: usize, drains: bool) {
    let metrics = Metrics::new();
    let account = Account::open(account_spec(&config(place)).unwrap(), &metrics).await.expect("it opens");
    if drains {
        account.wait_for_lease(LEASE).await;
        account.drain(PATIENCE).await;
    }
    account.close().await;
    assert_eq!(account.close().now_or_never(), Some(()), "a second close is nothing");
    assert_eq!(Arc::strong_count(&account), 1, "whatever ran for it is gone");
    let weak: Weak<Account> = Arc::downgrade(&account);
    drop(account);
    assert!(weak.upgrade().is_none());
    assert_eq!(metrics.accounts(), 0, "its parts are gone with it");
}

/// Lets `one` run for so many, some at a time; each has the place of nobody else meanwhile.
async fn each(numbers: std::ops::Range<usize>, one: impl AsyncFn(usize, usize)) {
    let place = |place: usize| {
        let (one, numbers) = (&one, numbers.clone());
        async move {
            for number in numbers.filter(|number| number % AT_A_TIME == place) {
                one(place, number).await;
            }
        }
    };
    futures_util::future::join_all((0..AT_A_TIME).map(place)).await;
}

/// Memory of this process, bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("what the system knows of us");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("memory");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("kilobytes") << 10
}

/// Tasks of this process.
fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// Waits until nothing of `left` is left.
async fn until_none(what: &str, left: impl AsyncFn() -> Vec<String>) {
    let since = Instant::now();
    loop {
        let left = left().await;
        if left.is_empty() {
            return;
        }
        assert!(since.elapsed() < PATIENCE, "{what} are left: {left:?}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Connections of sidecars, as the server sees them.
async fn connections() -> Vec<String> {
    let (_, body) = http_get(&environment("NATS_MONITOR"), "/connz?limit=10000").await.expect("the monitor answers");
    let connz: Value = serde_json::from_str(&body).expect("JSON");
    let names = connz["connections"].as_array().expect("connections").iter();
    names.filter_map(|connection| connection["name"].as_str()).map(str::to_owned).collect()
}

/// Consumers of whatever stream.
async fn consumers(nats: &Client) -> Vec<String> {
    let streams = js_api(nats, "STREAM.NAMES", &json!({})).await;
    let mut consumers = Vec::new();
    for stream in streams["streams"].as_array().expect("streams") {
        let stream = stream.as_str().expect("a name");
        let names = js_api(nats, &format!("CONSUMER.NAMES.{stream}"), &json!({})).await;
        let names = names["consumers"].as_array().into_iter().flatten().filter_map(Value::as_str);
        consumers.extend(names.map(|name| format!("{stream}/{name}")));
    }
    consumers
}

/// No task of this process is left.
async fn assert_no_task_is_left(tasks_before: usize) {
    let none = async || (tasks() > tasks_before).then(|| format!("{}", tasks() - tasks_before)).into_iter().collect();
    until_none("tasks", none).await;
}

/// The server has no connection and no consumer left.
async fn assert_nothing_is_left_on_the_server() {
    until_none("connections", connections).await;
    let nats = async_nats::connect(environment("NATS_URL")).await.expect("connect to nats-server");
    until_none("consumers", async || consumers(&nats).await).await;
}

#[tokio::test]
async fn accounts_leave_nothing_behind() {
    let nats = NatsServer::start_with(true, "http: \"127.0.0.1:-1\"");
    in_a_process("accounts_that_come_and_go", &nats, accounts()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "accounts_leave_nothing_behind runs it in a process of its own"]
async fn accounts_that_come_and_go() {
    let (accounts, tasks_before) = (accounts(), tasks());
    let one = async |place, number| tokio::spawn(live(place, number % 8 < 6)).await.expect("it lives");
    each(0..WARM_UP, one).await;
    let (resident_before, since) = (resident(), Instant::now());
    each(0..accounts, one).await;
    let took = since.elapsed();
    assert_no_task_is_left(tasks_before).await;
    let resident_after = resident();
    assert_nothing_is_left_on_the_server().await;
    let grown = resident_after.saturating_sub(resident_before);
    println!(
        "{accounts} accounts: {:.1} s, {} KiB before, {} KiB after; no task, connection or consumer is left",
        took.as_secs_f64(),
        resident_before >> 10,
        resident_after >> 10,
    );
    assert!(grown < GROWTH_MAX, "{grown} bytes are left of {accounts} accounts");
}

#[tokio::test]
async fn an_account_that_is_given_up_while_it_opens_leaves_nothing_behind() {
    let nats = NatsServer::start_with(true, "http: \"127.0.0.1:-1\"");
    in_a_process("accounts_that_are_given_up", &nats, 40).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "an_account_that_is_given_up_while_it_opens_leaves_nothing_behind runs it in a process of its own"]
async fn accounts_that_are_given_up() {
    let tasks_before = tasks();
    // What is made once is there.
    each(0..AT_A_TIME, async |place, _| live(place, true).await).await;
    let opened = AtomicUsize::new(0);
    let one = async |place, number| {
        let metrics = Metrics::new();
        let open = Account::open(account_spec(&config(place)).unwrap(), &metrics);
        // From the first connection to the last part.
        let within = Duration::from_millis(u64::try_from(number).unwrap() * 3);
        if let Ok(account) = tokio::time::timeout(within, open).await {
            opened.fetch_add(1, Ordering::Relaxed);
            account.expect("it opens").close().await;
        }
    };
    each(0..accounts(), one).await;
    assert!(opened.into_inner() < accounts(), "none was given up");
    assert_no_task_is_left(tasks_before).await;
    assert_nothing_is_left_on_the_server().await;
}

#[tokio::test]
async fn an_idle_account_costs_little() {
    let nats = NatsServer::start_with(true, "http: \"127.0.0.1:-1\"");
    in_a_process("an_account_that_idles", &nats, 1).await;
}

/// How often a thread of the runtime had nothing to do.
fn parks() -> u64 {
    let metrics = Handle::current().metrics();
    (0..metrics.num_workers()).map(|worker| metrics.worker_park_count(worker)).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "an_idle_account_costs_little runs it in a process of its own"]
async fn an_account_that_idles() {
    let (metrics, tasks_before) = (Metrics::new(), tasks());
    let account = Account::open(account_spec(&config(0)).unwrap(), &metrics).await.expect("it opens");
    account.wait_for_lease(LEASE).await;
    tokio::time::sleep(IDLE_AFTER).await;
    let parks_before = parks();
    tokio::time::sleep(IDLE_FOR).await;
    let (parks, tasks) = ((parks() - parks_before) as f64 / IDLE_FOR.as_secs_f64(), tasks() - tasks_before);
    let links = connections().await.len();
    let nats = async_nats::connect(environment("NATS_URL")).await.expect("connect to nats-server");
    let consumers = consumers(&nats).await.len();
    let streams = js_api(&nats, "STREAM.NAMES", &json!({})).await["streams"].as_array().map_or(0, Vec::len);
    println!(
        "idle accounts: {links} links, {streams} streams, {consumers} consumers, {tasks} tasks, {parks:.1} parks a second"
    );
    assert!(parks < IDLE_PARKS_MAX, "{parks} times a second");
    account.close().await;
}
