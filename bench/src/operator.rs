//! An operator with accounts, and devices of them, for a broker that is to let in by JWT.

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

/// What a tenant may have in JetStream, in bytes: in memory, and in files.
const TENANT_MEMORY: u64 = 64 << 20;
const TENANT_FILES: u64 = 6 << 30;

/// What the sidecar may publish, subscribe to, and both, in the account of a tenant.
const PUBLISH: [&str; 6] =
    ["$JS.API.>", "$JS.ACK.>", "$KV.MQTT_retained.>", "$KV.MQTT_sessions.>", "$KV.MQTT_keys.>", "$SYS.REQ.USER.INFO"];
const SUBSCRIBE: [&str; 1] = ["$JS.EVENT.ADVISORY.STREAM.>"];
const BOTH: [&str; 3] = ["_INBOX.>", "$NMQ.>", "bench.>"];

/// Who signs, and what was signed.
#[derive(Debug)]
pub(crate) struct Operator {
    operator: KeyPair,
    system: KeyPair,
    /// That of the sidecar. Devices are of it when there are no tenants.
    home: KeyPair,
    tenants: Vec<KeyPair>,
    /// What each tenant lists, so that the sidecar makes itself users of it.
    signing_key: KeyPair,
    now_s: u64,
    passwords: Vec<String>,
}

/// Files that name an operator, for the servers.
pub(crate) struct Files {
    pub(crate) operator: PathBuf,
    /// The creds of a user of the sidecar's account.
    pub(crate) creds: PathBuf,
    /// What the configuration of nats-server has of it.
    pub(crate) accounts: String,
    /// How much nats-server is to have room for, as its configuration has it, where accounts have limits.
    pub(crate) storage: String,
    /// The same as a file of account JWTs.
    resolver: PathBuf,
    signing_key: PathBuf,
    tenants: usize,
}

impl Operator {
    /// With one account, and [`DEVICES`] devices of it.
    pub(crate) fn new() -> Result<Self, String> {
        let mut new = Self::with_accounts(0);
        // What it takes to sign is not to be measured.
        let passwords: Result<_, String> = (0..DEVICES).map(|_| new.device(&new.home)).collect();
        new.passwords = passwords?;
        Ok(new)
    }

    /// With so many tenants, each of which has one device.
    pub(crate) fn with_tenants(count: usize) -> Result<Self, String> {
        let mut new = Self::with_accounts(count);
        let passwords: Result<_, String> = new.tenants.iter().map(|tenant| new.device(tenant)).collect();
        new.passwords = passwords?;
        Ok(new)
    }

    #[expect(clippy::disallowed_methods, reason = "when a JWT was issued is by the clock of whoever issues it")]
    fn with_accounts(tenants: usize) -> Self {
        Self {
            operator: KeyPair::new_operator(),
            system: KeyPair::new_account(),
            home: KeyPair::new_account(),
            tenants: (0..tenants).map(|_| KeyPair::new_account()).collect(),
            signing_key: KeyPair::new_account(),
            now_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            passwords: Vec::new(),
        }
    }

