//! One batch, applied to the maps: fence, renewal, then the items kind by kind (tasks without a turn, turns, enqueues, what the turns do
//! to other runs, yields, sends, heartbeats, progress), then the claim. Each item is looked at in full before anything of it is written.

use std::collections::BTreeMap;

use super::{Data, Run, refuse};
use crate::{
    kernel::{
        codec::Record,
        event::MessageBody,
        id::{Incarnation, RunId, RunKey},
        time::Timestamp,
    },
    store::{
        Batch, BatchAnswer, ClaimRequest, Claimed, FORMAT, Item, Message, NewRun, NodeState, Outcome, Status, Successor, Summary,
        Then, Told, Turn, Unread, Yield, YieldReason, item::due_for_others, others::behind_yields, queue::rank,
    },
};

/// Who writes, and when.
#[derive(Clone, Copy)]
pub(super) struct Writer {
    incarnation: Incarnation,
    pub(super) now: Timestamp,
}

impl Run {
    fn end(&mut self, status: Status, now: Timestamp) {
        self.summary.end(status, now);
        self.claims = 0;
        self.inbox.clear();
        self.heartbeats.clear();
    }
}

impl Data {
    pub(super) fn commit(&mut self, batch: &Batch) -> BatchAnswer {
        self.now = batch.now;
        let Some(node) = self.nodes.get_mut(&batch.incarnation.0).filter(|node| node.is_live()) else {
            let outcomes = vec![Outcome::Fenced; batch.items.len()];
            return BatchAnswer { outcomes, claimed: Vec::new(), told: Vec::new(), live: false };
        };
        node.beat += u64::from(batch.renew);
        if batch.renew {
            node.beat_at = node.beat_at.max(batch.now);
        }
        let claims = node.state == NodeState::Live;
        let writer = Writer { incarnation: batch.incarnation, now: batch.now };
        let mut outcomes: Vec<_> = refuse::unacceptable(batch).into_iter().map(|why| why.map(Outcome::Refused)).collect();
        let mut told = Vec::new();
        self.items(batch, true, &mut outcomes, writer, &mut told);
        for (item, outcome) in batch.items.iter().zip(&outcomes) {
            if let (Some(turn), Some(Outcome::Done)) = (item.with_others(), outcome) {
                self.others(turn, writer, &mut told);
            }
        }
        self.items(batch, false, &mut outcomes, writer, &mut told);
        let claimed = batch.claim.as_ref().filter(|_| claims).map(|request| self.claim(request, writer)).unwrap_or_default();
        let outcomes: Vec<_> = outcomes.into_iter().map(|outcome| outcome.unwrap_or(Outcome::Done)).collect();
        behind_yields(batch, &outcomes, &mut told);
        BatchAnswer { outcomes, claimed, told, live: true }
    }

    /// Applies the items before, or behind, what turns do to other runs, kind by kind.
    fn items(
        &mut self,
        batch: &Batch,
        before_others: bool,
        outcomes: &mut [Option<Outcome>],
        writer: Writer,
        told: &mut Vec<Told>,
    ) {
        for kind in 0..13 {
            for (item, outcome) in batch.items.iter().zip(outcomes.iter_mut()) {
                if outcome.is_none() && item.kind() == kind && item.precedes_others() == before_others {
                    *outcome = Some(self.apply(item, writer, told));
                }
            }
        }
    }

