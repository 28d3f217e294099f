//! Scripts: a session's life as a line of text. Steps are separated by `;` and are
//!
//! ```text
//! > PUBLISH q2 id1 dup retain topic=a/b alias=3     the client sends a packet (topic `t` when none is given)
//! > PUBREC 1 0x80                                   acknowledgements with their packet id, and a reason code
//! > SUBSCRIBE 1 a/#:q1 b:q2    > UNSUBSCRIBE 1 a/#    > DISCONNECT 0x04 expiry=5    > PINGREQ    > AUTH    > CONNECT ...
//! stored 0 ok | stored 0 ok 0x10 | stored 0 0x97    a publish was stored, or was not
//! unpublished 0                                     nothing of a publish went anywhere
//! deliver q1 10 | deliver q1 s10                    the log's message 10 is to be delivered, by a shared subscription
//! save; saved                                       a save begins (of the progress at that moment); it succeeded
//! saved                                             the progress of this moment was saved
//! resend                                            what is to be repeated is asked for until there is no more
//! leave                                             the connection is over: shared subscriptions take back what they gave,
//!                                                   and what did not have to wait is published
//! heard                                             bytes come that are no whole packet
//! restart 1                                         the log was made anew, and goes on with this sequence
//! unsendable 5                                      the message of a packet id is lost, or too large for the client
//! log 100 | read 50 | at 1000 | time 1000 | subscribed 1 0x01 | unsubscribed 1 0x00
//! reconnect | crash                                 the next connection goes on from the progress now | as it was saved
//! < PUBACK 1                                        the next output; every output has to be expected
//! < nothing                                         there is none
//! = room 3 | = takes no | = save now | = unsaved 2 | = unknown 1 | = deadline 9000 | = cursor 5 | = expiry 60
//! = in_flight 1:q2:#10:sent 2:q1:#11:sent           = received 9:7.0>100
//! ```
//!
//! Outputs read `PUBACK 1 0x87`, `store 0 q2 t 7.0>100` (token, QoS, topic, message id and what it may be above; what an
//! expectation leaves out at the end is not looked at), `send q1 1 #10`, `DUP q1 1 #10`, `subscribe 1 a/#:q1`,
//! `close 0x82`, `close client will`.

use std::collections::VecDeque;
use std::num::NonZeroU16;

use bytes::Bytes;
use bytestring::ByteString;
use mqtt_codec::{
    Ack, Auth, ConnAck, ConnAckProperties, Connect, ConnectProperties, Delivery, Disconnect, Packet, PacketId, Publish,
    PublishTopic, QoS, ReasonCode, SubAck, Subscribe, SubscribeEntry, SubscriptionOptions, TopicFilter, TopicName,
    Unsubscribe, Version,
};
use mqtt_ownership::Epoch;
use mqtt_session::{
    Close, GONE, Input, Output, Parameters, Position, Progress, ProgressVersion, Publication, Resend, Save, Sequence,
    Session, SubscribeRequest, Time,
};

/// Epoch of the first connection of a script.
const EPOCH: Epoch = Epoch(7);

/// What a script starts with.
#[derive(Clone)]
pub(crate) struct Given(Parameters);

/// A session of MQTT 5 that ends with its connection.
pub(crate) const V5: Given = Given(Parameters {
    version: Version::V5,
    keep_alive_s: 0,
    receive_maximum: 100,
    window: 100,
    topic_alias_maximum: 3,
    client_max_packet_size: u32::MAX,
    asked_session_expiry_s: 0,
    session_expiry_s: 0,
    max_session_expiry_s: 7200,
    omit_problem_information: false,
    bridge: false,
    strict: false,
    max_qos: QoS::ExactlyOnce,
    retain_available: true,
    authentication_method: None,
});

/// A session of MQTT 3.1.1 that ends with its connection.
pub(crate) const V311: Given = V5.with_version(Version::V311);

impl Given {
    const fn with_version(mut self, version: Version) -> Self {
        self.0.version = version;
        self.0.topic_alias_maximum = 0;
        self
    }

    pub(crate) const fn durable(mut self) -> Self {
        self.0.asked_session_expiry_s = 3600;
        self.0.session_expiry_s = 3600;
        self
    }

    pub(crate) const fn window(mut self, window: u16) -> Self {
        self.0.window = window;
        self
    }

