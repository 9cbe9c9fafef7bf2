//! Handles: of one execution, and of the whole runtime for code that is no actor.

use std::{fmt, marker::PhantomData, sync::Arc};

use actix::Addr;
use tokio::sync::watch;

use super::{
    builder::Builder,
    door::{Door, Found, Standing},
    messages::{
        Ask, Cancel, Describe, Description, Dispatch, List, ListQueues, PauseQueue, ResumeQueue, RetryParked, SendSignal,
        SendUpdate, Shutdown, Whose,
    },
    stats::Stats,
    supervisor::{GetDoor, Supervisor},
    waiters::End,
};
use crate::{
    cx::typed,
    error::{Error, RunError, UpdateError},
    kernel::{
        event::Outcome,
        failure::Origin,
        id::{RunId, RunKey},
    },
    store::{QueueState, Summary},
    workflow::{Query, Signal, Update, Workflow},
};

/// A handle of one execution. Cheap to clone; dropping it changes nothing.
pub struct Handle<W> {
    run: RunKey,
    id: RunId,
    end: watch::Receiver<End>,
    pub(super) door: Arc<Door>,
    pub(super) supervisor: Addr<Supervisor>,
    workflow: PhantomData<fn() -> W>,
}

impl<W> Clone for Handle<W> {
    fn clone(&self) -> Self {
        let Handle { run, id, end, door, supervisor, .. } = self;
        let (id, end, door, supervisor) = (id.clone(), end.clone(), door.clone(), supervisor.clone());
        Handle { run: *run, id, end, door, supervisor, workflow: PhantomData }
    }
}

impl<W> fmt::Debug for Handle<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&self.id).finish()
    }
}

impl<W> Handle<W> {
    pub(crate) fn new(found: Found, door: Arc<Door>, supervisor: Addr<Supervisor>) -> Self {
        let Found { run, id, end } = found;
        Handle { run, id, end, door, supervisor, workflow: PhantomData }
    }

    /// Returns the execution's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id.id
    }

    pub(super) fn run_id(&self) -> &RunId {
        &self.id
    }

    /// Returns the number, within its execution and from 1, of the run that was there when this handle was made. A run that
    /// [continues](crate::Cx::continue_as_new) is followed by others, of which [`result`](Handle::result) tells the end of the last.
    #[must_use]
    pub fn run_no(&self) -> u32 {
        self.id.run_no
    }

    /// Asks this run something, also when it has ended; if it has continued as new, the run that goes on for it. See [`Ask`].
    ///
    /// # Errors
    /// [`Error::Query`] says why it was not answered.
    pub async fn query<Q: Query>(&self, question: &Q) -> Result<Q::Answer, Error> {
        let ask = Ask::of(Whose::Run(self.run), question);
        self.supervisor.send(ask).await.unwrap_or_else(|_| Err(self.door.standing.borrow().error()))
    }

    /// Sends a signal to the execution, whichever its run is by now. Under an id of its own and so that it may be repeated:
    /// [`Stent::signal`].
    ///
    /// # Errors
    /// [`Error::Send`] says why it was not taken.
    pub async fn signal<S: Signal>(&self, signal: &S) -> Result<(), Error> {
        let sent = self.supervisor.send(SendSignal::new(self.id(), signal)).await;
        sent.unwrap_or_else(|_| Err(self.door.standing.borrow().error()))
    }

    /// Updates the execution, whichever its run is by now. Under an id of its own and so that it may be repeated: [`Stent::update`].
    ///
    /// # Errors
    /// [`UpdateError`] says why it was not made, or was not answered.
    pub async fn update<U: Update>(&self, update: &U) -> Result<U::Answer, UpdateError<U::Error>> {
        let sent = self.supervisor.send(SendUpdate::new(self.id(), update)).await;
        sent.unwrap_or_else(|_| Err(UpdateError::Unavailable(self.door.standing.borrow().error())))
    }

    /// Returns the store's key of that run.
    #[must_use]
    pub fn run(&self) -> RunKey {
        self.run
    }
}

