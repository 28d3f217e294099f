//! What becomes of a running process when its configuration is another one: which listeners open, close and change, which values are
//! replaced, and which keys need a restart and stay as they were. Nothing is done here.
//!
//! **Invariant:** a key that nobody has thought of needs a restart: every table is taken apart by its fields, or compared as a whole.

use std::fmt;

use super::error::{ConfigError, Origin};
use super::{
    AdminConfig, AuthConfig, AuthMode, BansConfig, Config, ListenerAuth, ListenerConfig, ListenersConfig, LogConfig,
};

/// What a reload does.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What counts from then on: the new configuration, but what needs a restart, which is as it was.
    pub next: Config,
    /// What becomes of listeners. Those that are not here stay as they are.
    pub listeners: Vec<ListenerChange>,
    /// Keys whose values are replaced.
    pub replaced: Vec<String>,
    /// Keys that are others and need a restart.
    pub restart: Vec<String>,
}

/// What becomes of a listener.
#[derive(Clone, Debug, PartialEq)]
pub enum ListenerChange {
    /// There was none at its address.
    Open(ListenerConfig),
    /// There is none any more: its clients are let go.
    Close(ListenerConfig),
    /// The one at its address is another one, for those who connect from then on.
    Change(Box<(ListenerConfig, ListenerConfig)>),
}

impl Plan {
    /// Compares what runs with what is to run.
    #[must_use]
    pub fn new(old: &Config, new: &Config) -> Self {
        let next = new.clone();
        let mut planning =
            Planning { old, new, plan: Self { next, listeners: vec![], replaced: vec![], restart: vec![] } };
        planning.tables();
        planning.auth();
        planning.listeners();
        planning.plan
    }

    /// Looks whether what counts from then on is right as a whole: each of the two configurations is by itself, and it has something of
    /// both.
    ///
    /// # Errors
    /// It is not: a restart is needed before this can be.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.next.check().map_err(|(key, message)| {
            let message = format!("{message}, beside what needs a restart and stays as it was");
            ConfigError::invalid(&Origin::Default, key, message)
        })
    }

    /// Whether nothing is different.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty() && self.replaced.is_empty() && self.restart.is_empty()
    }

    /// One line for each thing that it does, or does not.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        if self.is_empty() {
            return vec!["nothing is different".to_owned()];
        }
        let listeners = self.listeners.iter().map(ToString::to_string);
        let replaced = self.replaced.iter().map(|key| format!("{key}: replaced"));
        let restart = self.restart.iter().map(|key| format!("{key}: stays as it was, this needs a restart"));
        listeners.chain(replaced).chain(restart).collect()
    }
}

impl fmt::Display for ListenerChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |listener: &ListenerConfig| listener.place().unwrap_or_default();
        match self {
            Self::Open(listener) => write!(f, "listener {}: opened on {}", listener.name, place(listener)),
            Self::Close(listener) => {
                write!(f, "listener {}: closed on {}, and its clients are let go", listener.name, place(listener))
            }
            Self::Change(change) => {
                write!(f, "listener {}: changed for those who connect from now on", change.1.name)
            }
        }
    }
}

/// A plan that is being made.
struct Planning<'a> {
    old: &'a Config,
    new: &'a Config,
    plan: Plan,
}

