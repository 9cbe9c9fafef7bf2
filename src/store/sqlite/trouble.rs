//! What an SQLite error means for us: trouble with the store, which fails the batch, or with a statement, which an item
//! of the batch has caused.

use sqlx::error::DatabaseError;

use crate::store::StoreError;

/// An error, sorted by who has to deal with it.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The store itself; the whole batch fails.
    Store(StoreError),
    /// One statement; some item of the batch is to blame.
    Statement(String),
}

impl Trouble {
    /// Returns it as trouble of the store, where there is no item that could be blamed.
    pub(super) fn into_store(self) -> StoreError {
        match self {
            Trouble::Store(error) => error,
            Trouble::Statement(text) => StoreError::Other(text),
        }
    }
}

/// Sorts an error of the driver.
pub(super) fn sort(error: &sqlx::Error, path: &str) -> Trouble {
    match error {
        sqlx::Error::Database(error) => database(&**error, path),
        sqlx::Error::Io(error) => Trouble::Store(StoreError::Io { path: path.into(), reason: error.to_string() }),
        sqlx::Error::PoolClosed => Trouble::Store(StoreError::Closed),
        sqlx::Error::PoolTimedOut => Trouble::Store(StoreError::Busy { reason: "every reader of the store is at work".into() }),
        sqlx::Error::WorkerCrashed => {
            Trouble::Store(StoreError::Io { path: path.into(), reason: "the connection's thread has died".into() })
        }
        other => Trouble::Statement(other.to_string()),
    }
}

/// Source of the numbers: <https://www.sqlite.org/rescode.html>; the low byte is the primary code.
fn database(error: &dyn DatabaseError, path: &str) -> Trouble {
    let code: i32 = error.code().and_then(|code| code.parse().ok()).unwrap_or(1);
    let path = path.to_owned();
    let reason = error.message().to_owned();
    Trouble::Store(match code & 0xff {
        5 | 6 => StoreError::Busy {
            reason: format!("another program holds a lock on {path} ({reason}); close it there, nothing was written"),
        },
        7 => StoreError::Other(format!("SQLite is out of memory ({reason})")),
        8 => StoreError::ReadOnly { path },
        10 | 14 => StoreError::Io { path, reason },
        11 | 26 => StoreError::Corrupt { path, reason },
        13 => StoreError::Full { path },
        _ => return Trouble::Statement(format!("SQLite code {code}: {reason}")),
    })
}

#[cfg(test)]
mod tests {
    use std::{borrow::Cow, error::Error, fmt};

    use super::*;

    #[derive(Debug)]
    struct Code(i32);

    impl fmt::Display for Code {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "code {}", self.0)
        }
    }

    impl Error for Code {}

    impl DatabaseError for Code {
        fn message(&self) -> &str {
            "said so"
        }
        fn code(&self) -> Option<Cow<'_, str>> {
            Some(self.0.to_string().into())
        }
        fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
            self
        }
        fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
            self
        }
        fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
            self
        }
        fn kind(&self) -> sqlx::error::ErrorKind {
            sqlx::error::ErrorKind::Other
        }
    }

    #[test]
    fn every_kind_of_trouble_has_its_error() {
        let sorted = |code| sort(&sqlx::Error::Database(Box::new(Code(code))), "x.db");
        assert!(matches!(sorted(5), Trouble::Store(StoreError::Busy { .. })), "SQLITE_BUSY");
        assert!(matches!(sorted(517), Trouble::Store(StoreError::Busy { .. })), "SQLITE_BUSY_SNAPSHOT");
        assert!(matches!(sorted(6), Trouble::Store(StoreError::Busy { .. })), "SQLITE_LOCKED");
        assert!(matches!(sorted(8), Trouble::Store(StoreError::ReadOnly { .. })), "SQLITE_READONLY");
        assert!(matches!(sorted(1032), Trouble::Store(StoreError::ReadOnly { .. })), "SQLITE_READONLY_DBMOVED");
        assert!(matches!(sorted(1034), Trouble::Store(StoreError::Io { .. })), "SQLITE_IOERR_FSYNC");
        assert!(matches!(sorted(11), Trouble::Store(StoreError::Corrupt { .. })), "SQLITE_CORRUPT");
        assert!(matches!(sorted(26), Trouble::Store(StoreError::Corrupt { .. })), "SQLITE_NOTADB");
        assert!(matches!(sorted(13), Trouble::Store(StoreError::Full { .. })), "SQLITE_FULL");
        assert!(matches!(sorted(2067), Trouble::Statement(_)), "SQLITE_CONSTRAINT_UNIQUE");
        assert!(matches!(sorted(18), Trouble::Statement(_)), "SQLITE_TOOBIG");
    }
}