    fn apply(&mut self, item: &Item, writer: Writer, told: &mut Vec<Told>) -> Outcome {
        match item {
            Item::Turn(turn) => {
                let accepted = self.turn(turn, writer).map(|()| self.memos_of(turn));
                accepted.map_or_else(|refused| refused, |()| Outcome::Done)
            }
            Item::Enqueue(new, record) => self.enqueue(new, record, writer).map_or_else(|refused| refused, |()| Outcome::Done),
            Item::Send(message) => self.send(message, writer),
            Item::Yield(back) => self.give_back(back, writer),
            Item::Heartbeat { run, position, attempt, details } => match self.runs.get_mut(run) {
                Some(row) if row.summary.owner == Some(writer.incarnation) => {
                    row.heartbeats.insert(*position, (*attempt, details.clone()));
                    Outcome::Done
                }
                _ => Outcome::NotOwned,
            },
            Item::Progressed(runs) => {
                for key in runs {
                    if let Some(run) = self.runs.get_mut(key) {
                        run.claims = 0;
                    }
                }
                Outcome::Done
            }
            Item::PlaceTasks(run, epoch, tasks) => self.place_tasks(*run, *epoch, tasks, writer.incarnation),
            Item::EndTask(end) => self.end_task(end, writer.now),
            Item::BeatTask(key, details) => self.beat_task(*key, details, writer.incarnation),
            Item::Schedule(change) => self.schedule(change, writer, told).map_or_else(|refused| refused, |()| Outcome::Done),
            Item::Memo(change) => self.change_memo(change, writer, told).map_or_else(|refused| refused, |()| Outcome::Done),
            Item::Fork(fork) => self.fork(fork, writer).map_or_else(|refused| refused, |()| Outcome::Done),
            Item::DropLetters(letters) => {
                self.drop_seen_letters(letters);
                Outcome::Done
            }
        }
    }

    fn turn(&mut self, turn: &Turn, writer: Writer) -> Result<(), Outcome> {
        match &turn.start {
            Some(new) => {
                self.may_begin(new)?;
                let seen = match turn.then {
                    Then::Hold | Then::Continue(_) | Then::End { seen: None, .. } => 0,
                    Then::Passivate { seen, .. } | Then::End { seen: Some(seen), .. } => seen,
                };
                if !turn.consumed.is_empty() {
                    return Err(Outcome::MessageGone);
                }
                if seen != 0 {
                    return Err(Outcome::InboxMoved);
                }
                self.has_room_for(turn, &new.id, Some(new.run))?;
                self.begin(new, Some(writer.incarnation), 1, None);
            }
            None => {
                let run = self.runs.get(&turn.run).ok_or(Outcome::Conflict)?;
                let last = run.log.last().map(|record| record.digest);
                if run.summary.status.is_end() || turn.commit_no as usize != run.log.len() || turn.prev != last {
                    return Err(Outcome::Conflict);
                }
                if !turn.fits(&run.summary) {
                    return Err(Outcome::Conflict);
                }
                if turn.consumed.iter().any(|seq| !run.inbox.contains_key(seq)) {
                    return Err(Outcome::MessageGone);
                }
                match turn.then {
                    Then::Passivate { seen, .. } | Then::End { seen: Some(seen), .. } if seen != run.summary.inbox_seq => {
                        return Err(Outcome::InboxMoved);
                    }
                    _ => {}
                }
                self.has_room_for(turn, &run.summary.id, None)?;
            }
        }
        let Some(run) = self.runs.get_mut(&turn.run) else { return Err(Outcome::Conflict) };
        run.log.push(turn.record.clone());
        self.newest = Some((run.summary.id.clone(), turn.commit_no, turn.record.clone()));
        run.inbox.retain(|seq, _| !turn.consumed.contains(seq));
        run.heartbeats.retain(|position, _| !turn.settled.contains(position));
        run.published.extend(turn.published.iter().map(|row| (row.key.clone(), row.clone())));
        run.change_letters(&turn.letters);
        match &turn.then {
            Then::Hold => {}
            Then::Passivate { wake_at, .. } => {
                run.summary.owner = None;
                run.summary.wake_at = *wake_at;
                run.claims = 0;
            }
            Then::End { status, .. } => run.end(*status, writer.now),
            Then::Continue(successor) => {
                let along = run.inbox.iter().filter(|(_, unread)| unread.body.is_for_the_execution());
                let along: BTreeMap<_, _> = along.map(|(seq, unread)| (*seq, unread.clone())).collect();
                run.end(Status::Continued, writer.now);
                if let Some(row) = successor.row(&run.summary, writer.now) {
                    self.insert(Successor::woken(row, along.len(), writer.now));
                    if let Some(next) = self.runs.get_mut(&successor.run) {
                        next.inbox = along;
                        next.published = successor.published.iter().map(|row| (row.key.clone(), row.clone())).collect();
                        next.log.push(successor.record.clone());
                        self.newest = Some((next.summary.id.clone(), 0, successor.record.clone()));
                    }
                }
            }
        }
        self.withdraw_tasks(turn.run, &turn.withdrawn);
        self.put_tasks(&turn.tasks);
        Ok(())
    }

