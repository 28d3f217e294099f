//! What many tenants cost one sidecar: each is an account of one operator, into which the sidecar makes its own way with a signing
//! key.
//!
//! ```text
//!           a device connects              busy ones            devices of the
//!           to each, in turn               publish              others leave, and their accounts close
//!   first ──────────────────▶ open (idle) ──────────▶ busy ─────────────────────────────────────────▶ closed (idle)
//!                              ▲                                                                         │
//!                              └───────────────────── the next round ────────────────────────────────────┘
//! ```
//!
//! How long an account without clients stays open is nats-mqtt's own affair; what is waited for is its metric.
//!
//! # Layout
//! - `gauge`: how the sidecar and its nats-server are at a moment
//! - `results`: figures of all rounds, and the table of them

mod gauge;
mod results;

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};

use crate::client::{Client, Endpoint};
use crate::histogram::Histogram;
use crate::load::{Effort, Judged, Load, observe};
use crate::machine;
use crate::operator::Operator;
use crate::process::open_files_max;
use crate::system::{Running, Servers, System, Target, free_address};
use crate::wire::Version;
use gauge::Gauge;
use results::Moment;
pub(crate) use results::Results;

/// How long the servers have to come to rest; longer than threads wait for more to do.
const REST: Duration = Duration::from_secs(15);

/// The same after accounts were opened: what may still have to be done for them is over a minute later.
const REST_OPEN: Duration = Duration::from_secs(75);

/// How long busy accounts take to be at work, and are so beyond what counts.
const MARGIN: Duration = Duration::from_secs(5);

/// How often the device of a busy account publishes a retained message, on one of so many topics.
const RETAINS_EVERY: Duration = Duration::from_secs(2);
const RETAINED_TOPICS: u64 = 10;

/// Accounts that may fail to open before no more are tried.
const FAILURES_MAX: usize = 20;

/// How long accounts may take to close, and how often it is asked whether they have.
const CLOSING_MAX: Duration = Duration::from_secs(300);
const CLOSING_LOOK: Duration = Duration::from_secs(1);

/// Messages of a publisher that are not acknowledged, and that are on their way; a rate that is kept reaches neither.
const IN_FLIGHT: u16 = 128;
const WINDOW: u64 = 1_000;

/// Open files that nats-server has for each account, which is more than nats-mqtt has, and beside them.
const FILES_EACH: u64 = 12;
const FILES_BESIDES: u64 = 500;

/// How many accounts there are, and what they do.
#[derive(Debug, Args)]
pub(crate) struct Tenants {
    /// Accounts beside that of the sidecar.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    accounts: u32,
    /// Accounts that are busy: with a subscriber that has a session and a publisher, both at QoS 1, and retained messages.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    busy: u32,
    /// Messages a second of each busy account.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// How often accounts are opened, and all but the busy ones closed again.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// For how long CPU counts, while accounts are idle and while some are busy.
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// Bytes of each message.
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// The version that clients speak.
    #[arg(long, default_value = "3.1.1")]
    mqtt: Version,
    #[command(flatten)]
    servers: Servers,
}

/// The device of each account that has one connected, by the number of the account.
type Devices = BTreeMap<u32, Client>;

impl Tenants {
    /// Measures everything. What it has when it is dropped is in `results`, and what it has started ends then.
    pub(crate) async fn run(&self, results: &mut Results) -> Result<(), String> {
        if self.busy > self.accounts {
            return Err(format!("{} of {} accounts cannot be busy: give --busy less", self.busy, self.accounts));
        }
        enough_files(self.accounts, open_files_max())?;
        let programs = self.servers.programs(None, None)?;
        results.machine = format!(
            "{}. {}. {} accounts, of which {} are busy with {} messages/s of {} bytes each, MQTT {}; CPU over {} s.",
            machine::machine(),
            machine::versions(&[System::NatsMqtt], &programs),
            self.accounts,
            self.busy,
            self.rate,
            self.payload,
            self.mqtt,
            self.seconds
        );
        eprintln!("bench: {}", results.machine);
        // Endpoints are copied into every client.
        let operator = &*Box::leak(Box::new(Operator::with_tenants(self.accounts as usize)?));
        let admin = free_address()?;
        let running = Running::start_for_tenants(&programs, &self.servers.dir(), operator, admin).await?;
        let target = running.target(self.mqtt);
        let ended = self.measure(&target, &Gauge::new(&target, admin)?, results).await;
        if let Some(says) = running.complaints(System::NatsMqttJwt) {
            eprintln!("bench:   {} said: {says}", System::NatsMqttJwt);
        }
        ended
    }

