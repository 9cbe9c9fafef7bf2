//! A script is several statements in one text: one hop to the connection's thread instead of one each, which is half of
//! the latency of a small commit. sqlx keeps the statements of a text prepared together and numbers their parameters
//! through.

use std::{collections::HashMap, sync::Arc};

use futures_util::TryStreamExt;
use sqlx::{
    Arguments, AssertSqlSafe, Either, Encode, Executor, SqlSafeStr, Sqlite, SqliteConnection, Type,
    sqlite::{SqliteArguments, SqliteRow},
};

use super::{
    rows::{Cell, Grid},
    sql,
};

/// What one statement of a script answered.
#[derive(Default)]
pub(super) struct Answered {
    pub(super) rows: Vec<SqliteRow>,
    pub(super) changed: u64,
}

/// The values of a script's parameters: `$1` first.
#[derive(Default)]
pub(super) struct Values {
    all: SqliteArguments,
    /// How many of grids stand before `$1`.
    ahead: usize,
}

impl Values {
    /// Adds the next value.
    pub(super) fn with<'t>(mut self, value: impl Encode<'t, Sqlite> + Type<Sqlite>) -> Result<Values, sqlx::Error> {
        self.all.add(value).map_err(sqlx::Error::Encode)?;
        Ok(self)
    }

    /// Adds the values of grids, which must come before all others: sqlx counts nameless parameters from the first value.
    pub(super) fn grids(grids: [Grid; GRIDS]) -> Result<Values, sqlx::Error> {
        let mut values = Values::default();
        for cell in grids.into_iter().flat_map(Grid::cells) {
            values = match cell {
                Cell::Number(number) => values.with(number)?,
                Cell::Text(text) => values.with(text)?,
            };
        }
        values.ahead = Arguments::len(&values.all);
        Ok(values)
    }

    /// Adds a table and its number of rows.
    pub(super) fn rows(self, table: super::rows::Table) -> Result<Values, sqlx::Error> {
        let count = table.count();
        self.with(table.finish())?.with(count)
    }

    /// Adds nulls until the next value is `$number`.
    pub(super) fn up_to(mut self, number: usize) -> Result<Values, sqlx::Error> {
        while Arguments::len(&self.all) - self.ahead + 1 < number {
            self = self.with(None::<i64>)?;
        }
        Ok(self)
    }
}

/// Runs a script; returns one answer per statement. Stops at the first error; what ran before it is not undone.
pub(super) async fn run(
    connection: &mut SqliteConnection,
    text: impl SqlSafeStr,
    values: Values,
) -> Result<Vec<Answered>, sqlx::Error> {
    let mut answers = Vec::new();
    let mut answer = Answered::default();
    let mut stream = connection.fetch_many(sqlx::query_with(text, values.all));
    while let Some(step) = stream.try_next().await? {
        match step {
            Either::Right(row) => answer.rows.push(row),
            Either::Left(done) => {
                answer.changed = done.rows_affected();
                answers.push(std::mem::take(&mut answer));
            }
        }
    }
    Ok(answers)
}

/// Runs a script and hands over each row as it comes, with the place of its statement: nothing piles up but what is kept.
pub(super) async fn each(
    connection: &mut SqliteConnection,
    text: impl SqlSafeStr,
    values: Values,
    mut take: impl FnMut(usize, SqliteRow) -> Result<(), sqlx::Error>,
) -> Result<(), sqlx::Error> {
    let mut statement = 0;
    let mut stream = connection.fetch_many(sqlx::query_with(text, values.all));
    while let Some(step) = stream.try_next().await? {
        match step {
            Either::Right(row) => take(statement, row)?,
            Either::Left(_) => statement += 1,
        }
    }
    Ok(())
}

/// Runs a script of which only the rows of one statement are of interest.
pub(super) async fn rows(
    connection: &mut SqliteConnection,
    text: &'static str,
    values: Values,
) -> Result<Vec<SqliteRow>, sqlx::Error> {
    Ok(run(connection, text, values).await?.into_iter().next().unwrap_or_default().rows)
}

/// How a script begins or ends.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Frame {
    /// A batch as a whole: a transaction.
    Whole,
    /// A batch as a whole that was decided from memory: it has no look, and begins as it writes.
    Known,
    /// The same where there is nothing but rows of the log: one statement, which is its own transaction.
    Alone,
    /// One item of a batch, inside the transaction of the batch.
    Single,
    /// Nothing: the transaction goes on.
    Open,
}

