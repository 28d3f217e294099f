//! `[auth.jwt]`: whose accounts are served in mode `jwt`, and where their JWTs come from.

use std::io::Read;
use std::path::{Path, PathBuf};

use mqtt_access::jwt::{JWT_LEN_MAX, Operator, jwts_in};
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

/// `[auth.jwt]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct JwtConfig {
    /// File with the JWT of the operator. Without it nats-server is asked, over the system account.
    pub operator: Option<PathBuf>,
    /// A `.creds` file of a user of the system account.
    pub system_creds: Option<PathBuf>,
    /// Where the JWTs of accounts come from. Default `system`.
    pub resolver: ResolverConfig,
    /// Files with seeds of signing keys of accounts.
    pub signing_keys: Vec<PathBuf>,
    /// Folder of `.creds` files, each called as the id or the name of its account.
    pub creds: Option<PathBuf>,
}

/// Where the JWTs of accounts come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ResolverConfig {
    /// `system`: from the resolver of nats-server, asked over the system account.
    #[default]
    System,
    /// A folder, as of an nsc store or a resolver, or a file with several of them.
    Path(PathBuf),
}

impl<'de> Deserialize<'de> for ResolverConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match String::deserialize(deserializer)? {
            system if system == "system" => Self::System,
            path => Self::Path(path.into()),
        })
    }
}

impl JwtConfig {
    /// Looks whether it says enough, and whether its files are there. Answers the key and what is wrong with it.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        if let Some(file) = &self.operator {
            read_operator(file).map_err(|message| ("auth.jwt.operator", message))?;
        } else if self.system_creds.is_none() {
            return Err((
                "auth.mode",
                "mode \"jwt\" knows no operator: write the file of its JWT into auth.jwt.operator, or auth.jwt.system_creds"
                    .to_owned(),
            ));
        }
        if let Some(file) = self.system_creds.as_ref() {
            check_creds(file).map_err(|message| ("auth.jwt.system_creds", message))?;
        }
        match &self.resolver {
            ResolverConfig::System if self.system_creds.is_none() => {
                return Err((
                    "auth.jwt.resolver",
                    "\"system\" is asked over the system account: write auth.jwt.system_creds, or a folder or file of account JWTs"
                        .to_owned(),
                ));
            }
            ResolverConfig::System => {}
            ResolverConfig::Path(path) => {
                std::fs::metadata(path).map_err(|error| ("auth.jwt.resolver", no_such(path, &error)))?;
            }
        }
        for file in &self.signing_keys {
            read_signing_key(file).map_err(|message| ("auth.jwt.signing_keys", message))?;
        }
        match self.creds.as_ref().filter(|folder| !folder.is_dir()) {
            Some(folder) => Err(("auth.jwt.creds", format!("there is no folder {}", folder.display()))),
            None => Ok(()),
        }
    }
}

/// Reads the JWT of an operator.
///
/// # Errors
/// There is none; the message is one line.
pub fn read_operator(path: &Path) -> Result<Operator, String> {
    let text = read(path)?;
    let jwt = jwts_in(&text).next().ok_or_else(|| format!("{} holds no JWT", path.display()))?;
    Operator::decode(jwt).map_err(|error| format!("{} is no operator JWT: {error}", path.display()))
}

/// Reads the seed of an account's signing key: the key, which signs.
///
/// # Errors
/// There is none; the message is one line.
pub fn read_signing_key(path: &Path) -> Result<nkeys::KeyPair, String> {
    let text = read(path)?;
    let seed = text.split_whitespace().find(|word| word.starts_with("SA"));
    let key = seed.and_then(|seed| nkeys::KeyPair::from_seed(seed).ok());
    key.ok_or_else(|| format!("{} holds no seed of an account's signing key (SA...)", path.display()))
}

fn check_creds(path: &Path) -> Result<(), String> {
    let text = read(path)?;
    let has_seed = text.split_whitespace().any(|word| word.starts_with("SU"));
    if jwts_in(&text).next().is_none() || !has_seed {
        return Err(format!("{} does not hold a user JWT and a seed", path.display()));
    }
    Ok(())
}

/// The text of a small file, which may hold a seed.
fn read(path: &Path) -> Result<Zeroizing<String>, String> {
    let mut text = Zeroizing::new(String::new());
    let file = std::fs::File::open(path).map_err(|error| no_such(path, &error))?;
    let most = JWT_LEN_MAX as u64;
    file.take(most + 1).read_to_string(&mut text).map_err(|error| no_such(path, &error))?;
    if text.len() as u64 > most {
        return Err(format!("{} has more than {most} bytes", path.display()));
    }
    Ok(text)
}

fn no_such(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Overrides};

    fn error(text: &str) -> String {
        Config::assemble(Some(("c.toml", text)), &[], &Overrides::default()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_missing_is_said_in_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            format!("{path:?}")
        };
        let (nothing, creds) = (path("nothing", "\n"), path("sys.creds", "eyJ0.eyJ1.s\nSUAA\n"));
        let user = path("user.jwt", "eyJ0.eyJ1.s");
        let jwt = |lines: &str| format!("[auth]\nmode = \"jwt\"\n[auth.jwt]\n{lines}");
        for (lines, expected) in [
            (String::new(), "auth.mode: mode \"jwt\" knows no operator"),
            ("operator = \"/nowhere/O.jwt\"".into(), "c.toml:4: auth.jwt.operator: /nowhere/O.jwt: No such file"),
            (format!("operator = {nothing}"), "auth.jwt.operator: "),
            (format!("operator = {user}"), "user.jwt is no operator JWT: not a JWT"),
            (format!("system_creds = {nothing}"), "does not hold a user JWT and a seed"),
            (
                format!("system_creds = {creds}\nresolver = \"/nowhere/jwt\""),
                "c.toml:5: auth.jwt.resolver: /nowhere/jwt: No such file",
            ),
            (
                format!("system_creds = {creds}\nsigning_keys = [{nothing}]"),
                "holds no seed of an account's signing key",
            ),
            (
                format!("system_creds = {creds}\ncreds = \"/nowhere\""),
                "c.toml:5: auth.jwt.creds: there is no folder /nowhere",
            ),
            ("operater = \"x\"".into(), "operator"),
        ] {
            let said = error(&jwt(&lines));
            assert!(said.contains(expected) && !said.contains('\n'), "{lines}: {said}");
        }
        let fine = jwt(&format!("system_creds = {creds}"));
        assert!(Config::assemble(Some(("c.toml", &fine)), &[], &Overrides::default()).is_ok());
    }

    #[test]
    fn a_resolver_that_is_asked_over_the_system_account_needs_its_creds() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("O.jwt");
        std::fs::write(&file, crate::mint::World::new().operator_jwt()).unwrap();
        let text = format!("[auth]\nmode = \"jwt\"\n[auth.jwt]\noperator = {file:?}\n");
        let said = error(&text);
        assert!(said.contains("auth.jwt.resolver: \"system\" is asked over the system account"), "{said}");
        let in_a_folder = format!("{text}resolver = {:?}", dir.path());
        assert!(Config::assemble(Some(("c.toml", &in_a_folder)), &[], &Overrides::default()).is_ok());
    }
}
