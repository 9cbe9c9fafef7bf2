//! What an activity is: an ordinary message with a stable name. Who handles it (an actor, an async closure) is decided at
//! registration.

use std::fmt;

use serde::{Serialize, de::DeserializeOwned};

/// A value that can be stored: argument, result, error, signal.
pub trait Durable: Serialize + DeserializeOwned + 'static {}
impl<T: Serialize + DeserializeOwned + 'static> Durable for T {}

/// An error that can be stored and comes back as the same type.
///
/// Every `std::error::Error` that is [`Durable`] is one; [`AppError`](crate::AppError) is the `?`-friendly default.
pub trait DurableError: Durable + fmt::Display {
    /// Returns the messages of the errors behind this one, nearest first.
    fn causes(&self) -> Vec<String> {
        Vec::new()
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
pub trait Activity: Durable + Send {
    /// The stored name: stable for ever, unique in the program, never a Rust path. For example `"pay.charge"`.
    const NAME: &'static str;
    /// What it returns.
    type Output: Durable + Send;
    /// How it fails.
    type Error: DurableError + Send;
}
