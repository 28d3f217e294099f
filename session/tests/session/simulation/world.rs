//! Everything at once: clients, sidecars, the log and the store, and what happens next.

use std::collections::{BTreeMap, VecDeque};

use mqtt_codec::{Disconnect, Packet, QoS, ReasonCode};
use mqtt_ownership::Epoch;
use mqtt_session::{Close, Feed, Input, Parameters, Sequence, Session, Time};

use super::client::{Character, Client};
use super::log::Log;
use super::random::Random;
use super::reading::Node;
use super::saving::Saving;
use super::sidecar::{Completion, Connection, PACKET_SIZE, Put};
use super::store::Store;
use super::witness::Witness;

/// A sidecar notices at the latest after so many steps that it is not the owner any more.
const FENCED_AFTER: u64 = 300;

/// What a sidecar that is gone has sent to the log arrives within so many steps, or never.
const ARRIVES_WITHIN: u64 = 200;

/// For so many steps after a message was stored, the store may send it again when it missed the acknowledgement.
const SENT_AGAIN_WITHIN: u64 = 600;

/// When everything should have come to rest after the faults.
const REST: u64 = 150_000;

/// What a run is like.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    characters: Vec<Character>,
    nodes: usize,
    pub(super) feed_max: usize,
    pub(super) steps: u64,
    /// A fault once in so many steps.
    fault: usize,
    /// The log refuses messages, and the store sometimes does not know whether it did.
    is_refusing: bool,
    /// The beginning of the log is discarded.
    is_discarding: bool,
}

impl Config {
    pub(crate) fn drawn(seed: u64) -> Self {
        let random = &mut Random::new(seed ^ 0x0c0f_f1ce);
        let is_refusing = random.once_in(2);
        Self {
            characters: (0..2 + random.below(3)).map(|_| Character::drawn(random, is_refusing)).collect(),
            nodes: 1 + random.below(3),
            feed_max: 1 + random.below(6),
            steps: 500 + random.below(3000) as u64,
            fault: 20 + random.below(200),
            is_refusing,
            is_discarding: random.once_in(4),
        }
    }
}

pub(crate) struct World {
    pub(super) config: Config,
    pub(super) random: Random,
    pub(super) step: u64,
    pub(super) log: Log,
    pub(super) store: Store,
    pub(super) nodes: Vec<Node>,
    pub(super) clients: Vec<Client>,
    /// The connection of each client, as it sees it, and until when it stays away.
    attached: Vec<Option<u64>>,
    away_until: Vec<u64>,
    pub(super) connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    pub(super) saves: Vec<Saving>,
    /// What connections that are gone have sent to the log, and when they went.
    strays: Vec<(u64, VecDeque<Put>)>,
    pub(super) witness: Witness,
    pub(super) is_traced: bool,
}

impl World {
    pub(crate) fn new(seed: u64, config: Config) -> Self {
        let count = config.characters.len();
        Self {
            random: Random::new(seed),
            step: 0,
            log: Log::default(),
            store: Store::new(config.characters.iter().map(|c| c.last_id)),
            nodes: (0..config.nodes).map(|_| Node::default()).collect(),
            clients: config.characters.iter().enumerate().map(|(i, c)| Client::new(i, *c)).collect(),
            attached: vec![None; count],
            away_until: vec![0; count],
            connections: BTreeMap::new(),
            next_connection: 0,
            saves: Vec::new(),
            strays: Vec::new(),
            witness: Witness::new(count),
            is_traced: std::env::var_os("TRACE").is_some(),
            config,
        }
    }

    pub(crate) fn run(mut self) {
        while self.step < self.config.steps {
            self.advance();
            if self.random.once_in(self.config.fault) {
                self.fault();
            }
        }
        let end = self.step + REST;
        while !self.is_at_rest() {
            self.advance();
            assert!(self.step < end, "it does not come to rest: {:#?}", self.connections);
        }
        // Where every message is taken, those of one session are in the log as it published them.
        let is_ordered = |i: usize| !self.config.is_refusing && self.config.characters[i].is_durable;
        self.witness.check_log(&self.log, is_ordered);
        for client in &self.clients {
            self.witness.check_reader(client.index, |letter| client.wants(letter), &self.log);
        }
        assert_eq!(self.witness.ended_count(), self.config.characters.iter().map(|c| c.publishes).sum::<u64>());
    }

    fn is_draining(&self) -> bool {
        self.step >= self.config.steps
    }

