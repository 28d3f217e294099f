//! What one connection publishes, from the packet to its subscribers and to JetStream.
//!
//! ```text
//! QoS 0            -> subscribers here, core NATS
//! QoS 1, 2         -> log -> (stored) acknowledge, core NATS        (subscribers: from the log)
//! QoS 0, retain    -> retained bucket -> (stored or not) subscribers here, core NATS
//! QoS 1, 2, retain -> retained bucket -> (stored) log -> (stored) acknowledge, core NATS
//! ```
//!
//! The bucket comes first, so that whoever subscribes gets a retained message from it or live, and never neither.
//! While a topic waits for the bucket, what the client publishes there later waits behind it: order within a topic is
//! that of the client [MQTT-4.6.0-5, -6]. Acknowledgements are the session's: it is told what was stored.

pub(in crate::account) mod completions;
pub(in crate::account) mod convert;
mod driver;
pub(in crate::account) mod ended_epochs;
mod epochs;
mod job;
mod judging;
mod live;
mod moved;
mod names;
mod own_state;
mod retained;
pub(in crate::account) mod retained_writer;
mod retaining;
pub(in crate::account) mod size_refusals;

pub(crate) use job::{CoreCopy, Done, Refused};

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytestring::ByteString;
use foldhash::{HashMap, HashMapExt};
use mqtt_codec::{QoS, ReasonCode, TopicName};
use mqtt_ownership::{Epoch, ServerTime};
use mqtt_session::{Publication, Sequence};
use proto_map::Subject;

use self::completions::{Completed, Completions, PublishOutcome, Unanswered};
use self::job::{EpochText, Job, Prerequisite, PublishWait, PutToken, Route, Stage, Unstorable};
use crate::account::delivery::inbox::Wakes;
use crate::account::delivery::logs::LogsVersion;
use crate::account::requests::OpenRequests;
use crate::account::rights::{Rights, RightsVersion};
use crate::account::{Account, TooLarge};
use crate::store::{Permit, Put, PutError, PutGuard, PutTarget, Stored, StoredSink};

/// Publishes of one connection that may be on their way, whatever their QoS. Above it the socket is not read.
const MAX_JOBS: usize = 1024;

/// Bytes of those that wait behind a retained message of their topic. Above it the socket is not read.
const MAX_BYTES_BEHIND: usize = 1024 * 1024;

/// The publishes of one connection.
pub(crate) struct Publishing {
    pub(in crate::account) account: Arc<Account>,
    pub(in crate::account) completions: Arc<Completions>,
    /// Taken out of those, and empty between two turns.
    completed: Completed,
    /// What has to come before more can be published.
    waiting: Option<PublishWait>,
    /// The requests that a client of MQTT 3.x can answer.
    pub(in crate::account) open_requests: Option<Arc<OpenRequests>>,
    /// With the store, named by their place; `None` is done.
    stored: VecDeque<Option<Job>>,
    first: PutToken,
    /// Ready for the store, in order; the first waits for a permit.
    parked: VecDeque<Job>,
    /// Behind a retained message of the same topic that is not in the log yet.
    behind: HashMap<TopicName, VecDeque<Job>>,
    bytes_behind: usize,
    /// Core NATS took no more: to be sent before anything else goes there.
    unsent: VecDeque<CoreCopy>,
    /// The first of those is being handed over, see [`Prerequisite::Core`].
    is_handing_over: bool,
    /// The version of [`Logs`](crate::account::delivery::logs::Logs) by which the last job was routed, and the place below which jobs were
    /// routed by an older one.
    version: LogsVersion,
    older_below: PutToken,
    /// Publishes whose answers are reported; see [`Completions::report`].
    pub(in crate::account) unreported: usize,
    /// With the version of the rights.
    last_topic: Option<(TopicName, Route, RightsVersion)>,
    /// How the last one that went into a log is stored there: by its subject, and the version by which it was routed.
    last_target: Option<(Subject, LogsVersion, PutTarget)>,
    /// The client id as a part of a subject, of a session that has a record: its QoS 2 messages and its will have names
    /// that outlive this process.
    client_key: Option<ByteString>,
    /// The message id of all that is published here: of a will, which its record has.
    given_id: Option<ByteString>,
    /// Set while the client has a No Local subscription: its messages say whose they are.
    pub(crate) tells_publisher: bool,
    /// What the client may do; of what we publish ourselves there is none.
    rights: Option<Arc<Rights>>,
    /// Epoch of the connection whose will this publishes, which is over.
    will_of: Option<Epoch>,
    /// How what it publishes into a log says whose it is.
    epoch_text: Option<EpochText>,
}

