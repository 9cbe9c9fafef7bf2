//! Questions to a run in memory. It answers between two commits: the state behind a turn that is not recorded yet must not be
//! seen outside, so questions wait for the commit in flight. If that is refused they are dropped with this memory, and the door asks
//! the log.

use actix::{Context, Handler, Message};
use tokio::sync::oneshot;

use super::Execution;
use crate::{
    actors::waiters::Updated,
    kernel::{
        event::{Command, Event, Fact},
        failure::Failure,
        id::RunKey,
        tape::{Inquiry, Told},
    },
};

/// Answer a question.
///
/// *from* the door, by way of the Executor · *reply* through the oneshot, dropped by whoever does not hold the run · *delivery* tell ·
/// *if lost* the door asks the log
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Inquire {
    pub(crate) run: RunKey,
    pub(crate) inquiry: Inquiry,
    pub(crate) reply: oneshot::Sender<Result<Told, Failure>>,
}

impl Execution {
    /// Tells the answers of updates that are recorded.
    pub(super) fn tell_answers(&self, events: &[Event]) {
        for event in events {
            let (message, answer) = match event {
                Event::Command(Command::Answered { message, reply }) => (message, Updated::Replied((**reply).clone())),
                Event::Fact(Fact::Refused { message, failure }) => (message, Updated::Refused((**failure).clone())),
                _ => continue,
            };
            self.engine.waiters.answered(self.key, message, answer);
        }
    }

    /// Answers whoever waits. A node past its deadline says nothing: somebody else may have moved the run on. Nor does a run whose code was not
    /// polled yet, and so has no handlers: the door knows what that means.
    pub(super) fn answer_inquiries(&mut self) {
        for Inquire { inquiry, reply, .. } in std::mem::take(&mut self.inquiries) {
            if self.run.state().begun() && self.engine.deadline.stands() && !reply.is_closed() {
                let _ = reply.send(self.run.inquire(&inquiry));
            }
        }
    }
}

impl Handler<Inquire> for Execution {
    type Result = ();

    fn handle(&mut self, inquire: Inquire, _: &mut Context<Self>) {
        if self.sealed {
            return;
        }
        // Those that waited too long have gone; a commit may take for as long as the store is away.
        self.inquiries.retain(|waiting| !waiting.reply.is_closed());
        self.inquiries.push(inquire);
        if self.recording.is_none() {
            self.answer_inquiries();
        }
    }
}
