//! A batch, start to end: the short way for turns (`turns.rs`), the general path for what is left, then the claim.
//!
//! The general path is one transaction: fence, lock, look, decide, write. It waits for nobody: what somebody else has locked
//! is put aside, tried once more a moment later, and else told to [wait](Outcome::Waits). A statement that fails for a
//! reason that no decision foresaw has one guilty item: the batch is halved until that stands alone. What turns do to other runs
//! comes behind all turns of its own transaction: a batch that had to be divided is as good as several batches in a row.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use sqlx::Row;

use super::{
    claim::Floor,
    decide::Plan,
    held::Held,
    home::Witness,
    letters,
    look::Seen,
    memos, published, schedules,
    session::Session,
    sql, successor,
    tails::Tails,
    tasks,
    trouble::Trouble,
    turns::{self, Turns, Went},
    values::Values,
};
use crate::{
    kernel::{id::Incarnation, time::Timestamp},
    store::{
        Batch, BatchAnswer, Item, Outcome, StoreError, Then, Told, Yield, YieldReason, memory::refuse, others::behind_yields,
        queue::asked_for, schedules::named,
    },
};

/// How often the short way is tried again when its answer was lost, before the general path is taken.
const TRIES: u32 = 4;

/// How long a transaction waits for a lock, in milliseconds, once it is known that somebody keeps one.
const HURRY: &str = "10";

/// The same for what was found to be held when it was last tried.
const AT_ONCE: &str = "1";

/// So many beginnings of held ids are tried per batch, each in a transaction of its own, since each may have to wait.
const MOST_ALONE: usize = 8;

/// The session that commits, and what it remembers.
pub(super) struct Writer {
    pub(super) session: Session,
    pub(super) floor: Floor,
    tails: Tails,
    node: Option<(Incarnation, i32)>,
    /// Priorities that are known to be in their table.
    priorities: HashSet<i32>,
    held: Held,
    /// How many beginnings of held ids there were up to now: it goes round which of them are tried.
    round: usize,
}

/// A batch under way.
pub(super) struct Commit<'a> {
    pub(super) batch: &'a Batch,
    pub(super) node: i32,
    /// Whether the lease is still to be renewed.
    pub(super) renew: bool,
}

/// What one transaction of the general path decided.
struct Decided {
    outcomes: Vec<(usize, Outcome)>,
    /// Items about something that somebody else is at work on.
    aside: Vec<usize>,
    told: Vec<Told>,
    witness: Option<Witness>,
}

impl Decided {
    fn take(&mut self, place: usize, outcome: Option<Outcome>) {
        match outcome {
            Some(outcome) => self.outcomes.push((place, outcome)),
            None => self.aside.push(place),
        }
    }
}

impl Writer {
    pub(super) fn new(session: Session) -> Writer {
        Writer {
            session,
            floor: Floor::default(),
            tails: Tails::default(),
            node: None,
            priorities: HashSet::from([0]),
            held: Held::default(),
            round: 0,
        }
    }

    /// Remembers a node that was just entered.
    pub(super) fn entered(&mut self, incarnation: Incarnation, node: i32) {
        self.node = Some((incarnation, node));
        self.session.home.entered(node);
    }

    /// Returns the short name of a node, which never changes.
    pub(super) async fn node(&mut self, incarnation: Incarnation) -> Result<Option<i32>, Trouble> {
        if let Some((known, node)) = self.node
            && known == incarnation
        {
            return Ok(Some(node));
        }
        let found = self.session.again(sql::NODE, Values::default().with(incarnation.0)).await?;
        let node = found.first().map(|row| row.try_get(0)).transpose().map_err(|error| self.session.home.sort(&error))?;
        if let Some(node) = node {
            self.node = Some((incarnation, node));
        }
        Ok(node)
    }

