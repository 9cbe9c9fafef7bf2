//! Notifier: tells the other nodes where looking pays, and looks where they say. Its way may be away for as long as it
//! likes: then everyone looks by the clock.
//!
//! At most one message is under way; what comes meanwhile goes into the next, once each. When nobody else is there,
//! nothing is told but that this one has come.

use std::{collections::HashSet, sync::Arc, time::Duration};

use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, ResponseFuture, WrapFuture, fut::ActorFutureExt};
use tokio::sync::oneshot;

use super::{
    executor::{Executor, Hinted},
    foreman::{Foreman, Look},
    scheduler::{Nudge, Scheduler},
    stats::Counters,
};
use crate::{
    hints::{Hear, Hint, OpenHints, Tell as Teller},
    kernel::id::Incarnation,
    store::StoreError,
};

/// Beyond so many hints that wait, one says it all.
const MOST_WAITING: usize = 4_096;

/// The first pause before the way is opened again; it doubles up to the longest.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Hints for the other nodes.
///
/// *from* Persistence, executions · *reply* none · *delivery* nudge · *if lost* they look by the clock
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Tell(pub(crate) Vec<Hint>);

/// Answers once nothing waits to be told any more, or the way is not open.
///
/// *from* the incarnation · *reply* when done · *delivery* ask · *if lost* they look by the clock
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Flush;

/// Tells and hears hints.
pub(crate) struct Notifier {
    me: Incarnation,
    open: OpenHints,
    /// `None` while it is not open, or under way with hints.
    teller: Option<Box<dyn Teller>>,
    telling: bool,
    waiting: HashSet<Hint>,
    counters: Arc<Counters>,
    scheduler: Addr<Scheduler>,
    executor: Addr<Executor>,
    foreman: Addr<Foreman>,
    pause: Duration,
    /// Who wants to know when everything is told.
    flushed: Vec<oneshot::Sender<()>>,
}

impl Notifier {
    pub(crate) fn new(
        me: Incarnation,
        open: OpenHints,
        counters: Arc<Counters>,
        scheduler: Addr<Scheduler>,
        executor: Addr<Executor>,
        foreman: Addr<Foreman>,
    ) -> Notifier {
        let (teller, telling, waiting) = (None, false, HashSet::new());
        Notifier { me, open, teller, telling, waiting, counters, scheduler, executor, foreman, pause: PAUSE, flushed: Vec::new() }
    }

    /// Opens the way, again and again, with growing pauses.
    fn connect(&mut self, ctx: &mut Context<Self>) {
        let opened = (self.open)(self.me);
        ctx.spawn(opened.into_actor(self).map(|opened, this, ctx| match opened {
            Ok((teller, hearer)) => {
                this.teller = Some(teller);
                this.hear(hearer, ctx);
                // Whoever believes to be alone learns that it is not.
                this.waiting.insert(Hint::Joined);
                this.kick(ctx);
            }
            Err(error) => this.later(&error, ctx, Self::connect),
        }));
    }

    fn later(&mut self, error: &StoreError, ctx: &mut Context<Self>, then: impl FnOnce(&mut Self, &mut Context<Self>) + 'static) {
        tracing::debug!(%error, pause = ?self.pause, "no hints at the moment; everyone looks by the clock");
        ctx.run_later(self.pause, then);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    fn hear(&mut self, mut hearer: Box<dyn Hear>, ctx: &mut Context<Self>) {
        let heard = async move {
            let heard = hearer.hear().await;
            (hearer, heard)
        };
        ctx.spawn(heard.into_actor(self).map(|(hearer, heard), this, ctx| match heard {
            Ok(hints) => {
                this.pause = PAUSE;
                this.heard(hints);
                this.hear(hearer, ctx);
            }
            Err(error) => this.later(&error, ctx, |this, ctx| this.hear(hearer, ctx)),
        }));
    }

    fn heard(&mut self, hints: Vec<Hint>) {
        failpoint!("notifier.heard");
        tracing::trace!(?hints, "heard");
        // What a hearer says by itself is `Anything`; the rest comes from somebody.
        if hints.iter().any(|hint| *hint != Hint::Anything) {
            self.counters.met();
        }
        let (mut due, mut tasks, mut hinted) = (false, None, Hinted::default());
        for hint in hints {
            match hint {
                Hint::Due => due = true,
                Hint::Tasks { .. } => tasks = Some(true),
                Hint::Mail { run, owner } if owner == self.me => hinted.mail.push(run),
                Hint::Mail { .. } | Hint::Joined => {}
                Hint::Ended { run } => hinted.ended.push(run),
                Hint::Published { run } => hinted.published.push(run),
                Hint::Anything => (due, tasks, hinted.anything) = (true, tasks.or(Some(false)), true),
            }
        }
        if let Some(certain) = tasks {
            self.foreman.do_send(Look { certain });
        }
        if due {
            self.scheduler.do_send(Nudge);
        }
        if hinted != Hinted::default() {
            self.executor.do_send(hinted);
        }
    }

    fn kick(&mut self, ctx: &mut Context<Self>) {
        if self.telling {
            return;
        }
        if self.waiting.is_empty() || self.teller.is_none() {
            // Dropping the other ends answers.
            self.flushed.clear();
            return;
        }
        let Some(mut teller) = self.teller.take() else { return };
        let hints: Vec<Hint> = self.waiting.drain().collect();
        tracing::trace!(?hints, "told");
        self.telling = true;
        let told = async move {
            let told = teller.tell(&hints).await;
            (teller, told)
        };
        ctx.spawn(told.into_actor(self).map(|(teller, told), this, ctx| {
            this.teller = Some(teller);
            match told {
                Ok(()) => {
                    this.telling = false;
                    this.kick(ctx);
                }
                // What was to be told is found by looking; what comes next is tried again.
                Err(error) => {
                    this.flushed.clear();
                    this.later(&error, ctx, |this, ctx| {
                        this.telling = false;
                        this.kick(ctx);
                    });
                }
            }
        }));
    }
}

impl Actor for Notifier {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.connect(ctx);
    }
}

impl Handler<Tell> for Notifier {
    type Result = ();

    fn handle(&mut self, Tell(hints): Tell, ctx: &mut Context<Self>) {
        if self.counters.is_alone() {
            return;
        }
        self.waiting.extend(hints);
        if self.waiting.len() > MOST_WAITING {
            self.waiting = HashSet::from([Hint::Anything]);
        }
        self.kick(ctx);
    }
}

impl Handler<Flush> for Notifier {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Flush, ctx: &mut Context<Self>) -> Self::Result {
        let (done, flushed) = oneshot::channel();
        self.flushed.push(done);
        self.kick(ctx);
        Box::pin(async move { drop(flushed.await) })
    }
}
