//! What a user writes, and what comes of it.

use super::*;

fn load(text: &str, environment: &[(&str, &str)], overrides: &Overrides) -> Result<Config, String> {
    let environment: Vec<_> =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Config::assemble(Some(("c.toml", text)), &environment, overrides).map_err(|error| error.to_string())
}

fn from_text(text: &str) -> Result<Config, String> {
    load(text, &[], &Overrides::default())
}

fn binds(config: &Config) -> Vec<String> {
    let shown = |listener: &ListenerConfig| {
        format!("{}={}", listener.name, listener.bind.as_ref().map_or("off".into(), BindAddr::to_string))
    };
    config.listeners.all().map(shown).collect()
}

#[test]
fn nothing_written_gives_the_defaults() {
    for config in [Config::assemble(None, &[], &Overrides::default()).unwrap(), from_text("").unwrap()] {
        assert_eq!(binds(&config), ["tcp=0.0.0.0:1883", "ws=0.0.0.0:8083"]);
        assert_eq!(config.listeners.ws[0].paths, ["/mqtt", "/"]);
        assert_eq!(config.admin.bind.unwrap().to_string(), "127.0.0.1:8228");
        assert_eq!(config.nats.urls, ["nats://127.0.0.1:4222"]);
        assert_eq!(config.nats.auth(), NatsAuth::Anonymous);
        assert_eq!(config.mqtt.receive_maximum, 128);
        assert_eq!(config.mqtt.qos0_buffer, ByteSize(1 << 20));
        assert_eq!(config.jetstream.log.max_bytes, ByteSize(4 << 30));
        assert_eq!(config.jetstream.log.max_age, Duration::from_secs(86_400));
        assert_eq!(config.jetstream.subject_prefix, "$NMQ");
        assert!(config.open_trees.is_empty());
        assert_eq!(config.mqtt.root_wildcard, RootWildcard::Full);
    }
}

#[test]
fn every_table_of_the_file_is_read() {
    let config = from_text(
        r#"
        open_trees = ["$SRV"]
        [nats]
        urls = ["nats://a:4222", "tls://b:4222"]
        user = "u"
        password = "p"
        [mqtt]
        max_packet_size = "256KiB"
        connect_timeout = "1m 30s"
        max_session_expiry = "30d"
        on_denied_publish = "disconnect"
        overlapping = "each"
        discard = "newest"
        strict = true
        root_wildcard = ["home", "sensors/hall/#"]
        [jetstream]
        prefix = "EDGE"
        replicas = 3
        log = { max_age = "1h", max_bytes = "1GB" }
        [log]
        format = "json"
        level = "info,nats_mqtt=debug"
        [embedded]
        port = 0
        "#,
    )
    .unwrap();
    assert_eq!(config.open_trees, ["$SRV"]);
    assert_eq!(config.nats.auth(), NatsAuth::Password { user: "u".into(), password: Secret::new("p".into()) });
    assert_eq!(config.mqtt.max_packet_size, ByteSize(256 * 1024));
    assert_eq!(config.mqtt.connect_timeout, Duration::from_secs(90));
    assert_eq!(config.mqtt.max_session_expiry, Duration::from_secs(30 * 86_400));
    assert_eq!(config.mqtt.on_denied_publish, OnDeniedPublish::Disconnect);
    assert_eq!(config.mqtt.overlapping, Overlapping::Each);
    assert_eq!((config.mqtt.session_queue, config.mqtt.discard), (1_000, Discard::Newest));
    assert_eq!(config.mqtt.root_wildcard, RootWildcard::Trees(vec!["home".to_owned(), "sensors/hall/#".to_owned()]));
    assert_eq!(config.jetstream.log.max_bytes, ByteSize(1_000_000_000));
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.embedded.port, 0);
}

