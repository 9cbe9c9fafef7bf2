//! Pausing a run: it keeps still, and what comes meanwhile is kept.

use super::*;

fn pause(id: &str) -> PauseExecution {
    PauseExecution::new(id, "ada").reason("a look").message_id(format!("pause {id}"))
}

fn resume(id: &str) -> Resume {
    Resume::new(id).by("bob").message_id(format!("resume {id}"))
}

/// Waits until a paused run is with nobody, and sees that its row and its description say so.
async fn rests(stent: &Stent, id: &str) {
    eventually(&format!("{id} is paused"), secs(20), async || {
        stent.describe(id).await.unwrap().is_some_and(|told| told.summary.status == Status::Paused)
    })
    .await;
    let told = stent.describe(id).await.unwrap().unwrap();
    assert!(told.moved_by.starts_with("an operator: it is paused by ada at 2"), "{}", told.moved_by);
    assert!(told.moved_by.ends_with(": a look"), "{}", told.moved_by);
    let listed = stent.list(List::new().status(Status::Paused)).await.unwrap();
    let row = listed.iter().find(|row| row.id.id == id).unwrap();
    assert!(row.reason.as_deref().unwrap().starts_with("paused by ada at 2"), "{:?}", row.reason);
    assert_eq!((row.owner, row.wake_at), (None, None));
}

#[test]
fn a_paused_run_takes_no_turn_and_what_came_meanwhile_happens_when_it_goes_on() {
    alone(async {
        for home in Home::all() {
            let world = World::default();
            let stent = world.start(&home).await;
            for then in [Then::Works, Then::Naps, Then::Listens] {
                dispatch(&stent, then).await;
            }
            says(&stent, "Listens", "operate.word").await;
            says(&stent, "Naps", "sleep #3").await;
            eventually("it works", secs(10), async || world.begun.load(SeqCst) == 1).await;
            for id in ["Works", "Naps", "Listens"] {
                stent.pause(pause(id)).await.unwrap();
                stent.pause(pause(id)).await.expect("the same order again");
                stent.pause(PauseExecution::new(id, "eve")).await.expect("it is paused");
            }
            let told = stent.describe("Works").await.unwrap().unwrap();
            assert!(told.moved_by.contains("paused by ada") && told.moved_by.contains("under way"), "{}", told.moved_by);
            world.good.store(true, SeqCst);
            for id in ["Works", "Naps", "Listens"] {
                rests(&stent, id).await;
            }
            stent.signal(SendSignal::new("Listens", &Word(2))).await.unwrap();
            // Longer than the nap.
            tokio::time::sleep(millis(2_200)).await;
            for id in ["Works", "Naps", "Listens"] {
                rests(&stent, id).await;
            }
            stop(stent).await;

            let stent = world.start(&home).await;
            for id in ["Works", "Naps", "Listens"] {
                rests(&stent, id).await;
                let handle = stent.handle::<Trip>(id).await.unwrap().unwrap();
                stent.resume(resume(id)).await.unwrap();
                stent.resume(resume(id)).await.expect("the same order again");
                assert_eq!(handle.result().await.unwrap(), 42, "{id}");
                assert_eq!(ordered(&stent, id).await, ["pause by ada: a look", "resume by bob"], "{id}");
            }
            assert_eq!(world.begun.load(SeqCst), 1, "the act that ended in the pause is not repeated");
            stent.pause(pause("Works")).await.expect("it was carried out");
            let late = stent.pause(pause("Works").message_id("late")).await;
            assert!(matches!(late, Err(Error::Send(SendError::AlreadyEnded { .. }))), "{late:?}");
            stop(stent).await;
        }
    });
}

