//! The configuration is read again: by SIGHUP, by `nats-mqtt reload`, or because its file is another one. What is to be done is decided
//! by a [`Plan`]; it is all done or nothing.
//!
//! **Invariant:** one at a time, and whoever asks while one is under way gets one that begins later: what was written before is read.
//!
//! **Invariant:** what can fail comes before anything is different: files, addresses, TLS. What is looked at as a whole is what will run,
//! which has something of the file and something of what has run so far.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::account::Redirect;
use crate::accounts::Accounts;
use crate::admin::control::{Answer, Answering, Answers, Candidate, Command};
use crate::auth::{self, Dispatch};
use crate::bans::Bans;
use crate::config::{Config, ConfigSource, Plan};
use crate::listener::{self, Listening, Serve};
use crate::logging;
use crate::stamp::Stamp;
use crate::systemd::Notifier;

/// Reloads by signals and by the file do not follow each other sooner: a hundred signals a second are one reload.
const PACE: Duration = Duration::from_secs(1);

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Reads the configuration again and again.
pub(super) struct Reloader<H> {
    source: ConfigSource,
    state: Mutex<State<H>>,
    parts: Parts,
}

/// What runs.
pub(super) struct State<H> {
    /// What counts.
    pub(super) config: Config,
    /// How its file was before it was read last.
    pub(super) stamp: Stamp,
    pub(super) listening: Listening<H>,
}

/// What is told of another configuration.
pub(super) struct Parts {
    pub(super) authenticator: Arc<Dispatch>,
    pub(super) accounts: Arc<Accounts>,
    pub(super) redirect: Arc<Redirect>,
    pub(super) bans: Arc<Bans>,
    pub(super) notifier: Notifier,
}

impl<H> State<H> {
    /// Whether the file, which is so now, is to be read by itself.
    fn is_due(&self, now: Stamp) -> bool {
        self.config.admin.watch && now != self.stamp
    }
}

impl<H: Serve> Reloader<H> {
    pub(super) fn new(source: ConfigSource, state: State<H>, parts: Parts) -> Self {
        Self { source, state: Mutex::new(state), parts }
    }

    /// The configuration that counts now.
    pub(super) async fn config(&self) -> Config {
        self.state.lock().await.config.clone()
    }

    /// Reads it whenever there is a reason, for ever.
    pub(super) async fn follow(&self, hangups: Signal) {
        tokio::join!(self.heed_signals(hangups), self.watch());
    }

    async fn heed_signals(&self, mut hangups: Signal) {
        while hangups.recv().await.is_some() {
            self.reload("SIGHUP").await;
            tokio::time::sleep(PACE).await;
        }
    }

    /// Reads the file when it is another one, and has been for a look: who writes it may not be done.
    async fn watch(&self) {
        if self.source.file().is_none() {
            return std::future::pending().await;
        }
        let mut seen = None;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = Stamp::of_some(self.source.file());
            let is_settled = seen.replace(now) == Some(now);
            if is_settled && self.state.lock().await.is_due(now) {
                self.reload("the file is another one").await;
            }
        }
    }

    /// What a reload would do now, or with this in place of the file.
    async fn plan(&self, current: &Config, candidate: Option<Candidate>) -> Result<Plan, String> {
        let (source, current) = (self.source.clone(), current.clone());
        let planning = tokio::task::spawn_blocking(move || {
            let new = match &candidate {
                Some(Candidate { name, text }) => source.load_as(name, text),
                None => source.load(),
            };
            let new = new.map_err(|error| error.to_string())?;
            listener::check(&new).map_err(|error| error.to_string())?;
            let plan = Plan::new(&current, &new);
            plan.check().map_err(|error| error.to_string())?;
            Ok(plan)
        });
        // Who plans does not panic; should it, nothing is different.
        planning.await.map_err(|error| error.to_string()).flatten()
    }

    /// Reads it, and does what is to be done. Says so in the log, and to who asks.
    async fn reload(&self, why: &str) -> Answer {
        let mut state = self.state.lock().await;
        // Behind the lock: each is followed by its end before the next one begins.
        self.parts.notifier.reloading();
        state.stamp = Stamp::of_some(self.source.file());
        let answer = Box::pin(self.replace_and_tell(&mut state, why)).await;
        drop(state);
        answer
    }

    async fn replace_and_tell(&self, state: &mut State<H>, why: &str) -> Answer {
        match Box::pin(self.replace(state)).await {
            Ok((plan, has_new_limits)) => {
                if has_new_limits {
                    self.parts.accounts.change_limits().await;
                }
                let lines = plan.lines();
                for line in &lines {
                    info!("{why}: {line}");
                }
                self.parts.notifier.ready("the configuration was read again");
                Answer::Done(lines)
            }
            Err(error) => {
                warn!("{why}: everything stays as it was: {error}");
                self.parts.notifier.ready("the configuration is wrong, and everything stays as it was");
                Answer::Refused(error)
            }
        }
    }

    /// Whether limits of listeners are others now as well.
    async fn replace(&self, state: &mut State<H>) -> Result<(Plan, bool), String> {
        let plan = self.plan(&state.config, None).await?;
        let Plan { next, listeners, .. } = &plan;
        let prepared = state.listening.prepare(next, listeners).await.map_err(|error| error.to_string())?;
        // Nothing fails from here on. Users before listeners: who comes by a new one is judged by them.
        let Parts { authenticator, accounts, redirect, bans, .. } = &self.parts;
        authenticator.reconfigure(next);
        if next.bans != state.config.bans {
            bans.configure(&next.bans);
        }
        redirect.set(next.drain.server_reference.as_deref(), next.drain.moved);
        if next.log.level != state.config.log.level && !logging::set_level(&next.log.level) {
            warn!("RUST_LOG is set, and says what is logged in place of log.level");
        }
        let is_closing = state.listening.take(prepared);
        let has_new_limits = state.listening.limit(next);
        accounts.set_rates(next.limits.common());
        if is_closing {
            let (accounts, over) = (Arc::clone(accounts), next.drain.duration.get());
            tokio::spawn(async move { accounts.let_go_without_listener(over).await });
        }
        auth::warnings(next).iter().for_each(|warning| warn!("{warning}"));
        if !listeners.is_empty() {
            auth::tell_open_listeners(&state.listening.bound());
        }
        state.config = next.clone();
        Ok((plan, has_new_limits))
    }
}

impl<H: Serve> Answers for Reloader<H> {
    fn answer(&self, command: Command) -> Answering<'_> {
        Box::pin(async move {
            match command {
                Command::Reload => self.reload("nats-mqtt reload").await,
                Command::Plan(candidate) => {
                    let state = self.state.lock().await;
                    match self.plan(&state.config, candidate).await {
                        Ok(plan) => Answer::Done(plan.lines()),
                        Err(error) => Answer::Refused(error),
                    }
                }
            }
        })
    }
}
