//! The affairs of nodes: who is there, who is dead, what is freed.

use std::time::Duration;

use sqlx::Row;

use super::{
    commit::Writer,
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

/// All other nodes are dead, since this process has the lock.
pub(super) async fn register(writer: &mut Writer, node: &NewNode) -> Result<u64, StoreError> {
    let values = Values::default().with(look::name(node.incarnation)).and_then(|values| values.with(node.now.0));
    let values = values.and_then(|values| values.with(node.build.0)).and_then(|values| values.with(node.label.clone()));
    let values = values.and_then(|values| values.with(micros(node.lease))).and_then(|values| values.with(node.can));
    let answers = writer.transaction(sql::REGISTER, values.map_err(encoding)?).await?;
    // Behind BEGIN and the two statements that mark nodes.
    Ok(changed(&answers, 3))
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

pub(super) async fn renew(writer: &mut Writer, incarnation: Incarnation) -> Result<Renewed, StoreError> {
    let values = Values::default().with(look::name(incarnation)).map_err(encoding)?;
    let answers = writer.transaction(sql::RENEW_ALONE, values).await?;
    Ok(Renewed { live: changed(&answers, 1) > 0, store_now: None })
}

pub(super) async fn drain(writer: &mut Writer, incarnation: Incarnation) -> Result<(), StoreError> {
    let values = Values::default().with(look::name(incarnation)).map_err(encoding)?;
    writer.transaction(sql::DRAIN, values).await.map(drop)
}

pub(super) async fn take_over(writer: &mut Writer, incarnation: Incarnation, seen_beat: u64) -> Result<bool, StoreError> {
    let values = Values::default().with(look::name(incarnation)).and_then(|values| values.with(rows::number(seen_beat)));
    let answers = writer.transaction(sql::TAKE_OVER, values.map_err(encoding)?).await?;
    // The last statement but COMMIT counts what still lives.
    let lives = answers.iter().rev().nth(1).and_then(|answer| answer.rows.first()).map(|row| row.try_get::<i64, _>(0));
    Ok(lives.transpose().map_err(|error| damaged(&error))? == Some(0))
}

pub(super) async fn sweep(writer: &mut Writer, now: Timestamp, most: u32) -> Result<u64, StoreError> {
    let values = Values::default().with(now.0).and_then(|values| values.with(i64::from(most)));
    let answers = writer.transaction(sql::SWEEP, values.map_err(encoding)?).await?;
    Ok(changed(&answers, 1))
}

pub(super) async fn nodes(writer: &mut Writer) -> Result<Vec<NodeRow>, StoreError> {
    let answers = writer.transaction(sql::NODES, Values::default()).await?;
    let found = answers.into_iter().nth(1).unwrap_or_default().rows;
    let found = found.iter().map(|row| {
        let state = match row.try_get::<i64, _>(3)? {
            1 => NodeState::Live,
            2 => NodeState::Draining,
            _ => NodeState::Dead,
        };
        Ok(NodeRow {
            incarnation: rows::incarnation(row.try_get(0)?)?,
            build: BuildId(row.try_get(1)?),
            label: row.try_get(2)?,
            state,
            beat: rows::large(row, 4)?,
            lease: Duration::from_micros(rows::large(row, 5)?),
            held: 0,
            can: row.try_get(6)?,
            proved_dead: state == NodeState::Dead,
        })
    });
    found.collect::<Result<_, sqlx::Error>>().map_err(|error| damaged(&error))
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
