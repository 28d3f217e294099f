//! Account JWTs in files: an nsc store or the folder of a resolver, or one file with several of them, which may be the configuration
//! of a nats-server. They are looked at, and not announced; see `users_file`.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use foldhash::{HashMap, HashSet};
use mqtt_access::jwt::{Account, AccountRefusal, JWT_LEN_MAX, jwts_in};

use super::known::{Known, Source};
use crate::auth::time;
use crate::stamp::Stamp;

/// How often the files are looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Files that are read of a folder.
const FILES_MAX: usize = 65_536;

/// Folders within each other: in an nsc store, those of operator, accounts and account.
const DEPTH_MAX: usize = 4;

/// Bytes of one file: several account JWTs, or one that is as large as one may be.
const FILE_SIZE_MAX: u64 = 16 << 20;

/// Folders of an nsc store that have other JWTs.
const OTHERS: [&str; 2] = ["users", "creds"];

/// Looks that an account has to be missing in until it is gone: a file that is replaced is missing for a moment.
const MISSING_MAX: u8 = 2;

/// What was found so far.
pub(super) struct Files {
    path: PathBuf,
    files: HashMap<PathBuf, Found>,
    /// Accounts that were there, and in how many looks they were not since.
    missing: HashMap<String, u8>,
    /// The folder could not be read, which is said.
    is_unreadable: bool,
    /// The operators that were trusted at the last look.
    trusted: u64,
}

/// A file.
struct Found {
    stamp: Stamp,
    accounts: Vec<String>,
}

impl Files {
    /// A folder or a file.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, files: HashMap::default(), missing: HashMap::default(), is_unreadable: false, trusted: 0 }
    }

    /// Reads what is another one than at the last look.
    pub(super) fn look(&mut self, known: &Known) {
        let mut paths = Vec::new();
        if let Err(error) = collect(&self.path, DEPTH_MAX, &mut paths) {
            if !std::mem::replace(&mut self.is_unreadable, true) {
                let path = self.path.display();
                tracing::warn!(%path, "the accounts stay as they were: auth.jwt.resolver cannot be read: {error}");
            }
            return;
        }
        self.is_unreadable = false;
        let before: HashSet<String> = self.accounts().chain(self.missing.keys().cloned()).collect();
        let trusted = known.operators_version();
        if std::mem::replace(&mut self.trusted, trusted) != trusted {
            // What was refused then may count now.
            self.files.values_mut().for_each(|found| found.stamp = Stamp::default());
        }
        let there: HashSet<&PathBuf> = paths.iter().collect();
        self.files.retain(|path, _| there.contains(path));
        for path in paths {
            let stamp = Stamp::of(&path);
            if self.files.get(&path).is_none_or(|found| found.stamp != stamp) {
                let (accounts, is_final) = read(&path, known);
                // One that was written meanwhile is read again.
                let stamp = if is_final && Stamp::of(&path) == stamp { stamp } else { Stamp::default() };
                self.files.insert(path, Found { stamp, accounts });
            }
        }
        self.forget(before, known);
    }

    fn accounts(&self) -> impl Iterator<Item = String> {
        self.files.values().flat_map(|found| found.accounts.iter().cloned())
    }

    /// Counts the looks in which an account was missing.
    fn forget(&mut self, before: HashSet<String>, known: &Known) {
        let now: HashSet<String> = self.accounts().collect();
        self.missing.retain(|id, _| !now.contains(id));
        for id in before.into_iter().filter(|id| !now.contains(id)) {
            let looks = self.missing.entry(id.clone()).or_insert(0);
            *looks += 1;
            if *looks >= MISSING_MAX {
                self.missing.remove(&id);
                known.remove(&id);
            }
        }
    }
}

/// The files with JWTs in a folder; a file is itself.
fn collect(path: &Path, depth: usize, out: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if !std::fs::metadata(path)?.is_dir() {
        out.push(path.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(path)? {
        let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
        let is_other = path.file_name().is_some_and(|name| OTHERS.iter().any(|other| name == *other));
        if kind.is_dir() && depth > 0 && !is_other {
            // One that is gone meanwhile has nothing.
            let _ = collect(&path, depth - 1, out);
        } else if !kind.is_dir() && path.extension().is_some_and(|extension| extension == "jwt") {
            if out.len() >= FILES_MAX {
                return Err(std::io::Error::other(format!("it has more than {FILES_MAX} files")));
            }
            out.push(path);
        }
    }
    Ok(())
}

/// Offers every account JWT of a file. Which accounts they are of, and whether time will not change what becomes of them.
fn read(path: &Path, known: &Known) -> (Vec<String>, bool) {
    let mut text = String::new();
    let opened = std::fs::File::open(path);
    if let Err(error) = opened.and_then(|file| file.take(FILE_SIZE_MAX).read_to_string(&mut text)) {
        tracing::warn!(path = %path.display(), "a file of account JWTs cannot be read: {error}");
        return (Vec::new(), true);
    }
    let (mut accounts, mut is_final) = (Vec::new(), true);
    for jwt in jwts_in(&text).filter(|jwt| jwt.len() <= JWT_LEN_MAX) {
        // Operators, users and what else lies there are none.
        let Some(id) = Account::claimed_id(jwt) else { continue };
        // What is refused is said there, or at the step at which its users are.
        let offered = known.offer(&id, jwt, Source::Stored, time::now());
        is_final &= offered != Err(AccountRefusal::NotYetValid);
        accounts.push(id);
    }
    (accounts, is_final)
}
