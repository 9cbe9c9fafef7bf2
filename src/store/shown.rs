//! Whether somebody wants to see the statements that go to a database: the driver tells each to `tracing`, as `sqlx::query`, at the
//! level `debug`. Nobody does by default, and then it is not even asked: a commit is a few statements, and telling one costs more than
//! making it.

/// Under this name the driver tells them.
pub(crate) const TARGET: &str = "sqlx::query";

/// Tells whether statements are listened to at the moment: to be asked when a store is opened.
pub(crate) fn are_wanted() -> bool {
    tracing::enabled!(target: TARGET, tracing::Level::DEBUG)
}
