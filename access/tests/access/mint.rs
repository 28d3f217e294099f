//! JWTs as nsc makes them, and as nobody should.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

use mqtt_access::UnixTime;
use mqtt_access::jwt::{Account, Circumstances, Listener, Operator, Operators, Proof};

/// When everything here happens: 14 November 2023, 22:13:20.
pub(crate) const NOW_S: i64 = 1_700_000_000;
pub(crate) const NOW: UnixTime = UnixTime::from_secs(NOW_S);

const HEADER: &str = r#"{"typ":"JWT","alg":"ed25519-nkey"}"#;

/// The text of a JWT with these claims, signed by a key.
pub(crate) fn sign(claims: &Value, key: &KeyPair) -> String {
    sign_with(HEADER, &claims.to_string(), key)
}

pub(crate) fn sign_with(header: &str, claims: &str, key: &KeyPair) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

/// Puts what `over` has over what is there: objects are merged, and `null` takes a field away.
pub(crate) fn merge(base: &mut Value, over: &Value) {
    let (Value::Object(base), Value::Object(over)) = (&mut *base, over) else {
        *base = over.clone();
        return;
    };
    for (name, value) in over {
        match value {
            Value::Null => drop(base.remove(name)),
            value => merge(base.entry(name.clone()).or_insert(json!({})), value),
        }
    }
}

/// An operator with an account, and a user of it. Keys are the same in each run.
pub(crate) struct World {
    pub(crate) operator: KeyPair,
    pub(crate) operator_signing: KeyPair,
    pub(crate) account: KeyPair,
    pub(crate) account_signing: KeyPair,
    pub(crate) scoped: KeyPair,
    pub(crate) user: KeyPair,
    /// Accounts and operators of somebody else.
    pub(crate) stranger: KeyPair,
    pub(crate) foreign_operator: KeyPair,
    /// The claims of each, to be changed.
    pub(crate) operator_claims: Value,
    pub(crate) account_claims: Value,
    pub(crate) user_claims: Value,
}

fn seeded(kind: nkeys::KeyPairType, role: u8, number: u16) -> KeyPair {
    let mut seed = [role; 32];
    seed[..2].copy_from_slice(&number.to_be_bytes());
    KeyPair::new_from_raw(kind, seed).unwrap()
}

impl World {
    pub(crate) fn new() -> Self {
        Self::numbered(0, 0, NOW_S)
    }

    /// One with an operator and an account of these numbers, at a time.
    pub(crate) fn numbered(operator: u16, account: u16, now_s: i64) -> Self {
        use nkeys::KeyPairType::{Account, Operator, User};
        let [operator, operator_signing] = [1, 2].map(|role| seeded(Operator, role, operator));
        let [account, account_signing, scoped, stranger] = [3, 4, 5, 6].map(|role| seeded(Account, role, account));
        let user = seeded(User, 7, 0);
        let foreign_operator = seeded(Operator, 8, 0);
        let unlimited = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        });
        let operator_claims = json!({
            "iat": now_s - 9000, "iss": operator.public_key(), "sub": operator.public_key(), "name": "ACME",
            "nats": { "signing_keys": [operator_signing.public_key()], "type": "operator", "version": 2 },
        });
        let account_claims = json!({
            "iat": now_s - 5000, "iss": operator.public_key(), "sub": account.public_key(), "name": "Tenant",
            "nats": {
                "limits": unlimited,
                "signing_keys": [
                    account_signing.public_key(),
                    {
                        "kind": "user_scope", "key": scoped.public_key(), "role": "device", "description": "",
                        "template": {
                            "pub": { "allow": ["dev.{{name()}}.>"] }, "sub": { "allow": ["cmd.{{name()}}.>"] },
                            "bearer_token": true, "allowed_connection_types": ["MQTT"],
                        },
                    },
                ],
                "default_permissions": { "pub": {}, "sub": {} },
                "authorization": {},
                "type": "account", "version": 2,
            },
        });
        let user_claims = json!({
            "iat": now_s - 1000, "iss": account.public_key(), "sub": user.public_key(), "name": "lamp",
            "nats": {
                "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "bearer_token": true,
                "type": "user", "version": 2,
            },
        });
        Self {
            operator,
            operator_signing,
            account,
            account_signing,
            scoped,
            user,
            stranger,
            foreign_operator,
            operator_claims,
            account_claims,
            user_claims,
        }
    }

    pub(crate) fn over_operator(mut self, over: &Value) -> Self {
        merge(&mut self.operator_claims, over);
        self
    }

    pub(crate) fn over_account(mut self, over: &Value) -> Self {
        merge(&mut self.account_claims, over);
        self
    }

    pub(crate) fn over_user(mut self, over: &Value) -> Self {
        merge(&mut self.user_claims, over);
        self
    }

    /// The user is signed by the account's signing key, and says whose it is.
    pub(crate) fn with_signing_key(self) -> Self {
        let over = json!({
            "iss": self.account_signing.public_key(), "nats": { "issuer_account": self.account.public_key() },
        });
        self.over_user(&over)
    }

    /// The user is one of the scope.
    pub(crate) fn with_scope(self) -> Self {
        let over = json!({
            "iss": self.scoped.public_key(),
            "nats": {
                "issuer_account": self.account.public_key(), "subs": null, "data": null, "payload": null,
                "bearer_token": null,
            },
        });
        self.over_user(&over)
    }

    /// Puts something over the template of the scope.
    pub(crate) fn over_template(mut self, over: &Value) -> Self {
        merge(&mut self.account_claims["nats"]["signing_keys"][1]["template"], over);
        self
    }

    /// The operator lets identity keys sign nothing; the account is signed by its signing key.
    pub(crate) fn strict(self) -> Self {
        let over = json!({ "iss": self.operator_signing.public_key() });
        self.over_operator(&json!({ "nats": { "strict_signing_key_usage": true } })).over_account(&over)
    }

    /// Signs with the key that the claims name as issuer.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        let operators = [&self.operator, &self.operator_signing, &self.foreign_operator];
        let accounts = [&self.account, &self.account_signing, &self.scoped, &self.stranger];
        let issuer = claims["iss"].as_str().unwrap_or_default();
        sign(
            claims,
            operators.into_iter().chain(accounts).find(|key| key.public_key() == issuer).unwrap_or(&self.stranger),
        )
    }

    pub(crate) fn operator_jwt(&self) -> String {
        self.sign(&self.operator_claims)
    }

    pub(crate) fn account_jwt(&self) -> String {
        self.sign(&self.account_claims)
    }

    pub(crate) fn user_jwt(&self) -> String {
        self.sign(&self.user_claims)
    }

    pub(crate) fn operators(&self) -> Operators {
        Operators::new(vec![Operator::decode(&self.operator_jwt()).unwrap()])
    }

    pub(crate) fn account(&self) -> Account {
        Account::verify(&self.account_jwt(), &self.operators(), NOW).unwrap()
    }
}

/// Over TCP, from 10.1.2.3, without a proof.
pub(crate) fn circumstances() -> Circumstances<'static> {
    Circumstances {
        now: NOW,
        listener: Listener::Mqtt,
        peer: Some([10, 1, 2, 3].into()),
        has_trusted_proxy: false,
        proof: Proof::None,
    }
}