    pub(crate) const fn receive_maximum(mut self, maximum: u16) -> Self {
        self.0.receive_maximum = maximum;
        self
    }

    pub(crate) const fn max_qos(mut self, max_qos: QoS) -> Self {
        self.0.max_qos = max_qos;
        self
    }

    pub(crate) const fn without_retain(mut self) -> Self {
        self.0.retain_available = false;
        self
    }

    pub(crate) const fn topic_alias_maximum(mut self, maximum: u16) -> Self {
        self.0.topic_alias_maximum = maximum;
        self
    }

    pub(crate) const fn keep_alive(mut self, seconds: u16) -> Self {
        self.0.keep_alive_s = seconds;
        self
    }

    pub(crate) fn authenticated_by(mut self, method: &'static str) -> Self {
        self.0.authentication_method = Some(method.into());
        self
    }

    pub(crate) fn parameters(self) -> Parameters {
        self.0
    }

    pub(crate) const fn strict(mut self) -> Self {
        self.0.strict = true;
        self
    }

    pub(crate) const fn bridge(mut self) -> Self {
        self.0.bridge = true;
        self
    }
}

/// Runs a script; panics at the first step that is not as it says.
pub(crate) fn check(given: Given, script: &str) {
    let window = given.0.window;
    check_windows(given, &[window], script);
}

/// Runs a script in which each connection has the next of these windows; the last one stays.
pub(crate) fn check_windows(given: Given, windows: &[u16], script: &str) {
    let mut run = Run::new(given.0, windows.to_vec());
    for step in script.split(';').map(str::trim).filter(|step| !step.is_empty()) {
        if let Err(error) = run.step(step) {
            panic!("at `{step}`: {error}\nin {script}");
        }
    }
    assert!(run.outputs.is_empty(), "at the end there is {:?}\nin {script}", run.outputs);
}

type Checked<T = ()> = Result<T, String>;

struct Run {
    parameters: Parameters,
    /// Of this connection and the next ones.
    windows: VecDeque<u16>,
    epoch: Epoch,
    now: Time,
    session: Session<Position>,
    outputs: VecDeque<String>,
    begun: Option<(ProgressVersion, Progress)>,
    saved: Progress,
}

impl Run {
    fn new(mut parameters: Parameters, windows: Vec<u16>) -> Self {
        let saved = Progress::default();
        let mut windows = VecDeque::from(windows);
        parameters.window = windows.pop_front().unwrap_or(parameters.window);
        let session = Session::new(Time(0), parameters.clone(), EPOCH, &saved);
        Self { parameters, windows, epoch: EPOCH, now: Time(0), session, outputs: VecDeque::new(), begun: None, saved }
    }

    fn step(&mut self, step: &str) -> Checked {
        let mut words: Words<'_> = step.split_whitespace();
        let first = words.next().unwrap_or_default();
        if first == "<" {
            return self.expect(&step[1..]);
        }
        if first == "=" {
            return self.compare(step[1..].trim());
        }
        if let Some(output) = self.outputs.front() {
            return Err(format!("`{output}` was not expected"));
        }
        match first {
            ">" => {
                self.tell(Input::Heard);
                self.tell(Input::Packet(packet(&mut words)?));
            }
            "at" => self.now = Time(number(words.next())?),
            "time" => {
                self.now = Time(number(words.next())?);
                self.tell(Input::Time);
            }
            "stored" => {
                let token = number(words.next())?;
                self.tell(Input::Stored(token, result(&mut words)?));
            }
            "deliver" => {
                let (qos, place) = (qos(words.next())?, words.next());
                let position = match place.and_then(|place| place.strip_prefix('s')) {
                    Some(sequence) => Position(number(Some(sequence))?).by_share(),
                    None => Position(number(place)?),
                };
                self.tell(Input::Deliver(qos, position, position));
            }
            "subscribed" => self.tell(Input::Subscribed(id(words.next())?, reasons(words)?)),
            "unsubscribed" => self.tell(Input::Unsubscribed(id(words.next())?, reasons(words)?)),
            "save" => self.begun = Some(self.session.progress()),
            "saved" => {
                let (version, progress) = self.begun.take().unwrap_or_else(|| self.session.progress());
                self.saved = progress;
                self.tell(Input::Saved(version));
            }
            "resend" => self.resend(),
            "leave" => {
                let left = self.session.leave();
                self.outputs.extend(left.publications.iter().map(publication_text));
            }
            "heard" => self.tell(Input::Heard),
            "restart" => self.session.log_restarted(0, Sequence(number(words.next())?)),
            "unpublished" => self.session.not_published(number(words.next())?),
            "unsendable" => self.tell(Input::Unsendable(id(words.next())?)),
            "log" => self.session.log_stands_at(Sequence(number(words.next())?)),
            "read" => self.session.has_read_up_to(Position(number(words.next())?)),
            "reconnect" => self.connect(self.session.progress().1),
            "crash" => self.connect(self.saved.clone()),
            _ => return Err("there is no such step".into()),
        }
        Ok(())
    }

