//! Turns: the writers of several processes queue for the database, so that each waits for the batches of the others once and
//! not for ever. SQLite has no queue: its waiters sleep and try again, and lose again and again to one that commits back to
//! back (measured: renewals took 2.3 s).
//!
//! Two locks make the queue. Whoever wants to write takes `queue`, then `turn`, and lets go of `queue`; so who has just
//! written and wants to again finds somebody else at the head. Nothing depends on it but patience: who waits for too long
//! (the one at the head was stopped in its tracks) goes on without, and SQLite's own lock decides.

use std::{path::Path, time::Duration};

use super::lock::{Gate, Held};
use crate::store::StoreError;

/// How long a turn is waited for. A batch takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Turns {
    queue: Gate,
    turn: Gate,
    held: Option<Held>,
}

impl Turns {
    pub(super) fn at(database: &Path) -> Result<Turns, StoreError> {
        Ok(Turns { queue: Gate::at(database, ".queue")?, turn: Gate::at(database, ".turn")?, held: None })
    }

    /// Waits for its turn; it is kept until it is given up.
    pub(super) async fn take(&mut self) {
        if self.held.is_some() {
            return;
        }
        // A lock that cannot be had, for whatever reason, costs fairness only.
        let Ok(Some(_at_the_head)) = self.queue.pass(PATIENCE).await else { return };
        self.held = self.turn.pass(PATIENCE).await.unwrap_or_default();
    }

    /// Waits for its turn; it is given up with what is returned.
    pub(super) async fn begin(&mut self) -> Turn<'_> {
        self.take().await;
        Turn(self)
    }

    pub(super) fn give_up(&mut self) {
        self.held = None;
    }
}

/// A turn under way.
pub(super) struct Turn<'a>(&'a mut Turns);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.give_up();
    }
}
