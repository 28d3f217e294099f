//! An operator with one account, and as many devices of it as are wanted, for a broker that is to let in by JWT.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

/// How many devices have a JWT of their own.
pub(crate) const DEVICES: u64 = 10_000;

/// The header of every JWT.
const HEADER: &str = r#"{"typ":"JWT","alg":"ed25519-nkey"}"#;

/// Who signs, and what was signed.
#[derive(Debug)]
pub(crate) struct Operator {
    operator: KeyPair,
    account: KeyPair,
    system: KeyPair,
    now_s: u64,
    passwords: Vec<String>,
}

/// Files that name an operator, for the servers.
pub(crate) struct Files {
    pub(crate) operator: PathBuf,
    /// The creds of a user of the account.
    pub(crate) creds: PathBuf,
    /// What the configuration of nats-server has of it.
    pub(crate) accounts: String,
    /// The same as a file of account JWTs.
    resolver: PathBuf,
}

impl Operator {
    #[expect(clippy::disallowed_methods, reason = "when a JWT was issued is by the clock of whoever issues it")]
    pub(crate) fn new() -> Result<Self, String> {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let [account, system] = [KeyPair::new_account(), KeyPair::new_account()];
        let mut new = Self { operator: KeyPair::new_operator(), account, system, now_s, passwords: Vec::new() };
        // What it takes to sign is not to be measured.
        let passwords: Result<_, String> =
            (0..DEVICES).map(|_| new.user(&KeyPair::new_user(), "device", true)).collect();
        new.passwords = passwords?;
        Ok(new)
    }

    /// The password of a client, which has one of its own as long as there are no more than [`DEVICES`].
    pub(crate) fn password(&self, client_id: &str) -> &str {
        let number = client_id.rsplit_once('-').and_then(|(_, number)| number.parse::<usize>().ok()).unwrap_or(0);
        &self.passwords[number % self.passwords.len()]
    }

    /// Writes what the servers need to know into a directory.
    pub(crate) fn write(&self, dir: &Path) -> Result<Files, String> {
        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::write(&path, text).map(|()| path.clone()).map_err(|e| format!("{}: {e}", path.display()))
        };
        let user = KeyPair::new_user();
        let (jwt, seed) = (self.user(&user, "sidecar", false)?, user.seed().map_err(|e| e.to_string())?);
        let creds = format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        let nats = json!({ "type": "operator", "version": 2 });
        let operator = write("operator.jwt", &self.sign(&self.operator, &self.operator, "bench", &nats)?)?;
        let accounts = format!(
            "operator: \"{}\"\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{\n  {}: {}\n  {}: {}\n}}\n",
            operator.display(),
            self.system.public_key(),
            self.account.public_key(),
            self.account_jwt(&self.account)?,
            self.system.public_key(),
            self.account_jwt(&self.system)?,
        );
        let (resolver, creds) = (write("accounts.conf", &accounts)?, write("sidecar.creds", &creds)?);
        Ok(Files { operator, creds, accounts, resolver })
    }

    /// With JetStream, which nats-server allows its system account not to have.
    fn account_jwt(&self, account: &KeyPair) -> Result<String, String> {
        let mut limits = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        });
        if account.public_key() != self.system.public_key() {
            for limit in ["mem_storage", "disk_storage", "streams", "consumer"] {
                limits[limit] = json!(-1);
            }
        }
        let nats = json!({ "limits": limits, "type": "account", "version": 2 });
        self.sign(&self.operator, account, "bench", &nats)
    }

    fn user(&self, user: &KeyPair, name: &str, is_bearer: bool) -> Result<String, String> {
        let nats = json!({
            "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "bearer_token": is_bearer, "type": "user", "version": 2,
        });
        self.sign(&self.account, user, name, &nats)
    }

    fn sign(&self, issuer: &KeyPair, subject: &KeyPair, name: &str, nats: &Value) -> Result<String, String> {
        let claims = json!({
            "iat": self.now_s, "iss": issuer.public_key(), "sub": subject.public_key(), "name": name, "nats": nats,
        });
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let signed = format!("{}.{}", encode(HEADER.as_bytes()), encode(claims.to_string().as_bytes()));
        let signature = issuer.sign(signed.as_bytes()).map_err(|e| e.to_string())?;
        Ok(format!("{signed}.{}", encode(&signature)))
    }
}

impl Files {
    /// The configuration of a sidecar that lets in by these.
    pub(crate) fn sidecar(&self) -> String {
        let path = |path: &Path| path.display().to_string();
        format!(
            "[auth]\nmode = \"jwt\"\n[auth.jwt]\noperator = {:?}\nresolver = {:?}\n",
            path(&self.operator),
            path(&self.resolver)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_jwts_of_their_own_that_their_account_has_signed() {
        let operator = Operator::new().unwrap();
        let jwt = operator.password("bench-7");
        assert_eq!(operator.password(&format!("bench-{}", DEVICES + 7)), jwt);
        assert_ne!(operator.password("bench-8"), jwt);
        let (signed, signature) = jwt.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        assert!(operator.account.verify(signed.as_bytes(), &signature).is_ok());
    }
}
