//! Clients with wills. Each client id lives one to four lives, one after the other: connections that end in every way in
//! which connections end, and of which the next one comes at once, before the will is due, behind that, or never.

use std::time::Duration;

use mqtt_codec::{Packet, ReasonCode, Version};
use tokio::time::Instant;

use crate::disasters::Disaster;
use crate::harness::{Client, Ended, Options, msg};
use crate::random::Random;
use crate::stage::{Opened, Stage, goodbye, letter};
use crate::trace::Trace;
use crate::witness::now_ms;
use crate::witness::wills::{Connect, End, Life, Ms, Successor};

/// Keep alive of those who fall silent, in seconds.
const KEEP_ALIVE_S: u16 = 2;

/// How often a client asks whether the server is there.
const PING_EVERY: Duration = Duration::from_millis(200);

/// How long a client that fell silent waits to be closed.
const CLOSED_WITHIN: Duration = Duration::from_secs(40);

/// What all lives of a client id have in common, and what is left of the one before.
struct Mortal {
    id: String,
    version: Version,
    random: Random,
    stage: Stage,
    trace: Trace,
    previous: Option<Previous>,
    /// CONNECTs that were complete when they were reset, and may be handled behind later ones: whether each is clean.
    reset: Vec<bool>,
    /// One of these may have ended the session.
    is_doubtful: bool,
}

/// The last connection that was accepted.
struct Previous {
    life: usize,
    sidecar: usize,
    /// When the client ended it; nothing when somebody else did.
    ended: Option<Ms>,
    due_after_ms: Ms,
    /// Its session goes on without a connection.
    is_lasting: bool,
    /// It is still open: the next one takes it over.
    open: Option<Box<Client>>,
}

/// How a client goes on.
enum Next {
    Gone,
    /// It connects again behind a pause, perhaps to the same sidecar.
    Back(Duration, Option<usize>),
}

/// How a life ends.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Goodbye,
    WithWill,
    Reset,
    Close,
    FallSilent,
    TakenOver,
    BackSoon,
    BackLate,
    Stay,
}

/// Clients with wills, one after the other.
pub(crate) async fn live(line: usize, mut random: Random, stage: Stage) {
    let trace = stage.witness.traces.of(&format!("mortal {line}"));
    let mut count = 0;
    while !stage.is_closing() {
        let version = if random.one_in(3) { Version::V311 } else { Version::V5 };
        let mut mortal = Mortal {
            id: format!("mortal {line}.{count}"),
            version,
            random: random.fork(),
            stage: stage.clone(),
            trace: trace.clone(),
            previous: None,
            reset: Vec::new(),
            is_doubtful: false,
        };
        count += 1;
        let lives = 1 + random.below(4);
        let mut place = None;
        for _ in 0..lives {
            let sidecar = place.take().unwrap_or_else(|| stage.any_sidecar(&mut random));
            let Next::Back(pause, same) = mortal.live(sidecar).await else { break };
            tokio::time::sleep(pause).await;
            place = same;
        }
        mortal.bury();
    }
}

impl Mortal {
    /// What the next connection asks for, and its life as it begins.
    fn options(&mut self) -> (Options, Life) {
        let random = &mut self.random;
        let mut options = Options::new(self.version, &self.id);
        options.connect.clean_start = random.one_in(4);
        let (mut delay_s, mut expiry_s) = (0, if options.connect.clean_start { 0 } else { u32::MAX });
        if self.version == Version::V5 {
            delay_s = [0, 0, 1, 3, 8][random.below(5)];
            expiry_s = [0, 2, 3_600, 3_600][random.below(4)];
            options.connect.properties.session_expiry_interval_s = Some(expiry_s);
        }
        if random.one_in(6) {
            options = options.keep_alive(KEEP_ALIVE_S);
        }
        let life = Life {
            client_id: self.id.clone(),
            qos: 1 + random.below(2) as u8,
            is_retained: random.one_in(4),
            due_after_ms: Ms::from(delay_s.min(expiry_s)) * 1_000,
            is_short: expiry_s == 0 && delay_s > 0,
            alive: now_ms(),
            story: format!(
                " {} {:?}, clean {}, delay {delay_s}, expiry {expiry_s}, keep alive {};",
                self.id, self.version, options.connect.clean_start, options.connect.keep_alive_s
            ),
            ..Life::default()
        };
        if let Some(delay) = Some(delay_s).filter(|delay| *delay > 0) {
            options.connect.properties.session_expiry_interval_s = Some(expiry_s);
            return (with_delay(options, delay), life);
        }
        (options, life)
    }

