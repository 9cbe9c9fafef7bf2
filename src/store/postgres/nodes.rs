//! The affairs of nodes, on whichever session: the writer's, or the Warden's own on another thread.
//!
//! A takeover locks the node's row and then its lanes, one after the other, and *changes* both in the same transaction: a
//! lock alone would not stop a commit whose moment is older. It waits for the commits under way; those that do not come to
//! an end (a stopped process, a cut network) are ended on the server, by the process ids in the lanes.

use std::time::Duration;

use sqlx::Row;
use uuid::Uuid;

use super::{rows, session::Session, sql, trouble::Trouble, values::Values};
use crate::{
    kernel::{
        id::{BuildId, Incarnation, RunKey},
        time::Timestamp,
    },
    store::{NewNode, NodeRow, NodeState, Renewed, StoreError},
};

/// How long a takeover waits for commits under way before it ends their sessions.
const HOLD_UP: &str = "1000";

/// How often sessions are ended before the takeover gives up for now.
const TRIES: u32 = 5;

/// Enters a node; returns its short name.
pub(super) async fn register(session: &mut Session, node: &NewNode) -> Result<i32, Trouble> {
    if !session.again(sql::NODE, Values::default().with(node.incarnation.0)).await?.is_empty() {
        let why = format!("incarnation {} was registered before", node.incarnation);
        return Err(Trouble::Store(StoreError::Other(why)));
    }
    let entered = session.transaction(async |session| {
        number(session).await?;
        let backend = session.backend().cloned().ok_or_else(|| Trouble::Lost("there is no connection".into()))?;
        let values = Values::default()
            .with(node.incarnation.0)
            .with(node.build.0)
            .with(node.label.replace('\0', "\u{fffd}"))
            .with(micros(node.lease))
            .with(node.can)
            .with(backend.pid)
            .with(backend.start);
        let rows = session.rows(sql::ENTER, values).await?;
        let row = rows.first().ok_or_else(|| Trouble::Statement("the node's row was not written".into()))?;
        row.try_get::<i32, _>(0).map_err(|error| session.home.sort(&error))
    });
    let short = entered.await?;
    session.belong_to(short).await?;
    Ok(short)
}

/// Marks a node dead whatever its beat, and with `free` frees its runs but those to keep.
pub(super) async fn retire(
    session: &mut Session,
    incarnation: Incarnation,
    free: Option<Timestamp>,
    keep: &[RunKey],
    now: Timestamp,
) -> Result<u64, Trouble> {
    let killed = kill(session, incarnation, None, async |session: &mut Session, node| {
        let lingers = (!keep.is_empty()).then_some(now.0);
        session.rows(sql::LINGER, Values::default().with(node).with(lingers).with(free.is_some())).await?;
        let Some(now) = free else { return Ok(0) };
        let keep: Vec<i64> = keep.iter().map(|run| run.0).collect();
        let freed = session.rows(sql::FREE, Values::default().with(node).with(now.0).with(keep)).await?;
        Ok(freed.len() as u64)
    });
    Ok(match killed.await? {
        Killed::Now(freed) => freed,
        Killed::Unknown | Killed::Spared => 0,
    })
}

/// Marks a node dead if its beat is still the one that was seen; tells whether it is dead.
pub(super) async fn take_over(session: &mut Session, incarnation: Incarnation, seen_beat: u64) -> Result<bool, Trouble> {
    let killed = kill(session, incarnation, Some(seen_beat), async |_: &mut Session, _| Ok(0)).await?;
    Ok(!matches!(killed, Killed::Spared))
}

enum Killed {
    /// With what came of the rest of the transaction.
    Now(u64),
    /// Nobody knows such a node.
    Unknown,
    /// It has renewed its lease.
    Spared,
}

