//! The kernel against a small world in memory: a store of encoded commits, attempts that end when the test says so, time
//! that jumps, crashes and evictions at any point. Everything random comes from a seed, which a failure prints and
//! `STENT_SEED` sets.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    blocked::Blocked,
    chain::Onward,
    codec::{self, Record},
    event::{Child, Command, Commit, Event, Fact, MessageBody, Outcome, Started, StepPlace, TaskEnd, Tell, child_message},
    failure::Failure,
    id::{Attempt, BuildId, Incarnation, Position, RunId},
    instance::Begin,
    limits::Limits,
    payload::Payload,
    published::Publication,
    random::mix,
    run::{Arrival, Decision, Effect, Run, Writer},
    tape::StepWork,
    time::Timestamp,
};
use crate::{Activity, AppError, Signal, Workflow};

mod again;
mod attempts;
mod chains;
mod children;
mod drops;
mod forks;
mod formats;
mod handed;
mod letters;
mod maps;
mod memos;
#[cfg(feature = "actors")]
mod operated;
mod orders;
mod patches;
mod published;
mod queues;
mod rails;
mod sagas;
mod steps;
mod talk;
mod updates;
mod waits;
mod world;

use world::World;

/// Numbers from a seed.
struct Dice(u64, u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        Dice(seed, 0)
    }

    fn below(&mut self, n: usize) -> usize {
        self.1 += 1;
        usize::try_from(mix(self.0, self.1) % n.max(1) as u64).unwrap()
    }
}

/// The seeds of a random test: `count` of them, or the one in `STENT_SEED`.
fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("STENT_SEED") {
        Ok(seed) => vec![seed.parse().expect("STENT_SEED is a number")],
        Err(_) => (0..count).collect(),
    }
}

/// Names the seed when the test that holds it fails.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with STENT_SEED={}", self.0);
        }
    }
}

/// The activity of most tests: it says what it does.
#[derive(Serialize, Deserialize, Clone, Debug)]
struct Act(String);

impl Activity for Act {
    const NAME: &'static str = "act";
    type Output = u64;
    type Error = AppError;
}

fn act(what: &str) -> Act {
    Act(what.to_owned())
}

#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct Word(String);

impl Signal for Word {
    const NAME: &'static str = "word";
}

type Ended = Result<Payload, Failure>;
type Handler = Box<dyn FnMut(&str, Attempt) -> Ended>;

fn value(n: u64) -> Ended {
    Ok(Payload::encode(&n, "a number").unwrap())
}

fn broken(text: &str) -> Ended {
    Err(crate::activity::failure_of(&AppError::new(text), Default::default(), "act"))
}

fn writer(epoch: u64) -> Writer<'static> {
    let incarnation = Incarnation(uuid::Uuid::from_u128(u128::from(epoch)));
    Writer { incarnation, epoch, build: BuildId(1), is_shared: &|queue| queue == "shared" }
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A workflow from a body: `flow!(Name, |cx| -> u64 { … })`.
macro_rules! flow {
    ($name:ident, |$cx:ident| -> $out:ty $body:block) => {
        #[derive(serde::Serialize, serde::Deserialize)]
        struct $name;

        impl crate::Workflow for $name {
            const NAME: &'static str = stringify!($name);
            type Output = $out;
            type Error = crate::AppError;

            async fn run(self, $cx: crate::Cx<Self>) -> Result<$out, crate::AppError> $body
        }
    };
}
use flow;