#[test]
fn a_paused_run_begins_no_attempt_neither_a_next_one_nor_one_of_a_queue() {
    alone(async {
        for home in Home::all() {
            let world = World::default();
            let stent = world.start(&home).await;
            stent.pause_queue("line").await.unwrap();
            dispatch(&stent, Then::Retries).await;
            dispatch(&stent, Then::Queues).await;
            says(&stent, "Retries", "attempt 2").await;
            says(&stent, "Queues", "waits in queue").await;
            for id in ["Retries", "Queues"] {
                stent.pause(pause(id)).await.unwrap();
                rests(&stent, id).await;
            }
            assert!(stent.queues().await.unwrap().iter().all(|queue| queue.waiting == 0), "it stands in no line");
            stent.resume_queue("line").await.unwrap();
            let tried = world.tried.load(SeqCst);
            world.good.store(true, SeqCst);
            tokio::time::sleep(millis(500)).await;
            assert_eq!((world.tried.load(SeqCst), world.begun.load(SeqCst)), (tried, 0));
            for id in ["Retries", "Queues"] {
                let handle = stent.handle::<Trip>(id).await.unwrap().unwrap();
                stent.resume(id).await.unwrap();
                assert_eq!(handle.result().await.unwrap(), 42, "{id}");
            }
            assert_eq!((world.tried.load(SeqCst), world.begun.load(SeqCst)), (tried + 1, 1));
            stop(stent).await;
        }
    });
}

#[test]
fn a_cancel_and_a_deadline_wait_for_the_end_of_a_pause_and_a_termination_does_not() {
    alone(async {
        for home in Home::all() {
            let world = World::default();
            let stent = world.start(&home).await;
            for id in ["cancelled", "late", "terminated", "delayed"] {
                let mut trip = Dispatch::new(Trip { then: Then::Listens }).id(id);
                if id == "late" {
                    trip = trip.deadline(millis(600));
                }
                if id == "delayed" {
                    trip = trip.delay(hours(1));
                }
                stent.dispatch(trip).await.unwrap();
                stent.pause(pause(id)).await.unwrap();
                rests(&stent, id).await;
            }
            stent.cancel(Cancel::new("cancelled").reason("enough")).await.unwrap();
            tokio::time::sleep(millis(700)).await;
            for id in ["cancelled", "late", "delayed"] {
                rests(&stent, id).await;
            }
            stent.terminate(order("terminated")).await.unwrap();
            for id in ["cancelled", "late", "terminated"] {
                let handle = stent.handle::<Trip>(id).await.unwrap().unwrap();
                if id != "terminated" {
                    stent.resume(resume(id)).await.unwrap();
                }
                match (id, handle.result().await) {
                    ("cancelled", Err(RunError::Cancelled { .. }))
                    | ("late", Err(RunError::TimedOut))
                    | ("terminated", Err(RunError::Terminated { .. })) => {}
                    (id, other) => panic!("{id}: {other:?}"),
                }
            }
            let handle = stent.handle::<Trip>("delayed").await.unwrap().unwrap();
            stent.resume(resume("delayed")).await.unwrap();
            stent.signal(SendSignal::new("delayed", &Word(2))).await.unwrap();
            assert_eq!(handle.result().await.unwrap(), 42);
            stop(stent).await;
        }
    });
}

#[test]
fn any_node_pauses_and_lets_go_on_what_another_has_or_none_can_run() {
    alone(async {
        for home in Home::shared() {
            let world = World::default();
            let owner = world.start(&home).await;
            let other = world.acts(home.open()).workflow::<Parent>().spawn().await.unwrap();
            dispatch(&owner, Then::Works).await;
            dispatch(&owner, Then::Listens).await;
            eventually("it works", secs(10), async || world.begun.load(SeqCst) == 1).await;
            other.pause(pause("Works")).await.unwrap();
            // Before what is under way has ended: its owner goes on with it in place.
            other.resume(resume("Works")).await.unwrap();
            other.pause(pause("Works").message_id("again")).await.unwrap();
            world.good.store(true, SeqCst);
            rests(&other, "Works").await;
            says(&owner, "Listens", "operate.word").await;
            is_alone(&owner, "Listens").await;
            stop(owner).await;

            says(&other, "Listens", "this one has not").await;
            other.pause(pause("Listens")).await.unwrap();
            rests(&other, "Listens").await;
            let again = world.start(&home).await;
            rests(&again, "Listens").await;
            other.signal(SendSignal::new("Listens", &Word(2))).await.unwrap();
            for id in ["Works", "Listens"] {
                let handle = other.handle::<Trip>(id).await.unwrap().unwrap();
                other.resume(resume(id).message_id("on")).await.unwrap();
                assert_eq!(handle.result().await.unwrap(), 42, "{id}");
            }
            assert_eq!(world.begun.load(SeqCst), 1, "{:?}", events(&other, "Works").await);
            stop(again).await;
            stop(other).await;
        }
    });
}

