//! JWTs as text: parts, headers, JSON.

use mqtt_access::jwt::{JwtError, Refusal, UnverifiedUserJwt, UserJwt};
use serde_json::json;

use crate::mint::{World, circumstances, sign_with};

#[test]
fn what_is_no_jwt() {
    let good = World::new().user_jwt();
    let [header, claims, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    let none = "A".repeat(86);
    for (text, expected) in [
        (String::new(), JwtError::Malformed),
        ("..".into(), JwtError::Malformed),
        (format!("{header}.{claims}"), JwtError::Malformed),
        (format!("{good}.{signature}"), JwtError::Malformed),
        (format!("{header}.{claims}."), JwtError::Malformed),
        (format!("{header}.{claims}.{}", &signature[1..]), JwtError::Malformed),
        (format!("{header}.{claims}={signature}"), JwtError::Malformed),
        (format!("{header}=.{claims}.{signature}"), JwtError::Malformed),
        (format!("{header}.{claims}+.{signature}"), JwtError::Malformed),
        (format!(" {good}"), JwtError::Malformed),
        (format!("-----BEGIN NATS USER JWT-----\n{good}\n------END NATS USER JWT------\n"), JwtError::Malformed),
        (format!("{header}.{claims}.{none}"), JwtError::Signature),
        (format!("{}.{claims}.{signature}", "A".repeat(2000)), JwtError::Malformed),
        (format!("{header}.{}.{signature}", "A".repeat(2 * 1024 * 1024)), JwtError::TooLong),
    ] {
        let refused = UserJwt::decode(&text, &circumstances()).err();
        assert_eq!(refused, Some(Refusal::Jwt(expected)), "{}", text.chars().take(200).collect::<String>());
    }
    assert!(UserJwt::decode(&format!("{good}\r\n"), &circumstances()).is_ok());
}

#[test]
fn headers_and_json() {
    let world = World::new();
    let claims = world.user_claims.to_string();
    let decode = |header: &str, claims: &str| {
        UserJwt::decode(&sign_with(header, claims, &world.account), &circumstances()).err()
    };
    for (header, expected) in [
        (r#"{"typ":"JWT","alg":"ed25519-nkey"}"#, None),
        (r#"{"typ":"jwt","alg":"Ed25519-NKEY","kid":"x"}"#, None),
        (r#"{"typ":"JWT","alg":"ed25519"}"#, None),
        (r#"{"typ":"JWT","alg":"none"}"#, Some(JwtError::Algorithm)),
        (r#"{"typ":"JWT","alg":"ed25519-nkey2"}"#, Some(JwtError::Algorithm)),
        (r#"{"typ":"JWT","alg":"HS256"}"#, Some(JwtError::Algorithm)),
        (r#"{"alg":"ed25519-nkey"}"#, Some(JwtError::Algorithm)),
        (r#"{"typ":"JOSE","alg":"ed25519-nkey"}"#, Some(JwtError::Algorithm)),
        (r#"{"typ":"JWT","alg":"none","alg":"ed25519-nkey"}"#, Some(JwtError::Algorithm)),
        ("[]", Some(JwtError::Algorithm)),
    ] {
        assert_eq!(decode(header, &claims), expected.map(Refusal::Jwt), "{header}");
    }
    let header = r#"{"typ":"JWT","alg":"ed25519-nkey"}"#;
    for claims in [
        "{}".to_owned(),
        "null".to_owned(),
        claims.replace(r#""subs":-1"#, r#""subs":-1,"subs":5"#),
        claims.replacen('{', r#"{"exp":1,"exp":0,"#, 1),
        claims.replacen('{', r#"{"Exp":1,"#, 1),
        claims.replace(r#""pub":{}"#, r#""Pub":{"deny":["a"]}"#),
        claims.replace(r#""pub":{}"#, r#""pub":{"allow":"a"}"#),
        claims.replace(r#""pub":{}"#, r#""pub":{"allow":[1]}"#),
        claims[..claims.len() - 1].to_owned(),
        format!("{claims} x"),
        format!(r#"{{"nats":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000)),
    ] {
        let refused = decode(header, &claims);
        assert_eq!(refused, Some(Refusal::Jwt(JwtError::Claims)), "{}", claims.chars().take(300).collect::<String>());
    }
}

#[test]
fn each_of_several_is_what_it_is_alone() {
    let named = |name: &str| World::new().over_user(&json!({ "name": name }));
    let forged = format!("{}.{}", named("c").user_jwt().rsplit_once('.').unwrap().0, "A".repeat(86));
    let [no_user, stranger] = [json!({ "sub": "AA" }), json!({ "iss": World::new().stranger.public_key() })];
    let jwts = [
        named("a").user_jwt(),
        named("b").with_signing_key().user_jwt(),
        forged,
        World::new().over_user(&no_user).user_jwt(),
        World::new().over_user(&stranger).user_jwt(),
    ];
    let read = |jwt: &String| UnverifiedUserJwt::read(jwt).unwrap();
    for some in [&jwts[..], &jwts[..2], &jwts[2..3], &jwts[3..], &[]] {
        let alone: Vec<_> = some.iter().map(|jwt| read(jwt).verified().map(|user| user.name().to_owned())).collect();
        let together = UnverifiedUserJwt::all_verified(some.iter().map(read).collect());
        let together: Vec<_> = together.into_iter().map(|user| user.map(|user| user.name().to_owned())).collect();
        assert_eq!(alone, together);
    }
    let all = UnverifiedUserJwt::all_verified(jwts.iter().map(read).collect());
    let refusals: Vec<_> = all.into_iter().map(Result::err).collect();
    let [signature, key] = [JwtError::Signature, JwtError::Key].map(|error| Some(Refusal::Jwt(error)));
    assert_eq!(refusals, [None, None, signature, key, None]);
}
