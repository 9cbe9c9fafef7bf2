//! The facts of a history. One [`Commit`] is one row of the log: everything that one turn recorded, at once or not at all.
//!
//! A turn is a sequence *fact, commands, fact, commands, …*: each fact is applied alone and the workflow polled until it
//! is quiescent, so each command stands behind the fact that caused it, live and in replay alike. How facts were grouped
//! in commits never matters.
//!
//! The variant names in the stored form are the short codes given with `rename`; a code is never reused. Fields are only
//! ever added at the end, with a default.

mod command;
mod message;
mod order;

use serde::{Deserialize, Serialize, Serializer, ser::SerializeStruct};

pub use self::{
    command::{Call, CallOptions, Child, ChildOptions, Command, Compensation, OnClose, Reply, Route, StepPlace},
    message::{CURRENT_RUN, Ignored, MessageBody, OUR_MESSAGES, TaskEnd, Tell, child_message},
    order::{Order, Ordered, Skipped},
};

use super::{
    chain::Inherited,
    failure::Failure,
    fork::Forked,
    id::{Attempt, BuildId, CommitNo, Digest, Epoch, Incarnation, Position, RunId},
    limits::Limits,
    payload::Payload,
    retry::Retry,
    time::Timestamp,
};

/// One row of the log.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Commit {
    /// Its number within the run, from 0, without gaps.
    pub commit_no: CommitNo,
    /// The digest of the row before it; `None` only for number 0.
    pub prev: Option<Digest>,
    /// Which life of which node wrote it.
    pub incarnation: Incarnation,
    /// Under which claim.
    pub epoch: Epoch,
    /// Which build of the program.
    pub build: BuildId,
    /// The store's time of this turn; never less than that of the commit before.
    pub time: Timestamp,
    /// What happened and what it led to, in order.
    pub events: Vec<Event>,
}

/// One entry of the log.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Event {
    /// Something happened; applied to the workflow.
    #[serde(rename = "f")]
    Fact(Fact),
    /// The workflow asked for something; compared in replay.
    #[serde(rename = "c")]
    Command(Command),
}

/// What happened to a run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Fact {
    /// The run began.
    #[serde(rename = "start")]
    Started(Box<Started>),
    /// Ownership was taken by force (the former owner died or was fenced); whoever read an older tail loses.
    #[serde(rename = "claim")]
    Claimed {
        /// The new owner.
        by: Incarnation,
        /// The new epoch.
        epoch: Epoch,
    },
    /// The current attempt of an activity or step succeeded.
    #[serde(rename = "ok")]
    Completed {
        /// Which call.
        position: Position,
        /// Which attempt.
        attempt: Attempt,
        /// What it returned.
        output: Payload,
    },
    /// The current attempt failed.
    #[serde(rename = "err")]
    Failed {
        /// Which call.
        position: Position,
        /// Which attempt.
        attempt: Attempt,
        /// Why.
        failure: Box<Failure>,
        /// What follows; a retry is the recorded intent of the next attempt.
        next: Next,
    },
    /// The current attempt was lost with the incarnation that ran it: its effect is *maybe done*.
    #[serde(rename = "lost")]
    Lost {
        /// Which call.
        position: Position,
        /// Which attempt.
        attempt: Attempt,
        /// What follows.
        next: Next,
    },
    /// A sleep is over.
    #[serde(rename = "fire")]
    Fired {
        /// Which sleep.
        position: Position,
    },
    /// A message was taken from the inbox.
    #[serde(rename = "msg")]
    Received {
        /// The message's own id, by which a second copy is known.
        message: String,
        /// What it says.
        body: MessageBody,
    },
    /// A message was taken from the inbox and had no effect.
    #[serde(rename = "ign")]
    Ignored {
        /// The message's own id.
        message: String,
        /// Why it had none.
        why: Ignored,
    },
    /// An update was taken from the inbox and refused, as the state was by then. The workflow does not hear of it.
    #[serde(rename = "no")]
    Refused {
        /// The message's own id.
        message: String,
        /// Why.
        failure: Box<Failure>,
    },
    /// The run's own deadline passed.
    #[serde(rename = "late")]
    DeadlinePassed,
    /// The first turn of a run that was written without one.
    #[serde(rename = "go")]
    Begun,
    /// What the run takes over from the one that continued as it: right behind its `Started`, in the same commit.
    #[serde(rename = "inh")]
    Inherited(Box<Inherited>),
    /// Up to here it is a copy of the history of an earlier run; from here on it is its own. What is open by now is made anew.
    #[serde(rename = "fork")]
    Forked(Box<Forked>),
}

