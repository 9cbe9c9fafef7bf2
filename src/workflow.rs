//! What a workflow is: a typed message whose `run` is replayed from its log. And what may be said to one:
//! signals, queries, updates.

use crate::{
    activity::{Durable, DurableError},
    cx::Cx,
};

/// A durable function.
///
/// The type is the message: its fields are the arguments. `run` must be deterministic: whatever touches the world goes
/// through [`Cx`], and so do time and randomness. It runs on one thread, so nothing in it need be `Send`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a workflow",
    note = "a workflow is a message: `impl Workflow for {Self}` says its stored name, what it returns, how it fails, and what it does; an activity is called with `cx.call(…)`"
)]
#[allow(async_fn_in_trait, reason = "a run stays on its arbiter: no Send bound is wanted on the future")]
pub trait Workflow: Durable + Send {
    /// The stored name: stable for ever, unique in the program, never a Rust path. For example `"shop.place_order"`.
    const NAME: &'static str;
    /// Names that it had before. Runs that were begun under one of them go on as runs of this workflow (of the same version), and
    /// children that were begun under one are the same children; new runs have the new name. What is stored keeps the name that it has: a
    /// former name stays here until nothing that bears it is left (runs, also of chains, schedules). Each is given to one workflow only.
    const ALIASES: &'static [&'static str] = &[];
    /// The version of the code, recorded with each run; only a node that has this version runs it.
    const VERSION: u32 = 1;
    /// What it returns.
    type Output: Durable + Send;
    /// How it fails.
    type Error: DurableError + Send;

    /// Runs, or replays, the function.
    async fn run(self, cx: Cx<Self>) -> Result<Self::Output, Self::Error>
    where
        Self: Sized;
}

/// A message from outside that a workflow waits for by name.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a signal",
    note = "a signal is a message with a stored name: `impl Signal for {Self} {{ const NAME: &'static str = \"…\"; }}`"
)]
pub trait Signal: Durable {
    /// The stored name: stable for ever. For example `"approval"`.
    const NAME: &'static str;
}

/// A question to a workflow, which it answers from its state without anything being recorded. The type is the question: its fields are
/// the arguments.
pub trait Query: Durable {
    /// The stored name: stable for ever. For example `"cart.contents"`.
    const NAME: &'static str;
    /// What is answered.
    type Answer: Durable + Send;
}

/// A change of a workflow's state from outside, which it checks, makes and answers. The type is the update: its fields are the
/// arguments.
pub trait Update: Durable {
    /// The stored name: stable for ever. For example `"cart.add"`.
    const NAME: &'static str;
    /// What is answered when it was made.
    type Answer: Durable + Send;
    /// Why it is not.
    type Error: DurableError + Send;
}
