//! What turns do to other runs, on the server: decided behind the locks of *all* runs that a turn concerns, which are part of
//! what its item is about. So a turn that meets a foreign transaction anywhere waits as a whole, and nobody waits for it.

use super::{decide::Plan, look::Known};
use crate::{
    kernel::event::{MessageBody, child_message},
    store::{Batch, Outcome, Tell, Told, Turn, Unread},
};

/// Returns the messages that the runs of these items find in their own inboxes if their children cannot be begun.
pub(super) fn refusals(batch: &Batch, items: &[usize]) -> Vec<(i64, String)> {
    let turns = items.iter().filter_map(|place| batch.items[*place].with_others());
    turns.flat_map(|turn| turn.starts.iter().map(|child| (turn.run.0, child_message(child.position)))).collect()
}

impl<'a> Plan<'a> {
    /// Begins the children of an accepted turn and delivers what it tells others. To be called behind all turns and enqueues.
    pub(super) fn others(&mut self, turn: &'a Turn) {
        for child in &turn.starts {
            if self.enqueue(&child.row, &child.record).is_err() {
                let (message, body) = child.refusal();
                self.tell(turn.run.0, message, &body);
            }
        }
        self.tells(&turn.tells);
    }

    /// Delivers what other runs are told.
    pub(super) fn tells(&mut self, tells: &[Tell]) {
        for tell in tells {
            let current = self.seen.current.get(&tell.to.id).copied();
            let wanted = |run: &i64| self.seen.runs.get(run).is_some_and(|known| tell.is_for(&known.summary.id));
            if let Some(run) = current.filter(wanted) {
                self.tell(run, tell.message.clone(), &tell.body);
            }
        }
    }

    /// Puts a message of another run into an inbox, however full that is, unless nobody would read it or it is there already.
    fn tell(&mut self, run: i64, message: String, body: &MessageBody) {
        let wants = |known: &Known| !known.summary.status.is_end() && !known.messages.contains_key(&message);
        if !self.seen.runs.get(&run).is_some_and(wants) {
            return;
        }
        let sent_at = self.batch.now;
        // That a body can be encoded was found out before anything was decided.
        if let Outcome::Sent { seq, run, owner } = self.deliver(run, message.clone(), body, sent_at) {
            self.told.push(Told { run, owner, unread: Unread { seq, message, body: body.clone(), sent_at } });
        }
    }
}
