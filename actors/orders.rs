//! What an operator may do to one execution. Each order is recorded in its log with the operator's name, the reason and the time, and
//! has an id of its own: sent again under it, it is carried out once.

use actix::{Handler, Message, ResponseFuture};

use super::{handle::Stent, supervisor::Supervisor};
use crate::{
    activity::{Activity, failure_of},
    error::{Error, SendError},
    kernel::{
        event::{Order, Ordered, TaskEnd},
        id::Position,
        payload::{CodecError, Payload},
    },
};

/// The longest name of an operator, and the longest reason, in bytes.
const LONGEST_NAME: usize = 255;
const LONGEST_REASON: usize = 4_096;

/// An order without its type: for whom it is, its id, and what it says.
#[derive(Debug, Clone)]
pub(crate) struct Addressed {
    pub(crate) to: String,
    pub(crate) message: String,
    by: String,
    reason: String,
}

impl Addressed {
    fn new(to: impl Into<String>, by: impl Into<String>) -> Addressed {
        let message = uuid::Uuid::now_v7().to_string();
        Addressed { to: to.into(), message, by: by.into(), reason: String::new() }
    }

    /// Returns the id of the execution, that of the message, and the order.
    fn order(self, what: Ordered) -> Result<(String, String, Order), SendError> {
        let Addressed { to, message, by, reason } = self;
        if by.is_empty() || by.len() > LONGEST_NAME || by.contains('\0') {
            return Err(SendError::Invalid(format!(
                "an operator's name has 1 to {LONGEST_NAME} bytes and no NUL; say who orders this"
            )));
        }
        if reason.len() > LONGEST_REASON {
            let size = reason.len();
            return Err(SendError::Invalid(format!(
                "the reason has {size} bytes, the limit is {LONGEST_REASON}; say it shorter"
            )));
        }
        Ok((to, message, Order { by, reason, what }))
    }
}

/// Writes the methods that all orders have.
macro_rules! addressed {
    ($order:ident) => {
        impl $order {
            /// Says why, for the record; at most 4,096 bytes.
            #[must_use]
            pub fn reason(mut self, reason: impl Into<String>) -> $order {
                self.order.reason = reason.into();
                self
            }

            /// Sets the order's own id, 1 to 255 bytes: the same id again is carried out once, and answered alike. Messages of all kinds to
            /// an execution share their ids.
            #[must_use]
            pub fn message_id(mut self, id: impl Into<String>) -> $order {
                self.order.message = id.into();
                self
            }
        }
    };
}

/// Ends an execution at once, in whatever state it is: running, asleep, parked, blocked, quarantined, or without any node that has its code.
/// None of its code runs any more. What would undo its acts is *not* run: the record names each compensation that was skipped. Acts
/// that are under way are told to stop; children that were not abandoned are asked to stop; a parent that waits hears of it.
///
/// It is answered when the end is recorded. An execution that has ended stays as it ended: that is
/// [`SendError::AlreadyEnded`], unless it was ended by this very order.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct Terminate {
    order: Addressed,
}

impl Terminate {
    /// Makes an order for the current run of an id, in the name of an operator (1 to 255 bytes).
    #[must_use]
    pub fn new(id: impl Into<String>, by: impl Into<String>) -> Terminate {
        Terminate { order: Addressed::new(id, by) }
    }
}

addressed!(Terminate);

impl Handler<Terminate> for Supervisor {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, Terminate { order }: Terminate, _: &mut actix::Context<Self>) -> Self::Result {
        let door = self.door.clone();
        Box::pin(async move {
            let (to, message, order) = order.order(Ordered::Terminate)?;
            door.operate(to, message, order).await
        })
    }
}

/// Pauses an execution until it is let go on ([`Resume`]), in whatever state it is. From its record on it takes no turn and begins no attempt, also
/// none that waits in a queue. What is under way comes to its end, and its result is kept, with the messages and timers that come meanwhile:
/// all of it happens when the execution goes on.
///
/// Time goes on: a deadline that passes, or a request to stop, takes effect when the execution goes on, and so do limits that run out
/// meanwhile. [`Terminate`] works at once. A delayed execution that was paused before it began, begins when it is let go on.
///
/// It is answered when it is recorded. To pause what is paused changes nothing: the first pause stays.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct PauseExecution {
    order: Addressed,
}