/// Puts scripts together from the texts of `sql.rs` and keeps them: equal text is what sqlx finds prepared statements
/// by. There are as many as there are combinations of kinds of items in a batch, a few dozen in practice.
#[derive(Default)]
pub(super) struct Scripts(HashMap<(bool, Frame, u32, [usize; GRIDS]), Arc<str>>);

/// More than this many scripts are never kept.
pub(super) const SCRIPTS: usize = 512;

/// How many statements take their rows as grids, and where in [`WRITE`] the first is.
pub(super) const GRIDS: usize = 3;
const FIRST_GRID: usize = 1;
/// Which of them is that of the log.
const EVENTS: usize = 1;
/// Where [`WRITE`] counts, and the bits of those behind it that change rows nobody has counted.
pub(super) const COUNTS: usize = 5;
const UNCOUNTED: u32 = 0b0111_1111_1100_0000;

const LOOK: [&str; 10] = [
    sql::FENCE,
    sql::LOOK_TURNS,
    sql::LOOK_CONSUMED,
    sql::LOOK_KEYS,
    sql::LOOK_IDS,
    sql::LOOK_RUNS,
    sql::LOOK_MESSAGES,
    sql::LOOK_REFUSALS,
    sql::LOOK_UNREAD,
    sql::CANDIDATES,
];

const WRITE: [&str; 16] = [
    sql::RENEW,
    sql::WRITE_RUNS,
    sql::WRITE_EVENTS,
    sql::WRITE_SETTLED,
    sql::WRITE_CONSUMED,
    sql::ASSERT_TURNS,
    sql::WRITE_ENDED,
    sql::WRITE_ALONG,
    sql::WRITE_UNREAD,
    sql::WRITE_HEARTBEATS_SETTLED,
    sql::WRITE_YIELDS,
    sql::WRITE_MESSAGES,
    sql::WRITE_RECEIVERS,
    sql::WRITE_HEARTBEATS,
    sql::WRITE_PROGRESSED,
    sql::CANDIDATES,
];

impl Scripts {
    /// Returns the script that looks: its frame, then the wanted ones of [`LOOK`].
    pub(super) fn look(&mut self, frame: Frame, wanted: [bool; LOOK.len()]) -> AssertSqlSafe<Arc<str>> {
        let text = self.script(true, frame, &wanted, [0; GRIDS], || {
            let begin = match frame {
                Frame::Whole | Frame::Known | Frame::Alone => sql::BEGIN,
                Frame::Single => sql::SAVEPOINT,
                Frame::Open => "",
            };
            let parts = LOOK.iter().zip(wanted).filter(|(_, wanted)| *wanted).map(|(text, _)| *text);
            std::iter::once(begin).chain(parts).collect()
        });
        // Every part is a constant of `sql.rs`.
        AssertSqlSafe(text)
    }

    /// Returns the script that writes: the wanted ones of [`WRITE`], then its frame.
    pub(super) fn write(&mut self, frame: Frame, wanted: [bool; WRITE.len()], sizes: [usize; GRIDS]) -> AssertSqlSafe<Arc<str>> {
        let text = self.script(false, frame, &wanted, sizes, || {
            if frame == Frame::Alone {
                let mut text = String::new();
                let ahead = grid(&mut text, sql::WRITE_EVENTS_ALONE, sizes[EVENTS], frame);
                return behind(&text, ahead);
            }
            let mut text = String::from(if frame == Frame::Known { sql::BEGIN } else { "" });
            let mut ahead = 0;
            for (place, part) in WRITE.into_iter().enumerate().filter(|(place, _)| wanted[*place]) {
                match place.checked_sub(FIRST_GRID).and_then(|grid| sizes.get(grid)) {
                    Some(size) => ahead += grid(&mut text, part, *size, frame),
                    None if place == COUNTS && frame == Frame::Known => text.push_str(sql::KNOWN),
                    None => text.push_str(part),
                }
            }
            text.push_str(match frame {
                Frame::Whole | Frame::Known if !counted(&wanted) => sql::TOTAL,
                _ => "",
            });
            text.push_str(match frame {
                Frame::Whole | Frame::Known => sql::COMMIT,
                Frame::Single => sql::RELEASE,
                Frame::Open | Frame::Alone => "",
            });
            behind(&text, ahead)
        });
        // Every part is a constant of `sql.rs`, or rows of question marks.
        AssertSqlSafe(text)
    }

