//! Templates of scopes as nats-server has them, and those of our own roles.

use mqtt_access::template::{EXPANSIONS_MAX, RoleValues, ScopeValues, TemplateError, Token};
use mqtt_access::{PermissionLists, SubjectLists};

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| String::from(*text)).collect()
}

fn publishing(allow: &[&str], deny: &[&str]) -> PermissionLists {
    PermissionLists { publish: SubjectLists::new(allow, deny), ..PermissionLists::default() }
}

/// The allow and deny that lists become for a user with a name, and tags.
fn scope(
    name: &str,
    tags: &[&str],
    allow: &[&str],
    deny: &[&str],
) -> Result<(Vec<String>, Vec<String>), TemplateError> {
    let (tags, account_tags) = (strings(tags), strings(&["acc:acme", "region:eu", "region:us"]));
    let values = ScopeValues {
        name,
        subject: "UABC",
        account_name: "Tenant",
        account_subject: "AXYZ",
        tags: &tags,
        account_tags: &account_tags,
    };
    let publish = values.expand(&publishing(allow, deny))?;
    let subscribe = PermissionLists { subscribe: SubjectLists::new(allow, deny), ..PermissionLists::default() };
    assert_eq!(values.expand(&subscribe)?.subscribe, publish.publish, "both directions are the same");
    Ok((publish.publish.allowed().to_vec(), publish.publish.denied().to_vec()))
}

#[test]
fn scopes() {
    type Row<'a> = (&'a str, &'a [&'a str], &'a [&'a str], &'a [&'a str], &'a [&'a str], &'a [&'a str]);
    /// Name, tags, allow, deny, and what allow and deny become.
    const TABLE: &[Row<'_>] = &[
        ("lamp", &[], &["dev.{{name()}}.>"], &[], &["dev.lamp.>"], &[]),
        ("lamp", &[], &["dev.{{ NAME() }}"], &[], &["dev.lamp"], &[]),
        ("lamp", &[], &["{{subject()}}.{{account-name()}}.{{account-subject()}}"], &[], &["UABC.Tenant.AXYZ"], &[]),
        ("lamp", &[], &["{{name()}}.{{name()}}"], &["{{name()}}.x"], &["lamp.lamp"], &["lamp.x"]),
        // A name is the account owner's: wildcards and several tokens pass, as they do there.
        ("*", &[], &["dev.{{name()}}.>"], &[], &["dev.*.>"], &[]),
        ("x.y", &[], &["dev.{{name()}}"], &[], &["dev.x.y"], &[]),
        (">", &[], &["dev.{{name()}}.a", "ok"], &[], &["ok"], &[]),
        (">", &[], &["dev.{{name()}}"], &[], &["dev.>"], &[]),
        ("a b", &[], &["dev.{{name()}}", "ok"], &[], &["ok"], &[]),
        ("", &[], &["dev.{{name()}}", "ok"], &[], &["ok"], &[]),
        // When all allows are gone everything is denied, beside what is denied already.
        ("a b", &[], &["dev.{{name()}}"], &[], &[], &[">"]),
        ("a b", &[], &["dev.{{name()}}"], &["x"], &[], &["x", ">"]),
        ("lamp", &["site:berlin"], &["{{tag(site)}}.>"], &[], &["berlin.>"], &[]),
        ("lamp", &["site:a", "site:b"], &["{{tag(site)}}.x"], &["{{tag(site)}}.y"], &["a.x", "b.x"], &["a.y", "b.y"]),
        ("lamp", &["s:a", "s:b"], &["{{tag(s)}}.{{account-tag(region)}}"], &[], &["a.eu", "a.us", "b.eu", "b.us"], &[]),
        ("lamp", &["s:a", "s:b"], &["{{tag(s)}}.{{tag(s)}}"], &[], &["a.a", "a.a", "b.b", "b.b"], &[]),
        ("lamp", &["s:a"], &["{{tag(s)}}.{{name()}}.{{account-tag(acc)}}"], &[], &["a.lamp.acme"], &[]),
        ("lamp", &["s:a:b"], &["{{tag(s)}}"], &[], &["a:b"], &[]),
        ("lamp", &["site:a"], &["{{tag(SITE)}}"], &[], &["a"], &[]),
        ("lamp", &["SITE:a"], &["{{tag(site)}}", "ok"], &[], &["ok"], &[]),
        ("lamp", &["site:"], &["x.{{tag(site)}}", "x{{tag(site)}}"], &[], &["x"], &[]),
        ("lamp", &["site"], &["{{tag(site)}}", "ok"], &[], &["ok"], &[]),
        ("lamp", &[], &["{{tag(site)}}.>", "ok"], &[], &["ok"], &[]),
        ("lamp", &[], &["{{tag(site)}}.>"], &[], &[], &[">"]),
        ("lamp", &["s:a b", "s:c"], &["{{tag(s)}}.>"], &[], &["c.>"], &[]),
        ("lamp", &["tag(s:a"], &["{{TAG(s)}}"], &[], &["a"], &[]),
        // Without a placeholder in it a list is left alone; with one an entry with a queue is no subject.
        ("lamp", &[], &["jobs.> w"], &[], &["jobs.> w"], &[]),
        ("lamp", &[], &["jobs.> w", "{{name()}}"], &[], &["lamp"], &[]),
        ("lamp", &[], &["a b c"], &["a b c"], &["a b c"], &["a b c"]),
        // What a value brings along is a placeholder again, when it comes later in the entry.
        ("{{tag(s)}}", &["s:a"], &["{{name()}}.{{tag(s)}}"], &[], &["a.a"], &[]),
        ("{{subject()}}", &[], &["{{name()}}"], &[], &["{{subject()}}"], &[]),
        ("lamp", &[], &["{{}}", "{{name()}"], &["x"], &["{{}}", "{{name()}"], &["x"]),
    ];
    for (name, tags, allow, deny, allowed, denied) in TABLE {
        let expected = Ok((strings(allowed), strings(denied)));
        assert_eq!(scope(name, tags, allow, deny), expected, "{name} {tags:?} {allow:?} {deny:?}");
    }
}

