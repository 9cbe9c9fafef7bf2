//! Runs whose end was recorded over the head of whoever has them in memory. Nothing of that memory can be recorded any more; it is
//! told to go, so that its acts stop now and not when its next commit is refused.

use std::rc::Rc;

use actix::{AsyncContext, Context, Handler, Message, WrapFuture, fut::ActorFutureExt};

use super::{Executor, Held};
use crate::{
    actors::{execution::Forsake, persistence::Read},
    hints::Hint,
    kernel::id::RunKey,
    store::Reader,
};

/// These runs have ended in the store, by an order that was recorded here.
///
/// *from* the door · *reply* when their acts here were told to stop · *delivery* ask · *if lost* their next commits are refused, or the next look finds them
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Overruled(pub(crate) Vec<RunKey>);

impl Executor {
    /// Lets go of a run that is over.
    fn forsake(&mut self, run: RunKey) {
        match self.held.get(&run) {
            Some(Held::Live { address, .. }) => address.do_send(Forsake),
            Some(Held::Loading { .. } | Held::Cold { .. } | Held::Falling { .. }) => _ = self.held.remove(&run),
            None => {}
        }
        self.engine.withdraw_all(run);
        self.engine.pool.cancel_run(run);
    }

    /// Looks whether these runs, which are here, have ended in the store, and lets go of those that have.
    pub(super) fn look_whether_over(&mut self, runs: Vec<RunKey>, ctx: &mut Context<Self>) {
        if runs.is_empty() {
            return;
        }
        let read = Read::new(move |reader: Rc<dyn Reader>| async move { reader.summaries(&runs).await });
        let asked = self.engine.persistence.send(read).into_actor(self);
        ctx.spawn(asked.map(|rows, this, _| {
            let Ok(Ok(rows)) = rows else { return };
            rows.iter().filter(|row| row.status.is_end()).for_each(|row| this.forsake(row.run));
        }));
    }

    /// Returns the runs that are here although the store does not say that they are ours. Mostly they have just come or are about to go.
    pub(super) fn unowned(&self, owned: &[(RunKey, u64)]) -> std::collections::HashSet<RunKey> {
        let owned: std::collections::HashSet<RunKey> = owned.iter().map(|(run, _)| *run).collect();
        self.held.keys().copied().filter(|run| !owned.contains(run)).collect()
    }
}

impl Handler<Overruled> for Executor {
    type Result = ();

    fn handle(&mut self, Overruled(runs): Overruled, _: &mut Context<Self>) {
        for run in runs {
            self.forsake(run);
            self.engine.hint(Hint::Ended { run });
        }
    }
}
