//! From a URL and registrations to a running supervisor.

use std::{sync::Arc, time::Duration};

use actix::{Addr, Recipient, System};

use super::{
    door::Door,
    handle::Stent,
    handlers::{ActivityHandler, InlineHandler, erase, erase_inline},
    messages::Escalated,
    monitor,
    setup::{Open as OpenStore, Setup, hints_by_url, open_by_url, open_memory},
    supervisor::{Open, Supervisor},
    thread,
};
use crate::{
    activity::Activity,
    clock::Clock,
    config::Config,
    error::Error,
    hints::OpenHints,
    kernel::{id::BuildId, limits::Limits},
    registry::Workflows,
    store::{Durability, Queue, Store, StoreError, memory::MemoryStore},
    workflow::Workflow,
};

/// A runtime to be. Mistakes are collected and returned by [`start`](Builder::start).
#[must_use = "a builder does nothing unless it is started"]
pub struct Builder {
    store: Result<OpenStore, Error>,
    hints: Option<Result<OpenHints, Error>>,
    activities: Vec<(&'static str, Box<dyn super::handlers::Handle + Send>)>,
    workflows: Workflows,
    config: Config,
    escalated: Option<Recipient<Escalated>>,
    mistake: Option<Error>,
}

impl Builder {
    pub(crate) fn new(url: &str) -> Builder {
        Builder {
            store: open_by_url(url).map_err(Error::from),
            hints: None,
            activities: Vec::new(),
            workflows: Workflows::default(),
            config: Config::default(),
            escalated: None,
            mistake: None,
        }
    }

    /// Uses a memory store that the caller keeps: it survives this runtime, so a test can start another one on it.
    pub fn memory(mut self, store: MemoryStore) -> Builder {
        self.store = Ok(open_memory(store));
        self
    }

    /// Uses a store of the caller's own: another backend, or one of ours wrapped by a test that makes it fail. `open` is
    /// called on the writer's thread once for each life of the core, so what it returns must find what the store before it
    /// has acknowledged; that one is dropped by then, or closed.
    pub fn store<F>(mut self, open: impl Fn(Durability) -> F + Send + Sync + 'static) -> Builder
    where
        F: Future<Output = Result<Box<dyn Store>, StoreError>> + 'static,
    {
        self.store = Ok(Arc::new(move |durability, _| Box::pin(open(durability))));
        self
    }

    /// Uses another way for hints between nodes than the store's own: `redis://<server>` (feature `redis`). Whatever it loses,
    /// delays or repeats costs latency only.
    pub fn hints(mut self, url: &str) -> Builder {
        self.hints = Some(hints_by_url(url).map_err(Error::from));
        self
    }

    /// Uses a way for hints of the caller's own: a broker that is there already, or one of ours wrapped by a test.
    pub fn hints_by(mut self, open: OpenHints) -> Builder {
        self.hints = Some(Ok(open));
        self
    }

    /// Registers a workflow under its name and version.
    pub fn workflow<W: Workflow>(mut self) -> Builder {
        if let Err(mistake) = self.workflows.add::<W>() {
            self.mistake.get_or_insert(mistake);
        }
        self
    }

    /// Registers the handler of an activity: an actor's `Recipient<Call<A>>`, or an async closure over a `Call<A>`. A
    /// closure is cloned for each activity thread, so what it captures must be cheap to clone and `Send`. One that is quick and
    /// never blocks may be registered [`inline`](Builder::inline).
    pub fn activity<A: Activity, Kind: 'static>(mut self, handler: impl ActivityHandler<A, Kind> + Clone + Send) -> Builder {
        for name in A::ALIASES {
            self.activities.push((name, erase::<A, Kind, _>(handler.clone())));
        }
        self.activities.push((A::NAME, erase::<A, Kind, _>(handler)));
        self.note_aliases_of::<A>()
    }