/// How a run began.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct Started {
    /// The workflow's stored name.
    pub workflow: String,
    /// The version of its code.
    pub version: u32,
    /// Its argument.
    pub input: Payload,
    /// Where `cx.random()` and `cx.uuid()` start from.
    pub seed: u64,
    /// When the whole run must have ended, if ever.
    pub deadline: Option<Timestamp>,
    /// Whether it was written without its first turn, which then begins with a `Begun` fact.
    #[serde(default)]
    pub deferred: bool,
    /// The limits under which it runs, if they are not the default ones: a limit that was reached must be reached in replay.
    #[serde(default)]
    pub limits: Option<Box<Limits>>,
    /// The run that waits for its end, if it is another run's child.
    #[serde(default)]
    pub parent: Option<Box<Parent>>,
    /// How it is tried again if it fails, if it is.
    #[serde(default)]
    pub retry: Option<Box<RunRetry>>,
    /// The number of the run whose history this one begins with a copy of: what code makes of its run's name there is made of that one's.
    #[serde(default)]
    pub copied_from: Option<u32>,
}

/// As derived, but without the last fields that have nothing to say: most runs have none of them. By hand, because fields are told apart
/// by their number.
impl Serialize for Started {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Started { workflow, version, input, seed, deadline, deferred, limits, parent, retry, copied_from } = self;
        let more =
            [parent.is_some(), retry.is_some(), copied_from.is_some()].iter().rposition(|is| *is).map_or(0, |last| last + 1);
        let mut fields = serializer.serialize_struct("Started", 7 + more)?;
        fields.serialize_field("workflow", workflow)?;
        fields.serialize_field("version", version)?;
        fields.serialize_field("input", input)?;
        fields.serialize_field("seed", seed)?;
        fields.serialize_field("deadline", deadline)?;
        fields.serialize_field("deferred", deferred)?;
        fields.serialize_field("limits", limits)?;
        if more > 0 {
            fields.serialize_field("parent", parent)?;
        }
        if more > 1 {
            fields.serialize_field("retry", retry)?;
        }
        if more > 2 {
            fields.serialize_field("copied_from", copied_from)?;
        }
        fields.end()
    }
}

/// How a run that fails is tried again: as the next run of its execution, from the beginning.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RunRetry {
    /// When and how often.
    pub policy: Retry,
    /// How many runs have failed so far.
    pub failed: u32,
    /// When the first of them began.
    pub since: Timestamp,
    /// This run begins not before, if it follows one that has failed.
    pub at: Option<Timestamp>,
}

impl RunRetry {
    /// The first run of an execution is about to begin.
    #[must_use]
    pub fn new(policy: Retry, since: Timestamp) -> RunRetry {
        RunRetry { policy, failed: 0, since, at: None }
    }
}

/// Who waits for the end of a child.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Parent {
    /// The run that began it.
    pub run: RunId,
    /// Where in that run.
    pub position: Position,
}

impl Started {
    /// Returns the limits under which the run goes.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits.as_deref().copied().unwrap_or_default()
    }
}

/// What follows a failed or lost attempt.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Next {
    /// The next attempt may start at that moment; this record is its intent.
    #[serde(rename = "r")]
    Retry {
        /// Not before.
        at: Timestamp,
    },
    /// No more attempts: the error goes to the workflow's code.
    #[serde(rename = "g")]
    GiveUp,
    /// No more attempts: the step waits for an operator, the run stays as it is.
    #[serde(rename = "p")]
    Park,
}

/// How a run ended.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// With a value.
    #[serde(rename = "ok")]
    Completed(Payload),
    /// With an error of the workflow's code.
    #[serde(rename = "err")]
    Failed(Failure),
    /// Because it was asked to stop.
    #[serde(rename = "can")]
    Cancelled {
        /// In the words of whoever asked.
        reason: String,
    },
    /// Because its own deadline passed.
    #[serde(rename = "late")]
    TimedOut,
    /// By an operator, without running its compensations.
    #[serde(rename = "term")]
    Terminated {
        /// In the words of whoever did it.
        reason: String,
        /// Who did it.
        #[serde(default)]
        by: String,
        /// The compensations that did not run, in the order in which they were recorded.
        #[serde(default)]
        skipped: Vec<Skipped>,
    },
    /// Goes on as the next run of the same execution.
    #[serde(rename = "cont")]
    Continued,
}
