//! What can be wrong with a hash.

/// Why a text is no hash. It says nothing of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// None of the three kinds, or not well formed.
    #[error("not an argon2id, bcrypt or mosquitto ($7$) hash")]
    Malformed,
    /// It would take more time or memory than a login may.
    #[error("the hash is beyond what a login may cost")]
    TooCostly,
}