    fn tell(&mut self, input: Input<Position>) {
        let mut out = Vec::new();
        self.session.handle(self.now, input, &mut out);
        self.outputs.extend(out.iter().map(output_text));
    }

    fn connect(&mut self, progress: Progress) {
        self.epoch.0 += 1;
        self.parameters.window = self.windows.pop_front().unwrap_or(self.parameters.window);
        self.session = Session::new(self.now, self.parameters.clone(), self.epoch, &progress);
        self.begun = None;
        self.saved = progress;
    }

    fn resend(&mut self) {
        while let Some(resend) = self.session.next_resend() {
            self.outputs.push_back(match resend {
                Resend::Publish(qos, id, place) => format!("DUP q{} {id} {}", qos as u8, place_text(place)),
                Resend::PubRel(id) => format!("PUBREL {id}"),
            });
        }
    }

    fn expect(&mut self, expected: &str) -> Checked {
        let expected: Vec<&str> = expected.split_whitespace().collect();
        let Some(output) = self.outputs.pop_front() else {
            return if expected == ["nothing"] { Ok(()) } else { Err("there is no output".into()) };
        };
        let mut words: Vec<&str> = output.split_whitespace().collect();
        if words.first() == Some(&"store") {
            words.truncate(expected.len());
        }
        if words == expected { Ok(()) } else { Err(format!("there is `{output}`")) }
    }

    fn compare(&self, expected: &str) -> Checked {
        let name = expected.split_whitespace().next().unwrap_or_default();
        let s = &self.session;
        let progress = || s.progress().1;
        let actual = match name {
            "room" => s.window_room().to_string(),
            "takes" => if s.takes_packets() { "yes" } else { "no" }.into(),
            "unsaved" => s.unsaved().to_string(),
            "unknown" => s.unknown_acks().to_string(),
            "expiry" => s.parameters().session_expiry_s.to_string(),
            "cursor" => progress().cursors.get(0).unwrap_or_default().0.to_string(),
            "deadline" => s.deadline().map_or_else(|| "none".into(), |t| t.0.to_string()),
            "save" => match s.save() {
                Save::No => "no",
                Save::Lazily => "lazily",
                Save::Now => "now",
            }
            .into(),
            "in_flight" => in_flight_text(&progress()),
            "received" => received_text(&progress()),
            _ => return Err("there is no such thing to compare".into()),
        };
        let actual = format!("{name} {actual}");
        if actual.trim() == expected { Ok(()) } else { Err(format!("it is `{actual}`")) }
    }
}

fn place_text(place: Position) -> String {
    if place.log() == GONE {
        return "#gone".into();
    }
    if place.is_shared() { format!("#s{}", place.sequence().0) } else { format!("#{}", place.0) }
}

fn in_flight_text(progress: &Progress) -> String {
    let text = |s: &mqtt_session::InFlightState| {
        let state = if s.is_released { "released" } else { "sent" };
        format!("{}:q{}:{}:{state}", s.packet_id, s.qos as u8, place_text(s.position))
    };
    progress.in_flight.iter().map(text).collect::<Vec<_>>().join(" ")
}

fn received_text(progress: &Progress) -> String {
    let text = |s: &mqtt_session::ReceivedState| {
        format!("{}:{}.{}>{}", s.packet_id, s.message.epoch.0, s.message.number.0, s.after.0)
    };
    progress.received.iter().map(text).collect::<Vec<_>>().join(" ")
}

