//! Account JWTs in files: an nsc store or the folder of a resolver, or one file with several of them, which may be the configuration
//! of a nats-server. They are looked at, and not announced; see `users_file`.
//!
//! **Invariant:** an account is gone when it was looked for and not there. What was found in a folder or a file stays while that cannot be
//! read; what was never found there is not waited for.

use std::io::{Error, ErrorKind, Read};
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
    /// Folders that could not be read, which is said.
    unreadable: HashSet<PathBuf>,
    /// The operators that were trusted at the last look.
    trusted: u64,
}

/// A file.
#[derive(Default)]
struct Found {
    stamp: Stamp,
    accounts: Vec<String>,
    /// It could not be read, which is said.
    is_unreadable: bool,
}

/// What is there.
#[derive(Default)]
struct Looked {
    paths: HashSet<PathBuf>,
    /// Folders that could not be read, and why. What they have is not among the paths.
    unreadable: Vec<(PathBuf, Error)>,
}

impl Files {
    /// A folder or a file.
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            files: HashMap::default(),
            missing: HashMap::default(),
            unreadable: HashSet::default(),
            trusted: 0,
        }
    }

    /// Reads what is another one than at the last look.
    pub(super) fn look(&mut self, known: &Known) {
        let mut looked = Looked::default();
        if let Err(error) = looked.collect(&self.path, DEPTH_MAX) {
            looked.unreadable.push((self.path.clone(), error));
        }
        for (path, error) in looked.unreadable.iter().filter(|(path, _)| !self.unreadable.contains(path)) {
            let path = path.display();
            tracing::warn!(%path, "accounts of auth.jwt.resolver that were found here stay while it cannot be read: {error}");
        }
        self.unreadable = looked.unreadable.iter().map(|(path, _)| path.clone()).collect();
        let before: HashSet<String> = self.accounts().chain(self.missing.keys().cloned()).collect();
        let trusted = known.operators_version();
        if std::mem::replace(&mut self.trusted, trusted) != trusted {
            // What was refused then may count now.
            self.files.values_mut().for_each(|found| found.stamp = Stamp::default());
        }
        self.files.retain(|path, _| looked.may_be_there(path));
        for path in looked.paths {
            self.read(path, known);
        }
        self.forget(before, known);
    }

    /// Reads a file, if it is another one than at the last look.
    fn read(&mut self, path: PathBuf, known: &Known) {
        let stamp = Stamp::of(&path);
        if self.files.get(&path).is_some_and(|found| found.stamp == stamp && !found.is_unreadable) {
            return;
        }
        match read(&path, known) {
            Ok((accounts, is_final)) => {
                // One that was written meanwhile is read again.
                let stamp = if is_final && Stamp::of(&path) == stamp { stamp } else { Stamp::default() };
                self.files.insert(path, Found { stamp, accounts, is_unreadable: false });
            }
            Err(error) => {
                let name = path.display().to_string();
                let found = self.files.entry(path).or_default();
                if !std::mem::replace(&mut found.is_unreadable, true) {
                    tracing::warn!(
                        path = name,
                        "a file of account JWTs cannot be read, and its accounts stay: {error}"
                    );
                }
            }
        }
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

impl Looked {
    /// The files with JWTs in a folder; a file is itself.
    fn collect(&mut self, path: &Path, depth: usize) -> Result<(), Error> {
        if !std::fs::metadata(path)?.is_dir() {
            self.paths.insert(path.to_owned());
            return Ok(());
        }
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            let path = entry.path();
            let kind = match entry.file_type() {
                // One that is gone meanwhile has nothing.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                kind => kind?,
            };
            let is_other = path.file_name().is_some_and(|name| OTHERS.iter().any(|other| name == *other));
            if kind.is_dir() && depth > 0 && !is_other {
                match self.collect(&path, depth - 1) {
                    Err(error) if error.kind() != ErrorKind::NotFound => {
                        self.unreadable.push((path, error));
                    }
                    _ => {}
                }
            } else if !kind.is_dir() && path.extension().is_some_and(|extension| extension == "jwt") {
                if self.paths.len() >= FILES_MAX {
                    return Err(Error::other(format!("it has more than {FILES_MAX} files")));
                }
                self.paths.insert(path);
            }
        }
        Ok(())
    }

    /// Whether a file that was there before is there, as far as anybody knows.
    fn may_be_there(&self, path: &Path) -> bool {
        self.paths.contains(path) || self.unreadable.iter().any(|(folder, _)| path.starts_with(folder))
    }
}

/// Offers every account JWT of a file. Which accounts they are of, and whether time will not change what becomes of them.
fn read(path: &Path, known: &Known) -> Result<(Vec<String>, bool), Error> {
    let mut text = String::new();
    let opened = std::fs::File::open(path);
    if let Err(error) = opened.and_then(|file| file.take(FILE_SIZE_MAX).read_to_string(&mut text)) {
        if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) {
            return Err(error);
        }
        tracing::warn!(path = %path.display(), "a file of account JWTs is gone, or is no text: {error}");
        return Ok((Vec::new(), true));
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
    Ok((accounts, is_final))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_in_a_folder_that_cannot_be_read_may_be_there_and_nothing_else() {
        let denied = || Error::from(ErrorKind::PermissionDenied);
        let looked = Looked {
            paths: HashSet::from_iter([PathBuf::from("/jwt/A.jwt")]),
            unreadable: vec![("/jwt/lost+found".into(), denied()), ("/jwt/T1".into(), denied())],
        };
        for (path, expected) in
            [("/jwt/A.jwt", true), ("/jwt/B.jwt", false), ("/jwt/T1/T1.jwt", true), ("/jwt/T10/T10.jwt", false)]
        {
            assert_eq!(looked.may_be_there(Path::new(path)), expected, "{path}");
        }
        let looked = Looked { unreadable: vec![("/jwt".into(), denied())], ..Looked::default() };
        assert!(looked.may_be_there(Path::new("/jwt/T1/T1.jwt")), "nothing can be read");
    }
}
