//! What a publish has to do with the connection that it came over: on whose behalf it is, and what becomes of it when that
//! connection's epoch has ended. What is on the wire then is recognised where it arrives: in the bucket by
//! `retained_writer`, in the logs by `ended_epochs`.

use std::sync::Arc;

use bytestring::ByteString;
use mqtt_codec::QoS;
use mqtt_ownership::Epoch;
use mqtt_session::Publication;
use proto_map::Carrier;

use super::Publishing;
use super::job::EpochText;
use crate::account::Account;
use crate::account::publish::completions::Completions;
use crate::account::publish::ended_epochs::{PublisherEpoch, PublisherToken};
use crate::account::publish::retained_writer::OnBehalf;

impl Publishing {
    /// The same of the will of a connection that is over.
    pub(in crate::account) fn of_will(
        account: Arc<Account>,
        completions: Arc<Completions>,
        client_key: Option<ByteString>,
        epoch: Epoch,
    ) -> Self {
        Self { will_of: Some(epoch), ..Self::new(account, completions, client_key) }
    }

    /// When the epoch of the connection has ended, or it ends because of something that its client will repeat, what is not
    /// handed over yet goes nowhere.
    pub(super) fn withdraw(&mut self) {
        if self.completions.is_withdrawn() || self.will_of.is_none() && self.completions.has_failed() {
            self.parked.clear();
            self.behind.clear();
            self.bytes_behind = 0;
        }
    }

    /// Epoch of the connection that published; 0 without a record.
    fn epoch(&self) -> Epoch {
        self.will_of.unwrap_or_else(|| self.completions.epoch())
    }

    pub(super) fn behalf(&self) -> Option<OnBehalf> {
        let (client_id, is_will) = (self.completions.client_id.clone(), self.will_of.is_some());
        Some(self.epoch()).filter(|epoch| *epoch > Epoch(0)).map(|epoch| OnBehalf { client_id, epoch, is_will })
    }

    /// Once for a connection: nothing is made for each message.
    pub(super) fn make_epoch_text(&mut self) {
        let epoch = self.epoch();
        if epoch > Epoch(0) && self.epoch_text.as_ref().is_none_or(|text| text.made_for != epoch) {
            let token = PublisherToken(proto_map::client_token(&self.completions.client_id));
            let plain = PublisherEpoch { token, epoch }.to_text();
            let keys = self.account.store.keys();
            let sealed = keys.ring().seal_epoch(keys.now_ms(), &plain);
            self.epoch_text = Some(EpochText { made_for: epoch, plain, sealed });
        }
    }

    /// Whether a message says whose it is. One at QoS 1 does. One with an id does not: the stream knows it by that, whenever
    /// it comes and whoever sends it, so what comes early of an ended epoch *is* the message, and nothing else will come. A
    /// will has an id too, but is published before its client is let in again.
    pub(super) fn says_epoch(&self, publication: &Publication, id: Option<&ByteString>) -> bool {
        self.will_of.is_some() || publication.qos == QoS::AtLeastOnce && id.is_none()
    }

    /// How it says so in a log with this carrier.
    pub(super) fn epoch_text(&self, carrier: Carrier) -> Option<ByteString> {
        let EpochText { plain, sealed, .. } = self.epoch_text.as_ref()?;
        Some(if carrier.is_ours() { plain.clone() } else { sealed.clone() })
    }
}
