//! Hashes that others have made, and our own.

use mqtt_access::Secret;
use mqtt_access::password::{HashError, PasswordHash, SALT_LEN, verify_unknown_user};

/// A password and its hash, as other programs make them.
const OF_OTHERS: &[(&str, &str)] = &[
    // The reference implementation of Argon2.
    ("password", "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"),
    // jBCrypt.
    ("", "$2a$06$DCq7YPn5Rq63x1Lad4cll.TV4S6ytwfsfvkgY8jIucDrjc8deX1s."),
    ("a", "$2a$06$m0CrhHm10qJ3lXRY.5zDGO3rS2KdeeWLuGmsfGlMfOxih58VYVfxe"),
    // Go's golang.org/x/crypto/bcrypt, which nats-server uses.
    ("s3cr3t!", "$2a$04$5nEKLgIGoeQOEzNZYCfffOjg3QqxaU5Rw4YnDgSNs2s4pjAVar88K"),
    ("pässwörd", "$2a$04$YEYq5EG.BA/PbU0Eq710f.E0aEfocw5k7IYcUVEQDvco5pwQX7miu"),
    // mosquitto_passwd 2.0.
    (
        "pass word",
        "$7$101$h++uZKAeOXNlB9uP$A/qbMpR7N3+VvvDIgKJxSu1sONXjkOeQ5T3JVyK198NeMA+P3t9kj+LBIFmlYFsoEViS2Xj3ApXrowDA88qc0g==",
    ),
];

#[test]
fn hashes_of_others() {
    for (password, hash) in OF_OTHERS {
        let parsed: PasswordHash = hash.parse().unwrap();
        assert_eq!(parsed.to_string(), *hash);
        assert!(parsed.verify(&Secret::from(*password)), "{hash}");
        assert!(!parsed.verify(&Secret::from(format!("{password}x").as_str())), "{hash}");
    }
}

#[test]
fn what_we_make_can_be_kept_and_read() {
    let (password, other) = (Secret::from("correct horse"), Secret::from("correct horsf"));
    let hash = PasswordHash::make(&password, [7; SALT_LEN]).unwrap();
    let text = hash.to_string();
    assert!(text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{text}");
    let read: PasswordHash = text.parse().unwrap();
    assert_eq!(read, hash);
    assert!(read.verify(&password) && !read.verify(&other) && !read.verify(&Secret::from("")));
    assert_ne!(PasswordHash::make(&password, [8; SALT_LEN]).unwrap(), hash);
}

#[test]
fn what_is_beyond_72_bytes_does_not_count_for_bcrypt() {
    // Of 72 times `a`, by Go's golang.org/x/crypto/bcrypt, which says the same of a longer one.
    let hash: PasswordHash = "$2a$04$c6/CMbyzfAKPL9IvnHE2dOyXBzR./G96slCuIx9jgCPOhlM4wyKWq".parse().unwrap();
    for (length, expected) in [(71, false), (72, true), (73, true), (80, true)] {
        assert_eq!(hash.verify(&Secret::from("a".repeat(length).as_str())), expected, "{length}");
    }
}

#[test]
fn an_unknown_user_never_gets_in_and_costs_as_much() {
    for like in OF_OTHERS.iter().map(|(_, hash)| Some(hash.parse::<PasswordHash>().unwrap())).chain([None]) {
        for password in ["", "password", "a"] {
            assert!(!verify_unknown_user(&Secret::from(password), like.as_ref()));
        }
        let Some(like) = like else { continue };
        let (text, decoy) = (like.to_string(), like.decoy().to_string());
        assert_eq!(decoy.len(), text.len());
        assert_eq!(decoy.parse::<PasswordHash>().unwrap(), like.decoy(), "a decoy is a hash");
        // The parameters, which decide the cost, are the same.
        let parameters = |text: &str| text.rsplit_once('$').unwrap().0.len();
        assert_eq!(parameters(&decoy), parameters(&text));
        assert_ne!(decoy, text);
    }
}

#[test]
fn what_is_no_hash() {
    use HashError::{Malformed, TooCostly};
    let salt = "c29tZXNhbHQ";
    let hash = "CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
    let argon2 = |kind: &str, params: &str, salt: &str, hash: &str| format!("${kind}$v=19${params}${salt}${hash}");
    let good = "m=65536,t=2,p=1";
    let bcrypt = "DCq7YPn5Rq63x1Lad4cll.TV4S6ytwfsfvkgY8jIucDrjc8deX1s.";
    let (salt64, hash64) = ("AAAA", format!("{}==", "A".repeat(86)));
    for (text, expected) in [
        (String::new(), Malformed),
        ("plain text".into(), Malformed),
        ("$".repeat(60), Malformed),
        ("x".repeat(100_000), Malformed),
        (argon2("argon2i", good, salt, hash), Malformed),
        (argon2("argon2d", good, salt, hash), Malformed),
        (argon2("argon2id", good, salt, hash).replace("v=19", "v=16"), Malformed),
        (argon2("argon2id", "t=2,m=65536,p=1", salt, hash), Malformed),
        (argon2("argon2id", "m=65536,t=2", salt, hash), Malformed),
        (argon2("argon2id", "m=65536,t=2,p=1,x=1", salt, hash), Malformed),
        (argon2("argon2id", "m=+65536,t=2,p=1", salt, hash), Malformed),
        (argon2("argon2id", "m=1,t=2,p=1", salt, hash), Malformed),
        (argon2("argon2id", "m=65536,t=0,p=1", salt, hash), Malformed),
        (argon2("argon2id", good, "c29t", hash), Malformed),
        (argon2("argon2id", good, salt, "CTFh"), Malformed),
        (argon2("argon2id", good, salt, "!!!"), Malformed),
        (argon2("argon2id", "m=131073,t=2,p=1", salt, hash), TooCostly),
        (argon2("argon2id", "m=65536,t=11,p=1", salt, hash), TooCostly),
        (argon2("argon2id", "m=65536,t=2,p=17", salt, hash), TooCostly),
        (format!("$2a$15${bcrypt}"), TooCostly),
        (format!("$2a$31${bcrypt}"), TooCostly),
        (format!("$2a$03${bcrypt}"), Malformed),
        (format!("$2a$+6${bcrypt}"), Malformed),
        (format!("$2c$06${bcrypt}"), Malformed),
        (format!("$2a$06${bcrypt}x"), Malformed),
        (format!("$2a$06${}", "é".repeat(26) + "a"), Malformed),
        (format!("$7$101${salt64}${hash64}x"), Malformed),
        (format!("$7$0${salt64}${hash64}"), Malformed),
        (format!("$7$-1${salt64}${hash64}"), Malformed),
        (format!("$7$101$${hash64}"), Malformed),
        (format!("$7$101${salt64}$AAAA"), Malformed),
        (format!("$6${salt64}${hash64}"), Malformed),
        (format!("$7$1000001${salt64}${hash64}"), TooCostly),
        (format!("$7$4294967296${salt64}${hash64}"), Malformed),
    ] {
        assert_eq!(text.parse::<PasswordHash>(), Err(expected), "{text}");
    }
}

#[test]
fn a_hash_is_not_printed() {
    for (_, hash) in OF_OTHERS {
        let shown = format!("{:?}", hash.parse::<PasswordHash>().unwrap());
        assert!(shown.starts_with("PasswordHash(\"") && shown.len() < 30, "{shown}");
    }
}