    async fn measure(&self, target: &Target, gauge: &Gauge, results: &mut Results) -> Result<(), String> {
        let mut devices = Devices::new();
        sleep(REST).await;
        let first = gauge.look(self.seconds).await?;
        results.round().add(Moment::First, first.figures());
        for round in 1..=self.rounds {
            if round > 1 {
                results.begin_round();
            }
            eprintln!("bench: round {round} of {}: accounts are opened", self.rounds);
            self.open(target.endpoint, &mut devices, results).await?;
            sleep(REST_OPEN).await;
            let open = gauge.look(self.seconds).await?;
            results.round().add(Moment::Open, open.figures());
            results.round().add(Moment::Open, open.each(&first));
            eprintln!("bench:   {} accounts are busy", self.busy);
            self.work(target, gauge, &mut devices, results).await?;
            eprintln!("bench:   devices of all others leave");
            self.close(gauge, &mut devices, results).await?;
            sleep(REST).await;
            results.round().add(Moment::Closed, gauge.look(self.seconds).await?.figures());
        }
        Ok(())
    }

    /// One after the other a device connects to each account that has none, and stays.
    async fn open(&self, endpoint: Endpoint, devices: &mut Devices, results: &mut Results) -> Result<(), String> {
        let (began, mut failures) = (Instant::now(), 0);
        let (mut all, mut last) = (Histogram::new(), Histogram::new());
        for number in 0..self.accounts {
            if devices.contains_key(&number) {
                continue;
            }
            let started = Instant::now();
            match Client::connect(endpoint, &format!("bench-device-{number}"), true).await {
                Ok(device) => {
                    let took = started.elapsed().as_nanos() as u64;
                    all.add(took);
                    if is_of_last_tenth(number, self.accounts) {
                        last.add(took);
                    }
                    devices.insert(number, device);
                }
                Err(why) => {
                    failures += 1;
                    results.remarks.push(format!("account {number} was not opened: {why}"));
                    if failures >= FAILURES_MAX {
                        return Err(format!("{failures} accounts were not opened; the last one: {why}"));
                    }
                }
            }
        }
        let round = results.round();
        round.figure(Moment::Opening, "p50 ms", all.quantile_ms(0.5));
        round.figure(Moment::Opening, "p50 ms, last tenth", last.quantile_ms(0.5));
        round.figure(Moment::Opening, "p99 ms", all.quantile_ms(0.99));
        round.figure(Moment::Opening, "longest ms", all.quantile_ms(1.0));
        round.figure(Moment::Opening, "all s", Some(began.elapsed().as_secs_f64()));
        Ok(())
    }

    /// The busy accounts do what they do, while it is looked at what that costs.
    async fn work(
        &self,
        target: &Target,
        gauge: &Gauge,
        devices: &mut Devices,
        results: &mut Results,
    ) -> Result<(), String> {
        let effort = Effort { seconds: self.seconds + MARGIN.as_secs_f64(), payload: self.payload };
        let mut retaining = JoinSet::new();
        for number in 0..self.busy {
            if let Some(device) = devices.remove(&number) {
                retaining.spawn(retain(number, device, effort));
            }
        }
        let (load, at_work) = (self.load(), async {
            sleep(MARGIN).await;
            gauge.look(self.seconds).await
        });
        let (seen, busy) = tokio::join!(observe(target, &load, effort), at_work);
        for (number, device) in retaining.join_all().await {
            match device {
                Ok(device) => drop(devices.insert(number, device)),
                Err(why) => results.remarks.push(format!("the device of account {number} is away: {why}")),
            }
        }
        let seen = seen?;
        let round = results.round();
        round.figure(Moment::Busy, "messages/s", Some(seen.messages_per_second()));
        for (latencies, [median, p99]) in [
            (&seen.acknowledgements, ["PUBACK p50 ms", "PUBACK p99 ms"]),
            (&seen.deliveries, ["delivery p50 ms", "delivery p99 ms"]),
        ] {
            round.figure(Moment::Busy, median, latencies.quantile_ms(0.5));
            round.figure(Moment::Busy, p99, latencies.quantile_ms(0.99));
        }
        round.add(Moment::Busy, busy?.figures());
        results.remarks.extend(seen.remarks.into_iter().map(|remark| format!("messages of busy accounts: {remark}")));
        Ok(())
    }