    /// Puts the will of a life into its CONNECT.
    fn born(&self, mut options: Options, life: Life) -> (usize, Options) {
        let delay_s = options.connect.will.as_ref().map_or(0, |will| will.delay_interval_s);
        let (qos, is_retained) = (life.qos, life.is_retained);
        let n = self.stage.witness.born(life);
        let will = msg(&format!("chaos-will/{n}"), n.to_string()).qos(qos);
        options = options.will(if is_retained { will.retained() } else { will });
        (n, with_delay(options, delay_s))
    }

    /// A later connection of the same client id came.
    fn follow(&self, accepted: Option<Ms>, is_clean: bool, is_late: bool) {
        if let Some(previous) = &self.previous {
            let successor = Successor { accepted, is_clean, is_late };
            self.stage.witness.tell(previous.life, &format!("{successor:?}"), |life| life.successors.push(successor));
        }
    }

    /// Resets in the middle of a CONNECT, which has a will of its own.
    async fn reset_in_connect(&mut self, sidecar: usize, options: &Options, life: &Life, is_lasting: bool) {
        let (n, options) = self.born(options.clone(), life.clone());
        let (stage, trace) = (self.stage.clone(), self.trace.clone());
        let is_sent = stage.reset_in_connect(sidecar, &options.connect, &mut self.random, &trace).await;
        stage.witness.tell(n, &format!("reset in CONNECT to {}, complete {is_sent}", letter(sidecar)), |life| {
            life.connect = if is_sent { Connect::Unanswered } else { Connect::Refused };
        });
        let is_clean = options.connect.clean_start;
        if is_sent {
            self.follow(None, is_clean, false);
            self.reset.push(is_clean);
            self.is_doubtful |= is_clean || !is_lasting;
        }
    }

    /// One connection from its beginning to its end.
    async fn live(&mut self, sidecar: usize) -> Next {
        let (options, life) = self.options();
        let is_clean = options.connect.clean_start;
        let is_lasting = match self.version {
            Version::V5 => options.connect.properties.session_expiry_interval_s == Some(3_600),
            _ => !is_clean,
        };
        if self.stage.has(Disaster::ResetConnect) && self.random.one_in(5) {
            self.reset_in_connect(sidecar, &options, &life, is_lasting).await;
        }
        let (due_after_ms, life) = (life.due_after_ms, Life { alive: now_ms(), ..life });
        let (n, options) = self.born(options, life);
        let sent = now_ms();
        self.stage.witness.tell(n, &format!("connects to {}", letter(sidecar)), |life| life.sidecar = sidecar);
        self.trace.event(format!("connects to {} as {}, will {n}", letter(sidecar), self.id));
        let keep_alive_s = options.connect.keep_alive_s;
        match self.stage.open(sidecar, options, &self.trace, Duration::from_secs(20)).await {
            Opened::Accepted(client) => {
                self.stage.witness.tell(n, "accepted", |life| life.connect = Connect::Accepted);
                self.accepted(sidecar, sent, is_clean, client.connack.session_present);
                self.previous = Some(Previous { life: n, sidecar, ended: None, due_after_ms, is_lasting, open: None });
                self.until_end(client, keep_alive_s).await
            }
            Opened::Refused(reason) => {
                self.stage.witness.tell(n, &format!("refused: {reason:?}"), |life| life.connect = Connect::Refused);
                tokio::time::sleep(self.random.ms(50, 500)).await;
                Next::Gone
            }
            Opened::Unanswered => {
                self.stage.witness.tell(n, "no answer", |_| {});
                self.follow(None, is_clean, false);
                tokio::time::sleep(self.random.ms(50, 500)).await;
                Next::Gone
            }
        }
    }

