//! Supervisor: starts the core, watches it, starts it anew with back-off when it dies, and gives up when that happens too
//! often. And the public door. It is never on the data path of a running execution.
//!
//! ```text
//! Starting ──► Open ──a core actor died──► (stop all in reverse, wait) ──► Starting
//!                │                                     │ too many within the window
//!                └──Shutdown──► Stopped                └──► Escalated
//! ```

use std::sync::Arc;

use actix::{Actor, AsyncContext, Context, Handler, Message, Recipient, ResponseFuture, WrapFuture, fut::ActorFutureExt};

use self::window::{Verdict, Window};
use super::{
    door::{Door, Found, Standing},
    handle::Handle,
    incarnation::{Exited, Incarnation},
    messages::{
        Ask, Cancel, Describe, Description, Dispatch, Escalated, List, ListQueues, PauseQueue, ResumeQueue, RetryParked,
        SendSignal, SendUpdate, Shutdown,
    },
    persistence::{Blame, CannotGoOn},
    setup::Setup,
    waiters::Updated,
};
use crate::{
    cx::typed,
    error::{Error, QueryError, SendError, UpdateError},
    kernel::{
        event::{MessageBody, Reply},
        failure::{Failure, KIND_CODEC, KIND_UNANSWERED},
        payload::CodecError,
    },
    store::{QueueState, Summary},
    workflow::{Query, Update, Workflow},
};

mod window;

/// The runtime's root, and its public door: send it [`Dispatch`], [`SendSignal`], [`Ask`], [`Cancel`], [`Describe`], [`List`],
/// [`RetryParked`] and [`Shutdown`].
pub struct Supervisor {
    pub(super) door: Arc<Door>,
    setup: Arc<Setup>,
    incarnation: Option<Incarnation>,
    window: Window,
    escalated: Option<Recipient<Escalated>>,
    /// Restarts in a row that were the world's doing; they are waited out and never counted against us.
    outages: u32,
    /// An end of the core is being dealt with; further reports of the same life add nothing.
    mending: bool,
    /// The core is between two lives: whoever wants to leave waits until it has one, or will never have one again.
    between: bool,
    /// A shutdown waits for that.
    leaving: Option<tokio::sync::oneshot::Sender<()>>,
    /// A shutdown is under way: who is told of its end.
    stopping: Vec<tokio::sync::oneshot::Sender<()>>,
    /// What was told of a core that is not here yet.
    early: Vec<CannotGoOn>,
}

/// Starts the core for the first time.
///
/// *from* the builder · *reply* when the door is open, or why not · *delivery* ask · *if lost* the caller hears of it
#[derive(Message)]
#[rtype(result = "Result<(), Error>")]
pub(crate) struct Open;

/// Returns the door, for handles.
///
/// *from* the builder · *reply* the door · *delivery* ask · *if lost* the caller hears of it
#[derive(Message)]
#[rtype(result = "Result<Arc<Door>, Error>")]
pub(crate) struct GetDoor;

/// Finds the current run of an id.
///
/// *from* handles · *reply* the run, and where its end will be told · *delivery* ask · *if lost* the caller hears of it
#[derive(Message)]
#[rtype(result = "Result<Option<Found>, Error>")]
pub(crate) struct Find(pub(crate) String);

impl Supervisor {
    pub(crate) fn new(door: Arc<Door>, setup: Arc<Setup>, escalated: Option<Recipient<Escalated>>) -> Supervisor {
        let window = Window::new(door.config.restarts, door.config.restart_window);
        Supervisor {
            door,
            setup,
            incarnation: None,
            window,
            escalated,
            outages: 0,
            mending: false,
            between: false,
            leaving: None,
            stopping: Vec::new(),
            early: Vec::new(),
        }
    }

    pub(super) fn door(&self) -> Arc<Door> {
        self.door.clone()
    }

