//! Which account JWTs count, and which replace which.

use mqtt_access::UnixTime;
use mqtt_access::jwt::{
    Account, AccountRefusal, Deletion, JwtError, KnownAccount, Operator, Operators, Refusal, UserJwt,
};
use serde_json::{Value, json};

use crate::mint::{NOW, NOW_S, World, circumstances, sign, sign_with};

fn verified(world: &World) -> Result<Account, AccountRefusal> {
    Account::verify(&world.account_jwt(), &world.operators(), NOW)
}

#[test]
fn accounts() {
    let stranger = World::new().stranger.public_key();
    let nats = |over: Value| json!({ "nats": over });
    for (over, expected) in [
        (json!({}), None),
        (json!({ "iss": World::new().operator_signing.public_key() }), None),
        (json!({ "iss": World::new().account.public_key() }), Some(AccountRefusal::Foreign)),
        (json!({ "iss": stranger }), Some(AccountRefusal::Foreign)),
        (json!({ "sub": "ACME" }), Some(AccountRefusal::Claims)),
        (json!({ "sub": World::new().user.public_key() }), Some(AccountRefusal::Claims)),
        (json!({ "exp": NOW_S }), Some(AccountRefusal::Expired)),
        (json!({ "exp": NOW_S + 1 }), None),
        (json!({ "nbf": NOW_S + 1 }), Some(AccountRefusal::NotYetValid)),
        (nats(json!({ "type": "user" })), Some(AccountRefusal::Jwt(JwtError::Kind))),
        (nats(json!({ "version": 1 })), Some(AccountRefusal::Jwt(JwtError::Version))),
        (nats(json!({ "signing_keys": [stranger] })), None),
        (nats(json!({ "signing_keys": null })), None),
        (nats(json!({ "signing_keys": ["x"] })), Some(AccountRefusal::Claims)),
        (nats(json!({ "signing_keys": [World::new().user.public_key()] })), Some(AccountRefusal::Claims)),
        (nats(json!({ "signing_keys": [{ "kind": "user_scope", "key": "x" }] })), Some(AccountRefusal::Claims)),
        (
            nats(json!({ "signing_keys": [{ "kind": "other_scope", "key": stranger }] })),
            Some(AccountRefusal::Jwt(JwtError::Claims)),
        ),
        (nats(json!({ "signing_keys": [1] })), Some(AccountRefusal::Jwt(JwtError::Claims))),
        (nats(json!({ "revocations": { "*": "now" } })), Some(AccountRefusal::Jwt(JwtError::Claims))),
        (nats(json!({ "default_permissions": { "pub": { "allow": ["a q"] } } })), Some(AccountRefusal::Claims)),
        (nats(json!({ "default_permissions": { "sub": { "allow": ["a q"] } } })), None),
        (nats(json!({ "authorization": { "auth_users": ["x"] } })), Some(AccountRefusal::Claims)),
        (nats(json!({ "authorization": { "allowed_accounts": ["*"] } })), Some(AccountRefusal::Claims)),
        (nats(json!({ "imports": [{ "name": "x" }], "exports": 5, "mappings": "not read" })), None),
    ] {
        assert_eq!(verified(&World::new().over_account(&over)).err(), expected, "{over}");
    }
}

#[test]
fn a_strict_operator_signs_with_signing_keys() {
    let strict = World::new().strict();
    assert!(verified(&strict).is_ok());
    let operator = strict.operator.public_key();
    assert_eq!(verified(&strict.over_account(&json!({ "iss": operator }))).err(), Some(AccountRefusal::Foreign));
}

#[test]
fn what_either_operator_trusts_is_trusted() {
    let (old, new) = (World::new().over_operator(&json!({ "nats": { "signing_keys": [] } })), World::new());
    let by_new_key = World::new().over_account(&json!({ "iss": new.operator_signing.public_key() })).account_jwt();
    let operator = |world: &World| Operator::decode(&world.operator_jwt()).unwrap();
    let verify = |operators: Vec<Operator>| Account::verify(&by_new_key, &Operators::new(operators), NOW).err();
    assert_eq!(verify(vec![operator(&old)]), Some(AccountRefusal::Foreign));
    assert_eq!(verify(vec![operator(&old), operator(&new)]), None);
}

