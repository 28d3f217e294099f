//! Who published what, who got it, and whether that is right.

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::harness::js_api;
use crate::killer::Processes;

/// Mistakes that are shown of each kind.
const SHOWN: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It was sent, nobody knows more.
    Sent,
    /// It was acknowledged.
    Acknowledged,
    /// It was refused.
    Refused,
}

/// How a client with a will ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// It lives, or nobody knows.
    Unknown,
    /// Its connection was lost: the will is due.
    Lost,
    /// It said goodbye, and the server closed.
    Goodbye,
}

/// What one subscriber got.
#[derive(Debug, Default)]
struct Got {
    qos: u8,
    /// How often it got each message of each publisher.
    counts: Vec<Vec<u8>>,
    /// The last one that came for the first time, by publisher and topic.
    last: HashMap<(usize, usize), usize>,
    wills: HashMap<usize, u8>,
}

#[derive(Debug, Default)]
pub(crate) struct Checker {
    published: Mutex<Vec<Vec<Fate>>>,
    got: Mutex<Vec<Got>>,
    deaths: Mutex<Vec<Death>>,
    /// What is known of each client with a will.
    lives: Mutex<Vec<String>>,
    started: OnceLock<Instant>,
    mistakes: Mutex<BTreeMap<&'static str, Vec<String>>>,
    pub(crate) connects: AtomicU64,
    pub(crate) refused_connects: AtomicU64,
    pub(crate) repeated: AtomicU64,
    /// How often each sidecar was killed.
    kills: [AtomicUsize; 2],
}

/// The QoS of a publisher or a subscriber by its number.
const fn qos_of(n: usize) -> u8 {
    1 + (n % 2) as u8
}

impl Checker {
    pub(crate) fn new(publishers: usize) -> Self {
        Self { published: Mutex::new(vec![Vec::new(); 2 * publishers]), ..Self::default() }
    }

    pub(crate) fn mistake(&self, kind: &'static str, what: String) {
        let mut mistakes = self.mistakes.lock();
        let all = mistakes.entry(kind).or_default();
        if all.len() < SHOWN {
            println!("MISTAKE, {kind}: {what}");
        }
        all.push(what);
    }

    /// A publisher sends its next message.
    pub(crate) fn sent(&self, publisher: usize) -> usize {
        let mut published = self.published.lock();
        published[publisher].push(Fate::Sent);
        published[publisher].len() - 1
    }

    pub(crate) fn settled(&self, publisher: usize, number: usize, fate: Fate) {
        self.published.lock()[publisher][number] = fate;
    }

    pub(crate) fn subscriber(&self, qos: u8) {
        let publishers = self.published.lock().len();
        let counts = vec![Vec::new(); publishers];
        self.got.lock().push(Got { qos, counts, ..Got::default() });
    }

    pub(crate) fn got(&self, subscriber: usize, publisher: usize, topic: usize, number: usize) {
        let mut all = self.got.lock();
        let got = &mut all[subscriber];
        let counts = &mut got.counts[publisher];
        if counts.len() <= number {
            counts.resize(number + 1, 0);
        }
        counts[number] = counts[number].saturating_add(1);
        let (is_first, qos) = (counts[number] == 1, got.qos);
        if !is_first && qos == 2 && qos_of(publisher) == 2 {
            drop(all);
            self.mistake("QoS 2 twice", format!("subscriber {subscriber}: {publisher}.{number}"));
        } else if is_first {
            let last = got.last.insert((publisher, topic), number);
            drop(all);
            if last.is_some_and(|last| last > number) {
                let what =
                    format!("subscriber {subscriber} (QoS {qos}): {publisher}.{number} first came after {last:?}");
                self.mistake("out of order", what);
            }
        }
    }

    /// Another client with a will.
    pub(crate) fn born(&self) -> usize {
        let mut deaths = self.deaths.lock();
        deaths.push(Death::Unknown);
        self.lives.lock().push(String::new());
        deaths.len() - 1
    }

    /// A sidecar is about to be killed.
    pub(crate) fn kills_sidecar(&self, sidecar: usize) {
        self.kills[sidecar].fetch_add(1, Ordering::SeqCst);
    }

    /// How often a sidecar was killed, or is about to be.
    pub(crate) fn kills(&self, sidecar: usize) -> usize {
        self.kills[sidecar].load(Ordering::SeqCst)
    }