    pub(super) fn enqueue(&mut self, new: &NewRun, record: &Record, writer: Writer) -> Result<(), Outcome> {
        self.may_begin(new)?;
        // Without a time of its own it is due at once: nobody else would ever wake it.
        self.begin(new, None, 0, new.wake_at.or(Some(writer.now)));
        if let Some(run) = self.runs.get_mut(&new.run) {
            run.log.push(record.clone());
            self.newest = Some((new.id.clone(), 0, record.clone()));
        }
        Ok(())
    }

    /// Checks that the successor of a turn's run may begin under its key, and has a number. The run that ends is the current one of its
    /// id, so nobody else has that.
    fn has_room_for(&self, turn: &Turn, id: &RunId, begins: Option<RunKey>) -> Result<(), Outcome> {
        match turn.successor() {
            Some(next) if self.runs.contains_key(&next.run) || begins == Some(next.run) => Err(Outcome::Conflict),
            Some(_) if id.run_no == u32::MAX => Err(Outcome::Conflict),
            _ => Ok(()),
        }
    }

    /// Checks that a run may begin under its key and its id.
    pub(super) fn may_begin(&self, new: &NewRun) -> Result<(), Outcome> {
        if self.runs.contains_key(&new.run) {
            return Err(Outcome::Conflict);
        }
        let current = self.current(&new.id.id).and_then(|key| self.runs.get(&key)).map(|run| &run.summary);
        match current {
            None if new.id.run_no == 1 => Ok(()),
            None => Err(Outcome::Unknown),
            Some(current)
                if current.id.run_no.checked_add(1) == Some(new.id.run_no)
                    && new.after.contains(&current.status)
                    && current.status.is_end() =>
            {
                Ok(())
            }
            Some(current) => Err(Outcome::IdInUse(Box::new(current.clone()))),
        }
    }

    pub(super) fn begin(&mut self, new: &NewRun, owner: Option<Incarnation>, epoch: u64, wake_at: Option<Timestamp>) {
        self.insert(new.begun(owner, epoch, wake_at));
    }

    fn insert(&mut self, summary: Summary) {
        self.ids.insert((summary.id.id.clone(), summary.id.run_no), summary.run);
        let key = summary.run;
        let run = Run {
            summary,
            claims: 0,
            forced: false,
            format: FORMAT,
            log: Vec::new(),
            inbox: BTreeMap::new(),
            published: BTreeMap::new(),
            letters: BTreeMap::new(),
            heartbeats: BTreeMap::new(),
        };
        self.runs.insert(key, run);
    }

    fn give_back(&mut self, back: &Yield, writer: Writer) -> Outcome {
        let Some(run) = self.runs.get_mut(&back.run) else { return Outcome::NotOwned };
        let row = &mut run.summary;
        if row.owner != Some(writer.incarnation) || row.epoch != back.epoch {
            return Outcome::NotOwned;
        }
        row.owner = None;
        let why = back.why_behind(row.inbox_seq, writer.now);
        match why {
            YieldReason::Blocked { build, .. } => {
                row.wake_at = Some(due_for_others(row.blocked_build, build, writer.now));
                row.blocked_build = Some(build);
                run.forced = true;
                // Whoever says so has lived on.
                run.claims = 0;
            }
            YieldReason::Quarantined { .. } => {
                row.status = Status::Quarantined;
                row.wake_at = None;
                run.forced = true;
            }
            YieldReason::Paused { forced, .. } => {
                row.status = Status::Paused;
                row.wake_at = None;
                run.forced = forced;
            }
            YieldReason::Released { wake_at, forced } => {
                // Nobody is left who would see what is unread, and only a message would wake it: so it is due.
                row.wake_at = if run.inbox.is_empty() { wake_at } else { Some(writer.now) };
                run.forced = forced;
            }
        }
        if let Some(report) = refuse::report(&why) {
            run.summary.reason = Some(report);
        }
        Outcome::Done
    }

