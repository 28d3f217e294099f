//! What of a session's record decides about its ownership, and the rules that need nothing else.

use std::time::Duration;

use super::time::ServerTime;

/// Grows with every owner of a session. Message ids are made of it, so none comes twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// That of the next owner. Nothing comes after the highest one, which only somebody else can have written.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Whether a record of this epoch, read at `revision`, is not the last one that there was. nats-server brings such records
    /// back when it is killed at a bad moment. Each trace is written behind a later record only.
    #[must_use]
    pub(crate) fn is_of_the_past(self, revision: Revision, trace: Option<(Revision, Trace)>) -> bool {
        match trace.filter(|(at, _)| *at > revision) {
            Some((_, Trace::Over)) => true,
            Some((_, Trace::Progress(epoch))) => epoch > self,
            Some((_, Trace::Expired)) | None => false,
        }
    }
}

/// The sequence of a record, or of what stands in its place; the fence of every write. 0: nothing is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// A sidecar, by the name of its lease.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub String);

/// An expiry that never comes, seconds [MQTT 5, 3.1.2.11.2].
pub const NEVER: u32 = u32::MAX;

/// How long a record waits for its will to be published, in seconds, after the session has expired.
pub const WILL_PATIENCE_S: u32 = 600;

/// Nodes that a new owner asks; of more the oldest are long gone.
pub const HANDOVER_NODES_MAX: usize = 8;

/// Seconds that the progress of a session stays longer than its record.
const PROGRESS_LONGER_S: u32 = 5;

/// How far the publication of a will is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WillState {
    /// Nobody publishes it.
    #[default]
    Armed,
    /// Somebody is about to, or has.
    Firing,
}

/// A will: `message` is what is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will<W> {
    /// Will Delay Interval, seconds.
    pub delay_s: u32,
    /// How far its publication is.
    pub state: WillState,
    /// When it is due, if the client does not come back.
    pub due_at: Option<ServerTime>,
    /// What is published.
    pub message: W,
}

/// The will of a connection before the last one, being published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormerWill<W> {
    /// That of its connection.
    pub epoch: Epoch,
    /// The will.
    pub will: Will<W>,
}

/// When the will of a session that is not connected any more is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Now.
    Now,
    /// After this time.
    In(Duration),
}

impl<W> Will<W> {
    /// When it is due after the connection ended: after its delay, or with the end of the session [MQTT-3.1.3-9].
    #[must_use]
    pub const fn due(&self, expiry_s: u32) -> Due {
        let delay_s = if self.delay_s < expiry_s { self.delay_s } else { expiry_s };
        if delay_s == 0 { Due::Now } else { Due::In(Duration::from_secs(delay_s as u64)) }
    }

    /// Marks it as being published.
    pub(crate) const fn fire(&mut self) {
        self.state = WillState::Firing;
        self.due_at = None;
    }
}

/// What a record says about the ownership of its session. `W`: what a will publishes; `R`: the rest of the record, such as
/// subscriptions, which goes where the session goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State<W, R> {
    /// Grows with every connect.
    pub epoch: Epoch,
    /// The epoch in which the session began: progress of an older one is not its own.
    pub first_epoch: Epoch,
    /// The node that the client is, or was last, connected to, or that puts the session in order.
    pub owner: Option<NodeId>,
    /// Whether the client is connected.
    pub connected: bool,
    /// When this connection began, or the last one.
    pub since: ServerTime,
    /// Session Expiry Interval, seconds; [`NEVER`].
    pub expiry_s: u32,
    /// When the client left.
    pub disconnected_at: Option<ServerTime>,
    /// The will that is still to be published.
    pub will: Option<Will<W>>,
    /// Wills of connections before that are being published.
    pub former_wills: Vec<FormerWill<W>>,
    /// Nodes that may have connections from before which nobody has asked for their progress yet; the oldest first.
    pub handover_from: Vec<NodeId>,
    /// The rest.
    pub rest: R,
}

/// The rest of a record.
pub trait Rest: Clone + PartialEq {
    /// As a new connection writes it that goes on with a session: `self` is that of the connection, `old` the session's.
    #[must_use]
    fn resumed(self, old: &Self) -> Self;
}

/// What stands under the key of a session's progress, by which a record of the past is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// The end of a session has left a marker.
    Over,
    /// Progress of this epoch.
    Progress(Epoch),
    /// It has reached its end of life, which says nothing.
    Expired,
}

impl<W: Clone, R> State<W, R> {
    /// Whether the session has ended, by what the record itself says: never while its connection is there [MQTT-4.1.0-1], and
    /// not before its expiry interval is over [MQTT-3.1.2-23], [MQTT-4.1.0-2].
    #[must_use]
    pub fn has_expired(&self, now: ServerTime) -> bool {
        let ended_at = self.disconnected_at.filter(|_| !self.connected && self.expiry_s != NEVER);
        ended_at.is_some_and(|at| at.after(Duration::from_secs(self.expiry_s.into())) <= now)
    }

