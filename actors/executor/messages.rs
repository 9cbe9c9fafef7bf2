//! What may be said to the Executor, and where it goes.

use std::{rc::Rc, time::Duration};

use actix::{Addr, AsyncContext, Context, Handler, Message, WrapFuture, fut::ActorFutureExt};
use tokio::sync::oneshot;

use super::{Executor, Held, Ticket};
use crate::{
    actors::{
        bells::Rung,
        execution::{Acked, Arrive, Begun, Due, InboxRead, Inquire, Mail},
        foreman::Foreman,
        notifier::Notifier,
        persistence::{Acks, ClaimedRuns, Deliver, Read},
        pool::Ended,
        scheduler::Timer,
        steward::Steward,
    },
    kernel::{event::Started, id::RunKey, run::Arrival, time::Timestamp},
    store::{NewRun, Outcome, Reader, Yield},
};

/// How soon an inbox is read again that could not be read, or whose run is still being opened.
const READ_AGAIN: Duration = Duration::from_millis(50);

/// Starts a new run here.
///
/// *from* the door · *reply* [`Begun`] through the oneshot · *delivery* tell · *if lost* the door dispatches again, with the same id
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Start {
    pub(crate) row: NewRun,
    pub(crate) started: Started,
    pub(crate) reply: oneshot::Sender<Begun>,
}

/// Timers of runs in memory are due.
///
/// *from* Scheduler · *reply* none · *delivery* tell · *if lost* the incarnation is over
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct TimersDue(pub(crate) Vec<Timer>);

/// Attempts ended.
///
/// *from* the pool · *reply* none · *delivery* tell · *if lost* the result is still in the table of attempts
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct AttemptsEnded(pub(crate) Vec<Ended>);

/// Executions left memory.
///
/// *from* the engine's outbox · *reply* none · *delivery* tell · *if lost* the reconciler finds them
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct ExecutionsLeft(pub(crate) Vec<Left>);

/// One execution that left memory.
pub(crate) struct Left {
    pub(crate) run: RunKey,
    pub(crate) generation: u64,
    pub(crate) how: LeftHow,
}

/// Why it left.
pub(crate) enum LeftHow {
    /// It sleeps in the store.
    Passive { wake_at: Option<Timestamp> },
    /// It is out of memory and stays ours; so many messages were seen.
    Cold { seen: u64 },
    /// It is over.
    Ended,
    /// It cannot go on here, and is given back.
    Yields(Yield),
    /// It goes on after a pause: it is replayed, as one that was taken by force, or that fell, if that is not recorded yet.
    Anew { by_force: bool, fell: bool },
    /// Its commit was refused: it is replayed.
    Refused,
    /// Its actor panicked: it is replayed, with back-off.
    Crashed(String),
}

/// Reads a run's inbox for its execution.
///
/// *from* Execution · *reply* `InboxRead` · *delivery* tell · *if lost* the incarnation is over
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct ReadInbox {
    pub(crate) run: RunKey,
    pub(crate) generation: u64,
}

/// Reserves at least so many run keys: an execution that begins children lacks some.
///
/// *from* Execution · *reply* none · *delivery* nudge · *if lost* it is sent again
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct AskKeys(pub(crate) usize);

/// Compares what the store says this node owns with what is in memory.
///
/// *from* Scheduler's tick · *reply* none · *delivery* nudge · *if lost* the next tick
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Reconcile;

/// The outbox of this arbiter panicked while it was emptied: items may be lost, so the core must be started anew.
///
/// *from* the engine's outbox · *reply* none · *delivery* tell · *if lost* the Executor is dead already
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct FlushPanicked(pub(crate) String);

/// Where other nodes say that looking pays.
///
/// *from* Notifier, and a replayed run that finds that it has continued · *reply* none · *delivery* nudge · *if lost* the next tick
#[derive(Message, Default, PartialEq)]
#[rtype(result = "()")]
pub(crate) struct Hinted {
    /// Messages went into the inboxes of these runs of ours.
    pub(crate) mail: Vec<RunKey>,
    /// These runs ended elsewhere.
    pub(crate) ended: Vec<RunKey>,
    /// These runs have published something elsewhere.
    pub(crate) published: Vec<RunKey>,
    /// Hints may have been missed.
    pub(crate) anything: bool,
}

