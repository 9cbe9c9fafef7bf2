//! A batch, start to end. One hop to the connection's thread when memory decides it (`recall.rs`), else two: look, write. A claim behind other items is a
//! third, because the rows that it takes are only known behind the writes.
//!
//! When a statement fails that no decision foresaw, the batch is rolled back and tried a second time with a savepoint
//! around each item, still as one transaction: the guilty item alone is refused. What a turn does to other runs comes behind all
//! turns, when the turn's own savepoint is gone; if that fails it is all tried again without this item.

use std::{collections::HashMap, path::Path, sync::Arc};

use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection, sqlite::SqliteRow};
use tokio::sync::OwnedMutexGuard;

use super::{
    decide::{self, Plan},
    lock,
    look::{self, Seen},
    recall::{Ground, Memory, Note},
    rows::Table,
    script::{self, Answered, Frame, Scripts, Values},
    sql,
    transactions::Seat,
    trouble::{self, Trouble},
    turns::Turns,
};
use crate::store::{
    Batch, BatchAnswer, ClaimRequest, Claimed, Outcome, StoreError, Summary, Told,
    memory::{lines::Beside, refuse},
    memos::memo_changes,
    others::behind_yields,
    queue::asked_for,
    schedules::named,
};

/// The one connection of this process that writes.
pub(super) struct Writer {
    connection: SqliteConnection,
    /// This process's seat at writing, which it shares with users' transactions…
    pub(super) seat: Seat,
    seated: Option<OwnedMutexGuard<()>>,
    /// …and the turns of processes.
    turns: Turns,
    scripts: Scripts,
    path: String,
    pub(super) inbox_limit: u32,
    memory: Memory,
    /// How many executions the node has in memory, as it says with its next renewal.
    pub(super) held: u32,
    /// Whether a transaction may be open: a commit whose future was dropped leaves one behind.
    open: bool,
}

type Rows = Vec<(Summary, Beside)>;

impl Writer {
    pub(super) fn new(connection: SqliteConnection, turns: Turns, path: String, inbox_limit: u32) -> Writer {
        let (scripts, memory, seat) = (Scripts::default(), Memory::default(), Seat::default());
        Writer { connection, seat, seated: None, turns, scripts, path, inbox_limit, memory, held: 0, open: false }
    }

    /// Checkpoints and closes; the first trouble is told, but it is closed in any case.
    pub(super) async fn close(mut self, database: &Path) -> Result<(), StoreError> {
        self.take_turn().await;
        let clean = super::schema::last_checkpoint(&mut self.connection, database).await;
        let closed = self.connection.close().await;
        clean.and(closed.map_err(|error| trouble::sort(&error, &self.path).into_store()))
    }

    /// Runs one script as a transaction of its own, the script's text without its frame. It may change anything, so nothing
    /// is known behind it.
    pub(super) async fn transaction(&mut self, text: &'static str, values: Values) -> Result<Vec<Answered>, StoreError> {
        self.memory.forget();
        self.alone(text, values).await
    }

    /// The same for the one script that changes exactly one row, and none that a batch is about.
    pub(super) async fn reserve(&mut self, values: Values) -> Result<Vec<Answered>, StoreError> {
        let answers = self.alone(sql::RESERVE, values).await?;
        self.memory.changed_one_more();
        Ok(answers)
    }

    /// Reads without a transaction, and so without a turn: what is there at this moment.
    pub(super) async fn read(&mut self, text: &'static str, values: Values) -> Result<Vec<SqliteRow>, StoreError> {
        self.roll_back_leftovers().await;
        script::rows(&mut self.connection, text, values).await.map_err(|error| self.sort(error).into_store())
    }

    async fn alone(&mut self, text: &'static str, values: Values) -> Result<Vec<Answered>, StoreError> {
        self.begin().await;
        let whole: Arc<str> = [sql::BEGIN, text, sql::COMMIT].concat().into();
        let result = script::run(&mut self.connection, AssertSqlSafe(whole), values).await;
        match result {
            Ok(answers) => {
                self.end();
                Ok(answers)
            }
            Err(error) => Err(self.failed(self.sort(error)).await),
        }
    }