impl<W: Workflow> Handle<W> {
    /// Waits for the end of the run and returns its output; of one that continues as new, for that of the last run of the chain. Works
    /// under any async runtime, and through restarts of the core.
    ///
    /// # Errors
    /// How the run ended otherwise; [`RunError::Unavailable`] if the runtime stopped before: the run itself goes on at the
    /// next start.
    pub async fn result(&self) -> Result<W::Output, RunError<W::Error>> {
        let mut end = self.end.clone();
        let outcome = match end.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => None,
        };
        let Some(outcome) = outcome else {
            return Err(RunError::Unavailable(self.door.standing.borrow().error()));
        };
        let undecodable = |e: crate::kernel::payload::CodecError| RunError::Unavailable(Error::Wait(e.to_string()));
        match &*outcome {
            Outcome::Completed(output) => output.decode(format_args!("the output of {}", W::NAME)).map_err(undecodable),
            Outcome::Failed(failure) => {
                let origin = || Origin { run: self.id.clone(), name: W::NAME.to_owned(), call: None };
                let failure = failure.clone().with_origin(origin);
                Err(typed(&failure, W::NAME).map_err(undecodable)?.map_or_else(|| RunError::Broken(failure), RunError::Failed))
            }
            Outcome::Cancelled { reason } => Err(RunError::Cancelled { reason: reason.clone() }),
            Outcome::TimedOut => Err(RunError::TimedOut),
            Outcome::Terminated { reason, by, .. } => Err(RunError::Terminated { reason: reason.clone(), by: by.clone() }),
            // Its next run is in the same commit, so this is told of a damaged store only.
            Outcome::Continued => {
                Err(RunError::Unavailable(Error::Wait("the run continued as another, which is not there".to_owned())))
            }
        }
    }
}

/// The runtime, for code that is no actor: cheap to clone, usable from any thread and under any async runtime.
///
/// As `actix_web::web::Data<Stent>` it is at home in a web application.
#[derive(Clone, Debug)]
pub struct Stent {
    supervisor: Addr<Supervisor>,
    pub(super) door: Arc<Door>,
}

impl Stent {
    /// Names the store and begins to build a runtime: `sqlite:<file>`, or `memory:` for tests.
    pub fn open(url: &str) -> Builder {
        Builder::new(url)
    }

    /// Makes a handle from a supervisor's address.
    ///
    /// # Errors
    /// [`Error::Stopped`] when it is no more.
    pub async fn of(supervisor: Addr<Supervisor>) -> Result<Stent, Error> {
        let door = supervisor.send(GetDoor).await??;
        Ok(Stent { supervisor, door })
    }

    pub(crate) fn new(supervisor: Addr<Supervisor>, door: Arc<Door>) -> Stent {
        Stent { supervisor, door }
    }