#[test]
fn an_account_as_it_is_written() {
    let world = World::new().over_account(&json!({
        "exp": NOW_S + 60,
        "nats": { "limits": { "conn": 5, "subs": 6, "payload": 7, "mem_storage": 0, "disk_storage": 9 } },
    }));
    let account = verified(&world).unwrap();
    assert_eq!((account.id(), account.name()), (world.account.public_key().as_str(), "Tenant"));
    assert_eq!(account.issuer(), world.operator.public_key());
    assert_eq!(account.expires(), Some(UnixTime::from_secs(NOW_S + 60)));
    assert_eq!(account.issued_at(), UnixTime::from_secs(NOW_S - 5000));
    let limits = account.limits();
    assert!(limits.has_jetstream && limits.connections.is_reached(5) && !limits.connections.is_reached(4));
    assert!(!verified(&World::new()).unwrap().limits().has_jetstream);
    for (tiers, expected) in [(json!({ "R1": { "disk_storage": 1 } }), true), (json!({ "R1": {} }), false)] {
        let over = json!({ "nats": { "limits": { "disk_storage": 5, "tiered_limits": tiers } } });
        assert_eq!(verified(&World::new().over_account(&over)).unwrap().limits().has_jetstream, expected, "{over}");
    }
}

#[test]
fn an_older_jwt_does_not_take_the_place_of_a_newer_one() {
    let world = World::new();
    let id = world.account.public_key();
    let first = verified(&world).unwrap();
    let known = first.known();
    let update = |over: Value, known: Option<&KnownAccount>| {
        let world = World::new().over_account(&over);
        Account::verify_update(&world.account_jwt(), &id, known, &world.operators(), NOW)
    };
    let at = |iat: i64| json!({ "iat": iat, "name": "Renamed" });
    assert!(update(at(NOW_S - 5001), None).is_ok(), "nothing is known");
    assert_eq!(update(at(NOW_S - 5001), Some(&known)).err(), Some(AccountRefusal::Older));
    // Of the same second it counts, and is another one.
    let same_second = update(at(NOW_S - 5000), Some(&known)).unwrap();
    assert_ne!(same_second.known(), known);
    assert_eq!(same_second.known().issued_at, known.issued_at);
    assert_eq!(update(json!({}), Some(&known)).unwrap().known(), known);
    assert_eq!(update(at(NOW_S), Some(&known)).unwrap().name(), "Renamed");
    // Whatever is wrong with it, ours stays in place.
    let foreign = json!({ "iat": NOW_S, "iss": world.stranger.public_key() });
    assert_eq!(update(foreign, Some(&known)).err(), Some(AccountRefusal::Foreign));
    let other = json!({ "iat": NOW_S, "sub": world.stranger.public_key() });
    assert_eq!(update(other, Some(&known)).err(), Some(AccountRefusal::OtherAccount));
}

#[test]
fn a_newer_jwt_that_has_expired_counts_in_the_place_of_an_older_one() {
    let world = World::new();
    let id = world.account.public_key();
    let known = verified(&world).unwrap().known();
    let update = |iat: i64, exp: i64, known: Option<&KnownAccount>| {
        let world = World::new().over_account(&json!({ "iat": iat, "exp": exp }));
        Account::verify_update(&world.account_jwt(), &id, known, &world.operators(), NOW)
    };
    let expired = update(NOW_S - 60, NOW_S - 5, Some(&known)).unwrap();
    assert_eq!(expired.expires(), Some(UnixTime::from_secs(NOW_S - 5)));
    let world = World::new();
    let user = UserJwt::decode(&world.user_jwt(), &circumstances()).unwrap();
    assert_eq!(user.judge(&expired, &world.operators(), &circumstances()).err(), Some(Refusal::AccountExpired));
    // Nobody knows which of those of one second was the last.
    for (iat, known) in [(NOW_S - 5000, Some(&known)), (NOW_S - 5001, Some(&known)), (NOW_S - 60, None)] {
        assert_eq!(update(iat, NOW_S - 5, known).err(), Some(AccountRefusal::Expired), "{iat}");
    }
    assert_eq!(update(NOW_S - 61, NOW_S + 5, Some(&expired.known())).err(), Some(AccountRefusal::Older));
    assert!(update(NOW_S, NOW_S + 5, Some(&expired.known())).is_ok());
}

