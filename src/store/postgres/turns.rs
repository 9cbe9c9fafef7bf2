//! The short way: one statement, one round trip, for a batch of turns of existing runs and of runs that begin. It is taken
//! when no item can depend on another; what it does not accept, the general path decides.
//!
//! If its answer is lost, the rows that it would have appended tell what became of it, since all that belongs to an accepted
//! item went in together with its row.

use std::collections::HashSet;

use sqlx::Row;

use super::{commit::Commit, home::Witness, rows, session::Session, sql, tails::Tails, trouble::Trouble, values::Values};
use crate::{
    kernel::{
        codec::Record,
        id::{CommitNo, Digest, RunKey},
        time::Timestamp,
    },
    store::{Batch, FORMAT, Item, NewRun, Outcome, Then, Turn},
};

/// The columns of the statement.
#[derive(Default)]
pub(super) struct Turns<'a> {
    /// The items behind the rows, in the order of the contract.
    items: Vec<usize>,
    /// What is appended.
    rows: Vec<Appended<'a>>,
    turns: Vec<(i64, &'a Turn)>,
    begun: Vec<(i64, Begun<'a>)>,
}

struct Appended<'a> {
    run: RunKey,
    commit_no: CommitNo,
    record: &'a Record,
    /// Whether its run goes on here.
    stays: bool,
}

struct Begun<'a> {
    new: &'a NewRun,
    record: &'a Record,
    status: i16,
    owned: bool,
    epoch: i64,
    wake_at: Option<i64>,
    ended_at: Option<i64>,
}

/// What came of it.
pub(super) enum Went {
    /// The node is dead; nothing was written.
    Fenced,
    /// These items are done.
    Done(Vec<usize>),
}

