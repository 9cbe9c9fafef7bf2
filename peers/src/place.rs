//! Where a run keeps its data: a file or a database that did not exist before.

use std::path::PathBuf;

use sqlx::{Connection, PgConnection};

use crate::{Failure, Level, Target};

/// A database of this run's own.
pub(crate) enum Place {
    /// A file that does not exist yet.
    File(PathBuf),
    /// A database made for this run; `server` is the URL of another one on the same server.
    Database { server: String, name: String, level: Level },
}

impl Place {
    /// Makes a place as the target says.
    ///
    /// # Errors
    /// [`Failure::Conflict`] if there is something already: whatever it is, it is not ours.
    pub(crate) async fn make(target: &Target) -> Result<Place, Failure> {
        if let Some(path) = target.url.strip_prefix("sqlite:") {
            let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
            if path.as_os_str().is_empty() {
                return Err(Failure::Usage("--url: name a file: sqlite:<file>".to_owned()));
            }
            if path.symlink_metadata().is_ok() {
                let what = "exists; a run makes a database of its own and touches no other. Remove it, or name another";
                return Err(Failure::Conflict(format!("{} {what}", path.display())));
            }
            return Ok(Place::File(path));
        }
        if !target.url.starts_with("postgres://") && !target.url.starts_with("postgresql://") {
            return Err(Failure::Usage("--url: use sqlite:<file> or postgres://<server>/<database>".to_owned()));
        }
        if target.durability.is_some() {
            let what = "--durability: PostgreSQL's is what its server is set to; the run reads and reports it";
            return Err(Failure::Usage(what.to_owned()));
        }
        let server = target.url.clone();
        let name = format!("peers_{}", uuid::Uuid::now_v7().simple());
        if in_database(&server, &name).is_none() {
            return Err(Failure::Usage("--url: name a database that exists: postgres://<server>/<database>".to_owned()));
        }
        let mut session = PgConnection::connect(&server).await?;
        let level = level(&mut session).await?;
        // The name is made of letters and digits here, so it needs no quotes.
        sqlx::query(&format!("CREATE DATABASE {name} TEMPLATE template0")).execute(&mut session).await?;
        session.close().await?;
        Ok(Place::Database { server, name, level })
    }

    /// Returns the URL of the place.
    pub(crate) fn url(&self) -> String {
        match self {
            Place::File(path) => format!("sqlite://{}", path.display()),
            Place::Database { server, name, .. } => in_database(server, name).unwrap_or_default(),
        }
    }

    /// Returns the store's name in the report.
    pub(crate) fn store(&self) -> &'static str {
        match self {
            Place::File(_) => "sqlite",
            Place::Database { .. } => "postgres",
        }
    }

    /// Drops a database; a file stays, as whoever named it may want to look into it.
    pub(crate) async fn clear(self) -> Result<(), Failure> {
        if let Place::Database { server, name, .. } = self {
            let mut session = PgConnection::connect(&server).await?;
            sqlx::query(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).execute(&mut session).await?;
            session.close().await?;
        }
        Ok(())
    }
}

/// Returns what a COMMIT on this server survives. Neither library changes that for its sessions.
async fn level(session: &mut PgConnection) -> Result<Level, Failure> {
    let fsync: String = sqlx::query_scalar("SHOW fsync").fetch_one(&mut *session).await?;
    let commit: String = sqlx::query_scalar("SHOW synchronous_commit").fetch_one(&mut *session).await?;
    Ok(if fsync == "on" && commit != "off" { Level::Full } else { Level::Normal })
}

/// Returns the URL of another database on the same server.
fn in_database(url: &str, name: &str) -> Option<String> {
    let (head, query) = url.split_at(url.find('?').unwrap_or(url.len()));
    let authority = head.find("://")? + 3;
    let path = authority + head[authority..].find('/')?;
    (head.len() > path + 1).then(|| format!("{}/{name}{query}", &head[..path]))
}

#[cfg(test)]
mod tests {
    use super::in_database;

    #[test]
    fn another_database_on_the_same_server() {
        let found = |url| in_database(url, "x");
        assert_eq!(found("postgres://u:p@h:1/db").as_deref(), Some("postgres://u:p@h:1/x"));
        assert_eq!(found("postgres://h/db?sslmode=disable").as_deref(), Some("postgres://h/x?sslmode=disable"));
        assert_eq!(found("postgres://h"), None);
        assert_eq!(found("postgres://h/"), None);
    }
}
