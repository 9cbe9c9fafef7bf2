//! The watching thread: rings alarms, and looks after arbiters that user code holds up. It sleeps without a time limit
//! while nothing is outstanding.
//!
//! The line of starts belongs to nobody, so what a late arbiter has not begun needs no moving: it is enough that somebody
//! else takes it. A line that stands for a tick gets another arbiter that is at leisure; one that stands for the whole time
//! allowed although none is gets an arbiter more.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use actix::System;

use super::{
    Beat, Ended, Shared, runner,
    runner::Lane,
    watch::{after, micros},
};
use crate::{
    actors::call::CallContext,
    kernel::failure::{Failure, KIND_CANCELLED, KIND_TIMEOUT},
};

/// The number of the engine's arbiter, which is none of the pool's.
const ENGINE: usize = usize::MAX;

/// Runs until the pool is closed and nothing is left on it.
pub(crate) fn watch(shared: &Arc<Shared>, system: &System) {
    let tick = (shared.config.late_after / 4).max(Duration::from_millis(1));
    let mut probe = Probe { shared, system, line: None, lanes: HashMap::new() };
    loop {
        probe.ring();
        if !probe.look() {
            shared.watch.relax();
            // Work that came between the look and the step back is seen by a second look; later work calls.
            if probe.look() {
                shared.watch.attend();
            }
        }
        if !shared.watch.sleep(tick) {
            return;
        }
    }
}

struct Probe<'a> {
    shared: &'a Arc<Shared>,
    system: &'a System,
    /// While starts are ready: how many had been taken at the last look, and since when that has not changed.
    line: Option<(u64, u64)>,
    /// The same for each arbiter's entries into user code; the flag says that it has been reported.
    lanes: HashMap<usize, (u64, u64, bool)>,
}