impl Publishing {
    /// `client_key`: see [`Publishing::client_key`].
    pub(crate) fn new(account: Arc<Account>, completions: Arc<Completions>, client_key: Option<ByteString>) -> Self {
        Self {
            account,
            completions,
            completed: Completed::default(),
            waiting: None,
            open_requests: None,
            client_key,
            given_id: None,
            stored: VecDeque::new(),
            first: PutToken(0),
            parked: VecDeque::new(),
            behind: HashMap::new(),
            bytes_behind: 0,
            unsent: VecDeque::new(),
            is_handing_over: false,
            version: LogsVersion::default(),
            older_below: PutToken(0),
            unreported: 0,
            last_topic: None,
            last_target: None,
            tells_publisher: false,
            rights: None,
            will_of: None,
            epoch_text: None,
        }
    }

    /// Answers these requests, which a client of MQTT 3.x names by their topics.
    pub(crate) fn answering(mut self, open_requests: Option<&Arc<OpenRequests>>) -> Self {
        self.open_requests = open_requests.cloned();
        self
    }

    /// Of a client that may publish what its rights say.
    pub(crate) fn by(mut self, rights: Arc<Rights>) -> Self {
        self.rights = Some(rights);
        self
    }

    /// What the client may do, if this is one's.
    pub(in crate::account) const fn rights(&self) -> Option<&Arc<Rights>> {
        self.rights.as_ref()
    }

    /// What is published has this message id.
    pub(crate) fn name_as(&mut self, id: &str) {
        self.given_id = Some(id.into());
    }

    /// Whether nothing is on its way.
    pub(crate) fn is_idle(&self) -> bool {
        self.stored.is_empty()
            && self.parked.is_empty()
            && self.behind.is_empty()
            && self.unsent.is_empty()
            && !self.is_handing_over
            && self.unreported == 0
    }

    /// Whether more may be published.
    pub(crate) fn has_room(&self) -> bool {
        self.parked.is_empty() && self.unsent.is_empty() && self.has_room_for_jobs()
    }

    /// Whether something may be published at QoS 0, also while others wait for a permit: nothing of its topic does.
    pub(crate) fn takes_live(&self, topic: &TopicName) -> bool {
        let is_of_topic = |job: &Job| job.publication.topic == *topic;
        self.unsent.is_empty()
            && !self.is_handing_over
            && self.has_room_for_jobs()
            && !self.parked.iter().any(is_of_topic)
    }

    fn has_room_for_jobs(&self) -> bool {
        self.stored.len() < MAX_JOBS
            && (self.behind.is_empty() || self.behind.values().map(VecDeque::len).sum::<usize>() < MAX_JOBS)
            && self.bytes_behind < MAX_BYTES_BEHIND
    }

    /// Bytes of what waits behind retained messages.
    pub(crate) const fn bytes_behind(&self) -> usize {
        self.bytes_behind
    }

    /// Publishes. `Err` is for the caller to answer; nothing was published.
    pub(crate) fn publish(
        &mut self,
        publication: Publication,
        wakes: &mut Wakes,
    ) -> Result<(), Box<(Publication, Refused)>> {
        if self.rights.as_ref().is_some_and(|rights| !rights.may_send(publication.payload.len())) {
            return Err(Box::new((publication, Refused::OverPayload)));
        }
        let Some(publication) = self.answer_request(publication)? else { return Ok(()) };
        let Some(mut publication) = self.tell_own_state(publication, wakes)? else { return Ok(()) };
        let route = self.may_publish(&publication).and_then(|()| self.route_of(&publication.topic));
        let route = match route.and_then(|route| self.judge_retained(&mut publication).map(|()| route)) {
            Ok(route) => route,
            Err(refused) => return Err(Box::new((publication, refused))),
        };
        let maybe_above = publication.once.and_then(|once| once.maybe_above);
        // What goes into the log has the log's time.
        let is_live = publication.qos == QoS::AtMostOnce;
        let since = if is_live { self.account.store.clock().latest() } else { ServerTime(0) };
        let (began, stage, retained_at, logged_at) = (Instant::now(), Stage::Log, None, None);
        let job = Job { publication, route, retained_at, since, began, stage, maybe_above, logged_at };
        self.begin(job, wakes);
        Ok(())
    }

