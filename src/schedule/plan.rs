//! What a schedule is, as somebody asks for it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Spec, Times};
use crate::{
    error::ScheduleError,
    kernel::{
        id::OUR_IDS,
        limits::Limits,
        payload::{CodecError, Payload},
        retry::Retry,
        time::{LONGEST_WAIT, Timestamp},
    },
    workflow::Workflow,
};

/// A name is the beginning of its runs' ids, which have up to 255 bytes.
const LONGEST_NAME: usize = 200;

/// Instants that were missed are caught up with for so long, unless told otherwise.
const CATCH_UP: Duration = Duration::from_secs(24 * 3600);

/// What to do when a schedule is due and the run that it began last has not ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Overlap {
    /// Nothing: that instant is left out, and counted.
    #[default]
    #[serde(rename = "s")]
    Skip,
    /// One instant waits until the run has ended; what comes while one waits is left out, and counted. Backfilled ones that wait do not count.
    #[serde(rename = "o")]
    BufferOne,
    /// All wait, up to 1,000, and begin one after the other.
    #[serde(rename = "b")]
    BufferAll,
    /// The run is cancelled, and the instant waits until it has ended (its compensations run before that). Of several that wait only the
    /// newest begins. A backfilled run is not cancelled: the instant waits for its end.
    #[serde(rename = "c")]
    CancelOther,
    /// It begins beside the other.
    #[serde(rename = "a")]
    AllowAll,
}

/// Begins executions of a workflow at certain times. Given to `Stent::create_schedule`, it is a row in the store: whatever node is up
/// fires it, each instant once, however many nodes there are, whatever becomes of them, and whatever their clocks do.
///
/// The runs are executions of their own with the ids `name/instant`, such as `nightly/2026-11-28T03:00:00Z` (in UTC; `name#2/…` once
/// the schedule was deleted and made again under its name). Each is there exactly if its firing is recorded. A run whose workflow no node
/// has registered is begun all the same, and waits for a node that has it, as `Describe` says.
#[derive(Clone, Debug)]
#[must_use = "a schedule does nothing until it is given to `create_schedule` or `update_schedule`"]
pub struct Schedule {
    pub(crate) name: String,
    pub(crate) plan: Result<Plan, CodecError>,
}

/// What is kept of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) workflow: String,
    pub(crate) version: u32,
    pub(crate) input: Payload,
    pub(crate) specs: Vec<Spec>,
    pub(crate) from: Option<Timestamp>,
    pub(crate) until: Option<Timestamp>,
    pub(crate) overlap: Overlap,
    pub(crate) jitter: Duration,
    pub(crate) catch_up: Duration,
    pub(crate) most: Option<u64>,
    pub(crate) deadline: Option<Duration>,
    pub(crate) priority: i32,
    pub(crate) queue: String,
    pub(crate) tags: Vec<String>,
    pub(crate) needs: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) retry: Option<Retry>,
}

impl Schedule {
    /// Names a schedule and what it begins: a workflow with its input. The name has 1 to 200 bytes, without `#`.
    #[expect(clippy::needless_pass_by_value, reason = "a workflow is a message: it is given away")]
    pub fn new<W: Workflow>(name: impl Into<String>, workflow: W) -> Schedule {
        let input = Payload::encode(&workflow, format_args!("the input of {}", W::NAME));
        let plan = input.map(|input| Plan {
            workflow: W::NAME.to_owned(),
            version: W::VERSION,
            input,
            specs: Vec::new(),
            from: None,
            until: None,
            overlap: Overlap::default(),
            jitter: Duration::ZERO,
            catch_up: CATCH_UP,
            most: None,
            deadline: None,
            priority: 0,
            queue: String::new(),
            tags: Vec::new(),
            needs: Vec::new(),
            retry: None,
        });
        Schedule { name: name.into(), plan }
    }

    fn with(mut self, change: impl FnOnce(&mut Plan)) -> Schedule {
        if let Ok(plan) = &mut self.plan {
            change(plan);
        }
        self
    }

    /// Adds a cron expression, read by the clock of a zone of the IANA database (`Europe/Berlin`, `UTC`): minutes, hours, days of the
    /// month, months, days of the week; with six fields, seconds in front. Lists, ranges, steps, names (`MON`, `JAN`), `L`, `W`, `#` and
    /// nicknames (`@daily`) are understood. As in Vixie's cron, days of the month and of the week are *or* if both are given.
    ///
    /// Where the clock is put forward or back, an expression of one time a day (`30 2 * * *`) fires once in any case: behind the gap, or
    /// the first time. Any other fires whenever the clock shows what it says: not for times that are skipped, twice for those that come
    /// twice.
    ///
    /// Call it, or [`every`](Schedule::every), again for further times; an instant that several name fires once.
    pub fn cron(self, expression: impl Into<String>, zone: impl Into<String>) -> Schedule {
        let spec = Spec::Cron { expression: expression.into(), zone: zone.into() };
        self.with(|plan| plan.specs.push(spec))
    }

    /// Adds an interval of at least a second: each multiple of it since the Unix epoch, so that it is not moved by when the schedule was made.
    pub fn every(self, interval: Duration) -> Schedule {
        self.every_behind(interval, Duration::ZERO)
    }

    /// The same, so much behind each multiple; less than the interval.
    pub fn every_behind(self, interval: Duration, phase: Duration) -> Schedule {
        let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        let spec = Spec::Every { every: micros(interval), phase: micros(phase) };
        self.with(|plan| plan.specs.push(spec))
    }

    /// Fires at no instant before this one, which is of the years 1970 to 9999.
    pub fn from(self, first: DateTime<Utc>) -> Schedule {
        self.with(|plan| plan.from = Some(Timestamp(first.timestamp_micros())))
    }

