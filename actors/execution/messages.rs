//! What may be said to an execution, and where it goes. All of it comes from the Executor on the same arbiter, but for the
//! wake-ups of a workflow's own steps.

use actix::{ActorContext, Context, Handler, Message};

use super::Execution;
use crate::{
    actors::{
        executor::{LeftHow, ReadInbox},
        scheduler::What,
    },
    kernel::{
        failure::{Failure, KIND_TIMEOUT},
        run::Arrival,
    },
    store::{Inbox, Outcome, Unread},
};

/// Things reached this run.
///
/// *from* Executor · *reply* none · *delivery* tell · *if lost* the run is replayed, which finds them again
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Arrive(pub(crate) Vec<Arrival>);

/// What became of the commit in flight.
///
/// *from* Executor · *reply* none · *delivery* tell · *if lost* the incarnation is over
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Acked(pub(crate) Outcome);

/// Messages that went into this run's inbox.
///
/// *from* Executor · *reply* none · *delivery* nudge · *if lost* the run may not sleep before it has read them
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Mail(pub(crate) Vec<Unread>);

/// The whole inbox of this run, as it was asked for.
///
/// *from* Executor · *reply* none · *delivery* tell · *if lost* the incarnation is over
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct InboxRead(pub(crate) Inbox);

/// So many messages were ever put into this run's inbox: if it has seen fewer, a hint was lost.
///
/// *from* Executor · *reply* none · *delivery* nudge · *if lost* the next tick
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Behind(pub(crate) u64);

/// A timer of this run is due.
///
/// *from* Executor · *reply* none · *delivery* tell · *if lost* the incarnation is over
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Due(pub(crate) What);

/// The workflow was woken by an inline step's I/O, or by something foreign.
///
/// *from* the workflow's waker, any thread · *reply* none · *delivery* nudge · *if lost* it is sent again at the next wake-up
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Woken;

/// Leave this node as soon as nothing of this run is under way here.
///
/// *from* Executor · *reply* none · *delivery* tell · *if lost* the drain ends by its grace
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Depart;

/// The run has ended in the store, over the head of this memory.
///
/// *from* Executor · *reply* none · *delivery* nudge · *if lost* its next commit is refused
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Forsake;

/// Leave memory: the incarnation ends.
///
/// *from* Executor · *reply* none · *delivery* tell · *if lost* the arbiter is stopped
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Evict;

impl Handler<Arrive> for Execution {
    type Result = ();

    fn handle(&mut self, Arrive(arrivals): Arrive, ctx: &mut Context<Self>) {
        self.arrive(arrivals, ctx);
    }
}

impl Handler<Acked> for Execution {
    type Result = ();

    fn handle(&mut self, Acked(outcome): Acked, ctx: &mut Context<Self>) {
        self.on_acked(outcome, ctx);
    }
}

impl Handler<Mail> for Execution {
    type Result = ();

    fn handle(&mut self, Mail(mail): Mail, ctx: &mut Context<Self>) {
        let news: Vec<Unread> = mail.into_iter().filter(|unread| unread.seq > self.seen).collect();
        let Some(last) = news.last().map(|unread| unread.seq) else { return };
        // A hint between was lost: seeing the later one must not count as having seen both.
        if last - self.seen > news.len() as u64 {
            return self.engine.executor.do_send(ReadInbox { run: self.key, generation: self.generation });
        }
        self.seen = last;
        let arrivals = self.fresh(news);
        self.arrive(arrivals, ctx);
    }
}

impl Handler<InboxRead> for Execution {
    type Result = ();

    fn handle(&mut self, InboxRead(inbox): InboxRead, ctx: &mut Context<Self>) {
        if !self.sealed {
            self.on_inbox_read(inbox, ctx);
        }
    }
}

impl Handler<Behind> for Execution {
    type Result = ();

    fn handle(&mut self, Behind(inbox_seq): Behind, _: &mut Context<Self>) {
        // A commit in flight that finds the inbox moved reads it by itself.
        if !self.sealed && inbox_seq > self.seen && self.recording.is_none() {
            self.engine.executor.do_send(ReadInbox { run: self.key, generation: self.generation });
        }
    }
}

impl Handler<Depart> for Execution {
    type Result = ();

    fn handle(&mut self, _: Depart, ctx: &mut Context<Self>) {
        self.departing = true;
        self.depart(ctx);
    }
}

impl Handler<Due> for Execution {
    type Result = ();

    fn handle(&mut self, Due(what): Due, ctx: &mut Context<Self>) {
        if self.sealed {
            return;
        }
        match what {
            What::Sleep(position) => self.arrive([Arrival::Due { position }], ctx),
            What::Deadline => self.arrive([Arrival::Deadline], ctx),
            What::Begin => self.arrive([Arrival::Begin], ctx),
            // On its way there in hops.
            What::Retry(position, attempt, at) | What::StepTimeout(position, attempt, at) if at > self.engine.time.now() => {
                if self.run.state().call(position).is_some_and(|call| call.attempt == attempt) {
                    self.arm(at, what);
                }
            }
            What::Retry(position, attempt, _) => {
                // Of a call that was tried ahead of its time, by an order, the timer is still there; and of one that stands in a queue since.
                let current = self.run.state().call(position).is_some_and(|call| call.attempt == attempt && call.is_begun())
                    && !self.run.queued().contains(&position);
                if current && self.is_for_others(position, attempt) {
                    // Its queue has got rules since. A paused run asks for it when it goes on.
                    if !self.is_paused() {
                        self.open_effects(ctx);
                    }
                } else if current && !self.hurried.remove(&(position, attempt)) && self.start_attempt(position, attempt) {
                    self.poll_steps(ctx);
                }
                self.take_ready(ctx);
            }
            What::StepTimeout(position, attempt, _) => {
                let failure = Failure::new(KIND_TIMEOUT, "start_to_close: the step took longer than its limit");
                self.arrive([Arrival::Ended { position, attempt, result: Err(failure) }], ctx);
            }
        }
    }
}

impl Handler<Woken> for Execution {
    type Result = ();

    fn handle(&mut self, _: Woken, ctx: &mut Context<Self>) {
        if self.sealed {
            return;
        }
        if let Some(blocked) = self.run.foreign() {
            return self.blocked(&blocked, ctx);
        }
        self.poll_steps(ctx);
    }
}

impl Handler<Forsake> for Execution {
    type Result = ();

    fn handle(&mut self, _: Forsake, ctx: &mut Context<Self>) {
        // What becomes of a commit in flight is told in a moment.
        if !self.sealed && self.recording.is_none() {
            self.leave(LeftHow::Ended, ctx);
        }
    }
}

impl Handler<Evict> for Execution {
    type Result = ();

    fn handle(&mut self, _: Evict, ctx: &mut Context<Self>) {
        self.sealed = true;
        ctx.stop();
    }
}
