//! Lines: a filter, a subject, a queue group, the value that a device chose, then entries of a role, those that begin with `!`
//! of its deny. What is granted may be received but for what is denied inside, and the value is one token. Tests run this as well,
//! see `tests/access/fuzzed.rs`.

use mqtt_access::subject::is_subset;
use mqtt_access::template::{RoleValues, ScopeValues, Token};
use mqtt_access::{PermissionLists, Permissions, SubjectLists};

/// Whether the filter is granted.
pub(crate) fn run(text: &str) -> bool {
    let mut lines = text.split('\n');
    let mut next = || lines.next().unwrap_or_default();
    let (filter, subject, queue, value) = (next(), next(), next(), next());
    let (mut allow, mut deny) = (Vec::new(), Vec::new());
    for line in lines {
        match line.strip_prefix('!') {
            Some(entry) => deny.push(entry),
            None => allow.push(line),
        }
    }
    let lists = SubjectLists::new(&allow, &deny);
    let lists = PermissionLists { publish: lists.clone(), subscribe: lists, responses: None };
    let tags = [format!("x:{value}"), format!("y:{value}")];
    let scope = ScopeValues { name: value, subject: "U", account_name: "A", tags: &tags, ..ScopeValues::default() };
    let _ = scope.expand(&lists).map(Permissions::new);
    let Ok(token) = Token::new(value) else { return false };
    let places = |entry: &str| entry.split('.').count();
    let Ok(lists) = RoleValues::new().with("client-id()", token).expand(&lists) else { return false };
    for (entry, written) in lists.publish.allowed().iter().zip(&allow) {
        assert_eq!(places(entry), places(written), "one value for one place");
    }
    let Ok(permissions) = Permissions::new(lists) else { return false };
    let _ = permissions.is_publish_allowed(subject);
    let mut is_granted = false;
    for queue in [None, Some(queue).filter(|queue| !queue.is_empty())] {
        let verdict = permissions.subscribe(filter, queue);
        is_granted |= verdict.is_granted();
        if verdict.is_granted() && queue.is_none() && is_subset(subject, filter) {
            assert_ne!(permissions.is_receive_allowed(subject, queue), permissions.is_delivery_denied(subject, queue));
        }
    }
    is_granted
}