#[test]
fn operators() {
    let account = World::new().account.public_key();
    for (over, expected) in [
        (json!({}), None),
        (json!({ "exp": 1 }), None),
        (json!({ "iss": World::new().operator_signing.public_key() }), None),
        (json!({ "nats": { "signing_keys": null } }), None),
        (json!({ "nats": { "system_account": account } }), None),
        (json!({ "nats": { "system_account": "SYS" } }), Some(JwtError::Key)),
        (json!({ "nats": { "signing_keys": ["x"] } }), Some(JwtError::Key)),
        (json!({ "nats": { "signing_keys": [account] } }), Some(JwtError::Key)),
        (json!({ "sub": account }), Some(JwtError::Key)),
        (json!({ "nats": { "type": "account" } }), Some(JwtError::Kind)),
    ] {
        assert_eq!(Operator::decode(&World::new().over_operator(&over).operator_jwt()).err(), expected, "{over}");
    }
    // Somebody else's operator vouches for ours.
    let world = World::new().over_operator(&json!({ "nats": { "signing_keys": [] } }));
    let over = json!({ "iss": world.operator_signing.public_key() });
    assert_eq!(Operator::decode(&world.over_operator(&over).operator_jwt()).err(), Some(JwtError::Key));
    let operator = Operator::decode(&World::new().operator_jwt()).unwrap();
    assert_eq!((operator.name(), operator.is_strict(), operator.system_account()), ("ACME", false, None));
    assert!(operator.trusts(operator.id()) && !operator.trusts(&account));
}

#[test]
fn deletions() {
    let world = World::new();
    let (account, operators) = (verified(&world).unwrap(), world.operators());
    let claims = |issuer: &str, subject: &str, accounts: Value, iat: i64| json!({ "iat": iat, "iss": issuer, "sub": subject, "nats": { "accounts": accounts, "type": "generic", "version": 2 } });
    let (main, signing) = (world.operator.public_key(), world.operator_signing.public_key());
    let (id, other) = (account.id(), world.stranger.public_key());
    let ours = sign(&claims(&main, &main, json!([other, id]), NOW_S), &world.operator);
    let deletion = Deletion::verify(&ours, &operators).unwrap();
    assert!(deletion.deletes(&account) && deletion.accounts().len() == 2);
    let by_signing = sign(&claims(&signing, &signing, json!([id]), NOW_S - 5000), &world.operator_signing);
    assert!(Deletion::verify(&by_signing, &operators).unwrap().deletes(&account));
    // An old one, of an account that was made again since.
    let replayed = sign(&claims(&main, &main, json!([id]), NOW_S - 5001), &world.operator);
    assert!(!Deletion::verify(&replayed, &operators).unwrap().deletes(&account));
    let elsewhere = sign(&claims(&main, &main, json!([other]), NOW_S), &world.operator);
    assert!(!Deletion::verify(&elsewhere, &operators).unwrap().deletes(&account));
    for (claims, key, expected) in [
        (claims(&main, &signing, json!([id]), NOW_S), &world.operator, AccountRefusal::Foreign),
        (claims(&main, &main, json!(["x"]), NOW_S), &world.operator, AccountRefusal::Claims),
        (claims(&main, &main, json!("x"), NOW_S), &world.operator, AccountRefusal::Jwt(JwtError::Claims)),
        (claims(&main, &main, json!([id]), NOW_S), &world.operator_signing, AccountRefusal::Jwt(JwtError::Signature)),
        (claims(&other, &other, json!([id]), NOW_S), &world.stranger, AccountRefusal::Jwt(JwtError::Key)),
    ] {
        assert_eq!(Deletion::verify(&sign(&claims, key), &operators), Err(expected), "{claims}");
    }
    let stranger = nkeys::KeyPair::new_operator();
    let key = stranger.public_key();
    let foreign = sign(&claims(&key, &key, json!([id]), NOW_S), &stranger);
    assert_eq!(Deletion::verify(&foreign, &operators), Err(AccountRefusal::Foreign));
    let strict = World::new().strict().operators();
    assert_eq!(Deletion::verify(&ours, &strict), Err(AccountRefusal::Foreign));
    assert!(Deletion::verify(&by_signing, &strict).is_ok());
    assert!(Deletion::verify(&sign_with("{}", "{}", &stranger), &strict).is_err());
}