    /// The next connection was let in: what that means for the one before.
    fn accepted(&mut self, sidecar: usize, sent: Ms, is_clean: bool, is_present: bool) {
        let now = now_ms();
        let Some(previous) = &self.previous else { return };
        let is_late = previous.ended.is_some_and(|ended| {
            let is_due = sent > ended + previous.due_after_ms + 2_000;
            let is_quiet =
                || self.stage.witness.disturbances.lock().is_quiet(sidecar, ended.saturating_sub(1_000), now);
            is_due && previous.sidecar == sidecar && is_quiet()
        });
        if previous.is_lasting && !is_clean && !self.is_doubtful {
            let client = self.trace.name().to_owned();
            if !is_present {
                self.trace.event(format!("the session of {} is gone", self.id));
            }
            self.stage.witness.returned(&client, is_present);
        }
        self.follow(Some(now), is_clean, is_late);
        if let Some(mut open) = self.previous.as_mut().and_then(|previous| previous.open.take()) {
            // Closed by the server, or forgotten.
            tokio::spawn(async move { open.closed_within(Duration::from_secs(20)).await });
        }
    }

    /// It does not come back: what it left open is closed.
    fn bury(&mut self) {
        if let Some(open) = self.previous.as_mut().and_then(|previous| previous.open.take()) {
            open.reset();
        }
    }

    fn ending(&mut self, keep_alive_s: u16) -> Ending {
        if keep_alive_s > 0 {
            return Ending::FallSilent;
        }
        match self.random.below(12) {
            0 | 1 => Ending::Goodbye,
            2 if self.version == Version::V5 => Ending::WithWill,
            2 | 3 => Ending::Reset,
            4 => Ending::Close,
            5..=7 => Ending::TakenOver,
            8 => Ending::BackSoon,
            9 | 10 => Ending::BackLate,
            _ => Ending::Stay,
        }
    }

    /// Lives until it ends.
    async fn until_end(&mut self, mut client: Box<Client>, keep_alive_s: u16) -> Next {
        let ending = self.ending(keep_alive_s);
        let n = self.previous.as_ref().map_or(0, |previous| previous.life);
        let long = if matches!(ending, Ending::Stay) { 30_000 } else { 6_000 };
        let until = Instant::now() + self.random.ms(0, long);
        let is_closed = self.ping_until(&mut client, n, until).await;
        if is_closed {
            self.stage.witness.tell(n, "closed by the server", |life| life.end = End::Lost);
            // Perhaps for one of those that were reset before.
            self.reset.iter().for_each(|is_clean| self.follow(None, *is_clean, false));
            let pause = self.random.ms(0, 4_000);
            return if self.random.one_in(2) { Next::Back(pause, None) } else { Next::Gone };
        }
        self.stage.witness.tell(n, &format!("ends: {ending:?}"), |_| {});
        self.end(ending, client, n).await
    }

    /// Asks whether the server is there all the time; whether it closed.
    async fn ping_until(&mut self, client: &mut Client, n: usize, until: Instant) -> bool {
        let mut asked: Option<Ms> = None;
        let mut next = Instant::now();
        while Instant::now() < until && !self.stage.is_closing() {
            if asked.is_none() && Instant::now() >= next {
                next = Instant::now() + PING_EVERY;
                asked = Some(now_ms());
                client.write(&Packet::PingReq);
            }
            match client.packet(Instant::now() + Duration::from_millis(50)).await {
                Ok(Packet::PingResp) => {
                    let alive = asked.take().unwrap_or(0);
                    let lives = &mut self.stage.witness.lives.lock();
                    lives[n].alive = lives[n].alive.max(alive);
                }
                Ok(Packet::Disconnect(disconnect)) => {
                    self.stage.witness.tell(n, &format!("got DISCONNECT {:?}", disconnect.reason), |_| {});
                }
                Ok(_) | Err(Ended::Silent) => {}
                Err(Ended::Closed) => return true,
            }
        }
        false
    }