#[test]
fn what_a_listener_says_of_auth_stands_in_place_of_what_is_said_for_all() {
    let auth = |text: &str, environment: &[(&str, &str)]| {
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let config = Config::assemble(Some(("c.toml", text)), &environment, &Overrides::default()).unwrap();
        let shown = |listener: &ListenerConfig| {
            let ListenerAuth { mode, account, certificate } = ListenerAuth::new(&config.auth, &listener.auth);
            format!("{} {} {} {certificate:?}", listener.name, mode.as_str(), account.unwrap_or_default())
        };
        config.listeners.all().map(shown).collect::<Vec<_>>()
    };
    let all = "[auth]\ncertificate = \"bind\"\n";
    let text = "[listeners.tcp.field]\nauth = { account = \"T1\", certificate = \"enough\" }\n[listeners.ws.auth]\nmode = \"none\"";
    assert_eq!(auth(&format!("{all}{text}"), &[]), ["field none T1 Enough", "ws none  Bind"]);
    let by_environment = [("NATS_MQTT__LISTENERS__TCP__AUTH__ACCOUNT", "T2")];
    assert_eq!(auth(all, &by_environment), ["tcp none T2 Bind", "ws none  Bind"]);
}

#[test]
fn a_listener_says_which_versions_it_speaks_and_how_strictly() {
    let of = |text: &str, environment: &[(&str, &str)]| {
        let config = load(text, environment, &Overrides::default()).unwrap();
        let listener = &config.listeners.tcp[0];
        (listener.versions.clone(), listener.strict)
    };
    use MqttVersion::{V5, V31, V311};
    assert_eq!(of("", &[]), (vec![V31, V311, V5], None));
    assert_eq!(of("[listeners.tcp.field]\nversions = [\"5\"]\nstrict = true", &[]), (vec![V5], Some(true)));
    let environment =
        [("NATS_MQTT__LISTENERS__TCP__VERSIONS", "3.1.1, 5"), ("NATS_MQTT__LISTENERS__TCP__STRICT", "false")];
    assert_eq!(of("", &environment), (vec![V311, V5], Some(false)));
}

#[test]
fn what_is_wrong_with_a_listener_names_its_line() {
    for (text, error) in [
        (
            "[listeners.tcp.tls]\ncert_file = \"x\"",
            "c.toml:1: listeners.tcp: tls of tcp: key_file is missing: a certificate and its key are needed, each a file of PEM",
        ),
        (
            "[[listeners.tcp]]\nname = \"a\"\n[[listeners.tcp]]\nname = \"a\"\nauth = { account = \"T1\" }",
            "c.toml:1: listeners.tcp: two listeners are called \"a\", and their auth differs: name them apart",
        ),
        (
            "[listeners.tcp.field]\nmount_point = \"site7\"",
            "c.toml:1: listeners.tcp: mount_point of field: \"site7\" has no \"/\" at its end, where its last level ends: write \"site7/\"",
        ),
        (
            "[mqtt]\nmax_topic_levels = 2\n[listeners.ws.web]\nmount_point = \"a/b/\"",
            "c.toml:3: listeners.ws: mount_point of web leaves no level of mqtt.max_topic_levels to topics",
        ),
        (
            "[listeners.ws.web]\nversions = []",
            "c.toml:1: listeners.ws: web speaks no version of MQTT: write versions = [\"3.1\", \"3.1.1\", \"5\"], or some of them",
        ),
        (
            "[listeners.ws.web]\nversions = [\"3.1.1\", \"4\"]",
            "c.toml:2: listeners.ws.web.versions[1]: \"4\" is not known: did you mean \"5\"?",
        ),
        (
            "[listeners.ws.web]\nauth = { mode = \"file\" }",
            "c.toml:1: listeners.ws: mode \"file\" without users lets nobody in: write [[users]], here or in auth.users_file",
        ),
    ] {
        let result = Config::assemble(Some(("c.toml", text)), &[], &Overrides::default());
        assert_eq!(result.unwrap_err().to_string(), error);
    }
}

