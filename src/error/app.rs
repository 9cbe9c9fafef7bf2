//! The error of applications that need no type of their own. It keeps what it was made of, over any number of hops: what an
//! activity said is what whoever waits for the workflow reads.

use std::{any::Any, borrow::Cow, error::Error as StdError, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::{CallError, ChildError, causes_of};
use crate::{
    activity::{Advice, DurableError},
    kernel::failure::{Failure, Origin},
};

/// An error for applications that need no type of their own: `?` turns every `std::error::Error` into one, keeping its
/// message and the messages of its causes; the error of a call or child that failed with an `AppError` stays the one that it is.
///
/// It may say what it means for the retries of the activity or step that failed with it: [`give_up`](AppError::give_up),
/// [`retry_after`](AppError::retry_after), [`named`](AppError::named).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppError {
    message: String,
    causes: Vec<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    advice: Advice,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<Box<Origin>>,
}

fn is_default(advice: &Advice) -> bool {
    *advice == Advice::default()
}

impl AppError {
    /// Makes an error from a sentence.
    #[must_use]
    pub fn new(message: impl Into<String>) -> AppError {
        AppError { message: message.into(), causes: Vec::new(), advice: Advice::default(), origin: None }
    }

    /// Says that trying again is of no use.
    #[must_use]
    pub fn give_up(mut self) -> AppError {
        self.advice.is_final = true;
        self
    }

    /// Says when to try again, in place of the policy's own wait.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> AppError {
        self.advice.after = Some(wait);
        self
    }

    /// Names it, for people and for [`Retry::except`](crate::Retry::except); see [`Advice::named`].
    #[must_use]
    pub fn named(mut self, name: impl Into<Cow<'static, str>>) -> AppError {
        self.advice = self.advice.named(name);
        self
    }

    /// Returns the name that it was given.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.advice.name.as_deref()
    }

    /// Returns the messages of the errors behind it, nearest first.
    #[must_use]
    pub fn causes(&self) -> &[String] {
        &self.causes
    }

    /// Returns where it first happened, once it has come from a call, a step or a child.
    #[must_use]
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_deref()
    }

    /// What is known of a failure that no error type of the user's describes.
    fn broken(failure: &Failure) -> AppError {
        let (message, causes) = (failure.message().to_owned(), failure.causes().to_vec());
        let origin = failure.origin().cloned().map(Box::new);
        AppError { message, causes, advice: Advice::default().named(failure.kind().to_owned()), origin }
    }
}

impl fmt::Display for AppError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for AppError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for cause in &self.causes {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl DurableError for AppError {
    fn causes(&self) -> Vec<String> {
        self.causes.clone()
    }

    fn advice(&self) -> Advice {
        self.advice.clone()
    }

    fn origin(&self) -> Option<&Origin> {
        self.origin.as_deref()
    }

    fn came_from(&mut self, origin: &Origin) {
        self.origin.get_or_insert_with(|| Box::new(origin.clone()));
    }
}

impl<E: StdError + 'static> From<E> for AppError {
    fn from(error: E) -> Self {
        let any: &dyn Any = &error;
        let (call, child) = (any.downcast_ref::<CallError<AppError>>(), any.downcast_ref::<ChildError<AppError>>());
        match (call, child) {
            (Some(CallError::Failed(inner)), _) | (_, Some(ChildError::Failed(inner))) => inner.clone(),
            (Some(CallError::Broken(failure)), _) | (_, Some(ChildError::Broken(failure))) => AppError::broken(failure),
            _ => AppError { causes: causes_of(&error), ..AppError::new(error.to_string()) },
        }
    }
}
