//! Programs that have ended, and go on from a point of their history that nobody has chosen, again and again: what comes of a program is the
//! same. Only programs without children (a child has a name of its own here, and there is one under it already), and such that nobody cancels: what
//! those had not heard by then, nobody says any more.

use std::time::{Duration, Instant};

use futures::future::join_all;
use parking_lot::Mutex;
use stent::{
    Error, Point, ResetError, ResetRun, Stent,
    kernel::fork::{PointError, Spot},
    prelude::*,
};

use crate::{
    BEGUN, driver, interpreter, judge,
    language::{Grown, grow},
    log, model, reader, runtime, seeds,
    support::{Home, Rng, alone, unended},
};

/// How often each program is reset.
const ROUNDS: u32 = 3;

fn point(spot: Spot) -> Point {
    match (spot.commit, spot.event) {
        (0, 0) => Point::Start,
        (commit, 0) => Point::After(commit - 1),
        (commit, event) => Point::Before(commit, event),
    }
}

/// Resets a program to any point; one that is said to be the nearest good one is good.
async fn reset(stent: &Stent, name: &str, rng: &Mutex<Rng>) {
    let (mut asked, mut run_no, mut far) = (None, None, 40);
    loop {
        let any = || {
            let mut rng = rng.lock();
            let mut number = || u32::try_from(rng.next() % (far + 1)).unwrap_or(0);
            let (one, other) = (number(), number());
            match rng.between(0, 5) {
                0 => Point::Start,
                1 => Point::Before(one, other % 6),
                2 => Point::BeforeCall(one),
                3 => Point::BeforeFailure(one),
                _ => Point::After(one),
            }
        };
        let at = asked.unwrap_or_else(any);
        let reset = ResetRun::new(name, at).by("a driver");
        // Of any of its runs, or of the current one.
        let of = run_no.unwrap_or_else(|| u32::try_from(rng.lock().between(0, 5)).unwrap_or(0));
        let reset = if of == 0 { reset } else { reset.run(of) };
        match stent.reset(reset).await {
            Ok(_) => {
                println!("reset {name} to {at:?} of run {of}");
                return;
            }
            Err(Error::Reset(ResetError::UnknownRun(_))) => {}
            Err(Error::Reset(ResetError::Point(PointError::NotGood { before, after, .. }))) => {
                assert!(asked.is_none(), "{name}: {at:?} is called good, and then it is not");
                let good = if rng.lock().between(0, 1) == 0 { before.or(after) } else { after.or(before) };
                (asked, run_no) = (Some(good.map_or(Point::Start, point)), Some(of));
            }
            Err(Error::Reset(ResetError::Point(_))) => {
                assert!(asked.is_none(), "{name}: {at:?} is called good, and is not there");
                far = far * 3 / 4;
            }
            Err(other) => panic!("{name} at {at:?}: {other}"),
        }
    }
}

/// Waits until everything has ended once more.
async fn ends(stent: &Stent, programs: &[Grown]) {
    let begun = Instant::now();
    loop {
        let open = unended(stent).await;
        let Some(run) = open.first() else { return };
        if begun.elapsed() > Duration::from_secs(30) {
            let program = programs.iter().find(|program| program.name == run.id.id);
            let told = stent.describe(&run.id.id).await.expect("it can be described");
            let log = driver::log_of(stent, &run.id.id).await;
            let body = program.map(|program| &program.body);
            panic!("{} of {} do not end: {told:#?} {body:#?}\n{log:#?}", open.len(), programs.len());
        }
        tokio::time::sleep(millis(5)).await;
    }
}

async fn run(home: &Home, seeds: &[u64], evicts: bool) {
    *BEGUN.lock() = None;
    let _ = interpreter::ACTS.set(crate::count);
    let rng = Mutex::new(Rng::from_env("points of resets"));
    let builder = runtime(home, false);
    let stent = if evicts { builder.evict_always() } else { builder }.spawn().await.unwrap();
    let fit = |program: &Grown| program.cancel_after.is_none() && model::expect(program).children.is_empty();
    let programs: Vec<Grown> = seeds.iter().map(|seed| grow(*seed)).filter(fit).collect();
    for crowd in programs.chunks(50) {
        join_all(crowd.iter().map(|program| driver::drive(&stent, program, false, |_| {}))).await;
        for _ in 0..ROUNDS {
            join_all(crowd.iter().map(|program| reset(&stent, &program.name, &rng))).await;
            ends(&stent, crowd).await;
        }
    }
    stent.shutdown(Shutdown::within(secs(10))).await.unwrap();
    let (mut store, reader) = reader(home).await;
    judge(&log::read(reader).await, &programs, false);
    store.close().await.unwrap();
    // A closure has no number, and its name is the same in each run; whatever else was begun has its run's.
    for ((execution, what, attempt), times) in BEGUN.lock().take().unwrap_or_default() {
        let most = if attempt == 0 { 1 + ROUNDS } else { 1 };
        assert!(times <= most, "{execution}: attempt {attempt} of {what} was begun {times} times");
    }
}

#[test]
fn a_program_that_is_reset_again_and_again_to_any_point_still_does_what_its_model_says() {
    alone(async {
        for (home, fresh) in Home::all().into_iter().zip([150, 75, 50]) {
            run(&home, &seeds("reset programs", fresh), fresh == 75).await;
        }
    });
}
