//! Users of our own, minted for one connection: no file of them anywhere, and an hour later at most they are worth nothing.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mqtt_access::{AccountId, UnixTime};
use nkeys::KeyPair;
use serde_json::json;

/// How long a user lasts at most. nats-server ends its connection then, and the next one has another user.
const LASTS_MAX: Duration = Duration::from_secs(3600);

/// How much shorter one may last than another, so that connections which were made together do not all end together.
const SPREAD: Duration = Duration::from_secs(1200);

/// What every JWT of NATS says that it is.
const HEADER: &str = r#"{"typ":"JWT","alg":"ed25519-nkey"}"#;

/// The JWT of a user that may do everything which the account may; of a scoped key, what its role says.
pub(super) fn mint(
    user: &KeyPair,
    key: &KeyPair,
    is_scoped: bool,
    account: &AccountId,
    now: UnixTime,
) -> Result<String, nkeys::error::Error> {
    let mut nats = json!({ "type": "user", "version": 2 });
    if key.public_key() != account.as_str() {
        nats["issuer_account"] = json!(account.as_str());
    }
    if !is_scoped {
        // Explicit, or the default permissions of the account are ours as well. What is left out of a user's limits is 0.
        for (what, value) in [("pub", json!({ "allow": [">"] })), ("sub", json!({ "allow": [">"] }))] {
            nats[what] = value;
        }
        for limit in ["subs", "data", "payload"] {
            nats[limit] = json!(-1);
        }
    }
    let (now_s, lasts) = (now.as_secs(), LASTS_MAX - SPREAD.mul_f64(rand::random()));
    let claims = json!({
        "iat": now_s,
        "exp": now_s.saturating_add_unsigned(lasts.as_secs()),
        "iss": key.public_key(),
        "sub": user.public_key(),
        "name": "nats-mqtt",
        "nats": nats,
    });
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(HEADER), URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes())?);
    Ok(format!("{signed}.{signature}"))
}
