//! What an error of PostgreSQL means for us: the connection is gone and with it the knowledge of what became of the
//! statement; or the server wants us to try again; or a statement failed, which some item of a batch has caused; or it is
//! trouble with the store itself.

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::store::StoreError;

/// An error, sorted by who has to deal with it.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The connection is gone; what became of the statement is not known.
    Lost(String),
    /// Somebody else was in between (a deadlock, a key that was just taken): nothing was written, the same may well succeed.
    Again(String),
    /// A lock was not to be had in the time given; nothing was written.
    Waits,
    /// One statement; some item of the batch is to blame. Nothing was written.
    Statement(String),
    /// The store itself; the whole batch fails. Nothing was written.
    Store(StoreError),
}

impl Trouble {
    /// Returns it as trouble of the store, where there is no item that could be blamed.
    pub(super) fn into_store(self, server: &str) -> StoreError {
        match self {
            Trouble::Store(error) => error,
            Trouble::Lost(reason) => StoreError::Unreachable { server: server.to_owned(), reason },
            Trouble::Again(reason) => StoreError::Busy { reason },
            Trouble::Waits => StoreError::Busy { reason: "a lock is held by a transaction that does not end".into() },
            Trouble::Statement(text) => StoreError::Other(text),
        }
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Trouble {
        Trouble::Store(error)
    }
}

/// Sorts an error of the driver.
pub(super) fn sort(error: &sqlx::Error, server: &str) -> Trouble {
    match error {
        sqlx::Error::Database(database) => {
            let database = database.downcast_ref::<PgDatabaseError>();
            // A fatal error ends the session; whether the statement was done before is not told.
            let fatal = matches!(database.severity(), PgSeverity::Fatal | PgSeverity::Panic);
            let text = match database.detail() {
                Some(detail) => format!("{} ({detail})", database.message()),
                None => database.message().to_owned(),
            };
            code(database.code(), fatal, text, server)
        }
        sqlx::Error::Io(error) => Trouble::Lost(error.to_string()),
        sqlx::Error::Tls(error) => Trouble::Lost(format!("TLS: {error}")),
        sqlx::Error::Protocol(what) => Trouble::Lost(what.clone()),
        sqlx::Error::WorkerCrashed => Trouble::Lost("the connection was closed".into()),
        sqlx::Error::PoolClosed => Trouble::Store(StoreError::Closed),
        sqlx::Error::Decode(what) | sqlx::Error::ColumnDecode { source: what, .. } => {
            Trouble::Store(StoreError::Corrupt { path: server.to_owned(), reason: what.to_string() })
        }
        other => Trouble::Statement(other.to_string()),
    }
}

/// Source of the codes: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn code(code: &str, fatal: bool, text: String, server: &str) -> Trouble {
    let path = server.to_owned();
    let told = format!("{text} (SQLSTATE {code})");
    match code {
        // Wrong credentials, no such database: waiting does not help, and everybody should be told at once.
        "28000" | "28P01" | "3D000" | "42501" => Trouble::Store(StoreError::Other(format!("{server}: {told}"))),
        // A key that was free when the statement looked is taken: who looks again sees by whom.
        "40001" | "40P01" | "23505" => Trouble::Again(told),
        "55P03" => Trouble::Waits,
        "53100" => Trouble::Store(StoreError::Full { path }),
        // A server that became read-only is a primary no more: whoever reconnects finds the new one.
        "25006" => Trouble::Lost(told),
        // A prepared plan that another release's migration has made void.
        "0A000" if text.contains("cached plan") => Trouble::Lost(told),
        "57014" => Trouble::Store(StoreError::Busy { reason: told }),
        "58030" => Trouble::Store(StoreError::Io { path, reason: told }),
        "XX001" | "XX002" => Trouble::Store(StoreError::Corrupt { path, reason: told }),
        // A table or a schema that has gone from under us.
        "42P01" | "3F000" | "42703" => Trouble::Store(StoreError::Corrupt { path, reason: told }),
        _ if fatal || code.starts_with("08") || code.starts_with("57P") || code.starts_with("25P0") => Trouble::Lost(told),
        _ if code.starts_with("53") => Trouble::Store(StoreError::Busy { reason: told }),
        _ => Trouble::Statement(told),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_trouble_has_its_error() {
        let sorted = |state| code(state, false, "said so".into(), "server");
        assert!(matches!(sorted("40P01"), Trouble::Again(_)), "deadlock");
        assert!(matches!(sorted("55P03"), Trouble::Waits), "lock_timeout");
        assert!(matches!(sorted("53100"), Trouble::Store(StoreError::Full { .. })), "disk_full");
        assert!(matches!(sorted("57P01"), Trouble::Lost(_)), "admin_shutdown");
        assert!(matches!(sorted("25P03"), Trouble::Lost(_)), "idle_in_transaction_session_timeout");
        assert!(matches!(sorted("23505"), Trouble::Again(_)), "unique_violation");
        assert!(matches!(sorted("57014"), Trouble::Store(StoreError::Busy { .. })), "statement_timeout");
        assert!(matches!(sorted("28P01"), Trouble::Store(StoreError::Other(_))), "wrong password");
        assert!(matches!(code("XX000", true, String::new(), "server"), Trouble::Lost(_)), "any fatal one");
    }
}