impl<'a> Turns<'a> {
    /// Collects the turns and enqueues among these items, or none if they depend on each other.
    pub(super) fn of(batch: &'a Batch, items: &[usize]) -> Turns<'a> {
        let mut turns = Turns::default();
        let (mut runs, mut ids) = (HashSet::new(), HashSet::new());
        for &place in items {
            let fits = match &batch.items[place] {
                // The general path knows tasks, other runs, letters and what is published; with one of its items in the batch the others are no further trip
                // there, and what is told behind all turns finds them as they have left their runs.
                item if item.has_tasks() || item.writes_beside() => false,
                Item::Turn(turn) if !turn.is_alone() => false,
                Item::Turn(turn) => match &turn.start {
                    Some(new) => {
                        ids.insert(new.id.id.as_str()) && runs.insert(turn.run) && turns.start(place, turn, new, batch.now)
                    }
                    None => runs.insert(turn.run) && turns.turn(place, turn),
                },
                Item::Enqueue(new, record) => {
                    let due = new.wake_at.unwrap_or(batch.now);
                    let row = Begun { new, record, status: 1, owned: false, epoch: 0, wake_at: Some(due.0), ended_at: None };
                    ids.insert(new.id.id.as_str()) && runs.insert(new.run) && turns.begin(place, row)
                }
                _ => true,
            };
            if !fits {
                return Turns::default();
            }
        }
        turns
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    fn row(&mut self, place: usize, row: Appended<'a>) -> i64 {
        self.items.push(place);
        self.rows.push(row);
        i64::try_from(self.rows.len()).unwrap_or(i64::MAX)
    }

    fn turn(&mut self, place: usize, turn: &'a Turn) -> bool {
        // Rare: a run whose inbox moves all the while.
        if let Then::End { seen: None, .. } = turn.then {
            return false;
        }
        let stays = turn.then == Then::Hold;
        let ord = self.row(place, Appended { run: turn.run, commit_no: turn.commit_no, record: &turn.record, stays });
        self.turns.push((ord, turn));
        true
    }

    fn start(&mut self, place: usize, turn: &'a Turn, new: &'a NewRun, now: Timestamp) -> bool {
        let held = Begun { new, record: &turn.record, status: 1, owned: true, epoch: 1, wake_at: None, ended_at: None };
        let row = match turn.then {
            Then::Hold => held,
            Then::Passivate { seen: 0, wake_at } => Begun { owned: false, wake_at: wake_at.map(|at| at.0), ..held },
            Then::End { seen: Some(0), status } => Begun { owned: false, status: status.code(), ended_at: Some(now.0), ..held },
            // Refused with a reason of its own.
            Then::Passivate { .. } | Then::End { .. } | Then::Continue(_) => return false,
        };
        turn.consumed.is_empty() && self.begin(place, row)
    }

    fn begin(&mut self, place: usize, row: Begun<'a>) -> bool {
        // A later run of an id depends on the run before it.
        if row.new.id.run_no != 1 {
            return false;
        }
        let ord = self.row(place, Appended { run: row.new.run, commit_no: 0, record: row.record, stays: row.owned });
        self.begun.push((ord, row));
        true
    }

    /// Returns the statement to run.
    fn statement(&self, commit: &Commit<'_>, tails: &Tails) -> (&'static str, Values) {
        let of_turns = || self.turns.iter();
        let nothing = Digest([0; 32]);
        let prev = |turn: &Turn| (!tails.precede(turn)).then(|| turn.prev.unwrap_or(nothing).0.to_vec());
        let prev: Vec<Option<Vec<u8>>> = of_turns().map(|(_, turn)| prev(turn)).collect();
        let (mut kinds, mut seen, mut wakes, mut states) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (_, turn) in of_turns() {
            let (kind, saw, wake_at, status) = match turn.then {
                Then::Hold => (0_i16, 0, None, 1),
                Then::Passivate { wake_at, seen } => (1, seen, wake_at, 1),
                Then::End { status, seen: Some(seen) } => (2, seen, None, status.code()),
                // Never among these; and if they were, they would be refused, for no inbox has had as many messages.
                Then::End { seen: None, .. } | Then::Continue(_) => (2, u64::MAX, None, 1),
            };
            kinds.push(kind);
            seen.push(rows::number(saw));
            wakes.push(wake_at.map(|at| at.0));
            states.push(status);
        }
        let values = Values::default()
            .with(commit.node)
            .with(commit.renew)
            .with(commit.batch.now.0)
            .with(i32::try_from(FORMAT).unwrap_or(i32::MAX))
            .with(of_turns().map(|(ord, _)| *ord).collect::<Vec<_>>())
            .with(of_turns().map(|(_, turn)| turn.run.0).collect::<Vec<_>>())
            .with(of_turns().map(|(_, turn)| i64::from(turn.commit_no)).collect::<Vec<_>>())
            .with(prev)
            .with(kinds)
            .with(seen)
            .with(wakes)
            .with(states)
            .with(of_turns().map(|(_, turn)| &turn.record.digest.0[..]).collect::<Vec<_>>())
            .with(of_turns().map(|(_, turn)| &turn.record.body[..]).collect::<Vec<_>>());
        let values = self.beginnings(values);
        let is_plain = of_turns().all(|(_, turn)| turn.consumed.is_empty() && turn.settled.is_empty());
        if is_plain { (sql::PLAIN, values) } else { (sql::TURNS, self.cleared(values)) }
    }

    fn beginnings(&self, values: Values) -> Values {
        let rows = || self.begun.iter().map(|(_, row)| row);
        let news = || rows().map(|row| row.new);
        values
            .with(news().map(|new| new.run.0).collect::<Vec<_>>())
            .with(news().map(|new| new.id.id.as_str()).collect::<Vec<_>>())
            .with(news().map(|new| new.workflow.as_str()).collect::<Vec<_>>())
            .with(news().map(|new| i64::from(new.version)).collect::<Vec<_>>())
            .with(news().map(|new| new.priority).collect::<Vec<_>>())
            .with(news().map(|new| new.queue.as_str()).collect::<Vec<_>>())
            .with(news().map(|new| rows::array(&new.tags)).collect::<Vec<_>>())
            .with(news().map(|new| rows::array(&new.needs)).collect::<Vec<_>>())
            .with(news().map(|new| new.created_at.0).collect::<Vec<_>>())
            .with(rows().map(|row| row.wake_at).collect::<Vec<_>>())
            .with(news().map(|new| new.deadline.map(|at| at.0)).collect::<Vec<_>>())
            .with(news().map(|new| &new.input_digest.0[..]).collect::<Vec<_>>())
            .with(rows().map(|row| row.status).collect::<Vec<_>>())
            .with(rows().map(|row| row.owned).collect::<Vec<_>>())
            .with(rows().map(|row| row.epoch).collect::<Vec<_>>())
            .with(rows().map(|row| row.ended_at).collect::<Vec<_>>())
            .with(rows().map(|row| &row.record.digest.0[..]).collect::<Vec<_>>())
            .with(rows().map(|row| &row.record.body[..]).collect::<Vec<_>>())
    }

    /// The messages consumed and the heartbeats settled.
    fn cleared(&self, values: Values) -> Values {
        let of_turns = || self.turns.iter();
        let mut consumed: Vec<(i64, i64, i64)> =
            of_turns().flat_map(|(ord, turn)| turn.consumed.iter().map(|seq| (*ord, turn.run.0, rows::number(*seq)))).collect();
        consumed.sort_unstable();
        consumed.dedup();
        let settled: Vec<(i64, i64, i64)> = of_turns()
            .flat_map(|(ord, turn)| turn.settled.iter().map(|position| (*ord, turn.run.0, i64::from(*position))))
            .collect();
        triples(triples(values, &consumed), &settled)
    }

    /// Runs the statement. When its answer is lost, it is settled what it did, and what it did not do is open as before.
    pub(super) async fn run(&self, session: &mut Session, tails: &mut Tails, commit: &Commit<'_>) -> Result<Went, Trouble> {
        session.ready().await?;
        tails.of(session.backend());
        let (text, values) = self.statement(commit, tails);
        let answer = match session.rows(text, values).await {
            Ok(answer) => answer,
            Err(Trouble::Lost(reason)) => {
                let done = self.settle(session, tails).await?;
                return if done.is_empty() { Err(Trouble::Lost(reason)) } else { Ok(Went::Done(done)) };
            }
            Err(trouble) => return Err(trouble),
        };
        let sort = |error: sqlx::Error| session.home.sort(&error);
        let row = answer.first().ok_or_else(|| Trouble::Statement("the statement gave no answer".into()))?;
        if row.try_get::<i64, _>(0).map_err(sort)? == 0 {
            return Ok(Went::Fenced);
        }
        let mut done = Vec::new();
        if row.try_get::<bool, _>(1).map_err(sort)? {
            done.extend(self.begun.iter().map(|(ord, _)| *ord));
        }
        done.extend(row.try_get::<Option<Vec<i64>>, _>(2).map_err(sort)?.unwrap_or_default());
        Ok(Went::Done(self.acknowledge(session, tails, &done)))
    }

    async fn settle(&self, session: &mut Session, tails: &mut Tails) -> Result<Vec<usize>, Trouble> {
        let values = Values::default()
            .with(self.rows.iter().map(|row| row.run.0).collect::<Vec<_>>())
            .with(self.rows.iter().map(|row| i64::from(row.commit_no)).collect::<Vec<_>>())
            .with(self.rows.iter().map(|row| &row.record.digest.0[..]).collect::<Vec<_>>());
        let found = session.again(sql::APPENDED, values).await?;
        let done: Result<Vec<i64>, _> = found.iter().map(|row| row.try_get(0)).collect();
        tails.of(session.backend());
        Ok(self.acknowledge(session, tails, &done.map_err(|error| session.home.sort(&error))?))
    }

    /// Takes note of rows that are in the log, and returns the items behind them.
    fn acknowledge(&self, session: &Session, tails: &mut Tails, done: &[i64]) -> Vec<usize> {
        for row in done.iter().filter_map(|ord| self.rows.get(place_of(*ord))) {
            tails.note(row.run, row.commit_no, row.record.digest, row.stays);
        }
        if let Some(row) = done.iter().max().and_then(|ord| self.rows.get(place_of(*ord))) {
            session.home.acknowledged(Witness { run: row.run, commit_no: row.commit_no, digest: row.record.digest });
        }
        done.iter().filter_map(|ord| self.items.get(place_of(*ord)).copied()).collect()
    }
}

/// Where the row of an `ord` is.
fn place_of(ord: i64) -> usize {
    usize::try_from(ord - 1).unwrap_or(usize::MAX)
}

fn triples(values: Values, all: &[(i64, i64, i64)]) -> Values {
    values
        .with(all.iter().map(|(ord, _, _)| *ord).collect::<Vec<_>>())
        .with(all.iter().map(|(_, run, _)| *run).collect::<Vec<_>>())
        .with(all.iter().map(|(_, _, number)| *number).collect::<Vec<_>>())
}

/// Marks items as done.
pub(super) fn mark(outcomes: &mut [Option<Outcome>], done: &[usize]) {
    for place in done {
        outcomes[*place] = Some(Outcome::Done);
    }
}