    /// Waits for this process's turn to write, and within it for the writer's.
    async fn take_turn(&mut self) {
        self.roll_back_leftovers().await;
        if self.seated.is_none() {
            self.seated = Some(self.seat.clone().lock_owned().await);
        }
        self.turns.take().await;
    }

    fn give_up_turn(&mut self) {
        self.turns.give_up();
        self.seated = None;
    }

    async fn begin(&mut self) {
        self.take_turn().await;
        self.open = true;
    }

    fn end(&mut self) {
        self.open = false;
        self.give_up_turn();
    }

    /// Begins a transaction of several steps; it may change anything, so nothing is known behind it.
    pub(super) async fn begin_steps(&mut self) -> Result<(), StoreError> {
        self.begin().await;
        self.memory.forget();
        match self.run(sql::BEGIN, Values::default()).await {
            Ok(()) => Ok(()),
            Err(trouble) => Err(self.failed(trouble).await),
        }
    }

    /// Ends it: with a COMMIT if all went well.
    pub(super) async fn end_steps<T>(&mut self, done: Result<T, Trouble>) -> Result<T, StoreError> {
        let ended = match done {
            Ok(value) => self.run(sql::COMMIT, Values::default()).await.map(|()| value),
            Err(trouble) => Err(trouble),
        };
        match ended {
            Ok(value) => {
                self.end();
                Ok(value)
            }
            Err(trouble) => Err(self.failed(trouble).await),
        }
    }

    /// Runs a script.
    pub(super) async fn answers(
        &mut self,
        text: &'static str,
        values: Result<Values, sqlx::Error>,
    ) -> Result<Vec<Answered>, Trouble> {
        let values = values.map_err(|error| self.sort(error))?;
        script::run(&mut self.connection, text, values).await.map_err(|error| self.sort(error))
    }

    /// Runs a script of which only how many rows it changed is of interest.
    pub(super) async fn changes(&mut self, text: &'static str, values: Result<Values, sqlx::Error>) -> Result<u64, Trouble> {
        Ok(self.answers(text, values).await?.iter().map(|answer| answer.changed).sum())
    }

    /// Runs a script of which only the rows of its first statement are of interest.
    pub(super) async fn rows(
        &mut self,
        text: &'static str,
        values: Result<Values, sqlx::Error>,
    ) -> Result<Vec<SqliteRow>, Trouble> {
        Ok(self.answers(text, values).await?.into_iter().next().unwrap_or_default().rows)
    }

    async fn failed(&mut self, trouble: Trouble) -> StoreError {
        let mut error = trouble.into_store();
        if let StoreError::Busy { reason } = &mut error
            && let Some(pid) = lock::writer(Path::new(&self.path))
        {
            *reason = format!(
                "process {pid} is writing to {}, and it was waited for; if it was stopped, let it go on or end it",
                self.path
            );
        }
        self.roll_back_leftovers().await;
        self.give_up_turn();
        error
    }

    pub(super) async fn commit(&mut self, batch: &Batch) -> Result<BatchAnswer, StoreError> {
        self.begin().await;
        let mut result = self.whole(batch).await;
        if let Err(Trouble::Statement(_)) = &result {
            self.roll_back_leftovers().await;
            self.open = true;
            result = self.one_by_one(batch).await;
        }
        match result {
            Ok(answer) => {
                self.end();
                self.memory.learn();
                Ok(answer)
            }
            Err(trouble) => Err(self.failed(trouble).await),
        }
    }

    async fn roll_back_leftovers(&mut self) {
        if self.open {
            self.memory.forget();
            // It fails when SQLite has rolled back by itself, which is as good.
            let _ = script::run(&mut self.connection, sql::ROLLBACK, Values::default()).await;
            self.open = false;
        }
    }