impl Probe<'_> {
    /// Deals with everything that is due.
    fn ring(&self) {
        let now = self.shared.watch.now();
        let (mut ended, mut beats) = (Vec::new(), Vec::new());
        for cx in self.shared.watch.ringing(now) {
            self.attend(&cx, now, &mut ended, &mut beats);
            self.shared.watch.arm(&cx);
        }
        if !beats.is_empty() {
            (self.shared.beats)(beats);
        }
        if !ended.is_empty() {
            (self.shared.ended)(ended);
        }
    }

    fn attend(&self, cx: &Arc<CallContext>, now: u64, ended: &mut Vec<Ended>, beats: &mut Vec<Beat>) {
        let Some(failure) = self.verdict(cx, now) else {
            let due = cx.save_due(self.shared.watch.save_every(cx));
            if due.is_some_and(|due| due <= now)
                && let Some(details) = cx.take_unsaved(now)
            {
                beats.push(Beat { run: cx.run, position: cx.position, attempt: cx.attempt, details });
            }
            return;
        };
        tracing::debug!(?cx, %failure, "an attempt is ended from outside");
        let ending = Err(failure);
        if cx.life.settle_queued(ending.clone()) {
            ended.push(Ended::of(cx, ending));
        } else if !cx.life.is_queued() && self.shared.attempts.abandon(cx, ending.clone()) {
            ended.push(Ended::of(cx, ending));
            cx.cancel(now);
            cx.life.abort();
        }
    }

    /// Says why an attempt may go on no longer.
    fn verdict(&self, cx: &CallContext, now: u64) -> Option<Failure> {
        let (life, limits) = (&cx.life, &cx.life.limits);
        let over = |limit: Option<Duration>, from: u64| limit.filter(|_| after(from, limit) <= now);
        if life.is_settled() {
            return None;
        }
        if let Some(limit) = over(limits.close_by, life.queued_at) {
            let text = format!("schedule_to_close ran out: no end within the {limit:?} that were left of it");
            return Some(Failure::new(KIND_TIMEOUT, text).into_final());
        }
        if life.is_queued() {
            let limit = over(limits.schedule_to_start, life.queued_at)?;
            let text = format!("schedule_to_start ran out: not begun within the {limit:?} that were left of it");
            return Some(Failure::new(KIND_TIMEOUT, text));
        }
        if let Some(limit) = over(limits.start_to_close, life.started_at()) {
            return Some(Failure::new(KIND_TIMEOUT, format!("start_to_close ran out: no end within {limit:?}")));
        }
        if let Some(limit) = over(limits.heartbeat, cx.beat_at()) {
            return Some(Failure::new(KIND_TIMEOUT, format!("heartbeat ran out: no sign of life for {limit:?}")));
        }
        if self.shared.watch.grace_over(cx) <= now {
            let text = format!("it was asked to stop and did not within {:?}", self.shared.config.cancel_grace);
            return Some(Failure::new(KIND_CANCELLED, text).into_final());
        }
        None
    }

    /// Looks after the line and the arbiters; tells whether there is a reason to look again soon.
    fn look(&mut self) -> bool {
        let now = self.shared.watch.now();
        let late_after = micros(self.shared.config.late_after);
        let lanes: Vec<Arc<Lane>> = self.shared.lanes.lock().iter().map(|(lane, _)| lane.clone()).collect();
        let look = self.shared.queue.look();
        let mut outstanding = look.ready;
        let line = self.line.filter(|(taken_ever, _)| look.ready && *taken_ever == look.taken_ever);
        self.line = look.ready.then_some(line.unwrap_or((look.taken_ever, now)));
        if let Some((_, since)) = line {
            let stands = now.saturating_sub(since);
            if let Some(helper) = self.shared.queue.helper() {
                helper.wake();
            } else if stands >= late_after && lanes.len() < self.shared.config.arbiters_max {
                self.line = Some((look.taken_ever, now));
                self.grow(lanes.len());
            }
        }
        for (number, lane) in lanes.iter().enumerate() {
            outstanding |= lane.has_results();
            self.look_at(number, lane, now, late_after, look.ready);
        }
        if let Some(lane) = self.shared.of_engine.get() {
            // While it is in use it is looked at each tick, and not called for each time: a call costs the engine a wake-up.
            outstanding |= self.look_at(ENGINE, lane, now, late_after, true) || lane.has_results();
        }
        outstanding
    }

    /// Sends the results that lie behind a blocked thread, and names whoever blocks it. Tells whether the thread was in user
    /// code since the last look.
    fn look_at(&mut self, number: usize, lane: &Lane, now: u64, late_after: u64, held_up: bool) -> bool {
        let entries = lane.entries.load(Ordering::SeqCst);
        let first = !self.lanes.contains_key(&number);
        let seen = self.lanes.entry(number).or_insert((entries, now, false));
        let moved = (first && entries > 0) || seen.0 != entries;
        let Some(cx) = lane.in_hand().filter(|_| !moved) else {
            *seen = (entries, now, false);
            return moved;
        };
        if now.saturating_sub(seen.1) < late_after {
            return true;
        }
        let behind = lane.has_results();
        lane.flush(self.shared);
        if (behind || held_up) && !std::mem::replace(&mut seen.2, true) {
            let held_ms = now.saturating_sub(seen.1) / 1000;
            if lane.of_engine {
                tracing::warn!(
                    ?cx,
                    held_ms,
                    "this inline activity blocks the thread of the engine, and with it all executions; register it with `.activity(…)`"
                );
            } else {
                tracing::warn!(
                    ?cx,
                    held_ms,
                    "this activity blocks the thread of its arbiter; use blocking code only in `cx.blocking` or an actor of its own"
                );
            }
        }
        true
    }

    fn grow(&self, lanes: usize) {
        match runner::hire(self.shared, self.system) {
            Ok(()) => tracing::debug!(arbiters = lanes + 1, "all activity arbiters were late: one more"),
            Err(error) => {
                tracing::warn!(%error, arbiters = lanes, "no further activity arbiter could be started")
            }
        }
    }
}
