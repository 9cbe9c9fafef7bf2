//! Trouble with a store, named by what can be done about it.

/// Trouble with the store itself. What was acknowledged stays acknowledged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A process of a release that shares the database with nobody has it open, or another one is opening it and does not
    /// come to an end.
    #[error("{path} is in use by process {pid}, which does not share it; stop that one, or give this one a database of its own")]
    InUse {
        /// The database.
        path: String,
        /// Who holds it; 0 when it does not say.
        pid: u32,
    },
    /// A newer release has migrated the database.
    #[error("{path} has schema {found}, this build knows {known}; run a newer build, nothing was changed")]
    NewerSchema {
        /// The database.
        path: String,
        /// Its schema.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// The URL names no store that this build has.
    #[error(
        "{url:?} names no store of this build; use sqlite:<file>, postgres://<server>/<database> or memory: (and see the crate's features)"
    )]
    UnknownUrl {
        /// What was given, without a password.
        url: String,
    },
    /// The disk is full. Nothing was written and nothing is lost; it goes on when there is room.
    #[error("no room left for {path}; free some, work goes on by itself")]
    Full {
        /// The database.
        path: String,
    },
    /// The database cannot be written.
    #[error("{path} is read-only; give the process write permission to the file and its folder")]
    ReadOnly {
        /// The database.
        path: String,
    },
    /// Reading or writing failed in a way after which nothing in memory may be trusted.
    #[error("I/O error in {path}: {reason}; the store was closed and is recovered before anything is acknowledged again")]
    Io {
        /// The database.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// The file is not a database of ours, or is damaged.
    #[error("{path} is not usable: {reason}")]
    Corrupt {
        /// The database.
        path: String,
        /// What was found.
        reason: String,
    },
    /// A lock could not be had in time; trying again is safe, nothing was written.
    #[error("the store is busy: {reason}")]
    Busy {
        /// What it waited for.
        reason: String,
    },
    /// The server cannot be reached. Nothing is lost; work goes on by itself when it is back.
    #[error("{server} cannot be reached: {reason}; work goes on by itself when it is back")]
    Unreachable {
        /// Which server, without a password.
        server: String,
        /// What the system or the server said.
        reason: String,
    },
    /// The server does not have what it had acknowledged: it is a copy that lags behind, or was restored from a backup.
    #[error("{server} has lost what it had acknowledged: {reason}; everything in memory is dropped and read anew")]
    LostTail {
        /// Which server, without a password.
        server: String,
        /// What is missing.
        reason: String,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// Anything else that the driver said.
    #[error("the store failed: {0}")]
    Other(String),
}

impl StoreError {
    /// Tells whether it is nobody's mistake and may last: then it is waited out, however long that takes.
    #[must_use]
    pub fn is_of_the_world(&self) -> bool {
        matches!(self, StoreError::Unreachable { .. } | StoreError::LostTail { .. })
    }

    /// Tells whether somebody else is in the way, or something, and nothing was written: it goes on by itself when that is over.
    pub(crate) fn will_pass(&self) -> bool {
        matches!(self, StoreError::Full { .. } | StoreError::Busy { .. } | StoreError::InUse { .. })
    }

    /// Returns the same error for somebody else: its kind where that matters, and its words.
    pub(crate) fn told(&self) -> StoreError {
        match self {
            StoreError::Unreachable { server, reason } => {
                StoreError::Unreachable { server: server.clone(), reason: reason.clone() }
            }
            StoreError::LostTail { server, reason } => StoreError::LostTail { server: server.clone(), reason: reason.clone() },
            other => StoreError::Other(other.to_string()),
        }
    }
}
