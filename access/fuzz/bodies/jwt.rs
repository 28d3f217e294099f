//! Three lines: claims of an operator, an account and a user, each signed with the key that should have signed it. `O`, `A` and
//! `U` between `<` and `>` stand for the public keys. Whoever gets in is of that account. Then the text itself, as anybody sends
//! it. Tests run this as well, see `tests/access/fuzzed.rs`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mqtt_access::UnixTime;
use mqtt_access::jwt::{Account, Circumstances, Deletion, Listener, Operator, Operators, Proof, UserJwt};
use nkeys::{KeyPair, KeyPairType};

fn sign(claims: &str, key: &KeyPair) -> String {
    let header = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
    let signature = key.sign(signed.as_bytes()).expect("a key with a seed");
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Whether the user gets in.
pub(crate) fn run(text: &str) -> bool {
    let key = |kind| KeyPair::new_from_raw(kind, [7; 32]).expect("32 bytes");
    let (operator, account, user) = (key(KeyPairType::Operator), key(KeyPairType::Account), key(KeyPairType::User));
    let now = UnixTime::from_secs(1_700_000_000);
    let circumstances = Circumstances {
        now,
        listener: Listener::Mqtt,
        peer: Some([10, 1, 2, 3].into()),
        has_trusted_proxy: false,
        proof: Proof::Earlier,
    };
    assert!(UserJwt::decode(text, &circumstances).is_err(), "nobody has this key but us");
    let text = text
        .replace("<O>", &operator.public_key())
        .replace("<A>", &account.public_key())
        .replace("<U>", &user.public_key());
    let mut lines = text.lines();
    let mut next = |key| sign(lines.next().unwrap_or_default(), key);
    let (of_operator, of_account, of_user) = (next(&operator), next(&operator), next(&account));
    let operators = Operators::new(Operator::decode(&of_operator).into_iter().collect());
    let _ = Deletion::verify(&of_account, &operators);
    let (Ok(account), Ok(user)) =
        (Account::verify(&of_account, &operators, now), UserJwt::decode(&of_user, &circumstances))
    else {
        return false;
    };
    let Ok(principal) = user.judge(&account, &operators, &circumstances) else { return false };
    assert_eq!(principal.account.as_str(), account.id());
    assert!(!account.is_revoked(user.id(), principal.user.issued_at.expect("a JWT has it")));
    let _ = principal.ends(now);
    true
}
