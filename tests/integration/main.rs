//! All integration tests in one binary, so that it is linked once: the program as users run it, against a real
//! nats-server, with foreign MQTT clients beside our own. Each module says what it proves.
//!
//! They need nats-server (`$NATS_SERVER`, `$PATH` or `.tools/bin`), the mosquitto clients, python3 with paho-mqtt, and
//! libfaketime (`.tools/python` is looked at for both). Those about operators need nsc and the nats CLI, those about a directory, a
//! proxy and a browser slapd, HAProxy, and Chromium with MQTT.js, the one with an example for Node.js that; they say so when they are
//! skipped without them.
//!
//! `TEST_AUTH=none|file|nats|jwt|oidc` runs them with that mode of authentication, which is none otherwise.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says so when something is wrong")]
#![allow(clippy::disallowed_methods, reason = "tests are on the machine of nats-server")]
#![allow(clippy::large_futures, reason = "a test is one future")]
#![allow(clippy::print_stdout, reason = "the logs of the processes, when a test fails")]

mod harness;
#[allow(dead_code, reason = "not every test here needs all of it")]
#[path = "../../access/tests/access/mint.rs"]
mod mint;

mod account_life;
mod accounts;
mod accounts_broken;
mod accounts_core;
mod accounts_crossing;
mod adoption;
mod alive;
mod attached;
mod auth_file;
mod auth_jwt;
mod auth_jwt_limits;
mod auth_nats;
mod auth_nats_jwt;
mod auth_oidc;
mod backlog;
mod bans;
mod both_worlds;
mod bridges;
mod browser;
mod catching_up;
mod chosen_headers;
mod chosen_ids;
mod clocks;
mod cluster;
mod cluster_network;
mod cluster_order;
mod directory;
mod drain;
mod durable;
mod ended_epochs;
mod endings;
mod events;
mod forged;
mod in_flight;
mod ingest;
mod limits_connections;
mod limits_groups;
mod limits_opening;
mod limits_retained;
mod limits_sessions;
mod limits_subscriptions;
mod listener_settings;
mod log_restarted;
mod logs;
mod modes;
mod mounts;
mod nats_links;
mod nats_server_mqtt;
mod nkey_clients;
mod nsc;
mod operations;
mod outage;
mod overlapping;
mod overload;
mod overload_group;
mod overload_levels;
mod properties;
mod protocol;
mod proxy_protocol;
mod rates;
mod reload;
mod reply_key;
mod requests;
mod requests_faults;
mod requests_odd;
mod resolvers;
mod resubscribed;
mod retained;
mod retained_dollar;
mod retained_nats;
mod retained_order;
mod retained_race;
mod retained_resumed;
mod rights;
mod rights_resent;
mod rolling_restart;
mod root_wildcard;
mod sessions;
mod sessions_drain;
mod sessions_large;
mod sessions_leases;
mod sessions_past;
mod sessions_reset;
mod sessions_takeover;
mod sessions_versions;
mod sessions_waiting;
mod shared;
mod shared_faults;
mod shared_logs;
mod shared_once;
mod slow_link;
mod slow_reader;
mod stalls;
mod store;
mod store_contract;
mod store_sessions;
mod sys_topics;
mod systemd;
mod tenancy;
mod tls;
mod topics;
mod truth;
mod unix_sockets;
mod websocket;
mod wills;
mod wills_outage;
mod wills_refused;
mod wire;