    fn raise(&mut self, ctx: &Context<Self>) -> impl Future<Output = Result<Incarnation, Error>> + 'static {
        self.early.clear();
        let (setup, door) = (self.setup.clone(), self.door.clone());
        let (exited, failed) = (ctx.address().recipient(), ctx.address().recipient());
        async move { Incarnation::start(&setup, &door, exited, failed).await }
    }

    fn opened(&mut self, incarnation: Incarnation, ctx: &mut Context<Self>) {
        let (links, id) = (incarnation.links.clone(), incarnation.id);
        self.incarnation = Some(incarnation);
        let early = std::mem::take(&mut self.early).into_iter().find(|told| told.incarnation == id);
        if self.rest() {
            return;
        }
        self.mending = false;
        if let Some(CannotGoOn { actor, why, blame, .. }) = early {
            return self.mend(actor, why, blame, ctx);
        }
        self.outages = 0;
        self.door.standing.send_replace(Standing::Open(links));
        // What was recorded by the former life is told now.
        self.door.bells.ring_all();
        let door = self.door.clone();
        let refill = async move {
            for tries in 0..8 {
                match door.settle_ended(&door.waiters.waited_for()).await {
                    Ok(()) => return,
                    Err(error) => tracing::warn!(%error, tries, "ends of runs could not be read; it is tried again"),
                }
                tokio::time::sleep(std::time::Duration::from_millis(250 << tries)).await;
            }
        };
        ctx.spawn(refill.into_actor(self));
    }

    /// Nothing is being stopped or started any more; tells whether somebody waits for that in order to leave.
    fn rest(&mut self) -> bool {
        self.between = false;
        self.leaving.take().map(|go| go.send(())).is_some()
    }

    /// A core actor is dead: the incarnation ends, and a new one is started after a wait, or nothing is.
    fn mend(&mut self, actor: &'static str, why: String, blame: Blame, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.mending, true) {
            return;
        }
        tracing::error!(actor, why, "a core actor died; the core is stopped and started anew");
        self.door.standing.send_replace(Standing::Starting);
        self.between = true;
        let stopping = self.incarnation.take();
        let grace = self.door.config.stop_grace;
        let door = self.door.clone();
        let stop = async move {
            if let Some(incarnation) = stopping {
                incarnation.stop(&door, true, grace).await;
            }
        };
        let boot = self.door.config.clock.boot();
        let jitter = boot.subsec_nanos().into();
        let verdict = match blame {
            Blame::Us => self.window.failed(boot, jitter),
            Blame::World => {
                self.outages += 1;
                Verdict::Restart(window::pause(self.outages, window::LONGEST_OUTAGE_PAUSE, jitter))
            }
        };
        ctx.spawn(stop.into_actor(self).map(move |(), this, ctx| match verdict {
            _ if this.leaving.is_some() => _ = this.rest(),
            Verdict::Restart(wait) => {
                ctx.run_later(wait, move |this, ctx| {
                    if this.leaving.is_some() {
                        this.rest();
                        return;
                    }
                    let start = this.raise(ctx);
                    ctx.spawn(start.into_actor(this).map(|started, this, ctx| match started {
                        Ok(incarnation) => this.opened(incarnation, ctx),
                        Err(_) if this.leaving.is_some() => _ = this.rest(),
                        Err(error) => {
                            this.mending = false;
                            let blame = match &error {
                                // It was there before: what is full or locked now is so for a while.
                                Error::Store(error) if error.is_of_the_world() || error.will_pass() => Blame::World,
                                _ => Blame::Us,
                            };
                            this.mend("Supervisor", format!("the core could not be started: {error}"), blame, ctx);
                        }
                    }));
                });
            }
            Verdict::Escalate(restarts) => this.escalate(actor, &why, restarts),
        }));
    }

    fn escalate(&mut self, actor: &str, panic: &str, restarts: u32) {
        self.rest();
        tracing::error!(actor, panic, restarts, "the runtime gives up; nothing recorded is lost, start the program again");
        let (actor, panic) = (actor.to_owned(), panic.to_owned());
        self.door.standing.send_replace(Standing::Escalated { actor: actor.clone(), panic: panic.clone(), restarts });
        self.door.release();
        if let Some(told) = &self.escalated {
            told.do_send(Escalated { actor, panic, restarts });
        }
    }

    /// Ends the incarnation that this is about. One that is still being started is not known yet: it is told when it is there, for it is
    /// told once only, and nobody else would ever notice.
    fn fallen(&mut self, told: CannotGoOn, ctx: &mut Context<Self>) {
        match &self.incarnation {
            Some(current) if current.id == told.incarnation => self.mend(told.actor, told.why, told.blame, ctx),
            // Of one that is over.
            Some(_) => {}
            None => self.early.push(told),
        }
    }
}