    /// Whether the client may publish at this QoS, and with RETAIN: one of 3.x cannot be told before.
    fn may_publish(&self, publication: &Publication) -> Result<(), Refused> {
        if !self.account.has_jetstream() {
            // What cannot be stored is not acknowledged, whatever is done with what is denied.
            return match publication {
                Publication { qos: QoS::AtLeastOnce | QoS::ExactlyOnce, .. } => {
                    Err(Refused::Unstored(ReasonCode::QoSNotSupported))
                }
                Publication { retain: true, .. } => Err(Refused::Unstored(ReasonCode::RetainNotSupported)),
                Publication { .. } => Ok(()),
            };
        }
        let is_denied = |rights: &Arc<Rights>| !rights.may_publish_as(publication.qos, publication.retain);
        if self.rights.as_ref().is_some_and(is_denied) { Err(Refused::Denied) } else { Ok(()) }
    }

    fn route_of(&mut self, topic: &TopicName) -> Result<Route, Refused> {
        let rights_version = self.rights.as_ref().map(|rights| rights.version()).unwrap_or_default();
        if let Some((last, route, judged_by)) = &self.last_topic
            && last == topic
            && route.version == self.account.logs.version()
            && *judged_by == rights_version
        {
            return Ok(route.clone());
        }
        if self.account.router.closed().is_closed_topic(topic) {
            return Err(Refused::Closed);
        }
        let mapped = proto_map::map_topic(topic, proto_map::MAX_SUBJECT_LEN)
            .map_err(|_| Refused::Unmappable(ReasonCode::TopicNameInvalid))?;
        if self.rights.as_ref().is_some_and(|rights| !rights.may_publish(&mapped.subject)) {
            return Err(Refused::Denied);
        }
        let version = self.account.logs.version();
        let log = self.account.logs.owner_of(mapped.subject.as_str());
        let route = Route { subject: mapped.subject, is_escaped: mapped.escaped, log, version };
        // A copy: the topic of a packet keeps the whole read buffer alive.
        self.last_topic = Some((topic.to_owned_copy(), route.clone(), rights_version));
        Ok(route)
    }

    fn begin(&mut self, mut job: Job, wakes: &mut Wakes) {
        if job.route.version != self.account.logs.version() {
            // It has waited, and its subject may have moved meanwhile.
            self.route_again(&mut job);
        }
        if let Some(waiting) = self.behind.get_mut(&job.publication.topic) {
            self.bytes_behind += weight(&job);
            waiting.push_back(job);
            return;
        }
        if self.is_elsewhere(&job.route) {
            self.bytes_behind += weight(&job);
            let topic = job.publication.topic.to_owned_copy();
            self.behind.insert(topic, VecDeque::from([job]));
            return;
        }
        // [MQTT-3.3.1-5], and what has no RETAIN goes past the bucket [MQTT-3.3.1-8].
        if job.publication.retain {
            job.stage = Stage::Bucket;
            self.behind.insert(job.publication.topic.to_owned_copy(), VecDeque::new());
        } else if job.publication.qos == QoS::AtMostOnce {
            return self.route_live(job, wakes);
        }
        self.parked.push_back(job);
        self.submit_parked();
    }

    /// Hands what is parked to the store, as far as permits go.
    fn submit_parked(&mut self) {
        self.withdraw();
        while let Some(job) = self.parked.front().filter(|job| job.maybe_above.is_none()) {
            let Some(permit) = self.account.store.publisher().try_permit(weight(job)) else { return };
            self.submit_first(permit);
        }
    }

