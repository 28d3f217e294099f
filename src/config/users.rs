//! `[[users]]`, here and in a file of their own: who may connect in mode `file`, and what each may do. Everything that one of
//! them says is understood here or an error: what was meant to forbid is never left out.

use std::collections::HashSet;
use std::io::Read;
use std::path::Path;

use mqtt_access::password::{HashError, PasswordHash};
use mqtt_access::template::{NotAToken, RoleValues, TemplateError, Token};
use mqtt_access::{CertificateIdentity, DeviceRules, PermissionLists, Permissions, ResponseLimits, SubjectLists};
use mqtt_codec::TopicName;
use serde::de::value::MapAccessDeserializer;
use serde::{Deserialize, Deserializer, de};

use super::tree::{self, Node, Origin};
use super::{ConfigError, Duration};

/// Bytes of a file of users: about 50,000 of them.
pub const USERS_FILE_SIZE_MAX: u64 = 16 << 20;

/// A client id that stands for any, when it is looked whether permissions make sense.
const ANY_CLIENT_ID: &str = "any";

/// What a template can say.
const OPERATIONS: &str = "{{client-id()}}, {{name()}} and {{tag(KEY)}}";

/// One of `[[users]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct UserConfig {
    /// Its name; that of nobody is for those who connect without one.
    pub name: String,
    /// The hash of its password.
    #[serde(default, deserialize_with = "hash")]
    pub password: Option<PasswordHash>,
    /// Its public NKey: with the seed a client proves to be this user, by the method `NATS-NKEY` of MQTT 5.
    #[serde(default, deserialize_with = "nkey")]
    pub nkey: Option<String>,
    /// The identity that its client certificate has, as `dns:lamp.example`.
    #[serde(default, deserialize_with = "identity")]
    pub certificate: Option<CertificateIdentity>,
    /// Its account: one of `[accounts]`, or the public NKey of one. Default: that of the listener, or of `[nats]`.
    #[serde(default)]
    pub account: String,
    /// What it may do. Default: everything.
    #[serde(default)]
    pub permissions: PermissionsConfig,
    /// Its tags, as `site:berlin` and `mqtt:max-qos=1`.
    #[serde(default)]
    pub tags: Vec<String>,
}

/// `permissions` of a user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PermissionsConfig {
    /// Subjects that it may publish to.
    pub publish: SubjectsConfig,
    /// Subjects that it may subscribe to, each alone or with the name of a queue group behind a space.
    pub subscribe: SubjectsConfig,
    /// It may reply to what it is asked: `true`, or how often and for how long.
    #[serde(deserialize_with = "responses")]
    pub allow_responses: Option<ResponseLimits>,
}

impl PermissionsConfig {
    /// As NATS has them.
    #[must_use]
    pub fn lists(&self) -> PermissionLists {
        PermissionLists {
            publish: self.publish.lists(),
            subscribe: self.subscribe.lists(),
            responses: self.allow_responses,
        }
    }
}

/// What of one direction is allowed and denied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SubjectsConfig {
    /// Nothing else is allowed. Without it everything is.
    pub allow: Option<Vec<String>>,
    /// Denied, whatever is allowed.
    pub deny: Option<Vec<String>>,
}

impl SubjectsConfig {
    fn lists(&self) -> SubjectLists {
        SubjectLists { allow: self.allow.clone(), deny: self.deny.clone().filter(|deny| !deny.is_empty()) }
    }
}

impl UserConfig {
    /// What its permissions are for a client id. None can stand in a subject that is empty, so what there is for that one is the
    /// same for all.
    ///
    /// # Errors
    /// The client id is needed and cannot stand in a subject, or what a template says cannot be had.
    pub fn permissions_for(&self, client_id: &str) -> Result<PermissionLists, TemplateError> {
        let mut values = RoleValues::new().with_tags(&self.tags);
        for (operation, text) in [("client-id()", client_id), ("name()", &self.name)] {
            // What is no token has no value, which refuses whoever needs it.
            if let Ok(token) = token_of_level(text) {
                values = values.with(operation, token);
            }
        }
        values.expand(&self.permissions.lists())
    }

