//! The texts that read a page of a log; the rules of `sql.rs` hold here too.

use crate::store::packed::short;

macro_rules! page {
    () => {
        "FROM (SELECT commit_no, digest, body FROM events WHERE run = $1 AND commit_no >= $2 ORDER BY commit_no LIMIT (SELECT $3))"
    };
}

/// A page of a log in one row: how many rows it has, and the short ones of them. All columns are made in one pass, so that they
/// agree in their order. A blob is taken as text as it is, in full length: `group_concat` and `CAST` change nothing of it.
pub(in crate::store::sqlite) const HISTORY: &str = concat!(
    "SELECT count(*), group_concat(commit_no) FILTER (WHERE length(body) <= ",
    short!(),
    "), group_concat(length(body)) FILTER (WHERE length(body) <= ",
    short!(),
    "), CAST(group_concat(digest, '') FILTER (WHERE length(body) <= ",
    short!(),
    ") AS BLOB), CAST(group_concat(body, '') FILTER (WHERE length(body) <= ",
    short!(),
    ") AS BLOB) ",
    page!(),
    ";"
);

/// The rows of a page that are not short.
pub(in crate::store::sqlite) const HISTORY_LONG: &str =
    concat!("SELECT commit_no, digest, body ", page!(), " WHERE length(body) > ", short!(), ";");
