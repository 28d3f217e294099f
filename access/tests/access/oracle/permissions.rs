//! A thousand users of nats-server with random allow and deny lists: what they may publish and subscribe to, and which
//! messages they get, there and here.
//!
//! A seed that fails is named. `SEED=7` asks about one user; `SEEDS=100000` about as many.

use std::ops::Range;

use mqtt_access::subject::is_subset;
use mqtt_access::{PermissionLists, Permissions, SubjectLists};
use serde_json::json;

use super::connection::Connection;
use super::random::Random;
use super::server::Server;

const TOKENS: [&str; 4] = ["a", "b", "c", "*"];
/// Of entries, and of those who subscribe.
const QUEUE_ENTRIES: [&str; 6] = ["q", "w", "w.*", "w.>", "*", ">"];
const QUEUES: [&str; 5] = ["q", "w", "w.1", "w.*", "v"];
/// Users of one server at a time.
const USERS_MAX: u64 = 1000;

/// How often the two agreed, and how often we are stricter on purpose.
#[derive(Debug, Default)]
struct Tally {
    publishes: usize,
    subscriptions: usize,
    stricter: usize,
    deliveries: usize,
    withheld: usize,
}

fn subject(random: &mut Random, tokens: &[&str], rest: u64) -> String {
    let mut subject: Vec<&str> = (0..=random.below(3)).map(|_| random.one_of(tokens)).collect();
    if random.percent(rest) {
        subject.push(">");
    }
    if subject.len() > 1 && random.percent(5) {
        subject.remove(0);
    }
    subject.join(".")
}

fn lists(random: &mut Random, with_queues: bool) -> SubjectLists {
    let mut list = |entries_max: usize| -> Vec<String> {
        let entry = |random: &mut Random| {
            let subject = subject(random, &TOKENS, 30);
            match with_queues && random.percent(25) {
                true => format!("{subject} {}", random.one_of(&QUEUE_ENTRIES)),
                false => subject,
            }
        };
        (0..random.below(entries_max + 1)).map(|_| entry(random)).collect()
    };
    let (allow, deny) = (list(4), list(3));
    let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
    SubjectLists { allow: some(allow), deny: some(deny) }
}

/// The lists of one user.
fn of_seed(seed: u64) -> (PermissionLists, Random) {
    let mut random = Random::new(seed);
    let (publish, subscribe) = (lists(&mut random, false), lists(&mut random, true));
    (PermissionLists { publish, subscribe, responses: None }, random)
}

/// A configuration with a user for each seed, and one who may do everything.
fn config(seeds: Range<u64>) -> String {
    let users = seeds.map(|seed| {
        let (lists, _) = of_seed(seed);
        let of = |lists: &SubjectLists| json!({ "allow": lists.allow, "deny": lists.denied() });
        let mut permissions = json!({ "publish": of(&lists.publish), "subscribe": of(&lists.subscribe) });
        for direction in ["publish", "subscribe"] {
            let direction = permissions[direction].as_object_mut().unwrap();
            direction.retain(|_, list| list.as_array().is_some_and(|list| !list.is_empty()));
        }
        json!({ "user": format!("u{seed}"), "password": "p", "permissions": permissions })
    });
    let users: Vec<_> = users.chain([json!({ "user": "admin", "password": "p" })]).collect();
    format!("authorization: {}", json!({ "users": users }))
}

/// Whether nats-server grants a filter only because `>` in it is a token to it that `*` matches.
fn is_wider_than_each_entry(lists: &SubjectLists, filter: &str, queue: Option<&str>) -> bool {
    let is_queue = |entry: &str| queue.is_some_and(|queue| queue == entry || is_subset(queue, entry));
    let holds = |entry: &String| match entry.split_once(' ') {
        None => is_subset(filter, entry),
        Some((subject, of)) => is_queue(of) && is_subset(filter, subject),
    };
    filter.ends_with('>') && !lists.allowed().iter().any(holds)
}

