//! User properties ⇄ headers. A property whose name and value a header can carry is a plain header of that name. What
//! plain headers lose is in one more header, `Mqtt-User-Properties`, which is there only when something is lost: the
//! order between different names [MQTT-3.3.2-18], since clients keep headers in hash maps, and names and values that
//! no header can have.
//!
//! That header is a list of `name`, which stands for the next plain header of that name, and `name=value`, which is
//! the property itself, separated by `&`, percent-encoded. Plain headers that are not in the list were added by
//! somebody on the way, and follow.

use std::collections::{HashMap, VecDeque};

use bytestring::ByteString;
use mqtt_codec::UserProperties;

use crate::header_names::{Headers, has_prefix, is_header_name, is_header_value, name};
use crate::percent;

/// Whether a name belongs to NATS, its buckets or us, so that no user property is written under it: a server or a reader would
/// do what it says. Clients differ in how they treat case, so it does not count.
pub(crate) fn is_reserved(name: &str) -> bool {
    ["Nats-", "Mqtt-", "KV-"].iter().any(|prefix| has_prefix(name, prefix))
        || ["Content-Type", "Status", "Description"].iter().any(|reserved| name.eq_ignore_ascii_case(reserved))
}

fn is_plain(name: &str, value: &str) -> bool {
    is_header_name(name) && !is_reserved(name) && is_header_value(value)
}

/// The id that the publisher gives its message: the first user property `Nats-Msg-Id` that is not empty.
#[must_use]
pub fn own_message_id(properties: &UserProperties) -> Option<&str> {
    properties.iter().find(|(name, value)| name == name::NATS_MSG_ID && !value.is_empty()).map(|(_, value)| &**value)
}

/// Appends the headers of user properties.
pub(crate) fn push(headers: &mut Headers, properties: &UserProperties) {
    let first = properties.first().map(|(name, _)| name);
    let needs_list = properties.iter().any(|(name, value)| Some(name) != first || !is_plain(name, value));
    let mut list = String::new();
    for (index, (name, value)) in properties.iter().enumerate() {
        let is_plain = is_plain(name, value);
        if is_plain {
            headers.push((name.clone(), value.clone()));
        }
        if needs_list {
            if index > 0 {
                list.push('&');
            }
            percent::push_text(&mut list, name, b"&=");
            if !is_plain {
                list.push('=');
                percent::push_text(&mut list, value, b"&");
            }
        }
    }
    if needs_list {
        headers.push((ByteString::from_static(name::USER_PROPERTIES), list.into()));
    }
}

/// The user properties in plain headers, in the order they came, and the list when there is one.
pub(crate) fn read(mut plain: UserProperties, list: Option<&str>) -> UserProperties {
    let Some(list) = list else {
        return plain;
    };
    let mut by_name: HashMap<ByteString, VecDeque<usize>> = HashMap::with_capacity(plain.len());
    for (index, (name, _)) in plain.iter().enumerate() {
        by_name.entry(name.clone()).or_default().push_back(index);
    }
    let mut used = vec![false; plain.len()];
    let mut properties = UserProperties::with_capacity(plain.len());
    for entry in list.split('&') {
        let (name, value) = match entry.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (entry, None),
        };
        let Some(name) = percent::decode_text(name) else { continue };
        if let Some(value) = value {
            // The header that de-duplicates is made of that property.
            if let Some(index) =
                by_name.get(name.as_str()).filter(|_| name == name::NATS_MSG_ID).and_then(|at| at.front())
            {
                used[*index] = true;
            }
            properties.extend(percent::decode_text(value).map(|value| (name.into(), value.into())));
        } else if let Some(index) = by_name.get_mut(name.as_str()).and_then(VecDeque::pop_front) {
            used[index] = true;
            properties.push(std::mem::take(&mut plain[index]));
        }
    }
    let added = plain.into_iter().zip(used).filter(|(_, used)| !used).map(|(property, _)| property);
    properties.extend(added);
    properties
}