    /// Whether a will of its is not published yet.
    #[must_use]
    pub const fn has_will(&self) -> bool {
        self.will.is_some() || !self.former_wills.is_empty()
    }

    /// Whether somebody has something to do for it when its connection is over: publish a will, or end it.
    #[must_use]
    pub const fn is_unfinished(&self) -> bool {
        self.has_will() || self.expiry_s == 0
    }

    /// How long the record of a session that is not connected stays, in seconds.
    #[must_use]
    pub fn ttl_s(&self, now: ServerTime) -> Option<u32> {
        if self.connected {
            return None;
        }
        let ended_at = self.disconnected_at.unwrap_or(now);
        let gone_s = u32::try_from(now.since(ended_at).as_secs()).unwrap_or(u32::MAX);
        // A record stays until its wills are published, which may be due at the end of the session only.
        let for_wills_s = if self.has_will() { WILL_PATIENCE_S } else { 0 };
        match self.expiry_s {
            NEVER => None,
            s => Some(s.saturating_sub(gone_s).saturating_add(for_wills_s).max(1)),
        }
    }

    /// The same of its progress: longer.
    #[must_use]
    pub fn progress_ttl_s(&self, now: ServerTime) -> Option<u32> {
        self.ttl_s(now).map(|s| s.saturating_add(PROGRESS_LONGER_S))
    }

    /// Whether this record, read at `revision`, is not the last one that there was.
    #[must_use]
    pub fn is_of_the_past(&self, revision: Revision, trace: Option<(Revision, Trace)>) -> bool {
        self.epoch.is_of_the_past(revision, trace)
    }

    /// The nodes that the next owner has to ask: the last owner, and those whom the last one may not have asked, because it
    /// died or was taken over itself. `next`: the next owner, which has ended its own connections.
    #[must_use]
    pub fn handover_from(&self, next: &NodeId) -> Vec<NodeId> {
        let last = self.owner.as_ref().filter(|_| self.connected);
        let mut nodes: Vec<NodeId> = Vec::new();
        for from in self.handover_from.iter().chain(last).filter(|from| *from != next) {
            if !nodes.contains(from) {
                nodes.push(from.clone());
            }
        }
        nodes.split_off(nodes.len().saturating_sub(HANDOVER_NODES_MAX))
    }

    /// The wills of connections before a new one, marked as being published: those whose publication was not finished, and
    /// that of the last one when it is due by now. That is a will without delay, whether its connection is there or
    /// somebody has begun to put its session in order, one whose delay has passed, or any of a session that ends now;
    /// others are cancelled [MQTT-3.1.3-9].
    #[must_use]
    pub fn former_wills(&self, is_resumed: bool, now: ServerTime) -> Vec<FormerWill<W>> {
        let mut wills = self.former_wills.clone();
        let Some(mut will) = self.will.clone() else { return wills };
        let has_passed = || will.due_at.is_some_and(|at| at <= now);
        let is_due = !is_resumed || will.due(self.expiry_s) == Due::Now || (!self.connected && has_passed());
        if will.state == WillState::Armed && !is_due {
            return wills;
        }
        will.fire();
        wills.push(FormerWill { epoch: self.epoch, will });
        wills
    }

    /// The connection is over: its will is due after its delay.
    pub(crate) fn disconnect(&mut self, now: ServerTime) {
        if std::mem::take(&mut self.connected) {
            self.disconnected_at = Some(now);
            let expiry_s = self.expiry_s;
            if let Some(will) = &mut self.will
                && let Due::In(delay) = will.due(expiry_s)
            {
                will.due_at.get_or_insert(now.after(delay));
            }
        }
    }

    /// Marks its will, if it is due.
    pub(crate) fn fire_if_due(&mut self, now: ServerTime) {
        if let Some(will) = &mut self.will
            && will.due_at.is_none_or(|at| at <= now)
        {
            will.fire();
        }
    }