/// Where hints for other nodes go, who runs what is in shared queues, and who sees to shared results. Sent once.
///
/// *from* the incarnation · *reply* none · *delivery* ask · *if lost* the incarnation is not started
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct LinkOthers {
    pub(crate) notifier: Option<Addr<Notifier>>,
    pub(crate) foreman: Addr<Foreman>,
    pub(crate) steward: Addr<Steward>,
}

impl Handler<LinkOthers> for Executor {
    type Result = ();

    fn handle(&mut self, LinkOthers { notifier, foreman, steward }: LinkOthers, _: &mut Context<Self>) {
        let _ = self.engine.steward.set(steward);
        let _ = self.engine.foreman.set(foreman);
        if let Some(notifier) = notifier {
            let _ = self.engine.notifier.set(notifier);
        }
    }
}

impl Handler<Hinted> for Executor {
    type Result = ();

    fn handle(&mut self, Hinted { mail, ended, published, anything }: Hinted, ctx: &mut Context<Self>) {
        for run in mail {
            if let Some(Held::Live { ticket, .. } | Held::Cold { ticket, .. }) = self.held.get(&run) {
                ctx.notify(ReadInbox { run, generation: ticket.generation });
            } else if let Some(Held::Loading { generation, .. }) = self.held.get(&run) {
                // What it has read by now may be without that.
                ctx.notify_later(ReadInbox { run, generation: *generation }, READ_AGAIN);
            }
        }
        published.iter().chain(&ended).for_each(|run| self.door.bells.ring(*run, Rung::News));
        let here = ended.iter().copied().filter(|run| self.held.contains_key(run)).collect();
        self.look_whether_over(here, ctx);
        let waited: Vec<RunKey> = ended.into_iter().filter(|run| self.engine.waiters.is_waited_for(*run)).collect();
        if !waited.is_empty() {
            self.settle(waited, ctx);
        }
        if anything {
            ctx.notify(Reconcile);
            self.elsewhere.stir();
            self.settle_elsewhere(ctx);
            self.listening.stir();
            self.look_at_logs(ctx);
        }
    }
}

impl Handler<Start> for Executor {
    type Result = ();

    fn handle(&mut self, start: Start, ctx: &mut Context<Self>) {
        if !self.draining {
            self.start(start, ctx);
        }
    }
}

impl Handler<Inquire> for Executor {
    type Result = ();

    fn handle(&mut self, inquire: Inquire, _: &mut Context<Self>) {
        // Who is not here says so by dropping the reply.
        if let Some(address) = self.live(inquire.run, None) {
            address.do_send(inquire);
        }
    }
}

impl Handler<Acks> for Executor {
    type Result = ();

    fn handle(&mut self, Acks(acks): Acks, _: &mut Context<Self>) {
        failpoint!("executor.before_deal");
        for ack in acks {
            if let Some(Held::Live { ticket, address, .. }) = self.held.get_mut(&ack.run)
                && ticket.generation == ack.generation
            {
                if ack.outcome == Outcome::Done {
                    ticket.falls = 0;
                    // Until that is recorded, whoever replays the run must find out again who was lost: an order about a paused run is
                    // recorded before it.
                    ticket.forced &= !ack.claims;
                }
                address.do_send(Acked(ack.outcome));
            }
        }
    }
}

impl Handler<AttemptsEnded> for Executor {
    type Result = ();

    fn handle(&mut self, AttemptsEnded(mut ended): AttemptsEnded, ctx: &mut Context<Self>) {
        failpoint!("executor.attempts_ended");
        // Results of one run travel together, in their order; a run that is not live finds them in the table of attempts.
        if !ended.is_sorted_by_key(|ended| ended.run) {
            ended.sort_by_cached_key(|ended| ended.run);
        }
        let mut ended = ended.into_iter().peekable();
        while let Some(first) = ended.next() {
            let run = first.run;
            let mut arrivals = vec![arrival_of(first)];
            while let Some(next) = ended.next_if(|next| next.run == run) {
                arrivals.push(arrival_of(next));
            }
            if let Some(address) = self.reach(run, ctx) {
                address.do_send(Arrive(arrivals));
            } else if !self.held.contains_key(&run) {
                // The run is over, or given back: nobody will ever ask. Any other finds it in the table of attempts when it is back.
                for arrival in arrivals {
                    if let Arrival::Ended { position, attempt, .. } = arrival {
                        self.engine.pool.attempts().recorded(run, position, attempt);
                    }
                }
            }
        }
    }
}

impl Handler<TimersDue> for Executor {
    type Result = ();

