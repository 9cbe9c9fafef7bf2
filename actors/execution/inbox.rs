//! What comes into a run's inbox: a commit that has not seen it is decided anew, and each message is taken once.

use std::sync::Arc;

use actix::Context;

use super::{Execution, Recording};
use crate::{
    actors::{executor::ReadInbox, loading},
    kernel::run::Arrival,
    store::{Inbox, Then, Unread, YieldReason},
};

impl Execution {
    /// A message came in that this run has not seen. The commit stays as it is; only what becomes of the run is decided anew. It
    /// may not sleep, and goes on once the inbox has been read. An end drops what is unread, whoever has seen it; and to wait for an
    /// inbox that does not move would take as long as somebody goes on sending.
    pub(super) fn on_inbox_moved(&mut self, mut recording: Recording) {
        if let Then::End { seen, .. } = &mut Arc::make_mut(&mut recording.turn).then {
            *seen = None;
            return self.submit_again(recording);
        }
        recording.moved = true;
        self.recording = Some(recording);
        self.engine.executor.do_send(ReadInbox { run: self.key, generation: self.generation });
    }

    pub(super) fn on_inbox_read(&mut self, inbox: Inbox, ctx: &mut Context<Self>) {
        if let Err(unopened) = loading::understood(&self.id, &inbox) {
            tracing::error!(run = %self.id, report = %unopened, "the run is blocked");
            let reason = unopened.to_string();
            return self.give_back(YieldReason::Blocked { build: self.engine.config.build, reason }, ctx);
        }
        self.seen = self.seen.max(inbox.seq);
        self.fresh(inbox.unread).into_iter().for_each(|arrival| self.line_up(arrival));
        // The inbox was read for another reason while a commit is in flight: that one is not submitted twice.
        let Some(mut recording) = self.recording.take_if(|recording| recording.moved) else { return self.idle(ctx) };
        recording.moved = false;
        let turn = Arc::make_mut(&mut recording.turn);
        if let Then::Passivate { .. } = turn.then {
            turn.then = Then::Hold;
        }
        self.submit_again(recording);
    }

    /// Turns messages into arrivals, each one once.
    pub(super) fn fresh(&self, mail: Vec<Unread>) -> Vec<Arrival> {
        let in_flight = self.recording.as_ref().map_or(&[][..], |recording| &recording.turn.consumed);
        let known = |seq: u64| {
            in_flight.contains(&seq) || self.waiting.iter().any(|a| matches!(a, Arrival::Message { seq: s, .. } if *s == seq))
        };
        mail.into_iter()
            .filter(|unread| !known(unread.seq))
            .map(|Unread { seq, message, body, .. }| Arrival::Message { seq, message, body })
            .collect()
    }
}
