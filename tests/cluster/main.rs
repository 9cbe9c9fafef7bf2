//! Real processes on one store, mistreated under load. Three jobs, kept apart: the *environment* (`node`, `proxy`, `cluster`
//! and the servers of `support`) starts and breaks things, the *adversary* (`chaos`) decides by a seed what breaks when, and the
//! *auditor* (`checker`) reads histories and side file afterwards and knows only what an undisturbed run would have done.
//!
//! Every story ends the same way (`Cluster::finish`): all is healed, all executions end within a bound, the nodes leave
//! well, no connection is left, and the auditor is content.
//!
//! `STENT_SEED` repeats a run's decisions, `STENT_CHAOS_SECS` sets how long chaos lasts, and a failed test keeps side file
//! and logs in a folder that it names.

#![cfg(all(feature = "failpoints", feature = "sqlite", feature = "postgres"))]
#![allow(clippy::print_stdout, reason = "a seed and what was done by it are printed for whoever repeats it")]

use std::sync::{Mutex, MutexGuard, PoisonError};

use stent::clock::{Clock, SystemClock};

mod alone;
mod chaos;
mod checker;
mod cluster;
mod deployment;
#[cfg(feature = "redis")]
mod hints;
mod limits;
mod network;
mod node;
mod one_file;
mod proxy;
mod server;
#[path = "../support/mod.rs"]
mod support;
mod takeover;
mod under_chaos;

/// Returns the boot time in µs, as it stands in the side file.
fn now() -> u128 {
    SystemClock.boot().as_micros()
}

/// These tests measure times, and each uses the whole machine: they take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
