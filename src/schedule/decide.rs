//! What becomes of a schedule's row: pure, from the row as it was read, the time, and whether the run that it began last has ended.
//!
//! An end is never undone and the row is only replaced if nobody has replaced it, so what is decided here still holds when it is
//! written. That a run had *not* ended when it was looked at may be over by then: an instant that is skipped because of it was due
//! while it ran, which is what was promised, and one that waits is found ready at the next look.

use std::{
    collections::{HashSet, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use super::{
    Overlap, Schedule, Times,
    plan::Plan,
    spec::check_time,
    state::{Body, MOST_BACKFILLS, MOST_RECENT, Next, Pause, Row, ScheduleCounts, ScheduledRun, Triggered, Waiting, Why},
};
use crate::{
    error::ScheduleError,
    kernel::{
        event::{MessageBody, OUR_MESSAGES, Tell},
        id::{RunId, RunKey},
        instance::panic_text,
        random::mix,
        time::Timestamp,
    },
};

/// So many runs are begun in one commit; more are begun by the next…
const MOST_STARTS: usize = 100;

/// …with so many bytes of arguments, or one: each has its own copy.
const MOST_BYTES: usize = 4 << 20;

/// An instant fires so late in any case: whoever looks is always somewhat behind it.
const SHORTEST_CATCH_UP: Duration = Duration::from_secs(30);

/// So many instants wait that were due or triggered, and as many that are backfilled.
const MOST_WAITING: usize = 1_000;

/// So many missed instants are counted of one gap, and so many due ones looked at in one commit.
const MOST_COUNTED: u64 = 1_000;

/// What somebody wants of a schedule.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    /// Whatever is due.
    Fire,
    Create(Box<Schedule>),
    Update(Box<Schedule>),
    Pause {
        by: String,
        reason: String,
    },
    Unpause,
    Trigger {
        at: Timestamp,
        overlap: Option<Overlap>,
    },
    Backfill {
        from: Timestamp,
        to: Timestamp,
        beside: bool,
        /// By which it is known again when it is asked once more because its answer was lost.
        token: u64,
    },
    /// Deletes the schedule of that generation: a later one of the name is somebody else's.
    Delete {
        generation: u32,
    },
}

/// A run to begin.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Start {
    pub(crate) id: String,
    pub(crate) instant: Timestamp,
    pub(crate) why: Why,
}

/// What was decided.
#[derive(Debug)]
pub(crate) struct Decided {
    /// The row as it is to be; `None` if it stays as it is.
    pub(crate) row: Option<Row>,
    /// What it begins, in order, each with its place in [`begun`](Decided::begun).
    pub(crate) starts: Vec<Start>,
    /// The run to be cancelled.
    pub(crate) cancel: Option<RunId>,
    /// What came of a trigger.
    pub(crate) triggered: Option<Triggered>,
    /// How many instants a backfill has taken up.
    pub(crate) backfilled: usize,
    /// The plan by which it begins its runs, where the row has got another one: what has come is fired by the plan of that time.
    pub(crate) former: Option<Box<Plan>>,
    /// More is due than one commit takes, and the order would give up the rest: what is here is to be written first, and the order decided
    /// about again.
    pub(crate) unfinished: bool,
}

/// What is known beside the row.
pub(crate) struct Known<'a> {
    pub(crate) name: &'a str,
    pub(crate) now: Timestamp,
    /// The current run of the execution that the row names as last: its name and key, and whether it has ended. `None` if it is no more.
    pub(crate) last: Option<(RunId, RunKey, bool)>,
    /// Ids that were found to be in use.
    pub(crate) in_use: &'a HashSet<String>,
}

