//! Between a record as it is stored and what of it decides about ownership. The rest goes where the session goes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use mqtt_ownership::{Epoch, FormerWill, NodeId, ServerTime, Will, WillState};

use crate::account::session_user::SessionUser;
use crate::network::PeerAddr;
use crate::store::{
    LastWill, RECORD_VERSION, Rest as Fields, SessionRecord, StoredWill, WillNumber, WillState as StoredWillState,
};

/// What of a record decides.
pub(crate) type State = mqtt_ownership::State<Message, Rest>;

/// What a will publishes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    /// One for all its copies.
    stored: Arc<StoredWill>,
    /// Its message id, once it is marked: what is written, in whatever try, and what is published have one.
    id: Arc<OnceLock<String>>,
    /// What a newer version has added beside it, in the list of former wills.
    beside: Fields,
    /// The whole of a large one that came with a CONNECT here.
    whole: Option<Arc<Whole>>,
}

/// A will that its record has no room for.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) number: WillNumber,
    pub(super) will: StoredWill,
    /// It is there for the record to name it.
    is_stored: AtomicBool,
}

impl Whole {
    pub(super) fn is_stored(&self) -> bool {
        self.is_stored.load(Ordering::Relaxed)
    }

    pub(super) fn set_stored(&self) {
        self.is_stored.store(true, Ordering::Relaxed);
    }
}

impl Message {
    /// That of a CONNECT.
    pub(crate) fn new(will: StoredWill) -> Self {
        let number = WillNumber(rand::random());
        let (stored, whole) = will.divided(number);
        let whole = whole.map(|will| Arc::new(Whole { number, will, is_stored: AtomicBool::new(false) }));
        Self { stored: Arc::new(stored), whole, ..Self::default() }
    }

    /// The whole of it, if it came with a CONNECT here and its record has no room for it.
    pub(super) fn whole(&self) -> Option<&Whole> {
        self.whole.as_deref()
    }
}

/// Of one will, whoever has made its id.
impl PartialEq for Message {
    fn eq(&self, other: &Self) -> bool {
        self.stored == other.stored && self.beside == other.beside
    }
}

impl Eq for Message {}

/// The record without that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rest(Box<SessionRecord>);

impl Rest {
    /// What a new connection writes into its record, beside what its ownership says.
    pub(crate) fn new(client_id: &str, protocol: &str, remote: String, user: Option<SessionUser>) -> Self {
        let (user, user_mode) = user.map_or((None, None), |user| (Some(user.name), user.mode));
        Self(Box::new(SessionRecord {
            client_id: client_id.to_owned(),
            protocol: protocol.to_owned(),
            remote: Some(remote),
            user,
            user_mode,
            ..SessionRecord::default()
        }))
    }
}

impl Rest {
    /// Client identifier.
    pub(crate) fn client_id(&self) -> &str {
        &self.0.client_id
    }

    /// The user that the session belongs to; `None`: the account.
    pub(crate) fn user(&self) -> Option<SessionUser> {
        self.0.user.clone().map(|name| SessionUser { name, mode: self.0.user_mode.clone() })
    }

    /// Where its client has come from.
    pub(crate) fn remote(&self) -> Option<PeerAddr> {
        self.0.remote.as_deref()?.parse().ok()
    }

    /// How many pages of subscriptions are beside it.
    pub(crate) const fn pages(&self) -> u32 {
        self.0.pages
    }
}

impl mqtt_ownership::Rest for Rest {
    fn resumed(self, old: &Self) -> Self {
        let SessionRecord { version, client_id, protocol, remote, user, user_mode, accepted, .. } = *self.0;
        let old = (*old.0).clone();
        Self(Box::new(SessionRecord { version, client_id, protocol, remote, user, user_mode, accepted, ..old }))
    }
}

fn will_of(stored: StoredWill, beside: Fields) -> Will<Message> {
    let StoredWill { delay_s, due_at_ms, .. } = stored;
    let (state, id) = match &stored.state {
        StoredWillState::Armed => (WillState::Armed, OnceLock::new()),
        StoredWillState::Firing { id, .. } => (WillState::Firing, OnceLock::from(id.clone())),
    };
    let stored = StoredWill { state: StoredWillState::Armed, due_at_ms: None, ..stored };
    Will {
        delay_s,
        state,
        due_at: due_at_ms.map(ServerTime),
        message: Message { stored: Arc::new(stored), id: Arc::new(id), beside, whole: None },
    }
}

/// Makes the message id of a will, by the epoch of its connection.
pub(crate) type NameWill<'a> = &'a dyn Fn(&StoredWill, Epoch) -> String;

/// A will as it is stored.
pub(crate) fn stored_will(will: Will<Message>, name: NameWill<'_>, epoch: Epoch) -> StoredWill {
    let Will { delay_s, state, due_at, message } = will;
    let due_at_ms = due_at.map(|at| at.0);
    let state = match state {
        WillState::Armed => StoredWillState::Armed,
        WillState::Firing => StoredWillState::Firing {
            id: message.id.get_or_init(|| name(&message.stored, epoch)).clone(),
            // From the CONNECT on: a record can come back that JetStream had deleted, when its server was killed.
            after: message.stored.since,
        },
    };
    StoredWill { delay_s, state, due_at_ms, ..Arc::unwrap_or_clone(message.stored) }
}