/// How the Supervisor hands a message on to the door.
macro_rules! handled {
    ($message:ty, $result:ty, |$door:ident, $asked:pat_param| $answer:expr) => {
        impl actix::Handler<$message> for Supervisor {
            type Result = ResponseFuture<Result<$result, Error>>;

            fn handle(&mut self, $asked: $message, _: &mut Context<Self>) -> Self::Result {
                let $door = self.door();
                Box::pin(async move { $answer })
            }
        }
    };
}

pub(super) use handled;

impl Actor for Supervisor {
    type Context = Context<Self>;
}

impl Handler<Open> for Supervisor {
    type Result = actix::ResponseActFuture<Self, Result<(), Error>>;

    fn handle(&mut self, _: Open, ctx: &mut Context<Self>) -> Self::Result {
        let start = self.raise(ctx);
        Box::pin(start.into_actor(self).map(|started, this, ctx| {
            this.opened(started?, ctx);
            Ok(())
        }))
    }
}

impl Handler<GetDoor> for Supervisor {
    type Result = Result<Arc<Door>, Error>;

    fn handle(&mut self, _: GetDoor, _: &mut Context<Self>) -> Self::Result {
        Ok(self.door.clone())
    }
}

impl Handler<Find> for Supervisor {
    type Result = ResponseFuture<Result<Option<Found>, Error>>;

    fn handle(&mut self, Find(id): Find, _: &mut Context<Self>) -> Self::Result {
        let door = self.door.clone();
        Box::pin(async move { door.find(id).await })
    }
}

impl Handler<Exited> for Supervisor {
    type Result = ();

    fn handle(&mut self, Exited { actor, incarnation, exit }: Exited, ctx: &mut Context<Self>) {
        self.fallen(CannotGoOn { actor, incarnation, why: format!("{exit:?}"), blame: Blame::Us }, ctx);
    }
}

impl Handler<CannotGoOn> for Supervisor {
    type Result = ();

    fn handle(&mut self, told: CannotGoOn, ctx: &mut Context<Self>) {
        self.fallen(told, ctx);
    }
}

impl<W: Workflow> Handler<Dispatch<W>> for Supervisor {
    type Result = ResponseFuture<Result<Handle<W>, Error>>;

    fn handle(&mut self, dispatch: Dispatch<W>, ctx: &mut Context<Self>) -> Self::Result {
        let (door, supervisor) = (self.door.clone(), ctx.address());
        Box::pin(async move {
            let found = door.dispatch(dispatch.asked()?).await?;
            Ok(Handle::new(found, door, supervisor))
        })
    }
}

impl Handler<PauseQueue> for Supervisor {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, PauseQueue(name): PauseQueue, _: &mut Context<Self>) -> Self::Result {
        let door = self.door.clone();
        Box::pin(async move { door.pause_queue(name, true).await })
    }
}

impl Handler<ResumeQueue> for Supervisor {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, ResumeQueue(name): ResumeQueue, _: &mut Context<Self>) -> Self::Result {
        let door = self.door.clone();
        Box::pin(async move { door.pause_queue(name, false).await })
    }
}

impl Handler<ListQueues> for Supervisor {
    type Result = ResponseFuture<Result<Vec<QueueState>, Error>>;

    fn handle(&mut self, _: ListQueues, _: &mut Context<Self>) -> Self::Result {
        let door = self.door.clone();
        Box::pin(async move { door.queues().await })
    }
}

impl Handler<SendSignal> for Supervisor {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, SendSignal { to, message, body }: SendSignal, _: &mut Context<Self>) -> Self::Result {
        let door = self.door.clone();
        Box::pin(async move {
            let body = body.map_err(|e| SendError::Invalid(e.to_string()))?;
            door.send(to, message, body).await
        })
    }
}

impl<Q: Query> Handler<Ask<Q>> for Supervisor {
    type Result = ResponseFuture<Result<Q::Answer, Error>>;

    fn handle(&mut self, Ask { of, question, within, .. }: Ask<Q>, _: &mut Context<Self>) -> Self::Result {
        let door = self.door.clone();
        Box::pin(async move {
            let invalid = |e: CodecError| QueryError::Invalid(e.to_string());
            let answer = door.ask(of, Q::NAME, question.map_err(invalid)?, within).await?;
            Ok(answer.decode(format_args!("the answer to the query {}", Q::NAME)).map_err(invalid)?)
        })
    }
}

impl<U: Update> Handler<SendUpdate<U>> for Supervisor {
    type Result = ResponseFuture<Result<U::Answer, UpdateError<U::Error>>>;

