//! A transactional step as an attempt of the pool: an act that the store runs, on an activity arbiter, because it holds a
//! connection and awaits it. It may be asked to stop until its COMMIT is on its way; what it answers then is what happened.

use std::{sync::Arc, time::Duration};

use crate::{
    actors::pool,
    kernel::{
        failure::{Failure, KIND_STORE},
        tape::TransactionWork,
    },
    store::{self, StepOf, Transactions},
};

/// Returns the work of one attempt.
pub(super) fn act(
    transactions: Option<Arc<dyn Transactions>>,
    step: StepOf,
    limit: Option<Duration>,
    work: TransactionWork,
) -> pool::Work {
    pool::Work::Act(Box::new(move |cx| {
        Box::pin(async move {
            let Some(transactions) = transactions else {
                let why = "this store has no transactions; open a runtime on SQLite or PostgreSQL, or use cx.step";
                return Err(Failure::new(KIND_STORE, why).into_final());
            };
            let asked = cx.clone();
            let stop = Box::pin(async move { asked.cancelled().await });
            transactions.run(step, limit, stop, store::Work(work)).await
        })
    }))
}