    /// Returns what the writer has done so far, and what is under way.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.door.stats()
    }

    /// Returns the supervisor, for actors.
    #[must_use]
    pub fn supervisor(&self) -> &Addr<Supervisor> {
        &self.supervisor
    }

    /// Starts an execution; see [`Dispatch`].
    ///
    /// # Cancel safety
    /// Once it was polled the execution is started, whether or not its answer is waited for: the same dispatch with the same id
    /// finds out.
    ///
    /// # Errors
    /// [`Error::Dispatch`] says why it was not started.
    pub async fn dispatch<W: Workflow>(&self, dispatch: Dispatch<W>) -> Result<Handle<W>, Error> {
        self.asked(self.supervisor.send(dispatch).await)
    }

    /// Returns a handle of the current run of an id, or `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Store`] or [`Error::Stopped`].
    pub async fn handle<W: Workflow>(&self, id: impl Into<String>) -> Result<Option<Handle<W>>, Error> {
        let found = self.asked(self.supervisor.send(super::supervisor::Find(id.into())).await)?;
        Ok(found.map(|found| Handle::new(found, self.door.clone(), self.supervisor.clone())))
    }

    /// Sends a signal; see [`SendSignal`].
    ///
    /// # Errors
    /// [`Error::Send`] says why it was not taken.
    pub async fn signal(&self, signal: SendSignal) -> Result<(), Error> {
        self.asked(self.supervisor.send(signal).await)
    }

    /// Asks a workflow something; see [`Ask`].
    ///
    /// # Errors
    /// [`Error::Query`] says why it was not answered.
    pub async fn query<Q: Query>(&self, ask: Ask<Q>) -> Result<Q::Answer, Error> {
        self.asked(self.supervisor.send(ask).await)
    }

    /// Updates an execution; see [`SendUpdate`].
    ///
    /// # Cancel safety
    /// Dropped, it may have been sent: the same update with the same id finds out.
    ///
    /// # Errors
    /// [`UpdateError`] says why it was not made, or was not answered.
    pub async fn update<U: Update>(&self, update: SendUpdate<U>) -> Result<U::Answer, UpdateError<U::Error>> {
        let closed = |_| Err(UpdateError::Unavailable(self.door.standing.borrow().error()));
        self.supervisor.send(update).await.unwrap_or_else(closed)
    }

    /// Asks an execution to stop; see [`Cancel`].
    ///
    /// # Errors
    /// [`Error::Send`] says why it was not taken.
    pub async fn cancel(&self, cancel: Cancel) -> Result<(), Error> {
        self.asked(self.supervisor.send(cancel).await)
    }

    /// Retries parked calls; see [`RetryParked`].
    ///
    /// # Errors
    /// [`Error::Send`] says why it was not taken.
    pub async fn retry_parked(&self, retry: RetryParked) -> Result<(), Error> {
        self.asked(self.supervisor.send(retry).await)
    }

    /// Returns what is known of an execution: its state, what it waits for, who will move it on.
    ///
    /// # Errors
    /// [`Error::Store`] or [`Error::Stopped`].
    pub async fn describe(&self, id: impl Into<String>) -> Result<Option<Description>, Error> {
        self.asked(self.supervisor.send(Describe::new(id)).await)
    }

    /// Lists runs; see [`List`].
    ///
    /// # Errors
    /// [`Error::Store`] or [`Error::Stopped`].
    pub async fn list(&self, list: List) -> Result<Vec<Summary>, Error> {
        self.asked(self.supervisor.send(list).await)
    }

    /// Pauses a shared queue; see [`PauseQueue`].
    ///
    /// # Errors
    /// [`Error::Store`] or [`Error::Stopped`].
    pub async fn pause_queue(&self, name: impl Into<String>) -> Result<(), Error> {
        self.asked(self.supervisor.send(PauseQueue(name.into())).await)
    }

    /// Lets a paused queue go on; see [`ResumeQueue`].
    ///
    /// # Errors
    /// [`Error::Store`] or [`Error::Stopped`].
    pub async fn resume_queue(&self, name: impl Into<String>) -> Result<(), Error> {
        self.asked(self.supervisor.send(ResumeQueue(name.into())).await)
    }

    /// Lists the shared queues; see [`ListQueues`].
    ///
    /// # Errors
    /// [`Error::Store`] or [`Error::Stopped`].
    pub async fn queues(&self) -> Result<Vec<QueueState>, Error> {
        self.asked(self.supervisor.send(ListQueues).await)
    }

    /// Stops the runtime; see [`Shutdown`].
    ///
    /// # Errors
    /// [`Error::Stopped`] when it is stopped already.
    pub async fn shutdown(&self, shutdown: Shutdown) -> Result<(), Error> {
        self.asked(self.supervisor.send(shutdown).await)
    }

    /// Waits until the runtime is over: by a shutdown, also what that gives running work time for, or because it gave up.
    ///
    /// # Errors
    /// [`Error::Escalated`] when it gave up.
    pub async fn join(&self) -> Result<(), Error> {
        let mut standing = self.door.standing.subscribe();
        let over = standing.wait_for(|s| matches!(s, Standing::Stopped | Standing::Escalated { .. })).await;
        match over.map(|standing| standing.clone()) {
            Ok(standing @ Standing::Escalated { .. }) => Err(standing.error()),
            Ok(_) | Err(_) => {
                self.closed().await;
                Ok(())
            }
        }
    }

    /// Waits until the supervisor has stopped.
    pub(crate) async fn closed(&self) {
        while self.supervisor.connected() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    pub(super) fn asked<T>(&self, answer: Result<Result<T, Error>, actix::MailboxError>) -> Result<T, Error> {
        answer.unwrap_or_else(|_| Err(self.door.standing.borrow().error()))
    }
}
