//! Heartbeat details for the next attempt of a call. While an attempt runs, the pool stores them now and then; what a failed one has
//! left is kept in memory for the next. A run that leaves memory in between puts that into the store first, or the next
//! attempt would begin from something older.

use actix::{AsyncContext, Context, WrapFuture, fut::ActorFutureExt};
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::{BREATH, Execution, longer};
use crate::{
    actors::persistence::Whom,
    kernel::id::{Attempt, Position},
    store::{Item, Outcome},
};

impl Execution {
    /// Keeps the details that an attempt has left for the next one.
    pub(super) fn keep(&mut self, position: Position, attempt: Attempt, details: Bytes) {
        self.details.retain(|(at, ..)| *at != position);
        self.details.push((position, attempt, details));
        self.unstored.insert(position);
    }

    /// Puts into the store what is kept here only. If there is anything, or the store has not answered yet, this run has to wait for that
    /// before it leaves, and looks again behind it.
    pub(super) fn stores_details(&mut self, ctx: &mut Context<Self>) -> bool {
        let Execution { details, unstored, run, .. } = self;
        // What is over needs none.
        unstored.retain(|position| run.state().call(*position).is_some());
        let kept = details.iter().filter(|(position, ..)| unstored.contains(position));
        let items: Vec<(Position, Item)> = kept
            .map(|(position, attempt, details)| {
                let (run, position, attempt, details) = (self.key, *position, *attempt, details.clone());
                (position, Item::Heartbeat { run, position, attempt, details })
            })
            .collect();
        if items.is_empty() {
            // What is on its way is not there yet: one batch applies what leaves before what is noted.
            return self.storing;
        }
        if std::mem::replace(&mut self.storing, true) {
            return true;
        }
        self.unstored.clear();
        let stored = items.into_iter().map(|(position, item)| {
            let (told, outcome) = oneshot::channel();
            self.engine.record(item, Whom::Caller(told));
            async move { (position, outcome.await) }
        });
        ctx.spawn(join_all(stored.collect::<Vec<_>>()).into_actor(self).map(|outcomes, this, ctx| {
            // Refused, this run is not ours any more, and whoever has it has what the store has.
            let waits = outcomes.into_iter().filter(|(_, outcome)| *outcome == Ok(Outcome::Waits));
            let waits: Vec<Position> = waits.map(|(position, _)| position).collect();
            if waits.is_empty() {
                this.details_breath = BREATH;
                return this.stored_details(ctx);
            }
            // Somebody else's transaction holds the run for a moment. Until then this one stays.
            this.unstored.extend(waits);
            let breath = this.details_breath;
            this.details_breath = longer(breath);
            ctx.run_later(breath, Self::stored_details);
        }));
        true
    }

    fn stored_details(&mut self, ctx: &mut Context<Self>) {
        self.storing = false;
        self.idle(ctx);
    }
}
