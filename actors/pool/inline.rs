//! Activities that were registered inline: begun and polled on the engine's own arbiter, where their executions live. One that
//! is ready at its first poll costs no message, no wake-up of another thread and no task, and its result is in the next turn.
//!
//! It is a matter of *where* and of nothing else: the attempt is listed, watched, counted, fenced and caught like any other,
//! by the same [`Runner`]. So whatever cannot be begun here simply goes to the pool's threads, which have every handler: what
//! finds no slot, what comes through a shared queue, and what comes when the engine has been held for long enough.

use std::{collections::HashMap, rc::Rc, task::Poll};

use super::{
    Ended, Pool, Start, Work,
    queue::{Job, JobWork},
    runner::{LONG_MICROS, Lane, Runner},
};

/// The engine's part of a pool; it belongs to one thread.
pub(crate) struct Inline {
    runner: Rc<Runner>,
}

impl Inline {
    /// Must be made on the arbiter where it is used.
    pub(crate) fn new(pool: &Pool) -> Inline {
        let shared = &pool.shared;
        let lane = Lane::of_engine();
        let mut handlers = HashMap::new();
        for (name, handler) in shared.handlers.lock().iter().filter(|(_, handler)| handler.is_inline()) {
            handlers.insert(name.clone(), handler.clone_box());
        }
        let none = handlers.is_empty();
        let runner = Runner::new(lane.clone(), shared.clone(), handlers);
        if !none {
            // One engine arbiter to a pool; a second one would only go unwatched.
            let _ = shared.of_engine.set(lane);
            tokio::task::spawn_local(runner.clone().only_send());
        }
        Inline { runner }
    }

    /// Begins an attempt here and now, if its activity is inline and there is room. Returns its result if it is ready, or is
    /// known from before; the result of one that goes on comes like any other.
    ///
    /// # Errors
    /// Gives the start back: it is for the pool.
    pub(crate) fn start(&self, start: Start) -> Result<Option<Ended>, Start> {
        let runner = &self.runner;
        let inline = match &start.work {
            Work::Activity { name, .. } => runner.handlers.contains_key(name),
            Work::Act(_) | Work::Blocking(_) => false,
        };
        // In this order: a slot that was taken must be used.
        if !inline || runner.held.get() > LONG_MICROS || !runner.shared.queue.take_slot() {
            return Err(start);
        }
        let ended = match runner.shared.list(start) {
            Ok((cx, Work::Activity { name, input })) => match runner.begin(Job { cx, work: JobWork::Activity { name, input } }) {
                Poll::Ready(ended) => ended,
                // Its slot is given back when it ends.
                Poll::Pending => return Ok(None),
            },
            Ok(_) => {
                debug_assert!(false, "nothing else comes this far");
                None
            }
            Err(told) => told,
        };
        runner.shared.release(1);
        Ok(ended)
    }

    /// Says that the engine has come round: what it had to send is sent.
    pub(crate) fn came_round(&self) {
        self.runner.held.set(0);
    }
}
