//! A session comes back, and much has gone into the log meanwhile, of which little is for it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::client::{Client, Endpoint};
use crate::measured::{Figure, Measured};
use crate::process::cpu_time;
use crate::system::Target;
use crate::wire;

/// Messages at QoS 1 that are published while the session is away.
pub(crate) const LOG: u64 = 100_000;

/// One of so many is for the session.
pub(crate) const ONE_OF: u64 = 100;

/// The others are for so many topics.
const TOPICS: u64 = 1000;

const IN_FLIGHT: u64 = 128;

/// How long servers have to come to rest before the session comes back.
const REST: Duration = Duration::from_secs(1);

/// How long all of it may take.
const WAKE_MAX: Duration = Duration::from_secs(60);

const SLEEPER: &str = "bench-sleeper";
const TOPIC: &str = "bench/wake/mine";

/// Lets a session sleep and wake up, and tells when its messages came.
pub(crate) async fn run(target: &Target, payload: usize) -> Result<Measured, String> {
    let endpoint = target.endpoint;
    let mut sleeper = Client::connect(endpoint, SLEEPER, false).await?;
    sleeper.subscribe(&[TOPIC], 1).await?;
    sleeper.disconnect().await?;

    let mut publisher = Client::connect(endpoint, "bench-publisher", true).await?;
    let next = |i: u64, topic: &mut String, message: &mut Vec<u8>| {
        *topic = if is_for_it(i) { TOPIC.to_owned() } else { format!("bench/wake/other/{}", i % TOPICS) };
        message.clear();
        message.extend(i.to_le_bytes());
        message.resize(payload.max(size_of::<u64>()), b'x');
    };
    publisher.publish_all(LOG, IN_FLIGHT, false, next).await?;
    publisher.disconnect().await?;
    sleep(REST).await;

    let before = cpu_time(&target.processes);
    let mut arrivals = Arrivals::new();
    let awake = tokio::time::timeout(WAKE_MAX, wake(endpoint, &mut arrivals)).await;
    awake.map_err(|_| format!("{WAKE_MAX:?} were not enough"))??;
    if arrivals.missing > 0 {
        return Err(format!("{} of {} messages did not come", arrivals.missing, LOG / ONE_OF));
    }
    let last = arrivals.begin.elapsed();
    let cpu = cpu_time(&target.processes).and_then(|after| after.checked_sub(before?));

    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let mut measured = Measured::default();
    measured.figure(Figure::FirstMs, arrivals.first.map(ms));
    measured.figure(Figure::LastMs, Some(ms(last)));
    measured.figure(Figure::CpuMs, cpu.map(ms));
    measured.remark("out of order or twice", arrivals.out_of_order);
    Ok(measured)
}

fn is_for_it(number: u64) -> bool {
    number % ONE_OF == ONE_OF - 1
}

/// What has come to the session.
struct Arrivals {
    begin: Instant,
    first: Option<Duration>,
    /// The number of the message that should be next.
    next: u64,
    out_of_order: u64,
    missing: u64,
}

impl Arrivals {
    fn new() -> Self {
        Self { begin: Instant::now(), first: None, next: 0, out_of_order: 0, missing: 0 }
    }

    /// Whether the last one was that.
    fn add(&mut self, number: u64) -> bool {
        self.first.get_or_insert_with(|| self.begin.elapsed());
        if number < self.next || !is_for_it(number) {
            self.out_of_order += 1;
        } else {
            self.missing += (number - self.next) / ONE_OF;
            self.next = number + 1;
        }
        self.next == LOG
    }
}

/// Connects, and acknowledges until the last message has come.
async fn wake(endpoint: Endpoint, arrivals: &mut Arrivals) -> Result<(), String> {
    let mut client = Client::connect(endpoint, SLEEPER, false).await?;
    if !client.accepted.is_session_present {
        return Err("the session was not there".to_owned());
    }
    loop {
        let mut packet = Some(client.packet().await.map_err(|e| format!("{e} after message {}", arrivals.next))?);
        while let Some(received) = packet {
            if received.first >> 4 == wire::PUBLISH {
                let message = wire::publish_of(client.version, received.first, &received.body);
                let message = message.map_err(|e| e.to_string())?;
                wire::put_acknowledgement(&mut client.output, wire::PUBACK, message.packet_id);
                let number = message.payload.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
                if arrivals.add(number.ok_or("a message of nobody came")?) {
                    client.flush().await?;
                    return Ok(());
                }
            }
            packet = client.buffered()?;
        }
        client.flush().await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_message_of_the_log_is_for_the_session() {
        assert!(is_for_it(LOG - 1));
        assert_eq!((0..LOG).filter(|&i| is_for_it(i)).count() as u64, LOG / ONE_OF);
        let mut arrivals = Arrivals::new();
        assert!(!arrivals.add(ONE_OF - 1));
        assert!(!arrivals.add(ONE_OF - 1));
        assert!(!arrivals.add(ONE_OF));
        assert_eq!((arrivals.next, arrivals.out_of_order, arrivals.missing), (ONE_OF, 2, 0));
        assert!(arrivals.add(LOG - 1));
        assert_eq!(arrivals.missing, LOG / ONE_OF - 2);
    }
}