impl PauseExecution {
    /// Makes an order for the current run of an id, in the name of an operator (1 to 255 bytes).
    #[must_use]
    pub fn new(id: impl Into<String>, by: impl Into<String>) -> PauseExecution {
        PauseExecution { order: Addressed::new(id, by) }
    }
}

addressed!(PauseExecution);

impl Handler<PauseExecution> for Supervisor {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, PauseExecution { order }: PauseExecution, _: &mut actix::Context<Self>) -> Self::Result {
        let door = self.door.clone();
        Box::pin(async move {
            let (to, message, order) = order.order(Ordered::Pause)?;
            door.operate(to, message, order).await
        })
    }
}

/// Lets an execution go on that is paused, with all that has come meanwhile; or be claimed again if it is quarantined or blocked, as after a
/// crash: its open attempts count as lost then.
///
/// It is answered when it is recorded that a pause is over. An execution that is neither goes on as it is, and nothing is recorded. An inline step
/// that was under way when its execution was paused comes to its end first: the order waits for it in the inbox.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct Resume {
    order: Addressed,
}

impl Resume {
    /// Resumes the current run of an id, in nobody's name.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Resume {
        Resume { order: Addressed::new(id, "unnamed") }
    }

    /// Says who orders it, 1 to 255 bytes, for the record.
    #[must_use]
    pub fn by(mut self, by: impl Into<String>) -> Resume {
        self.order.by = by.into();
        self
    }
}

addressed!(Resume);

impl<Id: Into<String>> From<Id> for Resume {
    fn from(id: Id) -> Resume {
        Resume::new(id)
    }
}

impl Handler<Resume> for Supervisor {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, Resume { order }: Resume, _: &mut actix::Context<Self>) -> Self::Result {
        let door = self.door.clone();
        Box::pin(async move {
            let (to, message, order) = order.order(Ordered::GoOn)?;
            door.operate(to, message, order).await
        })
    }
}

/// Tries calls of an execution at once that wait for their next attempt, and parked ones with a new budget of attempts.
///
/// It is answered when it is durable; [`SendError::NotThere`] when nothing waits so: an attempt whose time has come does not, whether it runs, stands
/// in its queue, or begins when a paused execution goes on. What has gone on by the time it is taken is recorded as ignored.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct RetryNow {
    order: Addressed,
    position: Option<Position>,
}

impl RetryNow {
    /// Retries every such call of the current run of an id, in the name of an operator (1 to 255 bytes).
    #[must_use]
    pub fn new(id: impl Into<String>, by: impl Into<String>) -> RetryNow {
        RetryNow { order: Addressed::new(id, by), position: None }
    }

    /// Retries only the call at this position.
    #[must_use]
    pub fn position(mut self, position: Position) -> RetryNow {
        self.position = Some(position);
        self
    }
}

addressed!(RetryNow);

impl Handler<RetryNow> for Supervisor {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, RetryNow { order, position }: RetryNow, _: &mut actix::Context<Self>) -> Self::Result {
        let door = self.door.clone();
        Box::pin(async move {
            let (to, message, order) = order.order(Ordered::Retry { position })?;
            door.order_within(to, message, order, None).await
        })
    }
}

/// Ends a sleep of an execution now, as if its time had come. The limit of a wait (`within`) is a sleep too.
///
/// It is answered as [`RetryNow`] is.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct SkipWait {
    order: Addressed,
    position: Position,
}

impl SkipWait {
    /// Ends the sleep at a position of the current run of an id, in the name of an operator (1 to 255 bytes).
    #[must_use]
    pub fn new(id: impl Into<String>, by: impl Into<String>, position: Position) -> SkipWait {
        SkipWait { order: Addressed::new(id, by), position }
    }
}

addressed!(SkipWait);

impl Handler<SkipWait> for Supervisor {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, SkipWait { order, position }: SkipWait, _: &mut actix::Context<Self>) -> Self::Result {
        let door = self.door.clone();
        Box::pin(async move {
            let (to, message, order) = order.order(Ordered::Skip { position })?;
            door.order_within(to, message, order, None).await
        })
    }
}

/// The names that calls of an activity may have in a log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named {
    pub(crate) name: &'static str,
    pub(crate) aliases: &'static [&'static str],
}

