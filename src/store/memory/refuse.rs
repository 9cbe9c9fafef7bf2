//! What no store accepts, told from an item alone, before any store is asked: it keeps the stores alike in their answers,
//! and keeps what would make a database refuse a whole batch out of the batch.

use std::collections::HashSet;

use crate::{
    fast::{FastSet, RandomState},
    kernel::{event::MessageBody, memo::MemoStep},
    store::{
        Batch, Fork, Item, LetterChange, MemoEntry, NewChild, NewRun, NewTask, Publication, Redelivered, ScheduleChange, Tell,
        Then, YieldReason,
    },
};

/// The longest row, message or details that is accepted. SQLite's own limit is 1 GB for a bound value, and one value
/// carries a whole batch.
pub(crate) const LONGEST_BODY: usize = 64 << 20;

/// The longest id, as documented at `RunId`, and the limit for names, queues and tags too.
pub(crate) const LONGEST_NAME: usize = 255;

/// The longest text of a letter; what the kernel writes is shorter.
const LONGEST_TEXT: usize = 4 * LONGEST_NAME;

/// The longest id of a message of one run to another: it may have the whole id of its sender in it.
const LONGEST_TOLD: usize = 2 * LONGEST_NAME;

/// Returns for each item why no store accepts it, or `None`.
pub(crate) fn unacceptable(batch: &Batch) -> Vec<Option<String>> {
    let mut turned = FastSet::with_capacity_and_hasher(batch.items.len(), RandomState::default());
    batch.items.iter().map(|item| reason(item, &mut turned)).collect()
}

fn reason(item: &Item, turned: &mut FastSet<i64>) -> Option<String> {
    match item {
        Item::Turn(turn) => {
            if !turned.insert(turn.run.0) {
                return Some("the run has another turn in this batch".into());
            }
            if let Some(new) = &turn.start {
                if new.run != turn.run {
                    return Some("the turn and its new run have different keys".into());
                }
                if turn.commit_no != 0 || turn.prev.is_some() {
                    return Some("a run starts with commit 0, which has no predecessor".into());
                }
                if let Some(why) = new_run(new) {
                    return Some(why);
                }
            }
            match &turn.then {
                Then::End { status, .. } if !status.is_end() => Some(format!("{} is not an end", status.as_str())),
                _ => body(turn.record.body.len())
                    .or_else(|| turn.successor().and_then(|next| body(next.record.body.len())))
                    .or_else(|| turn.tasks.iter().find_map(task))
                    .or_else(|| turn.starts.iter().find_map(child))
                    .or_else(|| turn.tells.iter().find_map(tell))
                    .or_else(|| turn.published.iter().find_map(publication))
                    .or_else(|| turn.successor().and_then(|next| next.published.iter().find_map(publication)))
                    .or_else(|| turn.memos.iter().find_map(memo))
                    .or_else(|| turn.letters.iter().find_map(letter)),
            }
        }
        Item::Enqueue(new, record) => new_run(new).or_else(|| body(record.body.len())),
        Item::Send(message) => {
            name("the id", &message.to.id).or_else(|| name("the message's id", &message.message)).or_else(|| says(&message.body))
        }
        Item::Heartbeat { details, .. } => body(details.len()),
        Item::PlaceTasks(_, _, tasks) => tasks.iter().find_map(task),
        Item::EndTask(end) => match rmp_serde::to_vec(&end.body) {
            Ok(bytes) => body(bytes.len()),
            Err(error) => Some(format!("the end of a task cannot be encoded: {error}")),
        },
        Item::BeatTask(_, details) => body(details.len()),
        Item::Schedule(change) => schedule(change),
        Item::Memo(change) => change.tells.iter().find_map(tell),
        Item::Fork(forked) => fork(forked),
        Item::DropLetters(_) => None,
        Item::Yield(_) | Item::Progressed(_) => None,
    }
}

fn schedule(change: &ScheduleChange) -> Option<String> {
    let (mut keys, mut ids) = (HashSet::new(), HashSet::new());
    for (new, record) in &change.starts {
        if new.id.run_no != 1 || !keys.insert(new.run) || !ids.insert(&new.id.id) {
            return Some("what a schedule begins are first runs of ids and keys that differ".into());
        }
        if let Some(why) = new_run(new).or_else(|| body(record.body.len())) {
            return Some(why);
        }
    }
    name("the schedule's name", &change.name)
        .or_else(|| change.name.is_empty().then(|| "a schedule has a name".into()))
        .or_else(|| body(change.body.len()))
        .or_else(|| change.tells.iter().find_map(tell))
}

