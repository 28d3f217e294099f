//! Who the devices of the tests are: `TEST_AUTH=none`, the default, `file`, `nats`, `jwt` or `oidc` has every sidecar that does not
//! say itself who may connect ask in this mode, and every client that does not say itself who it is say that it is [`USER`], who
//! may do everything.
//!
//! In modes `nats` and `jwt` the nats-servers have an account with that user, and NATS clients without credentials are in it.
//! Sidecars of a nats-server whose users a test has written down itself stay in mode `none`, which those tests are not about.

use std::path::Path;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::json;

use crate::mint::World;

/// What it is called, in every mode.
pub(crate) const USER: &str = "tests";

const PASSWORD: &str = "of the tests";

/// Of [`PASSWORD`], as `mosquitto_passwd` makes it, but with one iteration: each sidecar is asked many times.
const HASH: &str =
    "$7$1$c2FsdCBvZiB0aGUu$XJ1hTj1Zl3szxd7vSyKfvcFxYmwgJwTzfPYged41qF2eEMJLGCbiOaSVVSrFdl9K7pHyliCOcWZhf+z17V/trg==";

const ISSUER: &str = "https://id.example";
const AUDIENCE: &str = "mqtt";

/// What we share with the identity provider.
const SECRET: &[u8] = b"a secret of the tests, which is long enough";

/// Longest client id that is the name of a user.
const NAME_MAX: usize = 200;

/// When tokens of the identity provider end: later than any clock of a test shows.
const EXPIRES_S: u64 = 4_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    None,
    File,
    Nats,
    Jwt,
    Oidc,
}

static MODE: LazyLock<Mode> = LazyLock::new(|| match std::env::var("TEST_AUTH").as_deref() {
    Err(_) | Ok("none") => Mode::None,
    Ok("file") => Mode::File,
    Ok("nats") => Mode::Nats,
    Ok("jwt") => Mode::Jwt,
    Ok("oidc") => Mode::Oidc,
    Ok(other) => panic!("TEST_AUTH={other}: there are none, file, nats, jwt and oidc"),
});

/// An operator, its account and the user in it. None of it ends, and whatever a clock of a test shows, it was issued before.
static OPERATOR: LazyLock<World> = LazyLock::new(|| World::new().over_user(&json!({ "name": USER })));

/// User name and password of a client that does not say itself who it is. In mode `oidc` it is a user of its own, as devices are,
/// unless its id cannot be the name of one.
pub(crate) fn credentials_of(client_id: &str) -> Option<(&'static str, String)> {
    let (user, password) = credentials()?;
    let is_name = (1..=NAME_MAX).contains(&client_id.len()) && !client_id.contains(char::is_control);
    let is_own = *MODE == Mode::Oidc && is_name;
    Some((user, if is_own { token(client_id) } else { password.to_owned() }))
}

/// User name and password of one that others have written.
pub(crate) fn credentials() -> Option<(&'static str, &'static str)> {
    static JWT: LazyLock<String> = LazyLock::new(|| OPERATOR.user_jwt());
    static TOKEN: LazyLock<String> = LazyLock::new(|| token(USER));
    let password = match *MODE {
        Mode::None => return None,
        Mode::File | Mode::Nats => PASSWORD,
        Mode::Jwt => &JWT,
        Mode::Oidc => &TOKEN,
    };
    Some((USER, password))
}

/// What a nats-server has in its configuration to have that user.
pub(crate) fn accounts() -> &'static str {
    static ACCOUNTS: LazyLock<String> = LazyLock::new(|| {
        let (Mode::Nats | Mode::Jwt, Some((user, password))) = (*MODE, credentials()) else {
            return String::new();
        };
        let id = OPERATOR.account.public_key();
        let users = format!("{{ user: {user}, password: {password:?} }}, {{ user: nobody, password: nobody }}");
        format!("accounts {{ {id} {{ jetstream: enabled, users: [ {users} ] }} }}\nno_auth_user: nobody\n")
    });
    &ACCOUNTS
}

/// What a sidecar has in its configuration to let that user in, with its files in a folder; nothing in mode `none`.
pub(crate) fn configuration(dir: &Path) -> Option<String> {
    let file = |name: &str, text: &[u8]| {
        let path = dir.join(name);
        std::fs::write(&path, text).expect("write a file");
        path
    };
    Some(match *MODE {
        Mode::None => return None,
        Mode::File => {
            let users = format!("[[users]]\nname = \"{USER}\"\npassword = \"{HASH}\"\n");
            format!("[auth]\nmode = \"file\"\nusers_file = {:?}\n", file("users.toml", users.as_bytes()))
        }
        Mode::Nats => "[auth]\nmode = \"nats\"\n".to_owned(),
        Mode::Jwt => format!(
            "[auth]\nmode = \"jwt\"\n[auth.jwt]\noperator = {:?}\nresolver = {:?}\n",
            file("operator.jwt", OPERATOR.operator_jwt().as_bytes()),
            file("account.jwt", OPERATOR.account_jwt().as_bytes()),
        ),
        Mode::Oidc => format!(
            "[auth]\nmode = \"oidc\"\n[auth.oidc]\nissuer = {ISSUER:?}\naudience = {AUDIENCE:?}\nsecret_file = {:?}\n\
             [[auth.oidc.roles]]\nmatch = {{ groups = \"devices\" }}\n",
            file("secret", SECRET),
        ),
    })
}

/// A token of the identity provider for a user.
fn token(user: &str) -> String {
    let claims = json!({ "iss": ISSUER, "aud": AUDIENCE, "exp": EXPIRES_S, "sub": user, "groups": ["devices"] });
    let [header, claims] = [json!({ "alg": "HS256" }), claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let signed = format!("{header}.{claims}");
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
}
