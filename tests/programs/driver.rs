//! Whoever is outside of a program: dispatches it, says what it waits for, cancels it if that is planned, and waits for its end. Everything
//! has a name of its own, so that a driver which comes back after a crash may say all of it again.

use stent::{Error, SendError, Stent, prelude::*};

use crate::{
    interpreter::{Go, Program},
    language::Grown,
};

/// Drives a program to its end; `acked` is called once it is dispatched.
pub(crate) async fn drive(stent: &Stent, program: &Grown, acked: impl Fn(&str)) {
    let name = &program.name;
    let handle = stent.dispatch(Dispatch::new(Program::of(program)).id(name)).await.expect("a dispatch is taken");
    acked(name);
    futures_util::join!(signals(stent, program), cancels(stent, program));
    match tokio::time::timeout(secs(60), handle.result()).await {
        Ok(Ok(_) | Err(RunError::Failed(_) | RunError::Cancelled { .. })) => {}
        Ok(Err(other)) => panic!("{name}: {other}"),
        Err(_) => {
            let told = stent.describe(name).await.expect("it can be described");
            panic!("{name} does not end: {told:#?}\n{:#?}", program.body);
        }
    }
}

async fn signals(stent: &Stent, program: &Grown) {
    for number in 0..program.signals {
        let go = SendSignal::new(&program.name, &Go(number)).message_id(format!("go-{number}"));
        taken_or_over(program, stent.signal(go).await);
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