    /// When its wills are due, not before now.
    pub(crate) fn due_at(&self, now: ServerTime) -> ServerTime {
        let due_at = self.will.as_ref().and_then(|will| will.due_at).filter(|_| self.former_wills.is_empty());
        due_at.map_or(now, |due_at| due_at.max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: ServerTime = ServerTime(1_000);

    fn old(owner: &str, connected: bool, from: &[&str]) -> State<&'static str, ()> {
        State {
            epoch: Epoch(7),
            first_epoch: Epoch(7),
            owner: Some(NodeId(owner.to_owned())),
            connected,
            since: ServerTime(0),
            expiry_s: 60,
            disconnected_at: None,
            will: None,
            former_wills: Vec::new(),
            handover_from: from.iter().map(|&node| NodeId(node.to_owned())).collect(),
            rest: (),
        }
    }

    #[test]
    fn whom_nobody_has_asked_is_asked_by_the_next_one() {
        let asked = |old: State<&str, ()>, next: &str| -> Vec<String> {
            old.handover_from(&NodeId(next.to_owned())).into_iter().map(|node| node.0).collect()
        };
        assert_eq!(asked(old("a", true, &[]), "b"), ["a"]);
        assert_eq!(asked(old("a", false, &[]), "b"), [""; 0], "its connection has ended");
        assert_eq!(asked(old("a", true, &["c", "b", "a"]), "b"), ["c", "a"]);
        assert_eq!(asked(old("a", false, &["c"]), "a"), ["c"], "nobody has asked for that one");
        let many: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(asked(old("a", true, &many), "b").last().unwrap(), "a");
        assert_eq!(asked(old("a", true, &many), "b").len(), HANDOVER_NODES_MAX);
    }

    #[test]
    fn a_new_connection_makes_a_will_due_or_cancels_it() {
        let due = |delay_s, connected, due_at, is_resumed| {
            let will = Will { delay_s, state: WillState::Armed, due_at, message: "gone" };
            let state = State { will: Some(will), ..old("a", connected, &[]) };
            !state.former_wills(is_resumed, ServerTime(1_000)).is_empty()
        };
        assert!(due(0, true, None, true), "the old connection ends [MQTT-3.1.4-3]");
        assert!(due(0, false, None, true), "it has ended, and nobody has published it yet");
        assert!(!due(5, true, None, true) && !due(5, false, Some(ServerTime(1_001)), true), "cancelled [MQTT-3.1.3-9]");
        assert!(due(5, false, Some(ServerTime(1_000)), true), "its delay has passed");
        assert!(!due(5, false, None, true), "nobody has said when that is");
        assert!(
            due(5, true, None, false) && due(5, false, Some(ServerTime(9_000)), false),
            "the session ends [MQTT-3.1.3-9]"
        );
    }

    #[test]
    fn mqtt_3_1_2_23_a_session_ends_when_its_expiry_interval_is_over_and_its_connection_is_not_there() {
        let expired = |connected, expiry_s, ended_ms, now| {
            State { expiry_s, disconnected_at: ended_ms, ..old("a", connected, &[]) }.has_expired(now)
        };
        assert!(expired(false, 60, Some(ServerTime(1_000)), ServerTime(61_000)));
        assert!(!expired(false, 60, Some(ServerTime(1_000)), ServerTime(60_999)));
        assert!(!expired(true, 60, Some(ServerTime(1_000)), ServerTime(61_000)), "[MQTT-4.1.0-1]");
        assert!(!expired(false, NEVER, Some(ServerTime(1_000)), ServerTime(u64::MAX)));
        assert!(!expired(false, 60, None, ServerTime(u64::MAX)), "nobody has said that it ended");
    }

    #[test]
    fn a_record_stays_for_its_session_and_for_its_wills() {
        let ttl = |connected, expiry_s, will: bool, ended_ms| {
            let will = will.then_some(Will { delay_s: 0, state: WillState::Armed, due_at: None, message: "gone" });
            State { expiry_s, will, disconnected_at: ended_ms, ..old("a", connected, &[]) }.ttl_s(ServerTime(11_000))
        };
        assert_eq!(ttl(true, 60, false, None), None);
        assert_eq!(ttl(false, NEVER, false, Some(ServerTime(1_000))), None);
        assert_eq!(ttl(false, 60, false, Some(ServerTime(1_000))), Some(50));
        assert_eq!(ttl(false, 60, true, Some(ServerTime(1_000))), Some(50 + WILL_PATIENCE_S));
        assert_eq!(ttl(false, 0, false, Some(ServerTime(1_000))), Some(1), "not for ever");
        assert_eq!(ttl(false, 60, false, None), Some(60));
        let state = State { disconnected_at: Some(ServerTime(1_000)), ..old("a", false, &[]) };
        assert_eq!(state.progress_ttl_s(ServerTime(11_000)), Some(50 + PROGRESS_LONGER_S));
    }

    fn armed(delay_s: u32, due_at: Option<ServerTime>) -> Option<Will<&'static str>> {
        Some(Will { delay_s, state: WillState::Armed, due_at, message: "gone" })
    }