async fn kill(
    session: &mut Session,
    incarnation: Incarnation,
    seen_beat: Option<u64>,
    mut then: impl AsyncFnMut(&mut Session, i32) -> Result<u64, Trouble>,
) -> Result<Killed, Trouble> {
    let mut tries = 0;
    loop {
        let mut holders = None;
        let killed = session.transaction(async |session| {
            number(session).await?;
            session.rows(sql::LOCK_TIMEOUT, Values::default().with(HOLD_UP)).await?;
            let rows = session.rows(sql::LOCK_NODE, Values::default().with(incarnation.0)).await?;
            let Some(row) = rows.first() else { return Ok(Killed::Unknown) };
            let read = || Ok((row.try_get::<i32, _>(0)?, row.try_get::<i16, _>(1)?, rows::large(row, 2)?));
            let (node, state, beat) = read().map_err(|error| session.home.sort(&error))?;
            if state != DEAD && seen_beat.is_some_and(|seen| seen != beat) {
                return Ok(Killed::Spared);
            }
            holders = Some(node);
            if state != DEAD {
                session.rows(sql::LOCK_LANES, Values::default().with(node)).await?;
                session.rows(sql::KILL, Values::default().with(node)).await?;
            }
            then(session, node).await.map(Killed::Now)
        });
        match (killed.await, holders) {
            (Err(Trouble::Waits), Some(node)) if tries < TRIES => {
                tries += 1;
                tracing::warn!(%incarnation, "a commit of a silent node does not end; its session is ended");
                session.again(sql::END_HOLDERS, Values::default().with(node)).await?;
            }
            (answer, _) => return answer,
        }
    }
}

pub(super) async fn renew(session: &mut Session, incarnation: Incarnation, held: u32) -> Result<Renewed, Trouble> {
    let rows = session.again(sql::RENEW, Values::default().with(incarnation.0).with(i64::from(held))).await?;
    let Some(row) = rows.first() else { return Ok(Renewed { live: false, store_now: None }) };
    let read = || Ok((row.try_get(0)?, row.try_get(1)?));
    let (node, now) = read().map_err(|error| session.home.sort(&error))?;
    session.belong_to(node).await?;
    Ok(Renewed { live: true, store_now: Some(Timestamp(now)) })
}

/// Returns the server's time.
pub(super) async fn time(session: &mut Session) -> Result<Timestamp, Trouble> {
    let rows = session.again(sql::TIME, Values::default()).await?;
    let row = rows.first().ok_or_else(|| Trouble::Lost("the server did not tell its time".into()))?;
    row.try_get(0).map(Timestamp).map_err(|error| session.home.sort(&error))
}

pub(super) async fn drain(session: &mut Session, incarnation: Incarnation) -> Result<(), Trouble> {
    session.again(sql::DRAIN, Values::default().with(incarnation.0)).await.map(drop)
}

pub(super) async fn nodes(session: &mut Session) -> Result<Vec<NodeRow>, Trouble> {
    // Whoever looks so often is the first to notice that the node's connections were cut, and has its lock back first.
    if let Some(node) = session.home.node() {
        session.belong_to(node).await?;
    }
    let found = session.again(sql::NODES, Values::default().with(session.home.class)).await?;
    let read = |row: &sqlx::postgres::PgRow| -> Result<NodeRow, sqlx::Error> {
        Ok(NodeRow {
            incarnation: Incarnation(row.try_get::<Uuid, _>(0)?),
            build: BuildId(row.try_get(1)?),
            label: row.try_get(2)?,
            state: match row.try_get::<i16, _>(3)? {
                1 => NodeState::Live,
                2 => NodeState::Draining,
                _ => NodeState::Dead,
            },
            beat: rows::large(row, 4)?,
            lease: Duration::from_micros(rows::large(row, 5)?),
            held: rows::small(row, 6)?,
            can: row.try_get(7)?,
            proved_dead: row.try_get(8)? && session.node() != Some(row.try_get(9)?),
        })
    };
    found.iter().map(read).collect::<Result<_, _>>().map_err(|error| session.home.sort(&error))
}

pub(super) async fn sweep(session: &mut Session, now: Timestamp, most: u32) -> Result<u64, Trouble> {
    let values = Values::default().with(now.0).with(i64::from(most));
    Ok(session.again(sql::SWEEP, values).await?.len() as u64)
}

/// Gives the transaction its number.
async fn number(session: &mut Session) -> Result<(), Trouble> {
    let rows = session.rows(sql::XID, Values::default()).await?;
    let row = rows.first().ok_or_else(|| Trouble::Lost("the transaction has no number".into()))?;
    let xid = row.try_get(0).map_err(|error| session.home.sort(&error))?;
    session.is_number(xid);
    Ok(())
}

/// The stored code of [`NodeState::Dead`].
const DEAD: i16 = 3;

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