    pub(super) async fn commit(&mut self, batch: &Batch) -> Result<BatchAnswer, Trouble> {
        let mut outcomes: Vec<_> = refuse::unacceptable(batch).into_iter().map(|why| why.map(Outcome::Refused)).collect();
        let Some(node) = self.node(batch.incarnation).await? else { return Ok(fenced(batch)) };
        let mut commit = Commit { batch, node, renew: batch.renew };
        let (mut open, held) = self.held.divide(batch, in_order(batch, &outcomes));
        if open.is_empty() && held.is_empty() && !batch.renew && batch.claim.is_none() && !self.stands(node).await? {
            return Ok(fenced(batch));
        }
        self.know_priorities(batch, &open).await?;
        self.know_priorities(batch, &held).await?;
        open.iter().filter_map(|place| due_at(&batch.items[*place])).for_each(|due| self.floor.due_at(due));
        let begun = open.iter().flat_map(|place| batch.items[*place].begins());
        begun.filter_map(|new| new.wake_at).for_each(|due| self.floor.due_at(due));
        let mut hurry = false;
        let mut tries = 0;
        loop {
            let turns = Turns::of(batch, &open);
            if turns.is_empty() && !commit.renew {
                break;
            }
            match turns.run(&mut self.session, &mut self.tails, &commit).await {
                Ok(Went::Fenced) => return Ok(fenced(batch)),
                Ok(Went::Done(done)) => {
                    commit.renew = false;
                    turns::mark(&mut outcomes, &done);
                    open.retain(|place| outcomes[*place].is_none());
                    break;
                }
                Err(Trouble::Lost(_)) if tries < TRIES => tries += 1,
                Err(Trouble::Store(error)) => return Err(Trouble::Store(error)),
                Err(Trouble::Waits) => {
                    hurry = true;
                    break;
                }
                Err(_) => break,
            }
        }
        let (mut live, mut told) = (true, Vec::new());
        if !open.is_empty() || commit.renew {
            live = self.general(&mut commit, vec![open], hurry.then_some(HURRY), &mut outcomes, &mut told).await?;
        }
        if live && !held.is_empty() {
            let (groups, later) = self.groups(batch, &held);
            live = self.general(&mut commit, groups, Some(AT_ONCE), &mut outcomes, &mut told).await?;
            later.into_iter().for_each(|place| outcomes[place] = Some(Outcome::Waits));
        }
        self.remember(batch, &held, &outcomes);
        let mut claimed = Vec::new();
        if let Some(request) = batch.claim.as_ref().filter(|_| live) {
            match self.claim(&commit, request).await {
                Ok(Some(runs)) => claimed = runs,
                Ok(None) => live = false,
                // What was written stays told; the next claim tells the same trouble, or none.
                Err(_) if outcomes.iter().any(wrote) => {}
                Err(trouble) => return Err(trouble),
            }
        }
        // Only where the node was taken over between two transactions of this batch has something been written.
        if !live && !outcomes.iter().any(wrote) {
            return Ok(fenced(batch));
        }
        let outcomes: Vec<_> = outcomes.into_iter().map(|outcome| outcome.unwrap_or(Outcome::Fenced)).collect();
        behind_yields(batch, &outcomes, &mut told);
        Ok(BatchAnswer { outcomes, claimed, told, live })
    }

    /// Groups what is held, in its order. Items about runs that exist are decided together: what they want is locked or left
    /// out, and nobody waits. Whoever begins a run finds out by waiting whether its id is free: each alone, and a few only; the
    /// rest is for later batches.
    fn groups(&mut self, batch: &Batch, held: &[usize]) -> (Vec<Vec<usize>>, Vec<usize>) {
        let begins = |place: &usize| match &batch.items[*place] {
            Item::Turn(turn) => turn.start.is_some() || !turn.starts.is_empty(),
            Item::Enqueue(..) | Item::Fork(_) => true,
            Item::Schedule(change) => !change.starts.is_empty(),
            _ => false,
        };
        let count = held.iter().filter(|place| begins(place)).count();
        let (mut groups, mut later) = (Vec::<Vec<usize>>::new(), Vec::new());
        let (mut nth, mut open) = (0, false);
        for place in held {
            if begins(place) {
                if (nth + count - self.round % count) % count < MOST_ALONE {
                    groups.push(vec![*place]);
                    open = false;
                } else {
                    later.push(*place);
                }
                nth += 1;
            } else if let Some(group) = groups.last_mut().filter(|_| open) {
                group.push(*place);
            } else {
                groups.push(vec![*place]);
                open = true;
            }
        }
        self.round = self.round.wrapping_add(MOST_ALONE);
        (groups, later)
    }

    async fn stands(&mut self, node: i32) -> Result<bool, Trouble> {
        Ok(!self.session.again(sql::STANDS, Values::default().with(node)).await?.is_empty())
    }

