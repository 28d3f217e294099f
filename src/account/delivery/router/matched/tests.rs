use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use bytestring::ByteString;
use mqtt_codec::{SubscriptionOptions, TopicFilter, TopicName, Version};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::account::delivery::inbox::InboxLimits;
use crate::account::delivery::subscriptions::{CameRetained, CreationOrder, Gates, Removed, Subscriptions};

const TOPIC: &str = "t/x";
const FILTERS: [&str; 4] = ["t/x", "t/+", "t/#", "#"];
const SESSIONS: usize = 3;

/// A sidecar and its server: who has which filter, and the copies of messages that are on their way.
struct World {
    subscriptions: Subscriptions,
    inboxes: Vec<Arc<Inbox>>,
    /// The filters that sessions have asked for, and whose NATS subscriptions stand, with their orders.
    asked: HashMap<(usize, usize), SubscriptionOrder>,
    /// Those of them that are entered.
    entered: Vec<(usize, usize)>,
    next_order: u64,
    /// Message and order.
    on_their_way: VecDeque<(usize, SubscriptionOrder)>,
    sent: usize,
    /// Message and session.
    got: HashMap<(usize, usize), usize>,
}

impl World {
    fn new() -> Self {
        let limits = InboxLimits { qos0_bytes: 1000, feed_messages: 10, feed_bytes: 1000 };
        let inbox = |id: usize| {
            let client_id = ByteString::from(id.to_string());
            Arc::new(Inbox::new(
                SessionId(id as u64),
                client_id,
                Version::V5,
                u32::MAX,
                Arc::new(crate::account::Rights::all()),
                limits,
                Arc::default(),
            ))
        };
        Self {
            subscriptions: Subscriptions::default(),
            inboxes: (0..SESSIONS).map(inbox).collect(),
            asked: HashMap::new(),
            entered: Vec::new(),
            next_order: 0,
            on_their_way: VecDeque::new(),
            sent: 0,
            got: HashMap::new(),
        }
    }

    /// A session asks for a filter: its NATS subscription stands, one for all who ask.
    fn ask(&mut self, session: usize, filter: usize) {
        let known = self.asked.iter().find(|((_, of), _)| *of == filter).map(|(_, order)| *order);
        let order = known.unwrap_or(SubscriptionOrder(self.next_order));
        self.next_order += u64::from(known.is_none());
        self.asked.entry((session, filter)).or_insert(order);
    }

    /// What was asked for is entered.
    fn enter(&mut self, session: usize, filter: usize) {
        let Some(order) = self.asked.get(&(session, filter)).copied() else { return };
        let subscriber = Subscriber {
            inbox: Arc::clone(&self.inboxes[session]),
            options: SubscriptionOptions::default(),
            subscription_id: None,
            leads: false,
            gates: Gates::default(),
            before: None,
            retained: CameRetained::default(),
            made: CreationOrder::default(),
        };
        self.subscriptions.insert(&TopicFilter::new(FILTERS[filter]).unwrap(), subscriber, order);
        if !self.entered.contains(&(session, filter)) {
            self.entered.push((session, filter));
        }
    }

    fn leave(&mut self, session: usize, filter: usize) {
        let name = TopicFilter::new(FILTERS[filter]).unwrap();
        assert_ne!(self.subscriptions.remove(&name, SessionId(session as u64)), Removed::NotFound);
        self.entered.retain(|one| *one != (session, filter));
        self.asked.remove(&(session, filter));
    }

    /// The server sends a message for every NATS subscription, in whichever order.
    fn send(&mut self, mut shuffle: impl FnMut(usize) -> usize) -> usize {
        let mut orders: Vec<SubscriptionOrder> = self.asked.values().copied().collect();
        orders.sort_unstable();
        orders.dedup();
        while !orders.is_empty() {
            let order = orders.swap_remove(shuffle(orders.len()));
            self.on_their_way.push_back((self.sent, order));
        }
        self.sent += 1;
        self.sent - 1
    }

    /// The next copy arrives.
    fn arrive(&mut self) {
        let Some((number, order)) = self.on_their_way.pop_front() else { return };
        let message = Message::new(TopicName::new(TOPIC).unwrap(), Bytes::from_static(b"m"), None);
        let mut matched = Matched::new(false);
        self.subscriptions.matching(TOPIC, false, &mut |entry| matched.push(entry));
        matched.targets(&message, Source::Core { order }, Audience::Everyone, |target| {
            *self.got.entry((number, usize::try_from(target.inbox.id.0).unwrap())).or_default() += 1;
        });
    }

    fn got(&self, message: usize, session: usize) -> usize {
        self.got.get(&(message, session)).copied().unwrap_or_default()
    }
}

/// The copy for a filter that somebody else is about to have comes before that is entered, those of the others behind.
#[test]
fn who_subscribes_meanwhile_takes_no_message_from_others() {
    let mut world = World::new();
    world.ask(0, 2);
    for (session, filter) in [(1, 0), (2, 1)] {
        world.ask(session, filter);
        world.enter(session, filter);
    }
    let message = world.send(|_| 0);
    world.on_their_way.make_contiguous().sort_unstable();
    world.arrive();
    world.enter(0, 2);
    world.arrive();
    world.arrive();
    assert_eq!((world.got(message, 1), world.got(message, 2)), (1, 1));
}

#[test]
fn who_subscribes_to_more_gets_what_is_on_its_way_once() {
    let mut world = World::new();
    world.ask(1, 2);
    world.enter(1, 2);
    world.ask(0, 0);
    world.enter(0, 0);
    let message = world.send(|_| 0);
    world.on_their_way.make_contiguous().sort_unstable();
    world.arrive();
    // The copy for this one, which is older, has passed already.
    world.ask(0, 2);
    world.enter(0, 2);
    world.arrive();
    assert_eq!((world.got(message, 0), world.got(message, 1)), (1, 1));
}

/// Sessions come to filters and leave them, while copies of messages arrive in any order. Who has a subscription from before
/// a message is sent until all of it has arrived gets it once, and nobody gets one twice.
#[test]
fn whoever_comes_and_goes_each_session_gets_each_message_once() {
    for seed in 0..2_000 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World::new();
        // Of each message, who had a subscription when it was sent.
        let mut had: Vec<Vec<usize>> = Vec::new();
        for _ in 0..60 {
            let (session, filter) = (rng.random_range(0..SESSIONS), rng.random_range(0..FILTERS.len()));
            match rng.random_range(0..6) {
                0 => world.ask(session, filter),
                1 => world.enter(session, filter),
                2 => {
                    had.push(world.entered.iter().map(|(session, _)| *session).collect());
                    world.send(|len| rng.random_range(0..len));
                }
                // Not while something is on its way: see the top of the file.
                3 if world.on_their_way.is_empty() && world.entered.contains(&(session, filter)) => {
                    world.leave(session, filter);
                }
                _ => world.arrive(),
            }
        }
        while !world.on_their_way.is_empty() {
            world.arrive();
        }
        for (message, had) in had.iter().enumerate() {
            for session in 0..SESSIONS {
                let got = world.got(message, session);
                assert!(got <= 1, "seed {seed}: {session} got {message} {got} times");
                let has = had.contains(&session);
                assert!(got == 1 || !has, "seed {seed}: {session} has not got {message}");
            }
        }
    }
}
