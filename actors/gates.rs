//! Dispatches through a gate: debounced, throttled, deduplicated, or one at a time, each by a key. What an application may ask, and how
//! the door answers.

use std::{fmt, time::Duration};

use actix::{AsyncContext, Context, Message, ResponseFuture};
use chrono::{DateTime, Utc};

use super::{
    asked::Asked,
    door::{Door, Found},
    handle::{Handle, Stent},
    messages::{Dispatch, IfInUse, fresh_id},
    supervisor::Supervisor,
    timekeeper::Admit,
};
use crate::{
    error::{DispatchError, Error},
    gate::{How, LONGEST_REQUEST, Passed, Rule, Wanted, gate_name, longest_id, our_id},
    kernel::{id::RunId, time::LONGEST_WAIT},
    store::StoreError,
    workflow::Workflow,
};

/// The longest id of an execution, as documented at `RunId`.
const LONGEST_ID: usize = 255;

/// What to do with a dispatch of a key of which an execution is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum IfOpen {
    /// It stands for this dispatch as well: its handle is the answer ([`Admission::Attached`]), and the argument of this one is not used.
    #[default]
    Attach,
    /// This dispatch is refused, with [`DispatchError::IdInUse`].
    Reject,
    /// It is cancelled, its end is waited for (its compensations run before that), and a new one begins. Of several that replace at once
    /// each cancels the one before. Over one that is paused or quarantined the answer comes when that has been let go on, or terminated.
    Replace,
}

/// A dispatch on its way through a gate; made by [`Dispatch::debounce`], [`Dispatch::throttle`], [`Dispatch::dedupe`] and
/// [`Dispatch::singleton`], and sent by [`Stent::admit`] or to the [`Supervisor`](crate::Supervisor).
#[derive(Debug)]
#[must_use = "it does nothing until it is given to `Stent::admit`"]
pub struct Gated<W> {
    dispatch: Dispatch<W>,
    key: String,
    kind: Kind,
    request: Option<String>,
    at_most: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Debounce(Duration),
    Throttle(u32, Duration),
    Dedupe(Duration),
    Singleton(IfOpen),
}

/// What became of a dispatch at a gate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Admission {
    /// The execution has begun, by this dispatch.
    Begun,
    /// It begins at this time, by the store's clock, or as soon afterwards as a node is up that has the workflow and room. A debounced
    /// one may be put off by further dispatches.
    Waits {
        /// When.
        until: DateTime<Utc>,
    },
    /// It was to begin already, and does so at this time with the argument of this dispatch, if none comes after it.
    Folded {
        /// When.
        until: DateTime<Utc>,
    },
    /// An execution that another dispatch has begun stands for this one, whose argument is not used; or it was this very dispatch,
    /// repeated.
    Attached,
}

/// The answer to a dispatch through a gate.
#[non_exhaustive]
pub struct Admitted<W> {
    /// The execution. Before it begins, [`Handle::result`] and [`Handle::events`] wait for it, and nothing else knows its id: whatever
    /// is sent to it is answered with [`SendError::Unknown`](crate::SendError::Unknown), and `Describe` finds nothing.
    pub handle: Handle<W>,
    /// What became of the dispatch.
    pub admission: Admission,
}

impl<W> Clone for Admitted<W> {
    fn clone(&self) -> Self {
        Admitted { handle: self.handle.clone(), admission: self.admission }
    }
}

impl<W> fmt::Debug for Admitted<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admitted").field("handle", &self.handle).field("admission", &self.admission).finish()
    }
}