#[cfg(feature = "failpoints")]
#[test]
fn a_pause_that_meets_a_crash_at_any_point_holds_until_the_run_is_let_go_on() {
    use stent::failpoints::{self, Action};
    let points = ["persistence.before_commit", "persistence.after_commit", "persistence.before_acks", "execution.before_effects"];
    alone(async {
        for home in Home::both() {
            for (point, hit) in points.into_iter().flat_map(|point| [(point, 1), (point, 2), (point, 3)]) {
                let world = World::default();
                let stent = world.start(&home).await;
                let id = format!("{point} {hit}");
                let handle = stent.dispatch(Dispatch::new(Trip { then: Then::Works }).id(&id)).await.unwrap();
                eventually("it works", secs(10), async || world.begun.load(SeqCst) == 1).await;
                failpoints::set(point, Action::Panic, hit);
                stent.pause(pause(&id)).await.unwrap();
                world.good.store(true, SeqCst);
                rests(&stent, &id).await;
                failpoints::clear();
                failpoints::set(point, Action::Panic, hit);
                stent.resume(resume(&id)).await.unwrap();
                assert_eq!(handle.result().await.unwrap(), 42, "{id}");
                failpoints::clear();
                assert_eq!(ordered(&stent, &id).await, ["pause by ada: a look", "resume by bob"], "{id}");
                stop(stent).await;
            }
        }
    });
}

#[test]
fn an_order_that_is_given_again_lifts_no_later_pause_and_a_used_id_ends_nothing() {
    alone(async {
        for home in Home::all() {
            let world = World::default();
            let stent = world.start(&home).await;
            let id = "again";
            stent.dispatch(Dispatch::new(Trip { then: Then::Listens }).id(id)).await.unwrap();
            stent.pause(pause(id)).await.unwrap();
            rests(&stent, id).await;
            stent.resume(resume(id)).await.unwrap();
            stent.pause(pause(id).message_id("a second one")).await.unwrap();
            rests(&stent, id).await;
            // A late copy of the first order to go on, and of the first to pause.
            stent.resume(resume(id)).await.unwrap();
            stent.pause(pause(id)).await.unwrap();
            rests(&stent, id).await;
            let used = stent.terminate(order(id).message_id("a second one")).await;
            assert!(matches!(used, Err(Error::Send(SendError::Invalid(_)))), "{used:?}");
            rests(&stent, id).await;
            stent.resume(resume(id).message_id("now")).await.unwrap();
            let used = stent.terminate(order(id).message_id("now")).await;
            assert!(matches!(used, Err(Error::Send(SendError::Invalid(_)))), "{used:?}");
            let handle = stent.handle::<Trip>(id).await.unwrap().unwrap();
            stent.signal(SendSignal::new(id, &Word(2))).await.unwrap();
            assert_eq!(handle.result().await.unwrap(), 42);
            stop(stent).await;
        }
    });
}

#[test]
fn a_run_that_waits_for_its_next_try_is_paused_without_beginning_it() {
    alone(async {
        for home in Home::all() {
            let world = World::default();
            let stent = world.start(&home).await;
            let often = Retry::fixed(secs(3_600)).attempts(3);
            for id in ["paused", "over"] {
                stent.dispatch(Dispatch::new(Trip { then: Then::BacksOff }).id(id).retry(often.clone())).await.unwrap();
                // Its act fails for good, and the run with it.
                says(&stent, id, "attempt 2").await;
                let failed = CompleteCall::failed::<Fail>(id, "ada", 3, &AppError::new("never"));
                stent.complete_call(failed).await.unwrap();
                eventually("it is to be tried again", secs(20), async || {
                    stent.describe(id).await.unwrap().unwrap().summary.id.run_no == 2
                })
                .await;
            }
            let tried = world.tried.load(SeqCst);
            stent.pause(pause("paused")).await.unwrap();
            rests(&stent, "paused").await;
            stent.terminate(order("over")).await.unwrap();
            let told = async |id| stent.describe(id).await.unwrap().unwrap();
            assert_eq!(told("paused").await.summary.id.run_no, 2);
            assert_eq!(told("over").await.summary.status, Status::Terminated);
            let begun = async |id| {
                let mut events = stent.events(id, 0).await.unwrap().unwrap();
                let is_last = |what| matches!(what, Happening::Ordered | Happening::Begun);
                loop {
                    match events.next().await.unwrap() {
                        Some(event) if is_last(event.what) => break event.what == Happening::Begun,
                        Some(_) => {}
                        None => break false,
                    }
                }
            };
            assert!(!begun("paused").await && !begun("over").await);
            assert_eq!(world.tried.load(SeqCst), tried);
            stop(stent).await;
        }
    });
}

