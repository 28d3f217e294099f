//! What NATS clients do that concerns sessions.
//!
//! - `durable_interest`, `ingest`: messages of core NATS that sessions want above QoS 0
//! - `retained_import`: from `nats kv put` to MQTT subscribers

pub(in crate::account) mod durable_interest;
pub(in crate::account) mod ingest;
pub(in crate::account) mod retained_import;