/// # Gates
///
/// Four ways to dispatch by a key. A dispatch goes through one gate, and the order is always the same: first the gate decides whether and
/// when an execution begins; from then on it is one like any other, waits for a slot, a node, a queue, and its `deadline` and `retry`
/// count from there.
///
/// | | what is more than fits | which argument | its id |
/// |---|---|---|---|
/// | [`debounce`](Dispatch::debounce) | folds into the burst | that of the last | `stent:debounce/workflow/key/n` |
/// | [`throttle`](Dispatch::throttle) | waits in line, up to 1,000 | each its own | `stent:throttle/workflow/key/request` |
/// | [`dedupe`](Dispatch::dedupe) | is told of the first | that of the first | `stent:dedupe/workflow/key/n` |
/// | [`singleton`](Dispatch::singleton) | as [`IfOpen`] says | that of whoever began it | `stent:singleton/workflow/key` |
///
/// A key belongs to its workflow (by `NAME`; its versions share it) and to its kind of gate: the same key debounced and throttled is two
/// gates. It has no empty value and no NUL, and the id that follows from it at most 255 bytes, in which a `/` and a `%` of workflow and
/// key count three (`%2F`, `%25`). The first three are rows of the store, one for each key, which stay; the fourth is an id alone.
///
/// **Time** is the store's clock as [`Dispatch::delay`] has it, and never goes back at a gate, whichever nodes dispatch and whatever their
/// clocks do; behind a clock that was ahead and is set back, a gate waits until the time that its row has is reached again. **Crashes**: what a gate has answered is durable, and any node that is up begins what is due; one that did not hear of it
/// within 5 s. That an execution begins and that its gate knows so is one commit. **Several nodes** may dispatch by a key at once: the row is
/// replaced by one of them, and the others decide anew. **A repetition** is known by the [`request_id`](Gated::request_id). **A workflow
/// that is renamed** has other gates from then on, also where it has its former name as an alias.
///
/// Of the options of a dispatch `id` (it follows from the key), `if_in_use`, and at the first three gates `delay` make no sense and are
/// refused with [`DispatchError::Invalid`]. All others are those of the execution that begins; in a burst, of its last dispatch. Within
/// a transaction of the caller's own there are no gates, but an `id` of your own with [`IfInUse::AllowAfterEnd`] is there what a singleton is here (the two do not know of each other).
impl<W: Workflow> Dispatch<W> {
    /// Folds dispatches of this key that come shortly one after the other into one execution: it begins `quiet` after the last, and with
    /// its argument and options. [`Gated::at_most`] limits how long a burst that does not end puts it off.
    ///
    /// The first dispatch opens a burst and is told [`Admission::Waits`], the others [`Admission::Folded`], each with the time as it stands
    /// then; all have a handle of the one execution. A dispatch that comes when the burst is due, and be it that nobody has begun it yet,
    /// opens the next one. `quiet` is more than zero; the last dispatch says how long it is.
    ///
    /// A request is known again as long as it is among the last 128 of its key, also when its burst has begun.
    ///
    /// ```no_run
    /// # use stent::prelude::*;
    /// # #[derive(Serialize, Deserialize)] struct Index { document: u64 }
    /// # impl Workflow for Index {
    /// #     const NAME: &'static str = "index";
    /// #     type Output = ();
    /// #     type Error = AppError;
    /// #     async fn run(self, _: Cx<Self>) -> Result<(), AppError> { Ok(()) }
    /// # }
    /// # async fn example(stent: &Stent) -> Result<(), stent::Error> {
    /// let save = Dispatch::new(Index { document: 7 }).debounce("document-7", secs(5)).at_most(mins(1));
    /// let admitted = stent.admit(save).await?;
    /// if let Admission::Folded { until } = admitted.admission {
    ///     println!("{} begins at {until}", admitted.handle.id());
    /// }
    /// # Ok(()) }
    /// ```
    pub fn debounce(self, key: impl Into<String>, quiet: Duration) -> Gated<W> {
        self.gated(key, Kind::Debounce(quiet.min(LONGEST_WAIT)))
    }

    /// Lets at most `most` executions of this key begin within any window of `per`; what is more waits in line and begins in its order,
    /// none is left out. `most` is 1 to 1,000, `per` more than zero; the last dispatch says what they are. A longer
    /// `per` counts what began before it was set only as far as the window before reached.
    ///
    /// It counts when executions are begun, that is, are in the store and due. How soon a node then takes them up is another matter, and so is
    /// what they call: to limit acts on a foreign system, whatever else happens, use a shared queue with a
    /// [`rate`](crate::Queue::rate). While no node is up nothing begins, and nothing that was missed is made up for in a rush.
    ///
    /// Up to 1,000 dispatches wait, with 4 MiB of arguments in all; beyond it a dispatch is refused with [`DispatchError::GateFull`], and
    /// nothing is recorded. All that waits is one row, so long lines cost each dispatch something. A request is known again for ever, by the
    /// id of its execution; with another argument it is refused with [`DispatchError::IdInUse`].
    pub fn throttle(self, key: impl Into<String>, most: u32, per: Duration) -> Gated<W> {
        self.gated(key, Kind::Throttle(most, per.min(LONGEST_WAIT)))
    }

    /// Lets one execution of this key begin, at once; dispatches that come within `window` from then on are told of it
    /// ([`Admission::Attached`]), whether or not it has ended, and their arguments are neither used nor compared. So a dispatch that is
    /// repeated within the window never begins twice. `window` is more than zero, and that of the dispatch that began counts; one that
    /// comes exactly at its end begins the next.
    pub fn dedupe(self, key: impl Into<String>, window: Duration) -> Gated<W> {
        self.gated(key, Kind::Dedupe(window.min(LONGEST_WAIT)))
    }