impl Named {
    /// Tells whether a call of that name is one of it.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }
}

/// Ends an open call of an activity from outside, with a value or an error of its type, wherever the call is: running, waiting for its next attempt,
/// in a queue or parked. An attempt that runs is told to stop, and what it returns is not heard any more. What undoes an act can only be ended
/// well.
///
/// It is answered as [`RetryNow`] is.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct CompleteCall {
    order: Addressed,
    position: Position,
    activity: Named,
    end: Result<TaskEnd, CodecError>,
}

impl CompleteCall {
    /// Ends the call at a position of the current run of an id with what it is to return, in the name of an operator (1 to 255 bytes).
    #[must_use]
    pub fn with<A: Activity>(
        id: impl Into<String>,
        by: impl Into<String>,
        position: Position,
        output: &A::Output,
    ) -> CompleteCall {
        let end = Payload::encode(output, format_args!("the output of {}", A::NAME)).map(TaskEnd::Done);
        CompleteCall { order: Addressed::new(id, by), position, activity: Named { name: A::NAME, aliases: A::ALIASES }, end }
    }

    /// Ends the call at a position with an error, which the code hears as the end of the last attempt.
    #[must_use]
    pub fn failed<A: Activity>(
        id: impl Into<String>,
        by: impl Into<String>,
        position: Position,
        error: &A::Error,
    ) -> CompleteCall {
        let failure = failure_of(error, A::advice(error), format_args!("the error of {}", A::NAME)).into_final();
        let end = Ok(TaskEnd::Failed(Box::new(failure)));
        CompleteCall { order: Addressed::new(id, by), position, activity: Named { name: A::NAME, aliases: A::ALIASES }, end }
    }
}

addressed!(CompleteCall);

impl Handler<CompleteCall> for Supervisor {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, complete: CompleteCall, _: &mut actix::Context<Self>) -> Self::Result {
        let (door, CompleteCall { order, position, activity, end }) = (self.door.clone(), complete);
        Box::pin(async move {
            let end = Box::new(end.map_err(|error| SendError::Invalid(error.to_string()))?);
            let (to, message, order) = order.order(Ordered::Complete { position, end })?;
            door.order_within(to, message, order, Some(activity)).await
        })
    }
}

impl Stent {
    /// Tries waiting and parked calls at once; see [`RetryNow`].
    ///
    /// # Errors
    /// [`Error::Send`] when there is no such execution or call, or the execution has ended.
    pub async fn retry_now(&self, retry: RetryNow) -> Result<(), Error> {
        self.asked(self.supervisor().send(retry).await)
    }

    /// Ends a sleep now; see [`SkipWait`].
    ///
    /// # Errors
    /// [`Error::Send`] when there is no such execution or sleep, or the execution has ended.
    pub async fn skip_wait(&self, skip: SkipWait) -> Result<(), Error> {
        self.asked(self.supervisor().send(skip).await)
    }

    /// Ends an open call from outside; see [`CompleteCall`].
    ///
    /// # Errors
    /// [`Error::Send`] when there is no such execution or call, the execution has ended, or the value is too large.
    pub async fn complete_call(&self, complete: CompleteCall) -> Result<(), Error> {
        self.asked(self.supervisor().send(complete).await)
    }

    /// Pauses an execution; see [`PauseExecution`].
    ///
    /// # Errors
    /// [`Error::Send`] when there is no such execution, it has ended, or its node has not taken the order in time: then it is in its inbox, and
    /// is carried out as soon as it is.
    pub async fn pause(&self, pause: PauseExecution) -> Result<(), Error> {
        self.asked(self.supervisor().send(pause).await)
    }

    /// Lets a paused, quarantined or blocked execution go on: by its id, or with who and why; see [`Resume`].
    ///
    /// # Errors
    /// As for [`pause`](Stent::pause).
    pub async fn resume(&self, resume: impl Into<Resume>) -> Result<(), Error> {
        self.asked(self.supervisor().send(resume.into()).await)
    }

    /// Ends an execution at once, without its code; see [`Terminate`].
    ///
    /// # Errors
    /// [`Error::Send`] when there is no such execution, or it has ended otherwise.
    pub async fn terminate(&self, terminate: Terminate) -> Result<(), Error> {
        self.asked(self.supervisor().send(terminate).await)
    }
}
