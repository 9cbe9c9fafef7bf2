//! Rows as they go into the database (JSON arrays, bound values and one blob) and as they come out of it.

use std::fmt::Write;

use sqlx::{Row, sqlite::SqliteRow};
use uuid::Uuid;

use crate::{
    kernel::{
        codec::Record,
        id::{BuildId, CommitNo, Digest, Incarnation, RunId, RunKey},
        time::Timestamp,
    },
    store::{Status, Summary, Undecoded, Unread, memory::lines::Beside, packed::Packed},
};

/// The JSON text of an array of rows, each an array of numbers, texts and nulls, and how many they are.
pub(super) struct Table {
    text: String,
    rows: i64,
}

impl Table {
    pub(super) fn new() -> Table {
        Table { text: String::from("["), rows: 0 }
    }

    /// Opens a row; it closes when it is dropped.
    pub(super) fn row(&mut self) -> Fields<'_> {
        if self.rows > 0 {
            self.text.push(',');
        }
        self.rows += 1;
        self.text.push('[');
        Fields { text: &mut self.text, first: true }
    }

    /// Adds a row that is a bare number.
    pub(super) fn number(&mut self, number: i64) {
        if self.rows > 0 {
            self.text.push(',');
        }
        self.rows += 1;
        // Writing to a string cannot fail.
        let _ = write!(self.text, "{number}");
    }

    /// Adds a row that is a bare text.
    pub(super) fn text(&mut self, text: &str) {
        if self.rows > 0 {
            self.text.push(',');
        }
        self.rows += 1;
        quote(&mut self.text, text);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    pub(super) fn count(&self) -> i64 {
        self.rows
    }

    /// Returns the text, or `None` when there are no rows.
    pub(super) fn finish(mut self) -> Option<String> {
        self.text.push(']');
        (self.rows > 0).then_some(self.text)
    }
}

/// One row of a [`Table`] under way.
pub(super) struct Fields<'a> {
    text: &'a mut String,
    first: bool,
}

impl Fields<'_> {
    fn comma(&mut self) {
        if !std::mem::take(&mut self.first) {
            self.text.push(',');
        }
    }

    pub(super) fn int(mut self, number: impl Into<i64>) -> Self {
        self.comma();
        let _ = write!(self.text, "{}", number.into());
        self
    }

    pub(super) fn maybe(mut self, number: Option<i64>) -> Self {
        self.comma();
        match number {
            Some(number) => {
                let _ = write!(self.text, "{number}");
            }
            None => self.text.push_str("null"),
        }
        self
    }

    pub(super) fn text(mut self, text: &str) -> Self {
        self.comma();
        quote(self.text, text);
        self
    }

    pub(super) fn maybe_text(mut self, text: Option<&str>) -> Self {
        self.comma();
        match text {
            Some(text) => quote(self.text, text),
            None => self.text.push_str("null"),
        }
        self
    }
}

impl Drop for Fields<'_> {
    fn drop(&mut self) {
        self.text.push(']');
    }
}

fn quote(to: &mut String, text: &str) {
    to.push('"');
    for c in text.chars() {
        match c {
            '"' => to.push_str("\\\""),
            '\\' => to.push_str("\\\\"),
            c if c < ' ' => {
                let _ = write!(to, "\\u{:04x}", u32::from(c));
            }
            c => to.push(c),
        }
    }
    to.push('"');
}

/// Rows that are bound value by value: to a statement with `VALUES`, whose row is repeated to a size that fits.
#[derive(Default)]
pub(super) struct Grid {
    cells: Vec<Cell>,
    rows: usize,
}

/// One value of a [`Grid`].
pub(super) enum Cell {
    Number(Option<i64>),
    Text(String),
}

impl Grid {
    /// One statement takes no more rows than this; there are several then.
    pub(super) const MOST: usize = 512;

    /// Adds a row, as wide as all others.
    pub(super) fn row<const WIDTH: usize>(&mut self, cells: [Cell; WIDTH]) {
        self.rows += 1;
        self.cells.extend(cells);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    pub(super) fn count(&self) -> i64 {
        length(self.rows)
    }

    /// Returns for how many rows the statements are written: a few sizes, so that there are few of them to prepare. Sizes between the
    /// powers of two were tried, and made no difference.
    pub(super) fn size(&self) -> usize {
        match self.rows {
            0 => 0,
            rows if rows <= Grid::MOST => rows.next_power_of_two(),
            rows => rows.next_multiple_of(Grid::MOST),
        }
    }

    /// Returns the values of all rows, and of those that fill up to [`size`](Grid::size).
    pub(super) fn cells(self) -> impl Iterator<Item = Cell> {
        let width = self.cells.len() / self.rows.max(1);
        let fill = (self.size() - self.rows) * width;
        self.cells.into_iter().chain(std::iter::repeat_with(|| Cell::Number(None)).take(fill))
    }
}

impl From<i64> for Cell {
    fn from(number: i64) -> Cell {
        Cell::Number(Some(number))
    }
}

impl From<u32> for Cell {
    fn from(number: u32) -> Cell {
        Cell::Number(Some(number.into()))
    }
}

impl From<i32> for Cell {
    fn from(number: i32) -> Cell {
        Cell::Number(Some(number.into()))
    }
}

impl From<Option<i64>> for Cell {
    fn from(number: Option<i64>) -> Cell {
        Cell::Number(number)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Cell {
        Cell::Text(text.to_owned())
    }
}

/// Returns texts as they are stored in one column.
pub(super) fn array(texts: &[String]) -> String {
    let mut table = Table::new();
    texts.iter().for_each(|text| table.text(text));
    table.finish().unwrap_or_else(|| "[]".into())
}

/// The bytes of a batch, in one value; rows name places in it.
#[derive(Default)]
pub(super) struct Blob(Vec<u8>);

impl Blob {
    /// Adds bytes; returns where they begin, counted from 1 as `substr` does, and how many they are.
    pub(super) fn put(&mut self, bytes: &[u8]) -> (i64, i64) {
        let from = length(self.0.len()) + 1;
        self.0.extend_from_slice(bytes);
        (from, length(bytes.len()))
    }

