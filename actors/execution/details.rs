//! Heartbeat details for the next attempt of a call. While an attempt runs, the pool stores them now and then; what a failed one has
//! left is kept in memory for the next. A run that leaves memory in between puts that into the store first, or the next
//! attempt would begin from something older.

use actix::{AsyncContext, Context, WrapFuture, fut::ActorFutureExt};
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::Execution;
use crate::{
    actors::persistence::Whom,
    kernel::id::{Attempt, Position},
    store::Item,
};

impl Execution {
    /// Keeps the details that an attempt has left for the next one.
    pub(super) fn keep(&mut self, position: Position, attempt: Attempt, details: Bytes) {
        self.details.retain(|(at, ..)| *at != position);
        self.details.push((position, attempt, details));
        self.unstored.insert(position);
    }

    /// Puts into the store what is kept here only. If there is anything, this run has to wait for that before it leaves, and looks again
    /// behind it.
    pub(super) fn stores_details(&mut self, ctx: &mut Context<Self>) -> bool {
        let Execution { details, unstored, run, .. } = self;
        // What is over needs none.
        unstored.retain(|position| run.state().call(*position).is_some());
        let kept = details.iter().filter(|(position, ..)| unstored.contains(position));
        let items: Vec<Item> = kept
            .map(|(position, attempt, details)| Item::Heartbeat {
                run: self.key,
                position: *position,
                attempt: *attempt,
                details: details.clone(),
            })
            .collect();
        if items.is_empty() {
            return false;
        }
        if std::mem::replace(&mut self.storing, true) {
            return true;
        }
        self.unstored.clear();
        let stored = items.into_iter().map(|item| {
            let (told, outcome) = oneshot::channel();
            self.engine.record(item, Whom::Caller(told));
            outcome
        });
        // Refused, this run is not ours any more, and whoever has it has what the store has.
        ctx.spawn(join_all(stored.collect::<Vec<_>>()).into_actor(self).map(|_, this, ctx| {
            this.storing = false;
            this.idle(ctx);
        }));
        true
    }
}
