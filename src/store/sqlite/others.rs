//! What turns do to other runs, in the file: decided by what was looked at for them, and written with the rest of the batch. It
//! is one item with its turn, also where the items of a batch are tried one by one.

use std::collections::HashMap;

use super::{commit::Writer, decide::Plan, look::Known, script::Frame, script::Values, sql, trouble::Trouble};
use crate::{
    kernel::event::MessageBody,
    store::{Batch, Outcome, Tell, Told, Turn, Unread},
};

impl Plan<'_> {
    /// Begins the children of an accepted turn and delivers what it tells others. To be called behind all turns and enqueues.
    pub(super) fn others(&mut self, turn: &Turn) {
        for child in &turn.starts {
            if self.enqueue(&child.row, &child.record).is_err() {
                let (message, body) = child.refusal();
                self.tell(turn.run.0, &message, &body);
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
                self.tell(run, &tell.message, &tell.body);
            }
        }
    }

    /// Puts a message of another run into an inbox, however full that is, unless nobody would read it or it is there already.
    fn tell(&mut self, run: i64, message: &str, body: &MessageBody) {
        let wants = |known: &Known| !known.summary.status.is_end() && !known.messages.contains_key(message);
        if !self.seen.runs.get(&run).is_some_and(wants) {
            return;
        }
        let sent_at = self.batch.now;
        // That a body can be encoded was found out before anything was decided.
        if let Outcome::Sent { seq, run, owner } = self.deliver(run, message, body, sent_at) {
            let unread = Unread { seq, message: message.to_owned(), body: body.clone(), sent_at };
            self.told.push(Told { run, owner, unread });
        }
    }
}

impl Writer {
    /// Writes what the accepted turns do to other runs, each for itself, where their items are tried one by one: only behind all
    /// turns, whose savepoints are gone by then. Returns what was told; whose part the database refuses is put among `refused`, and
    /// has a turn in the transaction that must not stay.
    pub(super) async fn others_one_by_one(
        &mut self,
        batch: &Batch,
        outcomes: &[Option<Outcome>],
        node: i64,
        refused: &mut HashMap<usize, String>,
    ) -> Result<Vec<Told>, Trouble> {
        let mut told = Vec::new();
        for (place, outcome) in outcomes.iter().enumerate() {
            let Some(turn) = batch.items[place].with_others().filter(|_| *outcome == Some(Outcome::Done)) else { continue };
            match self.others_alone(batch, place, turn, node).await {
                Ok(more) => told.extend(more),
                Err(Trouble::Statement(why)) => {
                    self.run(sql::ROLLBACK_TO, Values::default()).await?;
                    refused.insert(place, why);
                }
                Err(store) => return Err(store),
            }
        }
        Ok(told)
    }

    async fn others_alone(&mut self, batch: &Batch, place: usize, turn: &Turn, node: i64) -> Result<Vec<Told>, Trouble> {
        // What this sees of the turn itself, which is in the log by now, is of no use.
        let seen = self.look(batch, &[place], Frame::Single, None).await?;
        let mut plan = Plan::new(batch, self.inbox_limit, node, seen, HashMap::new());
        plan.others(turn);
        let told = std::mem::take(&mut plan.told);
        self.write(batch, plan, Frame::Single, None, None).await?;
        Ok(told)
    }
}