    /// Makes sure that claims look where these items may put runs.
    async fn know_priorities(&mut self, batch: &Batch, open: &[usize]) -> Result<(), Trouble> {
        let mut new: Vec<i32> = Vec::new();
        for place in open {
            let priorities = batch.items[*place].begins().map(|new| new.priority);
            new.extend(priorities.filter(|priority| !self.priorities.contains(priority)));
        }
        if !new.is_empty() {
            new.sort_unstable();
            new.dedup();
            self.session.again(sql::PRIORITIES, Values::default().with(&new[..])).await?;
            self.priorities.extend(new);
        }
        Ok(())
    }

    /// Remembers what stands in somebody's way, and what no more.
    fn remember(&mut self, batch: &Batch, held: &[usize], outcomes: &[Option<Outcome>]) {
        held.iter().for_each(|place| self.held.free(&batch.items[*place]));
        for (item, outcome) in batch.items.iter().zip(outcomes) {
            if *outcome == Some(Outcome::Waits) {
                self.held.found(item);
            }
        }
    }

    /// Decides about groups of items in transactions of their own; tells whether the node stands. The lease is renewed with
    /// the first.
    async fn general(
        &mut self,
        commit: &mut Commit<'_>,
        groups: Vec<Vec<usize>>,
        mut hurry: Option<&'static str>,
        outcomes: &mut [Option<Outcome>],
        told: &mut Vec<Told>,
    ) -> Result<bool, Trouble> {
        let mut groups = VecDeque::from(groups);
        let mut aside = Vec::new();
        let mut again = false;
        loop {
            let Some(items) = groups.pop_front() else {
                if again || aside.is_empty() || hurry == Some(AT_ONCE) {
                    break;
                }
                // Another node's commit is over in a moment; a user's transaction is not.
                tokio::time::sleep(Duration::from_millis(5)).await;
                again = true;
                groups.push_back(std::mem::take(&mut aside));
                continue;
            };
            match self.decided(commit, &items, hurry).await {
                Ok(None) => return Ok(false),
                Ok(Some(decided)) => {
                    commit.renew = false;
                    if let Some(witness) = decided.witness {
                        self.session.home.acknowledged(witness);
                    }
                    for (place, outcome) in decided.outcomes {
                        outcomes[place] = Some(outcome);
                    }
                    aside.extend(decided.aside);
                    told.extend(decided.told);
                }
                Err(Trouble::Waits | Trouble::Statement(_) | Trouble::Again(_)) if items.len() > 1 => {
                    hurry = hurry.or(Some(HURRY));
                    let (first, second) = items.split_at(items.len() / 2);
                    groups.push_front(second.to_vec());
                    groups.push_front(first.to_vec());
                }
                Err(Trouble::Waits | Trouble::Again(_)) if items.len() == 1 => outcomes[items[0]] = Some(Outcome::Waits),
                Err(Trouble::Statement(text)) if items.len() == 1 => outcomes[items[0]] = Some(Outcome::Refused(text)),
                // What was written already must be told as such: the rest is tried again by whoever sent it.
                Err(Trouble::Store(StoreError::Busy { .. } | StoreError::Full { .. })) if outcomes.iter().any(wrote) => {
                    aside.extend(items.into_iter().chain(groups.into_iter().flatten()));
                    break;
                }
                Err(trouble) => return Err(trouble),
            }
        }
        for place in aside {
            outcomes[place] = Some(Outcome::Waits);
        }
        Ok(true)
    }

    /// One transaction; `None` when the node is dead.
    async fn decided(&mut self, commit: &Commit<'_>, items: &[usize], hurry: Option<&str>) -> Result<Option<Decided>, Trouble> {
        self.session.transaction(async |session| decide(session, commit, items, hurry).await).await
    }
}

