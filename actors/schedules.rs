//! What an application may say about schedules, and how the door answers.

use actix::{Context, Message, ResponseFuture};
use chrono::{DateTime, Utc};

use super::{
    asked,
    door::Door,
    handle::Stent,
    supervisor::{Supervisor, handled},
    timekeeper::{Carried, CarryOut},
};
use crate::{
    error::{Error, ScheduleError},
    gate::{BEHIND_GATES, is_gate},
    kernel::{id::Digest, time::Timestamp},
    schedule::{Order, Overlap, Row, Schedule, ScheduleDescription, Times, Triggered, check_name, guarded},
    store::{ScheduleRow, StoreError},
};

/// The most instants that are told of a schedule.
const MOST_NEXT: usize = 1_000;

/// Makes a schedule. One of this name that is the same already is as good as made; another one is an error.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct CreateSchedule(pub Schedule);

/// Replaces what a schedule is, from now on: what it has begun, its counts and whether it is paused stay. Instants that are due begin what
/// they would have begun before. Those that have come and begin later (they wait for the run before, or their jitter is not over) go on
/// waiting, and begin what the schedule is by then.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct UpdateSchedule(pub Schedule);

/// Lets a schedule fire no more until it is unpaused. What passes meanwhile is left out. One that is paused already keeps its note.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct PauseSchedule {
    name: String,
    by: String,
    reason: String,
}

impl PauseSchedule {
    /// Pauses the schedule of this name.
    #[must_use]
    pub fn new(name: impl Into<String>) -> PauseSchedule {
        PauseSchedule { name: name.into(), by: String::new(), reason: String::new() }
    }

    /// Says who pauses it, for the record.
    #[must_use]
    pub fn by(mut self, operator: impl Into<String>) -> PauseSchedule {
        self.by = operator.into();
        self
    }

    /// Says why, for the record.
    #[must_use]
    pub fn reason(mut self, reason: impl Into<String>) -> PauseSchedule {
        self.reason = reason.into();
        self
    }
}

/// Lets a paused schedule fire again, from now on.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct UnpauseSchedule(pub String);

/// Fires a schedule now, also if it is paused or has fired as often as it may.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Triggered, Error>")]
pub struct TriggerSchedule {
    name: String,
    overlap: Option<Overlap>,
}

impl TriggerSchedule {
    /// Fires the schedule of this name.
    #[must_use]
    pub fn new(name: impl Into<String>) -> TriggerSchedule {
        TriggerSchedule { name: name.into(), overlap: None }
    }

    /// Sets what to do if its last run has not ended, this once.
    #[must_use]
    pub fn overlap(mut self, policy: Overlap) -> TriggerSchedule {
        self.overlap = Some(policy);
        self
    }
}

/// Fires a schedule for a range of the past (since 1970), both ends included, also if it is paused: one run behind the other, each behind the
/// end of the last. An instant whose run exists is left out. The answer is how many instants the range has; at most 1,000 wait at once.
///
/// What is due or triggered meanwhile goes first, and by its overlap policy: [`Overlap::Skip`] leaves it out while a backfilled run is under
/// way; [`Overlap::CancelOther`] cancels no such run, and waits for its end.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<usize, Error>")]
pub struct BackfillSchedule {
    name: String,
    from: Timestamp,
    to: Timestamp,
    beside: bool,
}

impl BackfillSchedule {
    /// Names the schedule and the range.
    #[must_use]
    pub fn new(name: impl Into<String>, from: DateTime<Utc>, to: DateTime<Utc>) -> BackfillSchedule {
        let [from, to] = [from, to].map(|at| Timestamp(at.timestamp_micros()));
        BackfillSchedule { name: name.into(), from, to, beside: false }
    }

    /// Begins all runs at once, beside each other and whatever runs.
    #[must_use]
    pub fn at_once(mut self) -> BackfillSchedule {
        self.beside = true;
        self
    }
}

/// Deletes a schedule; what it has begun goes on. One that somebody else deletes at the same time is as good as deleted.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct DeleteSchedule(pub String);

/// Asks what is known of a schedule.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Option<ScheduleDescription>, Error>")]
pub struct DescribeSchedule {
    name: String,
    next: usize,
}

impl DescribeSchedule {
    /// Asks about the schedule of this name, and its next five instants.
    #[must_use]
    pub fn new(name: impl Into<String>) -> DescribeSchedule {
        DescribeSchedule { name: name.into(), next: 5 }
    }

    /// Asks for so many of its next instants, at most 1,000.
    #[must_use]
    pub fn next(mut self, most: usize) -> DescribeSchedule {
        self.next = most.min(MOST_NEXT);
        self
    }
}

