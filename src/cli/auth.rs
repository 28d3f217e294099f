//! `nats-mqtt auth`: who somebody would be that connects, and with which permissions.

use std::path::PathBuf;

use clap::Args;
use mqtt_access::{ResponseLimits, Secret, SubjectLists};

use super::failure::{FAILED, Failure, say};
use super::passwd;
use crate::app::{AppError, options};
use crate::auth::{self, Identified, Principal};
use crate::config::{AuthMode, Config};
use crate::store::rfc3339;

/// Who somebody is asked to be.
#[derive(Debug, Args)]
pub(super) struct Somebody {
    /// User name; "" for none
    #[arg(long, value_name = "NAME")]
    user: String,
    /// File with the password, or the user JWT, as its only line; none when absent
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Client identifier
    #[arg(long, value_name = "ID", default_value = "")]
    client_id: String,
}

pub(super) async fn auth(config: &Config, somebody: &Somebody) -> Result<(), Failure> {
    let password = somebody.password_file.as_deref().map(passwd::from_file).transpose()?;
    for (key, value) in Box::pin(test(config, &somebody.user, password.as_ref(), &somebody.client_id)).await? {
        say(&format!("{key:<9} {value}"));
    }
    Ok(())
}

type Lines = Vec<(&'static str, String)>;

async fn test(config: &Config, user: &str, password: Option<&Secret>, client_id: &str) -> Result<Lines, Failure> {
    let ways = options::nats_ways(config).map_err(AppError::from)?;
    let Identified { principal, needs_proof, way } = Box::pin(auth::identify(config, ways, user, password, client_id))
        .await
        .map_err(AppError::from)?
        .map_err(|step| Failure::new(FAILED, format!("refused at step {step}: see docs/security.md")))?;
    let who = match (principal.origin.mode, &*principal.user.name) {
        (AuthMode::None, _) => "anybody: auth.mode is \"none\"".to_owned(),
        (_, "") => "whoever has no user name".to_owned(),
        (_, name) => name.to_owned(),
    };
    let mut lines = vec![("user", who)];
    match way {
        Some(way) => lines.extend(account(&principal, needs_proof, way)),
        None if principal.account.is_empty() => {}
        None => lines.push(("account", principal.account.as_str().to_owned())),
    }
    lines.extend(permissions(&principal));
    Ok(lines)
}

/// What is to be known of a user that is one of an account.
fn account(principal: &Principal, needs_proof: bool, way: Result<(), String>) -> Lines {
    let mut lines = vec![("account", format!("{} ({})", principal.account_name, principal.account.as_str()))];
    lines.extend(principal.user.key.clone().map(|key| ("key", key)));
    if needs_proof {
        lines.push(("proof", "it is no bearer: only with MQTT 5 and the method NATS-NKEY".to_owned()));
    }
    let ends = [("expires", principal.expires), ("account's", principal.account_expires)];
    lines.extend(ends.into_iter().filter_map(|(key, at)| Some((key, rfc3339(u64::try_from(at?.as_millis()).ok()?)))));
    lines.push(("way", way.err().unwrap_or_else(|| "there is one into the account".to_owned())));
    lines
}

fn permissions(principal: &Principal) -> Lines {
    let lists = principal.permissions.lists();
    let mut lines = Lines::new();
    for (key, of) in [("publish", &lists.publish), ("subscribe", &lists.subscribe)] {
        lines.push((key, shown(of, lists.responses.is_some() && key == "publish")));
    }
    if let Some(limits) = lists.responses.map(ResponseLimits::resolved) {
        lines.push(("replies", shown_limits(limits)));
    }
    if !principal.tags.is_empty() {
        lines.push(("tags", principal.tags.join(", ")));
    }
    lines
}

/// `may_reply`: without an allow nothing but replies is allowed.
fn shown(lists: &SubjectLists, may_reply: bool) -> String {
    let allowed = match lists.allowed() {
        [] if may_reply => "only replies".to_owned(),
        [] => "everything".to_owned(),
        allowed => allowed.join(", "),
    };
    match lists.denied() {
        [] => allowed,
        denied => format!("{allowed}; not {}", denied.join(", ")),
    }
}

fn shown_limits(limits: ResponseLimits) -> String {
    let times = if limits.max < 0 { "any number".to_owned() } else { limits.max.to_string() };
    match u64::try_from(limits.ttl_ns) {
        Ok(ns) => format!("{times} within {}", crate::config::Duration(std::time::Duration::from_nanos(ns))),
        Err(_) => times,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    const LIGHT: &str = "$7$10$MDEyMzQ1Njc4OWFi$NrzwjNkm0devHqjYkA7HqLMvRhp+AsLReNF6SvsV8eCNpQ1+C4DLO/N1v2TyhqbZt6lLUVErC2CGca242OSJCA==";

    async fn shown(text: &str, user: &str, password: &str, client_id: &str) -> String {
        let config = Config::assemble(Some(("c.toml", text)), &[], &Overrides::default()).unwrap();
        match test(&config, user, Some(&password.into()), client_id).await {
            Ok(lines) => lines.iter().map(|(key, value)| format!("{key} {value}")).collect::<Vec<_>>().join("; "),
            Err(failure) => format!("{} {}", failure.code, failure.message),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_says_who_that_would_be_or_where_it_fails() {
        let user =
            |more: &str| format!("[auth]\nmode = \"file\"\n[[users]]\nname = \"lamp\"\npassword = \"{LIGHT}\"\n{more}");
        let more = "permissions = { publish = { deny = [\"x\"] }, subscribe = { allow = [\"cmd.{{client-id()}}\"] }, allow_responses = true }\ntags = [\"site:x\"]";
        let file = user(more);
        for (text, name, password, id, expected) in [
            ("", "a", "b", "c", "user anybody: auth.mode is \"none\"; publish everything; subscribe everything"),
            (&user(""), "lamp", "light", "", "user lamp; publish everything; subscribe everything"),
            (
                &file,
                "lamp",
                "light",
                "l.1",
                "user lamp; publish only replies; not x; subscribe cmd.l//1; replies 1 within 2m; tags site:x",
            ),
            (&file, "lamp", "light", "a/b", "1 refused at step template: see docs/security.md"),
            (&file, "lamp", "dark", "", "1 refused at step wrong_password: see docs/security.md"),
            (&file, "other", "light", "", "1 refused at step unknown_user: see docs/security.md"),
            (&file, "", "", "", "1 refused at step no_credentials: see docs/security.md"),
        ] {
            assert_eq!(shown(text, name, password, id).await, expected, "{name} {password} {id}");
        }
    }
}
