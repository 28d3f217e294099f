//! What the client publishes, between the session and the account.

use mqtt_codec::{ReasonCode, Version};
use mqtt_session::{Input, Publication};
use tokio::io::{AsyncRead, AsyncWrite};

use super::parts::Reading;
use super::{Connection, End};
use crate::account::{DeniedPublish, LogRestart, Order, Refused, Taken};

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    pub(super) fn publish(&mut self, publication: Publication) {
        self.counts.published[publication.qos as usize] += 1;
        self.counts.payload_bytes[0] += publication.payload.len() as u64;
        let Err(refusal) = self.publishing.publish(publication, &mut self.wakes) else { return };
        let (publication, refused) = *refusal;
        self.log_refused(&publication, refused);
        let reason = refused.reason_code();
        self.account.metrics.dropped(refused.drop_reason(), 1);
        // In 3.x it is acknowledged as usual, or the connection ends [MQTT-3.3.5-2 of 3.1.1].
        let is_denied = matches!(
            refused,
            Refused::Closed | Refused::Denied | Refused::Late | Refused::OverLimit | Refused::OverPayload
        );
        let answer = match publication.token {
            Some(token) if self.version == Version::V5 => Some((token, Err(reason))),
            Some(token) if is_denied && self.account.options.denied_publish == DeniedPublish::Drop => {
                Some((token, Ok(ReasonCode::Success)))
            }
            None if is_denied && self.account.options.denied_publish == DeniedPublish::Drop => None,
            // No packet of this version or QoS can say it.
            token @ (Some(_) | None) => {
                token.into_iter().for_each(|token| self.session.not_published(token));
                self.end = Some(End::ByServer(reason));
                None
            }
        };
        if let Some((token, result)) = answer {
            // Told after the outputs at hand: acknowledgements leave in the order of arrival.
            self.answers.push((token, result));
        }
    }

    /// Takes completions, what is in the inbox, and orders.
    pub(super) fn take_mail(&mut self) {
        let mut mail = std::mem::take(&mut self.mail);
        self.inbox.take(&mut mail);
        mail.restarts.drain(..).for_each(|restart| self.log_restarted(restart));
        let session = &mut self.session;
        self.publishing.complete(&mut self.answers, &mut self.wakes, |token| session.not_published(token));
        let Taken { order, owned, has_new_rights, has_new_limits } = self.control.take();
        if let Some(owned) = owned {
            self.owned = Some(owned);
            self.judge_will();
        }
        match order {
            Some(Order::Close(reason)) => self.end_by_order(reason),
            Some(Order::Drain) => self.end_by_order(self.account.drain_reason()),
            None => {}
        }
        if has_new_rights {
            self.judge_rights();
        } else if has_new_limits {
            self.look_for_rates();
        }
        if self.control.completions().has_failed() {
            self.end_by_order(ReasonCode::ServerBusy);
        }
        self.mail = mail;
        self.tell_answers();
    }

    /// A log goes on elsewhere: what the session and its record say of places in it is about what was there before.
    pub(super) fn log_restarted(&mut self, LogRestart { log, next }: LogRestart) {
        self.session.log_restarted(log, next);
        self.copies.iter_mut().for_each(|(place, _)| *place = place.after_restart(log, next));
        if log != 0 {
            return;
        }
        // Those of the log before.
        self.backlog = Reading::default();
        if let Some(owned) = &mut self.owned {
            owned.subscriptions.change(|stored| {
                let since = stored.since.min(next.before().0);
                let has_changed = since < stored.since || stored.before.is_some();
                (stored.since, stored.before) = (since, None);
                has_changed
            });
        }
    }

    pub(super) fn tell_answers(&mut self) {
        let mut answers = std::mem::take(&mut self.answers);
        for (token, result) in answers.drain(..) {
            self.tell(Input::Stored(token, result));
        }
        answers.append(&mut self.answers);
        self.answers = answers;
    }
}