    async fn whole(&mut self, batch: &Batch) -> Result<BatchAnswer, Trouble> {
        let (mut outcomes, items) = sorted(batch);
        let claim = claim_of(batch);
        let claims_only = claim.filter(|_| items.is_empty());
        if claim.is_none()
            && !items.iter().any(|item| batch.items[*item].has_tasks())
            && self.known(batch, &items, &mut outcomes).await?
        {
            return Ok(answer(batch, outcomes, Vec::new(), Vec::new()));
        }
        let mut seen = self.look(batch, &items, Frame::Whole, claims_only).await?;
        let Some(node) = seen.node else { return self.fenced(batch).await };
        let Seen { version, changes, may_claim, .. } = seen;
        self.memory.stand_on(Ground { incarnation: batch.incarnation, node, version, changes });
        let mut candidates = std::mem::take(&mut seen.candidates);
        let tasks = self.find_tasks(&asked_for(items.iter().map(|item| &batch.items[*item]))).await?;
        let revisions = self.find_schedules(&named(items.iter().map(|item| &batch.items[*item]))).await?;
        let memos = self.find_memos(&memo_changes(items.iter().map(|item| &batch.items[*item]))).await?;
        let mut plan = Plan::new(batch, self.inbox_limit, node, seen, tasks);
        plan.schedules.revisions = revisions;
        plan.memos = memos;
        plan.decide_all(&items, &mut outcomes);
        let told = std::mem::take(&mut plan.told);
        plan.changed_more(self.write_tasks(&plan.tasks).await?);
        plan.changed_more(self.write_published(&plan.published).await?);
        plan.changed_more(self.write_letters(&plan.letters).await?);
        plan.changed_more(self.write_schedules(&plan.schedules).await?);
        plan.changed_more(self.write_memos(&plan.memos).await?);
        let frame = if claim.is_some() { Frame::Open } else { Frame::Whole };
        let claim_behind = claim.filter(|_| claims_only.is_none());
        candidates.extend(self.write(batch, plan, frame, self.renewal(batch), claim_behind).await?);
        candidates.retain(|_| may_claim);
        let claimed = match claim {
            Some(request) => self.take(batch, node, request, candidates).await?,
            None => Vec::new(),
        };
        Ok(answer(batch, outcomes, told, claimed))
    }

    /// Writes a batch about which everything is known; `false` when something is not, or turns out not to be so.
    async fn known(&mut self, batch: &Batch, items: &[usize], outcomes: &mut [Option<Outcome>]) -> Result<bool, Trouble> {
        let ground = self.memory.ground(batch.incarnation).filter(|_| !self.memory.is_disturbed());
        let Some(ground) = ground else { return Ok(false) };
        let Some(seen) = self.memory.recall(batch, items) else { return Ok(false) };
        let Ground { node, version, changes, .. } = ground;
        let seen = Seen { node: Some(node), version, changes, ..seen };
        let mut plan = Plan::new(batch, self.inbox_limit, node, seen, HashMap::new());
        for &item in items {
            outcomes[item] = Some(plan.decide(item));
        }
        match self.write(batch, plan, Frame::Known, self.renewal(batch), None).await {
            Ok(_) => Ok(true),
            Err(Trouble::Statement(_)) => {
                self.roll_back_leftovers().await;
                self.open = true;
                Ok(false)
            }
            Err(trouble) => Err(trouble),
        }
    }

    async fn one_by_one(&mut self, batch: &Batch) -> Result<BatchAnswer, Trouble> {
        let mut refused = HashMap::new();
        loop {
            let before = refused.len();
            if let Some(answer) = self.try_one_by_one(batch, &mut refused).await? {
                return Ok(answer);
            }
            // Each time round refuses at least one more.
            debug_assert!(refused.len() > before);
            self.roll_back_leftovers().await;
            self.open = true;
        }
    }

    /// Tries all items but those that are refused; `None` when there are more of these now, and nothing may stay.
    async fn try_one_by_one(
        &mut self,
        batch: &Batch,
        refused: &mut HashMap<usize, String>,
    ) -> Result<Option<BatchAnswer>, Trouble> {
        let (mut outcomes, mut items) = sorted(batch);
        refused.iter().for_each(|(item, why)| outcomes[*item] = Some(Outcome::Refused(why.clone())));
        items.retain(|item| outcomes[*item].is_none());
        let seen = self.look(batch, &[], Frame::Whole, None).await?;
        let Some(node) = seen.node else { return self.fenced(batch).await.map(Some) };
        let renewal = Plan::new(batch, self.inbox_limit, node, seen, HashMap::new());
        self.write(batch, renewal, Frame::Open, self.renewal(batch), None).await?;
        let (first, behind): (Vec<usize>, _) = items.into_iter().partition(|item| batch.items[*item].precedes_others());
        for item in first {
            outcomes[item] = Some(self.savepoint(batch, item, node, &mut Vec::new()).await?);
        }
        let before = refused.len();
        let mut told = self.others_one_by_one(batch, &outcomes, node, refused).await?;
        if refused.len() > before {
            return Ok(None);
        }
        for item in behind {
            outcomes[item] = Some(self.savepoint(batch, item, node, &mut told).await?);
        }
        let claim = claim_of(batch);
        let mut seen = self.look(batch, &[], Frame::Open, claim).await?;
        seen.candidates.retain(|_| seen.may_claim);
        let claimed = match claim {
            Some(request) => self.take(batch, node, request, seen.candidates).await?,
            None => {
                self.run(sql::COMMIT, Values::default()).await?;
                Vec::new()
            }
        };
        self.memory.forget();
        Ok(Some(answer(batch, outcomes, told, claimed)))
    }

