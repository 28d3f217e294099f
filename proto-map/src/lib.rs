//! How MQTT topics, properties and names become NATS subjects, headers and JetStream assets, and back. Pure functions
//! over text; nothing here does I/O, knows a NATS client, or knows what a session is.
//!
//! # Layout
//! - `topic`, `subject`, `escape`: topic ⇄ subject, filter → subjects
//! - `subject_map`: which stream has a subject
//! - `attach`: which streams of others are logs
//! - `closed`: what devices never see of NATS
//! - `headers`: properties ⇄ headers; `user_properties` for those whose order or shape a header does not carry;
//!   `log_marker` for the copy of a stored message on its natural subject
//! - `reply`: reply subjects of NATS as topics that devices can answer on; `question`: what clients ask NATS, in a reply subject
//! - `account_key`: the secret of the sidecars of an account, and what it vouches for
//! - `mount`: a part of the topics as all that some devices see; the names of their sessions
//! - `names`, `key`: the name of everything we make in JetStream
//! - `spec`: how the streams are configured, and whether one that is there will do

mod account_key;
mod attach;
mod closed;
mod duration;
mod error;
mod escape;
mod header_names;
mod headers;
mod key;
mod log_marker;
mod mount;
mod names;
mod percent;
mod question;
mod reply;
mod root;
mod spec;
mod subject;
mod subject_map;
mod topic;
mod user_properties;

pub use account_key::{
    ACCOUNT_KEY_LEN, AccountKey, Judgement, KNOWN_AFTER_MS, KeyId, KeyRing, MessageName, SealedRequest,
};
pub use attach::{Attachment, attachment};
pub use closed::{ClosedTrees, DEFAULT_SUBJECT_PREFIX};
pub use error::{HeaderError, MapError};
pub use headers::{
    Carrier, Envelope, HEADER_BLOCK_MAX, Headers, ReadOptions, from_headers, is_about_itself, name, to_headers,
};
pub use key::subject_of_unescaped_key;
pub use log_marker::{is_log_copy, log_marker, parse_log_marker};
pub use mount::{MOUNT_POINT_LEN_MAX, MountPoint, MountPointError, client_of, session_name};
pub use names::{BanSubject, DEFAULT_PREFIX, Names, SessionSubject, client_token, queue_group, share_consumer};
pub use question::Question;
pub use reply::{REPLY_KEY_LEN, ReplyError, ReplyKey, ReplyTopic, ReplyTopics, is_answerable};
pub use root::{ROOT_TREES_MAX, RootWildcard};
pub use spec::{
    DeclaredLog, Discard, MAPPING_KEY, MAPPING_VERSION, PerSubject, SpecOptions, Storage, StreamSpec, TOPICS_KEY,
    replicas_for,
};
pub use subject::{FilterSubjects, MAX_SUBJECT_LEN, Subject, SubjectFilter, matches};
pub use subject_map::{SubjectMap, overlaps};
pub use topic::{Mapped, map_topic, subject_of, subjects_of, topic_of};
pub use user_properties::own_message_id;