    /// What is to be waited for, if anything. A [`Prerequisite::Core`] is handed over.
    fn prerequisite(&mut self) -> Option<Prerequisite> {
        self.withdraw();
        match self.unsent.pop_front() {
            Some(copy) => {
                self.is_handing_over = true;
                Some(Prerequisite::Core(copy))
            }
            None => self.parked.front().map(|job| match job.maybe_above {
                None => Prerequisite::Permit(weight(job)),
                Some(above) => Prerequisite::Look {
                    subject: job.route.log.subject(&job.route.subject),
                    above,
                    epoch: job.publication.once.map(|once| once.message.epoch).unwrap_or_default(),
                    log: Arc::clone(&job.route.log),
                    message_id: self.message_id(PutToken(0), &job.publication).unwrap_or_default(),
                },
            }),
        }
    }

    /// Core NATS has taken what [`Prerequisite::Core`] was, or will not: the next one may go.
    fn handed_over(&mut self) {
        self.is_handing_over = false;
    }

    /// A permit came for the first that is parked.
    fn permitted(&mut self, permit: Permit) {
        self.submit_first(permit);
        self.submit_parked();
    }

    fn submit_first(&mut self, permit: Permit) {
        let Some(job) = self.parked.pop_front() else { return };
        let token = self.next_token();
        self.make_epoch_text();
        match self.put(&job, token) {
            Ok(put) if job.stage == Stage::Bucket => {
                let behalf = self.behalf();
                self.account.retained_writer.submit(permit, put, &job.publication.topic, behalf);
                self.stored.push_back(Some(job));
            }
            Ok(put) => {
                self.stored.push_back(Some(job));
                self.account.store.publisher().submit(permit, put);
            }
            Err(error) => {
                let (client_id, topic) = (&*self.completions.client_id, job.publication.topic.as_str());
                tracing::info!(client_id, topic, %error, "a publish was refused");
                // Its place is kept, so that it is answered in turn like what the store refuses.
                self.stored.push_back(Some(job));
                self.completions.stored(token.0, Err(PutError::TooLarge));
                self.completions.flush();
            }
        }
    }

    /// The name of the next one that goes to the store.
    fn next_token(&self) -> PutToken {
        PutToken(self.first.0 + self.stored.len() as u64)
    }

    fn put(&mut self, job: &Job, token: PutToken) -> Result<Put, Unstorable> {
        let publication = &job.publication;
        let subject = &job.route.subject;
        let is_delete = job.stage == Stage::Bucket && publication.payload.is_empty();
        let expiry_s = publication.properties.as_ref().and_then(|p| p.message_expiry_interval_s);
        let (target, headers, ttl_s) = match job.stage {
            Stage::Log => {
                let id = self.message_id(token, publication);
                let log = &job.route.log;
                let carrier = log.carrier();
                let epoch = self.says_epoch(publication, id.as_ref()).then(|| self.epoch_text(carrier)).flatten();
                let at = job.retained_at;
                let mut headers = convert::log_headers(publication, at, self.publisher(), id, epoch, carrier)?;
                if at.is_some() && !carrier.is_ours() {
                    self.mark(subject, &mut headers, &publication.payload);
                }
                let ttl_s = convert::lifetime_s(carrier, expiry_s, &mut headers);
                (self.target_of(&job.route), headers, ttl_s)
            }
            Stage::Bucket => {
                let headers = convert::retained_headers(publication, is_delete, self.own_id(publication))?;
                let subject = self.account.names.retained_subject(subject)?;
                let ttl_s = expiry_s.filter(|_| !is_delete).map(|s| s.max(1));
                (PutTarget::Retained { subject, delete: is_delete }, headers, ttl_s)
            }
        };
        Ok(Put {
            target,
            headers,
            payload: publication.payload.clone(),
            ttl_s,
            expected_last: None,
            guard: self.will_of.is_none().then(|| Arc::clone(&self.completions) as Arc<dyn PutGuard>),
            sink: self.sink_of(publication.qos),
            token: token.0,
        })
    }

    fn sink_of(&self, qos: QoS) -> Arc<dyn StoredSink> {
        let completions = Arc::clone(&self.completions);
        if qos == QoS::AtMostOnce { Arc::new(Unanswered(completions)) } else { completions }
    }

    fn target_of(&mut self, route: &Route) -> PutTarget {
        if let Some((subject, version, target)) = &self.last_target
            && *subject == route.subject
            && *version == route.version
        {
            return target.clone();
        }
        let target = route.log.target(&route.subject);
        self.last_target = Some((route.subject.clone(), route.version, target.clone()));
        target
    }

