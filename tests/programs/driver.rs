//! Whoever is outside of a program: dispatches it, says what it waits for, cancels it if that is planned, and waits for its end. Everything
//! has a name of its own, so that a driver which comes back after a crash may say all of it again.

use stent::{Ask, Error, SendError, Stent, UpdateError, prelude::*};

use crate::{
    interpreter::{Go, HowFar, Program, Raise},
    language::Grown,
};

/// Drives a program to its end; `acked` is called once it is dispatched.
pub(crate) async fn drive(stent: &Stent, program: &Grown, acked: impl Fn(&str)) {
    let name = &program.name;
    let handle = stent.dispatch(Dispatch::new(Program::of(program)).id(name)).await.expect("a dispatch is taken");
    acked(name);
    let all = futures_util::future::join3(signals(stent, program), updates(stent, program), cancels(stent, program));
    let ((), made, ()) = all.await;
    match tokio::time::timeout(secs(60), handle.result()).await {
        Ok(Ok(_) | Err(RunError::Failed(_) | RunError::Cancelled { .. })) => {}
        Ok(Err(other)) => panic!("{name}: {other}"),
        Err(_) => {
            let told = stent.describe(name).await.expect("it can be described");
            panic!("{name} does not end: {told:#?}\n{:#?}", program.body);
        }
    }
    if made > 0 {
        // Long ago, in whichever run.
        assert_eq!(update(stent, program, made / 2).await, Some(made / 2 + 1), "{name} answers differently");
    }
}

async fn signals(stent: &Stent, program: &Grown) {
    for number in 0..program.signals {
        let go = SendSignal::new(&program.name, &Go(number)).message_id(format!("go-{number}"));
        taken_or_over(program, stent.signal(go).await);
    }
}

/// Sends the updates; returns how many were made.
async fn updates(stent: &Stent, program: &Grown) -> u32 {
    let name = &program.name;
    for number in 0..program.updates {
        let Some(answer) = update(stent, program, number).await else { return number };
        assert_eq!(answer, number + 1, "{name}: the answer to update {number}");
        let (_, made) = stent.query(Ask::new(name, &HowFar)).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(made > number, "{name}: {made} are made behind the answer to update {number}");
        if number % 3 == 1 {
            assert_eq!(update(stent, program, number / 2).await, Some(number / 2 + 1), "{name} answers differently");
        }
    }
    program.updates
}

/// Sends an update, or sends it again; returns the answer, if the program did not end without it.
async fn update(stent: &Stent, program: &Grown, number: u32) -> Option<u32> {
    let raise = SendUpdate::new(&program.name, &Raise(number)).update_id(format!("up-{number}"));
    match stent.update(raise).await {
        Ok(answer) => Some(answer),
        Err(UpdateError::Send(SendError::AlreadyEnded { .. })) => None,
        Err(UpdateError::NotTaken(why)) if why.contains("its code has returned") => None,
        Err(other) => panic!("{}: update {number}: {other}", program.name),
    }
}

async fn cancels(stent: &Stent, program: &Grown) {
    let Some(after) = program.cancel_after else { return };
    tokio::time::sleep(millis(after)).await;
    taken_or_over(program, stent.cancel(Cancel::new(&program.name).reason("planned")).await);
}

/// A program may have ended before it was told everything.
fn taken_or_over(program: &Grown, sent: Result<(), Error>) {
    match sent {
        Ok(()) | Err(Error::Send(SendError::AlreadyEnded { .. })) => {}
        Err(other) => panic!("{}: {other}", program.name),
    }
}