/// Decides about an order. `row` is what was read, if anything was.
pub(crate) fn decide(order: &Order, row: Option<Row>, known: &Known<'_>) -> Result<Decided, ScheduleError> {
    let unknown = || ScheduleError::Unknown(known.name.to_owned());
    if let Order::Create(schedule) = order {
        let plan = schedule.plan.as_ref().map_err(|error| ScheduleError::Invalid(error.to_string()))?;
        return match row {
            Some(Row::Here(body)) if body.plan == *plan => Ok(Decided::nothing()),
            Some(Row::Here(_)) => Err(ScheduleError::Exists(known.name.to_owned())),
            Some(Row::Gone { generation }) => create(plan, generation + 1, known),
            None => create(plan, 1, known),
        };
    }
    if let Order::Delete { generation } = order {
        return match row {
            Some(Row::Here(body)) if body.generation <= *generation => {
                Ok(Decided { row: Some(Row::Gone { generation: body.generation }), ..Decided::nothing() })
            }
            // It was carried out before, and its answer was lost; or somebody else has done the same.
            Some(Row::Here(_) | Row::Gone { .. }) => Ok(Decided::nothing()),
            None => Err(unknown()),
        };
    }
    let Some(Row::Here(before)) = row else { return Err(unknown()) };
    let times = Times::of(&before.plan.specs, before.plan.from, before.plan.until)?;
    let mut work = Work::new((*before).clone(), known);
    work.waiting(known);
    work.due(&times, known);
    let has_more = work.body.paused.is_none() && work.body.next.is_some_and(|next| next.due <= known.now);
    if has_more && matches!(order, Order::Update(_) | Order::Pause { .. }) {
        return Ok(Decided { unfinished: true, ..work.decided(&before, known) });
    }
    match order {
        Order::Fire | Order::Create(_) | Order::Delete { .. } => {}
        Order::Update(schedule) => {
            let plan = schedule.plan.as_ref().map_err(|error| ScheduleError::Invalid(error.to_string()))?;
            if work.body.plan != *plan {
                work.update(plan.clone(), known)?;
            }
        }
        Order::Pause { by, reason } => {
            let (by, reason, at) = (by.clone(), reason.clone(), known.now.to_utc());
            work.body.paused.get_or_insert(Pause { by, reason, at });
        }
        Order::Unpause => {
            if work.body.paused.take().is_some() {
                work.body.handled = work.body.handled.max(known.now);
                work.body.advance(&times, known.name);
                work.waiting(known);
            }
        }
        Order::Trigger { at, overlap } => work.trigger(*at, overlap.unwrap_or(work.body.plan.overlap), known),
        Order::Backfill { from, to, beside, token } => {
            if let Some((_, count)) = work.body.backfills.iter().find(|(known, _)| known == token) {
                work.backfilled = *count;
            } else {
                work.backfill(&times, (*from, *to), *beside, known)?;
                work.body.backfills.push_back((*token, work.backfilled));
                let old = work.body.backfills.len().saturating_sub(MOST_BACKFILLS);
                work.body.backfills.drain(..old);
            }
        }
    }
    // What had been set aside of a limit may be free again: an instant that waited was given up, or its id is in use.
    if work.body.next.is_none() {
        work.body.advance(&times, known.name);
    }
    Ok(work.decided(&before, known))
}

fn create(plan: &Plan, generation: u32, known: &Known<'_>) -> Result<Decided, ScheduleError> {
    let times = Times::of(&plan.specs, plan.from, plan.until)?;
    let mut body = Body {
        plan: plan.clone(),
        generation,
        created_at: known.now,
        updated_at: known.now,
        handled: known.now,
        next: None,
        paused: None,
        remaining: plan.most,
        last: None,
        waiting: VecDeque::new(),
        counts: ScheduleCounts::default(),
        recent: VecDeque::new(),
        backfills: VecDeque::new(),
    };
    body.advance(&times, known.name);
    if body.next.is_none() {
        return Err(ScheduleError::Invalid("none of its instants is still to come, so it would never fire".into()));
    }
    Ok(Decided { row: Some(Row::Here(Box::new(body))), ..Decided::nothing() })
}

impl Decided {
    fn nothing() -> Decided {
        Decided { row: None, starts: Vec::new(), cancel: None, triggered: None, backfilled: 0, former: None, unfinished: false }
    }

