//! Answers to a server that asks who we are, made anew at every connect.

use async_nats::{Auth, ServerAddr};
use nkeys::KeyPair;

use super::options::Credentials;

/// Makes what goes into CONNECT.
#[derive(Debug)]
pub(crate) struct Authenticator {
    credentials: Credentials,
}

impl Authenticator {
    /// Takes user, password or token of the first URL that has them when nothing else is configured.
    pub(crate) fn new(credentials: Credentials, addresses: &[ServerAddr]) -> Self {
        let credentials = match credentials {
            Credentials::None => addresses.iter().find_map(from_url).unwrap_or_default(),
            given => given,
        };
        Self { credentials }
    }

    /// Reads the files once, so that a wrong path is known before anything is connected.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.answer(b"nonce").map(|_| ())
    }

    /// What goes into CONNECT.
    pub(crate) fn answer(&self, nonce: &[u8]) -> Result<Auth, String> {
        let mut auth = Auth::new();
        match &self.credentials {
            Credentials::None => {}
            Credentials::UserPassword { user, password } => {
                auth.username = Some(user.clone());
                auth.password = Some(password.clone());
            }
            Credentials::Token(token) => auth.token = Some(token.clone()),
            Credentials::NkeyFile(path) => {
                let text = read(path)?;
                let seed = text.split_whitespace().find(|word| word.starts_with("SU")).unwrap_or(text.trim());
                let key = KeyPair::from_seed(seed).map_err(|err| format!("{}: {err}", path.display()))?;
                auth.nkey = Some(key.public_key());
                auth.signature = Some(sign(&key, nonce)?);
            }
            Credentials::CredsFile(path) => {
                let text = read(path)?;
                let mut blocks = armoured(&text);
                let (Some(jwt), Some(seed)) = (blocks.next(), blocks.next()) else {
                    return Err(format!("{} does not hold a user JWT and a seed", path.display()));
                };
                let key = KeyPair::from_seed(seed).map_err(|err| format!("{}: {err}", path.display()))?;
                auth.jwt = Some(jwt.to_owned());
                auth.signature = Some(sign(&key, nonce)?);
            }
            Credentials::Identity(identity) => {
                let answer = identity.answer(nonce)?;
                auth.jwt = Some(answer.jwt);
                auth.signature = (!answer.signature.is_empty()).then_some(answer.signature);
            }
        }
        Ok(auth)
    }
}

fn read(path: &std::path::Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|err| format!("{}: {err}", path.display()))
}

fn sign(key: &KeyPair, nonce: &[u8]) -> Result<Vec<u8>, String> {
    key.sign(nonce).map_err(|err| format!("cannot sign the server's nonce: {err}"))
}

fn from_url(address: &ServerAddr) -> Option<Credentials> {
    let user = address.username()?.to_owned();
    Some(match address.password() {
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
        let auth = Authenticator::new(Credentials::CredsFile(path), &[]).answer(b"n").unwrap();
        assert_eq!(auth.jwt.as_deref(), Some("eyJ.a.b"));
        key.verify(b"n", &auth.signature.unwrap()).unwrap();
    }

    #[test]
    fn user_and_password_of_a_url_are_used() {
        let address: ServerAddr = "nats://u:p@h".parse().unwrap();
        let auth = Authenticator::new(Credentials::None, &[address]).answer(b"").unwrap();
        assert_eq!((auth.username.as_deref(), auth.password.as_deref()), (Some("u"), Some("p")));
        let address: ServerAddr = "nats://tok@h".parse().unwrap();
        let auth = Authenticator::new(Credentials::None, &[address]).answer(b"").unwrap();
        assert_eq!(auth.token.as_deref(), Some("tok"));
    }

    #[test]
    fn a_missing_creds_file_is_named() {
        let error = Authenticator::new(Credentials::CredsFile("/nowhere/x.creds".into()), &[]).check().unwrap_err();
        assert!(error.contains("/nowhere/x.creds"), "{error}");
    }
}