struct Judge<'a> {
    seed: u64,
    user: Connection,
    admin: &'a mut Connection,
    permissions: Permissions,
    tally: &'a mut Tally,
}

impl Judge<'_> {
    fn publish(&mut self, subject: &str) {
        let (there, here) = (self.user.publishes(subject), self.permissions.is_publish_allowed(subject));
        assert_eq!(here, there, "SEED={}: publish to {subject} with {:?}", self.seed, self.permissions.lists().publish);
        self.tally.publishes += 1;
    }

    fn subscribe(&mut self, filter: &str, queue: Option<&str>, literals: &[String]) {
        let there = self.user.subscribes(filter, queue);
        let verdict = self.permissions.subscribe(filter, queue);
        let lists = self.permissions.lists().subscribe.clone();
        let what = format!("{filter} {queue:?} with {lists:?}: {verdict:?}, SEED={}", self.seed);
        self.tally.subscriptions += 1;
        if !verdict.is_granted() && there {
            assert!(is_wider_than_each_entry(&lists, filter, queue), "only nats-server grants {what}");
            self.tally.stricter += 1;
        }
        assert!(there || !verdict.is_granted(), "only we grant {what}");
        if !there {
            return;
        }
        let operations: String = literals.iter().map(|subject| format!("PUB {subject} 0\r\n\r\n")).collect();
        assert!(self.admin.ask(&operations).errors.is_empty());
        let got = self.user.ask("").messages;
        for subject in literals.iter().filter(|subject| is_subset(subject, filter)) {
            let there = got.contains(subject);
            let denied = self.permissions.is_delivery_denied(subject, queue);
            assert_eq!(!denied, there, "delivery of {subject} to {what}");
            assert!(there || !self.permissions.is_receive_allowed(subject, queue), "{subject} to {what}");
            self.tally.deliveries += 1;
            self.tally.withheld += usize::from(denied);
        }
        self.user.unsubscribe();
    }
}

fn judge(seed: u64, port: u16, admin: &mut Connection, tally: &mut Tally) {
    let (lists, mut random) = of_seed(seed);
    let user = Connection::logged_in(port, &json!({ "user": format!("u{seed}"), "pass": "p" }));
    let mut judge = Judge { seed, user, admin, permissions: Permissions::new(lists).unwrap(), tally };
    for _ in 0..20 {
        // A publish to `a.*` is one to a subject with that name.
        judge.publish(&subject(&mut random, &TOKENS, 5));
    }
    let mut literals: Vec<String> = (0..24).map(|_| subject(&mut random, &["a", "b", "c"], 0)).collect();
    literals.sort_unstable();
    literals.dedup();
    for _ in 0..20 {
        let filter = subject(&mut random, &TOKENS, 30);
        let queue = random.percent(40).then(|| random.one_of(&QUEUES));
        judge.subscribe(&filter, queue, &literals);
    }
}

fn run(seeds: Range<u64>) -> Tally {
    let server = Server::start(&config(seeds.clone()));
    let mut admin = Connection::logged_in(server.port, &json!({ "user": "admin", "pass": "p" }));
    let mut tally = Tally::default();
    for seed in seeds {
        judge(seed, server.port, &mut admin, &mut tally);
    }
    tally
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn permissions_are_what_nats_server_says() {
    if let Some(seed) = number("SEED") {
        println!("{:?}\n{:?}", of_seed(seed).0, run(seed..seed + 1));
        return;
    }
    let seeds = number("SEEDS").unwrap_or(USERS_MAX);
    for start in (0..seeds).step_by(usize::try_from(USERS_MAX).unwrap()) {
        let tally = run(start..seeds.min(start + USERS_MAX));
        println!("{tally:?}");
        // Each kind of answer has to have been asked for, or the test says less than it seems to.
        assert!(tally.stricter > 0 && tally.withheld > 0 && tally.deliveries > tally.withheld, "{tally:?}");
    }
}