#[test]
fn what_tls_of_a_listener_leaves_out_is_said() {
    let said = |keys: &str| {
        let text = format!("[listeners.ws.web.tls]\ncert_file = \"c\"\nkey_file = \"k\"\n{keys}");
        let result = Config::assemble(Some(("c.toml", &text)), &[], &Overrides::default());
        result.err().map_or(String::new(), |error| error.to_string())
    };
    let sni = |keys: &str| said(&format!("[[listeners.ws.web.tls.sni]]\ncert_file = \"c\"\nkey_file = \"k\"\n{keys}"));
    for keys in ["", "ca_file = \"a\"\nclient_certificate = \"required\"\ncrl_file = \"r\""] {
        assert_eq!(said(keys), "");
    }
    assert_eq!(sni("names = [\"t2.example\", \"*.T3.example\"]\naccount = \"T2\""), "");
    for (error, part) in [
        (
            said("client_certificate = \"optional\""),
            "c.toml:1: listeners.ws: tls of web: client_certificate needs ca_file",
        ),
        (said("ca_file = \"a\""), "ca_file has no meaning while no client is asked"),
        (said("crl_file = \"a\""), "crl_file has no meaning while no client is asked"),
        (said("client_certificate = \"maybe\""), "c.toml:4: listeners.ws.web.tls.client_certificate: "),
        (said("[[listeners.ws.web.tls.sni]]\nnames = [\"a\"]"), "sni.cert_file is missing"),
        (sni(""), "sni.names is missing"),
        (sni("names = [\"a.*\"]"), "\"a.*\" is no host name"),
        (sni("names = [\"a\", \"A\"]"), "\"a\" stands there twice"),
        (sni("names = [\"a\"]\naccount = \"\""), "sni.account is empty"),
    ] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn what_a_listener_cannot_be_is_said() {
    for (text, error) in [
        (
            "[listeners.unix.local]\nbind = \"x\"",
            "c.toml:2: listeners.unix.local.bind: unknown key: one of name, path, mode, group, versions, strict, mount_point, auth, proxy_protocol, limits is possible",
        ),
        (
            "[listeners.unix.local]\nmode = \"0660\"",
            "c.toml:1: listeners.unix: local: path is missing: write where the socket is to be, as in \"/run/nats-mqtt.sock\"",
        ),
        (
            "[listeners.unix.local]\npath = \"x\"\nmode = \"rw\"",
            "c.toml:3: listeners.unix.local.mode: \"rw\" is not a mode: write it in octal, as in \"0660\"",
        ),
        (
            "[listeners.ws]\nallowed_origins = [\"https://app.example/\"]",
            "c.toml:2: listeners.ws.allowed_origins[0]: \"https://app.example/\" is not an origin: leave out everything but scheme, host and port, as in \"https://app.example\"",
        ),
        (
            "[listeners.ws]\ntrusted_forwarders = [\"proxy\"]",
            "c.toml:2: listeners.ws.trusted_forwarders: \"proxy\" is not a network: write one as in \"10.0.0.0/8\" or \"2001:db8::/32\"",
        ),
        (
            "[listeners.tcp.proxy_protocol]\nidentity = \"cn\"",
            "c.toml:1: listeners.tcp: proxy_protocol of tcp: trusted is missing: write the addresses of the proxies, as in [\"10.0.0.0/8\"]",
        ),
        (
            "[listeners.unix]\npath = \"x\"\nproxy_protocol = { trusted = [\"::1\"] }",
            "c.toml:1: listeners.unix: proxy_protocol of unix: trusted has no meaning at a Unix socket: whoever may open it is trusted, as mode and group say",
        ),
    ] {
        let result = Config::assemble(Some(("c.toml", text)), &[], &Overrides::default());
        assert_eq!(result.unwrap_err().to_string(), error);
    }
}

#[test]
fn a_socket_that_was_passed_belongs_to_one_and_that_of_the_process_can_be() {
    let error = |text: &str| {
        let result = Config::assemble(Some(("c.toml", text)), &[], &Overrides::default());
        result.err().map(|error| error.to_string()).unwrap_or_default()
    };
    let of = |kind: &str, name: &str, socket: &str| format!("[listeners.{kind}.{name}]\nbind = \"systemd:{socket}\"\n");
    for (text, why) in [
        (
            of("tcp", "a", "field") + &of("tcp", "b", "field"),
            "listeners.tcp: systemd:field is one socket, and listener a and listener b both name it: give each its own",
        ),
        (
            of("tcp", "a", "field") + &of("ws", "b", "field"),
            "listeners.ws: systemd:field is one socket, and listener a and listener b both name it: give each its own",
        ),
        (
            of("tcp", "a", "field") + "[admin]\nbind = \"systemd:field\"\n",
            "admin.bind: systemd:field is one socket, and listener a and admin.bind both name it: give each its own",
        ),
        (format!("[admin]\nsocket = \"/{}\"", "x".repeat(107)), "admin.socket: path has 108 bytes"),
        ("[admin]\nsocket = \"\"".to_owned(), "admin.socket: path is missing"),
    ] {
        assert!(error(&text).contains(why), "{text}: {}", error(&text));
    }
    assert_eq!(error(&(of("tcp", "a", "field") + &of("ws", "b", "web") + &of("ws", "c", "other"))), "");
}

#[test]
fn errors_name_the_line_the_key_and_the_way_out() {
    for (text, error) in [
        ("[listeners.tcp]\nbnd = \"x\"", "c.toml:2: listeners.tcp.bnd: unknown key: did you mean \"bind\"?"),
        ("[listner]", "c.toml:1: listner: unknown key: did you mean \"listeners\"?"),
        ("[admin]\nzzzzzz = 1", "c.toml:2: admin.zzzzzz: unknown key: one of bind, socket, watch is possible"),
        (
            "[listeners.tcp]\npaths = [\"/\"]",
            "c.toml:2: listeners.tcp.paths: unknown key: one of name, bind, versions, strict, mount_point, auth, tls, proxy_protocol, limits is possible",
        ),
        ("[listeners.ws]\nkind = \"tcp\"", "c.toml:2: listeners.ws.kind: unknown key: did you mean \"bind\"?"),
        ("[[listeners.ws]]\npath = [\"/\"]", "c.toml:2: listeners.ws[0].path: unknown key: did you mean \"paths\"?"),
        (
            "[listeners.tcp.lan]\nport = 1",
            "c.toml:2: listeners.tcp.lan.port: unknown key: one of name, bind, versions, strict, mount_point, auth, tls, proxy_protocol, limits is possible",
        ),
        ("[log]\nformat = \"jsno\"", "c.toml:2: log.format: \"jsno\" is not known: did you mean \"json\"?"),
        (
            "[log]\nlevel = \"loud\"",
            "c.toml:2: log.level: \"loud\" is not a level: write error, warn, info, debug or trace",
        ),
        (
            "\n[mqtt]\nconnect_timeout = 30",
            "c.toml:3: mqtt.connect_timeout: 30 has no unit: write \"30s\" if seconds are meant",
        ),
        (
            "[mqtt]\nroot_wildcard = [\"home\", \"full\"]",
            "c.toml:2: mqtt.root_wildcard: \"full\" is no tree of topics: write \"full\", \"refuse\", or a list as [\"home\", \"sensors/hall\"]",
        ),
        (
            "[mqtt]\nroot_wildcard = [\"a/+\"]",
            "c.toml:2: mqtt.root_wildcard: \"a/+\" is no tree of topics: write \"full\", \"refuse\", or a list as [\"home\", \"sensors/hall\"]",
        ),
        (
            "[mqtt]\nroot_wildcard = []",
            "c.toml:2: mqtt.root_wildcard: nothing would be left: write \"refuse\", \"full\" or trees of topics",
        ),
        (
            "[mqtt]\nmax_session_size = \"17MiB\"",
            "c.toml:2: mqtt.max_session_size: no session is read that is larger than 16 MiB",
        ),
        ("[mqtt]\nwindow = 70000", "c.toml:2: mqtt.window: invalid value: integer `70000`, expected u16"),
        ("[mqtt]\nreceive_maximum = 0", "c.toml:2: mqtt.receive_maximum: 0 would accept no message: write 1 or more"),
        ("mqtt = 1", "c.toml:1: mqtt: this is a table of keys, not a value"),
        ("[nats]\nuser = \"u\"", "c.toml:2: nats.user: user and password go together: give both or neither"),
        (
            "[nats]\ntoken = \"t\"\nuser = \"u\"\npassword = \"p\"",
            "c.toml:1: nats: user and token are given, and only one of them can be used",
        ),
        ("[nats]\ncreds = \"/nowhere/x.creds\"", "c.toml:2: nats.creds: there is no file /nowhere/x.creds"),
        (
            "[nats]\nurls = []",
            "c.toml:2: nats.urls: no server is named: write at least one, as in \"nats://127.0.0.1:4222\"",
        ),
        (
            "[nats]\nurls = \"http://x\"",
            "c.toml:2: nats.urls: \"http://x\" is not the address of a server: write nats://HOST:PORT",
        ),
        (
            "[jetstream]\nprefix = \"A.B\"",
            "c.toml:2: jetstream.prefix: names of streams are made of A-Z, a-z, 0-9, \"-\" and \"_\"",
        ),
        (
            "[listeners.tcp]\nbind = \"1883\"",
            "c.toml:2: listeners.tcp.bind: \"1883\" is not an address to listen on: write HOST:PORT, as in \"0.0.0.0:1883\"",
        ),
    ] {
        assert_eq!(from_text(text).unwrap_err(), error);
    }
}

#[test]
fn listeners_are_written_as_one_table_as_named_tables_or_as_an_array() {
    for (text, expected) in [
        ("[listeners.tcp]\nbind = \":1\"", vec!["tcp=0.0.0.0:1"]),
        ("[listeners.tcp]", vec!["tcp=0.0.0.0:1883"]),
        ("[listeners.tcp]\nbind = \"\"\n[listeners.ws]\nbind = \":2\"", vec!["tcp=off", "ws=0.0.0.0:2"]),
        (
            "[listeners.tcp.lan]\nbind = \":1\"\n[listeners.tcp.wan]\nbind = \":2\"",
            vec!["lan=0.0.0.0:1", "wan=0.0.0.0:2"],
        ),
        (
            "[[listeners.tcp]]\nbind = \":1\"\n[[listeners.tcp]]\nbind = \":2\"\nname = \"b\"",
            vec!["tcp-1=0.0.0.0:1", "b=0.0.0.0:2"],
        ),
        ("[listeners]\nmax_handshakes = 9", vec![]),
    ] {
        assert_eq!(binds(&from_text(text).unwrap()), expected, "{text}");
    }
}

#[test]
fn the_environment_wins_over_the_file_and_flags_win_over_both() {
    let file = "[listeners.tcp]\nbind = \":1\"\n[mqtt]\nwindow = 1\nstrict = true";
    let environment = [
        ("NATS_MQTT__LISTENERS__TCP__BIND", ":2"),
        ("NATS_MQTT__MQTT__WINDOW", "2"),
        ("NATS_MQTT__MQTT__STRICT", "false"),
        ("NATS_MQTT__NATS__URLS", "nats://a:1, nats://b:2"),
        ("NATS_MQTT__JETSTREAM__LOG__MAX_AGE", "5m"),
        ("NATS_MQTT_SERVICE_HOST", "10.0.0.1"),
    ];
    let config = load(file, &environment, &Overrides::default()).unwrap();
    assert_eq!(binds(&config), ["tcp=0.0.0.0:2"]);
    assert_eq!((config.mqtt.window, config.mqtt.strict), (2, false));
    assert_eq!(config.nats.urls, ["nats://a:1", "nats://b:2"]);
    assert_eq!(config.jetstream.log.max_age, Duration::from_secs(300));

    let overrides = Overrides {
        listen: Some(":3".into()),
        nats: vec!["nats://c:3".into()],
        embedded: true,
        embedded_port: Some(0),
        ..Overrides::default()
    };
    let config = load(file, &environment, &overrides).unwrap();
    assert_eq!(binds(&config), ["tcp=0.0.0.0:3"]);
    assert_eq!(config.nats.urls, ["nats://c:3"]);
    assert!(config.embedded.enabled);
    assert_eq!(config.embedded.port, 0);
}

#[test]
fn listeners_can_be_reached_from_the_environment_however_they_are_written() {
    let config = load("", &[("NATS_MQTT__LISTENERS__TCP__BIND", ":2")], &Overrides::default()).unwrap();
    assert_eq!(binds(&config), ["tcp=0.0.0.0:2", "ws=0.0.0.0:8083"]);
    let named = "[listeners.tcp.lan]\nbind = \":1\"";
    let config = load(named, &[("NATS_MQTT__LISTENERS__TCP__LAN__BIND", ":2")], &Overrides::default()).unwrap();
    assert_eq!(binds(&config), ["lan=0.0.0.0:2"]);
    let array = "[[listeners.tcp]]\nbind = \":1\"";
    let config = load(array, &[("NATS_MQTT__LISTENERS__TCP__0__BIND", ":2")], &Overrides::default()).unwrap();
    assert_eq!(binds(&config), ["tcp-1=0.0.0.0:2"]);
    let config = load("", &[("NATS_MQTT__LISTENERS__WS__PATHS", "/a,/b")], &Overrides::default()).unwrap();
    assert_eq!(config.listeners.ws[0].paths, ["/a", "/b"]);
}

#[test]
fn errors_from_the_environment_and_from_flags_name_their_source() {
    let error = load("", &[("NATS_MQTT__MQTT__WINDWO", "1")], &Overrides::default()).unwrap_err();
    assert_eq!(
        error,
        "environment variable NATS_MQTT__MQTT__WINDWO: mqtt.windwo: unknown key: did you mean \"window\"?"
    );
    let error = load("", &[("NATS_MQTT__MQTT__WINDOW", "many")], &Overrides::default()).unwrap_err();
    assert!(error.starts_with("environment variable NATS_MQTT__MQTT__WINDOW: mqtt.window: invalid type"), "{error}");
    let error = load("", &[], &Overrides { listen: Some("nope".into()), ..Overrides::default() }).unwrap_err();
    assert!(error.starts_with("option --listen: listeners.tcp.bind: \"nope\" is not an address"), "{error}");
}

#[test]
fn listen_flags_turn_the_other_listeners_off_and_keep_the_paths() {
    let file = "[listeners.tcp]\n[listeners.ws]\npaths = [\"/x\"]";
    let listen = |tcp: Option<&str>, ws: Option<&str>| Overrides {
        listen: tcp.map(str::to_owned),
        listen_ws: ws.map(str::to_owned),
        ..Overrides::default()
    };
    assert_eq!(binds(&load(file, &[], &listen(Some(":1"), None)).unwrap()), ["tcp=0.0.0.0:1"]);
    assert_eq!(binds(&load(file, &[], &listen(None, Some(":2"))).unwrap()), ["ws=0.0.0.0:2"]);
    let both = load(file, &[], &listen(Some(":1"), Some(":2"))).unwrap();
    assert_eq!(binds(&both), ["tcp=0.0.0.0:1", "ws=0.0.0.0:2"]);
    assert_eq!(both.listeners.ws[0].paths, ["/x"]);
    assert_eq!(binds(&load("[listeners]", &[], &listen(Some(":1"), None)).unwrap()), ["tcp=0.0.0.0:1"]);
}

#[test]
fn secrets_come_from_files_and_only_from_one_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "s3cret\n").unwrap();
    let config = from_text(&format!("[nats]\ntoken_file = {path:?}")).unwrap();
    assert_eq!(config.nats.auth(), NatsAuth::Token(Secret::new("s3cret".into())));
    let error = from_text(&format!("[nats]\ntoken = \"x\"\ntoken_file = {path:?}")).unwrap_err();
    assert!(error.starts_with("c.toml:3: nats.token_file: the secret is given as text too"), "{error}");
    let error = from_text("[nats]\nnkey_seed_file = \"/nowhere\"").unwrap_err();
    assert!(error.starts_with("c.toml:2: nats.nkey_seed_file: /nowhere: "), "{error}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error =
        Config::load(Some(std::path::Path::new("/nowhere/x.toml")), &Overrides::default()).unwrap_err().to_string();
    assert!(error.starts_with("/nowhere/x.toml: "), "{error}");
}