    /// Decides and writes one item; it is refused if the database does.
    async fn savepoint(&mut self, batch: &Batch, item: usize, node: i64, told: &mut Vec<Told>) -> Result<Outcome, Trouble> {
        match self.single(batch, item, node, told).await {
            Err(Trouble::Statement(why)) => {
                self.run(sql::ROLLBACK_TO, Values::default()).await?;
                Ok(Outcome::Refused(why))
            }
            answer => answer,
        }
    }

    async fn single(&mut self, batch: &Batch, item: usize, node: i64, told: &mut Vec<Told>) -> Result<Outcome, Trouble> {
        let seen = self.look(batch, &[item], Frame::Single, None).await?;
        let tasks = self.find_tasks(&asked_for(std::iter::once(&batch.items[item]))).await?;
        let revisions = self.find_schedules(&named(std::iter::once(&batch.items[item]))).await?;
        let memos = self.find_memos(&memo_changes(std::iter::once(&batch.items[item]))).await?;
        let mut plan = Plan::new(batch, self.inbox_limit, node, seen, tasks);
        plan.schedules.revisions = revisions;
        plan.memos = memos;
        let outcome = plan.decide(item);
        let more = std::mem::take(&mut plan.told);
        plan.changed_more(self.write_tasks(&plan.tasks).await?);
        plan.changed_more(self.write_published(&plan.published).await?);
        plan.changed_more(self.write_letters(&plan.letters).await?);
        plan.changed_more(self.write_schedules(&plan.schedules).await?);
        plan.changed_more(self.write_memos(&plan.memos).await?);
        self.write(batch, plan, Frame::Single, None, None).await?;
        // Only once it stays: what was rolled back is told to nobody.
        told.extend(more);
        Ok(outcome)
    }

    pub(super) async fn look(
        &mut self,
        batch: &Batch,
        items: &[usize],
        frame: Frame,
        claim: Option<&ClaimRequest>,
    ) -> Result<look::Seen, Trouble> {
        let mut look = look::ask(batch, items, claim).map_err(|error| self.sort(error))?;
        let text = self.scripts.look(frame, look.wanted);
        let values = std::mem::take(&mut look.values);
        let answers = script::run(&mut self.connection, text, values).await.map_err(|error| self.sort(error))?;
        look.read(frame, answers).map_err(|error| self.sort(error))
    }

    /// Writes what was accepted; returns what may be claimed behind it, if that is asked for.
    pub(super) async fn write(
        &mut self,
        batch: &Batch,
        plan: Plan<'_>,
        frame: Frame,
        renew: Option<u32>,
        claim: Option<&ClaimRequest>,
    ) -> Result<Rows, Trouble> {
        let script = plan.finish(renew).map_err(|error| self.sort(error))?;
        let decide::Script { mut wanted, sizes, mut values, total, notes } = script;
        self.memory.note(notes);
        if let Some(request) = claim {
            wanted[wanted.len() - 1] = true;
            values = look::claiming(values, batch, request).map_err(|error| self.sort(error))?;
        }
        if frame == Frame::Open && !wanted.contains(&true) {
            return Ok(Rows::new());
        }
        wanted[script::COUNTS] |= frame == Frame::Known;
        let frame = if frame == Frame::Known && script::alone(&wanted, sizes) { Frame::Alone } else { frame };
        let text = self.scripts.write(frame, wanted, sizes);
        let answers = script::run(&mut self.connection, text, values).await.map_err(|error| self.sort(error))?;
        if frame == Frame::Alone && answers.first().is_none_or(|answer| answer.changed == 0) {
            return Err(Trouble::Statement("memory is not to be trusted".to_owned()));
        }
        self.memory.count(match frame {
            Frame::Alone => Some(total),
            Frame::Whole | Frame::Known if script::counted(&wanted) => Some(total),
            // The statement before the COMMIT has counted.
            Frame::Whole | Frame::Known => answers.iter().rev().nth(1).and_then(|answer| answer.rows.first()?.try_get(0).ok()),
            Frame::Single | Frame::Open => None,
        });
        // Only the candidates have rows, and in an open frame they are the last statement.
        let candidates = answers.into_iter().next_back().unwrap_or_default().rows;
        let candidates: Result<Rows, _> = candidates.iter().map(super::rows::summary).collect();
        candidates.map_err(|error| self.sort(error))
    }

