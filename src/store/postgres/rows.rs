//! Rows as they come out of the database, and the few values that are written in another form than they have here.

use sqlx::{Row, postgres::PgRow};
use uuid::Uuid;

use crate::{
    kernel::{
        codec::Record,
        id::{BuildId, CommitNo, Digest, Incarnation, RunId, RunKey},
        time::Timestamp,
    },
    store::{Status, Summary, Undecoded, Unread, memory::lines::Beside, packed::Packed},
};

/// Returns a number as PostgreSQL keeps it. What does not fit is nothing that was ever stored, and equals none of it.
pub(super) fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Returns texts as the text of a PostgreSQL array: arrays of arrays are not sent, since they cannot be ragged.
pub(super) fn array(texts: &[String]) -> String {
    let mut array = String::from("{");
    for text in texts {
        if array.len() > 1 {
            array.push(',');
        }
        array.push('"');
        for c in text.chars() {
            if matches!(c, '"' | '\\') {
                array.push('\\');
            }
            array.push(c);
        }
        array.push('"');
    }
    array.push('}');
    array
}

/// How many columns `columns!` in `sql.rs` names; what follows them is the query's own.
pub(super) const COLUMNS: usize = 23;

/// Reads a summary and what a row has beside it.
pub(super) fn summary(row: &PgRow) -> Result<(Summary, Beside), sqlx::Error> {
    let summary = Summary {
        run: RunKey(row.try_get(0)?),
        id: RunId { id: row.try_get(1)?, run_no: small(row, 2)? },
        workflow: row.try_get(3)?,
        version: small(row, 4)?,
        status: Status::of_code(row.try_get::<i16, _>(5)?.into()).ok_or_else(|| damaged("a status is unknown"))?,
        owner: row.try_get::<Option<Uuid>, _>(6)?.map(Incarnation),
        epoch: large(row, 7)?,
        wake_at: row.try_get::<Option<i64>, _>(8)?.map(Timestamp),
        priority: row.try_get(9)?,
        queue: row.try_get(10)?,
        tags: row.try_get(11)?,
        created_at: Timestamp(row.try_get(12)?),
        ended_at: row.try_get::<Option<i64>, _>(13)?.map(Timestamp),
        deadline: row.try_get::<Option<i64>, _>(14)?.map(Timestamp),
        input_digest: digest(row.try_get(15)?)?,
        inbox_seq: large(row, 16)?,
        blocked_build: row.try_get::<Option<i64>, _>(17)?.map(BuildId),
        reason: row.try_get(18)?,
        needs: row.try_get(22)?,
    };
    let claims = u32::try_from(row.try_get::<i32, _>(19)?).map_err(|_| damaged("a number is negative"))?;
    let format = u32::try_from(row.try_get::<i32, _>(21)?).map_err(|_| damaged("a number is negative"))?;
    Ok((summary, Beside { claims, forced: row.try_get(20)?, format }))
}

/// Reads a log row from its number, digest and body.
pub(super) fn record(row: &PgRow, from: usize) -> Result<(CommitNo, Record), sqlx::Error> {
    let body: Vec<u8> = row.try_get(from + 2)?;
    Ok((small(row, from)?, Record { digest: digest(row.try_get(from + 1)?)?, body: body.into() }))
}

/// Reads the rows of a page that are told as one.
pub(super) fn packed(row: &PgRow, from: usize) -> Result<Vec<(CommitNo, Record)>, sqlx::Error> {
    let Some(numbers) = row.try_get::<Option<&str>, _>(from)? else { return Ok(Vec::new()) };
    let bodies: Vec<u8> = row.try_get(from + 3)?;
    let lengths = row.try_get(from + 1)?;
    let packed = Packed { numbers, lengths, digests: row.try_get(from + 2)?, bodies: bodies.into() };
    packed.rows().map_err(damaged)
}

/// Reads an unread message from its number, id, body and time; one that does not decode is no error of the whole.
pub(super) fn unread(row: &PgRow, from: usize) -> Result<Result<Unread, Undecoded>, sqlx::Error> {
    Ok(Unread::decode(large(row, from)?, row.try_get(from + 1)?, row.try_get(from + 2)?, Timestamp(row.try_get(from + 3)?)))
}

/// Reads a heartbeat from its position, attempt and details.
pub(super) fn heartbeat(row: &PgRow, from: usize) -> Result<(u32, u32, bytes::Bytes), sqlx::Error> {
    let details: Vec<u8> = row.try_get(from + 2)?;
    Ok((small(row, from)?, small(row, from + 1)?, details.into()))
}

pub(super) fn digest(bytes: &[u8]) -> Result<Digest, sqlx::Error> {
    bytes.try_into().map(Digest).map_err(|_| damaged("a digest does not have 32 bytes"))
}

pub(super) fn small(row: &PgRow, column: usize) -> Result<u32, sqlx::Error> {
    u32::try_from(row.try_get::<i64, _>(column)?).map_err(|_| damaged("a number is out of range"))
}

pub(super) fn large(row: &PgRow, column: usize) -> Result<u64, sqlx::Error> {
    u64::try_from(row.try_get::<i64, _>(column)?).map_err(|_| damaged("a number is negative"))
}

/// A stored value is not one that this store writes.
pub(super) fn damaged(what: &str) -> sqlx::Error {
    sqlx::Error::Decode(what.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_keeps_whatever_a_text_has() {
        assert_eq!(array(&[]), "{}");
        assert_eq!(array(&["a b".into(), "NULL".into(), String::new()]), r#"{"a b","NULL",""}"#);
        assert_eq!(array(&[r#"quote " back \ {,}"#.into()]), r#"{"quote \" back \\ {,}"}"#);
    }
}