    async fn end(&mut self, ending: Ending, mut client: Box<Client>, n: usize) -> Next {
        let due_after = Duration::from_millis(self.previous.as_ref().map_or(0, |previous| previous.due_after_ms));
        let sidecar = self.previous.as_ref().map(|previous| previous.sidecar);
        let lost = |life: &mut Life| life.end = End::Lost;
        match ending {
            Ending::Goodbye => {
                self.say_goodbye(client, n).await;
                if self.random.one_in(2) { Next::Back(self.random.ms(0, 500), None) } else { Next::Gone }
            }
            Ending::WithWill => {
                client.write(&goodbye(ReasonCode::DisconnectWithWill));
                self.stage.witness.tell(n, "DISCONNECT with will", lost);
                client.closed_within(Duration::from_secs(5)).await;
                Next::Gone
            }
            Ending::FallSilent => {
                self.fall_silent(client, n).await;
                Next::Gone
            }
            Ending::TakenOver => {
                self.stage.witness.tell(n, "left open", lost);
                if let Some(previous) = &mut self.previous {
                    previous.open = Some(client);
                }
                Next::Back(Duration::ZERO, None)
            }
            Ending::Close => {
                self.stage.witness.tell(n, "closes", lost);
                drop(client);
                Next::Gone
            }
            Ending::Reset | Ending::Stay | Ending::BackSoon | Ending::BackLate => {
                self.stage.witness.tell(n, "resets", lost);
                client.reset();
                if let Some(previous) = &mut self.previous {
                    previous.ended = Some(now_ms());
                }
                match ending {
                    Ending::BackSoon => Next::Back(self.random.ms(0, 50.max(due_after.as_millis() as u64 / 2)), None),
                    Ending::BackLate if !self.random.one_in(4) => {
                        Next::Back(due_after + self.random.ms(3_000, 6_000), sidecar)
                    }
                    Ending::BackLate => Next::Back(due_after + self.random.ms(3_000, 6_000), None),
                    _ => Next::Gone,
                }
            }
        }
    }

    async fn say_goodbye(&mut self, mut client: Box<Client>, n: usize) {
        let sidecar = self.previous.as_ref().map_or(0, |previous| previous.sidecar);
        let sent = now_ms();
        client.write(&goodbye(ReasonCode::Success));
        let deadline = Instant::now() + Duration::from_secs(8);
        let mut is_disturbed = false;
        let is_closed = loop {
            match client.packet(deadline).await {
                // It ends the connection for reasons of its own.
                Ok(Packet::Disconnect(_)) => is_disturbed = true,
                Ok(_) => {}
                Err(ended) => break ended == Ended::Closed,
            }
        };
        let closed = is_closed.then(now_ms);
        is_disturbed |= self.stage.witness.disturbances.lock().has_killed(sidecar, sent.saturating_sub(100), now_ms());
        let end = End::Goodbye { sent, closed, is_disturbed };
        self.stage.witness.tell(n, &format!("{end:?}"), |life| life.end = end);
    }

    /// Says nothing any more, and waits for the server to notice.
    async fn fall_silent(&mut self, mut client: Box<Client>, n: usize) {
        let sidecar = self.previous.as_ref().map_or(0, |previous| previous.sidecar);
        let since = now_ms();
        let is_closed = client.closed_within(CLOSED_WITHIN).await;
        let is_quiet = self.stage.witness.disturbances.lock().is_quiet(sidecar, since.saturating_sub(5_000), now_ms());
        self.stage.witness.tell(n, &format!("closed {is_closed}, quiet {is_quiet}"), |life| {
            life.end = End::Lost;
            life.keep_alive_ms = if is_quiet { Ms::from(KEEP_ALIVE_S) * 1_500 } else { 0 };
        });
        client.reset();
    }
}

fn with_delay(mut options: Options, delay_s: u32) -> Options {
    if options.connect.will.is_none() {
        // Holds the place until the will has a number.
        options = options.will(msg("chaos-will", ""));
    }
    if let Some(will) = &mut options.connect.will {
        will.delay_interval_s = delay_s;
    }
    options
}