/// Lists schedules by name, each with its next instant. One that cannot be read (it is of another release, or damaged) is left out, and a warning
/// in the log names it; [`DescribeSchedule`] says why.
#[derive(Debug, Clone, Default, Message)]
#[rtype(result = "Result<Vec<ScheduleDescription>, Error>")]
pub struct ListSchedules {
    after: String,
}

impl ListSchedules {
    /// Lists up to 100 schedules.
    #[must_use]
    pub fn new() -> ListSchedules {
        ListSchedules::default()
    }

    /// Only those behind the last name of the page before.
    #[must_use]
    pub fn after(mut self, last: impl Into<String>) -> ListSchedules {
        self.after = last.into();
        self
    }
}

/// A page of schedules, and as many rows as are read for it at once: some may be of schedules that were deleted.
const PAGE: u32 = 100;

impl Door {
    /// Lets an order be carried out, again if the incarnation ends meanwhile.
    async fn carry_out(&self, name: String, order: Order) -> Result<Carried, Error> {
        check_name(&name)?;
        loop {
            let links = self.links().await?;
            let carry = CarryOut { name: name.clone(), order: order.clone() };
            match links.timekeeper.send(carry).await {
                Ok(Err(Error::Store(StoreError::Closed) | Error::Stopped)) | Err(_) => self.breathe().await,
                Ok(answer) => return answer,
            }
        }
    }

    async fn schedule_row(&self, name: &str) -> Result<Option<ScheduleRow>, Error> {
        let name = name.to_owned();
        self.read(move |reader| async move { reader.schedule(&name).await }).await
    }

    async fn describe_schedule(&self, name: String, next: usize) -> Result<Option<ScheduleDescription>, Error> {
        match self.schedule_row(&name).await?.filter(|row| !is_gate(&row.name)) {
            Some(row) => self.described(&row, next),
            None => Ok(None),
        }
    }

    async fn list_schedules(&self, mut after: String) -> Result<Vec<ScheduleDescription>, Error> {
        let mut all = Vec::new();
        loop {
            let behind = after.clone();
            let page = self.read(move |reader| async move { reader.schedules(&behind, PAGE).await }).await?;
            let mut full = page.len() >= PAGE as usize;
            for row in page {
                if is_gate(&row.name) {
                    // All of them, however many, are passed over in one step.
                    (after, full) = (BEHIND_GATES.to_owned(), true);
                    break;
                }
                match self.described(&row, 1) {
                    Ok(described) => all.extend(described),
                    // Whoever asks for it by its name is told why. All others are shown.
                    Err(error) => tracing::warn!(schedule = row.name, %error, "a schedule is left out of the list"),
                }
                after = row.name;
            }
            if !full || all.len() >= PAGE as usize {
                all.truncate(PAGE as usize);
                return Ok(all);
            }
        }
    }

    fn described(&self, row: &ScheduleRow, next: usize) -> Result<Option<ScheduleDescription>, Error> {
        match Row::decode(&row.body).map_err(ScheduleError::Unavailable)? {
            Row::Gone { .. } => Ok(None),
            Row::Here(body) => Ok(Some(guarded(&row.name, || {
                let times = Times::of(&body.plan.specs, body.plan.from, body.plan.until)?;
                Ok(body.describe(&row.name, &times, next, self.time.now()))
            })?)),
        }
    }

    async fn delete_schedule(&self, name: String) -> Result<(), Error> {
        check_name(&name)?;
        let row = self.schedule_row(&name).await?;
        // Asked again over a lost answer, it must not reach one that was made under the name since.
        match row.map(|row| Row::decode(&row.body)).transpose().map_err(ScheduleError::Unavailable)? {
            Some(Row::Here(body)) => {
                let order = Order::Delete { generation: body.generation };
                self.carry_out(name, order).await.map(drop)
            }
            Some(Row::Gone { .. }) | None => Err(ScheduleError::Unknown(name).into()),
        }
    }

    /// Carries out an order that is about a schedule as a whole.
    async fn put_schedule(&self, schedule: Schedule, order: fn(Box<Schedule>) -> Order) -> Result<(), Error> {
        guarded(&schedule.name, || schedule.checked(&self.config.limits).map(drop))?;
        let name = schedule.name.clone();
        self.carry_out(name, order(Box::new(schedule))).await.map(drop)
    }
}