#[cfg(feature = "failpoints")]
#[test]
fn a_pause_around_a_takeover_by_force_loses_what_was_under_way_once_and_begins_nothing_twice() {
    use stent::failpoints::{self, Action};
    /// When it is paused.
    #[derive(Debug, Clone, Copy)]
    enum Pauses {
        Before,
        Beside,
        Behind,
    }
    alone(async {
        for home in Home::all() {
            // Nor if the run's actor dies where it was let go on, before it was told who was lost.
            for (pauses, dies) in
                [(Pauses::Before, false), (Pauses::Beside, false), (Pauses::Behind, false), (Pauses::Before, true)]
            {
                let world = World::default();
                let stent = world.start(&home).await;
                let id = format!("{pauses:?}{dies}");
                let handle = stent.dispatch(Dispatch::new(Trip { then: Then::Once }).id(&id)).await.unwrap();
                eventually("it works", secs(10), async || world.begun.load(SeqCst) == 1).await;
                if matches!(pauses, Pauses::Before) {
                    stent.pause(pause(&id)).await.unwrap();
                }
                let claims = stent.stats().claims;
                failpoints::set("undertaker.before_look", Action::Panic, 1);
                if !matches!(pauses, Pauses::Beside) {
                    eventually("it is taken by force", secs(20), async || stent.stats().claims > claims).await;
                }
                if matches!(pauses, Pauses::Behind) {
                    says(&stent, &id, "operate.word").await;
                }
                if !matches!(pauses, Pauses::Before) {
                    stent.pause(pause(&id)).await.unwrap();
                }
                rests(&stent, &id).await;
                stent.signal(SendSignal::new(&id, &Word(2))).await.unwrap();
                rests(&stent, &id).await;
                if dies {
                    failpoints::set("execution.before_effects", Action::Panic, 1);
                }
                stent.resume(resume(&id)).await.unwrap();
                assert_eq!(handle.result().await.unwrap(), 42, "{id}");
                let events = events(&stent, &id).await;
                let lost = events.iter().filter(|(what, _)| *what == Happening::Lost).count();
                assert_eq!((world.begun.load(SeqCst), lost), (1, 1), "{id}: {events:?}");
                assert_eq!(ordered(&stent, &id).await, ["pause by ada: a look", "resume by bob"], "{id}");
                stop(stent).await;
            }
        }
    });
}

/// Begins a run, and waits until its step runs.
async fn in_its_step(stent: &Stent, then: Then) -> Handle<Trip> {
    LASTED.store(0, SeqCst);
    LASTS.store(true, SeqCst);
    let handle = dispatch(stent, then).await;
    eventually("it is begun", secs(10), async || LASTED.load(SeqCst) == 1).await;
    handle
}

#[test]
fn a_step_that_runs_when_its_run_is_paused_and_let_go_on_comes_to_its_end_once() {
    alone(async {
        for home in Home::all() {
            let world = World::default();
            let stent = world.start(&home).await;
            let handle = in_its_step(&stent, Then::Lasts).await;
            stent.pause(pause("Lasts")).await.unwrap();
            let (resumed, ()) = futures::join!(stent.resume(resume("Lasts")), async {
                let told = async || {
                    let told = stent.describe("Lasts").await.unwrap().unwrap();
                    told.waits_for.iter().any(|wait| wait.contains("unread")) || !told.moved_by.contains("paused")
                };
                eventually("the order has come", secs(10), told).await;
                tokio::time::sleep(millis(100)).await;
                LASTS.store(false, SeqCst);
            });
            resumed.unwrap();
            assert_eq!(handle.result().await.unwrap(), 42);
            let events = events(&stent, "Lasts").await;
            let lost = events.iter().filter(|(what, _)| *what == Happening::Lost).count();
            assert_eq!((LASTED.load(SeqCst), lost), (1, 0), "{events:?}");
            assert_eq!(ordered(&stent, "Lasts").await, ["pause by ada: a look", "resume by bob"]);
            stop(stent).await;
        }
    });
}

