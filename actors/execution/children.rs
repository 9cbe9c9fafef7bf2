//! The rows of the runs that a turn begins, which go with the turn's own item: its children, and the next run if it continues.

use std::sync::Arc;

use actix::{AsyncContext, Context};

use super::{BREATH, Execution, Recording};
use crate::{
    actors::{asked, executor::AskKeys},
    kernel::{
        chain::Onward,
        event::{Child, ChildOptions, Parent, RunRetry, Started},
        id::{RunId, RunKey},
        limits::Limits,
        published::Kept,
        random,
        time::Timestamp,
    },
    store::{NewChild, NewRun, Successor, Then, YieldReason},
};

impl Execution {
    /// Submits a turn once the runs that it begins have their keys.
    pub(super) fn submit_keyed(&mut self, mut recording: Recording, ctx: &mut Context<Self>) {
        let wanted = recording.decision.starts.len() + usize::from(recording.decision.onward.is_some());
        if wanted == 0 {
            return self.submit(recording);
        }
        if let Some(first) = self.engine.take_keys(wanted) {
            return match self.key(&mut recording, first) {
                Ok(()) => self.submit(recording),
                Err(reason) => self.give_back(YieldReason::Quarantined { reason: format!("{}: {reason}", self.id) }, ctx),
            };
        }
        // Whoever hands keys out asks the store for more; until then the turn waits as if it were under way.
        self.engine.executor.do_send(AskKeys(wanted));
        self.recording = Some(recording);
        ctx.run_later(BREATH, |this, ctx| {
            if let Some(recording) = this.recording.take_if(|_| !this.sealed) {
                this.submit_keyed(recording, ctx);
            }
        });
    }

    /// Gives keys to what a turn begins.
    fn key(&self, recording: &mut Recording, first: i64) -> Result<(), String> {
        let Recording { decision, turn, .. } = recording;
        let (now, turn) = (decision.commit.time, Arc::make_mut(turn));
        let mut keys = first..;
        let children = std::mem::take(&mut decision.starts);
        let starts = children.iter().zip(&mut keys).map(|(child, key)| self.row_of(child, key, now)).collect::<Result<_, _>>()?;
        turn.starts = starts;
        if let (Some(onward), Some(key)) = (decision.onward.take(), keys.next()) {
            let Onward { started, inherited, at } = *onward;
            let id = RunId { id: self.id.id.clone(), run_no: self.id.run_no.saturating_add(1) };
            let published = inherited.published.iter().filter_map(Kept::publication).collect();
            let record = asked::not_begun(&id, started, Some(inherited), self.engine.writer(0), now)?;
            turn.then = Then::Continue(Box::new(Successor { run: RunKey(key), record, due: at, published }));
        }
        Ok(())
    }

    /// Returns the row of a child and its first commit. It is written without a first turn: whoever claims it takes that.
    fn row_of(&self, child: &Child, key: i64, now: Timestamp) -> Result<NewChild, String> {
        let Child { position, workflow, version, id, input, awaited, options, .. } = child;
        let ChildOptions { priority, queue, tags, needs, deadline, retry } = options.as_deref().cloned().unwrap_or_default();
        let deadline = deadline.map(|within| now.after(within));
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
            retry: retry.map(|policy| Box::new(RunRetry::new(policy, now))),
            copied_from: None,
        };
        let row = asked::first_row(id.clone(), &started, input.digest(), now);
        let row = NewRun { run: RunKey(key), priority, queue, tags, needs, ..row };
        let record = asked::without_a_turn(&row.id, started, self.engine.writer(0), now)?;
        Ok(NewChild { position: *position, row, record })
    }
}