    /// What is wrong with it, and with which of its keys.
    fn check(&self) -> Result<(), (&'static str, String)> {
        let has_proof = self.password.is_some() || self.nkey.is_some() || self.certificate.is_some();
        if !has_proof && !self.name.is_empty() {
            let message = "a user needs a password, whose hash `nats-mqtt passwd` makes, or an nkey, or a certificate: write one of them";
            return Err(("", message.to_owned()));
        }
        if self.nkey.is_some() && self.name.is_empty() {
            return Err(("nkey", "who has a key has a name: give the user one".to_owned()));
        }
        if self.certificate.is_some() && self.name.is_empty() {
            return Err(("certificate", "who has a certificate has a name: give the user one".to_owned()));
        }
        DeviceRules::new(&self.tags).map_err(|error| ("tags", tag_help(&error.tag)))?;
        for lists in [&self.permissions.publish, &self.permissions.subscribe] {
            if lists.allow.as_ref().is_some_and(Vec::is_empty) {
                let message =
                    "an empty allow has no one meaning: leave it out to allow everything, or write deny = [\">\"]";
                return Err(("permissions", message.to_owned()));
            }
        }
        let lists = self.permissions_for(ANY_CLIENT_ID).map_err(|error| ("permissions", template_help(&error)))?;
        let permissions = Permissions::new(lists)
            .map_err(|error| ("permissions", format!("{error}: write a subject, as in \"dev.lamp.>\"")))?;
        match permissions.dropped().first() {
            Some(entry) => Err(("permissions", format!("{entry:?} is not a subject: write one, as in \"dev.lamp.>\""))),
            None => Ok(()),
        }
    }
}

/// What a name or client id is where one level of a topic stands: `esp.1` is `esp//1`.
///
/// # Errors
/// It is empty, or cannot be one level.
pub fn token_of_level(text: &str) -> Result<Token, NotAToken> {
    // Below something, as it stands in a permission: a level alone has other rules.
    let topic = TopicName::new(format!("x/{text}")).map_err(|_| NotAToken)?;
    let subject = proto_map::subject_of(&topic).map_err(|_| NotAToken)?;
    if text.is_empty() || text.contains('/') {
        return Err(NotAToken);
    }
    Token::new(subject.as_str().strip_prefix("x.").unwrap_or_default())
}

fn template_help(error: &TemplateError) -> String {
    match error {
        TemplateError::Missing(operation) if operation.starts_with("tag(") => {
            format!(
                "the user has no tag for {{{{{operation}}}}}: write one, as KEY:VALUE, whose value can stand in a subject"
            )
        }
        TemplateError::Missing(operation) if operation == "name()" => {
            "the name of the user cannot stand in a subject: leave {{name()}} out or give the user another name"
                .to_owned()
        }
        TemplateError::Missing(operation) | TemplateError::Undefined(operation) => {
            format!("there is no {{{{{operation}}}}}: possible are {OPERATIONS}")
        }
        TemplateError::InvalidSubject(entry) => format!("{entry:?} is not a subject: write one, as in \"dev.lamp.>\""),
        TemplateError::TooMany => error.to_string(),
    }
}

fn tag_help(tag: &str) -> String {
    format!(
        "{tag:?} is not what this tag can say: possible are mqtt:max-qos=0|1, mqtt:retain=deny, mqtt:share=deny, mqtt:will=deny, mqtt:session-expiry=SECONDS, mqtt:client-id=name, mqtt:msg-rate=NUMBER, mqtt:byte-rate=BYTES and mqtt:connections=NUMBER"
    )
}

/// A file of users.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct UsersFile {
    users: Vec<UserConfig>,
}

/// Reads a file of users. `others` are known already.
///
/// # Errors
/// It cannot be read, is too large, or something in it is wrong; the message is one line.
pub fn read_users(path: &Path, others: &[UserConfig]) -> Result<Vec<UserConfig>, ConfigError> {
    let file = path.display().to_string();
    let text =
        read_bounded(path, USERS_FILE_SIZE_MAX).map_err(|source| ConfigError::Users { file: file.clone(), source })?;
    let root = tree::parse(&file, &text, &|name| std::env::var(name).ok())?;
    let UsersFile { users } = UsersFile::deserialize(&root)?;
    check(&users, &root, others)?;
    Ok(users)
}

/// Reads a file that may have so many bytes.
pub(super) fn read_bounded(path: &Path, size_max: u64) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(size_max + 1).read_to_string(&mut text)?;
    if text.len() as u64 > size_max {
        let message = format!("it has more than {size_max} bytes");
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, message));
    }
    Ok(text)
}

