//! `[auth]` and `[[users]]`: what an operator writes, and what comes of it.

use super::*;
use crate::config::{AuthMode, Config, Overrides};

fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let environment: Vec<_> =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Config::assemble(Some(("c.toml", text)), &environment, &Overrides::default()).map_err(|error| error.to_string())
}

fn from_text(text: &str) -> Result<Config, String> {
    load(text, &[])
}

#[test]
fn a_mode_that_cannot_be_says_what_can() {
    for (text, error) in [
        ("[auth]\nmode = \"flie\"", "c.toml:2: auth.mode: \"flie\" is not known: did you mean \"file\"?"),
        (
            "[auth]\nmode = \"file\"",
            "c.toml:2: auth.mode: mode \"file\" without users lets nobody in: write [[users]], here or in auth.users_file",
        ),
        (
            "[auth]\nwide_filters = \"drop\"",
            "c.toml:2: auth.wide_filters: \"drop\" is not known: one of refuse, filter is possible",
        ),
    ] {
        assert_eq!(from_text(text).unwrap_err(), error);
    }
}

/// A user whose password is right, and what more is said of it.
fn user(more: &str) -> String {
    let hash = "$2a$11$UP3xizk94sWF9SHF/wkklOfBT9jphTGNrhZqz2OHoBdk9yO1kvErG";
    format!("[[users]]\nname = \"lamp\"\npassword = \"{hash}\"\n{more}")
}

#[test]
fn users_have_permissions_and_tags() {
    let permissions = "{ publish = { allow = [\"dev.{{client-id()}}.>\"], deny = [] }, subscribe = { deny = [\"x\"] }, allow_responses = true }";
    let text = user(&format!("permissions = {permissions}\ntags = [\"mqtt:max-qos=1\", \"site:x\"]"));
    let config = from_text(&text).unwrap();
    let lists = config.users[0].permissions_for("esp.1").unwrap();
    assert_eq!(lists.publish.allowed(), ["dev.esp//1.>"]);
    assert_eq!((lists.publish.deny, lists.subscribe.denied()), (None, &["x".to_owned()][..]));
    assert_eq!(lists.responses.map(|limits| (limits.max, limits.ttl_ns)), Some((1, 120_000_000_000)));
    assert_eq!(config.users[0].tags, ["mqtt:max-qos=1", "site:x"]);
    let responses = |written: &str| {
        let text = user(&format!("permissions = {{ allow_responses = {written} }}"));
        let limits = from_text(&text).unwrap().users[0].permissions.allow_responses;
        limits.map(|limits| (limits.max, limits.ttl_ns))
    };
    assert_eq!(responses("false"), None);
    assert_eq!(responses("{ max = 5 }"), Some((5, 120_000_000_000)));
    assert_eq!(responses("{ max = 0, expires = \"1s\" }"), Some((-1, 1_000_000_000)));
}

#[test]
fn keys_and_certificates_are_what_they_should_be_and_of_one_user() {
    for (more, error) in [
        (
            "nkey = \"SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY\"",
            "c.toml:4: users[0].nkey: this is not the public NKey of a user: it begins with U, as `nsc generate nkey --user` shows it",
        ),
        (
            "nkey = \"UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4\"\n[[users]]\nname = \"other\"\nnkey = \"UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4\"",
            "c.toml:7: users[1].nkey: another user has the key UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4 already: give each its own",
        ),
        (
            "certificate = \"lamp.example\"",
            "c.toml:4: users[0].certificate: not an identity of a certificate: it begins with dns:, email:, uri:, subject: or cn:",
        ),
        (
            "certificate = \"dns:a\"\n[[users]]\nname = \"other\"\ncertificate = \"dns:A\"",
            "c.toml:7: users[1].certificate: another user has dns:a already",
        ),
    ] {
        assert_eq!(from_text(&user(more)).err().as_deref(), Some(error), "{more}");
    }
}