/// What of a record decides, and the rest. Whoever has it writes it in our version, whichever it was read in.
pub(crate) fn state_of(mut record: SessionRecord) -> State {
    record.version = RECORD_VERSION;
    let former = |last: LastWill| FormerWill { epoch: Epoch(last.epoch), will: will_of(last.will, last.rest) };
    State {
        epoch: Epoch(std::mem::take(&mut record.epoch)),
        first_epoch: Epoch(std::mem::take(&mut record.first_epoch)),
        owner: record.owner.take().map(NodeId),
        connected: std::mem::take(&mut record.connected),
        since: ServerTime(std::mem::take(&mut record.since_ms)),
        expiry_s: std::mem::take(&mut record.expiry_s),
        disconnected_at: record.disconnected_at_ms.take().map(ServerTime),
        will: record.will.take().map(|will| will_of(*will, Fields::new())),
        former_wills: std::mem::take(&mut record.last_wills).into_iter().map(former).collect(),
        handover_from: std::mem::take(&mut record.handover_from).into_iter().map(NodeId).collect(),
        rest: Rest(Box::new(record)),
    }
}

/// The wills of a state.
pub(super) fn messages(state: &State) -> impl Iterator<Item = &Message> {
    let former = state.former_wills.iter().map(|former| &former.will);
    state.will.iter().chain(former).map(|will| &will.message)
}

/// The numbers of its wills that are beside the record.
pub(crate) fn wills_beside(state: &State) -> Vec<WillNumber> {
    messages(state).filter_map(|message| message.stored.body).collect()
}

/// The record of a state.
pub(crate) fn record_of(state: State, name: NameWill<'_>) -> SessionRecord {
    let last = |former: FormerWill<Message>| LastWill {
        epoch: former.epoch.0,
        rest: former.will.message.beside.clone(),
        will: stored_will(former.will, name, former.epoch),
    };
    SessionRecord {
        epoch: state.epoch.0,
        first_epoch: state.first_epoch.0,
        owner: state.owner.map(|node| node.0),
        connected: state.connected,
        since_ms: state.since.0,
        expiry_s: state.expiry_s,
        disconnected_at_ms: state.disconnected_at.map(|at| at.0),
        will: state.will.map(|will| Box::new(stored_will(will, name, state.epoch))),
        last_wills: state.former_wills.into_iter().map(last).collect(),
        handover_from: state.handover_from.into_iter().map(|node| node.0).collect(),
        ..*state.rest.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{StoredPublisher, StoredSubscription};

    const NAMED: NameWill<'static> = &|_, epoch| format!("made in {}", epoch.0);

    fn fields() -> Fields {
        Fields::from([("colour".to_owned(), 3.into())])
    }

    fn full() -> SessionRecord {
        let will = |id: &str| StoredWill {
            topic: "gone".to_owned(),
            by: Some(Box::new(StoredPublisher { denied: true, ..StoredPublisher::default() })),
            delay_s: 5,
            since: 41,
            state: StoredWillState::Firing { id: id.to_owned(), after: 41 },
            ..StoredWill::default()
        };
        SessionRecord {
            client_id: "c".to_owned(),
            epoch: 7,
            first_epoch: 3,
            owner: Some("n".to_owned()),
            connected: true,
            since_ms: 1_767_323_045_678,
            remote: Some("10.0.0.7:50112".to_owned()),
            expiry_s: 60,
            disconnected_at_ms: Some(951_782_400_000),
            subscriptions: vec![StoredSubscription { filter: "a/#".to_owned(), ..StoredSubscription::default() }],
            will: Some(Box::new(will("key.7"))),
            last_wills: vec![LastWill { epoch: 6, will: will("key.6"), rest: fields() }],
            handover_from: vec!["m".to_owned()],
            rest: fields(),
            ..SessionRecord::default()
        }
    }

    #[test]
    fn a_record_is_its_state_and_the_rest() {
        assert_eq!(record_of(state_of(full()), NAMED), full());
        let armed = StoredWill { due_at_ms: Some(9), ..StoredWill::default() };
        let waits = SessionRecord { will: Some(Box::new(armed)), ..full() };
        assert_eq!(record_of(state_of(waits.clone()), NAMED), waits);
    }

    #[test]
    fn a_will_is_named_once() {
        let armed = StoredWill { since: 41, ..StoredWill::default() };
        let mut state = state_of(SessionRecord { will: Some(Box::new(armed)), ..full() });
        state.will.as_mut().unwrap().state = WillState::Firing;
        let written = record_of(state.clone(), NAMED);
        let is_named =
            |will: StoredWill| will.state == StoredWillState::Firing { id: "made in 7".to_owned(), after: 41 };
        assert!(is_named(*written.will.clone().unwrap()));
        assert!(is_named(stored_will(state.will.clone().unwrap(), &|_, _| "another".to_owned(), Epoch(7))));
        assert_eq!(state_of(written), state, "what was written is ours");
    }

    #[test]
    fn a_session_that_goes_on_keeps_its_subscriptions_and_gets_a_new_address() {
        use mqtt_ownership::Rest as _;
        let old = state_of(full()).rest;
        let user = SessionUser { name: "lamp".to_owned(), mode: Some("file".to_owned()) };
        let Rest(resumed) = Rest::new("c", "5.0", "10.0.0.8:1".to_owned(), Some(user.clone())).resumed(&old);
        assert_eq!((resumed.subscriptions.len(), resumed.remote.as_deref()), (1, Some("10.0.0.8:1")));
        assert_eq!((resumed.user.as_deref(), resumed.user_mode.as_deref()), (Some("lamp"), Some("file")));
        let of_all = Rest::new("c", "5.0", "10.0.0.8:1".to_owned(), None).resumed(&Rest(resumed));
        assert_eq!((of_all.user(), of_all.0.user_mode), (None, None), "nothing of the user before");
    }
}