    /// Returns what the run is told that is to be cancelled, of the schedule of this name. It is for whichever run of the execution is the
    /// current one by then, and the same each time, so that a run which cannot react finds it once, however often the schedule fires.
    pub(crate) fn tell(&self, name: &str) -> Option<Tell> {
        let run = self.cancel.as_ref()?;
        let message = format!("{OUR_MESSAGES}schedule:{run}");
        let reason = format!("schedule {name:?} is due again");
        let to = RunId::current(&run.id);
        Some(Tell { to, message, body: MessageBody::Cancel { reason } })
    }

    /// Returns the ids of the runs that it begins.
    pub(crate) fn ids(&self) -> Vec<String> {
        self.starts.iter().map(|start| start.id.clone()).collect()
    }

    /// Names the runs that are begun, once they have keys.
    pub(crate) fn begun(&mut self, keys: &[RunKey], now: Timestamp) {
        let Some(Row::Here(body)) = &mut self.row else { return };
        for (start, key) in self.starts.iter().zip(keys) {
            let Start { id, instant, why } = start.clone();
            let run = ScheduledRun { id, instant: instant.to_utc(), at: now.to_utc(), why };
            body.recent.push_back(run.clone());
            body.last = Some((*key, run));
        }
        let old = body.recent.len().saturating_sub(MOST_RECENT);
        body.recent.drain(..old);
    }
}

/// A row that is being changed.
struct Work {
    body: Body,
    /// Whether nothing runs that the row knows of…
    idle: bool,
    /// …and whether that was so when it was read.
    was_idle: bool,
    starts: Vec<Start>,
    cancel: bool,
    triggered: Option<Triggered>,
    backfilled: usize,
}

impl Work {
    fn new(mut body: Body, known: &Known<'_>) -> Work {
        let idle = known.last.as_ref().is_none_or(|(_, _, ended)| *ended);
        // An execution that goes on as its next run has not ended.
        if let (Some((run, _)), Some((_, current, _))) = (&mut body.last, &known.last) {
            *run = *current;
        }
        Work { body, idle, was_idle: idle, starts: Vec::new(), cancel: false, triggered: None, backfilled: 0 }
    }

    fn decided(self, before: &Body, known: &Known<'_>) -> Decided {
        let Work { body, starts, cancel, triggered, backfilled, .. } = self;
        let cancel = known.last.as_ref().filter(|_| cancel).map(|(id, ..)| id.clone());
        let former = (body.plan != before.plan).then(|| Box::new(before.plan.clone()));
        let row = (body != *before || !starts.is_empty()).then(|| Row::Here(Box::new(body)));
        Decided { row, starts, cancel, triggered, backfilled, former, unfinished: false }
    }

    /// Whether one commit takes no more runs.
    fn is_full(&self) -> bool {
        let bytes = self.body.plan.input.bytes.len().max(1);
        self.starts.len() >= (MOST_BYTES / bytes).clamp(1, MOST_STARTS)
    }

    /// Begins what waits, as far as it need not wait any more.
    fn waiting(&mut self, known: &Known<'_>) {
        let mut held = VecDeque::new();
        while let Some(waiting) = self.body.waiting.pop_front() {
            let may = (self.idle || waiting.beside) && !self.is_full() && !self.body.holds_back(&waiting);
            if may {
                self.start(waiting.instant, waiting.why, known);
            } else {
                held.push_back(waiting);
            }
        }
        self.body.waiting = held;
    }

    /// Decides about every instant that is due.
    fn due(&mut self, times: &Times, known: &Known<'_>) {
        if self.body.paused.is_some() {
            return;
        }
        let oldest = known.now.before(self.body.plan.catch_up.max(SHORTEST_CATCH_UP));
        let mut seen = 0;
        while let Some(next) = self.body.next.filter(|next| next.due <= known.now) {
            if seen == MOST_COUNTED || self.is_full() {
                // The rest of a gap is not worth being counted; the rest of what is due is for the next commit.
                if next.due < oldest {
                    self.body.handled = Timestamp(oldest.0.saturating_sub(1)).max(self.body.handled);
                    self.body.advance(times, known.name);
                    seen = 0;
                    continue;
                }
                return;
            }
            seen += 1;
            if next.due < oldest {
                self.body.counts.missed += 1;
            } else {
                self.admit(next.instant, Why::Due, self.body.plan.overlap, known);
            }
            self.body.handled = self.body.handled.max(next.instant);
            self.body.advance(times, known.name);
        }
    }

