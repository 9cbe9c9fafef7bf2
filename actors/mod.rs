//! The runtime. The folder is the supervision tree:
//!
//! ```text
//! Supervisor                 watches, restarts, escalates; the public door
//! └── incarnation            one life of the core, one for all:
//!     ├── Persistence        the only writer: group commit            (arbiter of its own)
//!     ├── LeaseKeeper        the right to act                         (arbiter of its own)
//!     ├── Scheduler          timers, claims                           (arbiter of its own)
//!     ├── Foreman            what is in shared queues                (beside the Scheduler)
//!     ├── Timekeeper         schedules and gates: what is due, what is asked (beside the Scheduler)
//!     ├── Steward            shared results: who asks, who holds     (beside the Scheduler)
//!     ├── Undertaker         the other nodes: who is dead, what is freed (beside the Scheduler)
//!     ├── Notifier           hints to and from the other nodes        (beside the Scheduler)
//!     └── Executor           hosts executions; outbox, pool           (engine arbiter)
//!         ├── Execution …    one running workflow each: turn → commit → effects
//!         └── pool           activities, on arbiters where user code may block; inline ones on the engine's
//! ```
//!
//! Who says what to whom:
//!
//! | message | from | to |
//! |---|---|---|
//! | `Dispatch` `Gated` `SendSignal` `SendUpdate` `Ask` `Cancel` `Terminate` `PauseExecution` `RetryNow` `SkipWait` `CompleteCall` `RetryParked` `Resume` `Describe` `List` `Find` `PauseQueue` `ResumeQueue` `ListQueues` `ReadValue` `AwaitValue` `Subscribe` `FollowingRows` `Shutdown` | application, its streams | Supervisor |
//! | `CreateSchedule` `UpdateSchedule` `PauseSchedule` `UnpauseSchedule` `TriggerSchedule` `BackfillSchedule` `DeleteSchedule` `DescribeSchedule` `ListSchedules` `ForgetMemo` | application | Supervisor |
//! | `ResetRun` `ListLetters` `ShowLetter` `ReplayLetter` `ReplayLetters` `DiscardLetter` `DiscardLetters` | application | Supervisor |
//! | `Open` `GetDoor` | builder, handles | Supervisor |
//! | `Exited` `CannotGoOn` | core actors and their watchers | Supervisor |
//! | `Submit` | outbox, door, pool, Timekeeper, Steward | Persistence |
//! | `Claim` `Renew` `ReserveKeys` `Resume` `Read` `Affair` | Scheduler, LeaseKeeper, Executor, door, Undertaker, Timekeeper, Steward | Persistence |
//! | `Link` `Close` | incarnation | Persistence |
//! | `Arm` `Nudge` `Room` | outbox, Persistence, Executor | Scheduler |
//! | `Begin` `StopClaiming` | incarnation | Scheduler |
//! | `Start` `Inquire` `Overruled` | door | Executor |
//! | `Acks` `ClaimedRuns` `Deliver` | Persistence | Executor |
//! | `TimersDue` `Reconcile` | Scheduler | Executor |
//! | `MakeRoom` | Scheduler, executions | Executor |
//! | `Freeze` | executions | Executor |
//! | `AttemptsEnded` | pool | Executor |
//! | `ExecutionsLeft` `ReadInbox` `AskKeys` `FlushPanicked` | executions, outbox | Executor |
//! | `Drain` `Stop` `LinkOthers` | incarnation | Executor |
//! | `Tell` | Persistence, outbox | Notifier |
//! | `Flush` | incarnation | Notifier |
//! | `Hinted` | Notifier, Execution | Executor |
//! | `Look` | outbox, Notifier | Foreman |
//! | `TasksEnded` | pool | Foreman |
//! | `Finish` | incarnation | Foreman |
//! | `CarryOut` `Admit` | door | Timekeeper |
//! | `Serve` | outbox | Steward |
//! | `Forget` | door | Steward |
//! | `Shed` | Undertaker | Executor |
//! | `GiveWay` | Undertaker | Scheduler |
//! | `Arrive` `Acked` `Mail` `Behind` `InboxRead` `Due` `MakeWay` `Cool` `Depart` `Evict` `Forsake` `Inquire` | Executor | Execution |
//! | `Woken` | a workflow's waker | Execution |

pub(crate) mod asked;
mod backlog;
mod bells;
pub(crate) mod builder;
pub(crate) mod call;
mod deadline;
mod door;
mod engine;
pub(crate) mod events;
mod execution;
mod executor;
mod foreman;
pub(crate) mod gates;
pub(crate) mod handle;
pub(crate) mod handlers;
mod incarnation;
mod lease_keeper;
pub(crate) mod letters;
mod lingering;
mod loading;
pub(crate) mod memos;
pub(crate) mod messages;
mod monitor;
mod notifier;
pub(crate) mod orders;
mod persistence;
mod pool;
mod queues;
pub(crate) mod resets;
mod resting;
mod scheduler;
pub(crate) mod schedules;
mod setup;
mod slots;
pub(crate) mod stats;
mod steward;
pub(crate) mod supervisor;
mod thread;
mod timekeeper;
mod undertaker;
pub(crate) mod values;
mod waiters;