    /// Something becomes known of a client with a will.
    pub(crate) fn tell(&self, mortal: usize, what: &str) {
        self.lives.lock()[mortal] += &format!(" {:.2} s {what};", self.elapsed().as_secs_f64());
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.get_or_init(Instant::now).elapsed()
    }

    pub(crate) fn died(&self, mortal: usize, death: Death) {
        self.deaths.lock()[mortal] = death;
        self.tell(mortal, &format!("{death:?}"));
    }

    pub(crate) fn got_will(&self, subscriber: usize, mortal: usize, qos: u8) {
        let mut all = self.got.lock();
        let count = all[subscriber].wills.entry(mortal).or_default();
        *count += 1;
        let is_twice = *count > 1 && qos == 2;
        drop(all);
        if is_twice {
            self.mistake("QoS 2 will twice", format!("subscriber {subscriber}: will of {mortal}"));
        }
    }

    pub(crate) fn progress(&self) -> String {
        let published = self.published.lock();
        let acknowledged = published.iter().flatten().filter(|fate| **fate == Fate::Acknowledged).count();
        let died = self.deaths.lock().iter().filter(|death| **death == Death::Lost).count();
        let mistakes: usize = self.mistakes.lock().values().map(Vec::len).sum();
        let connects = self.connects.load(Ordering::Relaxed);
        format!("{acknowledged} acknowledged, {connects} connects, {died} wills due, {mistakes} mistakes")
    }

    /// Messages that were acknowledged and that a subscriber has not got: subscriber, publisher, number.
    fn missing(&self) -> Vec<(usize, usize, usize)> {
        let published = self.published.lock();
        let got = self.got.lock();
        let mut missing = Vec::new();
        for (subscriber, got) in got.iter().enumerate() {
            for (publisher, fates) in published.iter().enumerate() {
                let counts = &got.counts[publisher];
                let is_missing = |number: &usize| {
                    fates[*number] == Fate::Acknowledged && counts.get(*number).is_none_or(|count| *count == 0)
                };
                missing.extend((0..fates.len()).filter(is_missing).map(|number| (subscriber, publisher, number)));
            }
        }
        missing
    }

