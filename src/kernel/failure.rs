//! A user's failure as data: what is recorded when an attempt or a workflow ends with an error, identical after any number
//! of hops.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    id::{Attempt, Position, RunId},
    payload::Payload,
};

/// Why an attempt or a run failed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Failure(Box<Parts>);

/// Behind a pointer: results are moved about far more often than they are failures.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Parts {
    kind: String,
    message: String,
    details: Option<Payload>,
    causes: Vec<String>,
    backtrace: Option<String>,
    is_final: bool,
    retry_after: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<Box<Origin>>,
}

/// Where a failure first happened. It is kept wherever the failure goes from there.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Origin {
    /// The run, whose log says more: which node, when, and what came before.
    pub run: RunId,
    /// The name of the activity or step, or of the workflow itself.
    pub name: String,
    /// Which call and which attempt of it; `None` for the workflow itself.
    pub call: Option<(Position, Attempt)>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Origin { run, name, call } = self;
        match call {
            Some((position, attempt)) => write!(f, "{name}, attempt {attempt} of {run}/{position}"),
            None => write!(f, "{name} of {run}"),
        }
    }
}

/// The kind of a failure that the user's own error type describes and gives no other name; the typed value is in the details.
pub const KIND_ERROR: &str = "error";
/// The kind of a panic in user code.
pub const KIND_PANIC: &str = "panic";
/// The kind of an attempt that ran out of one of its four limits; the limit is named behind a colon.
pub const KIND_TIMEOUT: &str = "timeout";
/// The kind of an attempt whose effect is unknown and that must not run again.
pub const KIND_MAYBE_DONE: &str = "maybe_done";
/// The kind of a call that lost too many attempts with their nodes.
pub const KIND_LOST: &str = "lost";
/// The kind of a value that could not be encoded or decoded.
pub const KIND_CODEC: &str = "codec";
/// The kind of a value or history over its limit.
pub const KIND_LIMIT: &str = "limit";
/// The kind of an attempt that ended because it was told to stop.
pub const KIND_CANCELLED: &str = "cancelled";
/// The kind of a transaction that this store cannot run, or that it rolled back.
pub const KIND_STORE: &str = "store";
/// The kind of a call or child whose options make no sense.
pub const KIND_INVALID: &str = "invalid";
/// The kind of a child that could not be begun because its id is in use.
pub const KIND_ID_IN_USE: &str = "id_in_use";
/// The kind of a question that nobody answers.
pub const KIND_UNANSWERED: &str = "unanswered";
/// The kind of an activity whose actor is gone.
pub const KIND_HANDLER_GONE: &str = "handler_gone";

impl Failure {
    /// Makes a failure of the given kind.
    #[must_use]
    pub fn new(kind: impl Into<String>, message: impl Into<String>) -> Failure {
        Failure(Box::new(Parts {
            kind: kind.into(),
            message: message.into(),
            details: None,
            causes: Vec::new(),
            backtrace: None,
            is_final: false,
            retry_after: None,
            origin: None,
        }))
    }

    /// Adds the typed error, encoded.
    #[must_use]
    pub fn with_details(mut self, details: Payload) -> Failure {
        self.0.details = Some(details);
        self
    }

    /// Adds the messages of the errors behind this one, nearest first.
    #[must_use]
    pub fn with_causes(mut self, causes: Vec<String>) -> Failure {
        self.0.causes = causes;
        self
    }

    /// Adds where it happened.
    #[must_use]
    pub fn with_backtrace(mut self, backtrace: impl Into<String>) -> Failure {
        self.0.backtrace = Some(backtrace.into());
        self
    }

    /// Says where it happened, unless that is known.
    #[must_use]
    pub fn with_origin(mut self, origin: impl FnOnce() -> Origin) -> Failure {
        self.0.origin.get_or_insert_with(|| Box::new(origin()));
        self
    }

    /// Says when to try again, instead of the policy's own wait.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Failure {
        self.0.retry_after = Some(wait);
        self
    }

    /// Says that trying again is of no use.
    #[must_use]
    pub fn into_final(mut self) -> Failure {
        self.0.is_final = true;
        self
    }

    /// Returns the kind, by which policies and code tell failures apart.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.0.kind
    }

    /// Returns the message, for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns the typed error, encoded, if there is one.
    #[must_use]
    pub fn details(&self) -> Option<&Payload> {
        self.0.details.as_ref()
    }

    /// Returns the messages of the errors behind this one, nearest first.
    #[must_use]
    pub fn causes(&self) -> &[String] {
        &self.0.causes
    }

    /// Returns where it happened, if that is known.
    #[must_use]
    pub fn backtrace(&self) -> Option<&str> {
        self.0.backtrace.as_deref()
    }

    /// Returns where it first happened, if it came from elsewhere than the place where it is found.
    #[must_use]
    pub fn origin(&self) -> Option<&Origin> {
        self.0.origin.as_deref()
    }

    /// How many bytes it is made of.
    pub(crate) fn bytes(&self) -> usize {
        let texts = self.0.kind.len() + self.0.message.len() + self.0.causes.iter().map(String::len).sum::<usize>();
        let origin = self.0.origin.as_ref().map_or(0, |origin| origin.run.id.len() + origin.name.len());
        texts + origin + self.0.backtrace.as_ref().map_or(0, String::len) + self.0.details.as_ref().map_or(0, |d| d.bytes.len())
    }

    /// Returns this failure, or a short one of kind [`KIND_LIMIT`] when it is larger than `most` bytes. Whether it is tried
    /// again does not change by that.
    pub(crate) fn bounded(self, most: usize) -> Failure {
        let size = self.bytes();
        if size <= most {
            return self;
        }
        let begin: String = self.0.message.chars().take(200).collect();
        let text = format!("the error has {size} bytes, the limit is {most}; it begins with: {begin}");
        let mut short = Failure::new(KIND_LIMIT, text);
        (short.0.is_final, short.0.retry_after, short.0.origin) = (self.0.is_final, self.0.retry_after, self.0.origin);
        short
    }

    /// Tells whether trying again is of no use.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.0.is_final
    }

    /// Returns when to try again, if the failure says so itself.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        for cause in &self.0.causes {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}