/// Looks whether there are users, and whether those of no name are wanted. Answers what is wrong, and what to do.
///
/// # Errors
/// Nobody would get in, or somebody in vain.
pub fn check_names<'a>(mut users: impl Iterator<Item = &'a UserConfig>, anonymous: bool) -> Result<(), String> {
    if anonymous {
        return Ok(());
    }
    let Some(first) = users.next() else {
        return Err(
            "mode \"file\" without users lets nobody in: write [[users]], here or in auth.users_file".to_owned()
        );
    };
    if [first].into_iter().chain(users).any(|user| user.name.is_empty()) {
        let message =
            "a user without a name is whoever connects without one: set auth.anonymous = true, or name the user";
        return Err(message.to_owned());
    }
    Ok(())
}

/// Looks whether users are right, each by itself and beside each other.
pub(super) fn check(users: &[UserConfig], root: &Node, others: &[UserConfig]) -> Result<(), ConfigError> {
    let mut names: HashSet<&str> = others.iter().map(|user| &*user.name).collect();
    let mut keys: HashSet<&str> = others.iter().filter_map(|user| user.nkey.as_deref()).collect();
    let mut certificates: HashSet<_> = others.iter().filter_map(|user| user.certificate.as_ref()).collect();
    for (index, user) in users.iter().enumerate() {
        let invalid = |key: &str, message: String| {
            let user = format!("users[{index}]");
            let path = if key.is_empty() { user.clone() } else { format!("{user}.{key}") };
            let origin = [&*path, &*user, "users"].iter().find_map(|path| root.origin_of(path));
            ConfigError::invalid(origin.unwrap_or(&Origin::Default), &path, message)
        };
        if !names.insert(&user.name) {
            return Err(invalid("name", format!("there is a user {:?} already: leave one of the two out", user.name)));
        }
        if let Some(key) = user.nkey.as_deref().filter(|key| !keys.insert(key)) {
            return Err(invalid("nkey", format!("another user has the key {key} already: give each its own")));
        }
        if let Some(identity) = user.certificate.as_ref().filter(|identity| !certificates.insert(*identity)) {
            return Err(invalid("certificate", format!("another user has {identity} already")));
        }
        user.check().map_err(|(key, message)| invalid(key, message))?;
    }
    Ok(())
}

fn hash<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PasswordHash>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(|error| {
        de::Error::custom(match error {
            HashError::Malformed => "this is not the hash of a password (argon2id, bcrypt or mosquitto's $7$): make one with `nats-mqtt passwd`",
            HashError::TooCostly => "this hash costs more than a login may: make another one with `nats-mqtt passwd`",
        })
    })
}

fn nkey<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match nkeys::KeyPair::from_public_key(&text).map(|key| key.key_pair_type()) {
        Ok(nkeys::KeyPairType::User) => Ok(Some(text)),
        // It may be a seed, which no log is to have.
        _ => Err(de::Error::custom(
            "this is not the public NKey of a user: it begins with U, as `nsc generate nkey --user` shows it",
        )),
    }
}

fn identity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<CertificateIdentity>, D::Error> {
    String::deserialize(deserializer)?.parse().map(Some).map_err(de::Error::custom)
}

/// `allow_responses` as a table.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ResponsesConfig {
    /// Replies to one request; 0 is any number.
    max: u32,
    /// For how long; 0 is for ever.
    expires: Duration,
}

impl Default for ResponsesConfig {
    fn default() -> Self {
        Self { max: 1, expires: Duration::from_secs(120) }
    }
}

impl From<ResponsesConfig> for ResponseLimits {
    fn from(config: ResponsesConfig) -> Self {
        let expires = i64::try_from(config.expires.get().as_nanos()).unwrap_or(i64::MAX);
        // What is any number here is -1 there.
        let some = |limit: i64| if limit == 0 { -1 } else { limit };
        Self { max: some(config.max.into()), ttl_ns: some(expires) }
    }
}

fn responses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ResponseLimits>, D::Error> {
    struct Visitor;
    impl<'de> de::Visitor<'de> for Visitor {
        type Value = Option<ResponseLimits>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("true, false, or a table as { max = 1, expires = \"2m\" }")
        }

        fn visit_bool<E: de::Error>(self, is_allowed: bool) -> Result<Self::Value, E> {
            Ok(is_allowed.then(|| ResponsesConfig::default().into()))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            match text.trim().parse() {
                Ok(is_allowed) => self.visit_bool(is_allowed),
                Err(_) => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
            }
        }

        fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            ResponsesConfig::deserialize(MapAccessDeserializer::new(map)).map(|config| Some(config.into()))
        }
    }
    deserializer.deserialize_any(Visitor)
}

#[cfg(test)]
mod tests;
