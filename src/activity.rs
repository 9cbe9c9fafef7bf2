//! What an activity is: an ordinary message with a stable name. Who handles it (an actor, an async closure) is decided at
//! registration. And what an error may say about itself.

use std::{borrow::Cow, fmt, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::kernel::{
    failure::{Failure, KIND_ERROR, Origin},
    payload::Payload,
};

/// A value that can be stored: argument, result, error, signal.
///
/// What is stored outlives the code that stored it, so a type that changes must still read what it was. Fields have names in the
/// store: their order does not matter, unknown ones are passed over, and a new one with `#[serde(default)]` may be missing
/// (`#[serde(alias = "…")]` reads it under its former name). What takes more than that is said once, at the type, and holds wherever such a
/// value is read, be it in a log, an inbox or a shared result:
///
/// ```
/// # use stent::prelude::*;
/// #[derive(Serialize, Deserialize)]
/// #[serde(from = "Stored")]
/// struct Amount { cents: i64, currency: String }
///
/// /// Every shape that an amount was ever stored in, newest first.
/// #[derive(Deserialize)]
/// #[serde(untagged)]
/// enum Stored { Now { cents: i64, currency: String }, Was { cents: i64 } }
///
/// impl From<Stored> for Amount {
///     fn from(stored: Stored) -> Amount {
///         match stored {
///             Stored::Now { cents, currency } => Amount { cents, currency },
///             Stored::Was { cents } => Amount { cents, currency: "EUR".into() },
///         }
///     }
/// }
/// ```
///
/// A value that a workflow's code cannot read (its argument, a result, a signal, the end of a child) blocks the run for this build, by name;
/// nothing is changed, and a build that can read it goes on. An activity whose argument cannot be read fails for good, kind `codec`,
/// and an update is refused: change such types with the old shape in mind. Whoever reads a result or a published value gets an error.
/// Nodes of the former build cannot read the new shape: give a workflow that changes so another [`VERSION`](crate::Workflow::VERSION)
/// while both are up, or deploy first what reads both shapes and still writes the old one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be stored",
    note = "what goes into a log is plain data that owns what it holds: derive `serde::Serialize` and `serde::Deserialize` for it"
)]
pub trait Durable: Serialize + DeserializeOwned + 'static {}
impl<T: Serialize + DeserializeOwned + 'static> Durable for T {}

/// An error that can be stored and comes back as the same type.
///
/// Every `std::error::Error` that is [`Durable`] is one; [`AppError`](crate::AppError) is the `?`-friendly default.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the error of a workflow or an activity",
    note = "an error is stored as it is: derive `serde::Serialize`, `serde::Deserialize` and `thiserror::Error` for it, or use `AppError`, into which `?` turns any error"
)]
pub trait DurableError: Durable + fmt::Display {
    /// Returns the messages of the errors behind this one, nearest first.
    fn causes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Returns what it means for the retries of an activity or step that failed with it. The default leaves that to the policy.
    fn advice(&self) -> Advice {
        Advice::default()
    }

    /// Returns where it first happened, if it knows.
    fn origin(&self) -> Option<&Origin> {
        None
    }

    /// Hears where it first happened, as it is handed to a workflow or to whoever waits for one. The default forgets it.
    fn came_from(&mut self, origin: &Origin) {
        let _ = origin;
    }
}

/// What an error means for the retries of whatever failed with it, recorded with the failure. Said by [`Activity::advice`], or by the error
/// itself ([`DurableError::advice`], [`AppError`](crate::AppError)).
///
/// ```
/// # use stent::{Advice, prelude::*};
/// # #[derive(Debug, thiserror::Error, Serialize, Deserialize)] #[error("no")]
/// enum PayError { Declined, Busy { seconds: u64 }, Unreachable }
/// # #[derive(Serialize, Deserialize)] struct Charge;
/// impl Activity for Charge {
///     const NAME: &'static str = "pay.charge";
///     type Output = String;
///     type Error = PayError;
///
///     fn advice(error: &PayError) -> Advice {
///         match error {
///             PayError::Declined => Advice::give_up().named("declined"),
///             PayError::Busy { seconds } => Advice::after(secs(*seconds)),
///             PayError::Unreachable => Advice::default(),
///         }
///     }
/// }
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Advice {
    pub(crate) name: Option<Cow<'static, str>>,
    pub(crate) is_final: bool,
    pub(crate) after: Option<Duration>,
}

impl Advice {
    /// Trying again is of no use: the error goes to the workflow, or parks the call, at once.
    #[must_use]
    pub fn give_up() -> Advice {
        Advice { is_final: true, ..Advice::default() }
    }

    /// Not before so long, in place of the policy's own wait; the policy's limits of number and time hold. For a server that says when
    /// it will be there again.
    #[must_use]
    pub fn after(wait: Duration) -> Advice {
        Advice { after: Some(wait), ..Advice::default() }
    }

    /// Names the failure, for people and for [`Retry::except`](crate::Retry::except); at most 255 bytes, the rest is cut off. Without a name
    /// it is of kind `error`.
    #[must_use]
    pub fn named(mut self, name: impl Into<Cow<'static, str>>) -> Advice {
        let name = name.into();
        let end = name.floor_char_boundary(255);
        self.name = Some(if end < name.len() { name[..end].to_owned().into() } else { name });
        self
    }
}

impl<T: Durable + std::error::Error> DurableError for T {
    fn causes(&self) -> Vec<String> {
        crate::error::causes_of(self)
    }
}

/// A side effect that the runtime runs at least once and records exactly once.
///
/// The type is the message: its fields are the arguments. Register a handler for it with
/// `Builder::activity` (or `Builder::inline`), call it from a workflow with `Cx::call`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an activity",
    note = "an activity is a message: `impl Activity for {Self}` says its stored name, what it returns and how it fails; another workflow is begun with `cx.child(…)`"
)]
pub trait Activity: Durable + Send {
    /// The stored name: stable for ever, unique in the program, never a Rust path. For example `"pay.charge"`.
    const NAME: &'static str;
    /// Names that it had before. Calls that are recorded under one of them are calls of this activity: those that are over, those that
    /// still run or wait in a queue, and compensations. A former name stays here until no run that bears it is left, and is given to one
    /// activity only. Values that were shared under a former name (a memo) are not found under the new one: their keys have the name in them.
    const ALIASES: &'static [&'static str] = &[];
    /// What it returns.
    type Output: Durable + Send;
    /// How it fails.
    type Error: DurableError + Send;

    /// Returns what an error means for the next attempt. Asked where the attempt ran, and recorded: in replay nobody asks again. The default
    /// is the error's own advice.
    fn advice(error: &Self::Error) -> Advice {
        error.advice()
    }
}

/// Turns a typed error into what is recorded. What failed is the act: an error that cannot be encoded is still a failure of its kind,
/// open to retry, only without the typed value.
pub(crate) fn failure_of<E: DurableError>(error: &E, advice: Advice, what: impl fmt::Display) -> Failure {
    let mut causes = error.causes();
    let failure = Failure::new(advice.name.unwrap_or(Cow::Borrowed(KIND_ERROR)), error.to_string());
    let failure = match Payload::encode(error, what) {
        Ok(details) => failure.with_details(details),
        Err(codec) => {
            causes.push(codec.to_string());
            failure
        }
    };
    let failure = failure.with_causes(causes);
    let failure = error.origin().into_iter().fold(failure, |failure, origin| failure.with_origin(|| origin.clone()));
    let failure = advice.after.into_iter().fold(failure, Failure::with_retry_after);
    if advice.is_final { failure.into_final() } else { failure }
}