handled!(CreateSchedule, (), |door, CreateSchedule(schedule)| door.put_schedule(schedule, Order::Create).await);
handled!(UpdateSchedule, (), |door, UpdateSchedule(schedule)| door.put_schedule(schedule, Order::Update).await);
handled!(PauseSchedule, (), |door, PauseSchedule { name, by, reason }| {
    door.carry_out(name, Order::Pause { by, reason }).await.map(drop)
});
handled!(UnpauseSchedule, (), |door, UnpauseSchedule(name)| door.carry_out(name, Order::Unpause).await.map(drop));
handled!(DeleteSchedule, (), |door, DeleteSchedule(name)| door.delete_schedule(name).await);
handled!(TriggerSchedule, Triggered, |door, TriggerSchedule { name, overlap }| {
    let order = Order::Trigger { at: door.time.now(), overlap };
    let taken = || ScheduleError::Unavailable("somebody else has an execution of its id".into()).into();
    door.carry_out(name, order).await?.triggered.ok_or_else(taken)
});
handled!(BackfillSchedule, usize, |door, BackfillSchedule { name, from, to, beside }| {
    let token = asked::fresh_seed(Digest([0; 32]));
    Ok(door.carry_out(name, Order::Backfill { from, to, beside, token }).await?.backfilled)
});
handled!(DescribeSchedule, Option<ScheduleDescription>, |door, DescribeSchedule { name, next }| {
    door.describe_schedule(name, next).await
});
handled!(ListSchedules, Vec<ScheduleDescription>, |door, ListSchedules { after }| door.list_schedules(after).await);

impl Stent {
    /// Makes a schedule; see [`Schedule`] and [`CreateSchedule`].
    ///
    /// # Errors
    /// [`Error::Schedule`] says what is wrong with it, or that another one has its name.
    pub async fn create_schedule(&self, schedule: Schedule) -> Result<(), Error> {
        self.asked(self.supervisor().send(CreateSchedule(schedule)).await)
    }

    /// Replaces what a schedule is; see [`UpdateSchedule`].
    ///
    /// # Errors
    /// [`Error::Schedule`] says what is wrong with it, or that there is none.
    pub async fn update_schedule(&self, schedule: Schedule) -> Result<(), Error> {
        self.asked(self.supervisor().send(UpdateSchedule(schedule)).await)
    }

    /// Pauses a schedule; see [`PauseSchedule`].
    ///
    /// # Errors
    /// [`Error::Schedule`] when there is none of this name.
    pub async fn pause_schedule(&self, pause: PauseSchedule) -> Result<(), Error> {
        self.asked(self.supervisor().send(pause).await)
    }

    /// Lets a paused schedule fire again; see [`UnpauseSchedule`].
    ///
    /// # Errors
    /// [`Error::Schedule`] when there is none of this name.
    pub async fn unpause_schedule(&self, name: impl Into<String>) -> Result<(), Error> {
        self.asked(self.supervisor().send(UnpauseSchedule(name.into())).await)
    }

    /// Fires a schedule now; see [`TriggerSchedule`].
    ///
    /// # Errors
    /// [`Error::Schedule`] when there is none of this name.
    pub async fn trigger_schedule(&self, trigger: TriggerSchedule) -> Result<Triggered, Error> {
        self.asked(self.supervisor().send(trigger).await)
    }

    /// Fires a schedule for a range of the past; see [`BackfillSchedule`].
    ///
    /// # Errors
    /// [`Error::Schedule`] when there is none of this name, or the range is too long, not of the past, or begins before 1970.
    pub async fn backfill_schedule(&self, backfill: BackfillSchedule) -> Result<usize, Error> {
        self.asked(self.supervisor().send(backfill).await)
    }

    /// Deletes a schedule; see [`DeleteSchedule`].
    ///
    /// # Errors
    /// [`Error::Schedule`] when there is none of this name.
    pub async fn delete_schedule(&self, name: impl Into<String>) -> Result<(), Error> {
        self.asked(self.supervisor().send(DeleteSchedule(name.into())).await)
    }

    /// Returns what is known of a schedule; see [`DescribeSchedule`].
    ///
    /// # Errors
    /// [`Error::Store`] or [`Error::Stopped`].
    pub async fn describe_schedule(&self, describe: DescribeSchedule) -> Result<Option<ScheduleDescription>, Error> {
        self.asked(self.supervisor().send(describe).await)
    }

    /// Lists schedules; see [`ListSchedules`].
    ///
    /// # Errors
    /// [`Error::Store`] or [`Error::Stopped`].
    pub async fn schedules(&self, list: ListSchedules) -> Result<Vec<ScheduleDescription>, Error> {
        self.asked(self.supervisor().send(list).await)
    }
}