    /// Adds three numbers of 20 characters each, as `packed!` in `sql.rs` reads them; returns where they begin.
    pub(super) fn pack(&mut self, numbers: [i64; 3]) -> i64 {
        use std::io::Write;
        let from = length(self.0.len()) + 1;
        for number in numbers {
            // Writing to a vector cannot fail.
            let _ = write!(self.0, "{number:20}");
        }
        from
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Returns a number as SQLite keeps it. What does not fit is nothing that was ever stored, and equals none of it.
pub(super) fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn length(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// How many columns `columns!` in `sql.rs` names; what follows them is the query's own.
pub(super) const COLUMNS: usize = 23;

/// Reads a summary and what a row has beside it.
pub(super) fn summary(row: &SqliteRow) -> Result<(Summary, Beside), sqlx::Error> {
    let summary = Summary {
        run: RunKey(row.try_get(0)?),
        id: RunId { id: row.try_get(1)?, run_no: small(row, 2)? },
        workflow: row.try_get(3)?,
        version: small(row, 4)?,
        status: Status::of_code(row.try_get::<i64, _>(5)?).ok_or_else(|| damaged("a status is unknown"))?,
        owner: row.try_get::<Option<Vec<u8>>, _>(6)?.map(|bytes| incarnation(&bytes)).transpose()?,
        epoch: large(row, 7)?,
        wake_at: row.try_get::<Option<i64>, _>(8)?.map(Timestamp),
        priority: row.try_get(9)?,
        queue: row.try_get(10)?,
        tags: tags(row.try_get(11)?)?,
        needs: tags(row.try_get(22)?)?,
        created_at: Timestamp(row.try_get(12)?),
        ended_at: row.try_get::<Option<i64>, _>(13)?.map(Timestamp),
        deadline: row.try_get::<Option<i64>, _>(14)?.map(Timestamp),
        input_digest: digest(row.try_get(15)?)?,
        inbox_seq: large(row, 16)?,
        blocked_build: row.try_get::<Option<i64>, _>(17)?.map(BuildId),
        reason: row.try_get(18)?,
    };
    Ok((summary, Beside { claims: small(row, 19)?, forced: row.try_get(20)?, format: small(row, 21)? }))
}

pub(super) fn tags(text: &str) -> Result<Vec<String>, sqlx::Error> {
    if text == "[]" { Ok(Vec::new()) } else { serde_json::from_str(text).map_err(|_| damaged("tags do not decode")) }
}

/// Reads a log row from its number, digest and body.
pub(super) fn record(row: &SqliteRow, from: usize) -> Result<(CommitNo, Record), sqlx::Error> {
    let body: Vec<u8> = row.try_get(from + 2)?;
    Ok((small(row, from)?, Record { digest: digest(row.try_get(from + 1)?)?, body: body.into() }))
}

/// Reads the rows of a page that are told as one.
pub(super) fn packed(row: &SqliteRow, from: usize) -> Result<Vec<(CommitNo, Record)>, sqlx::Error> {
    let Some(numbers) = row.try_get::<Option<&str>, _>(from)? else { return Ok(Vec::new()) };
    let bodies: Vec<u8> = row.try_get(from + 3)?;
    let lengths = row.try_get(from + 1)?;
    let packed = Packed { numbers, lengths, digests: row.try_get(from + 2)?, bodies: bodies.into() };
    packed.rows().map_err(damaged)
}

/// Reads an unread message from its number, id, body and time; one that does not decode is no error of the whole.
pub(super) fn unread(row: &SqliteRow, from: usize) -> Result<Result<Unread, Undecoded>, sqlx::Error> {
    Ok(Unread::decode(large(row, from)?, row.try_get(from + 1)?, row.try_get(from + 2)?, Timestamp(row.try_get(from + 3)?)))
}

/// Reads a heartbeat from its position, attempt and details.
pub(super) fn heartbeat(row: &SqliteRow, from: usize) -> Result<(u32, u32, bytes::Bytes), sqlx::Error> {
    let details: Vec<u8> = row.try_get(from + 2)?;
    Ok((small(row, from)?, small(row, from + 1)?, details.into()))
}

pub(super) fn incarnation(bytes: &[u8]) -> Result<Incarnation, sqlx::Error> {
    Uuid::from_slice(bytes).map(Incarnation).map_err(|_| damaged("an incarnation does not have 16 bytes"))
}

pub(super) fn digest(bytes: &[u8]) -> Result<Digest, sqlx::Error> {
    bytes.try_into().map(Digest).map_err(|_| damaged("a digest does not have 32 bytes"))
}

pub(super) fn small(row: &SqliteRow, column: usize) -> Result<u32, sqlx::Error> {
    u32::try_from(row.try_get::<i64, _>(column)?).map_err(|_| damaged("a number is out of range"))
}

pub(super) fn large(row: &SqliteRow, column: usize) -> Result<u64, sqlx::Error> {
    u64::try_from(row.try_get::<i64, _>(column)?).map_err(|_| damaged("a number is negative"))
}

/// A stored value is not one that this store writes. Told like an SQL error, so that in a batch it costs only its item.
pub(super) fn damaged(what: &str) -> sqlx::Error {
    sqlx::Error::Decode(what.into())
}
