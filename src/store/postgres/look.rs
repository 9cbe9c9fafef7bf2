//! What the general path reads before it decides: the runs that its items are about, locked, as they are *behind* the lock.

use std::collections::{HashMap, HashSet};

use sqlx::Row;

use super::{
    others, rows,
    session::Session,
    sql,
    successor::{self, Along},
    trouble::Trouble,
    values::Values,
};
use crate::{
    fast::{FastMap, FastSet},
    kernel::{
        id::{CommitNo, Digest},
        memo::MemoKey,
    },
    store::{Batch, Item, Summary, Tell, Turn, memory::lines::Beside},
};

/// What was read. `decide` goes on to change it as items are accepted, so that later items see what earlier ones did.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) runs: FastMap<i64, Known>,
    /// The current runs of ids.
    pub(super) current: HashMap<String, i64>,
    /// Runs that somebody else has locked, or that came up since we locked.
    foreign: FastSet<i64>,
    /// Schedules that somebody else is writing.
    pub(super) foreign_schedules: HashSet<String>,
    /// The same of the keys of shared results.
    pub(super) foreign_memos: HashSet<MemoKey>,
    /// Messages, by run and number, of those that are about to be consumed.
    pub(super) present: HashSet<(i64, u64)>,
    pub(super) along: Along,
}

/// A run's row and inbox, as far as decisions need them.
pub(super) struct Known {
    pub(super) summary: Summary,
    pub(super) beside: Beside,
    pub(super) unread: u64,
    /// The numbers of those messages that somebody is about to send, or tell, again.
    pub(super) messages: HashMap<String, u64>,
    pub(super) tail: Option<(CommitNo, Digest)>,
    /// Begun by this very transaction.
    pub(super) is_new: bool,
    /// Differs from the row.
    pub(super) changed: bool,
}

/// What one item is about: keys of runs, and ids that stand for their current run. A turn is about the runs that it begins or tells
/// something, too: where one of these is somebody else's, all of it has to wait.
pub(super) fn about(item: &Item) -> (Vec<i64>, impl Iterator<Item = &str>) {
    let (mut runs, id) = match item {
        Item::Turn(turn) => (vec![turn.run.0], turn.start.as_ref().map(|new| new.id.id.as_str())),
        Item::Enqueue(new, _) => (vec![new.run.0], Some(&*new.id.id)),
        Item::Send(message) => (Vec::new(), Some(&*message.to.id)),
        Item::Yield(back) => (vec![back.run.0], None),
        Item::Heartbeat { run, .. } => (vec![run.0], None),
        Item::PlaceTasks(run, ..) => (vec![run.0], None),
        Item::EndTask(end) => (vec![end.key.run.0], None),
        Item::BeatTask(..) => (Vec::new(), None),
        Item::Progressed(runs) => (runs.iter().map(|run| run.0).collect(), None),
        Item::Schedule(change) => (change.starts.iter().map(|(new, _)| new.run.0).collect(), None),
        Item::Memo(change) => (change.unowned.iter().map(|run| run.0).collect(), None),
        Item::Fork(fork) => (vec![fork.row.run.0], Some(&*fork.row.id.id)),
        // Each is a row of its own, which is there or is not.
        Item::DropLetters(_) => (Vec::new(), None),
    };
    if let Item::Turn(turn) = item {
        runs.extend(turn.successor().map(|next| next.run.0));
    }
    let others = item.with_others();
    runs.extend(others.iter().flat_map(|turn| &turn.starts).map(|child| child.row.run.0));
    let scheduled = item.schedule().into_iter().flat_map(|change| {
        let begun = change.starts.iter().map(|(new, _)| &*new.id.id);
        begun.chain(change.tells.iter().map(|tell| &*tell.to.id))
    });
    let answered = item.memo().into_iter().flat_map(|change| &change.tells).map(|tell| &*tell.to.id);
    (runs, id.into_iter().chain(others.into_iter().flat_map(Turn::other_ids)).chain(scheduled).chain(answered))
}

