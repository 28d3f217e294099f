//! Two tenants that have everything by the same names, at work at the same time on the same two sidecars.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::{HeaderMap, Subscriber};
use futures_util::StreamExt as _;
use mqtt_codec::{Publish, ReasonCode};
use tokio::time::Instant;

use crate::accounts::{ACCOUNTS, Tenants, nats, of, retained};
use crate::harness::{Client, NatsServer, Options, PATIENCE, Sidecar, msg, settle};
use crate::requests::{answer_to, ask};

/// Messages of each tenant.
const EACH: usize = 5_000;

/// How long all of it may take.
const DONE_WITHIN: Duration = Duration::from_secs(90);

/// A tenant, and all that a NATS client of it sees.
struct Tenant {
    user: &'static str,
    /// What begins the payloads of the other one, and its client ids that the first does not have.
    foreign: &'static str,
    nats: async_nats::Client,
    everything: Subscriber,
}

impl Tenant {
    async fn new(server: &NatsServer, user: &'static str, foreign: &'static str, login: [&str; 2]) -> Self {
        let nats = nats(server, login[0], login[1]).await;
        let everything = nats.subscribe(">").await.unwrap();
        settle(&nats).await;
        Self { user, foreign, nats, everything }
    }

    async fn client(&self, sidecar: &Sidecar, id: &str) -> Client {
        sidecar.connect(of(self.user, Options::v5(id).durable(60))).await
    }

    fn check(&self, message: &Publish) {
        let payload = std::str::from_utf8(&message.payload).unwrap();
        assert!(payload.starts_with(&format!("of-{} ", self.user)), "{} has {message:?}", self.user);
    }

    /// Takes messages until there are as many as were published, by itself or together with others.
    async fn take(&self, client: &mut Client, taken: &AtomicUsize) {
        let deadline = Instant::now() + DONE_WITHIN;
        while taken.load(Ordering::SeqCst) < EACH {
            assert!(Instant::now() < deadline, "{}: {} messages", self.user, taken.load(Ordering::SeqCst));
            // Of a group another one may have the last.
            if let Ok(message) = client.try_receive(Duration::from_millis(200)).await {
                self.check(&message);
                taken.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    /// Publishes, receives all by a subscription and by a group, answers a request amid it.
    async fn work(&self, [first, second]: [&Sidecar; 2]) {
        let mut publisher = self.client(first, "publisher").await;
        let mut all = self.client(second, "all").await;
        let mut members = [self.client(first, "member-1").await, self.client(second, "member-2").await];
        let mut device = self.client(second, "device").await;
        all.subscribe("cross/#", 1).await;
        device.subscribe("cmd/#", 1).await;
        for member in &mut members {
            member.subscribe("$share/g/cross/#", 1).await;
        }
        let messages = (0..EACH).map(|number| {
            let message = msg(&format!("cross/{}", number % 10), format!("of-{} {number}", self.user)).qos(1);
            if number % 100 == 0 { message.retained() } else { message }
        });
        let (by_all, by_group) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let [one, other] = &mut members;
        tokio::join!(
            publisher.publish_all(messages, 50, |_| {}),
            self.take(&mut all, &by_all),
            self.take(one, &by_group),
            self.take(other, &by_group),
            async {
                let answer = ask(&self.nats, "cmd.x", HeaderMap::new(), &format!("of-{} asks", self.user));
                let request = device.receive().await;
                self.check(&request);
                device.publish(answer_to(&request, &format!("of-{} answers", self.user), 1)).await;
                assert_eq!(answer.await.unwrap().payload, format!("of-{} answers", self.user));
            },
        );
        assert_eq!([by_all.into_inner(), by_group.into_inner()], [EACH, EACH]);
        for client in members.into_iter().chain([publisher, all, device]) {
            client.disconnect(ReasonCode::Success).await;
        }
    }

    /// Until this comes back, a NATS client of the tenant was told nothing of the other one.
    async fn saw_nothing_else(&mut self) {
        self.nats.publish("the.end", "".into()).await.unwrap();
        let mut crossed = 0;
        loop {
            let next = tokio::time::timeout(PATIENCE, self.everything.next()).await;
            let message = next.expect("the end in time").expect("the subscription goes on");
            if message.subject.as_str() == "the.end" {
                break;
            }
            let text = format!("{} {:?} {}", message.subject, message.headers, message.payload.escape_ascii());
            assert!(!text.contains(self.foreign), "{}: {text}", self.user);
            crossed += usize::from(message.subject.starts_with("cross."));
        }
        assert!(crossed >= EACH, "{crossed}");
    }

    /// How many clients of it are connected, as it is told.
    async fn connected(&self, sidecar: &Sidecar, wanted: &str) {
        let mut client = self.client(sidecar, "curious").await;
        client.subscribe("$SYS/broker/clients/connected", 0).await;
        while client.receive().await.payload != wanted {}
        client.disconnect(ReasonCode::Success).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_messages_of_two_tenants_cross_and_none_gets_to_the_other() {
    let server = NatsServer::start_with(true, ACCOUNTS);
    let tenants = Tenants::new("\n[mqtt]\nsys_interval = \"200ms\"\n");
    let sidecars = [tenants.sidecar("first", &server).await, tenants.sidecar("second", &server).await];
    let mut a = Tenant::new(&server, "a", "of-b", ["one", "pw1"]).await;
    let mut b = Tenant::new(&server, "b", "of-a", ["two", "pw2"]).await;
    // Events name clients: one of each has an id that the other has not.
    let own = Arc::new([a.client(&sidecars[0], "of-a").await, b.client(&sidecars[0], "of-b").await]);
    let also = b.client(&sidecars[0], "of-b-2").await;
    let both = [&sidecars[0], &sidecars[1]];
    tokio::join!(a.work(both), b.work(both));
    // Whoever asks is one of them.
    tokio::join!(a.connected(&sidecars[0], "2"), b.connected(&sidecars[0], "3"));
    drop((own, also));
    for (tenant, wanted) in [(&mut a, "of-a "), (&mut b, "of-b ")] {
        tenant.saw_nothing_else().await;
        let retained = retained(&sidecars[1], tenant.user, "cross/0").await;
        assert!(matches!(&*retained, [shown] if shown.starts_with(&format!("cross/0 {wanted}"))), "{retained:?}");
    }
}