    /// Lets at most one execution of this key be open at a time. If one is, `if_open` says what becomes of this dispatch; if none is, a new
    /// run of its id begins ([`Handle::run_no`] counts them). An execution that continues as new, or is tried again, is open until the last run of
    /// the chain has ended; so is one that is paused, quarantined or delayed.
    ///
    /// It is an [`id`](Dispatch::id) with [`IfInUse::AllowAfterEnd`] or [`IfInUse::Replace`], so the store itself sees to it. There is no
    /// memory of what has ended: a dispatch that is repeated after the end of its run begins another one. Where that must not be, use
    /// [`dedupe`](Dispatch::dedupe).
    pub fn singleton(self, key: impl Into<String>, if_open: IfOpen) -> Gated<W> {
        self.gated(key, Kind::Singleton(if_open))
    }

    fn gated(self, key: impl Into<String>, kind: Kind) -> Gated<W> {
        Gated { dispatch: self, key: key.into(), kind, request: None, at_most: None }
    }
}

impl<W: Workflow> Gated<W> {
    /// Begins a debounced execution at the latest so long after the first dispatch of its burst, however many follow; more than zero. Each
    /// dispatch says it anew; one without puts no limit. At other gates it makes no sense and is refused.
    pub fn at_most(mut self, since_first: Duration) -> Gated<W> {
        self.at_most = Some(since_first.min(LONGEST_WAIT));
        self
    }

    /// Sets the id by which a debounced or throttled dispatch is known again if it is repeated because its answer was lost; 1 to 100 bytes,
    /// by default a fresh one for each. A throttled execution has it in its id. At other gates it makes no sense and is refused.
    pub fn request_id(mut self, id: impl Into<String>) -> Gated<W> {
        self.request = Some(id.into());
        self
    }

    /// Leaves the types behind.
    fn asked(self) -> Result<At, DispatchError> {
        let Gated { dispatch, key, kind, request, at_most } = self;
        let invalid = |what: &str| Err(DispatchError::Invalid(what.to_owned()));
        if dispatch.id.is_some() || dispatch.if_in_use != IfInUse::default() {
            return invalid("behind a gate the id of an execution follows from the key; leave out `id` and `if_in_use`");
        }
        if at_most.is_some() && !matches!(kind, Kind::Debounce(_)) {
            return invalid("`at_most` is for a debounce only");
        }
        if request.is_some() && !matches!(kind, Kind::Debounce(_) | Kind::Throttle(..)) {
            return invalid("`request_id` is for a debounce or a throttle; the others know a repetition by its key");
        }
        let asked = dispatch.asked()?;
        if key.is_empty() || key.contains('\0') {
            return invalid("a key has at least one byte and no NUL");
        }
        let rule = match kind {
            Kind::Debounce(quiet) => Rule::Debounce { quiet, at_most },
            Kind::Throttle(most, per) => Rule::Throttle { most, per },
            Kind::Dedupe(window) => Rule::Dedupe { window },
            Kind::Singleton(if_open) => {
                let id = our_id(&gate_name("singleton", asked.workflow, &key));
                fits(&id)?;
                return Ok(At::Singleton(Asked { id, if_in_use: if_open.policy(), ..asked }, if_open));
            }
        };
        if asked.delay.is_some() {
            return invalid("the gate says when the execution begins; leave out `delay`");
        }
        rule.check()?;
        let request = request.unwrap_or_else(fresh_id);
        if request.is_empty() || request.len() > LONGEST_REQUEST || request.contains('\0') {
            return invalid("the id of a request has 1 to 100 bytes and no NUL");
        }
        let gate = gate_name(rule.kind(), asked.workflow, &key);
        // Some bytes are kept for the case that somebody has that id.
        fits(&format!("{}++++", longest_id(&gate, &rule, &request)))?;
        Ok(At::Row { gate, rule, request, asked })
    }
}

/// A dispatch at a gate, without its types.
enum At {
    Row { gate: String, rule: Rule, request: String, asked: Asked },
    Singleton(Asked, IfOpen),
}

impl IfOpen {
    fn policy(self) -> IfInUse {
        match self {
            IfOpen::Attach | IfOpen::Reject => IfInUse::AllowAfterEnd,
            IfOpen::Replace => IfInUse::Replace,
        }
    }
}

/// Refuses a key of which no id can be made.
fn fits(id: &str) -> Result<(), DispatchError> {
    if id.len() > LONGEST_ID {
        let size = id.len();
        let why =
            format!("with this key the execution's id would have {size} bytes, and may have {LONGEST_ID}; choose a shorter key");
        return Err(DispatchError::Invalid(why));
    }
    Ok(())
}

impl Door {
    async fn admit(&self, at: At) -> Result<(Found, Admission), Error> {
        match at {
            At::Row { gate, rule, request, asked } => self.pass(gate, rule, request, asked).await,
            At::Singleton(asked, if_open) => self.only_one(asked, if_open).await,
        }
    }