    /// Decides about one instant by a policy.
    fn admit(&mut self, instant: Timestamp, why: Why, overlap: Overlap, known: &Known<'_>) {
        let nobody = self.idle && self.body.waiting.iter().all(|waiting| self.body.holds_back(waiting));
        if nobody || overlap == Overlap::AllowAll {
            self.start(instant, why, known);
            return;
        }
        let waits = match overlap {
            Overlap::Skip | Overlap::AllowAll => false,
            Overlap::BufferOne => self.body.live() == 0,
            Overlap::BufferAll => self.body.live() < MOST_WAITING,
            Overlap::CancelOther => {
                if self.replaces(instant, why, known) {
                    return;
                }
                let before = self.body.waiting.len();
                self.body.waiting.retain(|waiting| waiting.why == Why::Backfilled);
                self.body.counts.skipped += (before - self.body.waiting.len()) as u64;
                // What somebody wants of the past is not given up for what is due now: that waits for it.
                let backfilled = self.body.last.as_ref().is_some_and(|(_, run)| run.why == Why::Backfilled);
                self.cancel = !self.was_idle && !backfilled;
                true
            }
        };
        if waits {
            // Before what is backfilled, which has time.
            let place = self.body.waiting.iter().position(|waiting| waiting.why == Why::Backfilled);
            let place = place.unwrap_or(self.body.waiting.len());
            self.body.waiting.insert(place, Waiting { instant, why, beside: false });
        } else {
            self.body.counts.skipped += 1;
        }
        if why == Why::Triggered {
            self.triggered = Some(if waits { Triggered::Waits } else { Triggered::Skipped });
        }
    }

    /// Of several instants of which each would cancel the one before, none of them begun yet, the newest begins.
    fn replaces(&mut self, instant: Timestamp, why: Why, known: &Known<'_>) -> bool {
        let replaced = self.starts.pop_if(|start| start.why == Why::Due && why == Why::Due);
        if replaced.is_some() {
            self.body.counts.started -= 1;
            self.body.counts.skipped += 1;
            self.body.remaining = self.body.remaining.map(|left| left.saturating_add(1));
            self.start(instant, why, known);
        }
        replaced.is_some()
    }

    fn start(&mut self, instant: Timestamp, why: Why, known: &Known<'_>) {
        let id = self.body.id_of(known.name, instant);
        if known.in_use.contains(&id) || self.starts.iter().any(|start| start.id == id) {
            self.body.counts.in_use += 1;
            return;
        }
        if why == Why::Triggered {
            self.triggered = Some(Triggered::Started(id.clone()));
        }
        if why == Why::Due {
            self.body.remaining = self.body.remaining.map(|left| left.saturating_sub(1));
        }
        self.body.counts.started += 1;
        self.idle = false;
        self.starts.push(Start { id, instant, why });
    }

    fn trigger(&mut self, at: Timestamp, overlap: Overlap, known: &Known<'_>) {
        let id = self.body.id_of(known.name, at);
        // It was carried out before, and its answer was lost.
        if self.body.recent.iter().any(|run| run.id == id) || self.starts.iter().any(|start| start.id == id) {
            self.triggered = Some(Triggered::Started(id));
        } else if self.body.waiting.iter().any(|waiting| waiting.why == Why::Triggered && waiting.instant == at) {
            self.triggered = Some(Triggered::Waits);
        } else {
            self.admit(at, Why::Triggered, overlap, known);
        }
    }

