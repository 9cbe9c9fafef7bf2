//! Opening a database: whose it is, which schema it has, and what must be safe before anything is acknowledged.

use std::path::Path;

use sqlx::{
    AssertSqlSafe, ConnectOptions, Row, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteSynchronous},
};

use super::{Durability, SqliteOptions, lock::Life, rows, script, script::Values, sql, trouble};
use crate::store::{StoreError, shown};

/// The migrations in order; the first makes schema 1.
const MIGRATIONS: [&str; 9] = [
    include_str!("../migrations/0001_first.sql"),
    include_str!("../migrations/0002_cluster.sql"),
    include_str!("../migrations/0003_transactions.sql"),
    include_str!("../migrations/0004_queues.sql"),
    include_str!("../migrations/0005_processes.sql"),
    include_str!("../migrations/0006_published.sql"),
    include_str!("../migrations/0007_schedules.sql"),
    include_str!("../migrations/0008_memos.sql"),
    include_str!("../migrations/0009_letters.sql"),
];

/// Returns what all connections have in common.
pub(super) fn connection(path: &Path, options: &SqliteOptions) -> SqliteConnectOptions {
    let connect = SqliteConnectOptions::new()
        .filename(path)
        .foreign_keys(false)
        .busy_timeout(options.busy_timeout)
        .statement_cache_capacity(script::SCRIPTS)
        // The rows of one statement pass without the connection's thread waiting for us in between.
        .row_buffer_size(4096)
        .pragma("temp_store", "MEMORY")
        .pragma("cache_size", "-32768");
    if shown::are_wanted() { connect } else { connect.disable_statement_logging() }
}

/// Returns how the connection that is lent to users is opened: as theirs would be, and as durable as the writer's. Checkpoints
/// are the writer's.
pub(super) fn guest(path: &Path, options: &SqliteOptions) -> SqliteConnectOptions {
    connection(path, options)
        .foreign_keys(true)
        .synchronous(synchronous(options))
        .pragma("wal_autocheckpoint", "0")
        .pragma("fullfsync", "ON")
        .thread_name(|_| "stent-guest".into())
}

fn synchronous(options: &SqliteOptions) -> SqliteSynchronous {
    match options.durability {
        Durability::Full => SqliteSynchronous::Full,
        Durability::Normal => SqliteSynchronous::Normal,
    }
}

/// Opens the writer, while nobody else is opening this database and in its turn: checks whose file this is, makes what is in
/// the log durable, brings the schema up to date.
pub(super) async fn open(path: &Path, options: &SqliteOptions) -> Result<SqliteConnection, StoreError> {
    let name = path.display().to_string();
    let trouble = |error: sqlx::Error| trouble::sort(&error, &name).into_store();
    let mut how = connection(path, options)
        .create_if_missing(true)
        .page_size(8192)
        .synchronous(synchronous(options))
        .pragma("wal_autocheckpoint", "1000")
        .pragma("fullfsync", "ON")
        .thread_name(|_| "stent-sqlite".into());
    if let Some(pages) = options.max_pages {
        how = how.pragma("max_page_count", pages.to_string());
    }
    let mut writer = how.connect().await.map_err(trouble)?;
    // Before anything is changed in a file that may be somebody else's.
    let tables = script::rows(&mut writer, sql::TABLES, Values::default()).await.map_err(trouble)?;
    let has = |table| tables.iter().any(|row| row.try_get::<&str, _>(0).is_ok_and(|name| name == table));
    if !tables.is_empty() && !has("_stent_migrations") {
        return Err(StoreError::Corrupt { path: name, reason: "it is a database of another program".into() });
    }
    let mode = script::rows(&mut writer, sql::WAL, Values::default()).await.map_err(trouble)?;
    let mode: String = mode.first().map(|row| row.try_get(0)).transpose().map_err(trouble)?.unwrap_or_default();
    if mode != "wal" {
        let reason = format!("its file system allows journal mode {mode} only, and a write-ahead log is needed");
        return Err(StoreError::Other(format!("{name}: {reason}")));
    }
    // After an fsync that failed, pages of the log may be clean in memory and absent on disk. The checkpoint brings them
    // into the database with an fsync of its own; before that nothing may build on them, beside whomever.
    if has("nodes") {
        checkpoint(&mut writer, path).await?;
    }
    migrate(&mut writer, &name).await?;
    Ok(writer)
}

/// Brings all of the log into the database and empties it. It waits for readers and writers of other processes, as long as
/// a lock is waited for: what is left of the log may lack pages on disk, whoever wrote it lived, and who writes behind such
/// a hole loses with the power what it has acknowledged.
async fn checkpoint(writer: &mut SqliteConnection, database: &Path) -> Result<(), StoreError> {
    let path = database.display().to_string();
    let trouble = |error: sqlx::Error| trouble::sort(&error, &path).into_store();
    let rows = script::rows(writer, sql::CHECKPOINT, Values::default()).await.map_err(trouble)?;
    match rows.first().map(|row| row.try_get::<i64, _>(0)).transpose().map_err(trouble)? {
        Some(0) => Ok(()),
        _ => Err(StoreError::Busy { reason: format!("another program is reading or writing {path}; close it there") }),
    }
}

/// The same before the writer is closed; beside other processes it brings in what it can, without waiting and without keeping
/// anyone from writing: nothing is going to be built on it here.
pub(super) async fn last_checkpoint(writer: &mut SqliteConnection, database: &Path) -> Result<(), StoreError> {
    let path = database.display().to_string();
    let trouble = |error: sqlx::Error| trouble::sort(&error, &path).into_store();
    let live = script::rows(writer, sql::LIVE, Values::default()).await.map_err(trouble)?;
    let live = live.iter().map(|row| rows::incarnation(row.try_get(0)?)).collect::<Result<Vec<_>, _>>().map_err(trouble)?;
    if live.into_iter().any(|node| !Life::is_over(database, node)) {
        return script::rows(writer, sql::CHECKPOINT_BESIDE, Values::default()).await.map(drop).map_err(trouble);
    }
    checkpoint(writer, database).await
}

async fn migrate(writer: &mut SqliteConnection, path: &str) -> Result<(), StoreError> {
    let trouble = |error: sqlx::Error| trouble::sort(&error, path).into_store();
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    script::run(writer, sql::MIGRATIONS, Values::default()).await.map_err(trouble)?;
    loop {
        script::run(writer, sql::BEGIN, Values::default()).await.map_err(trouble)?;
        let rows = script::rows(writer, sql::VERSION, Values::default()).await.map_err(trouble)?;
        let found: i64 = rows.first().map(|row| row.try_get(0)).transpose().map_err(trouble)?.unwrap_or(0);
        let next = usize::try_from(found).ok().and_then(|found| MIGRATIONS.get(found));
        let Some(next) = next else {
            script::run(writer, sql::ROLLBACK, Values::default()).await.map_err(trouble)?;
            return if found == known { Ok(()) } else { Err(StoreError::NewerSchema { path: path.into(), found, known }) };
        };
        let migrated = async {
            sqlx::raw_sql(AssertSqlSafe(*next)).execute(&mut *writer).await?;
            script::run(writer, sql::MIGRATED, Values::default().with(found + 1)?).await?;
            script::run(writer, sql::COMMIT, Values::default()).await
        };
        if let Err(error) = migrated.await {
            // The first error is the one to tell; if this fails too, closing the connection rolls back as well.
            let _ = script::run(writer, sql::ROLLBACK, Values::default()).await;
            return Err(trouble(error));
        }
    }
}
