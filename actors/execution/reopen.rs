//! An execution that comes back to memory: it re-attaches to what still runs, finds what came meanwhile, and goes on, or back
//! to sleep.

use std::collections::{BTreeMap, BTreeSet};

use actix::Context;

use super::Execution;
use crate::{
    actors::pool::attempts::Standing,
    kernel::{fork, run::Arrival, state::Rest, time::Timestamp},
    store::Unread,
};

impl Execution {
    pub(super) fn reopen(&mut self, taken: bool, same_incarnation: bool, inbox: Vec<Unread>, ctx: &mut Context<Self>) {
        failpoint!("execution.after_replay");
        let now = self.now();
        let attempts = self.engine.pool.attempts().clone();
        let mut arrivals = Vec::new();
        let mut held = BTreeSet::new();
        for position in self.run.state().open.keys() {
            match attempts.lookup(self.key, position) {
                Some((attempt, Standing::Done(result))) => {
                    held.insert(position);
                    arrivals.push(Arrival::Ended { position, attempt, result });
                }
                Some((_, Standing::Queued | Standing::Running)) => {
                    held.insert(position);
                }
                None => {}
            }
        }
        self.transactions = self.run.state().transactions().collect();
        // What is in the table and not open any more was told to stop by the memory before this one.
        for attempt in attempts.of(self.key) {
            if !self.run.state().open.contains(attempt.position) {
                match attempts.lookup(self.key, attempt.position) {
                    Some((number, Standing::Done(_))) => self.stale.push((attempt.position, number)),
                    Some(_) => self.abort(attempt.position),
                    None => {}
                }
            }
        }
        self.halted.by_force = taken;
        if self.is_paused() {
            self.halted.fell = same_incarnation;
            self.found_paused();
        }
        let mut first = Vec::new();
        // One that went to sleep has no intent open. One that was given back cleanly may have, but none that was begun: they
        // are begun below. Who gave a run back in the middle says so, and then it was taken by force.
        if taken {
            first.push(Arrival::Taken { by: self.engine.incarnation, epoch: self.epoch });
        } else if same_incarnation {
            first.push(Arrival::Reopened { held });
        }
        if !self.run.state().begun() {
            first.push(Arrival::Begin);
        }
        arrivals.splice(0..0, first);
        arrivals.extend(self.found(now, inbox));
        // The deadline is among the arrivals: one that has not come yet is armed by the turn.
        self.reopened = true;
        self.arrive(arrivals, ctx);
        if self.recording.is_none() && !self.sealed && !self.is_paused() {
            self.stay_or_sleep(ctx);
        }
    }

    /// What may have come meanwhile: sleeps that are over, the deadline, messages.
    fn found(&self, now: Timestamp, inbox: Vec<Unread>) -> Vec<Arrival> {
        let state = self.run.state();
        let due = state.due_sleeps(now).into_iter().map(|position| Arrival::Due { position });
        let deadline = state.started.deadline.filter(|_| !state.deadline_passed);
        let Some(forked) = state.just_forked() else {
            return due.chain(deadline.map(|_| Arrival::Deadline)).chain(self.fresh(inbox)).collect();
        };
        let sent: BTreeMap<u64, Timestamp> = inbox.iter().map(|unread| (unread.seq, unread.sent_at)).collect();
        let sent_at = |arrival: &Arrival| match arrival {
            Arrival::Message { seq, .. } => sent.get(seq).copied().unwrap_or(now),
            Arrival::Due { position } => state.due_of(*position).unwrap_or(now),
            _ => deadline.unwrap_or(now),
        };
        let all = due.chain(deadline.map(|_| Arrival::Deadline)).chain(self.fresh(inbox));
        fork::in_order(forked, all.map(|arrival| (sent_at(&arrival), arrival)).collect())
    }

    /// A replayed run to which nothing happened: it asks for its open effects, or goes back to sleep.
    pub(super) fn stay_or_sleep(&mut self, ctx: &mut Context<Self>) {
        self.reopened = false;
        if self.departs() {
            return self.depart(ctx);
        }
        let now = self.now();
        let attempts = self.engine.pool.attempts().count_of(self.key);
        match self.run.rest(now) {
            Rest::Ended => self.ended(None, ctx),
            Rest::Waits { next } if attempts == 0 && self.run.queued().is_empty() && self.is_far(next, now) => {
                self.sleep(next, now, ctx);
            }
            Rest::Waits { .. } | Rest::Busy => {
                let effects = self.open_effects(ctx);
                self.perform(effects, ctx);
                self.take_ready(ctx);
                if self.engine.config.evict {
                    self.evict(ctx);
                }
            }
        }
    }
}
