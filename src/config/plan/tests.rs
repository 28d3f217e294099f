//! What a change of each key does.

use super::*;
use crate::config::Overrides;

const LIGHT: &str =
    "$7$10$MDEyMzQ1Njc4OWFi$NrzwjNkm0devHqjYkA7HqLMvRhp+AsLReNF6SvsV8eCNpQ1+C4DLO/N1v2TyhqbZt6lLUVErC2CGca242OSJCA==";

fn config(text: &str) -> Config {
    Config::assemble(Some(("c.toml", text)), &[], &Overrides::default()).unwrap()
}

/// What going from one text to the other does.
fn lines(old: &str, new: &str) -> Vec<String> {
    Plan::new(&config(old), &config(new)).lines()
}

fn user(name: &str) -> String {
    format!("[[users]]\nname = \"{name}\"\npassword = \"{LIGHT}\"\n")
}

#[test]
fn the_same_is_nothing_also_when_it_is_written_in_another_way() {
    for (old, new) in [
        ("", ""),
        ("", "# a comment\n[mqtt]\nwindow = 128\n[log]\nlevel = \"info\""),
        ("[drain]\nduration = \"60s\"", "[drain]\nduration = \"1m\""),
        ("[listeners.tcp]\nbind = \":1\"", "[listeners.tcp]\nbind = \"0.0.0.0:1\""),
    ] {
        let plan = Plan::new(&config(old), &config(new));
        assert!(plan.is_empty(), "{old} {new}: {:?}", plan.lines());
    }
}

#[test]
fn values_are_replaced_or_need_a_restart_and_are_named() {
    const RESTART: &str = "stays as it was, this needs a restart";
    for (text, expected) in [
        ("[log]\nlevel = \"debug\"", "log.level: replaced".to_owned()),
        ("[log]\nformat = \"json\"", format!("log.format: {RESTART}")),
        ("[drain]\nserver_reference = \"b:1\"", "drain.server_reference: replaced".to_owned()),
        ("[auth]\nmode = \"file\"\nanonymous = true", "auth.mode: replaced; auth.anonymous: replaced; listener tcp: changed for those who connect from now on; listener ws: changed for those who connect from now on".to_owned()),
        ("[auth]\nmode = \"nats\"", format!("auth.mode: {RESTART}")),
        ("[auth]\ncache = \"1s\"", format!("auth.cache: {RESTART}")),
        ("[auth]\nsession_owner = \"account\"", format!("auth.session_owner: {RESTART}")),
        ("[mqtt]\nwindow = 1\nstrict = true", format!("mqtt.strict: {RESTART}; mqtt.window: {RESTART}")),
        ("[nats]\nurls = [\"nats://b:1\"]", format!("nats.urls: {RESTART}")),
        ("[accounts.T1]\nuser = \"u\"\npassword = \"p\"", format!("accounts.T1.password: {RESTART}; accounts.T1.user: {RESTART}")),
        ("[jetstream.log]\nmax_age = \"1h\"", format!("jetstream.log.max_age: {RESTART}")),
        ("[requests]\ntimeout = \"1s\"", format!("requests.timeout: {RESTART}")),
        ("[events]\nenabled = false", format!("events.enabled: {RESTART}")),
        ("[publish]\nclient_id_header = true", format!("publish.client_id_header: {RESTART}")),
        ("[embedded]\nenabled = true", format!("embedded.enabled: {RESTART}")),
        ("open_trees = [\"$SRV\"]", format!("open_trees: {RESTART}")),
        ("[admin]\nbind = \":1\"", format!("admin.bind: {RESTART}")),
        ("[admin]\nsocket = \"/run/x\"", format!("admin.socket: {RESTART}")),
        ("[admin]\nwatch = true", "admin.watch: replaced".to_owned()),
        ("[limits]\nconnections = 5\nmessage_rate = \"9/s\"", "limits.connections: replaced; limits.message_rate: replaced".to_owned()),
        ("[bans]\nshared = false\nflapping = { count = 5 }", format!("bans.shared: {RESTART}; bans.flapping.count: replaced")),
        ("[[bans.list]]\nuser = \"u\"", "bans.list: replaced".to_owned()),
    ] {
        let (mut got, mut expected): (Vec<String>, Vec<String>) =
            (lines("", text), expected.split("; ").map(str::to_owned).collect());
        got.sort_unstable();
        expected.sort_unstable();
        assert_eq!(got, expected, "{text}");
    }
}

#[test]
fn numbers_of_all_listeners_are_limits_but_that_of_handshakes() {
    let door = "[listeners.tcp.a]\nbind = \":1\"\n";
    for (text, expected) in [
        ("max_connections = 5", "listeners.max_connections: replaced"),
        ("max_connections_per_address = 5", "listeners.max_connections_per_address: replaced"),
        ("max_handshakes = 5", "listeners.max_handshakes: stays as it was, this needs a restart"),
    ] {
        let (old, new) = (config(door), config(&format!("[listeners]\n{text}\n{door}")));
        let plan = Plan::new(&old, &new);
        assert_eq!(plan.lines(), [expected]);
        assert_eq!(Plan::new(&plan.next, &new).replaced.len(), 0, "done once, it is done: {text}");
        assert_eq!(plan.next.limits, new.limits, "{text}");
    }
}

#[test]
fn users_come_and_go() {
    let (one, two) = (user("a"), user("a") + &user("b"));
    assert_eq!(lines(&one, &two), ["users: replaced"]);
    assert_eq!(lines(&two, &one), ["users: replaced"]);
    assert_eq!(Plan::new(&config(&one), &config(&two)).next.users.len(), 2);
}