    /// The password of a client by the number behind the last `-` of its name: one of its own as long as there are no more than
    /// [`DEVICES`], or that of the device of the tenant with this number.
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
        let seed = |key: &KeyPair| key.seed().map_err(|e| e.to_string());
        let user = KeyPair::new_user();
        let (jwt, user_seed) = (self.user(&self.home, &user, "sidecar", false)?, seed(&user)?);
        let creds = format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n{user_seed}\n------END USER NKEY SEED------\n"
        );
        let nats = json!({ "type": "operator", "version": 2 });
        let operator = write("operator.jwt", &self.sign(&self.operator, &self.operator, "bench", &nats)?)?;
        let accounts = format!(
            "operator: \"{}\"\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{\n{}}}\n",
            operator.display(),
            self.system.public_key(),
            self.preload()?,
        );
        let room = self.tenants.len() as u64 + 1;
        let storage = match self.tenants.len() {
            0 => String::new(),
            _ => format!(", max_mem: {}, max_file: {}", room * TENANT_MEMORY, room * TENANT_FILES),
        };
        Ok(Files {
            operator,
            creds: write("sidecar.creds", &creds)?,
            resolver: write("accounts.conf", &accounts)?,
            accounts,
            storage,
            signing_key: write("sidecar.nk", &seed(&self.signing_key)?)?,
            tenants: self.tenants.len(),
        })
    }

    /// All accounts, a line each. nats-server allows its system account not to have JetStream.
    fn preload(&self) -> Result<String, String> {
        let in_jetstream = |memory: i64, files: i64| json!({ "mem_storage": memory, "disk_storage": files, "streams": -1, "consumer": -1 });
        let of_tenants = in_jetstream(TENANT_MEMORY as i64, TENANT_FILES as i64);
        let signing_keys = json!([self.scope()]);
        let own = [(&self.home, in_jetstream(-1, -1), json!([])), (&self.system, json!({}), json!([]))];
        let tenants = self.tenants.iter().map(|tenant| (tenant, of_tenants.clone(), signing_keys.clone()));
        let lines = own.into_iter().chain(tenants).map(|(account, limits, signing_keys)| {
            Ok(format!("  {}: {}\n", account.public_key(), self.account(account, limits, signing_keys)?))
        });
        lines.collect()
    }

    /// The JWT of an account that has these limits in JetStream, and others sign for.
    fn account(&self, account: &KeyPair, mut limits: Value, signing_keys: Value) -> Result<String, String> {
        for limit in ["subs", "data", "payload", "imports", "exports", "conn", "leaf"] {
            limits[limit] = json!(-1);
        }
        limits["wildcards"] = json!(true);
        let nats = json!({ "limits": limits, "signing_keys": signing_keys, "type": "account", "version": 2 });
        self.sign(&self.operator, account, "bench", &nats)
    }

    /// The sidecar's key as an account lists it, with the role that says what it may do there.
    fn scope(&self) -> Value {
        let allow = |own: &[&'static str]| {
            let subjects = [own, &BOTH[..]].concat();
            json!({ "allow": subjects })
        };
        json!({
            "kind": "user_scope", "key": self.signing_key.public_key(), "role": "sidecar",
            "template": { "pub": allow(&PUBLISH), "sub": allow(&SUBSCRIBE), "subs": -1, "data": -1, "payload": -1 },
        })
    }

    fn device(&self, account: &KeyPair) -> Result<String, String> {
        self.user(account, &KeyPair::new_user(), "device", true)
    }

    fn user(&self, account: &KeyPair, user: &KeyPair, name: &str, is_bearer: bool) -> Result<String, String> {
        let nats = json!({
            "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "bearer_token": is_bearer, "type": "user", "version": 2,
        });
        self.sign(account, user, name, &nats)
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
        let auth = format!(
            "[auth]\nmode = \"jwt\"\n[auth.jwt]\noperator = {:?}\nresolver = {:?}\n",
            path(&self.operator),
            path(&self.resolver)
        );
        match self.tenants {
            0 => auth,
            tenants => {
                format!("{auth}signing_keys = [{:?}]\n[nats]\nmax_accounts = {tenants}\n", path(&self.signing_key))
            }
        }
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
        assert!(operator.home.verify(signed.as_bytes(), &signature).is_ok());
    }

    #[test]
    fn the_number_of_a_client_names_its_tenant_which_lists_the_key_of_the_sidecar() {
        let operator = Operator::with_tenants(3).unwrap();
        let claims_of = |jwt: &str| -> Value {
            let claims = jwt.split('.').nth(1).unwrap();
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
        };
        let names = ["bench-2", "bench-p-2"];
        let id = operator.tenants[2].public_key();
        assert_eq!(names.map(|name| claims_of(operator.password(name))["iss"].clone()), [id.as_str(), id.as_str()]);
        let preload = operator.preload().unwrap();
        assert_eq!(preload.lines().count(), 5);
        let line = preload.lines().find_map(|line| line.trim().strip_prefix(&format!("{id}: "))).unwrap();
        let nats = &claims_of(line)["nats"];
        assert_eq!(nats["signing_keys"][0]["key"], operator.signing_key.public_key());
        assert_eq!(nats["limits"]["disk_storage"], TENANT_FILES);
    }
}