    fn send(&mut self, message: &Message, writer: Writer) -> Outcome {
        let limit = self.inbox_limit as usize;
        let current = self.current(&message.to.id);
        let Some(key) = current else { return Outcome::Unknown };
        let Some(run) = self.runs.get(&key) else { return Outcome::Unknown };
        if message.is_too_late(&run.summary) {
            return Outcome::Ended(Box::new(run.summary.clone()));
        }
        if run.inbox.values().any(|unread| unread.message == message.message) {
            return Outcome::AlreadySent;
        }
        if run.inbox.len() >= limit && !message.body.is_always_taken() {
            return Outcome::InboxFull;
        }
        let Message { message, body, sent_at, .. } = message.clone();
        self.deliver(key, message, body, sent_at, writer.now)
    }

    /// Puts a message into the inbox of a run, and wakes it.
    pub(super) fn deliver(
        &mut self,
        key: RunKey,
        message: String,
        body: MessageBody,
        sent_at: Timestamp,
        now: Timestamp,
    ) -> Outcome {
        let Some(run) = self.runs.get_mut(&key) else { return Outcome::Unknown };
        run.summary.inbox_seq += 1;
        let seq = run.summary.inbox_seq;
        run.inbox.insert(seq, Unread { seq, message, body, sent_at });
        // A blocked run is woken as well: for the build that cannot run it nothing changes, and another build may have
        // run it since and put it to sleep.
        if run.is_unowned_and_active() {
            run.summary.wake_at = Some(run.summary.wake_at.map_or(now, |at| at.min(now)));
        }
        Outcome::Sent { seq, run: run.summary.run, owner: run.summary.owner }
    }

    fn claim(&mut self, request: &ClaimRequest, writer: Writer) -> Vec<Claimed> {
        let horizon = writer.now.after(request.ahead);
        let mut due: Vec<_> = self
            .runs
            .values()
            .filter(|run| {
                let row = &run.summary;
                run.is_unowned_and_active()
                    && row.wake_at.is_some_and(|at| at <= writer.now || (row.epoch > 0 && at <= horizon))
                    && run.format <= FORMAT
                    && row.blocked_build != Some(request.build)
                    && request.queues.as_ref().is_none_or(|queues| queues.contains(&row.queue))
                    && row.needs.iter().all(|tag| request.tags.contains(tag))
                    && request.workflows.iter().any(|(name, version)| *name == row.workflow && *version == row.version)
            })
            .map(|run| {
                let row = &run.summary;
                (row.wake_at.map(|due| rank(due, row.priority)), row.run, run.forced)
            })
            .collect();
        due.sort();
        let mut by_force = 0;
        due.retain(|(_, _, forced)| {
            by_force += u32::from(*forced);
            !forced || by_force <= request.forced_limit
        });
        due.truncate(request.limit as usize);
        let keys = due.into_iter().map(|(_, key, _)| key);
        keys.filter_map(|key| self.take(key, writer)).collect()
    }

    fn take(&mut self, key: RunKey, writer: Writer) -> Option<Claimed> {
        let run = self.runs.get_mut(&key)?;
        run.summary.owner = Some(writer.incarnation);
        run.summary.epoch += 1;
        let due = run.summary.wake_at.take().unwrap_or(writer.now);
        run.claims += 1;
        let forced = std::mem::take(&mut run.forced);
        Some(Claimed { summary: run.summary.clone(), due, forced, claims: run.claims })
    }

    /// Returns the current run of an id: the one with the highest number.
    pub(super) fn current(&self, id: &str) -> Option<RunKey> {
        let of_id = (id.to_owned(), 0)..=(id.to_owned(), u32::MAX);
        self.ids.range(of_id).next_back().map(|(_, key)| *key)
    }
}