    /// Waits until everything is there, as long as more comes.
    pub(crate) async fn wait_for_messages(&self, patience: Duration) {
        let (mut before, mut since) = (usize::MAX, Instant::now());
        loop {
            let missing = self.missing().len();
            if missing == 0 || since.elapsed() > patience {
                return;
            }
            if missing < before {
                (before, since) = (missing, Instant::now());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits until all wills that are due are in the log; how often each is there.
    pub(crate) async fn wait_for_wills(&self, processes: &Processes, patience: Duration) -> HashMap<usize, u64> {
        let client = processes.client().await;
        let since = Instant::now();
        loop {
            let logged = logged_wills(&client).await;
            let is_there = |(n, death): (usize, &Death)| *death != Death::Lost || logged.contains_key(&n);
            let all = self.deaths.lock().iter().enumerate().all(is_there);
            // One more look in the end: what comes twice comes later.
            if all || since.elapsed() > patience {
                tokio::time::sleep(Duration::from_secs(20)).await;
                leftovers(&client).await.into_iter().for_each(|left| self.mistake("session left", left));
                return logged_wills(&client).await;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Says what was right and what was not.
    pub(crate) fn report(&self, logged: &HashMap<usize, u64>) -> bool {
        for (subscriber, publisher, number) in self.missing() {
            self.mistake("lost", format!("subscriber {subscriber}: {publisher}.{number} was acknowledged"));
        }
        self.report_wills(logged);
        let published = self.published.lock();
        let got = self.got.lock();
        for qos in [1, 2] {
            let fates = || published.iter().enumerate().filter(|(n, _)| qos_of(*n) == qos).flat_map(|(_, fates)| fates);
            let count = |wanted: Fate| fates().filter(|fate| **fate == wanted).count();
            let (acknowledged, refused, sent) = (count(Fate::Acknowledged), count(Fate::Refused), count(Fate::Sent));
            println!("published at QoS {qos}: {acknowledged} acknowledged, {refused} refused, {sent} open at the end");
        }
        for (n, got) in got.iter().enumerate() {
            let total = |wanted: u8, at_least: u8| {
                let of = got.counts.iter().enumerate().filter(|(publisher, _)| qos_of(*publisher) == wanted);
                of.flat_map(|(_, counts)| counts).filter(|count| **count >= at_least).count()
            };
            println!(
                "subscriber {n} at QoS {}: QoS 1: {} ({} more than once); QoS 2: {} ({} more than once); wills: {}",
                got.qos,
                total(1, 1),
                total(1, 2),
                total(2, 1),
                total(2, 2),
                got.wills.len()
            );
        }
        let (connects, refused) =
            (self.connects.load(Ordering::Relaxed), self.refused_connects.load(Ordering::Relaxed));
        println!(
            "{connects} connects, {refused} refused; {} deliveries with DUP",
            self.repeated.load(Ordering::Relaxed)
        );
        let mistakes = self.mistakes.lock();
        for (kind, all) in &*mistakes {
            println!("MISTAKES, {kind}: {}", all.len());
        }
        mistakes.is_empty()
    }

    fn report_wills(&self, logged: &HashMap<usize, u64>) {
        let deaths = self.deaths.lock();
        let count = |wanted: Death| deaths.iter().filter(|death| **death == wanted).count();
        let with = |wanted: Death, times: fn(u64) -> bool| {
            let is = |(n, death): &(usize, &Death)| **death == wanted && times(logged.get(n).copied().unwrap_or(0));
            deaths.iter().enumerate().filter(is).map(|(n, _)| n).collect::<Vec<_>>()
        };
        println!(
            "wills: {} clients lost their connection, {} wills published once; {} said goodbye, {} of their wills \
             published; of {} unknown ones {}",
            count(Death::Lost),
            with(Death::Lost, |times| times == 1).len(),
            count(Death::Goodbye),
            with(Death::Goodbye, |times| times > 0).len(),
            count(Death::Unknown),
            with(Death::Unknown, |times| times > 0).len(),
        );
        let missing = with(Death::Lost, |times| times == 0);
        let unwanted = with(Death::Goodbye, |times| times > 0);
        let twice: Vec<usize> = logged.iter().filter(|(_, times)| **times > 1).map(|(n, _)| *n).collect();
        let subscribers = self.got.lock();
        let not_got = |n: &usize| subscribers.iter().any(|got| !got.wills.contains_key(n));
        let unheard: Vec<usize> = with(Death::Lost, |times| times == 1).into_iter().filter(not_got).collect();
        drop(deaths);
        for (kind, all) in [
            ("will lost", missing),
            ("will after a goodbye", unwanted),
            ("will twice in the log", twice),
            ("will not delivered", unheard),
        ] {
            all.into_iter().for_each(|n| self.mistake(kind, format!("will of {n}:{}", self.lives.lock()[n])));
        }
    }
}

/// Sessions of clients with a will that were to end with their connection, and are there all the same.
pub(crate) async fn leftovers(client: &async_nats::Client) -> Vec<String> {
    let request = json!({ "subjects_filter": "$KV.MQTT_sessions.>" });
    let info = js_api(client, "STREAM.INFO.KV_MQTT_sessions", &request).await;
    let mut left = Vec::new();
    for subject in info["state"]["subjects"].as_object().cloned().unwrap_or_default().keys() {
        let get = json!({ "last_by_subj": subject });
        let message = js_api(client, "STREAM.MSG.GET.KV_MQTT_sessions", &get).await["message"].take();
        let data = message["data"].as_str().and_then(|data| BASE64.decode(data).ok()).unwrap_or_default();
        if let Ok(record) = serde_json::from_slice::<Value>(&data)
            && record["client_id"].as_str().is_some_and(|id| id.starts_with("mortal"))
            && record["expiry_s"] == 0
        {
            left.push(format!("{} {} {record}", message["seq"], message["time"]));
        }
    }
    left
}

/// How often each will is in the log.
async fn logged_wills(client: &async_nats::Client) -> HashMap<usize, u64> {
    let mut logged = HashMap::new();
    let mut offset = 0;
    loop {
        let request = json!({ "subjects_filter": "$NMQ.log.chaos-will.>", "offset": offset });
        let info = js_api(client, "STREAM.INFO.MQTT_log", &request).await;
        let subjects = info["state"]["subjects"].as_object().cloned().unwrap_or_default();
        offset += subjects.len();
        for (subject, times) in &subjects {
            if let Some(n) = subject.rsplit('.').next().and_then(|n| n.parse().ok()) {
                logged.insert(n, times.as_u64().unwrap_or(0));
            }
        }
        let total = info["total"].as_u64().unwrap_or(0) as usize;
        if subjects.is_empty() || offset >= total || info["state"] == Value::Null {
            return logged;
        }
    }
}
