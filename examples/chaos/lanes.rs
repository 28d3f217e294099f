//! Who makes the disasters happen: a lane for each sidecar, for the servers, for the links of each sidecar, for the routes
//! and for the streams. Lanes do not wait for each other; in a lane one thing happens at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rustix::process::Signal;
use tokio::time::Instant;

use crate::disasters::{Act, Disaster, Plan};
use crate::harness::Relay;
use crate::nats::Nats;
use crate::random::Random;
use crate::witness::{Witness, Wrong, now_ms};
use crate::world::{Server, Sidecar, World};

/// How long streams may take to be there at the start.
const STREAMS: Duration = Duration::from_secs(60);

/// How often it is looked whether a sidecar is still there.
const LOOK: Duration = Duration::from_secs(1);

/// A place where things happen.
trait Lane {
    /// Makes one of them happen, from its beginning to its end.
    async fn perform(&mut self, act: &Act);

    /// It is quiet.
    fn look(&mut self) {}
}

struct SidecarLane<'a>(&'a mut Sidecar, Arc<Witness>);
struct ServerLane<'a>(&'a mut [Server], Nats, Vec<String>, Arc<Witness>);
struct LinkLane<'a>(usize, &'a [Relay], Arc<Witness>);
struct RouteLane<'a>(&'a BTreeMap<(usize, usize), Relay>, usize, Arc<Witness>);
struct StreamLane(Nats, Vec<String>, usize, Arc<Witness>);

/// Notes when something was.
async fn noted(witness: &Witness, what: String, sidecar: Option<usize>, happen: impl Future<Output = ()>) {
    let is_deadly = what.starts_with("Kill") || what.starts_with("Term");
    let index = witness.disturbances.lock().begin(what, sidecar, is_deadly, now_ms());
    happen.await;
    witness.disturbances.lock().end(index, now_ms());
}

impl Lane for SidecarLane<'_> {
    async fn perform(&mut self, act: &Act) {
        let Self(sidecar, witness) = self;
        let what = format!("{:?} {}, {:?}", act.disaster, sidecar.name, act.length);
        let n = sidecar.n;
        let happen = async {
            match act.disaster {
                Disaster::KillSidecar => {
                    sidecar.kill();
                    tokio::time::sleep(act.length).await;
                    sidecar.start();
                }
                Disaster::TermSidecar => {
                    sidecar.signal(Signal::TERM);
                    let status = sidecar.end().await;
                    if !status.is_some_and(|status| status.success()) {
                        let what = format!("sidecar {} at SIGTERM: {status:?}", sidecar.name);
                        witness.wrong(Wrong::ProcessEnded, what, &[]);
                    }
                    tokio::time::sleep(act.length).await;
                    sidecar.start();
                }
                _ => {
                    sidecar.signal(Signal::STOP);
                    tokio::time::sleep(act.length).await;
                    sidecar.signal(Signal::CONT);
                }
            }
        };
        noted(witness, what, Some(n), happen).await;
    }

    fn look(&mut self) {
        let Self(sidecar, witness) = self;
        if let Some(status) = sidecar.ended() {
            witness.wrong(Wrong::ProcessEnded, format!("sidecar {} by itself: {status}", sidecar.name), &[]);
            sidecar.start();
        }
    }
}

impl ServerLane<'_> {
    /// The number of a server: one that leads a stream, as often as any.
    async fn chosen(&self, choice: usize) -> usize {
        let (servers, streams) = (self.0.len(), self.2.len());
        let leader = match choice % 2 {
            0 => self.1.leader(&self.2[choice / 2 % streams]).await,
            _ => None,
        };
        leader.and_then(|name| self.0.iter().position(|server| server.name == name)).unwrap_or(choice / 2 % servers)
    }
}

impl Lane for ServerLane<'_> {
    async fn perform(&mut self, act: &Act) {
        let n = self.chosen(act.choice).await;
        let Self(servers, nats, streams, witness) = self;
        let server = &mut servers[n];
        let what = format!("{:?} {}, {:?}", act.disaster, server.name, act.length);
        let happen = async {
            if act.disaster == Disaster::KillServer {
                return server.restart(act.length).await;
            }
            if act.disaster == Disaster::StopLeader {
                nats.step_down(&streams[act.choice / 16 % streams.len()]).await;
            }
            server.signal(Signal::STOP);
            tokio::time::sleep(act.length).await;
            server.signal(Signal::CONT);
        };
        noted(witness, what, None, happen).await;
    }
}

