//! Asks nats-server again about those who are connected, once for all who have the same credentials.
//!
//! **Invariant:** nobody but nats-server puts anybody out: whoever else answers may be anybody in the account. What nats-server refuses is the
//! credentials, or the question itself, which its user may not ask any more.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;

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
        // Those whose JWT has ended meanwhile end by themselves, and where nobody is connected any more nobody is asked about.
        let Ok(expires) = offered.expires(now()) else { return };
        // What its JWT says is as it was, and stays with its principal.
        let Some(own) = self.known.own_limits(fingerprint, expires) else { return };
        let turn = self.turns.wait(NOWHERE).await;
        let asked = self.ask(&offered).await;
        drop(turn);
        let asked = asked.and_then(|answer| answer.principal(Some(own), now()));
        self.learn(fingerprint, &offered, asked);
    }

    /// Takes over what was heard of those who are connected by these credentials.
    fn learn(&self, fingerprint: Fingerprint, offered: &Offered, asked: Result<Principal, AuthStep>) {
        match asked {
            Ok(principal) => {
                if let Some((_, true)) = self.known.keep(fingerprint, offered, principal) {
                    self.changes.send_modify(|version| *version += 1);
                }
            }
            Err(AuthStep::NatsRefused | AuthStep::NatsQuestion) => {
                self.known.refuse(fingerprint);
                self.changes.send_modify(|version| *version += 1);
            }
            // nats-server has not said that it is not allowed any more. Whoever else answers may be anybody in the account.
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mqtt_codec::{Connect, Version};

    use super::super::NatsWays;
    use super::*;
    use crate::auth::{Again, Authenticator as _, Refusals};
    use crate::config::AuthConfig;
    use crate::listener::{Entrance, Peer, Protocol};
    use crate::metrics::Metrics;
    use crate::store::NatsOptions;

    #[tokio::test]
    async fn nobody_but_nats_server_puts_anybody_out() {
        let ways = NatsWays { home: NatsOptions::default(), others: Vec::new(), inbox_prefix: "_INBOX".to_owned() };
        let users = NatsUsers::new(&AuthConfig::default(), ways, Refusals::new(Metrics::new())).unwrap();
        let peer = Peer::new(([192, 0, 2, 1], 1883).into(), Arc::new(Entrance::plain("a", Protocol::Mqtt)));
        let connect = Connect { username: Some("lamp".into()), ..Connect::new(Version::V5, "c") };
        let offered = Offered::of(&connect).unwrap();
        let of = users.known.fingerprint(&peer, &offered);
        let (lamp, _) = users.known.keep(of, &offered, Principal::all()).unwrap();
        let changes = users.changes();
        for step in [
            AuthStep::Busy,
            AuthStep::Expired,
            AuthStep::NatsAnswer,
            AuthStep::NatsAnswers,
            AuthStep::NatsNoAnswer,
            AuthStep::NatsUnreachable,
        ] {
            users.learn(of, &offered, Err(step));
            assert!(matches!(users.judge_again(&lamp, "c"), Again::Same), "{}", step.text());
            assert!(!changes.has_changed().unwrap());
        }
        users.learn(of, &offered, Err(AuthStep::NatsQuestion));
        assert!(matches!(users.judge_again(&lamp, "c"), Again::Gone(_)));
        assert!(changes.has_changed().unwrap());
    }
}