    fn backfill(
        &mut self,
        times: &Times,
        (from, to): (Timestamp, Timestamp),
        beside: bool,
        known: &Known<'_>,
    ) -> Result<(), ScheduleError> {
        check_time("the range's beginning", from)?;
        check_time("the range's end", to)?;
        if to < from {
            return Err(ScheduleError::Invalid(format!("the range ends at {to}, before it begins at {from}")));
        }
        if to > known.now {
            return Err(ScheduleError::Invalid(format!("a backfill is of the past, and {to} is still to come")));
        }
        let first = Timestamp(from.0.saturating_sub(1));
        let instants = std::iter::successors(times.next_after(first), |last| times.next_after(*last));
        let room = MOST_WAITING.saturating_sub(self.body.waiting.len() - self.body.live());
        let instants: Vec<Timestamp> = instants.take_while(|instant| *instant <= to).take(room + 1).collect();
        if instants.len() > room {
            return Err(ScheduleError::TooMany { room });
        }
        self.backfilled = instants.len();
        let waiting = instants.into_iter().map(|instant| Waiting { instant, why: Why::Backfilled, beside });
        self.body.waiting.extend(waiting);
        self.waiting(known);
        Ok(())
    }

    fn update(&mut self, plan: Plan, known: &Known<'_>) -> Result<(), ScheduleError> {
        let times = Times::of(&plan.specs, plan.from, plan.until)?;
        // An instant that has come is fired by the plan of that time, if only its jitter is not over.
        let pending = self.body.next.filter(|next| next.instant <= known.now && self.body.paused.is_none());
        self.body.remaining = plan.most;
        self.body.plan = plan;
        self.body.updated_at = known.now;
        self.body.handled = self.body.handled.max(known.now);
        self.body.advance(&times, known.name);
        if self.body.next.is_none() {
            return Err(ScheduleError::Invalid("none of its instants is still to come, so it would never fire".into()));
        }
        if pending.is_some() {
            self.body.next = pending;
        }
        Ok(())
    }
}

/// Computes something of a schedule, and makes an error of a panic: the calendars are other people's code, and one schedule must not take
/// down a node.
pub(crate) fn guarded<T>(name: &str, compute: impl FnOnce() -> Result<T, ScheduleError>) -> Result<T, ScheduleError> {
    catch_unwind(AssertUnwindSafe(compute)).unwrap_or_else(|panic| {
        let why = panic_text(&*panic);
        tracing::error!(
            schedule = name,
            panic = why,
            "what is to become of a schedule panicked; it is left out, and looked at again later"
        );
        Err(ScheduleError::Unavailable(format!("nothing was written: deciding about it panicked with {why:?}")))
    })
}

impl Body {
    /// How many instants wait that are not backfilled.
    fn live(&self) -> usize {
        self.waiting.iter().filter(|waiting| waiting.why != Why::Backfilled).count()
    }

    /// Finds the instant behind those that are decided about, unless there is to be none.
    fn advance(&mut self, times: &Times, name: &str) {
        let waiting = self.waiting.iter().filter(|waiting| waiting.why == Why::Due).count() as u64;
        let over = self.remaining.is_some_and(|left| left <= waiting);
        let instant = if over { None } else { times.next_after(self.handled) };
        self.next = instant.map(|instant| {
            let jitter = i64::try_from(self.plan.jitter.as_micros()).unwrap_or(i64::MAX);
            let gap = match times.next_after(instant) {
                Some(following) if jitter > 0 => following.0.saturating_sub(instant.0),
                _ => i64::MAX,
            };
            let most = u64::try_from(jitter.min(gap)).unwrap_or(0);
            let by = if most == 0 { 0 } else { mix(seed(name, self.generation), instant.0.cast_unsigned()) % most };
            Next { instant, due: Timestamp(instant.0.saturating_add(i64::try_from(by).unwrap_or(0))) }
        });
    }
}

/// A number that is the same for a schedule on each node and in each release.
fn seed(name: &str, generation: u32) -> u64 {
    let mut hash = blake3::Hasher::new();
    hash.update(name.as_bytes());
    hash.update(&generation.to_le_bytes());
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash.finalize().as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}
