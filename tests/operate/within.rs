//! Orders about something within a run: a call is tried now, a wait is skipped, a call is ended from outside.

use super::*;

fn retry(id: &str) -> RetryNow {
    RetryNow::new(id, "ada").reason("it is up again").message_id(format!("retry {id}"))
}

fn done(id: &str) -> CompleteCall {
    CompleteCall::with::<Work>(id, "ada", 3, &2).message_id(format!("done {id}"))
}

async fn not_there(answer: Result<(), Error>, what: &str) {
    match answer {
        Err(Error::Send(error @ SendError::NotThere { .. })) => assert!(error.to_string().contains(what), "{error}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_call_that_waits_is_tried_at_once_and_a_parked_one_with_a_new_budget() {
    alone(async {
        for home in Home::all() {
            let world = World::default();
            STEPS_WELL.store(false, SeqCst);
            STEPPED.store(0, SeqCst);
            let stent = world.start(&home).await;
            for then in [Then::BacksOff, Then::Parks, Then::Steps, Then::Listens] {
                dispatch(&stent, then).await;
            }
            says(&stent, "BacksOff", "attempt 2 not before").await;
            says(&stent, "Steps", "attempt 2 not before").await;
            says(&stent, "Parks", "parked").await;
            says(&stent, "Listens", "operate.word").await;
            for id in ["BacksOff", "Parks"] {
                is_alone(&stent, id).await;
            }
            not_there(stent.retry_now(retry("Listens")).await, "no call waits").await;
            not_there(stent.retry_now(retry("BacksOff").position(2)).await, "no call #2 waits").await;
            world.good.store(true, SeqCst);
            STEPS_WELL.store(true, SeqCst);
            for id in ["BacksOff", "Parks", "Steps"] {
                let handle = stent.handle::<Trip>(id).await.unwrap().unwrap();
                stent.retry_now(retry(id).position(3)).await.unwrap();
                stent.retry_now(retry(id).position(3)).await.expect("the same order again");
                assert_eq!(handle.result().await.unwrap(), 42, "{id}");
                assert_eq!(ordered(&stent, id).await, ["retry now #3 by ada: it is up again"], "{id}");
                let late = stent.retry_now(retry(id).message_id("late")).await;
                assert!(matches!(late, Err(Error::Send(SendError::AlreadyEnded { .. }))), "{late:?}");
            }
            assert_eq!((world.tried.load(SeqCst), STEPPED.load(SeqCst)), (4, 2), "each of the three was tried twice");
            stop(stent).await;
        }
    });
}

#[test]
fn to_try_what_runs_is_refused_by_name_whichever_attempt_it_is_and_begins_nothing() {
    alone(async {
        for home in Home::all() {
            let world = World::default();
            world.fails_first.store(true, SeqCst);
            let stent = world.start(&home).await;
            let handle = dispatch(&stent, Then::WorksAgain).await;
            eventually("its second attempt works", secs(10), async || world.begun.load(SeqCst) == 2).await;
            not_there(stent.retry_now(retry("WorksAgain").position(3)).await, "its attempt runs").await;
            not_there(stent.retry_now(retry("WorksAgain")).await, "no call waits").await;
            world.good.store(true, SeqCst);
            assert_eq!(handle.result().await.unwrap(), 42);
            assert_eq!(world.begun.load(SeqCst), 2);
            assert_eq!(ordered(&stent, "WorksAgain").await, Vec::<String>::new());
            stop(stent).await;
        }
    });
}

#[test]
fn a_sleep_is_over_when_an_operator_says_so_also_over_a_restart() {
    alone(async {
        for home in Home::all() {
            let world = World::default();
            let stent = world.start(&home).await;
            dispatch(&stent, Then::Sleeps).await;
            says(&stent, "Sleeps", "sleep #3").await;
            is_alone(&stent, "Sleeps").await;
            not_there(stent.skip_wait(SkipWait::new("Sleeps", "ada", 2)).await, "no sleep #2").await;
            stent.skip_wait(SkipWait::new("Sleeps", "ada", 3).message_id("skip")).await.unwrap();
            stent.skip_wait(SkipWait::new("Sleeps", "ada", 3).message_id("skip")).await.expect("the same order again");
            stop(stent).await;
            let stent = world.start(&home).await;
            let handle = stent.handle::<Trip>("Sleeps").await.unwrap().unwrap();
            assert_eq!(handle.result().await.unwrap(), 40);
            assert_eq!(ordered(&stent, "Sleeps").await, ["skip the wait #3 by ada"]);
            stop(stent).await;
        }
    });
}

#[test]
fn a_call_is_ended_from_outside_wherever_it_is_and_what_its_attempt_returns_is_not_heard() {
    alone(async {
        for home in Home::all() {
            let world = World::default();
            let stent = world.start(&home).await;
            stent.pause_queue("line").await.unwrap();
            for then in [Then::Works, Then::Queues, Then::Parks, Then::BacksOff] {
                dispatch(&stent, then).await;
            }
            eventually("it works", secs(10), async || world.begun.load(SeqCst) == 1).await;
            says(&stent, "Queues", "waits in queue").await;
            says(&stent, "Parks", "parked").await;
            says(&stent, "BacksOff", "attempt 2").await;
            not_there(stent.complete_call(CompleteCall::with::<Work>("Works", "ada", 9, &2)).await, "no call #9").await;
            not_there(stent.complete_call(CompleteCall::with::<Book>("Works", "ada", 3, &2)).await, "operate.work").await;
            for id in ["Works", "Queues"] {
                let handle = stent.handle::<Trip>(id).await.unwrap().unwrap();
                stent.complete_call(done(id)).await.unwrap();
                assert_eq!(handle.result().await.unwrap(), 42, "{id}");
                stent.complete_call(done(id)).await.expect("the same order again");
                assert_eq!(ordered(&stent, id).await, ["complete with a value #3 by ada"]);
            }
            eventually("its act is told to stop", secs(10), async || world.stopped.load(SeqCst) == 1).await;
            assert!(stent.queues().await.unwrap().iter().all(|queue| queue.waiting == 0));
            for id in ["Parks", "BacksOff"] {
                let handle = stent.handle::<Trip>(id).await.unwrap().unwrap();
                let no = CompleteCall::failed::<Fail>(id, "ada", 3, &AppError::new("never")).reason("given up");
                stent.complete_call(no).await.unwrap();
                match handle.result().await {
                    Err(RunError::Failed(error)) => assert!(error.to_string().contains("never"), "{error}"),
                    other => panic!("{id}: {other:?}"),
                }
                assert_eq!(ordered(&stent, id).await, ["complete with a failure #3 by ada: given up"]);
            }
            assert_eq!(world.undone.load(SeqCst), 2, "what failed was undone");
            stop(stent).await;
        }
    });
}