impl Seen {
    /// Locks and reads whatever these items are about, without waiting for anybody.
    pub(super) async fn behind_locks(session: &mut Session, batch: &Batch, items: &[usize]) -> Result<Seen, Trouble> {
        let (mut runs, mut ids) = (Vec::new(), Vec::new());
        for &place in items {
            let (keys, names) = about(&batch.items[place]);
            runs.extend(keys);
            ids.extend(names);
        }
        runs.sort_unstable();
        runs.dedup();
        ids.sort_unstable();
        ids.dedup();
        let values = || Values::default().with(&runs[..]).with(&ids[..]);
        let locked = session.rows(sql::LOCK, values()).await?;
        let found = session.rows(sql::LOOK, values()).await?;
        let mut seen = Seen::default();
        let mut read = || -> Result<(), sqlx::Error> {
            let locked = locked.iter().map(|row| row.try_get(0)).collect::<Result<HashSet<i64>, _>>()?;
            for row in &found {
                let (summary, beside) = rows::summary(row)?;
                let run = summary.run.0;
                if row.try_get(rows::COLUMNS)? {
                    seen.current.insert(summary.id.id.clone(), run);
                }
                if !locked.contains(&run) {
                    seen.foreign.insert(run);
                }
                let tail = match row.try_get::<Option<&[u8]>, _>(rows::COLUMNS + 3)? {
                    // A damaged one is nobody's: who would append behind it hears that the tail has moved, and reads what is wrong.
                    Some(digest) => Some((rows::small(row, rows::COLUMNS + 2)?, rows::digest(digest).unwrap_or(Digest([0; 32])))),
                    None => None,
                };
                let unread = rows::large(row, rows::COLUMNS + 1)?;
                seen.runs.insert(run, Known { unread, tail, ..Known::new(summary, beside) });
            }
            Ok(())
        };
        read().map_err(|error| session.home.sort(&error))?;
        seen.read_inboxes(session, batch, items).await?;
        seen.along = successor::along(session, batch, items).await?;
        Ok(seen)
    }

    async fn read_inboxes(&mut self, session: &mut Session, batch: &Batch, items: &[usize]) -> Result<(), Trouble> {
        let (mut to, mut messages, mut from, mut numbers) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let refusals = others::refusals(batch, items);
        for (run, message) in &refusals {
            to.push(*run);
            messages.push(message.as_str());
        }
        for &place in items {
            match &batch.items[place] {
                Item::Send(message) => {
                    if let Some(run) = self.current.get(&message.to.id) {
                        to.push(*run);
                        messages.push(message.message.as_str());
                    }
                }
                Item::Turn(turn) => {
                    for seq in &turn.consumed {
                        from.push(turn.run.0);
                        numbers.push(rows::number(*seq));
                    }
                    self.gets(&turn.tells, &mut to, &mut messages);
                }
                Item::Schedule(change) => self.gets(&change.tells, &mut to, &mut messages),
                Item::Memo(change) => self.gets(&change.tells, &mut to, &mut messages),
                _ => {}
            }
        }
        if to.is_empty() && from.is_empty() {
            return Ok(());
        }
        let values = Values::default().with(to).with(messages).with(from).with(numbers);
        let found = session.rows(sql::LOOK_INBOX, values).await?;
        let mut read = || -> Result<(), sqlx::Error> {
            for row in &found {
                let (run, seq) = (row.try_get(0)?, rows::large(row, 1)?);
                match row.try_get::<Option<String>, _>(2)? {
                    Some(message) => {
                        if let Some(known) = self.runs.get_mut(&run) {
                            known.messages.insert(message, seq);
                        }
                    }
                    None => {
                        self.present.insert((run, seq));
                    }
                }
            }
            Ok(())
        };
        read().map_err(|error| session.home.sort(&error))
    }

    /// Takes note of what runs are about to be told.
    fn gets<'t>(&self, tells: &'t [Tell], to: &mut Vec<i64>, messages: &mut Vec<&'t str>) {
        for tell in tells {
            if let Some(run) = self.current.get(&tell.to.id) {
                to.push(*run);
                messages.push(tell.message.as_str());
            }
        }
    }

    /// Tells whether an item is about something that somebody else is at work on.
    pub(super) fn is_foreign(&self, item: &Item) -> bool {
        if item.schedule().is_some_and(|change| self.foreign_schedules.contains(&change.name))
            || item.memo().is_some_and(|change| self.foreign_memos.contains(&change.key))
        {
            return true;
        }
        if self.foreign.is_empty() {
            return false;
        }
        let (runs, ids) = about(item);
        let current = ids.filter_map(|id| self.current.get(id));
        runs.iter().chain(current).any(|run| self.foreign.contains(run))
    }
}

impl Known {
    pub(super) fn new(summary: Summary, beside: Beside) -> Known {
        Known { summary, beside, unread: 0, messages: HashMap::new(), tail: None, is_new: false, changed: false }
    }
}