fn output_text(output: &Output<Position>) -> String {
    match output {
        Output::Send(packet) => packet_text(packet),
        Output::Publish(publication) => publication_text(publication),
        Output::Transmit(qos, id, place) => format!("send q{} {id} {}", *qos as u8, place_text(*place)),
        Output::Settled(id) => format!("settled {id}"),
        Output::Subscribe(request) => subscribe_text(request),
        Output::Unsubscribe(request) => {
            let filters = request.filters.iter().map(|f| format!(" {}", filter_text(f)));
            format!("unsubscribe {}{}", request.packet_id, filters.collect::<String>())
        }
        Output::Authenticate(evidence) => format!("judge {}", evidence.round),
        Output::Close(Close::ByClient { with_will: false }) => "close client".into(),
        Output::Close(Close::ByClient { with_will: true }) => "close client will".into(),
        Output::Close(Close::ByServer(reason)) => format!("close {:#04x}", *reason as u8),
    }
}

fn publication_text(publication: &Publication) -> String {
    let token = publication.token.map_or_else(|| "-".into(), |t| t.to_string());
    let mut text = format!("store {token} q{} {}", publication.qos as u8, publication.topic.as_str());
    if let Some(once) = publication.once {
        text += &format!(" {}.{}", once.message.epoch.0, once.message.number.0);
        text += &once.maybe_above.map_or_else(String::new, |above| format!(">{}", above.0));
    }
    if publication.retain {
        text += " retain";
    }
    text
}

fn subscribe_text(request: &SubscribeRequest) -> String {
    let mut text = format!("subscribe {}", request.packet_id);
    for entry in &request.entries {
        text += &format!(" {}:q{}", filter_text(&entry.filter), entry.options.qos as u8);
        text += if entry.options.no_local { ":nl" } else { "" };
        text += if entry.options.retain_as_published { ":rap" } else { "" };
    }
    text
}

fn filter_text(filter: &Result<TopicFilter, ByteString>) -> &str {
    match filter {
        Ok(filter) => filter.as_str(),
        Err(text) => text,
    }
}

fn packet_text(packet: &Packet) -> String {
    let ack = |name: &str, ack: &Ack| match ack.reason {
        ReasonCode::Success => format!("{name} {}", ack.packet_id),
        reason => format!("{name} {} {:#04x}", ack.packet_id, reason as u8),
    };
    let suback = |name: &str, ack: &SubAck| {
        let reasons = ack.reasons.iter().map(|r| format!(" {:#04x}", *r as u8));
        format!("{name} {}{}", ack.packet_id, reasons.collect::<String>())
    };
    match packet {
        Packet::PubAck(a) => ack("PUBACK", a),
        Packet::PubRec(a) => ack("PUBREC", a),
        Packet::PubRel(a) => ack("PUBREL", a),
        Packet::PubComp(a) => ack("PUBCOMP", a),
        Packet::SubAck(a) => suback("SUBACK", a),
        Packet::UnsubAck(a) => suback("UNSUBACK", a),
        Packet::PingResp => "PINGRESP".into(),
        other => format!("{other:?}"),
    }
}

type Words<'a> = std::str::SplitWhitespace<'a>;

fn packet(words: &mut Words<'_>) -> Checked<Packet> {
    let name = words.next().unwrap_or_default();
    Ok(match name {
        "PUBLISH" => Packet::Publish(publish(words)?),
        "PUBACK" => Packet::PubAck(ack(words)?),
        "PUBREC" => Packet::PubRec(ack(words)?),
        "PUBREL" => Packet::PubRel(ack(words)?),
        "PUBCOMP" => Packet::PubComp(ack(words)?),
        "PINGREQ" => Packet::PingReq,
        "PINGRESP" => Packet::PingResp,
        "DISCONNECT" => Packet::Disconnect(disconnect(words)?),
        "SUBSCRIBE" => {
            let packet_id = id(words.next())?;
            let entries = words.map(entry).collect::<Checked<_>>()?;
            Packet::Subscribe(Subscribe { packet_id, subscription_id: None, user_properties: Vec::new(), entries })
        }
        "UNSUBSCRIBE" => {
            let packet_id = id(words.next())?;
            let filters = words.map(|f| TopicFilter::new(f).map_err(|_| f.into())).collect();
            Packet::Unsubscribe(Unsubscribe { packet_id, user_properties: Vec::new(), filters })
        }
        "SUBACK" | "UNSUBACK" => {
            let ack = SubAck { packet_id: id(words.next())?, reasons: Vec::new(), properties: None };
            if name == "SUBACK" { Packet::SubAck(ack) } else { Packet::UnsubAck(ack) }
        }
        "AUTH" => Packet::Auth(Auth {
            reason: ReasonCode::ReAuthenticate,
            authentication_method: None,
            authentication_data: None,
            properties: None,
        }),
        "CONNACK" => Packet::ConnAck(Box::new(ConnAck {
            session_present: false,
            reason: ReasonCode::Success,
            properties: ConnAckProperties::default(),
        })),
        "CONNECT" => Packet::Connect(Box::new(connect())),
        _ => return Err("there is no such packet".into()),
    })
}