#[test]
fn what_needs_a_restart_counts_as_it_was_and_the_rest_as_it_is() {
    let old = config("[mqtt]\nwindow = 5");
    let plan = Plan::new(&old, &config("[mqtt]\nwindow = 7\n[log]\nlevel = \"debug\"\nformat = \"json\""));
    assert_eq!((plan.next.mqtt.window, plan.next.log.format, &*plan.next.log.level), (5, old.log.format, "debug"));
    // Asked again, it says what needs a restart still, and nothing else.
    let again = Plan::new(&plan.next, &config("[mqtt]\nwindow = 7\n[log]\nlevel = \"debug\"\nformat = \"json\""));
    assert_eq!((again.replaced.len(), again.restart.join(" ")), (0, "mqtt.window log.format".to_owned()));
}

#[test]
fn what_will_run_is_looked_at_as_a_whole() {
    let door = |more: &str| format!("[listeners.tcp.a]\nbind = \":1\"\n{more}\n");
    let wrong =
        |old: &str, new: &str| Plan::new(&config(old), &config(new)).check().err().map(|error| error.to_string());
    // Each of both is right.
    let said = wrong(
        &format!("{}[mqtt]\nmax_topic_levels = 2", door("")),
        &format!("{}[mqtt]\nmax_topic_levels = 8", door("mount_point = \"plant/hall/\"")),
    );
    assert_eq!(
        said.as_deref(),
        Some(
            "configuration: listeners.tcp: mount_point of a leaves no level of mqtt.max_topic_levels to topics, beside what needs a restart and stays as it was"
        )
    );
    let said = wrong(
        &format!("{}[jetstream]\nsubject_prefix = \"A\"", door("")),
        &format!("{}[jetstream]\nsubject_prefix = \"B\"", door("mount_point = \"A/\"")),
    );
    assert!(said.is_some_and(|said| said.contains("mount_point of a")));
    assert_eq!(wrong(&door(""), &door("mount_point = \"plant/hall/\"")), None);
}

#[test]
fn a_secret_that_is_another_one_in_its_file_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let text = format!("[nats]\ntoken_file = {path:?}");
    std::fs::write(&path, "one\n").unwrap();
    let old = config(&text);
    std::fs::write(&path, "two\n").unwrap();
    let plan = Plan::new(&old, &config(&text));
    assert_eq!(plan.restart, ["nats (what a file has)"]);
    assert!(!plan.lines().concat().contains("two"));
}

#[test]
fn listeners_are_the_same_at_the_same_address() {
    let old = "[listeners.tcp.a]\nbind = \":1\"\n[listeners.tcp.b]\nbind = \":2\"\n";
    let changed = "for those who connect from now on";
    for (new, expected) in [
        (old.to_owned(), vec!["nothing is different".to_owned()]),
        (
            "[listeners.tcp.a]\nbind = \":1\"\n[listeners.tcp.c]\nbind = \":3\"\n".to_owned(),
            vec![
                "listener c: opened on 0.0.0.0:3".to_owned(),
                "listener b: closed on 0.0.0.0:2, and its clients are let go".to_owned(),
            ],
        ),
        // Another name, another kind, another setting: the socket stays.
        (
            "[listeners.tcp.x]\nbind = \":1\"\n[listeners.ws.y]\nbind = \":2\"\n".to_owned(),
            vec![format!("listener x: changed {changed}"), format!("listener y: changed {changed}")],
        ),
        (
            format!("{old}[listeners.tcp.b.auth]\nmode = \"file\"\n{}", user("u")),
            vec![format!("listener b: changed {changed}"), "users: replaced".to_owned()],
        ),
        // It is the same listener, and has moved.
        (
            "[listeners.tcp.a]\nbind = \":1\"\n[listeners.tcp.b]\nbind = \":9\"\n".to_owned(),
            vec![
                "listener b: opened on 0.0.0.0:9".to_owned(),
                "listener b: closed on 0.0.0.0:2, and its clients are let go".to_owned(),
            ],
        ),
        // Off.
        (
            "[listeners.tcp.a]\nbind = \":1\"\n[listeners.tcp.b]\nbind = \"\"\n".to_owned(),
            vec!["listener b: closed on 0.0.0.0:2, and its clients are let go".to_owned()],
        ),
    ] {
        let plan = Plan::new(&config(old), &config(&new));
        assert_eq!(plan.lines(), expected, "{new}");
        assert!(Plan::new(&plan.next, &config(&new)).is_empty(), "done once, it is done: {new}");
    }
}

#[test]
fn a_mode_that_nobody_is_prepared_for_changes_no_listener() {
    let old = config("[listeners.tcp.a]\nbind = \":1\"\n");
    let new = "[listeners.tcp.a]\nbind = \":1\"\nauth = { mode = \"nats\" }\n[listeners.tcp.b]\nbind = \":2\"\nauth = { mode = \"nats\" }\n";
    let plan = Plan::new(&old, &config(new));
    assert_eq!(plan.restart, ["listeners.tcp.a.auth.mode", "listeners.tcp.b.auth.mode"]);
    assert!(plan.listeners.is_empty(), "{:?}", plan.listeners);
    assert_eq!(plan.next.listeners.tcp, old.listeners.tcp);
    let known = config("[auth]\nmode = \"nats\"\n[listeners.tcp.a]\nbind = \":1\"\n");
    assert!(Plan::new(&known, &config(&format!("[auth]\nmode = \"nats\"\n{new}"))).restart.is_empty());
}