    /// Registers the handler of an activity that is quick and never blocks, to be polled in place: on the thread on which the
    /// engine runs the executions, right behind the commit of its intent. That saves the way to the threads of activities and
    /// back, which is longer than such a handler; what is ready at its first poll is not even a task. All else is as with
    /// [`activity`](Builder::activity): at least once, recorded once, retries, limits, heartbeats, cancellation.
    ///
    /// While it is polled, *every* execution of this node waits, so no poll may take more than a fraction of a millisecond: no
    /// blocking call, no lock that somebody holds for long, no long computation. Awaiting is fine, it holds up nobody. A
    /// poll of more than 10 ms is warned of by the name of the activity, and one that has not ended after 50 ms while it lasts. An
    /// attempt of one that blocks for ever runs out of its limits as any other does, and the node keeps its lease, but its executions
    /// stand still until the thread comes back; nothing recorded is lost. What it spawns with `actix::spawn` is on the engine's
    /// thread too.
    ///
    /// It is polled on the threads of activities nevertheless when all [`activities`](Builder::activities) at once are under way
    /// (it waits there in the same line), when inline activities have just held the engine for 10 ms, and when the call goes
    /// through a shared queue, whose permit is a row that comes and goes through the store. So it may rely on no thread, and its
    /// closure is cloned for each of them as well.
    ///
    /// Blocking and transactional steps have threads of their own and cannot be inline. Nor can an actor, which has its own arbiter:
    ///
    /// ```compile_fail,E0277
    /// # use stent::prelude::*;
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Shout;
    /// # impl Activity for Shout {
    /// #     const NAME: &'static str = "docs.shout";
    /// #     type Output = ();
    /// #     type Error = AppError;
    /// # }
    /// # fn node(builder: stent::Builder, actor: actix::Recipient<Call<Shout>>) -> stent::Builder {
    /// builder.inline(actor) // give it to `.activity(…)`
    /// # }
    /// ```
    ///
    /// # Errors
    /// None here; [`start`](Builder::start) returns [`Error::Config`] when the name is taken, by either kind of registration.
    ///
    /// # Panics
    /// Never: a panic of the handler is a failed attempt.
    pub fn inline<A: Activity>(mut self, handler: impl InlineHandler<A> + Clone + Send) -> Builder {
        for name in A::ALIASES {
            self.activities.push((name, erase_inline::<A, _>(handler.clone())));
        }
        self.activities.push((A::NAME, erase_inline::<A, _>(handler)));
        self.note_aliases_of::<A>()
    }

    fn note_aliases_of<A: Activity>(mut self) -> Builder {
        if let Err(mistake) = self.workflows.add_aliases_of::<A>() {
            self.mistake.get_or_insert(mistake);
        }
        self
    }

    /// Declares a shared queue and its rules, which hold for the whole cluster. They are written when the runtime starts: the node that
    /// starts last has the last word, so all nodes should say the same. Calls of a declared queue go through the store.
    pub fn queue(mut self, queue: Queue) -> Builder {
        self.config.queues.push(queue);
        self
    }

    /// Serves only these queues: executions and activities of others are left to other nodes. The empty name is the default
    /// queue. Without this a node serves all.
    pub fn serve<Name: Into<String>>(mut self, queues: impl IntoIterator<Item = Name>) -> Builder {
        self.config.serves.get_or_insert_default().extend(queues.into_iter().map(Into::into));
        self
    }

    /// Gives this node a tag, which executions (`Dispatch::needs`) and calls in shared queues (`Pending::needs`) may need.
    pub fn tag(mut self, tag: impl Into<String>) -> Builder {
        self.config.tags.push(tag.into());
        self
    }

    /// Sets how durable an acknowledgement is. Default: [`Durability::Full`].
    pub fn durability(mut self, durability: Durability) -> Builder {
        self.config.durability = durability;
        self
    }

    /// Limits the executions in memory at once: the ceiling of what they may take. Default 10,000. At the ceiling those that only wait
    /// make way, least recently active first, however short [`passivate_after`](Builder::passivate_after) says that their wait is (but
    /// for what is due about as soon as [`look_ahead`](Builder::look_ahead) reaches); if none does, more wait in the store, up to
    /// [`backlog`](Builder::backlog). Dispatches that nobody has answered yet are limited to the same number, and refused as busy beyond.
    pub fn in_flight(mut self, most: usize) -> Builder {
        self.config.in_flight = most;
        self
    }

    /// Limits how many dispatches of this node may wait in the store for a slot in memory. Default 10,000; 0: none, so whatever
    /// cannot be begun at once is refused. Beyond it a dispatch is refused as busy, so that under more load than the node can bear
    /// what it accepts does not take ever longer. Raise it where executions are to be queued here for as long as it takes; one
    /// that is delayed, or whose workflow, queue or tags this node lacks, does not count.
    pub fn backlog(mut self, most: usize) -> Builder {
        self.config.backlog = most;
        self
    }

    /// Limits the activities that run at once. Default 1,000.
    pub fn activities(mut self, most: usize) -> Builder {
        self.config.activities = most;
        self
    }

    /// Sets the lease, from 200 ms to an hour; renewed four times as often. Default 10 s.
    pub fn lease(mut self, lease: Duration) -> Builder {
        self.config.lease = lease;
        self.config.renewal = lease / 4;
        self.config.margin = lease / 10;
        self
    }

    /// Keeps executions in memory that wait for less than this, as long as there is room. Default 10 s; at least about twice the
    /// [`look_ahead`](Builder::look_ahead), which would claim them again at once.
    pub fn passivate_after(mut self, wait: Duration) -> Builder {
        self.config.passivate_after = wait;
        self
    }

