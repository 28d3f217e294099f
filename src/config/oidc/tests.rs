//! `[auth.oidc]`: what an operator writes, and what is wrong with it.

use super::*;
use crate::config::{Config, Overrides};

fn load(oidc: &str, role: &str) -> Result<Config, String> {
    let text = format!("[auth.oidc]\nissuer = \"https://id\"\n{oidc}\n[[auth.oidc.roles]]\n{role}\n");
    Config::assemble(Some(("c.toml", &text)), &[], &Overrides::default()).map_err(|error| error.to_string())
}

const SOURCE: &str = "audience = \"mqtt\"\njwks_url = \"https://id/keys\"";

#[test]
fn a_role_matches_claims_and_makes_a_user() {
    let role = "match = { groups = [\"lamps\", \"bulbs\"], \"realm.admin\" = true }\naccount = \"{{claim.tenant}}\"\naccounts = [\"T1\"]\npermissions = { publish = { allow = [\"dev.{{sub}}.{{claim.site}}\"] } }\ntags = [\"mqtt:max-qos=1\"]";
    let config = load(SOURCE, role).unwrap();
    let role = &config.auth.oidc.as_ref().unwrap().roles[0];
    assert_eq!(role.matches["groups"], Wanted::OneOf(vec!["lamps".to_owned(), "bulbs".to_owned()]));
    assert_eq!((&role.matches["realm.admin"], &*role.user), (&Wanted::Flag(true), "{{sub}}"));
}

#[test]
fn what_would_let_in_anybody_or_nobody_is_an_error() {
    let right = "match = { groups = \"lamps\" }";
    for (oidc, role, error) in [
        ("jwks_url = \"https://id\"", right, "c.toml:1: auth.oidc.audience: a token of anybody would do"),
        ("audience = \"a\"", right, "c.toml:1: auth.oidc: write one of jwks_url"),
        (
            "audience = \"a\"\njwks_url = \"http://id/keys\"",
            right,
            "c.toml:4: auth.oidc.jwks_url: \"http://id/keys\" is not https",
        ),
        ("audience = \"a\"\nkey_file = \"/nowhere\"", right, "c.toml:4: auth.oidc.key_file: /nowhere: "),
        (SOURCE, "", "c.toml:5: auth.oidc.roles: a role without a match"),
        (SOURCE, "match = { groups = [] }", "c.toml:5: auth.oidc.roles: a role without a match"),
        (
            SOURCE,
            "match = { a = \"b\" }\nuser = \"{{name}}\"",
            "c.toml:5: auth.oidc.roles: user and account are made of",
        ),
        (
            SOURCE,
            "match = { a = \"b\" }\npermissions = { publish = { allow = [\"{{claim.}}\"] } }",
            "c.toml:5: auth.oidc.roles: there is no {{claim.}}: possible are",
        ),
        (
            SOURCE,
            "match = { a = \"b\" }\npermissions = { publish = { deny = [\"a..{{sub}}\"] } }",
            "c.toml:5: auth.oidc.roles: `a..{{sub}}` becomes something that is not a subject",
        ),
        (
            SOURCE,
            "match = { a = \"b\" }\naccount = \"{{sub}}\"",
            "c.toml:5: auth.oidc.roles: an account that a token names",
        ),
        (SOURCE, "match = { a = \"b\" }\ntags = [\"mqtt:max-qos=9\"]", "c.toml:5: auth.oidc.roles: "),
    ] {
        let found = load(oidc, role).unwrap_err();
        assert!(found.starts_with(error), "{found}\n{error}");
    }
    let mode = Config::assemble(Some(("c.toml", "[auth]\nmode = \"oidc\"")), &[], &Overrides::default());
    assert!(mode.unwrap_err().to_string().starts_with("c.toml:2: auth.mode: mode \"oidc\" needs [auth.oidc]"));
}

#[test]
fn where_keys_may_come_from() {
    for url in
        ["https://id.example/keys", "https://id", "http://localhost:80/k", "http://127.0.0.2/", "http://[::1]:9/x"]
    {
        assert!(is_trusted_url(url), "{url}");
    }
    for url in [
        "http://id.example/keys",
        "http://localhost.example/",
        "http://localhost@id.example/",
        "ftp://localhost",
        "https:///keys",
        "id.example",
        "https://a b/",
    ] {
        assert!(!is_trusted_url(url), "{url}");
    }
}
