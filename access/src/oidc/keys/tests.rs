//! Which key has signed what.

use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use serde_json::json;

use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A token that says this algorithm and key, signed by whatever signs.
fn token(algorithm: &str, id: Option<&str>, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let header = json!({ "alg": algorithm, "kid": id, "jku": "https://evil.example", "jwk": {} });
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode("{}"));
    let signature = sign(signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn verify(keys: &KeySet, token: &str) -> Signed {
    keys.verify(&OidcToken::read(token.as_bytes()).unwrap())
}

fn hs256(secret: &[u8]) -> impl Fn(&[u8]) -> Vec<u8> {
    move |signed| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed).as_ref().to_vec()
}

struct Ed(Ed25519KeyPair);

impl Ed {
    fn new(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap())
    }

    fn jwk(&self, id: Option<&str>) -> Value {
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": id, "x": URL_SAFE_NO_PAD.encode(self.0.public_key()) })
    }

    fn token(&self, id: Option<&str>) -> String {
        token("EdDSA", id, |signed| self.0.sign(signed).as_ref().to_vec())
    }
}

fn set(keys: &[Value]) -> KeySet {
    KeySet::from_jwks(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
}

#[test]
fn the_key_that_is_named_has_to_have_signed() {
    let (one, other) = (Ed::new(1), Ed::new(2));
    let keys = set(&[one.jwk(Some("1")), other.jwk(Some("2"))]);
    assert_eq!(verify(&keys, &one.token(Some("1"))), Signed::Yes);
    assert_eq!(verify(&keys, &one.token(Some("2"))), Signed::No);
    assert_eq!(verify(&keys, &one.token(Some("3"))), Signed::UnknownKey);
    assert_eq!(verify(&keys, &other.token(None)), Signed::Yes, "it names none: every key is tried");
    assert_eq!(verify(&keys, &Ed::new(3).token(None)), Signed::UnknownKey);
    let nameless = set(&[one.jwk(None)]);
    assert_eq!(verify(&nameless, &one.token(Some("1"))), Signed::Yes);
    let mut changed = one.token(Some("1"));
    changed = changed.replacen(".e30.", ".eyJ9.", 1);
    assert!(OidcToken::read(changed.as_bytes()).map_or(true, |token| keys.verify(&token) == Signed::No));
}

#[test]
fn the_algorithm_is_the_keys() {
    let ed = Ed::new(1);
    let public = ed.0.public_key().as_ref().to_vec();
    let keys = set(&[ed.jwk(Some("1"))]);
    // A public key is not a secret, whatever a token says.
    assert_eq!(verify(&keys, &token("HS256", Some("1"), hs256(&public))), Signed::No);
    for algorithm in ["RS256", "ES256", "PS512"] {
        assert_eq!(
            verify(&keys, &token(algorithm, Some("1"), |signed| ed.0.sign(signed).as_ref().to_vec())),
            Signed::No
        );
    }
    let mut only = ed.jwk(Some("1"));
    only["alg"] = json!("ES256");
    assert_eq!(verify(&set(&[only]), &ed.token(Some("1"))), Signed::No);
}

#[test]
fn points_of_both_curves() {
    let random = SystemRandom::new();
    for (algorithm, name, curve, half) in [
        (&ECDSA_P256_SHA256_FIXED_SIGNING, "ES256", "P-256", 32),
        (&ECDSA_P384_SHA384_FIXED_SIGNING, "ES384", "P-384", 48),
    ] {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
        let (x, y) = pair.public_key().as_ref()[1..].split_at(half);
        let jwk = json!({ "kty": "EC", "crv": curve, "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y) });
        let text = token(name, None, |signed| pair.sign(&random, signed).unwrap().as_ref().to_vec());
        assert_eq!(verify(&set(&[jwk]), &text), Signed::Yes, "{name}");
    }
}

#[test]
fn a_secret_is_one_that_was_given_as_such() {
    let keys = KeySet::from_secret(Secret::from(SECRET)).unwrap();
    assert_eq!(verify(&keys, &token("HS256", Some("any"), hs256(SECRET.as_bytes()))), Signed::Yes);
    assert_eq!(verify(&keys, &token("HS512", None, hs256(SECRET.as_bytes()))), Signed::UnknownKey);
    assert_eq!(verify(&keys, &token("HS256", None, hs256(b"other"))), Signed::UnknownKey);
    assert_eq!(KeySet::from_secret(Secret::from("short")).unwrap_err(), KeyError::ShortSecret);
    let shared = json!({ "keys": [{ "kty": "oct", "k": URL_SAFE_NO_PAD.encode(SECRET) }] });
    assert_eq!(KeySet::from_jwks(shared.to_string().as_bytes()).unwrap_err(), KeyError::NoKey);
}

#[test]
fn keys_for_something_else_are_left_out_and_hurt_no_other() {
    let ed = Ed::new(1);
    let mut encrypts = ed.jwk(Some("1"));
    encrypts["use"] = json!("enc");
    let odd =
        [json!(1), json!({ "kty": "RSA" }), json!({ "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA" }), encrypts];
    assert!(KeySet::from_jwks(json!({ "keys": odd }).to_string().as_bytes()).is_err());
    let all: Vec<Value> = odd.iter().cloned().chain([ed.jwk(Some("2"))]).collect();
    assert_eq!(verify(&set(&all), &ed.token(Some("2"))), Signed::Yes);
    for json in ["", "[]", "{}", r#"{"keys":{}}"#] {
        assert_eq!(KeySet::from_jwks(json.as_bytes()).unwrap_err(), KeyError::NotASet, "{json}");
    }
}

/// By `openssl genrsa`, and what it has signed.
const RSA_MODULUS: &str = "zFxRJxi52SXPz7wu-K6OPLoJcuT0i_xuaeCLow8MgohUQTO8svOAOaW1QJ7vqMEWPE2s4fggdNBkSExJYTUeQSTwoovuVqMWBnstdf1Ma7ePl7CEhy7FHXkQYIXroK4tIfSErEp5Pmx7oQp3vxnWmivX5BI0btI0Ms6d9B3QhnvY3HKIKw0fyorDARWYRgwtj044st3vSXUq-oaKpIBYx9rD4ma4nZSRAZ5EtJfDuQ2FdXH1eZvpmJPKc6JANZuPbhWvln8_1J0L40AK6qnyyV90el0ka3MiVZo--zODn43Z0zqT5nft7Uh4QPym5CzHYWa8o9yDLGTpovlyW8S8rw";
const RSA_PEM: &str = "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAzFxRJxi52SXPz7wu+K6O\nPLoJcuT0i/xuaeCLow8MgohUQTO8svOAOaW1QJ7vqMEWPE2s4fggdNBkSExJYTUe\nQSTwoovuVqMWBnstdf1Ma7ePl7CEhy7FHXkQYIXroK4tIfSErEp5Pmx7oQp3vxnW\nmivX5BI0btI0Ms6d9B3QhnvY3HKIKw0fyorDARWYRgwtj044st3vSXUq+oaKpIBY\nx9rD4ma4nZSRAZ5EtJfDuQ2FdXH1eZvpmJPKc6JANZuPbhWvln8/1J0L40AK6qny\nyV90el0ka3MiVZo++zODn43Z0zqT5nft7Uh4QPym5CzHYWa8o9yDLGTpovlyW8S8\nrwIDAQAB\n-----END PUBLIC KEY-----\n";
const RSA_SIGNATURES: [(&str, &str); 2] = [
    (
        "RS256",
        "Xo68e9cwmSABI5A7oHAbg32rNCkJgef3vSvjSFcKTl6Z2ZKcXwcT-Ka6gtvl5LHqfJd7QMrVoGwDwrt8brMipdAVQP77MP3elMMEZ90xhRpmQKM2HUgHiaoGASMRuflW1VbsXaWjoP6Q_bz0RzFprtBgB4FTnUEPfhBPa6r-mveOGzFZPz3lh5Q5royRAREN5dE3AQoLcEJd1l2qxtexhSEZM90DPx0N35--5CrWtVQ0FsZKsyDS4i4zK82RIyRzLnuQiqNJi_1S1q8o41-7snLmNnUb8RK8NCo0oWdivAD0sjVXl_yzHoBgn0pNgKG9oEISIuC7TgUvo0eaYNXvpA",
    ),
    (
        "PS256",
        "Vzp4AKDCEoM8IJ6DJICzREiYgTPJaaO6DEBycaFeRY19MUA6HHy1sBZQTAKeDPPWE2gaE0anxlA7aiGHKtIEPmPYp8UEuRLbjXzc46Oq2b-9wufWLmNdxHQ-9ti373UzQqt9EuE550DYxdkSEGWOgAg45MCyasFLyRKB_9ZDBGHX9lZ4qecL4qXy_2DClZNqDrZfy7pC8Jk0bKUPAp-OTswtlXmswN7ILvpRdo36dWcZzJy0B9pplU91FHXcspJnjC89WixrGOSiAGljnsqA_11eFrZM4Z5vqhtVe5Fa99yOpAj4bTvjB94oO1fwiPD9gnNWsv-PLWmTKmxF7cSwvQ",
    ),
];

#[test]
fn rsa_as_others_sign() {
    let set = set(&[json!({ "kty": "RSA", "n": RSA_MODULUS, "e": "AQAB" })]);
    for keys in [set, KeySet::from_pem(RSA_PEM).unwrap()] {
        for (algorithm, signature) in RSA_SIGNATURES {
            let signed = |algorithm: &str| {
                let header = URL_SAFE_NO_PAD.encode(format!("{{\"alg\": \"{algorithm}\"}}"));
                format!("{header}.e30.{signature}")
            };
            assert_eq!(verify(&keys, &signed(algorithm)), Signed::Yes, "{algorithm}");
            assert_eq!(verify(&keys, &signed("RS512")), Signed::UnknownKey);
        }
    }
}