#[test]
fn a_pause_that_is_ordered_while_the_word_to_go_on_waits_is_carried_out_behind_it() {
    alone(async {
        for home in Home::all() {
            let world = World::default();
            let stent = world.start(&home).await;
            let handle = in_its_step(&stent, Then::Lasts).await;
            stent.pause(pause("Lasts")).await.unwrap();
            let again = PauseExecution::new("Lasts", "eve").reason("another look").message_id("again");
            let (resumed, paused, ()) = futures::join!(
                stent.resume(resume("Lasts")),
                async {
                    says(&stent, "Lasts", "1 unread messages").await;
                    stent.pause(again).await
                },
                async {
                    says(&stent, "Lasts", "2 unread messages").await;
                    LASTS.store(false, SeqCst);
                }
            );
            resumed.unwrap();
            paused.unwrap();
            eventually("it is paused again", secs(20), async || {
                stent.describe("Lasts").await.unwrap().is_some_and(|told| told.summary.status == Status::Paused)
            })
            .await;
            stent.resume(Resume::new("Lasts").by("eve").message_id("at last")).await.unwrap();
            assert_eq!(handle.result().await.unwrap(), 42);
            let orders = ["pause by ada: a look", "resume by bob", "pause by eve: another look", "resume by eve"];
            assert_eq!(ordered(&stent, "Lasts").await, orders);
            assert_eq!(LASTED.load(SeqCst), 1);
            stop(stent).await;
        }
    });
}

#[test]
fn a_step_whose_time_is_over_while_its_run_is_paused_holds_up_nobody() {
    alone(async {
        for home in Home::all() {
            let world = World::default();
            let stent = world.start(&home).await;
            let handle = in_its_step(&stent, Then::Hangs).await;
            stent.pause(pause("Hangs")).await.unwrap();
            rests(&stent, "Hangs").await;
            stent.resume(resume("Hangs")).await.unwrap();
            assert_eq!((handle.result().await.unwrap(), LASTED.load(SeqCst)), (42, 1));
            stop(stent).await;
        }
    });
}

/// Gives an order of which nobody waits for the answer: it is in the inbox, with so many messages.
async fn leaves(stent: &Stent, id: &str, order: impl Future<Output = Result<(), Error>>, unread: u32) {
    let what = format!("{unread} unread messages");
    let there = says(stent, id, &what);
    futures::future::select(std::pin::pin!(order), std::pin::pin!(there)).await;
}

#[test]
fn a_pause_and_the_word_to_go_on_are_taken_in_their_order_whoever_takes_them() {
    /// Who takes them, and when.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Taken {
        /// Its next owner finds both.
        Together,
        /// The one that was asked to let it go on, and nobody can run it.
        WithoutCode,
    }
    alone(async {
        for home in Home::shared() {
            for taken in [Taken::Together, Taken::WithoutCode] {
                let world = World::default();
                let id = format!("{taken:?}");
                let owner = world.start(&home).await;
                owner.dispatch(Dispatch::new(Trip { then: Then::Listens }).id(&id)).await.unwrap();
                says(&owner, &id, "operate.word").await;
                stop(owner).await;
                let cannot_run_it = async || world.acts(home.open()).workflow::<Parent>().spawn().await.unwrap();
                // Whoever was asked to pause it goes before it can do so without the code.
                let gone = cannot_run_it().await;
                leaves(&gone, &id, gone.pause(pause(&id)), 1).await;
                stop(gone).await;
                let other = cannot_run_it().await;
                if taken == Taken::Together {
                    leaves(&other, &id, other.resume(resume(&id)), 2).await;
                } else {
                    other.resume(resume(&id)).await.unwrap();
                }
                let again = world.start(&home).await;
                let handle = again.handle::<Trip>(&*id).await.unwrap().unwrap();
                again.signal(SendSignal::new(&id, &Word(2))).await.unwrap();
                let result = tokio::time::timeout(secs(20), handle.result()).await;
                let told = again.describe(&*id).await.unwrap().unwrap();
                assert_eq!(result.unwrap_or_else(|_| panic!("{id}: {told:?}")).unwrap(), 42, "{id}");
                assert_eq!(ordered(&again, &id).await, ["pause by ada: a look", "resume by bob"], "{id}");
                stop(again).await;
                stop(other).await;
            }
        }
    });
}