    fn is_at_rest(&self) -> bool {
        self.clients.iter().all(Client::is_done)
            && self.attached.iter().all(Option::is_some)
            && self.connections.len() == self.clients.len()
            && self.saves.is_empty()
            && self.strays.is_empty()
            && self.connections.values().all(|c| self.is_idle(c))
    }

    fn is_idle(&self, connection: &Connection) -> bool {
        let is_at_the_end = self.nodes[connection.node].tail == self.log.last();
        // What was refused may stay recorded until its packet id is used again.
        let is_done = self.config.is_refusing || connection.session.progress().1.received.is_empty();
        !connection.is_over && is_at_the_end && is_done && connection.is_idle()
    }

    fn advance(&mut self) {
        self.step += 1;
        match self.random.below(12) {
            0 | 1 => self.client_sends(),
            2 | 3 => self.client_receives(),
            4 => self.with_connection(|c, _| c.read()),
            5 => self.store_put(),
            6 => self.complete_put(),
            7 => self.begin_save(),
            8 => self.go_on_saving(),
            9 => self.tail(),
            10 => self.scan(),
            _ => self.fill(),
        }
        self.stray_put();
        self.connect();
        self.sweep();
    }

    /// Acts on a connection at random that is not over.
    fn with_connection(&mut self, act: impl FnOnce(&mut Connection, &mut Self)) {
        let Some(id) = self.some_connection() else { return };
        if let Some(mut connection) = self.connections.remove(&id) {
            if !connection.is_over {
                act(&mut connection, self);
            }
            self.connections.insert(id, connection);
        }
    }

    pub(super) fn some_connection(&mut self) -> Option<u64> {
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        (!ids.is_empty()).then(|| ids[self.random.below(ids.len())])
    }

    fn client_sends(&mut self) {
        let i = self.random.below(self.clients.len());
        let is_lazy = !self.is_draining() && !self.random.once_in(self.clients[i].character.laziness);
        let Some(connection) = self.attached[i].and_then(|id| self.connections.get_mut(&id)) else { return };
        let client = &mut self.clients[i];
        let answers_first = self.random.once_in(2);
        let packet = match answers_first && !is_lazy {
            true => client.answer(),
            false => client.publish(&mut self.random),
        };
        if let Some(packet) = &packet {
            trace!(self, "client {i} sends {packet:?}");
        }
        connection.from_client.extend(packet);
    }

    fn client_receives(&mut self) {
        let i = self.random.below(self.clients.len());
        let is_lazy = !self.is_draining() && !self.random.once_in(self.clients[i].character.laziness);
        let Some(id) = self.attached[i].filter(|_| !is_lazy) else { return };
        match self.connections.get_mut(&id).map(|c| (c.to_client.pop_front(), c.is_over)) {
            Some((Some(packet), _)) => {
                trace!(self, "client {i} gets {packet:?}");
                self.clients[i].receive(&packet, &self.log, &mut self.random, &mut self.witness);
            }
            Some((None, false)) => {}
            Some((None, true)) | None => self.leave(i),
        }
    }

    /// The client's connection is gone, as it sees it. What it has sent may still be read; what it did not read is lost.
    fn leave(&mut self, i: usize) {
        let Some(id) = self.attached[i].take() else { return };
        trace!(self, "client {i} leaves {id}");
        self.clients[i].disconnected(&mut self.witness);
        let long = if self.random.once_in(4) { 1500 } else { 20 };
        self.away_until[i] = self.step + self.random.below(long) as u64;
        if let Some(connection) = self.connections.get_mut(&id) {
            let arrived = self.random.below(connection.from_client.len() + 1);
            connection.from_client.truncate(arrived);
            connection.left_at = Some(self.step);
        }
    }

