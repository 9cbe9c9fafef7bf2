//! **Stent** runs durable functions: ordinary async Rust whose progress survives crashes, restarts and deployments.
//!
//! ```
//! use stent::prelude::*;
//!
//! #[derive(Serialize, Deserialize)]
//! struct Greet { name: String }
//!
//! impl Workflow for Greet {
//!     const NAME: &'static str = "docs.greet";
//!     type Output = String;
//!     type Error = AppError;
//!
//!     async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
//!         let upper = cx.call(Shout { text: self.name }).await?;
//!         Ok(format!("hello, {upper}"))
//!     }
//! }
//!
//! #[derive(Serialize, Deserialize)]
//! struct Shout { text: String }
//!
//! impl Activity for Shout {
//!     const NAME: &'static str = "docs.shout";
//!     type Output = String;
//!     type Error = AppError;
//! }
//!
//! #[actix::main]
//! async fn main() -> stent::Result<()> {
//!     let supervisor = Stent::open("memory:")
//!         .workflow::<Greet>()
//!         .activity(async |call: Call<Shout>| Ok(call.text.to_uppercase()))
//!         .start()
//!         .await?;
//!     let handle = supervisor.send(Dispatch::new(Greet { name: "world".into() }).id("greet-1")).await??;
//!     assert_eq!(handle.result().await.unwrap(), "hello, WORLD");
//!     supervisor.send(Shutdown::within(secs(5))).await??;
//!     Ok(())
//! }
//! ```
//!
//! Reading order: [`Workflow`], [`Activity`] and [`Signal`] are what you write; [`Cx`] is what a workflow sees; [`Stent`] starts
//! the runtime; [`Dispatch`] and its neighbours are what you say to the [`Supervisor`]. [`kernel`] is the pure heart,
//! [`store`] what a store must do.

// Without the runtime nobody drives the kernel; what remains public are its types, for stores of other crates.
#![cfg_attr(not(feature = "actors"), allow(dead_code))]

/// The examples of the README are tests like any other.
#[cfg(all(doctest, feature = "sqlite"))]
#[doc = include_str!("../README.md")]
mod readme {}

#[cfg(feature = "failpoints")]
pub mod failpoints;

/// A named point at which a test can kill, panic or hold; nothing without the feature `failpoints`.
#[cfg(feature = "actors")]
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        $crate::failpoints::hit($name);
    };
}

mod activity;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "actors")]
pub mod clock;
#[cfg(feature = "actors")]
mod config;
pub mod cx;
pub mod error;
mod fast;
#[cfg(feature = "actors")]
mod gate;
pub mod hints;
pub mod kernel;
pub mod prelude;
mod registry;
#[cfg(feature = "actors")]
mod schedule;
pub mod store;
mod workflow;

// The second source root: the folder is the supervision tree, and the only place that knows actix.
#[cfg(feature = "actors")]
#[path = "../actors/mod.rs"]
mod actors;

pub use activity::{Activity, Advice, Durable, DurableError};
#[cfg(feature = "actors")]
pub use actors::{
    builder::Builder,
    call::Call,
    events::{Events, Happened, Happening, Subscribe},
    gates::{Admission, Admitted, Gated, IfOpen},
    handle::{Handle, Stent},
    handlers::{ActivityHandler, Answer, InlineHandler},
    letters::{
        DiscardLetter, DiscardLetters, LetterDetails, LetterKey, ListLetters, ReplayLetter, ReplayLetters, Replayed, ShowLetter,
        Swept,
    },
    memos::ForgetMemo,
    messages::{
        Ask, Cancel, Describe, Description, Dispatch, Escalated, IfInUse, List, ListQueues, PauseQueue, ResumeQueue, RetryParked,
        SendSignal, SendUpdate, Shutdown,
    },
    orders::{CompleteCall, PauseExecution, Resume, RetryNow, SkipWait, Terminate},
    resets::ResetRun,
    schedules::{
        BackfillSchedule, CreateSchedule, DeleteSchedule, DescribeSchedule, ListSchedules, PauseSchedule, TriggerSchedule,
        UnpauseSchedule, UpdateSchedule,
    },
    stats::Stats,
    supervisor::Supervisor,
    values::{AwaitValue, Published, ReadValue},
};
pub use cx::{Cx, Memo, OnExhausted, Progress};
pub use error::{
    AppError, CallError, Cancelled, ChildError, ContinueError, DispatchError, Error, LetterError, QueryError, ResetError, Result,
    RunError, ScheduleError, SendError, UpdateError, ValueError,
};
pub use kernel::{event::OnClose, failure::Origin, fork::Point, retry::Retry};
#[cfg(feature = "actors")]
pub use schedule::{Overlap, Pause, Schedule, ScheduleCounts, ScheduleDescription, ScheduledRun, Spec, Triggered, Why};
pub use store::{DeadLetter, Durability, Publication, Queue, QueueState};
pub use workflow::{Query, Signal, Update, Workflow};
