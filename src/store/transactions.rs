//! Transactional steps: a user's SQL and the record that it took place, in one transaction of the store's database.
//!
//! The record is one row of `step_results`, keyed by run and position, and the *last* statement before COMMIT writes it: only
//! if the run is still this node's, under this epoch, and has not ended; it locks the run's row, so whoever takes the run
//! away waits for the COMMIT or is waited for. So of an attempt and its successor at most one can commit, and the later one
//! finds the row of the earlier: it returns what that row says and runs nothing.
//!
//! A step never writes the log itself: that is the next batch's, which deletes the row as it records the result. No batch
//! ever waits for a user's transaction.

use std::{future::Future, pin::Pin, time::Duration};

use crate::kernel::{
    failure::Failure,
    id::{Attempt, Epoch, Incarnation, Position, RunKey},
    payload::Payload,
    tape::TransactionWork,
};

/// What an attempt of a transactional step is, to the store.
#[derive(Clone, Copy, Debug)]
pub struct StepOf {
    /// Which run.
    pub run: RunKey,
    /// Which of its steps.
    pub position: Position,
    /// Which attempt.
    pub attempt: Attempt,
    /// Under which claim.
    pub epoch: Epoch,
    /// By which node.
    pub incarnation: Incarnation,
}

/// The closure of a transactional step.
#[derive(Clone)]
pub struct Work(pub(crate) TransactionWork);

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Work")
    }
}

/// A wish that is heard before the COMMIT is sent, and not behind it.
pub type Stop = Pin<Box<dyn Future<Output = ()>>>;

/// How a transaction ended: with what the step returns, which is durable then, or without having changed anything.
pub type Ended<'a> = Pin<Box<dyn Future<Output = Result<Payload, Failure>> + 'a>>;

/// A store's way to run transactional steps, beside its writer and on any thread.
pub trait Transactions: Send + Sync {
    /// Runs one attempt. If an earlier one took place, returns what that one did. `limit` counts up to the COMMIT; `None` means
    /// the store's own. An answer is never a guess: what became of a COMMIT whose answer was lost is found out first.
    fn run(&self, step: StepOf, limit: Option<Duration>, stop: Stop, work: Work) -> Ended<'_>;
}
