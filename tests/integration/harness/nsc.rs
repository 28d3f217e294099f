//! nsc and the nats CLI as they come from their makers: an operator, its accounts, scoped signing keys and users.
//!
//! Everything is in a directory of the fixture's own, which they take for the user's home, and none of the user's variables reaches
//! them. `make tools` builds them; a test that has none says that it is skipped.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use async_nats::{Client, ConnectOptions};
use tempfile::TempDir;

use super::nats::find_program;
use super::{Finished, NatsServer, PATIENCE, run};

/// An operator `ACME` with the system account `SYS`, as a person has it in a home directory.
#[derive(Debug)]
pub(crate) struct Nsc {
    home: TempDir,
    path: OsString,
}

/// How a change of an account reaches nats-server: by `nsc push`, or in its configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Resolver {
    Full,
    Memory,
}

impl Nsc {
    /// A home with nothing in it; `None` without the programs, and a line that no test runner holds back.
    pub(crate) fn empty() -> Option<Self> {
        let programs = ["nsc", "nats"].map(|name| (name, find_program(name)));
        let mut path = Vec::new();
        for (name, program) in programs {
            let Some(program) = program else {
                let test = std::thread::current();
                let test = test.name().unwrap_or("a test");
                // In one piece: other tests write as well.
                let line = format!("skipped: {test}: there is no {name}; `make tools` builds it\n");
                std::io::stderr().write_all(line.as_bytes()).ok()?;
                return None;
            };
            path.push(program.parent().expect("a directory").to_owned());
        }
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        let path = std::env::join_paths(path).expect("paths without separators");
        Some(Self { home: TempDir::with_prefix("nats-mqtt-nsc-").expect("a temporary directory"), path })
    }

    /// With the operator, which signs with signing keys only.
    pub(crate) async fn acme() -> Option<Self> {
        let nsc = Self::empty()?;
        nsc.types(
            "nsc add operator -n ACME --sys --generate-signing-key
             nsc edit operator --require-signing-keys",
        )
        .await;
        Some(nsc)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.home).env_clear().env("HOME", self.home.path()).env("PATH", &self.path);
        command
    }

    /// Runs a program to its end.
    pub(crate) async fn tries(&self, program: &str, args: &[&str]) -> Finished {
        let mut command = self.command(program);
        command.args(args);
        run(command, PATIENCE).await
    }

    /// Runs nsc to a good end; its output.
    pub(crate) async fn nsc(&self, args: &[&str]) -> String {
        let done = self.tries("nsc", args).await;
        assert_eq!(done.code, 0, "nsc {args:?}: {}{}", done.stdout, done.stderr);
        done.stdout
    }

    /// Types lines into a shell, each of which has to end well.
    pub(crate) async fn types(&self, lines: &str) {
        let done = self.tries("bash", &["-euo", "pipefail", "-c", lines]).await;
        assert_eq!(done.code, 0, "{lines}: {}{}", done.stdout, done.stderr);
    }

    /// A file in the home.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// The file with a user's JWT and seed.
    pub(crate) fn creds(&self, account: &str, user: &str) -> PathBuf {
        self.file(".local/share/nats/nsc/keys/creds/ACME").join(account).join(format!("{user}.creds"))
    }

    pub(crate) async fn account_id(&self, name: &str) -> String {
        let id = self.nsc(&["describe", "account", "-n", name, "--field", "sub"]).await;
        id.trim().trim_matches('"').to_owned()
    }

    /// The account's JWT as nsc has it.
    pub(crate) async fn account_jwt(&self, name: &str) -> String {
        self.nsc(&["describe", "account", "-n", name, "--raw"]).await.trim().to_owned()
    }

    pub(crate) async fn user_jwt(&self, account: &str, name: &str) -> String {
        self.nsc(&["describe", "user", "-a", account, "-n", name, "--raw"]).await.trim().to_owned()
    }

    /// Adds an account with JetStream. It has users when it has a role.
    pub(crate) async fn account(&self, name: &str) {
        self.nsc(&["add", "account", "-n", name]).await;
        self.nsc(&["edit", "account", "-n", name, "--js-disk-storage", "20G", "--js-mem-storage", "64M"]).await;
    }

    /// Adds a scoped signing key to an account: `generate`, or a file with its seed.
    pub(crate) async fn role(&self, account: &str, role: &str, key: &str, flags: &[&str]) {
        self.nsc(&[&["edit", "signing-key", "-a", account, "--sk", key, "--role", role], flags].concat()).await;
    }

    /// The id of the signing key that has a role.
    pub(crate) async fn role_key(&self, account: &str, role: &str) -> String {
        let keys = self.nsc(&["describe", "account", "-n", account, "--field", "nats.signing_keys"]).await;
        let keys: Vec<serde_json::Value> = serde_json::from_str(&keys).expect("signing keys");
        let key = keys.iter().find(|key| key["role"] == role).expect("a key with this role");
        key["key"].as_str().expect("its id").to_owned()
    }

    /// Adds a user, signed by a role, a signing key's id, or a file with its seed.
    pub(crate) async fn user(&self, account: &str, by: &str, name: &str) {
        self.nsc(&["add", "user", "-a", account, "-K", by, "-n", name]).await;
    }

    /// What nats-server has to know of the operator, as lines of its configuration.
    pub(crate) async fn resolver(&self, resolver: Resolver) -> String {
        let kind = match resolver {
            Resolver::Full => "--nats-resolver",
            Resolver::Memory => "--mem-resolver",
        };
        self.nsc(&["generate", "config", kind, "--sys-account", "SYS"]).await
    }

    /// `nsc push` of an account (`-a`) or of all (`--all`).
    pub(crate) async fn push(&self, server: &NatsServer, what: &[&str]) -> Finished {
        self.tries("nsc", &[&["push", "-u", &server.url()], what].concat()).await
    }

    /// A NATS client with the credentials of a file.
    pub(crate) async fn client(&self, server: &NatsServer, creds: &Path) -> Client {
        let options = ConnectOptions::with_credentials_file(creds).await.expect("credentials");
        options.connect(server.url()).await.expect("connect to nats-server")
    }

    /// Runs the nats CLI with the credentials of a file.
    pub(crate) async fn nats(&self, server: &NatsServer, creds: &Path, args: &[&str]) -> Finished {
        let creds = creds.to_str().expect("a path in UTF-8");
        self.tries("nats", &[&["--server", &server.url(), "--creds", creds], args].concat()).await
    }
}
