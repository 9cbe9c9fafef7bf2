//! Decides about the items one after the other, in the order of the contract, and collects what the accepted ones write.
//! Nothing is written while anything is undecided, and nothing can refuse an item behind this: whatever then does not
//! fit is an error of the whole transaction.

use std::collections::{BTreeSet, HashMap};

use super::{
    look::{Known, Seen},
    recall::Note,
    rows::{self, Blob, Grid, Table},
    script::{GRIDS, Values},
};
use crate::{
    kernel::{
        codec::Record,
        event::MessageBody,
        id::{Incarnation, RunKey},
        time::Timestamp,
    },
    store::{
        Batch, FORMAT, Item, Message, NewRun, Outcome, Publication, Status, Summary, TaskKey, Then, Told, Turn, Yield,
        YieldReason,
        item::due_for_others,
        letters::LetterPlan,
        memory::refuse,
        memos::MemoPlan,
        queue::{Found, TaskPlan},
        schedules::SchedulePlan,
    },
};

/// What the accepted items write: the tables of the statements of the same names.
pub(super) struct Plan<'a> {
    pub(super) batch: &'a Batch,
    pub(super) inbox_limit: u64,
    node: i64,
    pub(super) seen: Seen,
    blob: Blob,
    runs: Grid,
    events: Grid,
    settled: Grid,
    consumed: Table,
    ended: Table,
    pub(super) along: Table,
    unread: Table,
    heartbeats_settled: Table,
    yields: Table,
    messages: Table,
    heartbeats: Table,
    progressed: Table,
    /// The runs that messages went to.
    pub(super) receivers: BTreeSet<i64>,
    /// What becomes of tasks…
    pub(super) tasks: TaskPlan<'a>,
    /// What the accepted turns publish.
    pub(super) published: Vec<(RunKey, &'a Publication)>,
    /// What becomes of letters…
    pub(super) letters: LetterPlan<'a>,
    /// …and of schedules, whose revisions the caller has looked up.
    pub(super) schedules: SchedulePlan<'a>,
    /// …and of shared results, as far as the caller has looked them up.
    pub(super) memos: MemoPlan<'a>,
    /// What the turns told other runs.
    pub(super) told: Vec<Told>,
    /// What the writer will know.
    notes: Vec<(i64, Note)>,
}

