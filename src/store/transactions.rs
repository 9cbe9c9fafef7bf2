//! Transactional steps: a user's SQL and the record that it took place, in one transaction of the store's database.
//!
//! The record is one row of `step_results`, keyed by run and position, and the *last* statement before COMMIT writes it: only
//! if the run is still this node's, under this epoch, and has not ended; it locks the run's row, so whoever takes the run
//! away waits for the COMMIT or is waited for. So of an attempt and its successor at most one can commit, and the later one
//! finds the row of the earlier: it returns what that row says and runs nothing.
//!
//! A step never writes the log itself: that is the next batch's, which deletes the row as it records the result. On PostgreSQL
//! no batch waits for a user's transaction; SQLite has one writer at a time, so there each waits for the one under way, which
//! is why that is short (`sqlite/transactions.rs`).

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

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;
    use crate::{
        kernel::{
            codec::Record,
            id::{BuildId, Digest, RunId},
            time::Timestamp,
        },
        store::{
            Batch, Item, NewNode, NewRun, Outcome, Status, Store, Then, Turn,
            sqlite::{SqliteOptions, SqliteStore},
        },
    };

    const NODE: Incarnation = Incarnation(uuid::Uuid::from_u128(7));
    const RUN: RunKey = RunKey(1);

    fn turn(commit_no: u32, then: Then, settled: Vec<Position>) -> Item {
        let record = |no| Record { digest: Digest([no; 32]), body: bytes::Bytes::from_static(b"row") };
        let no = u8::try_from(commit_no).unwrap();
        let start = (commit_no == 0).then(|| {
            Box::new(NewRun {
                run: RUN,
                id: RunId { id: "run".into(), run_no: 1 },
                after: Vec::new(),
                workflow: "flow".into(),
                version: 1,
                priority: 0,
                queue: String::new(),
                tags: Vec::new(),
                needs: Vec::new(),
                created_at: Timestamp(1),
                wake_at: None,
                deadline: None,
                input_digest: Digest([0; 32]),
            })
        });
        let prev = no.checked_sub(1).map(|before| Digest([before; 32]));
        Item::Turn(Arc::new(Turn {
            run: RUN,
            start,
            commit_no,
            prev,
            record: record(no),
            then,
            consumed: Vec::new(),
            settled,
            tasks: Vec::new(),
            withdrawn: Vec::new(),
            starts: Vec::new(),
            tells: Vec::new(),
            published: Vec::new(),
            memos: Vec::new(),
            letters: Vec::new(),
            unowned: None,
        }))
    }

    async fn done(store: &mut SqliteStore, item: Item) {
        let batch = Batch { incarnation: NODE, now: Timestamp(2), renew: false, items: vec![item], claim: None };
        assert_eq!(store.commit(&batch).await.unwrap().outcomes, [Outcome::Done]);
    }

    #[tokio::test]
    async fn only_the_owner_under_its_epoch_may_commit_a_step_once_and_never_behind_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = SqliteStore::open(&folder.path().join("stent.db"), SqliteOptions::default()).await.unwrap();
        let (build, lease) = (BuildId(1), Duration::from_secs(10));
        let node = NewNode { incarnation: NODE, build, label: "here".into(), lease, can: 1, now: Timestamp(1) };
        store.register(&node).await.unwrap();
        done(&mut store, turn(0, Then::Hold, Vec::new())).await;
        let transactions = store.transactions().unwrap();
        let calls = std::sync::Arc::new(AtomicU32::new(0));
        let attempt = async |step: StepOf| {
            let calls = calls.clone();
            let work = Work(std::sync::Arc::new(move |_| {
                let call = calls.fetch_add(1, Ordering::SeqCst) + 1;
                Box::pin(async move { Ok(Payload::encode(&call, "a number").unwrap()) })
            }));
            transactions.run(step, None, Box::pin(std::future::pending()), work).await.map(|n| n.decode::<u32>("n").unwrap())
        };
        let step = StepOf { run: RUN, position: 1, attempt: 1, epoch: 1, incarnation: NODE };
        let refused = attempt(StepOf { epoch: 2, ..step }).await.unwrap_err();
        assert!(refused.message().contains("does not own"), "{refused}");
        let other = Incarnation(uuid::Uuid::from_u128(8));
        attempt(StepOf { incarnation: other, ..step }).await.unwrap_err();
        assert_eq!(attempt(step).await.unwrap(), 3, "two were called in vain");
        attempt(step).await.unwrap_err();
        assert_eq!(
            attempt(StepOf { attempt: 2, ..step }).await.unwrap(),
            3,
            "what the first did is found, and nothing is called"
        );
        assert_eq!(calls.load(Ordering::SeqCst), 4);
        // Another step is another matter, until the run has ended.
        assert_eq!(attempt(StepOf { position: 2, ..step }).await.unwrap(), 5);
        done(&mut store, turn(1, Then::Hold, vec![1])).await;
        assert_eq!(attempt(StepOf { attempt: 3, ..step }).await.unwrap(), 6, "its row went with the record of its result");
        done(&mut store, turn(2, Then::End { status: Status::Completed, seen: Some(0) }, vec![1, 2])).await;
        attempt(StepOf { attempt: 4, ..step }).await.unwrap_err();
        store.close().await.unwrap();
    }
}
