//! By how much the servers grow when they have many of something, divided by how many.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::sleep;

use crate::client::{Client, Endpoint};
use crate::crowd::{AT_ONCE, together};
use crate::measured::{Figure, Measured};
use crate::process::resident;
use crate::system::Target;

/// How many of each there are at the beginning, so that what the first one costs is not divided among the others.
const FIRST: u64 = 64;

/// How long all of them may take to come.
const PREPARING_MAX: Duration = Duration::from_secs(60);

/// So many must have come for a figure.
const ENOUGH: u64 = 500;

/// How long servers have to come to rest before they are looked at.
const REST: Duration = Duration::from_secs(2);

/// Filters of each client that subscribes. nats-server allows no more than 63 at QoS 1.
const FILTERS_EACH: u64 = 50;

/// Retained messages of each client that publishes.
const RETAINED_EACH: u64 = 200;

/// What there are many of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// Connections with clean sessions and nothing else.
    Connections,
    /// Subscriptions at this QoS, of clients that are there already.
    Subscriptions(u8),
    /// Sessions without a connection, with one subscription at QoS 1.
    SessionsAway,
    /// Retained messages, each on its own topic.
    Retained,
}

impl Held {
    /// How many of them are held.
    pub(crate) fn count(self) -> u64 {
        match self {
            Self::Connections => 5_000,
            Self::Subscriptions(_) => 5_000,
            Self::SessionsAway => 5_000,
            Self::Retained => 20_000,
        }
    }

    /// How many steps are taken at the same time. Who may have no more than some subscriptions gets to that limit in order.
    fn at_once(self) -> u64 {
        if matches!(self, Self::Subscriptions(_)) { 1 } else { AT_ONCE }
    }

    /// How many come with each step.
    fn at_a_time(self) -> u64 {
        match self {
            Self::Connections | Self::SessionsAway => 1,
            Self::Subscriptions(_) => FILTERS_EACH,
            Self::Retained => RETAINED_EACH,
        }
    }
}

/// Holds many of something, and tells what each of them takes.
pub(crate) async fn run(target: &Target, held: Held, payload: usize) -> Result<Measured, String> {
    let endpoint = target.endpoint;
    let steps = held.count() / held.at_a_time();
    let first = (FIRST / held.at_a_time()).max(1);
    let mut clients = Vec::new();
    if let Held::Subscriptions(_) = held {
        let open = move |i| async move { Client::connect(endpoint, &format!("bench-{i}"), true).await.map(Mutex::new) };
        clients = together(first + steps, AT_ONCE, None, open).await.all()?;
    }
    let clients = Arc::new(clients);
    let step = move |i: u64| {
        let clients = clients.clone();
        async move {
            match held {
                Held::Connections => return Client::connect(endpoint, &format!("bench-{i}"), true).await.map(Some),
                Held::Subscriptions(qos) => subscribe(&mut *clients[i as usize].lock().await, i, qos).await?,
                Held::SessionsAway => leave_behind(endpoint, i).await?,
                Held::Retained => retain(endpoint, i, payload).await?,
            }
            Ok(None)
        }
    };
    // Connections stay open until all is measured.
    let _first = together(first, held.at_once(), None, step.clone()).await.all()?;
    let before = at_rest(target).await;
    let done = together(steps, held.at_once(), Some(PREPARING_MAX), move |i| step(first + i)).await;
    let after = at_rest(target).await;
    let count = done.results.len() as u64 * held.at_a_time();
    let shortfall = done.shortfall(held.at_a_time());
    if count < ENOUGH {
        return Err(shortfall.unwrap_or_else(|| format!("{count} are too few")));
    }
    let mut measured = Measured::default();
    let grown = after.zip(before).map(|(after, before)| after as f64 - before as f64);
    measured.figure(Figure::BytesEach, grown.map(|grown| grown.max(0.0) / count as f64));
    measured.remarks.extend(shortfall);
    Ok(measured)
}

async fn at_rest(target: &Target) -> Option<u64> {
    sleep(REST).await;
    resident(&target.processes)
}

async fn subscribe(client: &mut Client, number: u64, qos: u8) -> Result<(), String> {
    let filters: Vec<String> = (0..FILTERS_EACH).map(|i| format!("bench/held/{number}/{i}")).collect();
    client.subscribe(&filters, qos).await
}

async fn leave_behind(endpoint: Endpoint, number: u64) -> Result<(), String> {
    let mut client = Client::connect(endpoint, &format!("bench-{number}"), false).await?;
    client.subscribe(&[format!("bench/away/{number}")], 1).await?;
    client.disconnect().await
}

async fn retain(endpoint: Endpoint, number: u64, payload: usize) -> Result<(), String> {
    let mut client = Client::connect(endpoint, &format!("bench-{number}"), true).await?;
    let next = |i, topic: &mut String, message: &mut Vec<u8>| {
        *topic = format!("bench/retained/{number}/{i}");
        message.resize(payload, b'x');
    };
    client.publish_all(RETAINED_EACH, 16, true, next).await?;
    client.disconnect().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_them_come_in_whole_steps() {
        for held in [Held::Connections, Held::Subscriptions(1), Held::SessionsAway, Held::Retained] {
            assert_eq!(held.count() % held.at_a_time(), 0, "{held:?}");
            assert!(held.count() >= ENOUGH, "{held:?}");
        }
    }
}