impl Lane for LinkLane<'_> {
    async fn perform(&mut self, act: &Act) {
        let Self(sidecar, links, witness) = self;
        // All of them, or one.
        let some = match act.choice % (links.len() + 1) {
            0 => *links,
            one => &links[one - 1..one],
        };
        let each = |change: fn(&Relay)| some.iter().for_each(change);
        let name = char::from(b'a' + *sidecar as u8);
        let what = format!("{:?} {name}, {} of {}, {:?}", act.disaster, some.len(), links.len(), act.length);
        let wait = tokio::time::sleep(act.length);
        let happen = async {
            match act.disaster {
                Disaster::MuteLink => {
                    each(|link| link.mute(true));
                    wait.await;
                    each(Relay::cut);
                }
                Disaster::LateLink => {
                    each(|link| (link.hold(), link.cut()).1);
                    wait.await;
                    each(Relay::release);
                }
                Disaster::SlowLink => {
                    let delay = Duration::from_millis(20 + act.choice as u64 % 200);
                    some.iter().for_each(|link| link.delay(delay));
                    wait.await;
                    each(|link| link.delay(Duration::ZERO));
                }
                Disaster::CutLink => {
                    each(|link| (link.dark(true), link.cut()).1);
                    wait.await;
                    each(|link| link.dark(false));
                }
                disaster => {
                    each(|link| link.dark(true));
                    wait.await;
                    if disaster == Disaster::HalfLink {
                        each(Relay::cut);
                    }
                    each(|link| link.dark(false));
                }
            }
        };
        noted(witness, what, Some(*sidecar), happen).await;
    }
}

impl Lane for RouteLane<'_> {
    async fn perform(&mut self, act: &Act) {
        let Self(routes, servers, witness) = self;
        let one = act.choice % *servers;
        // All ways of one server, or those to one other.
        let other = (act.choice / 8).is_multiple_of(2).then(|| (one + 1 + act.choice / 16 % (*servers - 1)) % *servers);
        let is_it = |from: usize, to: usize| from == one && other.is_none_or(|other| other == to);
        let some = routes.iter().filter(|((from, to), _)| is_it(*from, *to) || is_it(*to, *from));
        let some: Vec<&Relay> = some.map(|(_, relay)| relay).collect();
        let what = format!("{:?} n{one} to {other:?}, {:?}", act.disaster, act.length);
        let happen = async {
            some.iter().for_each(|relay| relay.dark(true));
            if act.disaster == Disaster::CutRoute {
                some.iter().for_each(|relay| relay.cut());
            }
            tokio::time::sleep(act.length).await;
            some.iter().for_each(|relay| relay.dark(false));
        };
        noted(witness, what, None, happen).await;
    }
}

impl Lane for StreamLane {
    async fn perform(&mut self, _act: &Act) {
        let Self(nats, streams, next, witness) = self;
        let stream = &streams[*next % streams.len()];
        *next += 1;
        noted(witness, format!("Stepdown {stream}"), None, async { _ = nats.step_down(stream).await }).await;
    }
}

/// Follows a plan until it is over.
async fn follow(mut lane: impl Lane, mut plan: Plan, over: Instant) {
    while let Some(act) = plan.next() {
        let at = Instant::now() + act.gap;
        if at >= over {
            break;
        }
        while Instant::now() < at {
            tokio::time::sleep_until(at.min(Instant::now() + LOOK)).await;
            lane.look();
        }
        lane.perform(&act).await;
    }
}

/// The streams of the program, when all are there.
async fn streams(nats: &Nats) -> Vec<String> {
    let since = Instant::now();
    loop {
        match nats.streams().await {
            Some(streams) if streams.len() >= 5 || since.elapsed() > STREAMS => return streams,
            _ => tokio::time::sleep(LOOK).await,
        }
    }
}

/// Makes everything happen that is wanted, until then. All is running again when this returns.
pub(crate) async fn rage(
    world: &mut World,
    wanted: &[Disaster],
    pace: f64,
    random: &mut Random,
    over: Instant,
    witness: &Arc<Witness>,
    nats: &Nats,
) {
    let streams = streams(nats).await;
    let mut plan = |here| Plan::new(random.fork(), here, wanted, pace);
    let count = world.servers.len();
    let servers = follow(
        ServerLane(&mut world.servers, nats.clone(), streams.clone(), Arc::clone(witness)),
        plan(Disaster::SERVER),
        over,
    );
    let stepdowns = plan(Disaster::STREAM);
    let stepdowns = async {
        if count > 1 {
            follow(StreamLane(nats.clone(), streams.clone(), 0, Arc::clone(witness)), stepdowns, over).await;
        }
    };
    let routes = plan(Disaster::ROUTE);
    let routes = async {
        if count > 1 {
            follow(RouteLane(&world.routes, count, Arc::clone(witness)), routes, over).await;
        }
    };
    let mut links = Vec::new();
    for (n, ways) in world.links.iter().enumerate() {
        links.push(follow(LinkLane(n, ways, Arc::clone(witness)), plan(Disaster::LINK), over));
    }
    let mut sidecars = Vec::new();
    for sidecar in &mut world.sidecars {
        sidecars.push(follow(SidecarLane(sidecar, Arc::clone(witness)), plan(Disaster::SIDECAR), over));
    }
    tokio::join!(servers, stepdowns, routes, join_all(links), join_all(sidecars), tokio::time::sleep_until(over));
}
