//! The snapshot of a store as text lines. Both stores write them with these functions, so a difference between two
//! snapshots is a difference between the stores and not between two ways of writing. Runs are named by their public name:
//! keys and positions are a store's own affair.

use std::fmt::{Debug, Write};

use crate::{
    kernel::{
        codec::Record,
        id::{CommitNo, Incarnation, RunId},
        time::Timestamp,
    },
    store::{Letter, Publication, ScheduleRow, Summary, Unread, queue::Line},
};

/// What a run's row has beside its summary.
pub(crate) struct Beside {
    /// Claims since it last made progress.
    pub(crate) claims: u32,
    /// Whether its next claim is by force.
    pub(crate) forced: bool,
    /// The newest record format in its log.
    pub(crate) format: u32,
}

pub(crate) fn run(summary: &Summary, beside: &Beside) -> String {
    let Summary { run: _, id, workflow, version, status, owner, epoch, wake_at, priority, queue, tags, .. } = summary;
    let Summary { needs, created_at, ended_at, deadline, input_digest, inbox_seq, blocked_build, reason, .. } = summary;
    let Beside { claims, forced, format } = beside;
    format!(
        "run {id} {workflow:?}/{version} {} owner={owner:?} epoch={epoch} claims={claims} forced={forced} \
         wake={wake_at:?} priority={priority} queue={queue:?} tags={tags:?} needs={needs:?} created={created_at} ended={ended_at:?} \
         deadline={deadline:?} input={} inbox_seq={inbox_seq} blocked={blocked_build:?} reason={reason:?} format={format}",
        status.as_str(),
        hex(&input_digest.0),
    )
}

pub(crate) fn event(run: &RunId, commit_no: CommitNo, record: &Record) -> String {
    format!("event {run} {commit_no:08} {} {}", hex(&record.digest.0), hex(&record.body))
}

pub(crate) fn message(run: &RunId, unread: &Unread) -> String {
    // `Debug` of a payload hides its bytes, so the body is written in its stored form.
    let body = rmp_serde::to_vec(&unread.body).unwrap_or_default();
    format!("inbox {run} {:08} {:?} {} {}", unread.seq, unread.message, hex(&body), unread.sent_at)
}

pub(crate) fn heartbeat(run: &RunId, position: u32, attempt: u32, details: &[u8]) -> String {
    format!("heartbeat {run} {position:08} {attempt} {}", hex(details))
}

pub(crate) fn publication(run: &RunId, row: &Publication) -> String {
    let Publication { key, version, value } = row;
    format!("published {run} {key:?} {version} {} {}", value.encoding.as_str(), hex(&value.bytes))
}

pub(crate) fn letter(run: &RunId, letter: &Letter) -> String {
    let Letter { position, attempt, commit_no, event, parked, activity, kind, text, at } = letter;
    format!("letter {run} {position:08}/{attempt} commit={commit_no}:{event} parked={parked} {activity:?} {kind:?} {text:?} {at}")
}

/// A task's row, as every store has it.
pub(crate) struct TaskLine<'a> {
    pub(crate) position: u32,
    pub(crate) attempt: u32,
    pub(crate) queue: &'a str,
    pub(crate) lane: &'a str,
    pub(crate) rank: i64,
    pub(crate) due_at: Timestamp,
    pub(crate) start_by: Option<Timestamp>,
    pub(crate) activity: &'a str,
    pub(crate) needs: &'a [String],
    pub(crate) worker: Option<Incarnation>,
    pub(crate) dropped: bool,
    pub(crate) body: &'a [u8],
    pub(crate) details: Option<&'a [u8]>,
}

pub(crate) fn task(run: &RunId, task: &TaskLine<'_>) -> String {
    let TaskLine { position, attempt, queue, lane, rank, due_at, start_by, activity, needs, worker, dropped, body, details } =
        task;
    format!(
        "task {run} {position:08}/{attempt} {queue:?} {lane:?} rank={rank} due={due_at} start_by={start_by:?} {activity:?} \
         needs={needs:?} worker={worker:?} dropped={dropped} {} {:?}",
        hex(body),
        details.map(hex)
    )
}

pub(crate) fn queue(name: &str, line: &Line) -> String {
    let Line { rules, paused, cursor, tokens, filled_at, .. } = line;
    format!("queue {name:?} {rules:?} paused={paused} cursor={cursor:?} tokens={tokens} at={filled_at}")
}

pub(crate) fn schedule(row: &ScheduleRow) -> String {
    let ScheduleRow { name, revision, next_at, awaits, body } = row;
    format!("schedule {name:?} revision={revision} next={next_at:?} awaits={awaits:?} {}", hex(body))
}

/// The row of a key under which a result is shared: its stamp, who holds it, until when its value counts, and that.
pub(crate) fn memo(
    key: &[u8],
    stamp: i64,
    holder: Option<(RunId, u32, u32)>,
    until: Option<Timestamp>,
    kept: Option<&[u8]>,
) -> String {
    format!("memo {} stamp={stamp} holder={holder:?} until={until:?} {:?}", hex(key), kept.map(hex))
}

pub(crate) fn memo_ask(run: &RunId, position: u32, ask: u32, key: &[u8]) -> String {
    format!("memo ask {run} {position:08} {ask} {}", hex(key))
}

pub(crate) fn node(incarnation: &dyn Debug, build: &dyn Debug, label: &str, live: bool, beat: u64) -> String {
    format!("node {incarnation:?} {build:?} {label:?} live={live} beat={beat}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