    /// Takes the first candidates and ends the transaction.
    async fn take(
        &mut self,
        batch: &Batch,
        node: i64,
        request: &ClaimRequest,
        candidates: Rows,
    ) -> Result<Vec<Claimed>, Trouble> {
        let mut by_force = 0;
        let allowed = candidates.into_iter().filter(|(_, beside)| {
            by_force += u32::from(beside.forced);
            !beside.forced || by_force <= request.forced_limit
        });
        let (mut runs, mut inboxes) = (Table::new(), Vec::new());
        let claimed: Vec<_> = allowed
            .take(request.limit as usize)
            .map(|(mut summary, Beside { claims, forced, .. })| {
                runs.number(summary.run.0);
                inboxes.push((summary.run.0, Note::Claimed(summary.inbox_seq)));
                summary.owner = Some(batch.incarnation);
                summary.epoch += 1;
                let due = summary.wake_at.take().unwrap_or(batch.now);
                Claimed { summary, due, forced, claims: claims + 1 }
            })
            .collect();
        self.memory.note(inboxes);
        self.memory.count(None);
        if runs.is_empty() {
            self.run(sql::COMMIT, Values::default()).await?;
        } else {
            let values = Values::default().with(node).and_then(|values| values.rows(runs));
            self.run(sql::CLAIM, values.map_err(|error| self.sort(error))?).await?;
        }
        Ok(claimed)
    }

    fn renewal(&self, batch: &Batch) -> Option<u32> {
        batch.renew.then_some(self.held)
    }

    async fn fenced(&mut self, batch: &Batch) -> Result<BatchAnswer, Trouble> {
        self.memory.forget();
        self.run(sql::ROLLBACK, Values::default()).await?;
        Ok(BatchAnswer { outcomes: vec![Outcome::Fenced; batch.items.len()], claimed: Vec::new(), told: Vec::new(), live: false })
    }

    pub(super) async fn run(&mut self, text: &'static str, values: Values) -> Result<(), Trouble> {
        script::run(&mut self.connection, text, values).await.map_err(|error| self.sort(error))?;
        Ok(())
    }

    pub(super) fn sort(&self, error: sqlx::Error) -> Trouble {
        trouble::sort(&error, &self.path)
    }
}

/// Returns the outcomes that are known beforehand, and the other items kind by kind.
fn sorted(batch: &Batch) -> (Vec<Option<Outcome>>, Vec<usize>) {
    let outcomes: Vec<_> = refuse::unacceptable(batch).into_iter().map(|why| why.map(Outcome::Refused)).collect();
    let mut items: Vec<usize> = (0..outcomes.len()).filter(|item| outcomes[*item].is_none()).collect();
    items.sort_by_key(|item| batch.items[*item].kind());
    (outcomes, items)
}

fn claim_of(batch: &Batch) -> Option<&ClaimRequest> {
    batch.claim.as_ref().filter(|request| request.limit > 0 && !request.workflows.is_empty())
}

fn answer(batch: &Batch, outcomes: Vec<Option<Outcome>>, mut told: Vec<Told>, claimed: Vec<Claimed>) -> BatchAnswer {
    let outcomes: Vec<_> = outcomes.into_iter().map(|outcome| outcome.unwrap_or(Outcome::Done)).collect();
    behind_yields(batch, &outcomes, &mut told);
    BatchAnswer { outcomes, claimed, told, live: true }
}
