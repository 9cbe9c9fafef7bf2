//! Making the schema and bringing it up to date. Several programs may open it at once: one migrates, the others wait.

use sqlx::{AssertSqlSafe, Executor, Row};

use super::{
    home::{Home, Role},
    trouble::Trouble,
    values::Values,
};
use crate::store::StoreError;

/// The migrations in order; the first makes schema 1.
const MIGRATIONS: [&str; 7] = [
    include_str!("../migrations/postgres/0001_first.sql"),
    include_str!("../migrations/postgres/0002_transactions.sql"),
    include_str!("../migrations/postgres/0003_lanes.sql"),
    include_str!("../migrations/postgres/0004_published.sql"),
    include_str!("../migrations/postgres/0005_schedules.sql"),
    include_str!("../migrations/postgres/0006_memos.sql"),
    include_str!("../migrations/postgres/0007_letters.sql"),
];

const LOCK: &str = "SELECT pg_advisory_xact_lock($1, 0)";
const TABLE: &str = "CREATE TABLE IF NOT EXISTS _stent_migrations (version bigint PRIMARY KEY, applied_at timestamptz NOT NULL)";
const TABLES: &str = "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v')";
const VERSION: &str = "SELECT coalesce(max(version), 0) FROM _stent_migrations";
const MIGRATED: &str = "INSERT INTO _stent_migrations (version, applied_at) VALUES ($1, clock_timestamp())";
const PATIENT: &str = "SELECT set_config('lock_timeout', '10s', true), set_config('statement_timeout', '60s', true)";

/// Drops the schema and everything in it.
pub(super) async fn drop(home: &Home) -> Result<(), Trouble> {
    let (mut connection, _) = home.connect(Role::Warden).await?;
    // The name is made of letters, digits and underscores only.
    let text = format!("DROP SCHEMA IF EXISTS \"{}\" CASCADE", home.options.schema);
    let dropped = connection.execute(sqlx::raw_sql(AssertSqlSafe(text))).await;
    let dropped = dropped.map(std::mem::drop).map_err(|error| home.sort(&error));
    home.part(connection).await;
    dropped
}

/// Makes the schema what this release needs.
pub(super) async fn migrate(home: &Home) -> Result<(), Trouble> {
    let (mut connection, _) = home.connect(Role::Warden).await?;
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let migrated = async {
        let connection = &mut connection;
        home.rows(connection, super::sql::BEGIN, Values::default()).await?;
        home.rows(connection, PATIENT, Values::default()).await?;
        home.rows(connection, LOCK, Values::default().with(home.class)).await?;
        let tables = home.rows(connection, TABLES, Values::default().with(home.options.schema.as_str())).await?;
        let ours = tables.iter().any(|row| row.try_get::<&str, _>(0).is_ok_and(|name| name == "_stent_migrations"));
        if !tables.is_empty() && !ours {
            let reason = format!("schema {} has tables of another program; name one of its own (?schema=…)", home.options.schema);
            return Err(Trouble::Store(StoreError::Corrupt { path: home.server.clone(), reason }));
        }
        if !ours {
            // The name is made of letters, digits and underscores only.
            let create = format!("CREATE SCHEMA IF NOT EXISTS \"{}\"", home.options.schema);
            connection.execute(sqlx::raw_sql(AssertSqlSafe(create))).await.map_err(|error| home.sort(&error))?;
            home.rows(connection, TABLE, Values::default()).await?;
        }
        let rows = home.rows(connection, VERSION, Values::default()).await?;
        let found: i64 = match rows.first() {
            Some(row) => row.try_get(0).map_err(|error| home.sort(&error))?,
            None => 0,
        };
        if found > known {
            return Err(Trouble::Store(StoreError::NewerSchema { path: home.server.clone(), found, known }));
        }
        for version in found..known {
            let Some(text) = usize::try_from(version).ok().and_then(|version| MIGRATIONS.get(version)) else { break };
            connection.execute(sqlx::raw_sql(AssertSqlSafe(*text))).await.map_err(|error| home.sort(&error))?;
            home.rows(connection, MIGRATED, Values::default().with(version + 1)).await?;
        }
        home.rows(connection, super::sql::COMMIT, Values::default()).await.map(std::mem::drop)
    };
    let migrated = migrated.await;
    home.part(connection).await;
    migrated
}
