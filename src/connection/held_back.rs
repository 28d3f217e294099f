//! A client that sends faster than it may is heard later: its publishes wait in `ahead`, where PINGREQ and acknowledgements
//! overtake them, and when that is full, or bytes are what there are too many of, the socket is not read. Nothing is lost, and
//! nobody is taken for dead for that (`life`).
//!
//! Who has said goodbye is waited for at most [`GOODBYE_WITHIN`], and who is gone not at all: what is left then is published at once.
//!
//! **Invariant:** who has no rate pays one look at an `Option`.

use std::time::Instant;

use mqtt_codec::Packet;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Connection;
use super::input::GOODBYE_WITHIN;
use super::io::READ_SIZE;
use super::rates::Rates;

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Rates are judged by this moment until the next turn.
    pub(super) fn begin_turn_of_rates(&mut self) {
        if let Some(rates) = &mut self.rates {
            rates.begin_turn(Instant::now());
        }
    }

    /// Whether a publish is handled now, as far as rates go. What has come of who is gone waits for none: it is what the connection
    /// and the kernel have room for, and nobody else is to wait for who does not come back.
    pub(super) fn takes_message(&self) -> bool {
        self.remainder.is_some() || self.rates.as_ref().is_none_or(|rates| rates.takes_message())
    }

    /// A packet is handled.
    pub(super) fn spend_message(&mut self, packet: &Packet) {
        if let Some(rates) = &mut self.rates
            && let Packet::Publish(_) = packet
        {
            rates.spend_message();
        }
    }

    /// How many bytes may be read now. Of who is gone what has come is read all the same: its DISCONNECT may be behind.
    pub(super) fn readable(&self) -> usize {
        match &self.rates {
            Some(rates) if self.remainder.is_none() => rates.readable(),
            _ => READ_SIZE,
        }
    }

    /// So many were read.
    pub(super) fn spend_bytes(&mut self, bytes: usize) {
        if let Some(rates) = &mut self.rates {
            rates.spend_bytes(bytes);
        }
    }

    /// When more is taken of a client that is held back.
    pub(super) fn rates_due_at(&self) -> Option<Instant> {
        self.rates.as_ref().and_then(|rates| rates.due_at())
    }

    /// Says so when the client is held back, once until it has been slower for long enough.
    pub(super) fn tell_held_back(&mut self) {
        let Some(rates) = &mut self.rates else { return };
        if self.ahead.is_complete() {
            rates.end_within(GOODBYE_WITHIN);
        }
        for limit in rates.news(!self.ahead.is_empty()) {
            self.account.refusals.hold_back(limit, &self.control.client_id);
        }
    }

    /// Its user, or its listener, may say something else now.
    pub(super) fn look_for_rates(&mut self) {
        let (limits, principal) = (self.entrance.limits.get(), self.inbox.rights.principal());
        self.rates = Rates::changed(self.rates.take(), &limits, &principal.rules, self.stay.rates());
    }
}