/// What is to be written.
pub(super) struct Script {
    /// Which statements of `WRITE`.
    pub(super) wanted: [bool; 16],
    /// For how many rows, those that take grids.
    pub(super) sizes: [usize; GRIDS],
    pub(super) values: Values,
    /// How many rows the connection will have changed, unless one of those statements runs whose rows nobody counts.
    pub(super) total: i64,
    pub(super) notes: Vec<(i64, Note)>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(batch: &'a Batch, inbox_limit: u32, node: i64, seen: Seen, tasks: HashMap<TaskKey, Found>) -> Plan<'a> {
        Plan {
            batch,
            inbox_limit: u64::from(inbox_limit),
            node,
            seen,
            blob: Blob::default(),
            runs: Grid::default(),
            events: Grid::default(),
            settled: Grid::default(),
            consumed: Table::new(),
            ended: Table::new(),
            along: Table::new(),
            unread: Table::new(),
            heartbeats_settled: Table::new(),
            yields: Table::new(),
            messages: Table::new(),
            heartbeats: Table::new(),
            progressed: Table::new(),
            receivers: BTreeSet::new(),
            tasks: TaskPlan { found: tasks, ..TaskPlan::default() },
            published: Vec::new(),
            letters: LetterPlan::default(),
            schedules: SchedulePlan::default(),
            memos: MemoPlan::default(),
            told: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Takes what an accepted turn does beside the log.
    fn accepted(&mut self, turn: &'a Turn) {
        self.tasks.turn(turn);
        self.memos.turn(turn);
        self.published.extend(turn.published.iter().map(|row| (turn.run, row)));
        self.letters.turn(turn);
    }

    fn ours(&self) -> Incarnation {
        self.batch.incarnation
    }

    /// Decides about these items, which stand kind by kind.
    pub(super) fn decide_all(&mut self, items: &[usize], outcomes: &mut [Option<Outcome>]) {
        let batch = self.batch;
        for &item in items.iter().filter(|item| batch.items[**item].precedes_others()) {
            outcomes[item] = Some(self.decide(item));
        }
        for &item in items {
            if let (Some(turn), Some(Outcome::Done)) = (batch.items[item].with_others(), &outcomes[item]) {
                self.others(turn);
            }
        }
        for &item in items.iter().filter(|item| !batch.items[**item].precedes_others()) {
            outcomes[item] = Some(self.decide(item));
        }
    }

    /// Decides about one item, but for what it does to other runs. Items are to be given kind by kind.
    pub(super) fn decide(&mut self, place: usize) -> Outcome {
        let refused_or_done = |result: Result<(), Outcome>| result.map_or_else(|refused| refused, |()| Outcome::Done);
        let batch = self.batch;
        match &batch.items[place] {
            Item::Turn(turn) => {
                let accepted = match &turn.start {
                    Some(new) => self.start(turn, new),
                    None => self.turn(place, turn),
                };
                refused_or_done(accepted.map(|()| self.accepted(turn)))
            }
            Item::Enqueue(new, record) => refused_or_done(self.enqueue(new, record)),
            Item::Yield(back) => refused_or_done(self.give_back(back)),
            Item::Send(message) => self.send(message),
            Item::Heartbeat { run, position, attempt, details } => {
                match self.seen.runs.get(&run.0) {
                    Some(known) if known.summary.owner == Some(self.ours()) => {}
                    _ => return Outcome::NotOwned,
                }
                let (from, length) = self.blob.put(details);
                self.heartbeats.row().int(run.0).int(*position).int(*attempt).int(from).int(length);
                self.notes.push((run.0, Note::Beaten));
                Outcome::Done
            }
            Item::Progressed(runs) => {
                runs.iter().for_each(|run| self.progressed.number(run.0));
                Outcome::Done
            }
            Item::PlaceTasks(run, epoch, tasks) => match self.seen.runs.get(&run.0) {
                Some(Known { summary, .. }) if summary.owner == Some(self.ours()) && summary.epoch == *epoch => {
                    self.tasks.place(tasks);
                    Outcome::Done
                }
                _ => Outcome::NotOwned,
            },
            Item::BeatTask(key, details) => self.tasks.beat(*key, details, self.batch.incarnation),
            Item::Schedule(change) => refused_or_done(self.schedule(change)),
            Item::Memo(change) => refused_or_done(self.memo(change)),
            Item::Fork(fork) => refused_or_done(self.fork(fork)),
            Item::DropLetters(letters) => {
                self.letters.drop_seen(letters);
                Outcome::Done
            }
            Item::EndTask(end) => match self.tasks.end(end) {
                Ok(Some(body)) => match self.seen.runs.get(&end.key.run.0) {
                    Some(known) if !known.summary.status.is_end() => {
                        self.deliver(end.key.run.0, &end.message(), &body, self.batch.now)
                    }
                    _ => Outcome::Done,
                },
                Ok(None) => Outcome::Done,
                Err(refused) => refused,
            },
        }
    }

    fn turn(&mut self, place: usize, turn: &'a Turn) -> Result<(), Outcome> {
        if turn.prev.is_none() || self.seen.conflicts.contains(&place) {
            return Err(Outcome::Conflict);
        }
        if turn.unowned.is_some() && !self.seen.runs.get(&turn.run.0).is_some_and(|known| turn.fits(&known.summary)) {
            return Err(Outcome::Conflict);
        }
        if self.seen.gone.contains(&place) {
            return Err(Outcome::MessageGone);
        }
        if self.seen.moved.contains(&place) {
            return Err(Outcome::InboxMoved);
        }
        let next = self.follows(turn, None)?;
        self.append(turn.run, turn.commit_no, &turn.record);
        let mut consumed = turn.consumed.clone();
        consumed.sort_unstable();
        consumed.dedup();
        for seq in &consumed {
            self.consumed.row().int(turn.run.0).int(rows::number(*seq));
        }
        let bare = self.seen.bare.contains(&turn.run.0);
        for position in turn.settled.iter().filter(|_| !bare) {
            self.heartbeats_settled.row().int(turn.run.0).int(*position);
        }
        let (status, wake_at, ended_at) = match turn.then {
            Then::Hold => (Status::Active, None, None),
            Then::Passivate { wake_at, .. } => (Status::Active, wake_at, None),
            Then::End { status, .. } => (status, None, Some(self.batch.now)),
            Then::Continue(_) => (Status::Continued, None, Some(self.batch.now)),
        };
        let holds = turn.then == Then::Hold;
        if holds {
            self.notes.push((turn.run.0, Note::Went(turn.commit_no, turn.record.digest)));
        } else {
            // A passivation leaves the state as it is: a paused run stays paused.
            let state = ended_at.map(|_| i64::from(status.code()));
            let (wake_at, ended_at) = (wake_at.map(|at| at.0), ended_at.map(|at| at.0));
            self.settled.row([turn.run.0.into(), state.into(), wake_at.into(), ended_at.into()]);
            self.notes.push((turn.run.0, Note::Left));
        }
        if ended_at.is_some() && !bare {
            self.ended.number(turn.run.0);
        }
        if let Then::End { seen: None | Some(1..), .. } | Then::Continue(_) = turn.then {
            self.unread.number(turn.run.0);
        }
        if let Some(known) = self.seen.runs.get_mut(&turn.run.0) {
            known.unread = known.unread.saturating_sub(consumed.len() as u64);
            known.messages.retain(|_, seq| !consumed.contains(seq));
            if !holds {
                known.summary.owner = None;
                known.summary.wake_at = wake_at;
            }
            if ended_at.is_some() {
                known.summary.status = status;
                known.summary.ended_at = ended_at;
                known.unread = 0;
                known.messages.clear();
            }
        }
        if let Some((successor, row)) = next {
            self.go_on(turn.run.0, &consumed, successor, row);
        }
        Ok(())
    }

    fn start(&mut self, turn: &'a Turn, new: &NewRun) -> Result<(), Outcome> {
        self.may_begin(new)?;
        if !turn.consumed.is_empty() {
            return Err(Outcome::MessageGone);
        }
        let mut row = new.begun(Some(self.ours()), 1, None);
        match turn.then {
            Then::Hold => {}
            Then::Passivate { seen, .. } | Then::End { seen: Some(seen), .. } if seen != 0 => return Err(Outcome::InboxMoved),
            Then::Passivate { wake_at, .. } => {
                row.owner = None;
                row.wake_at = wake_at;
            }
            Then::End { status, .. } => row.end(status, self.batch.now),
            Then::Continue(_) => row.end(Status::Continued, self.batch.now),
        }
        let next = self.follows(turn, Some(&row))?;
        self.append(new.run, 0, &turn.record);
        if turn.then == Then::Hold {
            self.notes.push((new.run.0, Note::Began(turn.record.digest)));
        }
        self.begin(row);
        if let Some((successor, row)) = next {
            self.go_on(new.run.0, &[], successor, row);
        }
        Ok(())
    }

    pub(super) fn enqueue(&mut self, new: &NewRun, record: &Record) -> Result<(), Outcome> {
        self.may_begin(new)?;
        self.append(new.run, 0, record);
        // Without a time of its own it is due at once: nobody else would ever wake it.
        self.begin(new.begun(None, 0, new.wake_at.or(Some(self.batch.now))));
        Ok(())
    }

    pub(super) fn may_begin(&self, new: &NewRun) -> Result<(), Outcome> {
        if self.seen.taken.contains(&new.run.0) {
            return Err(Outcome::Conflict);
        }
        let current = self.seen.current.get(&new.id.id).and_then(|run| self.seen.runs.get(run));
        match current.map(|known| &known.summary) {
            None if new.id.run_no == 1 => Ok(()),
            None => Err(Outcome::Unknown),
            Some(current)
                if current.id.run_no.checked_add(1) == Some(new.id.run_no)
                    && current.status.is_end()
                    && new.after.contains(&current.status) =>
            {
                Ok(())
            }
            Some(current) => Err(Outcome::IdInUse(Box::new(current.clone()))),
        }
    }

    pub(super) fn append(&mut self, run: RunKey, commit_no: u32, record: &Record) {
        let (from, _) = self.blob.put(&record.digest.0);
        let (_, length) = self.blob.put(&record.body);
        self.events.row([run.0.into(), commit_no.into(), from.into(), length.into()]);
    }

    pub(super) fn begin(&mut self, row: Summary) {
        let (digest, _) = self.blob.put(&row.input_digest.0);
        self.runs.row([
            row.run.0.into(),
            row.id.id.as_str().into(),
            row.id.run_no.into(),
            row.workflow.as_str().into(),
            row.version.into(),
            i64::from(row.status.code()).into(),
            row.owner.map(|_| self.node).into(),
            rows::number(row.epoch).into(),
            row.wake_at.map(|at| at.0).into(),
            row.priority.into(),
            row.queue.as_str().into(),
            rows::array(&row.tags).as_str().into(),
            rows::array(&row.needs).as_str().into(),
            row.created_at.0.into(),
            row.ended_at.map(|at| at.0).into(),
            row.deadline.map(|at| at.0).into(),
            digest.into(),
        ]);
        self.seen.taken.insert(row.run.0);
        self.seen.current.insert(row.id.id.clone(), row.run.0);
        self.seen.runs.insert(row.run.0, Known::new(row));
    }

    fn give_back(&mut self, back: &Yield) -> Result<(), Outcome> {
        let ours = self.ours();
        let known = self.seen.runs.get_mut(&back.run.0).ok_or(Outcome::NotOwned)?;
        let row = &mut known.summary;
        if row.owner != Some(ours) || row.epoch != back.epoch {
            return Err(Outcome::NotOwned);
        }
        let (mut by_force, mut blocked) = (true, None);
        row.owner = None;
        let why = back.why_behind(row.inbox_seq, self.batch.now);
        match why {
            YieldReason::Blocked { build, .. } => {
                blocked = Some(build.0);
                row.wake_at = Some(due_for_others(row.blocked_build, build, self.batch.now));
                row.blocked_build = Some(build);
            }
            YieldReason::Quarantined { .. } => {
                row.status = Status::Quarantined;
                row.wake_at = None;
            }
            YieldReason::Paused { forced, .. } => {
                by_force = forced;
                row.status = Status::Paused;
                row.wake_at = None;
            }
            YieldReason::Released { wake_at, forced } => {
                by_force = forced;
                // Nobody is left who would see what is unread, and only a message would wake it: so it is due.
                row.wake_at = if known.unread == 0 { wake_at } else { Some(self.batch.now) };
            }
        }
        let report = refuse::report(&why);
        self.yields
            .row()
            .int(back.run.0)
            .int(i64::from(row.status.code()))
            .maybe(row.wake_at.map(|at| at.0))
            .int(by_force)
            .maybe(blocked)
            .maybe_text(report.as_deref());
        row.reason = report.or_else(|| row.reason.take());
        self.notes.push((back.run.0, Note::Left));
        Ok(())
    }

    fn send(&mut self, message: &Message) -> Outcome {
        let current = self.seen.current.get(&message.to.id);
        let Some(known) = current.and_then(|run| self.seen.runs.get(run)) else { return Outcome::Unknown };
        let row = &known.summary;
        if message.is_too_late(row) {
            return Outcome::Ended(Box::new(row.clone()));
        }
        if known.messages.contains_key(&message.message) {
            return Outcome::AlreadySent;
        }
        if known.unread >= self.inbox_limit && !message.body.is_always_taken() {
            return Outcome::InboxFull;
        }
        self.deliver(row.run.0, &message.message, &message.body, message.sent_at)
    }

    /// Puts a message into the inbox of a run that was looked at, and wakes it.
    pub(super) fn deliver(&mut self, run: i64, message: &str, body: &MessageBody, sent_at: Timestamp) -> Outcome {
        let now = self.batch.now;
        let Some(known) = self.seen.runs.get_mut(&run) else { return Outcome::Unknown };
        let row = &mut known.summary;
        let body = match rmp_serde::to_vec(body) {
            Ok(body) => body,
            Err(error) => return Outcome::Refused(format!("the message cannot be encoded: {error}")),
        };
        row.inbox_seq += 1;
        known.unread += 1;
        known.messages.insert(message.to_owned(), row.inbox_seq);
        // A blocked run is woken as well: for the build that cannot run it nothing changes, and another build may have
        // run it since and put it to sleep.
        if row.owner.is_none() && row.status == Status::Active {
            row.wake_at = Some(row.wake_at.map_or(now, |at| at.min(now)));
        }
        let (from, length) = self.blob.put(&body);
        let seq = rows::number(row.inbox_seq);
        self.messages.row().int(row.run.0).int(seq).text(message).int(sent_at.0).int(from).int(length);
        self.receivers.insert(row.run.0);
        self.notes.push((row.run.0, Note::Got(row.inbox_seq)));
        Outcome::Sent { seq: row.inbox_seq, run: row.run, owner: row.owner }
    }

    /// Says that the connection has changed so many rows more since the look.
    pub(super) fn changed_more(&mut self, rows: u64) {
        self.seen.changes += i64::try_from(rows).unwrap_or(i64::MAX);
    }

    /// Returns which statements of `WRITE` are needed, and the values for them. `claim` is left to the caller.
    pub(super) fn finish(self, renew: Option<u32>) -> Result<Script, sqlx::Error> {
        let mut receivers = Table::new();
        for run in &self.receivers {
            if let Some(known) = self.seen.runs.get(run) {
                let seq = rows::number(known.summary.inbox_seq);
                receivers.row().int(*run).int(seq).maybe(known.summary.wake_at.map(|at| at.0));
            }
        }
        let grids = [self.runs, self.events, self.settled];
        let changes = i64::from(renew.is_some()) + grids.iter().map(Grid::count).sum::<i64>() + self.consumed.count();
        let total = self.seen.changes + changes;
        let sizes = grids.each_ref().map(Grid::size);
        let wanted = [
            renew.is_some(),
            !grids[0].is_empty(),
            !grids[1].is_empty(),
            !grids[2].is_empty(),
            !self.consumed.is_empty(),
            changes > 0,
            !self.ended.is_empty(),
            !self.along.is_empty(),
            !self.unread.is_empty(),
            !self.heartbeats_settled.is_empty(),
            !self.yields.is_empty(),
            !self.messages.is_empty(),
            !receivers.is_empty(),
            !self.heartbeats.is_empty(),
            !self.progressed.is_empty(),
            false,
        ];
        let mut values = Values::grids(grids)?
            .with(self.node)?
            .with(self.blob.finish())?
            .with(self.batch.now.0)?
            .with(i64::from(FORMAT))?
            .up_to(8)?
            .with(self.consumed.finish())?
            .with(total)?
            .with(self.ended.finish())?
            .with(self.heartbeats_settled.finish())?
            .rows(self.yields)?
            .rows(self.messages)?
            .rows(receivers)?
            .rows(self.heartbeats)?
            .with(self.progressed.finish())?
            .with(self.unread.finish())?
            .with(super::look::name(self.batch.incarnation))?
            .with(self.seen.version)?
            .with(renew.map(i64::from))?;
        if !self.along.is_empty() {
            values = values.rows(self.along)?;
        }
        Ok(Script { wanted, sizes, values, total, notes: self.notes })
    }
}
