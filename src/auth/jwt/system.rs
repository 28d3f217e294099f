//! What the system account tells: the operator that nats-server trusts, the JWT of an account, and when one is pushed or deleted.
//!
//! Updates are core NATS and can be lost, so what is in use is asked for again: at every reconnect, and from time to time.
//! nats-server has verified nothing of what it passes on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foldhash::HashSet;
use futures_util::StreamExt;
use futures_util::stream;
use mqtt_access::jwt::Operator;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use super::known::{Known, OperatorSource, Source};
use crate::auth::time;
use crate::nats::{Client, Outbound};
use crate::store::{LoneLink, NatsOptions, OpenError};

/// How long an answer may take. It is below the time that judging may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// So long after the first answer others are waited for: of several servers one may know more.
const MORE_WITHIN: Duration = Duration::from_millis(250);

/// How often what is in use is asked for again.
const ASK_EVERY: Duration = Duration::from_secs(60);

/// Accounts that are asked for at once then.
const ASKED_AT_ONCE: usize = 8;

/// How soon a link is tried again that was refused.
const RETRY: Duration = Duration::from_secs(5);

/// Answers to one question that are looked at: there are as many as servers.
const ANSWERS_MAX: usize = 256;

/// Where accounts are pushed and deleted.
const ANNOUNCED: [&str; 4] = [
    "$SYS.REQ.CLAIMS.UPDATE",
    "$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE",
    "$SYS.ACCOUNT.*.CLAIMS.UPDATE",
    "$SYS.REQ.CLAIMS.DELETE",
];

/// Ends the last of them.
const DELETE: &[u8] = b".DELETE";

/// The system account.
pub(super) struct System {
    options: NatsOptions,
    /// It is asked for the JWTs of accounts, and not for operators alone.
    has_accounts: bool,
    /// A link that stands, or did.
    link: watch::Sender<Option<Client>>,
}

/// The answer of a server to `VARZ`.
#[derive(Deserialize)]
struct Varz {
    data: VarzData,
}

#[derive(Deserialize)]
struct VarzData {
    #[serde(default)]
    trusted_operators_jwt: Vec<String>,
}

/// The answer of a resolver that says which accounts it has.
#[derive(Deserialize)]
struct Listed {
    data: Vec<String>,
}

impl System {
    /// Reached by these options, whose credentials are those of a user of it.
    pub(super) fn new(options: NatsOptions, has_accounts: bool) -> Arc<Self> {
        Arc::new(Self { options, has_accounts, link: watch::Sender::default() })
    }

    /// The JWT of an account; `None` when nobody has one.
    ///
    /// # Errors
    /// Nobody answers.
    pub(super) async fn look_up(&self, id: &str) -> Result<Option<String>, ()> {
        let latest = Instant::now() + ANSWER_WITHIN;
        let client = self.client(latest).await?;
        let answered = ask_for_account(&client, id, latest).await;
        if answered.is_err() {
            tracing::warn!(
                account = id,
                "no resolver of nats-server answers: auth.jwt.resolver = \"system\" needs a full one; for another kind name a folder or a file"
            );
        }
        answered
    }

    /// The accounts that there are, by their keys.
    ///
    /// # Errors
    /// Nobody answers.
    pub(super) async fn list(&self) -> Result<Vec<String>, ()> {
        let latest = Instant::now() + ANSWER_WITHIN;
        let client = self.client(latest).await?;
        let mut ids = BTreeSet::new();
        let take = |payload: &[u8]| {
            match serde_json::from_slice::<Listed>(payload) {
                Ok(listed) => ids.extend(listed.data),
                Err(error) => tracing::warn!("nats-server lists accounts in a way that cannot be understood: {error}"),
            }
            false
        };
        answers(&client, "$SYS.REQ.CLAIMS.LIST", latest, take).await.ok_or(())?;
        Ok(ids.into_iter().collect())
    }

    /// A link that stands, or did.
    async fn client(&self, latest: Instant) -> Result<Client, ()> {
        let mut link = self.link.subscribe();
        match timeout_at(latest, link.wait_for(Option::is_some)).await {
            Ok(Ok(link)) => link.clone().ok_or(()),
            _ => Err(()),
        }
    }

    /// Keeps what is known up to date, as long as it is polled.
    pub(super) async fn follow(&self, known: &Known) {
        loop {
            match self.serve(known).await {
                Ok(()) => {}
                Err(error) => tracing::error!("the system account cannot be used: {error}"),
            }
            sleep(RETRY).await;
        }
    }

    async fn serve(&self, known: &Known) -> Result<(), OpenError> {
        let link = LoneLink::open(self.options.clone(), "system").await?;
        let client = link.client();
        let listening = async {
            if self.has_accounts {
                listen(client, known).await;
            }
        };
        tokio::join!(listening, self.refresh(client, known));
        Ok(())
    }

