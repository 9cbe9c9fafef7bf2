//! What runs are told: the messages of their inboxes, and those that runs send each other.

use serde::{Deserialize, Serialize};

use super::{
    super::{
        failure::Failure,
        id::{Attempt, Position, RunId},
        memo::MemoWord,
        payload::Payload,
    },
    Order, Outcome, Parent,
};

/// Why a message had no effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Ignored {
    /// A message of the same id was taken before.
    #[serde(rename = "d")]
    Duplicate,
    /// What it refers to is over.
    #[serde(rename = "l")]
    Late,
}

/// What a message to an execution says.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum MessageBody {
    /// A signal of the user's.
    #[serde(rename = "s")]
    Signal {
        /// The signal's stored name.
        name: String,
        /// Its value.
        payload: Payload,
    },
    /// An update of the user's: a change of the workflow's state, with an answer.
    #[serde(rename = "u")]
    Update {
        /// The update's stored name.
        name: String,
        /// Its value.
        payload: Payload,
    },
    /// Asks the run to stop: delivered at its next await.
    #[serde(rename = "c")]
    Cancel {
        /// In the words of whoever asked.
        reason: String,
    },
    /// Gives a parked call a new budget of attempts.
    #[serde(rename = "r")]
    Retry {
        /// Which call; `None` means every parked one.
        position: Option<Position>,
    },
    /// An attempt that went through a shared queue is over.
    #[serde(rename = "t")]
    Task {
        /// Which call.
        position: Position,
        /// Which attempt.
        attempt: Attempt,
        /// How.
        end: TaskEnd,
        /// The heartbeat details that it left.
        details: Option<bytes::Bytes>,
    },
    /// A child is over, or could not be begun.
    #[serde(rename = "h")]
    Child {
        /// Where the parent began it.
        position: Position,
        /// How it ended.
        end: Box<Outcome>,
    },
    /// Asks a child to stop, as [`Cancel`](MessageBody::Cancel) does: whoever began it does not wait for it any more. It counts only if
    /// it comes from there, so that an id which was given to another execution harms nobody.
    #[serde(rename = "x")]
    Stop {
        /// Who began it, and where.
        parent: Parent,
    },
    /// An operator orders something about the run.
    #[serde(rename = "o")]
    Order(Box<Order>),
    /// A word about the key of a call that shares its result.
    #[serde(rename = "m")]
    Memo {
        /// Which call.
        position: Position,
        /// Which time of its asking this is about.
        ask: u32,
        /// What is said.
        word: MemoWord,
    },
}

/// A message of one run to another, in the commit of the sender's turn, sent at the batch's time. One to a run that is not the
/// current one of its id, or has ended, is dropped without a word, and so is one whose id is unread in that inbox already. No inbox
/// is too full for it: what one run owes to another must never be lost. It wakes whom a message wakes.
#[derive(Clone, Debug, PartialEq)]
pub struct Tell {
    /// To whom; [`CURRENT_RUN`] stands for whichever run is the current one.
    pub to: RunId,
    /// The message's own id.
    pub message: String,
    /// What it says.
    pub body: MessageBody,
}

/// The number of whichever run of an id is the current one, for whom a message is for: who was told to begin may have continued since.
pub const CURRENT_RUN: u32 = 0;

impl RunId {
    /// Returns the address of whichever run of this id is the current one.
    pub fn current(id: impl Into<String>) -> RunId {
        RunId { id: id.into(), run_no: CURRENT_RUN }
    }
}

impl Tell {
    /// Tells whether it is for this run, which is the current one of its id.
    #[must_use]
    pub fn is_for(&self, current: &RunId) -> bool {
        self.to.id == current.id && (self.to.run_no == CURRENT_RUN || self.to.run_no == current.run_no)
    }
}

impl MessageBody {
    /// Tells whether it is for the execution, whichever its run, and goes along unread when that continues as the next one. What
    /// names a place is for the one run that has it.
    #[must_use]
    pub fn is_for_the_execution(&self) -> bool {
        match self {
            MessageBody::Signal { .. } | MessageBody::Update { .. } | MessageBody::Cancel { .. } | MessageBody::Stop { .. } => {
                true
            }
            MessageBody::Retry { position } => position.is_none(),
            MessageBody::Task { .. } | MessageBody::Child { .. } | MessageBody::Memo { .. } => false,
            MessageBody::Order(order) => order.what.is_for_the_execution(),
        }
    }

    /// Tells whether it is taken though the inbox is full: the end of an attempt, which must not be lost, and an order about the run as such,
    /// which may be what it takes to empty it.
    #[must_use]
    pub fn is_always_taken(&self) -> bool {
        match self {
            MessageBody::Task { .. } => true,
            MessageBody::Order(order) => order.what.is_about_the_run(),
            _ => false,
        }
    }

    /// Returns the order, if it is one.
    #[must_use]
    pub fn order(&self) -> Option<&Order> {
        match self {
            MessageBody::Order(order) => Some(order),
            _ => None,
        }
    }

    /// Returns why a run is to stop, if this asks it to.
    #[must_use]
    pub fn stops(&self) -> Option<String> {
        match self {
            MessageBody::Cancel { reason } => Some(reason.clone()),
            MessageBody::Stop { parent } => Some(format!("{}, which began it, does not wait for it any more", parent.run)),
            _ => None,
        }
    }
}

/// How an attempt in a shared queue ended.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum TaskEnd {
    /// With a value.
    #[serde(rename = "o")]
    Done(Payload),
    /// With a failure: its own, or a limit that ran out.
    #[serde(rename = "f")]
    Failed(Box<Failure>),
    /// With the node that had it: its effect is *maybe done*.
    #[serde(rename = "l")]
    Lost,
}

impl TaskEnd {
    /// How many bytes of payload it has.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            TaskEnd::Done(output) => output.bytes.len(),
            TaskEnd::Failed(failure) => failure.bytes(),
            TaskEnd::Lost => 0,
        }
    }
}

/// How the ids of messages begin that runs send each other. Nobody else may use it: a message that is in an inbox already is not put in
/// again, and the end of a child must never be taken for one that somebody made up.
pub const OUR_MESSAGES: &str = "stent:";

/// Returns the own id of the message in which a parent hears of the end of the child that it began there.
#[must_use]
pub fn child_message(position: Position) -> String {
    format!("{OUR_MESSAGES}child:{position}")
}
