//! The story: programs that nobody has thought of. Each is grown from a seed, run, and compared with what a model of the same tree says
//! must come of it: its value, its errors, what was done and how often it failed, what was undone and in which order, what became of
//! its children. On every store; with every execution out of memory whenever it comes to rest; paused; reset; and killed with SIGKILL, again
//! and again.
//!
//! `STENT_PROGRAM=<seed>` runs one program alone, `STENT_SEED` sets where the seeds begin.

#![cfg(all(feature = "failpoints", feature = "sqlite"))]
#![allow(clippy::print_stdout, reason = "seeds are printed for whoever repeats them")]

use std::{collections::HashMap, rc::Rc, time::Duration};

use futures::future::join_all;
use parking_lot::Mutex;
use stent::{
    Builder,
    prelude::*,
    store::{
        Reader, Store,
        sqlite::{SqliteOptions, SqliteStore},
    },
};
use support::{Home, Rng, alone, unended};

mod driver;
mod interpreter;
mod kills;
mod language;
mod log;
mod model;
mod resets;
#[path = "../support/mod.rs"]
mod support;

use language::{Grown, NEWER, grow};
use log::Ends;

/// Programs that found something once.
const FOUND: &[u64] = &[608_120_243, 1_755_691_814, 1_755_691_815];

/// Every attempt that was begun: execution, place, attempt.
static BEGUN: Mutex<Option<Begun>> = Mutex::new(None);

type Begun = HashMap<(String, String, u32), u32>;

fn count(execution: &str, what: &str, attempt: u32) {
    let key = (execution.to_owned(), what.to_owned(), attempt);
    *BEGUN.lock().get_or_insert_default().entry(key).or_default() += 1;
}

/// The seeds of one test: those that found something, and as many fresh ones as it has time for.
fn seeds(test: &str, fresh: u64) -> Vec<u64> {
    if let Some(one) = std::env::var("STENT_PROGRAM").ok().and_then(|text| text.parse().ok()) {
        return vec![one];
    }
    let first = NEWER + Rng::from_env(test).next() % 1_000_000_000;
    println!("{test}: programs {first} to {}", first + fresh - 1);
    FOUND.iter().copied().chain(first..first + fresh).collect()
}

fn runtime(home: &Home, inline: bool) -> Builder {
    interpreter::register(home.open(), inline).passivate_after(millis(8)).look_ahead(millis(3))
}

/// Compares all programs of a home with the model.
fn judge(logs: &std::collections::BTreeMap<String, log::Told>, programs: &[Grown], killed: bool) {
    let mut runs = 0;
    for program in programs {
        let ends = if program.cancel_after.is_some() { Ends::OrCancelled } else { Ends::ByItself };
        log::check(logs, &program.name, &model::expect(program), ends, killed);
        runs += 1;
    }
    log::check_shared(logs);
    println!("{runs} programs of {} runs are as the model says", logs.len());
}

async fn reader(home: &Home) -> (Box<dyn Store>, Rc<dyn Reader>) {
    let store: Box<dyn Store> = match home {
        Home::Memory(store) => Box::new(store.clone()),
        Home::Sqlite(_) => Box::new(SqliteStore::open(&home.file(), SqliteOptions::default()).await.unwrap()),
        #[cfg(feature = "postgres")]
        Home::Postgres(database) => {
            use stent::store::postgres::{PostgresOptions, PostgresStore};
            Box::new(PostgresStore::open(&database.url(), PostgresOptions::default()).await.unwrap())
        }
    };
    let reader = store.reader();
    (store, reader)
}

/// What is done to programs meanwhile, which must not change what comes of them.
#[derive(Clone, Copy, Default)]
struct Meanwhile {
    /// Executions leave memory whenever they come to rest.
    evicts: bool,
    /// The calls run on the engine's own thread.
    inline: bool,
    /// An operator pauses them, and lets them go on.
    pauses: bool,
}

/// Runs programs, a crowd of them at a time, and compares.
async fn run(home: &Home, seeds: &[u64], Meanwhile { evicts, inline, pauses }: Meanwhile) {
    *BEGUN.lock() = None;
    let _ = interpreter::ACTS.set(count);
    let builder = runtime(home, inline);
    let stent = if evicts { builder.evict_always() } else { builder }.spawn().await.unwrap();
    let programs: Vec<Grown> = seeds.iter().map(|seed| grow(*seed)).collect();
    for crowd in programs.chunks(50) {
        join_all(crowd.iter().map(|program| driver::drive(&stent, program, pauses, |_| {}))).await;
    }
    // Children that were stopped with their parents, and those that go on by themselves.
    support::eventually("everything ends", Duration::from_secs(30), async || unended(&stent).await.is_empty()).await;
    stent.shutdown(Shutdown::within(secs(10))).await.unwrap();
    let (mut store, reader) = reader(home).await;
    judge(&log::read(reader).await, &programs, false);
    store.close().await.unwrap();
    // Nobody died, so no attempt may have been begun twice; a closure has no number, and no retries.
    for ((execution, what, attempt), times) in BEGUN.lock().take().unwrap_or_default() {
        assert_eq!(times, 1, "{execution}: attempt {attempt} of {what} was begun {times} times");
    }
}

#[test]
fn a_program_does_what_its_model_says_on_every_store() {
    alone(async {
        for (home, fresh) in Home::all().into_iter().zip([300, 150, 100]) {
            let meanwhile = Meanwhile { inline: fresh == 150, ..Meanwhile::default() };
            run(&home, &seeds("programs", fresh), meanwhile).await;
        }
    });
}

#[test]
fn a_program_does_what_its_model_says_though_memory_forgets_it_at_every_rest() {
    alone(async {
        for (home, fresh) in Home::all().into_iter().zip([200, 100, 60]) {
            let meanwhile = Meanwhile { evicts: true, inline: fresh == 200, pauses: false };
            run(&home, &seeds("programs without memory", fresh), meanwhile).await;
        }
    });
}

#[test]
fn a_program_does_what_its_model_says_though_it_is_paused_and_let_go_on_again_and_again() {
    alone(async {
        for (home, fresh) in Home::all().into_iter().zip([100, 50, 25]) {
            let meanwhile = Meanwhile { inline: fresh == 50, pauses: true, ..Meanwhile::default() };
            run(&home, &seeds("paused programs", fresh), meanwhile).await;
        }
    });
}

#[test]
fn a_program_does_what_its_model_says_though_it_is_paused_and_memory_forgets_it_at_every_rest() {
    alone(async {
        for (home, fresh) in Home::all().into_iter().zip([60, 30, 25]) {
            let meanwhile = Meanwhile { evicts: true, inline: fresh == 60, pauses: true };
            run(&home, &seeds("paused programs without memory", fresh), meanwhile).await;
        }
    });
}