    /// The store has dealt with one. Answers are appended for the session.
    fn stored(
        &mut self,
        token: PutToken,
        result: Result<Stored, PutError>,
        answers: &mut Vec<PublishOutcome>,
        wakes: &mut Wakes,
    ) {
        let index = token.0.checked_sub(self.first.0).and_then(|i| usize::try_from(i).ok());
        let Some(job) = index.and_then(|i| self.stored.get_mut(i)).and_then(Option::take) else { return };
        while let Some(None) = self.stored.front() {
            self.stored.pop_front();
            self.first.0 += 1;
        }
        match job.stage {
            Stage::Log if token < self.older_below => {
                let route = job.route.clone();
                let topic = job.publication.topic.clone();
                self.logged(job, result, answers);
                self.release_moved(&topic, &route, wakes);
            }
            Stage::Log => self.logged(job, result, answers),
            Stage::Bucket => self.in_bucket(job, result, answers, wakes),
        }
    }

    /// The log has dealt with one: its copy for core NATS leaves, and the session is told.
    fn logged(&mut self, job: Job, result: Result<Stored, PutError>, answers: &mut Vec<PublishOutcome>) {
        match result {
            Ok(stored) => {
                self.account.metrics.publish_acknowledged(job.publication.qos, job.began.elapsed());
                if job.route.log.is_attached() || self.completions.is_withdrawn() {
                    // It was stored under its natural subject, where everybody has seen it. Or its epoch has ended: its
                    // client publishes it again, and who does not ask a log must not have it behind what is newer.
                    return answer(&job, Ok(ReasonCode::Success), answers);
                }
                let asked = self.ask(&job.publication, &job.route.subject);
                if !asked.is_waited_for() {
                    answer(&job, Ok(ReasonCode::Success), answers);
                }
                let Job { publication, route, .. } = job;
                let (client, id) = (self.named_publisher(), self.own_id(&publication));
                let Route { subject, is_escaped, .. } = &route;
                let headers =
                    convert::natural_headers(&publication, subject, Sequence(stored.sequence), *is_escaped, client, id);
                self.send_asked(route.subject, asked, headers, publication.payload);
            }
            Err(PutError::NoStream) if job.route.version != self.account.logs.version() => self.reroute(job),
            Err(PutError::Withdrawn) => answer(&job, Err(reason_of(&PutError::Withdrawn)), answers),
            Err(error) => {
                let (client_id, subject) = (&*self.completions.client_id, job.route.subject.as_str());
                tracing::warn!(client_id, subject, %error, "a message was not stored");
                self.tell_size(&job, &error);
                answer(&job, Err(reason_of(&error)), answers);
            }
        }
    }

    /// Tells whoever runs this of a message that is too large.
    fn tell_size(&self, job: &Job, error: &PutError) {
        if *error == PutError::TooLarge {
            let bytes = job.publication.payload.len() + job.route.subject.as_str().len();
            self.account.tell_size_refusal(&self.completions.client_id, TooLarge::Message(bytes));
        }
    }
}

/// Bytes that one takes while it waits, and while it is under way.
fn weight(job: &Job) -> usize {
    let properties = job.publication.properties.as_ref().map_or(0, |all| all.weight());
    job.publication.payload.len() + properties + job.route.subject.as_str().len() + 128
}

fn answer(job: &Job, result: Result<ReasonCode, ReasonCode>, answers: &mut Vec<PublishOutcome>) {
    if let Some(token) = job.publication.token {
        answers.push((token, result));
    }
}

/// What a publisher is told when its message was not stored: a code that PUBACK and PUBREC can carry [MQTT 5, 3.4.2.1]
/// where it certainly was not.
fn reason_of(error: &PutError) -> ReasonCode {
    match error {
        PutError::NoStream | PutError::Rejected { .. } | PutError::Invalid { .. } => {
            ReasonCode::ImplementationSpecificError
        }
        PutError::Full { .. } | PutError::TooLarge => ReasonCode::QuotaExceeded,
        // It may be stored all the same, which no acknowledgement can say: the connection ends, and the client repeats it.
        PutError::Unavailable | PutError::Withdrawn => ReasonCode::ServerBusy,
    }
}

#[cfg(test)]
mod tests;