    /// Fires at no instant behind this one, which is of the years 1970 to 9999; behind those it does not fire in any case.
    pub fn until(self, last: DateTime<Utc>) -> Schedule {
        self.with(|plan| plan.until = Some(Timestamp(last.timestamp_micros())))
    }

    /// Says what to do when the run before has not ended; the default is to skip.
    pub fn overlap(self, policy: Overlap) -> Schedule {
        self.with(|plan| plan.overlap = policy)
    }

    /// Fires up to so much later than it says, so that many schedules of one time do not all begin at once: by how much follows from the
    /// name and the instant, and is the same on each node. It never reaches the next instant.
    pub fn jitter(self, most: Duration) -> Schedule {
        self.with(|plan| plan.jitter = most.min(LONGEST_WAIT))
    }

    /// Sets for how long an instant at which no node was up still fires, late; what is older is left out, and counted. The default is a
    /// day. It is at least 30 seconds, whatever is given here: an instant is always noticed somewhat late.
    pub fn catch_up(self, within: Duration) -> Schedule {
        self.with(|plan| plan.catch_up = within.min(LONGEST_WAIT))
    }

    /// Fires so many times and then no more. What is skipped does not count, nor does what somebody triggers or backfills. An update begins
    /// a new count.
    pub fn at_most(self, most: u64) -> Schedule {
        self.with(|plan| plan.most = Some(most))
    }

    /// Limits each run, from its beginning on.
    pub fn deadline(self, within: Duration) -> Schedule {
        self.with(|plan| plan.deadline = Some(within.min(LONGEST_WAIT)))
    }

    /// Tries each execution again when it fails; see `Dispatch::retry`. Only its last failure is one for the schedule: until then it has not
    /// ended, as [`overlap`](Schedule::overlap) sees it.
    pub fn retry(self, policy: Retry) -> Schedule {
        self.with(|plan| plan.retry = Some(policy))
    }

    /// Sets the priority of the runs; see `Dispatch::priority`.
    pub fn priority(self, priority: i32) -> Schedule {
        self.with(|plan| plan.priority = priority)
    }

    /// Sets the queue of the runs; see `Dispatch::queue`.
    pub fn queue(self, queue: impl Into<String>) -> Schedule {
        let queue = queue.into();
        self.with(|plan| plan.queue = queue)
    }

    /// Adds a tag to the runs; see `Dispatch::tag`.
    pub fn tag(self, tag: impl Into<String>) -> Schedule {
        let tag = tag.into();
        self.with(|plan| plan.tags.push(tag))
    }

    /// Lets only nodes with this tag run them; see `Dispatch::needs`.
    pub fn needs(self, tag: impl Into<String>) -> Schedule {
        let tag = tag.into();
        self.with(|plan| plan.needs.push(tag))
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Checks it without asking anybody, as `create_schedule` does first.
    ///
    /// # Errors
    /// What is wrong with it; [`ScheduleError::Expression`] says which field of a cron expression.
    pub fn check(&self) -> Result<(), ScheduleError> {
        self.checked(&Limits::default()).map(drop)
    }

    /// Returns the first instants behind this one, at most so many: what the schedule would fire at, if it were not for jitter.
    ///
    /// # Errors
    /// As [`check`](Schedule::check).
    pub fn times_after(&self, after: DateTime<Utc>, most: usize) -> Result<Vec<DateTime<Utc>>, ScheduleError> {
        let (_, times) = self.checked(&Limits::default())?;
        Ok(following(&times, Timestamp(after.timestamp_micros()), most).into_iter().map(Timestamp::to_utc).collect())
    }

    pub(crate) fn checked(&self, limits: &Limits) -> Result<(&Plan, Times), ScheduleError> {
        let invalid = |what: &str| Err(ScheduleError::Invalid(what.to_owned()));
        check_name(&self.name)?;
        let plan = self.plan.as_ref().map_err(|error| ScheduleError::Invalid(error.to_string()))?;
        let times = Times::of(&plan.specs, plan.from, plan.until)?;
        let bad = |tag: &String| tag.is_empty() || tag.len() > 255 || tag.contains('\0');
        if [&plan.tags, &plan.needs].iter().any(|tags| tags.len() > 16 || tags.iter().any(bad)) {
            return invalid("at most 16 tags of 1 to 255 bytes each, without NUL");
        }
        if plan.queue.len() > 255 || plan.queue.contains('\0') {
            return invalid("a queue's name has at most 255 bytes and no NUL");
        }
        if plan.deadline.is_some_and(|within| within.is_zero()) {
            return invalid("a deadline of zero has passed before a run begins; leave it out for no deadline");
        }
        if plan.most == Some(0) {
            return invalid("it is to fire zero times; leave that out, or pause it");
        }
        let (size, limit) = (plan.input.bytes.len(), limits.payload_bytes);
        if size > limit {
            return Err(ScheduleError::Invalid(format!("the input of {} has {size} bytes, the limit is {limit}", plan.workflow)));
        }
        Ok((plan, times))
    }
}

/// Refuses what is no name of a schedule.
pub(crate) fn check_name(name: &str) -> Result<(), ScheduleError> {
    if name.is_empty() || name.len() > LONGEST_NAME || name.contains(['\0', '#']) || name.starts_with(OUR_IDS) {
        let why = format!(
            "{name:?} is no name of a schedule: it has 1 to {LONGEST_NAME} bytes, without NUL and `#`, and does not begin with {OUR_IDS:?}"
        );
        return Err(ScheduleError::Invalid(why));
    }
    Ok(())
}

pub(crate) fn following(times: &Times, after: Timestamp, most: usize) -> Vec<Timestamp> {
    std::iter::successors(times.next_after(after), |last| times.next_after(*last)).take(most).collect()
}
