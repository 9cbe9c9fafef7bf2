//! Everything that a workflow, an activity and the program around them usually need.

use std::time::Duration;

#[cfg(feature = "actors")]
pub use actix::{Actor, Addr, Context, Handler, Recipient, ResponseFuture};
pub use serde::{Deserialize, Serialize};

pub use crate::{
    Activity, AppError, CallError, Cancelled, Cx, Durability, Memo, OnExhausted, Progress, Query, Retry, RunError, Signal,
    Update, Workflow, cx::Either,
};
#[cfg(feature = "actors")]
pub use crate::{
    Admission, Ask, AwaitValue, Builder, Call, Cancel, CompleteCall, Describe, Dispatch, ForgetMemo, Handle, IfInUse, IfOpen,
    List, ListQueues, PauseExecution, PauseQueue, ReadValue, Resume, ResumeQueue, RetryNow, RetryParked, SendSignal, SendUpdate,
    Shutdown, SkipWait, Stent, Supervisor, Terminate,
};
#[cfg(feature = "actors")]
pub use crate::{
    BackfillSchedule, CreateSchedule, DeleteSchedule, DescribeSchedule, ListSchedules, Overlap, PauseSchedule, Schedule,
    TriggerSchedule, Triggered, UnpauseSchedule, UpdateSchedule,
};

/// Returns so many milliseconds.
#[must_use]
pub const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Returns so many seconds.
#[must_use]
pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Returns so many minutes.
#[must_use]
pub const fn mins(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

/// Returns so many hours.
#[must_use]
pub const fn hours(n: u64) -> Duration {
    Duration::from_secs(3_600 * n)
}

/// Returns so many days of 24 hours.
#[must_use]
pub const fn days(n: u64) -> Duration {
    Duration::from_secs(86_400 * n)
}
