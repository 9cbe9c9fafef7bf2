//! What turns do to other runs, in memory: the reference for every store.

use super::{Data, apply::Writer};
use crate::{
    kernel::{event::MessageBody, id::RunKey},
    store::{Outcome, Tell, Told, Turn, Unread},
};

impl Data {
    /// Begins the children of an accepted turn and delivers what it tells others.
    pub(super) fn others(&mut self, turn: &Turn, writer: Writer, told: &mut Vec<Told>) {
        for child in &turn.starts {
            if self.enqueue(&child.row, &child.record, writer).is_err() {
                let (message, body) = child.refusal();
                told.extend(self.tell(turn.run, message, body, writer));
            }
        }
        self.tells(&turn.tells, writer, told);
    }

    /// Delivers what other runs are told.
    pub(super) fn tells(&mut self, tells: &[Tell], writer: Writer, told: &mut Vec<Told>) {
        for tell in tells {
            let current = self.current(&tell.to.id);
            let wanted = current.filter(|key| self.runs.get(key).is_some_and(|run| tell.is_for(&run.summary.id)));
            told.extend(wanted.and_then(|run| self.tell(run, tell.message.clone(), tell.body.clone(), writer)));
        }
    }

    /// Puts a message of another run into an inbox, however full that is, unless nobody would read it or it is there already.
    fn tell(&mut self, key: RunKey, message: String, body: MessageBody, writer: Writer) -> Option<Told> {
        let run = self.runs.get(&key).filter(|run| !run.summary.status.is_end())?;
        if run.inbox.values().any(|unread| unread.message == message) {
            return None;
        }
        let sent_at = writer.now;
        match self.deliver(key, message.clone(), body.clone(), sent_at, writer.now) {
            Outcome::Sent { seq, run, owner } => Some(Told { run, owner, unread: Unread { seq, message, body, sent_at } }),
            _ => None,
        }
    }
}