async fn decide(
    session: &mut Session,
    commit: &Commit<'_>,
    items: &[usize],
    hurry: Option<&str>,
) -> Result<Option<Decided>, Trouble> {
    let Commit { batch, node, renew } = *commit;
    let fence = session.rows(sql::FENCE, Values::default().with(node)).await?;
    let Some(row) = fence.first() else { return Ok(None) };
    session.is_number(row.try_get(0).map_err(|error| session.home.sort(&error))?);
    if let Some(millis) = hurry {
        session.rows(sql::LOCK_TIMEOUT, Values::default().with(millis)).await?;
    }
    let mut seen = Seen::behind_locks(session, batch, items).await?;
    let found = tasks::find(session, &asked_for(items.iter().map(|place| &batch.items[*place]))).await?;
    let schedules = schedules::find(session, &named(items.iter().map(|place| &batch.items[*place]))).await?;
    seen.foreign_schedules = schedules.foreign;
    let memos = memos::find(session, items.iter().map(|place| &batch.items[*place])).await?;
    seen.foreign_memos = memos.foreign;
    let mut plan = Plan::new(batch, session.home.options.inbox_limit, node, seen, found);
    plan.schedules.revisions = schedules.revisions;
    plan.memos = memos.plan;
    let outcomes = Vec::with_capacity(items.len());
    let mut decided = Decided { outcomes, aside: Vec::new(), told: Vec::new(), witness: None };
    let precedes = |place: &&usize| batch.items[**place].precedes_others();
    items.iter().filter(precedes).for_each(|place| decided.take(*place, plan.decide(*place)));
    for (place, outcome) in &decided.outcomes {
        if let (Some(turn), Outcome::Done) = (batch.items[*place].with_others(), outcome) {
            plan.others(turn);
        }
    }
    items.iter().filter(|place| !precedes(place)).for_each(|place| decided.take(*place, plan.decide(*place)));
    decided.told = std::mem::take(&mut plan.told);
    successor::write(session, &plan).await?;
    if let Some((values, wanted)) = plan.deletions() {
        let row = session.rows(sql::DELETE, values).await?;
        let deleted: Option<i64> =
            row.first().map(|row| row.try_get(0)).transpose().map_err(|error| session.home.sort(&error))?;
        if deleted != Some(wanted) {
            return Err(Trouble::Statement(format!("deleted {deleted:?} messages of {wanted}")));
        }
    }
    if let Some((values, wanted)) = plan.writes(renew) {
        let rows = session.rows(sql::WRITE, values).await?;
        let mut written = [0_i64; 5];
        for (column, count) in written.iter_mut().enumerate() {
            let row = rows.first().ok_or_else(|| Trouble::Statement("the statement gave no answer".into()))?;
            *count = row.try_get(column).map_err(|error| session.home.sort(&error))?;
        }
        if written != wanted {
            return Err(Trouble::Statement(format!("wrote {written:?} rows of {wanted:?}")));
        }
    }
    tasks::write(session, &plan.tasks).await?;
    published::write(session, &plan.published).await?;
    letters::write(session, &plan.letters).await?;
    schedules::write(session, &plan.schedules).await?;
    memos::write(session, &plan.memos).await?;
    let last = plan.events.last();
    decided.witness = last.map(|(run, no, record)| Witness { run: *run, commit_no: *no, digest: record.digest });
    Ok(Some(decided))
}

/// Returns the open items kind by kind, as the contract orders them.
fn in_order(batch: &Batch, outcomes: &[Option<Outcome>]) -> Vec<usize> {
    let mut open: Vec<usize> = (0..batch.items.len()).filter(|place| outcomes[*place].is_none()).collect();
    // Stable: items of a kind stay in their order.
    open.sort_by_key(|place| batch.items[*place].kind());
    open
}

fn wrote(outcome: &Option<Outcome>) -> bool {
    matches!(outcome, Some(Outcome::Done | Outcome::Sent { .. }))
}

/// Returns when a run may be due behind this item, if that may be in the past.
fn due_at(item: &Item) -> Option<Timestamp> {
    match item {
        Item::Turn(turn) => match turn.then {
            Then::Passivate { wake_at, .. } => wake_at,
            Then::Hold | Then::End { .. } | Then::Continue(_) => None,
        },
        Item::Enqueue(new, _) => new.wake_at,
        Item::Fork(fork) => fork.row.wake_at,
        Item::Yield(Yield { why: YieldReason::Released { wake_at, .. }, .. }) => *wake_at,
        _ => None,
    }
}

fn fenced(batch: &Batch) -> BatchAnswer {
    BatchAnswer { outcomes: vec![Outcome::Fenced; batch.items.len()], claimed: Vec::new(), told: Vec::new(), live: false }
}
