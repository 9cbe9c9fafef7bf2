//! The affairs of nodes: who is there, who is dead, what is freed. Who is proved to be dead is read from the locks beside the
//! database, outside of any transaction: a lock that is free once is free for ever, since no incarnation lives twice.

use std::{collections::HashMap, path::Path, time::Duration};

use sqlx::Row;

use super::{
    commit::Writer,
    lock::Life,
    look, rows,
    script::{Answered, Values},
    sql,
};
use crate::{
    kernel::{
        id::{BuildId, Incarnation, RunKey},
        time::Timestamp,
    },
    store::{NewNode, NodeRow, NodeState, Renewed, StoreError},
};

/// Enters a node whose lock is held. `before` is who was entered through this store before it.
pub(super) async fn register(
    writer: &mut Writer,
    database: &Path,
    node: &NewNode,
    before: Option<Incarnation>,
) -> Result<u64, StoreError> {
    let mut dead = incarnations(writer, sql::UNPROVED, Values::default()).await?;
    dead.retain(|node| Life::is_over(database, *node));
    // Dead or not: whatever it owned is to go on here.
    dead.extend(before);
    let values = Values::default().with(look::name(node.incarnation)).and_then(|values| values.with(node.now.0));
    let values = values.and_then(|values| values.with(node.build.0)).and_then(|values| values.with(node.label.clone()));
    let values = values.and_then(|values| values.with(micros(node.lease))).and_then(|values| values.with(node.can));
    let values = values.and_then(|values| values.with(hex(&dead)));
    let answers = writer.transaction(sql::REGISTER, values.map_err(encoding)?).await?;
    clear_up(writer, database).await?;
    // Behind BEGIN and the two statements that mark nodes.
    Ok(changed(&answers, 3))
}

/// Removes the files of those who are no more: who was taken for dead by its lease, and lived on when it was passed over, and
/// who died before its row was written.
async fn clear_up(writer: &mut Writer, database: &Path) -> Result<(), StoreError> {
    let left = Life::left(database);
    let found = writer.read(sql::ENTERED, Values::default().with(hex(&left)).map_err(encoding)?).await?;
    let found = found.iter().map(|row| Ok((rows::incarnation(row.try_get(0)?)?, row.try_get(1)?)));
    let lives: HashMap<Incarnation, bool> = found.collect::<Result<_, sqlx::Error>>().map_err(|error| damaged(&error))?;
    for node in left {
        match lives.get(&node) {
            Some(true) => {}
            Some(false) => Life::bury(database, node),
            None => Life::clear(database, node),
        }
    }
    Ok(())
}

pub(super) async fn retire(
    writer: &mut Writer,
    incarnation: Incarnation,
    free: Option<(Timestamp, &[RunKey])>,
) -> Result<u64, StoreError> {
    let name = look::name(incarnation);
    let Some((now, keep)) = free else {
        let values = Values::default().with(name).map_err(encoding)?;
        writer.transaction(sql::RETIRE, values).await?;
        return Ok(0);
    };
    let lingers = (!keep.is_empty()).then_some(now.0);
    let values = Values::default().with(name).and_then(|values| values.with(now.0));
    let values = values.and_then(|values| values.with(super::read::keys(keep).unwrap_or_else(|| "[]".into())));
    let values = values.and_then(|values| values.with(lingers));
    let answers = writer.transaction(sql::RETIRE_AND_FREE, values.map_err(encoding)?).await?;
    Ok(changed(&answers, 4))
}

pub(super) async fn renew(writer: &mut Writer, incarnation: Incarnation, held: u32) -> Result<Renewed, StoreError> {
    let values = Values::default().with(look::name(incarnation)).and_then(|values| values.with(i64::from(held)));
    let answers = writer.transaction(sql::RENEW_ALONE, values.map_err(encoding)?).await?;
    Ok(Renewed { live: changed(&answers, 1) > 0, store_now: None })
}

pub(super) async fn drain(writer: &mut Writer, incarnation: Incarnation) -> Result<(), StoreError> {
    let values = Values::default().with(look::name(incarnation)).map_err(encoding)?;
    writer.transaction(sql::DRAIN, values).await.map(drop)
}

pub(super) async fn take_over(
    writer: &mut Writer,
    database: &Path,
    incarnation: Incarnation,
    seen_beat: u64,
) -> Result<bool, StoreError> {
    let values = Values::default().with(look::name(incarnation)).and_then(|values| values.with(rows::number(seen_beat)));
    let answers = writer.transaction(sql::TAKE_OVER, values.map_err(encoding)?).await?;
    // The last statement but COMMIT counts what still lives.
    let lives = answers.iter().rev().nth(1).and_then(|answer| answer.rows.first()).map(|row| row.try_get::<i64, _>(0));
    let dead = lives.transpose().map_err(|error| damaged(&error))? == Some(0);
    if dead {
        Life::bury(database, incarnation);
    }
    Ok(dead)
}

pub(super) async fn sweep(writer: &mut Writer, database: &Path, now: Timestamp, most: u32) -> Result<u64, StoreError> {
    // A look first: mostly there is nothing, and then nobody has to wait for a turn of ours.
    let mut unswept = incarnations(writer, sql::UNSWEPT, Values::default()).await?;
    if unswept.is_empty() {
        return Ok(0);
    }
    unswept.retain(|node| Life::is_over(database, *node));
    let values = Values::default().with(now.0).and_then(|values| values.with(i64::from(most)));
    let values = values.and_then(|values| values.with(hex(&unswept)));
    let answers = writer.transaction(sql::SWEEP, values.map_err(encoding)?).await?;
    Ok(changed(&answers, 1))
}

pub(super) async fn nodes(writer: &mut Writer, database: &Path) -> Result<Vec<NodeRow>, StoreError> {
    let found = writer.read(sql::NODES, Values::default()).await?;
    let found = found.iter().map(|row| {
        let incarnation = rows::incarnation(row.try_get(0)?)?;
        let state = match row.try_get::<i64, _>(3)? {
            1 => NodeState::Live,
            2 => NodeState::Draining,
            _ => NodeState::Dead,
        };
        Ok(NodeRow {
            incarnation,
            build: BuildId(row.try_get(1)?),
            label: row.try_get(2)?,
            state,
            beat: rows::large(row, 4)?,
            lease: Duration::from_micros(rows::large(row, 5)?),
            held: rows::small(row, 7)?,
            can: row.try_get(6)?,
            proved_dead: state == NodeState::Dead || Life::is_over(database, incarnation),
        })
    });
    found.collect::<Result<_, sqlx::Error>>().map_err(|error| damaged(&error))
}

async fn incarnations(writer: &mut Writer, text: &'static str, values: Values) -> Result<Vec<Incarnation>, StoreError> {
    let found = writer.read(text, values).await?;
    let found = found.iter().map(|row| rows::incarnation(row.try_get(0)?));
    found.collect::<Result<_, _>>().map_err(|error| damaged(&error))
}

/// Returns incarnations as SQLite's `hex` writes them.
fn hex(nodes: &[Incarnation]) -> String {
    let names: Vec<String> = nodes.iter().map(|node| format!("{:X}", node.0.simple())).collect();
    rows::array(&names)
}

fn changed(answers: &[Answered], place: usize) -> u64 {
    answers.get(place).map_or(0, |answer| answer.changed)
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn encoding(error: sqlx::Error) -> StoreError {
    StoreError::Other(error.to_string())
}

fn damaged(error: &sqlx::Error) -> StoreError {
    StoreError::Other(format!("a row of a node does not decode: {error}"))
}
