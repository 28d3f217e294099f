//! Asks nats-server again about those who are connected, once for all who have the same credentials.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use mqtt_access::jwt::OwnLimits;

use super::super::Principal;
use super::super::time::now;
use super::NatsUsers;
use super::known::Fingerprint;
use super::offered::Offered;
use crate::metrics::AuthStep;

/// How often it is looked whose turn it is, while anybody is known.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Credentials that are asked about at once; new clients have the other turns.
const AT_ONCE: usize = 32;

/// Credentials that are looked for at a time.
const DUE_MAX: usize = 1024;

/// Where a turn is waited for that is none of a client.
const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

impl NatsUsers {
    /// Asks again and again, for ever.
    pub(super) async fn recheck(&self) {
        loop {
            let (due, has_more) = self.known.take_due(DUE_MAX);
            stream::iter(due).for_each_concurrent(AT_ONCE, |(of, offered)| self.ask_again(of, offered)).await;
            if has_more {
                tokio::time::sleep(LOOK_EVERY).await;
            } else {
                self.known.has_come.notified().await;
            }
        }
    }

    async fn ask_again(&self, fingerprint: Fingerprint, offered: Offered) {
        let asked = match offered.expires(now()) {
            // What its JWT says is as it was, and stays with its principal.
            Ok(expires) => match self.known.own_limits(fingerprint, expires) {
                Some(own) => self.asked_again(&offered, own).await,
                // Nobody is connected by it any more.
                None => return,
            },
            Err(step) => Err(step),
        };
        match asked {
            Ok(principal) => {
                if let Some((_, true)) = self.known.keep(fingerprint, &offered, principal) {
                    self.changes.send_modify(|version| *version += 1);
                }
            }
            // Nobody has said that it is not allowed any more.
            Err(AuthStep::NatsUnreachable | AuthStep::NatsNoAnswer | AuthStep::Busy) => {}
            Err(_) => {
                self.known.refuse(fingerprint);
                self.changes.send_modify(|version| *version += 1);
            }
        }
    }

    async fn asked_again(&self, offered: &Offered, own: OwnLimits) -> Result<Principal, AuthStep> {
        let turn = self.turns.wait(NOWHERE).await;
        let answer = self.ask(offered).await;
        drop(turn);
        answer?.principal(Some(own), now())
    }
}
