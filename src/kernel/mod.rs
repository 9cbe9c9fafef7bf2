//! The pure heart: plain values in, plain values out; no clock, no randomness, no store, no actix, no tokio.
//!
//! Reading order: [`event`] (what a log says), `tape` and `instance` (a living workflow), `state` (a log summed up), `run`
//! (a turn: arrivals in, one commit and its effects out), [`codec`] (a commit as bytes).

mod blocked;
pub(crate) mod canonical;
pub mod chain;
pub mod codec;
mod compare;
pub mod event;
pub mod failure;
pub mod fork;
pub mod id;
pub(crate) mod instance;
pub(crate) mod invariant;
pub mod letter;
pub mod limits;
pub mod memo;
pub mod payload;
mod places;
pub(crate) mod published;
pub mod random;
pub mod retry;
pub(crate) mod run;
mod sagas;
pub(crate) mod state;
pub(crate) mod tape;
#[cfg(test)]
mod tests;
pub mod time;
mod undone;
mod wake;

pub use blocked::Blocked;
pub use tape::Misuse;