#[test]
fn what_is_wrong_with_a_user_is_said_in_one_line_with_the_way_out() {
    for (more, error) in [
        (
            "permissions = { publish = { deny = [\"a..b\"] } }",
            "c.toml:4: users[0].permissions: \"a..b\" is not a subject: write one, as in \"dev.lamp.>\"",
        ),
        (
            "permissions = { publish = { allow = [\"a.{{client_id}}\"] } }",
            "c.toml:4: users[0].permissions: there is no {{client_id}}: possible are {{client-id()}}, {{name()}} and {{tag(KEY)}}",
        ),
        (
            "permissions = { publish = { allow = [\"a.{{tag(site)}}\"] } }",
            "c.toml:4: users[0].permissions: the user has no tag for {{tag(site)}}: write one, as KEY:VALUE, whose value can stand in a subject",
        ),
        (
            "permissions = { publish = { allow = [\"jobs.> workers\"] } }",
            "c.toml:4: users[0].permissions: \"jobs.> workers\" is not a subject: write one, as in \"dev.lamp.>\"",
        ),
        (
            "permissions = { subscribe = { allow = [] } }",
            "c.toml:4: users[0].permissions: an empty allow has no one meaning: leave it out to allow everything, or write deny = [\">\"]",
        ),
        (
            "permissions = { publsh = { allow = [\"a\"] } }",
            "c.toml:4: users[0].permissions.publsh: unknown key: did you mean \"publish\"?",
        ),
        (
            "permissions = { allow_responses = \"some\" }",
            "c.toml:4: users[0].permissions.allow_responses: invalid value: string \"some\", expected true, false, or a table as { max = 1, expires = \"2m\" }",
        ),
        ("acount = \"A\"", "c.toml:4: users[0].acount: unknown key: did you mean \"account\"?"),
        (
            "tags = [\"mqtt:max-qos=2\"]",
            "c.toml:4: users[0].tags: \"mqtt:max-qos=2\" is not what this tag can say: possible are mqtt:max-qos=0|1, mqtt:retain=deny, mqtt:share=deny, mqtt:will=deny, mqtt:session-expiry=SECONDS, mqtt:client-id=name, mqtt:msg-rate=NUMBER, mqtt:byte-rate=BYTES and mqtt:connections=NUMBER",
        ),
        (
            "[[users]]\nname = \"lamp\"",
            "c.toml:5: users[1].name: there is a user \"lamp\" already: leave one of the two out",
        ),
        (
            "[[users]]\nname = \"other\"",
            "c.toml:4: users[1]: a user needs a password, whose hash `nats-mqtt passwd` makes, or an nkey, or a certificate: write one of them",
        ),
        (
            "[[users]]\nname = \"other\"\npassword = \"secret\"",
            "c.toml:6: users[1].password: this is not the hash of a password (argon2id, bcrypt or mosquitto's $7$): make one with `nats-mqtt passwd`",
        ),
        (
            "[[users]]\nname = \"other\"\npassword = \"$7$9999999$MDEyMzQ1Njc4OWFi$NrzwjNkm0devHqjYkA7HqLMvRhp+AsLReNF6SvsV8eCNpQ1+C4DLO/N1v2TyhqbZt6lLUVErC2CGca242OSJCA==\"",
            "c.toml:6: users[1].password: this hash costs more than a login may: make another one with `nats-mqtt passwd`",
        ),
        ("[[users]]\ntags = []", "c.toml:4: users[1]: missing field `name`"),
        (
            "[[users]]\nname = \"\"\n[auth]\nmode = \"file\"",
            "c.toml:7: auth.mode: a user without a name is whoever connects without one: set auth.anonymous = true, or name the user",
        ),
    ] {
        assert_eq!(from_text(&user(more)).err().as_deref(), Some(error), "{more}");
    }
}

#[test]
fn users_come_from_a_file_of_their_own_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users.toml");
    let config = format!("[auth]\nmode = \"file\"\nusers_file = {path:?}\n");
    std::fs::write(&path, user("")).unwrap();
    assert_eq!(from_text(&config).unwrap().auth.file_users[0].name, "lamp");
    let file = path.display();
    let twice = from_text(&format!("{config}{}", user(""))).unwrap_err();
    assert_eq!(twice, format!("{file}:2: users[0].name: there is a user \"lamp\" already: leave one of the two out"));
    std::fs::write(&path, "[user]").unwrap();
    assert_eq!(from_text(&config).unwrap_err(), format!("{file}:1: user: unknown key: did you mean \"users\"?"));
    std::fs::write(&path, "").unwrap();
    let nobody =
        "c.toml:2: auth.mode: mode \"file\" without users lets nobody in: write [[users]], here or in auth.users_file";
    assert_eq!(from_text(&config).unwrap_err(), nobody);
    std::fs::File::create(&path).unwrap().set_len(USERS_FILE_SIZE_MAX + 1).unwrap();
    let too_large = from_text(&config).unwrap_err();
    assert_eq!(too_large, format!("{file}: it has more than 16777216 bytes: check auth.users_file"));
    std::fs::remove_file(&path).unwrap();
    let missing = from_text(&config).unwrap_err();
    assert!(missing.starts_with(&format!("{file}: No such file")), "{missing}");
}

#[test]
fn a_password_of_a_user_can_come_from_the_environment() {
    let hash = "$2a$11$UP3xizk94sWF9SHF/wkklOfBT9jphTGNrhZqz2OHoBdk9yO1kvErG";
    let variables = [("NATS_MQTT__AUTH__MODE", "file"), ("NATS_MQTT__USERS__0__PASSWORD", hash)];
    let config = load("[[users]]\nname = \"lamp\"", &variables).unwrap();
    assert_eq!(config.users[0].password.as_ref().unwrap().to_string(), hash);
    assert_eq!((config.auth.mode, config.auth.cache), (AuthMode::File, Duration::from_secs(60)));
}

#[test]
fn a_name_is_one_token_or_none() {
    for (text, token) in
        [("a", "a"), ("esp.1", "esp//1"), ("*", "%2A"), (">", "%3E"), ("a b", "a%20b"), ("$SYS", "$SYS")]
    {
        assert_eq!(token_of_level(text).unwrap().as_str(), token);
    }
    for text in ["", "a/b", "/", "+", "#", "a+", "\0", "a\u{a0}b"] {
        assert!(token_of_level(text).is_err(), "{text:?}");
    }
}