fn child(child: &NewChild) -> Option<String> {
    if child.row.id.run_no != 1 {
        return Some("a child is the first run of its id".into());
    }
    new_run(&child.row).or_else(|| body(child.record.body.len()))
}

fn tell(tell: &Tell) -> Option<String> {
    name("the id", &tell.to.id).or_else(|| text("the message's id", &tell.message, LONGEST_TOLD)).or_else(|| says(&tell.body))
}

fn publication(row: &Publication) -> Option<String> {
    name("the key of what is published", &row.key).or_else(|| body(row.value.bytes.len()))
}

fn memo(entry: &MemoEntry) -> Option<String> {
    match &entry.step {
        MemoStep::Keep(kept, _) => body(kept.output.bytes.len()),
        MemoStep::Ask(_) | MemoStep::Leave => None,
    }
}

fn letter(change: &LetterChange) -> Option<String> {
    let LetterChange::Put(put) = change else { return None };
    name("the activity's name", &put.activity)
        .or_else(|| name("the kind of a failure", &put.kind))
        .or_else(|| text("the text of a letter", &put.text, LONGEST_TEXT))
}

fn fork(fork: &Fork) -> Option<String> {
    if fork.row.id.run_no == 1 || fork.log.is_empty() {
        return Some("a fork is not the first run of its id, and has a history".into());
    }
    let mut ids = HashSet::new();
    if !fork.inbox.iter().all(|again| ids.insert(&again.message)) {
        return Some("two messages of a fork have one id".into());
    }
    let all: usize = fork.log.iter().map(|record| record.body.len()).sum();
    new_run(&fork.row).or_else(|| body(all)).or_else(|| fork.published.iter().find_map(publication)).or_else(|| {
        let message = |again: &Redelivered| text("the message's id", &again.message, LONGEST_TOLD).or_else(|| says(&again.body));
        fork.inbox.iter().find_map(message)
    })
}

fn says(message: &MessageBody) -> Option<String> {
    match rmp_serde::to_vec(message) {
        Ok(bytes) => body(bytes.len()),
        Err(error) => Some(format!("the message cannot be encoded: {error}")),
    }
}

fn task(task: &NewTask) -> Option<String> {
    name("the queue", &task.queue)
        .or_else(|| name("the key within a queue", &task.lane))
        .or_else(|| name("the activity's name", &task.activity))
        .or_else(|| task.needs.iter().find_map(|tag| name("a tag", tag)))
        .or_else(|| body(task.body.len()))
}

fn new_run(new: &NewRun) -> Option<String> {
    if new.id.run_no == 0 {
        return Some("runs are numbered from 1".into());
    }
    name("the id", &new.id.id)
        .or_else(|| name("the workflow's name", &new.workflow))
        .or_else(|| name("the queue", &new.queue))
        .or_else(|| new.tags.iter().chain(&new.needs).find_map(|tag| name("a tag", tag)))
}

fn name(what: &str, name: &str) -> Option<String> {
    text(what, name, LONGEST_NAME)
}

/// A NUL is refused because PostgreSQL cannot store it and SQLite's text functions end at it.
fn text(what: &str, text: &str, longest: usize) -> Option<String> {
    if text.contains('\0') {
        Some(format!("{what} contains a NUL"))
    } else if text.len() > longest {
        Some(format!("{what} is longer than {longest} bytes"))
    } else {
        None
    }
}

fn body(bytes: usize) -> Option<String> {
    (bytes > LONGEST_BODY).then(|| format!("{bytes} bytes are more than the {LONGEST_BODY} that a row may have"))
}

/// Returns the report of a yield as it is stored: for people, so a NUL is replaced and not refused.
pub(crate) fn report(why: &YieldReason) -> Option<String> {
    match why {
        YieldReason::Blocked { reason, .. } | YieldReason::Quarantined { reason } | YieldReason::Paused { reason, .. } => {
            Some(reason.replace('\0', "\u{fffd}"))
        }
        YieldReason::Released { .. } => None,
    }
}
