//! The rows of the children that a turn begins, which go with the turn's own item.

use std::sync::Arc;

use actix::{AsyncContext, Context};

use super::{BREATH, Execution, Recording};
use crate::{
    actors::{asked, executor::AskKeys},
    kernel::{
        event::{Child, ChildOptions, Parent, Started},
        id::RunKey,
        limits::Limits,
        random,
        time::Timestamp,
    },
    store::{NewChild, NewRun, YieldReason},
};

impl Execution {
    /// Submits a turn once its children have their keys.
    pub(super) fn submit_keyed(&mut self, mut recording: Box<Recording>, ctx: &mut Context<Self>) {
        let children = std::mem::take(&mut recording.decision.starts);
        if children.is_empty() {
            return self.submit(recording);
        }
        if let Some(first) = self.engine.take_keys(children.len()) {
            let begun = children.iter().zip(first..).map(|(child, key)| self.row_of(child, key, recording.decision.commit.time));
            match begun.collect() {
                Ok(starts) => {
                    Arc::make_mut(&mut recording.turn).starts = starts;
                    return self.submit(recording);
                }
                Err(reason) => return self.give_back(YieldReason::Quarantined { reason: format!("{}: {reason}", self.id) }, ctx),
            }
        }
        // Whoever hands keys out asks the store for more; until then the turn waits as if it were under way.
        self.engine.executor.do_send(AskKeys(children.len()));
        recording.decision.starts = children;
        self.recording = Some(recording);
        ctx.run_later(BREATH, |this, ctx| {
            if let Some(recording) = this.recording.take_if(|_| !this.sealed) {
                this.submit_keyed(recording, ctx);
            }
        });
    }

    /// Returns the row of a child and its first commit. It is written without a first turn: whoever claims it takes that.
    fn row_of(&self, child: &Child, key: i64, now: Timestamp) -> Result<NewChild, String> {
        let Child { position, workflow, version, id, input, awaited, options, .. } = child;
        let options = options.as_deref().cloned().unwrap_or_default();
        let deadline = options.deadline.map(|within| now.after(within));
        let limits = self.engine.config.limits;
        let parent = awaited.then(|| Box::new(Parent { run: (*self.id).clone(), position: *position }));
        let started = Started {
            workflow: workflow.clone(),
            version: *version,
            input: input.clone(),
            seed: random::mix(self.run.state().started.seed, u64::from(*position)),
            deadline,
            deferred: true,
            limits: (limits != Limits::default()).then(|| Box::new(limits)),
            parent,
        };
        let ChildOptions { priority, queue, tags, needs, .. } = options;
        let row = asked::first_row(id.clone(), &started, input.digest(), now);
        let row = NewRun { run: RunKey(key), priority, queue, tags, needs, ..row };
        let record = asked::without_a_turn(&row.id, started, self.engine.writer(0), now)?;
        Ok(NewChild { position: *position, row, record })
    }
}