impl Planning<'_> {
    /// The names of what differs of a key, and of those below it.
    fn names(&self, key: &str) -> Vec<String> {
        let names = self.old.written.differing(&self.new.written, key);
        // It says the same, and what it names has something else in it.
        if names.is_empty() { vec![format!("{key} (what a file has)")] } else { names }
    }

    fn replace(&mut self, key: &str, is_same: bool) {
        if !is_same {
            let names = self.names(key);
            self.plan.replaced.extend(names);
        }
    }

    /// Returns whether it stays as it was although it is another one.
    fn restart(&mut self, key: &str, is_same: bool) -> bool {
        if !is_same {
            let names = self.names(key);
            self.plan.restart.extend(names);
            self.plan.next.written.adopt(&self.old.written, key);
        }
        !is_same
    }

    /// All tables but `[auth]` and `[listeners]`.
    fn tables(&mut self) {
        let (old, new) = (self.old, self.new);
        // Without `..`: a table that is new does not compile until somebody has said here what becomes of it.
        let Config {
            nats,
            accounts,
            listeners: _,
            limits,
            bans,
            admin,
            auth: _,
            users,
            mqtt,
            publish,
            requests,
            jetstream,
            events,
            overload,
            log,
            drain,
            embedded,
            open_trees,
            written: _,
        } = new;
        let next = &mut self.plan.next;
        let mut stays = Vec::new();
        macro_rules! stays {
            ($($table:ident),*) => {$(
                if *$table != old.$table {
                    next.$table.clone_from(&old.$table);
                    stays.push(stringify!($table));
                }
            )*};
        }
        stays!(nats, accounts, mqtt, publish, requests, jetstream, events, overload, embedded, open_trees);
        for key in stays {
            self.restart(key, false);
        }
        self.replace("users", *users == old.users);
        self.replace("drain", *drain == old.drain);
        if *limits != old.limits {
            // What is only in older names is named by those.
            let names = old.written.differing(&new.written, "limits");
            self.plan.replaced.extend(names);
        }
        self.bans(bans);
        self.admin(admin);
        self.log(log);
    }

    fn bans(&mut self, new: &BansConfig) {
        let old = &self.old.bans;
        let BansConfig { shared, flapping, failed_logins, violations, list } = new;
        if self.restart("bans.shared", *shared == old.shared) {
            self.plan.next.bans.shared = old.shared;
        }
        self.replace("bans.flapping", *flapping == old.flapping);
        self.replace("bans.failed_logins", *failed_logins == old.failed_logins);
        self.replace("bans.violations", *violations == old.violations);
        self.replace("bans.list", *list == old.list);
    }

    fn admin(&mut self, new: &AdminConfig) {
        let old = &self.old.admin;
        let AdminConfig { bind, socket, watch } = new;
        let restarts = [("admin.bind", *bind == old.bind), ("admin.socket", *socket == old.socket)];
        for (key, is_same) in restarts {
            self.restart(key, is_same);
        }
        self.replace("admin.watch", *watch == old.watch);
        self.plan.next.admin = AdminConfig { watch: *watch, ..old.clone() };
    }

    fn log(&mut self, new: &LogConfig) {
        let old = &self.old.log;
        let LogConfig { format, level } = new;
        if self.restart("log.format", *format == old.format) {
            self.plan.next.log.format = old.format;
        }
        self.replace("log.level", *level == old.level);
    }

    fn auth(&mut self) {
        let (old, new) = (&self.old.auth, &self.new.auth);
        let AuthConfig {
            mode,
            certificate,
            anonymous,
            users_file,
            // It is looked at all the time.
            file_users: _,
            session_owner,
            wide_filters,
            cache,
            jwt,
            recheck,
            oidc,
        } = new;
        let mut stays = Vec::new();
        let next = &mut self.plan.next.auth;
        macro_rules! stays {
            ($($key:ident),*) => {$(
                if *$key != old.$key {
                    next.$key.clone_from(&old.$key);
                    stays.push(concat!("auth.", stringify!($key)));
                }
            )*};
        }
        stays!(session_owner, wide_filters, cache, jwt, recheck, oidc);
        for key in stays {
            self.restart(key, false);
        }
        if *mode == old.mode || self.knows(*mode) {
            self.replace("auth.mode", *mode == old.mode);
        } else {
            self.restart("auth.mode", false);
            self.plan.next.auth.mode = old.mode;
        }
        self.replace("auth.certificate", *certificate == old.certificate);
        self.replace("auth.anonymous", *anonymous == old.anonymous);
        self.replace("auth.users_file", *users_file == old.users_file);
    }

    /// Whether there is somebody who judges by this mode: who needs nothing that a start prepares, or is there.
    fn knows(&self, mode: AuthMode) -> bool {
        let old = self.old;
        let mut in_use = old.listeners.all().filter_map(|listener| listener.auth.mode).chain([old.auth.mode]);
        matches!(mode, AuthMode::None | AuthMode::File) || in_use.any(|used| used == mode)
    }

    fn listeners(&mut self) {
        let (old, new) = (&self.old.listeners, &self.new.listeners);
        let ListenersConfig { tcp, ws, unix, max_connections, max_connections_per_address, max_handshakes } = new;
        // Limits by their older names.
        let (connections, per_address) = (*max_connections, *max_connections_per_address);
        self.replace("listeners.max_connections", connections == old.max_connections);
        self.replace("listeners.max_connections_per_address", per_address == old.max_connections_per_address);
        self.restart("listeners.max_handshakes", *max_handshakes == old.max_handshakes);
        // Those that are gone, by where they listen.
        let mut gone: Vec<&ListenerConfig> = old.all().filter(|listener| listener.place().is_some()).collect();
        let mut keep = |listener: &ListenerConfig| {
            let before = gone.iter().position(|before| before.place() == listener.place()).map(|at| gone.remove(at));
            self.listener(before, listener)
        };
        let of = |kind: &[ListenerConfig],
                  keep: &mut dyn FnMut(&ListenerConfig) -> Option<ListenerConfig>|
         -> Vec<ListenerConfig> {
            kind.iter().filter_map(|listener| if listener.place().is_some() { keep(listener) } else { None }).collect()
        };
        let (tcp, ws, unix) = (of(tcp, &mut keep), of(ws, &mut keep), of(unix, &mut keep));
        let gone: Vec<ListenerConfig> = gone.into_iter().cloned().collect();
        self.plan.listeners.extend(gone.into_iter().map(ListenerChange::Close));
        self.plan.next.listeners = ListenersConfig {
            tcp,
            ws,
            unix,
            max_connections: connections,
            max_connections_per_address: per_address,
            ..old.clone()
        };
    }

    /// What becomes of a listener at an address; what counts there from then on, if anything.
    fn listener(&mut self, before: Option<&ListenerConfig>, now: &ListenerConfig) -> Option<ListenerConfig> {
        let (usual_before, usual) = (&self.old.auth, &self.plan.next.auth);
        let auth = ListenerAuth::new(usual, &now.auth);
        if !self.knows(auth.mode) {
            // Whoever judges by it is prepared at the start.
            let key = format!("{}.{}.auth.mode", now.kind.key(), now.name);
            self.plan.restart.push(key);
            return before.cloned();
        }
        let mut now = now.clone();
        if let Some(before) = before.filter(|before| (before.mode, &before.group) != (now.mode, &now.group)) {
            // The file of a socket is made once.
            self.plan.restart.push(format!("{}.{}.mode or group", now.kind.key(), now.name));
            (now.mode, now.group) = (before.mode, before.group.clone());
        }
        match before {
            None => self.plan.listeners.push(ListenerChange::Open(now.clone())),
            Some(before) if *before == now && ListenerAuth::new(usual_before, &before.auth) == auth => {}
            Some(before) => {
                self.plan.listeners.push(ListenerChange::Change(Box::new((before.clone(), now.clone()))));
            }
        }
        Some(now)
    }
}

#[cfg(test)]
mod tests;