    /// Claims sleeping executions so long before they are due, and loads them, so that they go on exactly when they are: never
    /// earlier. Those that are due within as long again come along. They take half of the memory at most (see
    /// [`in_flight`](Builder::in_flight)); the others are claimed when they are due. Default 1 s, at most a minute; zero claims
    /// everything when it is due.
    pub fn look_ahead(mut self, ahead: Duration) -> Builder {
        self.config.look_ahead = ahead;
        self
    }

    /// Sets the limits of each run.
    pub fn limits(mut self, limits: Limits) -> Builder {
        self.config.limits = limits;
        self
    }

    /// Names this build, which is recorded with each commit. Default: derived from the program's file.
    pub fn build(mut self, name: &str) -> Builder {
        let digest = blake3::hash(name.as_bytes());
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&digest.as_bytes()[..8]);
        self.config.build = BuildId(i64::from_le_bytes(bytes));
        self
    }

    /// Replays each turn beside itself, to find code that is not deterministic at its first run. Default: in debug builds.
    pub fn verify_determinism(mut self, verify: bool) -> Builder {
        self.config.verify = verify;
        self
    }

    /// Lets every execution that comes to rest leave memory, so that whatever arrives next replays it from its log; also while its
    /// activities run. For tests of replay; `STENT_EVICT=1` in the environment does the same.
    #[cfg(feature = "failpoints")]
    #[doc(hidden)]
    pub fn evict_always(mut self) -> Builder {
        self.config.evict = true;
        self
    }

    /// Sets where time comes from. For tests.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Builder {
        self.config.clock = clock;
        self
    }

    /// Tells an actor when the runtime gives up.
    pub fn on_escalation(mut self, told: Recipient<Escalated>) -> Builder {
        self.escalated = Some(told);
        self
    }

    /// Starts the runtime in the actix system of this thread. The door is open when it returns.
    ///
    /// # Errors
    /// [`Error::Config`] for registrations that contradict each other, [`Error::Store`] for a store that cannot be used,
    /// [`Error::NoSystem`] outside an actix system: use [`spawn`](Builder::spawn) there.
    pub async fn start(self) -> Result<Addr<Supervisor>, Error> {
        if System::try_current().is_none() {
            return Err(Error::NoSystem(
                "there is none on this thread; use #[actix::main], or Builder::spawn elsewhere".to_owned(),
            ));
        }
        let (supervisor, _) = self.launch().await?;
        Ok(supervisor)
    }

    /// Starts the runtime on a thread of its own, for programs that run under plain tokio or no runtime at all. It lives
    /// until [`Stent::shutdown`].
    ///
    /// # Errors
    /// As [`start`](Builder::start).
    pub async fn spawn(self) -> Result<Stent, Error> {
        let (started, answer) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("stent".to_owned())
            .spawn(move || {
                let runner = match thread::system() {
                    Ok(runner) => runner,
                    Err(error) => {
                        let _ = started.send(Err(thread::none(error)));
                        return;
                    }
                };
                runner.block_on(async move {
                    match self.launch().await {
                        Ok((supervisor, door)) => {
                            let stent = Stent::new(supervisor, door);
                            if started.send(Ok(stent.clone())).is_ok() {
                                // An escalation is reported to whoever joins; here it only ends the thread.
                                let _ = stent.join().await;
                                stent.closed().await;
                            }
                        }
                        Err(error) => {
                            let _ = started.send(Err(error));
                        }
                    }
                });
            })
            .map_err(thread::none)?;
        answer.await.unwrap_or_else(|_| Err(Error::NoSystem("its thread ended while it was starting".to_owned())))
    }

    async fn launch(self) -> Result<(Addr<Supervisor>, Arc<Door>), Error> {
        if let Some(mistake) = self.mistake {
            return Err(mistake);
        }
        self.config.validate()?;
        let setup = Setup::new(self.store?, self.hints.transpose()?);
        for (name, handler) in self.activities {
            setup.add(name, handler)?;
        }
        let door = Door::new(Arc::new(self.config), Arc::new(self.workflows));
        // An arbiter of its own: what blocks the application's thread must not keep the core from being mended.
        let arbiter = thread::arbiter().map_err(thread::none)?;
        let (door_for_actor, escalated, setup) = (door.clone(), self.escalated, Arc::new(setup));
        let make = move |_: &mut actix::Context<Supervisor>| Supervisor::new(door_for_actor, setup, escalated);
        let door_at_exit = door.clone();
        let handle = arbiter.handle();
        let told = move |exit: monitor::Exit| {
            door_at_exit.closed(&exit);
            handle.stop();
        };
        let supervisor = monitor::start_on(&arbiter.handle(), make, told)
            .await
            .ok_or_else(|| Error::NoSystem("its arbiter ended while it was starting".to_owned()))?;
        match supervisor.send(Open).await? {
            Ok(()) => Ok((supervisor, door)),
            Err(error) => {
                arbiter.stop();
                Err(error)
            }
        }
    }
}