    fn handle(&mut self, SendUpdate { to, id, payload, within, .. }: SendUpdate<U>, _: &mut Context<Self>) -> Self::Result {
        let door = self.door.clone();
        Box::pin(async move {
            let payload = payload.map_err(|e| UpdateError::Send(SendError::Invalid(e.to_string())))?;
            match door.update(to, id.clone(), U::NAME, payload, within).await {
                Ok(Some(updated)) => heard::<U>(updated),
                Ok(None) => Err(UpdateError::Unanswered { id, within }),
                Err(Error::Send(error)) => Err(UpdateError::Send(error)),
                Err(error) => Err(UpdateError::Unavailable(error)),
            }
        })
    }
}

/// What the sender of an update hears.
fn heard<U: Update>(updated: Updated) -> Result<U::Answer, UpdateError<U::Error>> {
    let undecodable = |e: CodecError| UpdateError::Broken(Failure::new(KIND_CODEC, e.to_string()));
    match updated {
        Updated::Replied(Reply::Done(answer)) => {
            answer.decode(format_args!("the answer to the update {}", U::NAME)).map_err(undecodable)
        }
        Updated::Replied(Reply::Failed(failure)) => Err(UpdateError::Broken(failure)),
        Updated::Refused(failure) => Err(match typed(&failure, U::NAME).map_err(undecodable)? {
            Some(error) => UpdateError::Rejected(error),
            None if failure.kind() == KIND_UNANSWERED => UpdateError::NotTaken(failure.to_string()),
            None => UpdateError::Broken(failure),
        }),
    }
}

impl Handler<Cancel> for Supervisor {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, Cancel { to, reason }: Cancel, _: &mut Context<Self>) -> Self::Result {
        let door = self.door.clone();
        Box::pin(async move { door.send(to, uuid::Uuid::now_v7().to_string(), MessageBody::Cancel { reason }).await })
    }
}

impl Handler<RetryParked> for Supervisor {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, RetryParked { to, position }: RetryParked, _: &mut Context<Self>) -> Self::Result {
        let door = self.door.clone();
        Box::pin(async move { door.send(to, uuid::Uuid::now_v7().to_string(), MessageBody::Retry { position }).await })
    }
}

impl Handler<Describe> for Supervisor {
    type Result = ResponseFuture<Result<Option<Description>, Error>>;

    fn handle(&mut self, Describe { id }: Describe, _: &mut Context<Self>) -> Self::Result {
        let door = self.door.clone();
        Box::pin(async move { door.describe(id).await })
    }
}

impl Handler<List> for Supervisor {
    type Result = ResponseFuture<Result<Vec<Summary>, Error>>;

    fn handle(&mut self, List { filter }: List, _: &mut Context<Self>) -> Self::Result {
        let door = self.door.clone();
        Box::pin(async move { door.list(filter).await })
    }
}

impl Handler<Shutdown> for Supervisor {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, Shutdown { grace }: Shutdown, ctx: &mut Context<Self>) -> Self::Result {
        let (told, over) = tokio::sync::oneshot::channel();
        self.stopping.push(told);
        let answer = Box::pin(async move { over.await.map_err(|_| Error::Stopped) });
        if self.stopping.len() > 1 {
            // One is under way, and what it promised to those whose acts still run it keeps.
            return answer;
        }
        self.mending = true;
        self.door.standing.send_if_modified(|standing| {
            let stops = !matches!(standing, Standing::Escalated { .. });
            if stops {
                *standing = Standing::Stopped;
            }
            stops
        });
        // A core that is being stopped or started is let come to rest first, or its threads would keep the store's lock.
        let (go, at_rest) = tokio::sync::oneshot::channel();
        if self.between {
            self.leaving = Some(go);
        } else {
            let _ = go.send(());
        }
        let stop_grace = self.door.config.stop_grace.min(grace);
        let stop = at_rest.into_actor(self).then(move |_, this, _| {
            let (stopping, door) = (this.incarnation.take(), this.door.clone());
            let stop = async move {
                if let Some(incarnation) = stopping {
                    incarnation.drain(grace).await;
                    incarnation.stop(&door, false, stop_grace).await;
                }
            };
            stop.into_actor(this)
        });
        ctx.spawn(stop.map(|(), this, ctx| {
            this.door.release();
            std::mem::take(&mut this.stopping).into_iter().for_each(|told| _ = told.send(()));
            actix::ActorContext::stop(ctx);
        }));
        answer
    }
}
