//! From `nats kv put` to MQTT subscribers. One sidecar of the account, the one that has the lead in it, reads what NATS
//! clients put into the bucket of retained messages, and stores it in the log that owns its subject, with its
//! sequence in the bucket, as a retained publish is stored there. From then on it is one: every sidecar delivers it, offline sessions get it later, and
//! who has it already from its SUBSCRIBE does not get it again.
//!
//! What is put under a subject that is no key, `$aws.things.x`, is put once more under the key that the subject has, as what it
//! is: a put of NATS, which comes by here in its turn.
//!
//! The position is saved behind what is stored. Who dies between the two leaves it to the next one to store it again,
//! which JetStream recognises by its message id.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use mqtt_session::Sequence;
use proto_map::{Envelope, Headers, MessageName, name};
use tokio::sync::oneshot;

use crate::account::Account;
use crate::account::delivery::logs::LogHandle;
use crate::account::delivery::message::Expired;
use crate::account::lead::Lead;
use crate::account::publish::convert;
use crate::account::shared::tend_groups;
use crate::metrics::DropReason;
use crate::store::{KvUpdate, PutError, PutTarget, Stored, Unavailable, WriteError};

/// Messages that are not acknowledged yet: a part of what the publisher takes, so that clients do not wait for them.
const IN_FLIGHT_MAX: usize = 64;

/// The position is saved after every put, and after so many messages of the bucket that are none.
const SAVE_EVERY: u64 = 1_000;

/// How long to wait after something failed.
const RETRY: Duration = Duration::from_millis(500);

/// Why the work begins again at the saved position.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error("a message was not stored: {0}")]
    Put(#[from] PutError),
    #[error("the position was not saved: {0}")]
    Write(#[from] WriteError),
}

/// A message on its way into the log.
struct UnderWay<'a> {
    put: &'a KvUpdate,
    envelope: Envelope,
    payload: Bytes,
    /// The log that owns its subject.
    log: Arc<LogHandle>,
    outcome: oneshot::Receiver<Result<Stored, PutError>>,
}

impl Account {
    /// Carries what NATS clients put into the bucket of retained messages while we lead, until the account is left. Whoever does so
    /// looks after the consumers of shared subscriptions as well.
    pub(in crate::account) async fn carry_puts(account: Weak<Self>, lead: Lead) {
        let carriers = account.clone();
        let work = |_| {
            let (carrier, tends) = (Box::pin(carry(carriers.clone())), Box::pin(tend_groups(carriers.clone())));
            async move {
                tokio::join!(carrier, tends);
            }
        };
        Self::lead(account, lead, "retained", work).await;
    }

    /// Stores puts in the log, in their order. When this returns, all of them are there, but for those that cannot be.
    async fn store_puts(&self, puts: &[KvUpdate]) -> Result<(), PutError> {
        for puts in puts.chunks(IN_FLIGHT_MAX) {
            let mut under_way = Vec::with_capacity(puts.len());
            for put in puts {
                if put.is_unescaped {
                    self.put_under_its_key(put).await?;
                } else {
                    under_way.extend(self.submit_put(put).await);
                }
            }
            for UnderWay { put, envelope, payload, log, outcome } in under_way {
                match outcome.await.unwrap_or(Err(PutError::Unavailable)) {
                    Ok(Stored { duplicate: true, .. }) => {}
                    // Stored under its natural subject, where everybody has seen it.
                    Ok(_) if log.is_attached() => {}
                    Ok(stored) => self.send_natural(put, envelope, payload, stored.sequence).await,
                    Err(error) => self.unless_hopeless(put, error)?,
                }
            }
        }
        Ok(())
    }

    /// What was not stored is given up where no other attempt would be better.
    fn unless_hopeless(&self, put: &KvUpdate, error: PutError) -> Result<(), PutError> {
        match error {
            PutError::TooLarge | PutError::Invalid { .. } | PutError::Rejected { .. } => {
                self.give_put_up(put, &error);
                Ok(())
            }
            error => Err(error),
        }
    }

    /// What is left of the life of a put, in seconds, if it ends; `Err` when nobody is to have it.
    fn lifetime_s(&self, put: &KvUpdate) -> Result<Option<u32>, Expired> {
        if self.router.closed().is_closed_subject(put.subject.as_str()) {
            return Err(Expired);
        }
        // It was stored by now, however little we know of the server's time: no lifetime grows.
        let now_ms = self.store.clock().earliest().0.max(put.stored_at_ms);
        let left_ms = put.message.as_ref().and_then(|m| m.expires_at_ms).map(|end| end.saturating_sub(now_ms));
        if left_ms == Some(0) {
            return Err(Expired);
        }
        Ok(left_ms.map(|ms| u32::try_from(ms.div_ceil(1000)).unwrap_or(u32::MAX)))
    }

