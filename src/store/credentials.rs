//! Answers to a server that asks who we are, made anew at every connect.

use nkeys::KeyPair;

use super::options::Credentials;
use crate::nats::{Login, ServerUrl};

/// Makes what goes into CONNECT.
#[derive(Debug)]
pub(crate) struct Authenticator {
    credentials: Credentials,
}

impl Authenticator {
    /// Takes user, password or token of the first URL that has them when nothing else is configured.
    pub(crate) fn new(credentials: Credentials, servers: &[ServerUrl]) -> Self {
        let credentials = match credentials {
            Credentials::None => servers.iter().find_map(from_url).unwrap_or_default(),
            given => given,
        };
        Self { credentials }
    }

    /// Reads the files once, so that a wrong path is known before anything is connected.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.answer(b"nonce").map(|_| ())
    }

    /// What goes into CONNECT.
    pub(crate) fn answer(&self, nonce: &[u8]) -> Result<Login, String> {
        let mut login = Login::default();
        match &self.credentials {
            Credentials::None => {}
            Credentials::UserPassword { user, password } => {
                login.user = Some(user.clone());
                login.password = Some(password.clone());
            }
            Credentials::Token(token) => login.token = Some(token.clone()),
            Credentials::NkeyFile(path) => {
                let text = read(path)?;
                let seed = text.split_whitespace().find(|word| word.starts_with("SU")).unwrap_or(text.trim());
                let key = KeyPair::from_seed(seed).map_err(|err| format!("{}: {err}", path.display()))?;
                login.nkey = Some(key.public_key());
                login.signature = Some(sign(&key, nonce)?);
            }
            Credentials::CredsFile(path) => {
                let text = read(path)?;
                let mut blocks = armoured(&text);
                let (Some(jwt), Some(seed)) = (blocks.next(), blocks.next()) else {
                    return Err(format!("{} does not hold a user JWT and a seed", path.display()));
                };
                let key = KeyPair::from_seed(seed).map_err(|err| format!("{}: {err}", path.display()))?;
                login.jwt = Some(jwt.to_owned());
                login.signature = Some(sign(&key, nonce)?);
            }
            Credentials::Identity(identity) => {
                let answer = identity.answer(nonce)?;
                login.jwt = Some(answer.jwt);
                login.signature = (!answer.signature.is_empty()).then_some(answer.signature);
            }
        }
        Ok(login)
    }
}

fn read(path: &std::path::Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|err| format!("{}: {err}", path.display()))
}

fn sign(key: &KeyPair, nonce: &[u8]) -> Result<Vec<u8>, String> {
    key.sign(nonce).map_err(|err| format!("cannot sign the server's nonce: {err}"))
}

fn from_url(server: &ServerUrl) -> Option<Credentials> {
    let user = server.user()?.to_owned();
    Some(match server.password() {
        Some(password) => Credentials::UserPassword { user, password: password.to_owned() },
        None => Credentials::Token(user),
    })
}

/// The lines between `-----BEGIN …-----` and `-----END …-----`.
fn armoured(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.lines().filter_map(move |line| {
        let line = line.trim();
        if line.starts_with("---") {
            inside = line.contains("BEGIN");
            return None;
        }
        (inside && !line.is_empty()).then_some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_creds_file_gives_its_jwt_and_a_signature() {
        let key = KeyPair::new_user();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("user.creds");
        let text = format!(
            "-----BEGIN NATS USER JWT-----\neyJ.a.b\n------END NATS USER JWT------\n\n*** IMPORTANT ***\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            key.seed().unwrap()
        );
        std::fs::write(&path, text).unwrap();
        let login = Authenticator::new(Credentials::CredsFile(path), &[]).answer(b"n").unwrap();
        assert_eq!(login.jwt.as_deref(), Some("eyJ.a.b"));
        key.verify(b"n", login.signature.as_ref().unwrap()).unwrap();
    }

    #[test]
    fn user_and_password_of_a_url_are_used() {
        let server: ServerUrl = "nats://u:p@h".parse().unwrap();
        let login = Authenticator::new(Credentials::None, &[server]).answer(b"").unwrap();
        assert_eq!((login.user.as_deref(), login.password.as_deref()), (Some("u"), Some("p")));
        let server: ServerUrl = "nats://tok@h".parse().unwrap();
        let login = Authenticator::new(Credentials::None, &[server]).answer(b"").unwrap();
        assert_eq!(login.token.as_deref(), Some("tok"));
    }

    #[test]
    fn a_missing_creds_file_is_named() {
        let error = Authenticator::new(Credentials::CredsFile("/nowhere/x.creds".into()), &[]).check().unwrap_err();
        assert!(error.contains("/nowhere/x.creds"), "{error}");
    }
}