    async fn pass(&self, gate: String, rule: Rule, request: String, asked: Asked) -> Result<(Found, Admission), Error> {
        asked.check_options(&self.config.limits)?;
        self.knows(asked.workflow, asked.version)?;
        let _credit = self.credit(&asked)?;
        let wanted = asked.wanted()?;
        let Passed { run, id, how } = loop {
            let links = self.links().await?;
            let (gate, wanted, request) = (gate.clone(), wanted.clone(), request.clone());
            match links.timekeeper.send(Admit { gate, rule, wanted, request }).await {
                Ok(Err(Error::Store(StoreError::Closed) | Error::Stopped)) | Err(_) => self.breathe().await,
                Ok(answer) => break answer?,
            }
        };
        let end = self.waiters.wait(run);
        // It may have begun and ended since. What cannot be read of that now is told later; the dispatch is recorded.
        if let Err(error) = self.settle_ended(&[run]).await {
            tracing::warn!(id, %error, "what a gate has let begin cannot be read; its end is told when it can");
        }
        Ok((Found { run, id: RunId { id, run_no: 1 }, end }, how.into()))
    }

    async fn only_one(&self, asked: Asked, if_open: IfOpen) -> Result<(Found, Admission), Error> {
        asked.check_options(&self.config.limits)?;
        let (id, workflow) = (asked.id.clone(), asked.workflow.to_owned());
        let digest = asked.input.digest();
        let (found, begun) = self.begin(asked).await?;
        if begun {
            return Ok((found, Admission::Begun));
        }
        if if_open == IfOpen::Reject {
            let row = self.row(&id, Some(found.id.run_no)).await?;
            let status = row.as_ref().map_or("active", |row| row.status.as_str()).to_owned();
            let differs = row.is_none_or(|row| row.input_digest != digest);
            return Err(DispatchError::IdInUse { id, workflow, status, differs }.into());
        }
        Ok((found, Admission::Attached))
    }
}

impl Asked {
    /// Returns what a row keeps of it, once nothing of it can be refused by a store: others share the row.
    fn wanted(self) -> Result<Wanted, DispatchError> {
        let Asked { workflow, version, input, deadline, retry, priority, queue, tags, needs, .. } = self;
        if needs.len() > 16 || needs.iter().any(|tag| tag.is_empty() || tag.len() > 255) {
            return Err(DispatchError::Invalid("at most 16 tags that it needs, of 1 to 255 bytes each".to_owned()));
        }
        if tags.iter().chain(&needs).chain([&queue]).any(|name| name.contains('\0')) || workflow.contains('\0') {
            return Err(DispatchError::Invalid("no name, queue or tag has a NUL".to_owned()));
        }
        let workflow = workflow.to_owned();
        Ok(Wanted { workflow, version, input, deadline, retry, priority, queue, tags, needs })
    }
}

impl From<How> for Admission {
    fn from(how: How) -> Admission {
        match how {
            How::Begun => Admission::Begun,
            How::Waits(until) => Admission::Waits { until: until.to_utc() },
            How::Folded(until) => Admission::Folded { until: until.to_utc() },
            How::Attached => Admission::Attached,
        }
    }
}

impl<W: Workflow> Message for Gated<W> {
    type Result = Result<Admitted<W>, Error>;
}

impl<W: Workflow> actix::Handler<Gated<W>> for Supervisor {
    type Result = ResponseFuture<Result<Admitted<W>, Error>>;

    fn handle(&mut self, gated: Gated<W>, ctx: &mut Context<Self>) -> Self::Result {
        let (door, supervisor) = (self.door(), ctx.address());
        Box::pin(async move {
            let (found, admission) = door.admit(gated.asked()?).await?;
            Ok(Admitted { handle: Handle::new(found, door, supervisor), admission })
        })
    }
}

impl Stent {
    /// Dispatches through a gate; see [`Dispatch::debounce`], [`Dispatch::throttle`], [`Dispatch::dedupe`] and [`Dispatch::singleton`].
    ///
    /// # Cancel safety
    /// Once it was polled the dispatch is taken, whether or not its answer is waited for: the same one with the same `request_id` finds out.
    ///
    /// # Errors
    /// [`Error::Dispatch`] says why it was not taken: [`DispatchError::Invalid`] for options that make no sense together or a key that is
    /// too long, [`DispatchError::GateFull`] at a throttle, [`DispatchError::IdInUse`] at a singleton that rejects or for a repetition with
    /// another argument, [`DispatchError::Contended`] when nothing was recorded because other nodes were quicker too often.
    pub async fn admit<W: Workflow>(&self, gated: Gated<W>) -> Result<Admitted<W>, Error> {
        self.asked(self.supervisor().send(gated).await)
    }
}
