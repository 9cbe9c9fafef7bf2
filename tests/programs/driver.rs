//! Whoever is outside of a program: dispatches it, says what it waits for, cancels it if that is planned, and waits for its end. Everything
//! has a name of its own, so that a driver which comes back after a crash may say all of it again.

use std::time::Duration;

use stent::{Ask, Error, SendError, Stent, UpdateError, prelude::*};

use tokio::sync::Notify;

use crate::{
    interpreter::{Go, HowFar, Program, Raise, child_id},
    language::{Grown, Pause, Until},
};

/// Within which time whatever is asked is answered. A slow machine takes seconds where several commits and claims come first; what is lost is
/// never answered.
const LONG: Duration = Duration::from_secs(50);

/// How long it is waited for a child that is to be paused, and for something that is to be said.
const PATIENCE: Duration = Duration::from_millis(30);

/// Drives a program to its end, with its pauses if it is to have them; `acked` is called once it is dispatched.
pub(crate) async fn drive(stent: &Stent, program: &Grown, pauses: bool, acked: impl Fn(&str)) {
    let name = &program.name;
    let handle = stent.dispatch(Dispatch::new(Program::of(program)).id(name)).await.expect("a dispatch is taken");
    acked(name);
    let (said, planned) = (Notify::new(), if pauses { &program.pauses[..] } else { &[] });
    let all = futures_util::future::join4(
        signals(stent, program, &said),
        updates(stent, program, &said),
        cancels(stent, program),
        operates(stent, program, planned, &said),
    );
    let ((), made, (), ()) = all.await;
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

async fn signals(stent: &Stent, program: &Grown, said: &Notify) {
    for number in 0..program.signals {
        let go = SendSignal::new(&program.name, &Go(number)).message_id(format!("go-{number}"));
        taken_or_over(&program.name, stent.signal(go).await);
        said.notify_waiters();
    }
}

/// Sends the updates; returns how many were made.
async fn updates(stent: &Stent, program: &Grown, said: &Notify) -> u32 {
    let name = &program.name;
    for number in 0..program.updates {
        said.notify_waiters();
        let Some(answer) = update(stent, program, number).await else { return number };
        assert_eq!(answer, number + 1, "{name}: the answer to update {number}");
        let (_, made) = how_far(stent, name).await;
        assert!(made > number, "{name}: {made} are made behind the answer to update {number}");
        if number % 3 == 1 {
            assert_eq!(update(stent, program, number / 2).await, Some(number / 2 + 1), "{name} answers differently");
        }
    }
    program.updates
}

/// Asks a program how far it is: it answers whatever it does, and also when it has ended.
async fn how_far(stent: &Stent, name: &str) -> (u32, u32) {
    match stent.query(Ask::new(name, &HowFar).within(LONG)).await {
        Ok(told) => told,
        Err(error) => {
            let told = stent.describe(name).await.expect("it can be described");
            panic!("{name}: {error}: {told:#?}\n{:#?}", log_of(stent, name).await);
        }
    }
}

/// Returns what has happened to an execution.
pub(crate) async fn log_of(stent: &Stent, name: &str) -> Vec<stent::Happened> {
    let mut log = Vec::new();
    let Ok(Some(mut events)) = stent.events(name, 0).await else { return log };
    // To the end of what is there by now: one that goes on may say more.
    while let Ok(Ok(Some(event))) = tokio::time::timeout(millis(500), events.next()).await {
        log.push(event);
    }
    log
}

/// Sends an update, or sends it again; returns the answer, if the program did not end without it.
async fn update(stent: &Stent, program: &Grown, number: u32) -> Option<u32> {
    let raise = SendUpdate::new(&program.name, &Raise(number)).update_id(format!("up-{number}")).within(LONG);
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
    taken_or_over(&program.name, stent.cancel(Cancel::new(&program.name).reason("planned")).await);
}

/// Pauses what is to be paused, and lets it go on. A program answers while it is paused, or as soon as it is not.
async fn operates(stent: &Stent, program: &Grown, pauses: &[Pause], said: &Notify) {
    if !pauses.is_empty() {
        // A driver that died may have left it paused before it began, and then it answers nobody. The same orders lift no later pause.
        taken_or_over(&program.name, stent.resume(Resume::new(&program.name).by("a driver")).await);
    }
    for (number, Pause { after, child, until }) in pauses.iter().enumerate() {
        tokio::time::sleep(millis(*after)).await;
        let id = child.map_or_else(|| program.name.clone(), |label| child_id(&program.name, label));
        let pause = pause(stent, &id, number);
        let go_on = async |which: &str| {
            let order = Resume::new(&id).by("a driver").message_id(format!("{which}-{number}"));
            taken_or_over(&id, stent.resume(order).await);
        };
        match until {
            // Which of them comes first is nobody's business; behind both it is let go on.
            Until::AtOnce => {
                let (there, ()) = futures_util::future::join(pause, go_on_if_there(stent, &id, number)).await;
                if !there {
                    continue;
                }
                go_on("resume").await;
            }
            Until::After(_) | Until::Said => {
                if !pause.await {
                    continue;
                }
                let wait = async {
                    match until {
                        Until::After(span) => tokio::time::sleep(millis(*span)).await,
                        _ => _ = tokio::time::timeout(PATIENCE, said.notified()).await,
                    }
                    go_on("resume").await;
                };
                let asks = async {
                    if child.is_none() {
                        how_far(stent, &id).await;
                    }
                };
                futures_util::future::join(wait, asks).await;
            }
        }
    }
}

/// Pauses an execution; tells whether there is one.
async fn pause(stent: &Stent, id: &str, number: usize) -> bool {
    let order = PauseExecution::new(id, "a driver").message_id(format!("pause-{number}"));
    let since = std::time::Instant::now();
    loop {
        match stent.pause(order.clone()).await {
            Err(Error::Send(SendError::Unknown(_))) if since.elapsed() < PATIENCE => tokio::time::sleep(millis(1)).await,
            Err(Error::Send(SendError::Unknown(_))) => return false,
            told => {
                taken_or_over(id, told);
                return true;
            }
        }
    }
}

async fn go_on_if_there(stent: &Stent, id: &str, number: usize) {
    let order = Resume::new(id).by("a driver").message_id(format!("hasty-{number}"));
    match stent.resume(order).await {
        Err(Error::Send(SendError::Unknown(_))) => {}
        told => taken_or_over(id, told),
    }
}

/// A program may have ended before it was told everything.
fn taken_or_over(id: &str, sent: Result<(), Error>) {
    match sent {
        Ok(()) | Err(Error::Send(SendError::AlreadyEnded { .. })) => {}
        Err(other) => panic!("{id}: {other}"),
    }
}