    /// Puts what was put under a subject under the key of the subject.
    async fn put_under_its_key(&self, put: &KvUpdate) -> Result<(), PutError> {
        let Ok(ttl_s) = self.lifetime_s(put) else { return Ok(()) };
        let Ok(subject) = self.names.retained_subject(&put.subject) else {
            self.give_put_up(put, &PutError::TooLarge);
            return Ok(());
        };
        let (delete, headers) = match &put.message {
            Some(message) => (false, message.headers.clone().unwrap_or_default()),
            None => (true, Headers::new()),
        };
        // Those of JetStream and of the bucket were about the other key.
        let is_kept = |(header, _): &(ByteString, ByteString)| !["Nats-", "KV-"].iter().any(|p| header.starts_with(p));
        let mut headers: Headers = headers.into_iter().filter(is_kept).collect();
        let name = MessageName::Put { stored_at_ms: put.stored_at_ms, sequence: put.sequence };
        let id = self.store.keys().ring().at(put.stored_at_ms).message_id(name);
        headers.push((ByteString::from_static(name::NATS_MSG_ID), id));
        let payload = put.message.as_ref().map(|message| message.payload.clone()).unwrap_or_default();
        let publisher = self.store.publisher();
        let permit = publisher.permit(payload.len()).await;
        let target = PutTarget::Retained { subject, delete };
        match publisher.begin(permit, target, headers, payload, ttl_s).await.unwrap_or(Err(PutError::Unavailable)) {
            Ok(_) => Ok(()),
            Err(error) => self.unless_hopeless(put, error),
        }
    }

    /// Hands one to the publisher. `None` when nobody is to have it.
    async fn submit_put<'a>(&self, put: &'a KvUpdate) -> Option<UnderWay<'a>> {
        let ttl_s = self.lifetime_s(put).ok()?;
        let mut envelope = convert::put_envelope(put);
        if let Some(properties) = &mut envelope.properties {
            properties.message_expiry_interval_s = ttl_s;
        }
        // Sequences come again when the bucket is made anew, but not at the same time.
        let keys = self.store.keys().ring();
        let name = MessageName::Put { stored_at_ms: put.stored_at_ms, sequence: put.sequence };
        // The key is chosen by when it was put, so that the next one to store it chooses the same.
        let message_id = keys.at(put.stored_at_ms).message_id(name);
        let log = self.logs.owner_of(put.subject.as_str());
        let mut headers = match convert::log_headers_of(&envelope, message_id, log.carrier()) {
            Ok(headers) => headers,
            Err(error) => {
                self.give_put_up(put, &error);
                return None;
            }
        };
        let payload = put.message.as_ref().map(|message| message.payload.clone()).unwrap_or_default();
        if !log.carrier().is_ours() {
            keys.mark(self.store.keys().now_ms(), put.subject.as_str(), &mut headers, &payload);
        }
        let bytes = payload.len() + headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        let publisher = self.store.publisher();
        let permit = publisher.permit(bytes).await;
        let ttl_s = convert::lifetime_s(log.carrier(), ttl_s, &mut headers);
        let outcome = publisher.begin(permit, log.target(&put.subject), headers, payload.clone(), ttl_s);
        Some(UnderWay { put, envelope, payload, log, outcome })
    }

    /// The copy for core NATS, as of every stored message.
    async fn send_natural(&self, put: &KvUpdate, envelope: Envelope, payload: Bytes, sequence: u64) {
        let Ok(headers) = convert::natural_headers_of(envelope, &put.subject, Sequence(sequence)) else {
            return self.metrics.dropped(DropReason::TooLarge, 1);
        };
        if self.store.core().publish_wait(put.subject.as_text(), None, &headers, payload).await.is_err() {
            self.metrics.dropped(DropReason::NatsUnavailable, 1);
        }
    }

    fn give_put_up(&self, put: &KvUpdate, error: &dyn std::fmt::Display) {
        tracing::warn!(
            subject = put.subject.as_str().escape_debug().to_string(),
            %error,
            "a value of the bucket of retained messages does not reach those who are subscribed"
        );
        self.metrics.dropped(DropReason::TooLarge, 1);
    }
}

/// Carries what is put, until the account is gone.
async fn carry(account: Weak<Account>) {
    while account.strong_count() > 0 {
        if let Err(error) = carry_on(&account).await {
            tracing::warn!(%error, "what is put into the bucket of retained messages waits");
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Goes on at the saved position, until something fails or the account is gone.
async fn carry_on(account: &Weak<Account>) -> Result<(), Failure> {
    let Some(foreign) = account.upgrade().map(|account| account.store.kv_updates().clone()) else { return Ok(()) };
    let Some((mut position, mut expected)) = foreign.position().await? else {
        // Somebody has deleted it.
        return Ok(foreign.begin().await?);
    };
    let mut reader = foreign.read(position + 1);
    loop {
        let puts = reader.next().await?;
        let Some(account) = account.upgrade() else { return Ok(()) };
        account.store_puts(&puts).await?;
        let reached = reader.position().saturating_sub(1);
        // It is lower when the bucket was made anew.
        if !puts.is_empty() || reached < position || reached >= position + SAVE_EVERY {
            expected = foreign.save(reached, expected).await?;
            position = reached;
        }
    }
}