    #[test]
    fn mqtt_3_1_3_9_a_will_is_due_after_its_delay_or_with_the_end_of_its_session() {
        let due =
            |delay_s, expiry_s| Will { delay_s, state: WillState::Armed, due_at: None, message: () }.due(expiry_s);
        assert_eq!((due(0, 60), due(30, 0), due(0, 0)), (Due::Now, Due::Now, Due::Now));
        assert_eq!(
            (due(30, 60), due(60, 30), due(30, 30)),
            (
                Due::In(Duration::from_millis(30_000)),
                Due::In(Duration::from_millis(30_000)),
                Due::In(Duration::from_millis(30_000))
            )
        );
        assert_eq!(due(NEVER, NEVER), Due::In(Duration::from_millis(u64::from(NEVER) * 1_000)));
    }

    #[test]
    fn the_end_of_a_connection_is_written_down_once_and_its_will_is_due_from_then() {
        let left = |connected, will, ended_ms| {
            let mut state = State { will, disconnected_at: ended_ms, ..old("a", connected, &[]) };
            state.disconnect(ServerTime(1_000));
            (state.connected, state.disconnected_at, state.will)
        };
        assert_eq!(left(true, None, None), (false, Some(ServerTime(1_000)), None));
        assert_eq!(
            left(true, armed(5, None), None),
            (false, Some(ServerTime(1_000)), armed(5, Some(ServerTime(6_000))))
        );
        assert_eq!(
            left(true, armed(90, None), None),
            (false, Some(ServerTime(1_000)), armed(90, Some(ServerTime(61_000))))
        );
        assert_eq!(left(true, armed(0, None), None), (false, Some(ServerTime(1_000)), armed(0, None)), "at once");
        assert_eq!(
            left(false, armed(5, Some(ServerTime(9_000))), Some(ServerTime(4_000))),
            (false, Some(ServerTime(4_000)), armed(5, Some(ServerTime(9_000))))
        );
        assert_eq!(left(false, armed(5, None), None), (false, None, armed(5, None)));
    }

    #[test]
    fn a_will_is_marked_when_its_time_has_come() {
        let fired = |due_at| {
            let mut state = State { will: armed(5, due_at), ..old("a", false, &[]) };
            state.fire_if_due(ServerTime(1_000));
            state.will
        };
        let firing = armed(5, None).map(|will| Will { state: WillState::Firing, ..will });
        assert_eq!(
            (fired(None), fired(Some(ServerTime(999))), fired(Some(ServerTime(1_000)))),
            (firing.clone(), firing.clone(), firing)
        );
        assert_eq!(fired(Some(ServerTime(1_001))), armed(5, Some(ServerTime(1_001))));
        let mut none = old("a", false, &[]);
        none.fire_if_due(ServerTime(1_000));
        assert_eq!(none.will, None);
    }

    #[test]
    fn wills_wait_for_their_time_but_not_for_one_another() {
        let former = FormerWill {
            epoch: Epoch(3),
            will: Will { delay_s: 0, state: WillState::Firing, due_at: None, message: "gone" },
        };
        let state = |due_at| State { will: armed(5, due_at), ..old("a", false, &[]) };
        assert_eq!(state(Some(ServerTime(3_500))).due_at(NOW), ServerTime(3_500));
        assert_eq!((state(Some(ServerTime(900))).due_at(NOW), state(None).due_at(NOW)), (NOW, NOW));
        assert_eq!(State { former_wills: vec![former], ..state(Some(ServerTime(3_500))) }.due_at(NOW), NOW);
        assert_eq!(old("a", false, &[]).due_at(NOW), NOW);
    }

    #[test]
    fn a_will_whose_publication_has_begun_is_published_whatever_its_delay() {
        let will = armed(5, None).map(|will| Will { state: WillState::Firing, ..will });
        let former = State { will: will.clone(), ..old("a", false, &[]) }.former_wills(true, ServerTime(1_000));
        assert_eq!(former, [FormerWill { epoch: Epoch(7), will: will.unwrap() }]);
    }

    #[test]
    fn what_is_left_to_do_when_a_connection_is_over() {
        let will = || Will { delay_s: 0, state: WillState::Armed, due_at: None, message: "gone" };
        let (plain, former) = (old("a", true, &[]), FormerWill { epoch: Epoch(3), will: will() });
        assert!(!plain.has_will() && !plain.is_unfinished());
        assert!(State { will: Some(will()), ..plain.clone() }.is_unfinished());
        assert!(State { former_wills: vec![former], ..plain.clone() }.has_will());
        let ends = State { expiry_s: 0, ..plain };
        assert!(!ends.has_will() && ends.is_unfinished());
    }

    #[test]
    fn a_record_of_the_past_is_known_by_its_trace() {
        let state = old("a", true, &[]);
        let is_past = |at, trace| state.is_of_the_past(Revision(5), Some((Revision(at), trace)));
        assert!(is_past(6, Trace::Over) && is_past(6, Trace::Progress(Epoch(8))));
        assert!(!is_past(4, Trace::Over), "that of the session before");
        assert!(!is_past(6, Trace::Progress(Epoch(7))) && !is_past(6, Trace::Expired));
    }
}
