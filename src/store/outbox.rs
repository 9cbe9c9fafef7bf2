//! Executions that are begun, and signals that are sent, in a transaction of the caller's own: they exist exactly if that
//! commits. What is the same on every store: what the row and the first commit are, and which ids may be used again.

use uuid::Uuid;

use super::{NewRun, Status};
use crate::{
    Dispatch, IfInUse, SendSignal, Workflow,
    actors::asked::{Asked, check_message, without_a_turn},
    config::this_build,
    error::{DispatchError, SendError},
    kernel::{
        codec::Record,
        id::{Digest, Incarnation, RunId},
        limits::Limits,
        run::Writer,
        time::Timestamp,
    },
};

/// An execution that begins once the caller's transaction commits.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Enqueued {
    /// Its id and the number of its run.
    pub id: RunId,
    /// Whether this call began it; else there was one of the same workflow and arguments.
    pub is_new: bool,
}

/// No node: what is written from outside names this as its writer.
pub(crate) const OUTSIDE: Incarnation = Incarnation(Uuid::nil());

/// A dispatch on its way into a transaction.
pub(crate) struct Draft {
    asked: Asked,
    limits: Limits,
}

/// The current run of an id, as far as it decides whether another may follow.
pub(crate) struct Current {
    pub(crate) run_no: u32,
    pub(crate) workflow: String,
    pub(crate) status: Status,
    pub(crate) input_digest: Digest,
}

/// What is to be done.
pub(crate) enum Decided {
    /// There is such a run.
    Attach(Enqueued),
    /// To write this.
    Begin(Box<NewRun>, Record),
}

impl Draft {
    pub(crate) fn of<W: Workflow>(dispatch: Dispatch<W>, limits: Limits) -> Result<Draft, DispatchError> {
        let asked = dispatch.asked()?;
        asked.check(&limits)?;
        if asked.if_in_use == IfInUse::Replace {
            let what =
                "`Replace` waits for the end of the run before, and a transaction must not; dispatch it through the runtime";
            return Err(DispatchError::Invalid(what.to_owned()));
        }
        Ok(Draft { asked, limits })
    }

    pub(crate) fn id(&self) -> &str {
        &self.asked.id
    }

    /// Decides what is to be written at `now`, by the store's clock. The row is still without its key.
    pub(crate) fn decide(&self, now: Timestamp, current: Option<Current>) -> Result<Decided, DispatchError> {
        const FAILED: [Status; 4] = [Status::Failed, Status::Cancelled, Status::TimedOut, Status::Terminated];
        let (mut row, started) = self.asked.begin(now, self.limits);
        if let Some(current) = current {
            let is_another = current.workflow != row.workflow;
            let differs = is_another || current.input_digest != row.input_digest;
            match self.asked.if_in_use {
                IfInUse::AllowAfterFailure if FAILED.contains(&current.status) => row.id.run_no = current.run_no + 1,
                IfInUse::AllowAfterEnd if current.status.is_end() => row.id.run_no = current.run_no + 1,
                policy if (policy == IfInUse::AllowAfterEnd && !is_another) || (policy != IfInUse::Reject && !differs) => {
                    let id = RunId { id: row.id.id, run_no: current.run_no };
                    return Ok(Decided::Attach(Enqueued { id, is_new: false }));
                }
                _ => {
                    let status = current.status.as_str().to_owned();
                    return Err(DispatchError::IdInUse { id: row.id.id, workflow: current.workflow, status, differs });
                }
            }
        }
        // Whoever looks when this is committed finds it due.
        row.wake_at.get_or_insert(now);
        let writer = Writer { incarnation: OUTSIDE, epoch: 0, build: this_build(), is_shared: &|_| false };
        let record = without_a_turn(&row.id, started, writer, now).map_err(DispatchError::Invalid)?;
        Ok(Decided::Begin(Box::new(row), record))
    }
}

/// A signal on its way into a transaction: to whom, its own id, and its stored form.
pub(crate) struct Posted {
    pub(crate) to: String,
    pub(crate) message: String,
    pub(crate) body: Vec<u8>,
}

impl Posted {
    pub(crate) fn of(signal: SendSignal, limits: Limits) -> Result<Posted, SendError> {
        let SendSignal { to, message, body } = signal;
        let body = body.map_err(|error| SendError::Invalid(error.to_string()))?;
        check_message(&message, &body, &limits)?;
        if to.is_empty() || to.len() > 255 || to.contains('\0') {
            return Err(SendError::Invalid("the id of an execution has 1 to 255 bytes and no NUL".to_owned()));
        }
        let body = rmp_serde::to_vec(&body).map_err(|error| SendError::Invalid(error.to_string()))?;
        Ok(Posted { to, message, body })
    }
}