    /// A client that is away comes back, to any sidecar. Whoever served it hands over, or does not know of it.
    fn connect(&mut self) {
        let i = self.random.below(self.clients.len());
        let is_away = self.step < self.away_until[i] && !self.is_draining();
        if self.attached[i].is_some() || is_away || !self.random.once_in(10) {
            return;
        }
        let node = self.random.below(self.nodes.len());
        let owner = self.store.epoch(i);
        let (epoch, mut progress) = self.store.claim(i);
        let old = self.connections.iter().find(|(_, c)| c.client == i && c.epoch == owner).map(|(id, _)| *id);
        if let Some(old) = old.filter(|_| self.random.once_in(2)) {
            let old = self.remove(old);
            if self.clients[i].character.is_durable {
                progress = old.session.progress().1;
                // What is handed over is saved before it is gone on with.
                assert!(self.store.save(i, epoch, &progress));
                self.witness.saved_at_end(i, old.epoch);
                trace!(self, "handed over by epoch {}", old.epoch);
            }
        }
        let parameters = self.parameters(i);
        trace!(self, "client {i} connects as {} in epoch {epoch} with {progress:?}", self.next_connection);
        self.clients[i].connected(epoch, parameters.receive_maximum, parameters.window);
        let mut session = Session::new(Time(0), parameters.clone(), Epoch(epoch), &progress);
        session.log_stands_at(Sequence(self.nodes[node].tail));
        let mut feed = Feed::new(Sequence(0), self.config.feed_max, usize::MAX);
        feed.fall_behind(progress.cursors.get(0).unwrap_or_default().next());
        let connection = Connection {
            client: i,
            node,
            epoch,
            session,
            feed,
            to_client: VecDeque::new(),
            from_client: VecDeque::new(),
            puts: VecDeque::new(),
            completions: Vec::new(),
            left_at: None,
            is_over: false,
            is_saving: false,
            close: None,
            in_flight_max: progress.in_flight.len().max(usize::from(parameters.window)),
        };
        self.attached[i] = Some(self.next_connection);
        self.connections.insert(self.next_connection, connection);
        self.next_connection += 1;
    }

    fn parameters(&mut self, i: usize) -> Parameters {
        let character = self.clients[i].character;
        let expiry = if character.is_durable { 3600 } else { 0 };
        Parameters {
            version: character.version,
            keep_alive_s: 0,
            receive_maximum: self.random.between(1, 4),
            window: self.random.between(1, 4),
            topic_alias_maximum: 0,
            client_max_packet_size: if self.random.once_in(4) { PACKET_SIZE } else { u32::MAX },
            asked_session_expiry_s: expiry,
            session_expiry_s: expiry,
            max_session_expiry_s: expiry,
            omit_problem_information: false,
            bridge: false,
            strict: self.random.once_in(2),
            max_qos: QoS::ExactlyOnce,
            retain_available: true,
            authentication_method: None,
        }
    }

    /// Takes a connection out of the world; what it has sent to the log is still on its way.
    pub(super) fn remove(&mut self, id: u64) -> Connection {
        let mut connection = self.connections.remove(&id).unwrap();
        self.strays.push((self.step, std::mem::take(&mut connection.puts)));
        connection
    }

    /// The log deals with the next message of a connection, in order.
    fn store_put(&mut self) {
        let is_refused = self.config.is_refusing && !self.is_draining() && self.random.once_in(25);
        self.with_connection(|connection, world| {
            let Some(put) = connection.puts.front_mut() else { return };
            let mut was_found = false;
            let result = if is_refused {
                world.refuse(put)
            } else if let (Some(name), Some(above)) = (put.name, put.look_above) {
                put.look_above = None;
                if !world.log.contains(name, above) {
                    return;
                }
                was_found = true;
                Ok(ReasonCode::Success)
            } else {
                world.log.append(world.step, put.letter, put.name);
                Ok(ReasonCode::Success)
            };
            let since = world.step;
            trace!(world, "client {} epoch {}: {put:?} {result:?}", connection.client, connection.epoch);
            let put = connection.puts.pop_front();
            connection.completions.extend(put.map(|put| Completion { put, result, since, was_found }));
        });
    }

    /// The log says no, or nobody knows what it said.
    fn refuse(&mut self, put: &Put) -> Result<ReasonCode, ReasonCode> {
        // "No" means that it is not there and never will be.
        let is_same = |other: &Put| other.name == put.name;
        let is_stray = self.strays.iter().any(|(_, puts)| puts.iter().any(is_same));
        let is_there = put.name.is_some_and(|name| self.log.contains(name, 0));
        match self.random.below(3) {
            0 if put.name.is_none() || !(is_stray || is_there) => return Err(ReasonCode::QuotaExceeded),
            1 if put.look_above.is_none() => self.log.append(self.step, put.letter, put.name),
            _ => {}
        }
        Err(ReasonCode::ServerBusy)
    }