fn publish(words: &mut Words<'_>) -> Checked<Publish> {
    let qos = qos(words.next())?;
    let (mut packet_id, mut dup, mut retain) = (None, false, false);
    let (mut topic, mut alias) = (None, None);
    for word in words {
        match word.split_once('=') {
            Some(("topic", name)) => topic = Some(name),
            Some(("alias", n)) => alias = NonZeroU16::new(number(Some(n))?),
            _ if word == "dup" => dup = true,
            _ if word == "retain" => retain = true,
            _ => packet_id = Some(id(word.strip_prefix("id"))?),
        }
    }
    let name = |name: &str| TopicName::new(name.to_owned()).map_err(|e| e.to_string());
    Ok(Publish {
        dup,
        delivery: Delivery::new(qos, packet_id).ok_or("QoS and packet id do not go together")?,
        retain,
        topic: match (topic, alias) {
            (None, Some(alias)) => PublishTopic::Alias(alias),
            (Some(topic), Some(alias)) => PublishTopic::Define(name(topic)?, alias),
            (topic, None) => PublishTopic::Name(name(topic.unwrap_or("t"))?),
        },
        subscription_ids: Vec::new(),
        properties: None,
        payload: Bytes::from_static(b"payload"),
    })
}

fn disconnect(words: &mut Words<'_>) -> Checked<Disconnect> {
    let mut disconnect = Disconnect::new(ReasonCode::Success);
    for word in words {
        match word.strip_prefix("expiry=") {
            Some(seconds) => disconnect.session_expiry_interval_s = Some(number(Some(seconds))?),
            None => disconnect.reason = reason(word)?,
        }
    }
    Ok(disconnect)
}

pub(crate) fn connect() -> Connect {
    Connect {
        version: Version::V5,
        bridge: false,
        clean_start: true,
        keep_alive_s: 0,
        client_id: ByteString::from_static("c"),
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

fn entry(word: &str) -> Checked<SubscribeEntry> {
    let (filter, level) = word.rsplit_once(':').ok_or("a filter needs its QoS")?;
    let options = SubscriptionOptions { qos: qos(Some(level))?, ..SubscriptionOptions::default() };
    Ok(SubscribeEntry { filter: TopicFilter::new(filter.to_owned()).map_err(|_| filter.into()), options })
}

fn ack(words: &mut Words<'_>) -> Checked<Ack> {
    let packet_id = id(words.next())?;
    Ok(Ack::new(packet_id, words.next().map_or(Ok(ReasonCode::Success), reason)?))
}

fn result(words: &mut Words<'_>) -> Checked<Result<ReasonCode, ReasonCode>> {
    match words.next() {
        Some("ok") => Ok(Ok(words.next().map_or(Ok(ReasonCode::Success), reason)?)),
        Some(code) => Ok(Err(reason(code)?)),
        None => Err("stored, or not?".into()),
    }
}

fn reasons(words: Words<'_>) -> Checked<Vec<ReasonCode>> {
    words.map(reason).collect()
}

fn reason(word: &str) -> Checked<ReasonCode> {
    let code = word.strip_prefix("0x").and_then(|hex| u8::from_str_radix(hex, 16).ok());
    code.and_then(ReasonCode::from_u8).ok_or_else(|| format!("{word} is no reason code"))
}

fn qos(word: Option<&str>) -> Checked<QoS> {
    let digit = word.and_then(|w| w.strip_prefix('q')).and_then(|d| d.parse::<u8>().ok());
    digit.and_then(|d| QoS::try_from(d).ok()).ok_or_else(|| format!("{word:?} is no QoS"))
}

fn id(word: Option<&str>) -> Checked<PacketId> {
    PacketId::new(number(word)?).ok_or_else(|| "a packet id is not 0".into())
}

fn number<N: std::str::FromStr>(word: Option<&str>) -> Checked<N> {
    word.and_then(|w| w.parse().ok()).ok_or_else(|| format!("{word:?} is no number"))
}