#[test]
fn scopes_that_refuse_a_user() {
    for (name, tags, allow, deny, expected) in [
        ("lamp", &[][..], &["{{nam()}}"][..], &[][..], TemplateError::Undefined("nam()".into())),
        ("lamp", &[], &["{{tag(x}}"], &[], TemplateError::Undefined("tag(x".into())),
        ("lamp", &[], &["{{{name()}}"], &[], TemplateError::Undefined("{name()".into())),
        ("lamp", &[], &["{{client-id()}}"], &[], TemplateError::Undefined("client-id()".into())),
        ("lamp", &[], &[], &["{{tag(Site)}}"], TemplateError::Missing("Site".into())),
        ("lamp", &[], &[], &["{{account-tag(none)}}"], TemplateError::Missing("none".into())),
        ("a b", &[], &[], &["{{name()}}"], TemplateError::InvalidSubject("{{name()}}".into())),
        ("lamp", &["s:ok", "s:a b"], &[], &["{{tag(s)}}"], TemplateError::InvalidSubject("{{tag(s)}}".into())),
        ("lamp", &[], &[], &["{{name()}}", "x q"], TemplateError::InvalidSubject("x q".into())),
    ] {
        assert_eq!(scope(name, tags, allow, deny), Err(expected), "{name} {tags:?} {allow:?} {deny:?}");
    }
}

#[test]
fn as_many_expansions_as_nats_server_has() {
    let tags: Vec<String> = (0..64).map(|index| format!("t:{index}")).collect();
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    let (allow, _) = scope("lamp", &tags, &["{{tag(t)}}.{{tag(t)}}"], &[]).unwrap();
    assert_eq!(allow.len(), EXPANSIONS_MAX);
    assert_eq!(
        scope("lamp", &tags, &["{{tag(t)}}.{{tag(t)}}.{{account-tag(region)}}"], &[]),
        Err(TemplateError::TooMany)
    );
    assert_eq!(
        scope("lamp", &tags, &["{{tag(t)}}.{{tag(t)}}", "{{account-tag(acc)}}"], &[]),
        Err(TemplateError::TooMany)
    );
    assert_eq!(scope("lamp", &tags, &["{{tag(t)}}.{{tag(t)}}", "x"], &[]).unwrap().0.len(), EXPANSIONS_MAX + 1);
    // However many there are, nothing is multiplied out before it is counted.
    let twenty = "{{tag(t)}}.".repeat(20) + "x";
    assert_eq!(scope("lamp", &tags, &[&twenty], &[]), Err(TemplateError::TooMany));
}