    /// A completion arrives, in any order; or all that are on their way are lost, and their messages are sent again.
    fn complete_put(&mut self) {
        self.with_connection(|connection, world| {
            if connection.completions.is_empty() {
                return;
            }
            let oldest = connection.completions.iter().map(|c| c.since).min();
            let is_recent = oldest.is_some_and(|since| since + SENT_AGAIN_WITHIN > world.step);
            if is_recent && world.random.once_in(30) {
                let mut puts: Vec<Put> =
                    connection.completions.extract_if(.., |c| !c.was_found).map(|c| c.put).collect();
                puts.extend(connection.puts.drain(..));
                puts.sort_unstable_by_key(|put| put.token);
                connection.puts = puts.into();
                return;
            }
            let at = world.random.below(connection.completions.len());
            let Completion { put, result, .. } = connection.completions.swap_remove(at);
            trace!(
                world,
                "client {} epoch {}: token {} is told {result:?}", connection.client, connection.epoch, put.token
            );
            connection.tell(Input::Stored(put.token, result));
        });
    }

    /// What connections that are gone have sent arrives, or does not.
    fn stray_put(&mut self) {
        self.strays.retain(|(since, puts)| !puts.is_empty() && since + ARRIVES_WITHIN > self.step);
        if self.strays.is_empty() || !self.random.once_in(20) {
            return;
        }
        let at = self.random.below(self.strays.len());
        match self.strays[at].1.pop_front() {
            // It is lost, and so is what comes behind it.
            _ if self.random.once_in(8) => self.strays[at].1.clear(),
            Some(Put { look_above: Some(_), .. }) | None => self.strays[at].1.clear(),
            Some(put) => {
                trace!(self, "stray {put:?}");
                self.log.append(self.step, put.letter, put.name);
            }
        }
    }

    fn fill(&mut self) {
        let Some(id) = self.some_connection() else { return };
        let Some(connection) = self.connections.get_mut(&id).filter(|c| !c.is_over) else { return };
        let client = &self.clients[connection.client];
        connection.fill(&self.log, |letter| client.qos_of(letter), &mut self.witness);
        let waiting = &mut self.nodes[connection.node].waiting;
        if connection.wants_scan() && !waiting.contains(&id) {
            waiting.push(id);
        }
    }

    /// Connections that are over or do not know it yet.
    fn sweep(&mut self) {
        for (id, connection) in &mut self.connections {
            if let Some(Close::ByServer(reason)) = connection.close {
                let is_known = matches!(reason, ReasonCode::QuotaExceeded | ReasonCode::ServerBusy);
                assert!(is_known && self.config.is_refusing, "connection {id} was closed: {reason:?}");
            }
            let is_late = connection.left_at.is_some_and(|at| at + FENCED_AFTER < self.step);
            let is_noticed = connection.left_at.is_some() && self.random.once_in(60);
            connection.is_over |= is_late || is_noticed;
            if connection.is_over {
                connection.completions.clear();
                self.strays.push((self.step, std::mem::take(&mut connection.puts)));
            }
        }
        self.connections.retain(|_, c| !c.is_over || c.session.is_durable());
    }

    fn fault(&mut self) {
        let i = self.random.below(self.clients.len());
        match self.random.below(8) {
            0 | 1 => self.crash(),
            2 if self.config.is_discarding => {
                let first = self.random.below(self.log.last() as usize + 2) as u64;
                self.log.discard_below(first);
            }
            3 => {
                if let Some(connection) = self.attached[i].and_then(|id| self.connections.get_mut(&id)) {
                    let disconnect = Packet::Disconnect(Disconnect::new(ReasonCode::Success));
                    connection.from_client.push_back(disconnect);
                }
                self.leave(i);
            }
            4 => {
                self.leave(i);
                self.away_until[i] = self.step;
            }
            _ => self.leave(i),
        }
    }

    /// A sidecar dies and is started again: of what it had in memory nothing is left, of what it had sent some arrives.
    fn crash(&mut self) {
        let n = self.random.below(self.nodes.len());
        let dead: Vec<u64> = self.connections.iter().filter(|(_, c)| c.node == n).map(|(id, _)| *id).collect();
        trace!(self, "sidecar {n} crashes with {dead:?}");
        for id in dead {
            let connection = self.remove(id);
            if self.attached[connection.client] == Some(id) {
                self.leave(connection.client);
            }
            let is_lost = self.random.once_in(2);
            self.saves.retain(|s| s.connection != id || !is_lost);
        }
        self.nodes[n] = Node::starting_at(self.log.last());
    }
}