    fn script(
        &mut self,
        look: bool,
        frame: Frame,
        wanted: &[bool],
        sizes: [usize; GRIDS],
        text: impl FnOnce() -> String,
    ) -> Arc<str> {
        if self.0.len() > SCRIPTS {
            self.0.clear();
        }
        let script = self.0.entry((look, frame, mask(wanted), sizes)).or_insert_with(|| text().into());
        Arc::clone(script)
    }
}

/// Tells whether a batch is nothing but rows of the log, few enough for one statement.
pub(super) fn alone(wanted: &[bool; WRITE.len()], sizes: [usize; GRIDS]) -> bool {
    let log = |place| place == FIRST_GRID + EVENTS || place == COUNTS;
    (1..=Grid::MOST).contains(&sizes[EVENTS]) && (0..WRITE.len()).all(|place| log(place) || !wanted[place])
}

/// Tells whether it is known how many rows these statements change.
pub(super) fn counted(wanted: &[bool]) -> bool {
    mask(wanted) & UNCOUNTED == 0
}

fn mask(wanted: &[bool]) -> u32 {
    wanted.iter().rev().fold(0, |mask, wanted| mask << 1 | u32::from(*wanted))
}

/// Adds a statement for so many rows, or several; returns how many values they take.
fn grid(text: &mut String, statement: &str, size: usize, frame: Frame) -> usize {
    let from = statement.find("VALUES ").map_or(0, |at| at + "VALUES ".len());
    let to = statement[from..].find(')').map_or(from, |at| from + at + 1);
    let (head, row, tail) = (&statement[..from], &statement[from..to], &statement[to..]);
    // A failing statement need not be undone by itself where the whole transaction is: saves a copy of each page that it
    // changes. Inside a savepoint the transaction has to live on.
    let head = if frame == Frame::Single {
        head.to_owned()
    } else {
        head.replacen("INSERT", "INSERT OR ROLLBACK", 1).replacen("UPDATE", "UPDATE OR ROLLBACK", 1)
    };
    let mut left = size;
    while left > 0 {
        let rows = left.min(Grid::MOST);
        text.push_str(&head);
        text.push_str(&vec![row; rows].join(","));
        text.push_str(tail);
        left -= rows;
    }
    size * row.matches('?').count()
}

/// Returns a script whose `$1` is the value behind so many others.
fn behind(text: &str, ahead: usize) -> String {
    let mut parts = text.split('$');
    let mut shifted = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        // What is no number would be no parameter of ours: it stays and fails to bind.
        let number = part[..end].parse().map_or_else(|_| part[..end].to_owned(), |number: usize| (number + ahead).to_string());
        shifted.extend(["$", &number, &part[end..]]);
    }
    shifted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_of_grids_come_first_and_the_numbers_of_all_others_move_behind_them() {
        let mut text = String::new();
        assert_eq!(grid(&mut text, "INSERT INTO t SELECT $2 FROM (VALUES (?, ?)) v;", 2, Frame::Whole), 4);
        text.push_str("SELECT $1, $31;");
        let whole = behind(&text, 4);
        assert_eq!(whole, "INSERT OR ROLLBACK INTO t SELECT $6 FROM (VALUES (?, ?),(?, ?)) v;SELECT $5, $35;");
        let mut single = String::new();
        grid(&mut single, "INSERT INTO t VALUES (?);", 1, Frame::Single);
        assert_eq!(single, "INSERT INTO t VALUES (?);", "a savepoint outlives the statement");
    }

    #[test]
    fn what_is_not_counted_is_what_stands_behind_the_count() {
        for (place, text) in WRITE.into_iter().enumerate() {
            let wanted: Vec<bool> = (0..WRITE.len()).map(|other| other == place).collect();
            let rows_unknown = place > COUNTS && text != sql::CANDIDATES;
            assert_eq!(counted(&wanted), !rows_unknown, "{text}");
        }
        assert_eq!(WRITE[COUNTS], sql::ASSERT_TURNS);
        assert_eq!(WRITE[FIRST_GRID + EVENTS], sql::WRITE_EVENTS);
        for (place, text) in WRITE.into_iter().enumerate() {
            assert_eq!(text.contains('?'), (FIRST_GRID..FIRST_GRID + GRIDS).contains(&place), "{text}");
        }
    }
}