#[test]
fn values_that_bring_each_other_along_do_not_grow_without_bound() {
    let name = "{{subject()}}".repeat(100);
    let entry = "{{name()}}".repeat(1000);
    let subject = "S".repeat(1000);
    let values = ScopeValues { name: &name, subject: &subject, ..ScopeValues::default() };
    let entry = format!("{entry}{{{{subject()}}}}");
    assert_eq!(values.expand(&publishing(&[&entry], &[])), Err(TemplateError::InvalidSubject(entry)));
}

fn token(text: &str) -> Token {
    Token::new(text).unwrap()
}

#[test]
fn roles() {
    let values = RoleValues::new()
        .with("client-id()", token("esp//1"))
        .with("name()", token("{{client-id()}}"))
        .with("claim.site", token("a"))
        .with("claim.site", token("b"))
        .with_tags(&strings(&["floor:1", "floor:2", "bad:*", "worse:a.b"]));
    type Row<'a> = (&'a [&'a str], Result<&'a [&'a str], TemplateError>);
    let missing = |name: &str| Err(TemplateError::Missing(name.into()));
    let table: &[Row<'_>] = &[
        (&["dev.{{client-id()}}.>"], Ok(&["dev.esp//1.>"])),
        (&["dev.x{{ client-id() }}y"], Ok(&["dev.xesp//1y"])),
        // A value is never read again.
        (&["{{name()}}.{{client-id()}}"], Ok(&["{{client-id()}}.esp//1"])),
        (&["{{claim.site}}.{{tag(floor)}}"], Ok(&["a.1", "a.2", "b.1", "b.2"])),
        (&["{{claim.site}}.{{claim.site}}"], Ok(&["a.a", "b.b"])),
        (&["jobs.{{client-id()}} q", "jobs.> w"], Ok(&["jobs.esp//1 q", "jobs.> w"])),
        (&["plain"], Ok(&["plain"])),
        (&["{{sub}}"], missing("sub")),
        (&["{{tag(bad)}}", "ok"], missing("tag(bad)")),
        (&["{{tag(worse)}}"], missing("tag(worse)")),
        (&["{{Name()}}"], missing("Name()")),
        (&["a..{{client-id()}}"], Err(TemplateError::InvalidSubject("a..{{client-id()}}".into()))),
        (&["a..b"], Err(TemplateError::InvalidSubject("a..b".into()))),
    ];
    for (entries, expected) in table {
        for lists in [SubjectLists::new(entries, &[]), SubjectLists::new(&[], entries)] {
            let expanded = values.expand(&PermissionLists { publish: lists, ..PermissionLists::default() });
            let expanded = expanded.map(|lists| [lists.publish.allowed(), lists.publish.denied()].concat());
            assert_eq!(expanded, expected.clone().map(strings), "{entries:?}");
        }
    }
}

/// A placeholder may stand inside a token; whatever the value, it stays one token.
#[test]
fn a_value_is_never_a_wildcard_or_a_second_token() {
    for value in ["*x", "x*", ">>", "**", "a/b", "ä", "{{name()}}", "$SYS", "%20"] {
        let values = RoleValues::new().with("client-id()", token(value));
        for entry in
            ["{{client-id()}}", "dev.{{client-id()}}.x", "dev.a{{client-id()}}", "{{client-id()}}{{client-id()}}"]
        {
            let expanded = values.expand(&publishing(&[entry], &[])).unwrap();
            let [subject] = expanded.publish.allowed() else { panic!("one entry") };
            assert_eq!(subject.split('.').count(), entry.replace("client-id()", "").split('.').count());
            assert!(subject.split('.').all(|token| !matches!(token, "*" | ">")), "{subject}");
        }
    }
}
