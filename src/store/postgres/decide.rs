//! Decides about the items one after the other, in the order of the contract and with the rules of the reference store, and
//! collects what the accepted ones write. Runs are changed in memory and written once, as they are in the end.

use std::collections::{BTreeMap, HashMap};

use super::{
    look::{Known, Seen},
    rows,
    values::Values,
};
use crate::{
    kernel::{
        codec::Record,
        event::MessageBody,
        id::{CommitNo, Incarnation, RunKey},
        time::Timestamp,
    },
    store::{
        Batch, FORMAT, Item, Message, NewRun, Outcome, Publication, Status, Summary, TaskKey, Then, Told, Turn, Yield,
        YieldReason,
        item::due_for_others,
        letters::LetterPlan,
        memory::{lines::Beside, refuse},
        memos::MemoPlan,
        queue::{Found, TaskPlan},
        schedules::SchedulePlan,
    },
};

/// A message on its way into an inbox.
struct Sent {
    run: i64,
    seq: i64,
    message: String,
    sent_at: Timestamp,
    body: Vec<u8>,
}

/// What the accepted items write.
pub(super) struct Plan<'a> {
    pub(super) batch: &'a Batch,
    pub(super) inbox_limit: u64,
    node: i32,
    pub(super) seen: Seen,
    /// The rows of the log, in the order in which they are appended.
    pub(super) events: Vec<(RunKey, CommitNo, &'a Record)>,
    sent: Vec<Sent>,
    consumed: Vec<(i64, i64)>,
    /// What goes along with runs that continue: run, number and the next run.
    pub(super) along: Vec<(i64, i64, i64)>,
    ended: Vec<i64>,
    settled: Vec<(i64, i64)>,
    /// By run and position; the last one wins.
    heartbeats: BTreeMap<(i64, i64), (i64, &'a [u8])>,
    /// What becomes of tasks…
    pub(super) tasks: TaskPlan<'a>,
    /// What the accepted turns publish.
    pub(super) published: Vec<(RunKey, &'a Publication)>,
    /// What becomes of letters…
    pub(super) letters: LetterPlan<'a>,
    /// …and of schedules, whose revisions the caller has looked up behind their locks.
    pub(super) schedules: SchedulePlan<'a>,
    /// …and of shared results.
    pub(super) memos: MemoPlan<'a>,
    /// What the turns told other runs.
    pub(super) told: Vec<Told>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(batch: &'a Batch, inbox_limit: u32, node: i32, seen: Seen, found: HashMap<TaskKey, Found>) -> Plan<'a> {
        Plan {
            batch,
            inbox_limit: u64::from(inbox_limit),
            node,
            seen,
            events: Vec::new(),
            sent: Vec::new(),
            consumed: Vec::new(),
            along: Vec::new(),
            ended: Vec::new(),
            settled: Vec::new(),
            heartbeats: BTreeMap::new(),
            tasks: TaskPlan { found, ..TaskPlan::default() },
            published: Vec::new(),
            letters: LetterPlan::default(),
            schedules: SchedulePlan::default(),
            memos: MemoPlan::default(),
            told: Vec::new(),
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

    /// Decides about one item, but for what it does to other runs, unless it is about something that somebody else is at work
    /// on. Items are to be given kind by kind.
    pub(super) fn decide(&mut self, place: usize) -> Option<Outcome> {
        let batch = self.batch;
        let item = &batch.items[place];
        if self.seen.is_foreign(item) {
            return None;
        }
        let refused_or_done = |result: Result<(), Outcome>| result.map_or_else(|refused| refused, |()| Outcome::Done);
        Some(match item {
            Item::Turn(turn) => {
                let accepted = match &turn.start {
                    Some(new) => self.start(turn, new),
                    None => self.turn(turn),
                };
                refused_or_done(accepted.map(|()| self.accepted(turn)))
            }
            Item::Enqueue(new, record) => refused_or_done(self.enqueue(new, record)),
            Item::Yield(back) => refused_or_done(self.give_back(back)),
            Item::Send(message) => self.send(message),
            Item::Heartbeat { run, position, attempt, details } => match self.seen.runs.get(&run.0) {
                Some(known) if known.summary.owner == Some(self.ours()) => {
                    self.heartbeats.insert((run.0, i64::from(*position)), (i64::from(*attempt), &details[..]));
                    Outcome::Done
                }
                _ => Outcome::NotOwned,
            },
            Item::Progressed(runs) => {
                for run in runs {
                    if let Some(known) = self.seen.runs.get_mut(&run.0) {
                        known.changed |= known.beside.claims != 0;
                        known.beside.claims = 0;
                    }
                }
                Outcome::Done
            }
            Item::PlaceTasks(run, epoch, tasks) => match self.seen.runs.get(&run.0) {
                Some(Known { summary, .. }) if summary.owner == Some(self.ours()) && summary.epoch == *epoch => {
                    self.tasks.place(tasks);
                    Outcome::Done
                }
                _ => Outcome::NotOwned,
            },
            Item::BeatTask(key, details) => self.tasks.beat(*key, details, batch.incarnation),
            Item::Schedule(change) => refused_or_done(self.schedule(change)),
            Item::Memo(change) => refused_or_done(self.memo(change)),
            Item::Fork(fork) => refused_or_done(self.fork(fork)),
            Item::DropLetters(letters) => {
                self.letters.drop_seen(letters);
                Outcome::Done
            }
            Item::EndTask(end) => match self.tasks.end(end) {
                Ok(Some(body)) => match self.seen.runs.get(&end.key.run.0) {
                    Some(known) if !known.summary.status.is_end() => self.deliver(end.key.run.0, end.message(), &body, batch.now),
                    _ => Outcome::Done,
                },
                Ok(None) => Outcome::Done,
                Err(refused) => refused,
            },
        })
    }

    fn turn(&mut self, turn: &'a Turn) -> Result<(), Outcome> {
        let now = self.batch.now;
        let before = self.seen.runs.get(&turn.run.0).ok_or(Outcome::Conflict)?;
        let next = Plan::follows(&self.seen, turn, &before.summary, self.batch);
        let known = self.seen.runs.get_mut(&turn.run.0).ok_or(Outcome::Conflict)?;
        let row = &mut known.summary;
        let follows = match known.tail {
            Some((last, digest)) => turn.follows(last, digest),
            None => turn.prev.is_none() && turn.commit_no == 0,
        };
        if row.status.is_end() || !follows || !turn.fits(row) {
            return Err(Outcome::Conflict);
        }
        if turn.consumed.iter().any(|seq| !self.seen.present.contains(&(turn.run.0, *seq))) {
            return Err(Outcome::MessageGone);
        }
        let mut consumed = turn.consumed.clone();
        consumed.sort_unstable();
        consumed.dedup();
        let next = next?;
        match turn.then {
            Then::Hold => {}
            Then::Passivate { seen, .. } | Then::End { seen: Some(seen), .. } if seen != row.inbox_seq => {
                return Err(Outcome::InboxMoved);
            }
            Then::Passivate { wake_at, .. } => row.wake_at = wake_at,
            Then::End { status, .. } => row.end(status, now),
            Then::Continue(_) => row.end(Status::Continued, now),
        }
        known.tail = Some((turn.commit_no, turn.record.digest));
        known.unread = known.unread.saturating_sub(consumed.len() as u64);
        known.messages.retain(|_, seq| !consumed.contains(seq));
        if turn.then != Then::Hold {
            row.owner = None;
            known.beside.claims = 0;
            known.changed = true;
        }
        if let Then::End { .. } | Then::Continue(_) = turn.then {
            known.unread = 0;
            known.messages.clear();
            self.ended.push(turn.run.0);
        } else {
            self.consumed.extend(consumed.iter().map(|seq| (turn.run.0, rows::number(*seq))));
        }
        self.settled.extend(turn.settled.iter().map(|position| (turn.run.0, i64::from(*position))));
        self.events.push((turn.run, turn.commit_no, &turn.record));
        if let Some((next, row)) = next {
            self.go_on(turn.run.0, &consumed, next, row);
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
        let next = Plan::follows(&self.seen, turn, &row, self.batch)?;
        self.begin(row, std::slice::from_ref(&turn.record));
        if let Some((next, row)) = next {
            self.go_on(new.run.0, &[], next, row);
        }
        Ok(())
    }

    pub(super) fn enqueue(&mut self, new: &NewRun, record: &'a Record) -> Result<(), Outcome> {
        self.may_begin(new)?;
        // Without a time of its own it is due at once: nobody else would ever wake it.
        self.begin(new.begun(None, 0, new.wake_at.or(Some(self.batch.now))), std::slice::from_ref(record));
        Ok(())
    }

    pub(super) fn may_begin(&self, new: &NewRun) -> Result<(), Outcome> {
        if self.seen.runs.contains_key(&new.run.0) {
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

    /// With the first rows of its log, of which there are some.
    pub(super) fn begin(&mut self, row: Summary, log: &'a [Record]) {
        self.events.extend((0..).zip(log).map(|(commit_no, record)| (row.run, commit_no, record)));
        self.seen.current.insert(row.id.id.clone(), row.run.0);
        let beside = Beside { claims: 0, forced: false, format: FORMAT };
        let last = CommitNo::try_from(log.len().saturating_sub(1)).unwrap_or(CommitNo::MAX);
        let tail = log.last().map(|record| (last, record.digest));
        self.seen.runs.insert(row.run.0, Known { tail, is_new: true, ..Known::new(row, beside) });
    }

    fn give_back(&mut self, back: &Yield) -> Result<(), Outcome> {
        let (ours, now) = (self.ours(), self.batch.now);
        let known = self.seen.runs.get_mut(&back.run.0).ok_or(Outcome::NotOwned)?;
        let row = &mut known.summary;
        if row.owner != Some(ours) || row.epoch != back.epoch {
            return Err(Outcome::NotOwned);
        }
        row.owner = None;
        known.changed = true;
        known.beside.forced = true;
        let why = back.why_behind(row.inbox_seq, now);
        match why {
            YieldReason::Blocked { build, .. } => {
                row.wake_at = Some(due_for_others(row.blocked_build, build, now));
                row.blocked_build = Some(build);
                // Whoever says so has lived on.
                known.beside.claims = 0;
            }
            YieldReason::Quarantined { .. } => {
                row.status = Status::Quarantined;
                row.wake_at = None;
            }
            YieldReason::Paused { forced, .. } => {
                known.beside.forced = forced;
                row.status = Status::Paused;
                row.wake_at = None;
            }
            YieldReason::Released { wake_at, forced } => {
                known.beside.forced = forced;
                // Nobody is left who would see what is unread, and only a message would wake it: so it is due.
                row.wake_at = if known.unread == 0 { wake_at } else { Some(now) };
            }
        }
        row.reason = refuse::report(&why).or_else(|| row.reason.take());
        Ok(())
    }

    fn send(&mut self, message: &'a Message) -> Outcome {
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
        self.deliver(row.run.0, message.message.clone(), &message.body, message.sent_at)
    }

    /// Puts a message into the inbox of a run that was looked at, and wakes it.
    pub(super) fn deliver(&mut self, run: i64, message: String, body: &MessageBody, sent_at: Timestamp) -> Outcome {
        let now = self.batch.now;
        let Some(known) = self.seen.runs.get_mut(&run) else { return Outcome::Unknown };
        let row = &mut known.summary;
        let body = match rmp_serde::to_vec(body) {
            Ok(body) => body,
            Err(error) => return Outcome::Refused(format!("the message cannot be encoded: {error}")),
        };
        row.inbox_seq += 1;
        known.unread += 1;
        known.changed = true;
        known.messages.insert(message.clone(), row.inbox_seq);
        // A blocked run is woken as well: for the build that cannot run it nothing changes, and another build may have
        // run it since and put it to sleep.
        if row.owner.is_none() && row.status == Status::Active {
            row.wake_at = Some(row.wake_at.map_or(now, |at| at.min(now)));
        }
        self.sent.push(Sent { run: row.run.0, seq: rows::number(row.inbox_seq), message, sent_at, body });
        Outcome::Sent { seq: row.inbox_seq, run: row.run, owner: row.owner }
    }

    /// Returns the values of `DELETE` and how many messages it must delete, if anything goes.
    pub(super) fn deletions(&self) -> Option<(Values, i64)> {
        let Plan { consumed, ended, settled, .. } = self;
        if consumed.is_empty() && ended.is_empty() && settled.is_empty() {
            return None;
        }
        let (runs, numbers): (Vec<_>, Vec<_>) = consumed.iter().copied().unzip();
        let (of, positions): (Vec<_>, Vec<_>) = settled.iter().copied().unzip();
        let values = Values::default().with(runs).with(numbers).with(&ended[..]).with(of).with(positions);
        Some((values, count(consumed.len())))
    }

    /// Returns the values of `WRITE` and how many rows it must write of each kind, if there are any. $19, $43 and $44 are
    /// the caller's.
    pub(super) fn writes(&self, renew: bool) -> Option<(Values, [i64; 5])> {
        let mut all: Vec<&Known> = self.seen.runs.values().filter(|known| known.is_new || known.changed).collect();
        all.sort_unstable_by_key(|known| known.summary.run);
        let (new, changed): (Vec<&Known>, Vec<&Known>) = all.into_iter().partition(|known| known.is_new);
        let counts = [new.len(), changed.len(), self.events.len(), self.sent.len(), self.heartbeats.len()];
        if counts == [0; 5] && !renew {
            return None;
        }
        let values = self.changes(self.beginnings(&new), &changed);
        let values = values
            .with(self.events.iter().map(|(run, _, _)| run.0).collect::<Vec<_>>())
            .with(self.events.iter().map(|(_, no, _)| i64::from(*no)).collect::<Vec<_>>())
            .with(self.events.iter().map(|(_, _, record)| &record.digest.0[..]).collect::<Vec<_>>())
            .with(self.events.iter().map(|(_, _, record)| &record.body[..]).collect::<Vec<_>>())
            .with(self.sent.iter().map(|sent| sent.run).collect::<Vec<_>>())
            .with(self.sent.iter().map(|sent| sent.seq).collect::<Vec<_>>())
            .with(self.sent.iter().map(|sent| sent.message.as_str()).collect::<Vec<_>>())
            .with(self.sent.iter().map(|sent| sent.sent_at.0).collect::<Vec<_>>())
            .with(self.sent.iter().map(|sent| &sent.body[..]).collect::<Vec<_>>())
            .with(self.heartbeats.keys().map(|(run, _)| *run).collect::<Vec<_>>())
            .with(self.heartbeats.keys().map(|(_, position)| *position).collect::<Vec<_>>())
            .with(self.heartbeats.values().map(|(attempt, _)| *attempt).collect::<Vec<_>>())
            .with(self.heartbeats.values().map(|(_, details)| *details).collect::<Vec<_>>())
            .with(self.node)
            .with(renew)
            .with(new.iter().map(|known| known.beside.forced).collect::<Vec<_>>())
            .with(new.iter().map(|known| known.summary.blocked_build.map(|build| build.0)).collect::<Vec<_>>())
            .with(new.iter().map(|known| known.summary.reason.as_deref()).collect::<Vec<_>>());
        Some((values, counts.map(count)))
    }

    fn beginnings(&self, new: &[&Known]) -> Values {
        let rows = || new.iter().map(|known| &known.summary);
        Values::default()
            .with(rows().map(|row| row.run.0).collect::<Vec<_>>())
            .with(rows().map(|row| row.id.id.as_str()).collect::<Vec<_>>())
            .with(rows().map(|row| i64::from(row.id.run_no)).collect::<Vec<_>>())
            .with(rows().map(|row| row.workflow.as_str()).collect::<Vec<_>>())
            .with(rows().map(|row| i64::from(row.version)).collect::<Vec<_>>())
            .with(rows().map(|row| row.priority).collect::<Vec<_>>())
            .with(rows().map(|row| row.queue.as_str()).collect::<Vec<_>>())
            .with(rows().map(|row| rows::array(&row.tags)).collect::<Vec<_>>())
            .with(rows().map(|row| rows::array(&row.needs)).collect::<Vec<_>>())
            .with(rows().map(|row| row.created_at.0).collect::<Vec<_>>())
            .with(rows().map(|row| row.deadline.map(|at| at.0)).collect::<Vec<_>>())
            .with(rows().map(|row| &row.input_digest.0[..]).collect::<Vec<_>>())
            .with(rows().map(|row| row.status.code()).collect::<Vec<_>>())
            .with(self.owners(new))
            .with(rows().map(|row| rows::number(row.epoch)).collect::<Vec<_>>())
            .with(rows().map(|row| row.wake_at.map(|at| at.0)).collect::<Vec<_>>())
            .with(rows().map(|row| row.ended_at.map(|at| at.0)).collect::<Vec<_>>())
            .with(rows().map(|row| rows::number(row.inbox_seq)).collect::<Vec<_>>())
            .with(i32::try_from(FORMAT).unwrap_or(i32::MAX))
    }

    fn changes(&self, values: Values, changed: &[&Known]) -> Values {
        let rows = || changed.iter().map(|known| &known.summary);
        values
            .with(rows().map(|row| row.run.0).collect::<Vec<_>>())
            .with(rows().map(|row| row.status.code()).collect::<Vec<_>>())
            .with(rows().map(|row| row.owner.is_none()).collect::<Vec<_>>())
            .with(rows().map(|row| row.wake_at.map(|at| at.0)).collect::<Vec<_>>())
            .with(rows().map(|row| row.ended_at.map(|at| at.0)).collect::<Vec<_>>())
            .with(changed.iter().map(|known| i32::try_from(known.beside.claims).unwrap_or(i32::MAX)).collect::<Vec<_>>())
            .with(changed.iter().map(|known| known.beside.forced).collect::<Vec<_>>())
            .with(rows().map(|row| row.blocked_build.map(|build| build.0)).collect::<Vec<_>>())
            .with(rows().map(|row| row.reason.as_deref()).collect::<Vec<_>>())
            .with(rows().map(|row| rows::number(row.inbox_seq)).collect::<Vec<_>>())
    }

    fn owners(&self, all: &[&Known]) -> Vec<Option<i32>> {
        all.iter().map(|known| known.summary.owner.map(|_| self.node)).collect()
    }
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}