    fn handle(&mut self, TimersDue(timers): TimersDue, ctx: &mut Context<Self>) {
        for timer in timers {
            // One that is loading is asked for what is due when it is here.
            if let Some(address) = self.reach(timer.run, ctx) {
                address.do_send(Due(timer.what));
            }
        }
    }
}

impl Handler<Deliver> for Executor {
    type Result = ();

    fn handle(&mut self, Deliver(messages): Deliver, ctx: &mut Context<Self>) {
        for (run, unread) in messages {
            if let Some(address) = self.reach(run, ctx) {
                address.do_send(Mail(vec![unread]));
            } else if let Some(Held::Loading { mail, .. }) = self.held.get_mut(&run) {
                mail.push(unread);
            }
            // Any other will read its inbox when it comes back.
        }
    }
}

impl Handler<ClaimedRuns> for Executor {
    type Result = ();

    fn handle(&mut self, ClaimedRuns(claimed): ClaimedRuns, ctx: &mut Context<Self>) {
        failpoint!("executor.claimed");
        let brought = claimed.len();
        self.door.backlog.leave(claimed.iter().map(|claimed| claimed.summary.run));
        for claimed in claimed {
            let run = claimed.summary.run;
            let generation = self.next_generation();
            let epoch = claimed.summary.epoch;
            let (forced, claims, since) = (claimed.forced, claimed.claims, self.engine.config.clock.boot());
            let (due, same_incarnation) = (Some(claimed.due), false);
            let ticket = Ticket { generation, epoch, forced, same_incarnation, falls: 0, claims, due, since };
            self.load(run, ticket, ctx);
        }
        self.held.claimed(brought);
        self.tell_room(None);
    }
}

impl Handler<ExecutionsLeft> for Executor {
    type Result = ();

    fn handle(&mut self, ExecutionsLeft(left): ExecutionsLeft, ctx: &mut Context<Self>) {
        let wake = left.into_iter().filter_map(|left| self.left(left, ctx)).min();
        self.tell_room(wake);
    }
}

impl Handler<ReadInbox> for Executor {
    type Result = ();

    fn handle(&mut self, ReadInbox { run, generation }: ReadInbox, ctx: &mut Context<Self>) {
        let read = Read::new(move |reader: Rc<dyn Reader>| async move { reader.inbox(run).await });
        let asked = self.engine.persistence.send(read).into_actor(self);
        ctx.spawn(asked.map(move |inbox, this, ctx| match inbox {
            Ok(Ok(inbox)) if this.live(run, Some(generation)).is_some() => {
                if let Some(address) = this.reach(run, ctx) {
                    address.do_send(InboxRead(inbox));
                }
            }
            Ok(Ok(_)) if matches!(this.held.get(&run), Some(Held::Loading { generation: of, .. }) if *of == generation) => {
                ctx.notify_later(ReadInbox { run, generation }, READ_AGAIN);
            }
            // If it is cold by now and has not seen all of that, it comes back.
            Ok(Ok(inbox)) => this.behind(run, inbox.seq, ctx),
            Ok(Err(_)) => {
                ctx.notify_later(ReadInbox { run, generation }, READ_AGAIN);
            }
            Err(_) => {}
        }));
    }
}

impl Handler<AskKeys> for Executor {
    type Result = ();

    fn handle(&mut self, AskKeys(count): AskKeys, ctx: &mut Context<Self>) {
        self.wants_keys = self.wants_keys.max(count);
        self.ask_keys(ctx);
    }
}

impl Handler<Reconcile> for Executor {
    type Result = ();

    fn handle(&mut self, _: Reconcile, ctx: &mut Context<Self>) {
        // Told anew now and then, so that no count that went astray keeps anything from being claimed.
        self.tell_room(None);
        let by = self.engine.incarnation;
        let read = Read::new(move |reader: Rc<dyn Reader>| async move { reader.owned(by).await });
        let asked = self.engine.persistence.send(read).into_actor(self);
        ctx.spawn(asked.map(|owned, this, ctx| {
            if let Ok(Ok(owned)) = owned {
                this.on_owned(&owned, ctx);
            }
        }));
    }
}

impl Handler<FlushPanicked> for Executor {
    type Result = ();

    fn handle(&mut self, FlushPanicked(panic): FlushPanicked, _: &mut Context<Self>) {
        panic!("the outbox could not be emptied: {panic}");
    }
}

fn arrival_of(ended: Ended) -> Arrival {
    Arrival::Ended { position: ended.position, attempt: ended.attempt, result: ended.result }
}
