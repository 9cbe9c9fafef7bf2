//! The row of a schedule: what it is, how far it has come, what waits. Encoded as the body of a
//! [`ScheduleRow`](crate::store::ScheduleRow); the codes of the fields are short and never used again.

use std::collections::VecDeque;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use super::{
    Overlap, Spec, Times,
    plan::{Plan, following},
};
use crate::kernel::{id::RunKey, time::Timestamp};

/// So many backfills are known again.
pub(crate) const MOST_BACKFILLS: usize = 16;

/// So many runs are told of, the newest.
pub(crate) const MOST_RECENT: usize = 10;

/// The body of a row.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum Row {
    /// A schedule.
    #[serde(rename = "s")]
    Here(Box<Body>),
    /// One was deleted. What is left says how often the name has been used, so that no id of a run is made twice.
    #[serde(rename = "g")]
    Gone {
        /// How often.
        generation: u32,
    },
}

/// A schedule as it stands.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Body {
    pub(crate) plan: Plan,
    /// How often a schedule of this name was made.
    pub(crate) generation: u32,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
    /// All instants up to here are decided about. It never goes back.
    pub(crate) handled: Timestamp,
    /// The next instant, and when it fires.
    pub(crate) next: Option<Next>,
    pub(crate) paused: Option<Pause>,
    /// How often it still fires, those that wait included.
    pub(crate) remaining: Option<u64>,
    /// The run that was begun last: what the overlap policy looks at.
    pub(crate) last: Option<(RunKey, ScheduledRun)>,
    pub(crate) waiting: VecDeque<Waiting>,
    pub(crate) counts: ScheduleCounts,
    /// The newest runs, oldest first.
    pub(crate) recent: VecDeque<ScheduledRun>,
    /// The newest backfills, oldest first: the token of each, and how many instants it had. One whose answer was lost is asked again.
    #[serde(default)]
    pub(crate) backfills: VecDeque<(u64, usize)>,
}

/// An instant to come, and by how much jitter puts it off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Next {
    pub(crate) instant: Timestamp,
    pub(crate) due: Timestamp,
}

/// An instant whose run has not begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Waiting {
    pub(crate) instant: Timestamp,
    pub(crate) why: Why,
    /// Whether it begins beside others.
    pub(crate) beside: bool,
}

/// Why a schedule began a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Why {
    /// It was due.
    #[serde(rename = "d")]
    Due,
    /// Somebody triggered it.
    #[serde(rename = "t")]
    Triggered,
    /// Somebody asked for a range of the past.
    #[serde(rename = "b")]
    Backfilled,
}

/// A run that a schedule began.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ScheduledRun {
    /// The id of the execution.
    pub id: String,
    /// The instant that it is for; of a triggered one, when somebody asked.
    pub instant: DateTime<Utc>,
    /// When it was begun.
    pub at: DateTime<Utc>,
    /// Why.
    pub why: Why,
}

/// Who paused a schedule, why and when.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Pause {
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at: DateTime<Utc>,
}

/// What a schedule has done since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ScheduleCounts {
    /// Runs begun, for whatever reason.
    pub started: u64,
    /// Instants left out because of the run before.
    pub skipped: u64,
    /// Instants left out because no node was up within the catch-up window. Of one gap up to 1,000 are counted.
    pub missed: u64,
    /// Instants left out because an execution of their id exists, which somebody else began.
    pub in_use: u64,
}

/// What became of a trigger.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Triggered {
    /// A run was begun; here is its id.
    Started(String),
    /// It waits until the run before has ended.
    Waits,
    /// Nothing: the run before has not ended, and the policy is to skip.
    Skipped,
}

/// A schedule as it stands, for people.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct ScheduleDescription {
    /// Its name.
    pub name: String,
    /// How often a schedule of this name was made, this time included.
    pub generation: u32,
    /// The workflow that it begins.
    pub workflow: String,
    /// The version of that.
    pub version: u32,
    /// When it fires.
    pub specs: Vec<Spec>,
    /// What it does when the run before has not ended.
    pub overlap: Overlap,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was changed last.
    pub updated_at: DateTime<Utc>,
    /// Who paused it, if it is paused.
    pub paused: Option<Pause>,
    /// The next instants, as many as were asked for, jitter left aside; if it is paused, those at which it would fire.
    pub next: Vec<DateTime<Utc>>,
    /// How often it still fires, if that is limited.
    pub remaining: Option<u64>,
    /// Instants that wait for the end of the run before.
    pub waiting: usize,
    /// What it has done.
    pub counts: ScheduleCounts,
    /// Its newest runs, newest first, up to ten.
    pub recent: Vec<ScheduledRun>,
}

impl Row {
    pub(crate) fn encode(&self) -> Result<Bytes, String> {
        rmp_serde::to_vec(self).map(Bytes::from).map_err(|error| format!("a schedule cannot be encoded: {error}"))
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Row, String> {
        rmp_serde::from_slice(body)
            .map_err(|error| format!("a schedule's row does not decode: {error}; it is of another release, or damaged"))
    }
}

impl Body {
    /// Returns when it is to be looked at without anything else having happened.
    pub(crate) fn next_at(&self) -> Option<Timestamp> {
        // What begins beside others waits for nobody: it was more than one commit takes.
        let beside = self.waiting.iter().any(|waiting| waiting.beside).then_some(self.handled);
        let next = self.next.map(|next| next.due).filter(|_| self.paused.is_none());
        next.into_iter().chain(beside).min()
    }

    /// Returns the run whose end it waits for.
    pub(crate) fn awaits(&self) -> Option<RunKey> {
        let waits = self.waiting.iter().any(|waiting| !self.holds_back(waiting));
        self.last.as_ref().filter(|_| waits).map(|(run, _)| *run)
    }

    /// While it is paused, only what somebody asked for begins.
    pub(crate) fn holds_back(&self, waiting: &Waiting) -> bool {
        self.paused.is_some() && waiting.why == Why::Due
    }

    pub(crate) fn id_of(&self, name: &str, instant: Timestamp) -> String {
        let at = instant.to_utc().to_rfc3339_opts(SecondsFormat::AutoSi, true);
        if self.generation == 1 { format!("{name}/{at}") } else { format!("{name}#{}/{at}", self.generation) }
    }

    pub(crate) fn describe(&self, name: &str, times: &Times, next: usize, now: Timestamp) -> ScheduleDescription {
        let Body { plan, generation, created_at, updated_at, paused, remaining, waiting, counts, recent, .. } = self;
        let behind = match self.next {
            Some(next) if paused.is_none() => Timestamp(next.instant.0.saturating_sub(1)),
            _ => self.handled.max(now),
        };
        let most = remaining.and_then(|left| usize::try_from(left).ok()).map_or(next, |left| left.min(next));
        ScheduleDescription {
            name: name.to_owned(),
            generation: *generation,
            workflow: plan.workflow.clone(),
            version: plan.version,
            specs: plan.specs.clone(),
            overlap: plan.overlap,
            created_at: created_at.to_utc(),
            updated_at: updated_at.to_utc(),
            paused: paused.clone(),
            next: following(times, behind, most).into_iter().map(Timestamp::to_utc).collect(),
            remaining: *remaining,
            waiting: waiting.len(),
            counts: *counts,
            recent: recent.iter().rev().cloned().collect(),
        }
    }
}
