//! The three seams over JetStream and plain NATS. What is done is where it was: see `sessions`, `publisher` and `log`, `nodes` and
//! `core`.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use mqtt_ownership::{Revision, Trace};
use proto_map::Names;

use super::core::{CoreNats, RequestError, Served};
use super::entry::LogEntry;
use super::error::{Unavailable, WriteError};
use super::log::Log;
use super::message_log::MessageLog;
use super::nodes::{Lease, LeaseTimes, LeaseView, NodeInfo, Nodes};
use super::peers::Peers;
use super::publisher::{Permit, Publisher, Put};
use super::session_store::SessionStore;
use super::sessions::{
    Arrival, Beside, Loaded, PageRecord, ProgressRecord, SessionRecord, Sessions, StoredWill, WillNumber,
};

impl SessionStore for Sessions {
    async fn load(&self, client_id: &str) -> Result<Loaded, Unavailable> {
        Self::load(self, client_id).await
    }

    async fn load_progress(&self, client_id: &str) -> Result<Option<ProgressRecord>, Unavailable> {
        Self::load_progress(self, client_id).await
    }

    async fn trace(&self, client_id: &str) -> Result<Option<(Revision, Trace)>, Unavailable> {
        Self::trace(self, client_id).await
    }

    async fn put_record(&self, record: &SessionRecord, expected: u64, ttl_s: Option<u32>) -> Result<u64, WriteError> {
        Self::put_record(self, record, expected, ttl_s).await
    }

    async fn put_progress(
        &self,
        client_id: &str,
        progress: &ProgressRecord,
        fence: u64,
        ttl_s: Option<u32>,
    ) -> Result<Arrival, WriteError> {
        Self::put_progress(self, client_id, progress, fence, ttl_s).await
    }

    async fn put_page(
        &self,
        client_id: &str,
        first_epoch: u64,
        number: u32,
        page: &PageRecord,
        fence: u64,
    ) -> Result<Arrival, WriteError> {
        Self::put_page(self, client_id, first_epoch, number, page, fence).await
    }

    async fn load_pages(
        &self,
        client_id: &str,
        first_epoch: u64,
        count: u32,
        sequence: u64,
    ) -> Result<BTreeMap<u32, PageRecord>, Unavailable> {
        Self::load_pages(self, client_id, first_epoch, count, sequence).await
    }

    async fn remove_pages(&self, client_id: &str, first_epoch: u64) -> Result<(), Unavailable> {
        Self::remove_pages(self, client_id, first_epoch).await
    }

    async fn put_will(&self, client_id: &str, number: WillNumber, will: &StoredWill) -> Result<(), WriteError> {
        Self::put_will(self, client_id, number, will).await
    }

    async fn load_will(&self, client_id: &str, number: WillNumber) -> Result<Option<StoredWill>, Unavailable> {
        Self::load_will(self, client_id, number).await
    }

    async fn remove_wills(&self, client_id: &str, numbers: &[WillNumber]) -> Result<(), Unavailable> {
        Self::remove_wills(self, client_id, numbers).await
    }

    async fn end(&self, client_id: &str, fence: u64, beside: Beside) -> Result<(), WriteError> {
        Self::end(self, client_id, fence, beside).await
    }
}

/// A stream as a log, and who puts messages into it.
#[derive(Clone)]
pub struct JetStreamLog {
    log: Log,
    publisher: Publisher,
}

impl JetStreamLog {
    pub(super) fn new(log: &Log, publisher: &Publisher) -> Self {
        Self { log: log.clone(), publisher: publisher.clone() }
    }
}

impl MessageLog for JetStreamLog {
    type Permit = Permit;

    async fn permit(&self, bytes: usize) -> Permit {
        self.publisher.permit(bytes).await
    }

    fn submit(&self, permit: Permit, put: Put) {
        self.publisher.submit(permit, put);
    }

    async fn find(&self, subject: &str, after: u64, message_id: &str) -> Result<Option<u64>, Unavailable> {
        self.log.find(subject, after, message_id).await
    }

    async fn get_many(&self, sequences: &[u64]) -> Result<Vec<LogEntry>, Unavailable> {
        self.log.get_many(sequences).await
    }

    async fn last_sequence(&self) -> Result<u64, Unavailable> {
        self.log.last_sequence().await
    }
}

/// The sidecars of an account: leases in a bucket, and requests over plain NATS.
#[derive(Clone)]
pub struct NatsPeers {
    nodes: Nodes,
    core: CoreNats,
    names: Names,
}

impl NatsPeers {
    pub(super) fn new(nodes: &Nodes, core: &CoreNats, names: Names) -> Self {
        Self { nodes: nodes.clone(), core: core.clone(), names }
    }

    /// The same with other times of leases, which all sidecars of an account should share.
    #[must_use]
    pub fn with_times(&self, times: LeaseTimes) -> Self {
        Self { nodes: self.nodes.with_times(times), ..self.clone() }
    }
}

impl Peers for NatsPeers {
    type Lease = Lease;
    type Served = Served;

    async fn acquire(&self, node: &str, mqtt: Vec<String>) -> Result<Lease, Unavailable> {
        self.nodes.acquire(node, mqtt).await
    }

    fn view(&self, lease: &Lease) -> LeaseView {
        lease.view()
    }

    async fn release(&self, lease: Lease) {
        lease.release().await;
    }

    async fn alive(&self) -> Result<Vec<NodeInfo>, Unavailable> {
        self.nodes.alive().await
    }

    async fn is_gone(&self, node: &str) -> Result<bool, Unavailable> {
        self.nodes.is_gone(node).await
    }

    async fn serve<F, Fut>(&self, node: &str, handler: F) -> Result<Served, Unavailable>
    where
        F: Fn(Bytes) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Option<Bytes>> + Send + 'static,
    {
        let subject = self.names.node_subject(node).map_err(Unavailable::new)?;
        self.core.serve(&subject, handler).await
    }

    async fn ask(&self, node: &str, request: Bytes, within: Duration) -> Result<Bytes, RequestError> {
        // A name that has no subject is nobody's.
        let Ok(subject) = self.names.node_subject(node) else { return Err(RequestError::Nobody) };
        self.core.request(&subject, request, within).await
    }
}