    async fn refresh(&self, client: &Client, known: &Known) {
        let mut state = client.state();
        loop {
            let (stands, overflows) = (*state.borrow_and_update(), client.overflows());
            if stands.connected {
                ask_for_operators(client, known).await;
                if known.has_operators() {
                    self.link.send_if_modified(|link| link.is_none().then(|| *link = Some(client.clone())).is_some());
                }
                if self.has_accounts {
                    ask_for_what_is_used(client, known).await;
                }
            }
            let wait = if known.has_operators() { ASK_EVERY } else { RETRY };
            tokio::select! {
                _ = state.changed() => {}
                () = sleep(wait) => {}
            }
            if state.borrow().epoch != stands.epoch || client.overflows() != overflows {
                known.doubt();
            }
        }
    }
}

/// Hears of what is pushed and deleted.
async fn listen(client: &Client, known: &Known) {
    let Ok(mut announced) = client.subscribe_all(&ANNOUNCED, LoneLink::queue_limits()) else { return };
    while let Some(message) = announced.next().await {
        let Ok(text) = std::str::from_utf8(message.payload()) else { continue };
        if message.subject().ends_with(DELETE) {
            known.delete(text);
        } else {
            known.announce(text, time::now());
        }
    }
}

/// All answers of servers to a question: until one is enough, or none is to be expected any more. `None`: nobody answers.
async fn answers(
    client: &Client,
    subject: &str,
    latest: Instant,
    mut is_enough: impl FnMut(&[u8]) -> bool,
) -> Option<()> {
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(&inbox, LoneLink::queue_limits()).ok()?;
    let nothing = Bytes::new();
    let question = Outbound { reply: Some(inbox.as_bytes()), ..Outbound::plain(subject, &nothing) };
    client.try_publish(&question).ok()?;
    let (mut until, mut heard) = (latest, 0);
    while heard < ANSWERS_MAX
        && let Ok(Some(answer)) = timeout_at(until, answers.next()).await
    {
        if answer.payload().is_empty() && answer.status() == Some(503) {
            break;
        }
        heard += 1;
        if is_enough(answer.payload()) {
            break;
        }
        until = until.min(Instant::now() + MORE_WITHIN);
    }
    (heard > 0).then_some(())
}

async fn ask_for_account(client: &Client, id: &str, latest: Instant) -> Result<Option<String>, ()> {
    let (subject, mut found) = (format!("$SYS.REQ.ACCOUNT.{id}.CLAIMS.LOOKUP"), None);
    let take = |payload: &[u8]| {
        found = std::str::from_utf8(payload).ok().filter(|text| !text.is_empty()).map(str::to_owned);
        found.is_some()
    };
    answers(client, &subject, latest, take).await.ok_or(())?;
    Ok(found)
}

/// What any server trusts.
async fn ask_for_operators(client: &Client, known: &Known) {
    let (mut jwts, latest) = (HashSet::default(), Instant::now() + ANSWER_WITHIN);
    let take = |payload: &[u8]| {
        match serde_json::from_slice::<Varz>(payload) {
            Ok(varz) => jwts.extend(varz.data.trusted_operators_jwt),
            Err(error) => tracing::warn!("nats-server says of itself what cannot be understood: {error}"),
        }
        false
    };
    if answers(client, "$SYS.REQ.SERVER.PING.VARZ", latest, take).await.is_none() {
        return tracing::warn!(
            "no nats-server says which operator it trusts: is auth.jwt.system_creds of the system account?"
        );
    }
    let decoded = jwts.iter().filter_map(|jwt| match Operator::decode(jwt) {
        Ok(operator) => Some(operator),
        Err(error) => {
            tracing::warn!("the JWT of an operator that nats-server trusts cannot be read: {error}");
            None
        }
    });
    let mut operators: Vec<Operator> = decoded.collect();
    operators.sort_by(|one, other| (one.id(), one.issued_at()).cmp(&(other.id(), other.issued_at())));
    if operators.is_empty() {
        return tracing::warn!("nats-server trusts no operator: mode \"jwt\" needs one in its configuration");
    }
    known.set_operators(OperatorSource::Server, operators);
}

async fn ask_for_what_is_used(client: &Client, known: &Known) {
    let asking = stream::iter(known.in_use()).map(|id| async move {
        if let Ok(Some(text)) = ask_for_account(client, &id, Instant::now() + ANSWER_WITHIN).await {
            // What is refused is said there.
            let _ = known.offer(&id, &text, Source::Stored, time::now());
        }
    });
    asking.buffer_unordered(ASKED_AT_ONCE).for_each(|()| std::future::ready(())).await;
}