    fn load(&self) -> Load {
        let count = self.busy as usize;
        Load {
            qos: 1,
            publishers: count,
            subscribers: count,
            in_flight: IN_FLIGHT,
            window: WINDOW,
            rate: Some(self.rate * self.busy),
            judged: Judged::Latency,
            is_durable: true,
        }
    }

    /// The devices of all accounts that are not busy leave, and it is waited until these are closed.
    async fn close(&self, gauge: &Gauge, devices: &mut Devices, results: &mut Results) -> Result<(), String> {
        for (number, device) in devices.split_off(&self.busy) {
            if let Err(why) = device.disconnect().await {
                results.remarks.push(format!("the device of account {number} does not leave: {why}"));
            }
        }
        let began = Instant::now();
        // And that of the sidecar.
        let stay = u64::from(self.busy) + 1;
        loop {
            let open = gauge.accounts().await?;
            if open <= stay {
                break results.round().figure(Moment::Closed, "after s", Some(began.elapsed().as_secs_f64()));
            }
            if began.elapsed() > CLOSING_MAX {
                break results.remarks.push(format!("{} accounts are open {CLOSING_MAX:?} later", open - stay));
            }
            sleep(CLOSING_LOOK).await;
        }
        Ok(())
    }
}

/// Whether so many accounts can be open with this limit of open files; or what to do.
fn enough_files(accounts: u32, most: Option<u64>) -> Result<(), String> {
    let needed = u64::from(accounts) * FILES_EACH + FILES_BESIDES;
    match most {
        Some(most) if most < needed => Err(format!(
            "{accounts} accounts take {needed} open files, and {most} are allowed: `ulimit -n {needed}`, or give --accounts less"
        )),
        _ => Ok(()),
    }
}

/// Of the last accounts to be opened, and so the ones that take longest when each takes longer than those before.
fn is_of_last_tenth(number: u32, accounts: u32) -> bool {
    number >= accounts - accounts.div_ceil(10)
}

/// Publishes retained messages now and then, for as long as its account is busy.
async fn retain(number: u32, mut device: Client, effort: Effort) -> (u32, Result<Client, String>) {
    let mut turns = interval(RETAINS_EVERY);
    for turn in 0..(effort.seconds / RETAINS_EVERY.as_secs_f64()) as u64 {
        turns.tick().await;
        let next = |_, topic: &mut String, message: &mut Vec<u8>| {
            *topic = format!("bench/retained/{}", turn % RETAINED_TOPICS);
            message.resize(effort.payload, b'x');
        };
        if let Err(why) = device.publish_all(1, 1, true, next).await {
            return (number, Err(why));
        }
    }
    (number, Ok(device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_tenth_is_one_account_at_least() {
        assert_eq!((0..20).filter(|number| is_of_last_tenth(*number, 20)).collect::<Vec<_>>(), [18, 19]);
        assert!(is_of_last_tenth(0, 1) && is_of_last_tenth(4, 5) && !is_of_last_tenth(3, 5));
    }

    #[test]
    fn who_may_not_open_enough_files_is_told_how_many_it_takes() {
        assert_eq!((enough_files(1_000, None), enough_files(1_000, Some(12_500))), (Ok(()), Ok(())));
        let why = enough_files(1_000, Some(1_024)).unwrap_err();
        assert!(why.contains("`ulimit -n 12500`") && !why.contains('\n'), "{why}");
    }
}
