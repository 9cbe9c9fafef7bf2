//! Updates, seen from an application: made once, whatever crashes and whoever sends them again, and answered alike to all; a rejection
//! changes nothing. On every store, over restarts and over nodes.

#![cfg(feature = "sqlite")]

use std::{cell::RefCell, rc::Rc};

use futures::future::join_all;
use stent::{Builder, SendError, Stent, UpdateError, prelude::*, store::Status};
use support::{Home, alone, eventually};

mod support;

/// Reserves seats; answers which ones are taken then.
#[derive(Serialize, Deserialize)]
struct Reserve {
    seats: u32,
}

impl Update for Reserve {
    const NAME: &'static str = "updates.reserve";
    type Answer = Vec<u32>;
    type Error = Full;
}

/// So many were left.
#[derive(Serialize, Deserialize, Debug, PartialEq, thiserror::Error)]
#[error("only {left} seats are left")]
struct Full {
    left: u32,
}

#[derive(Serialize, Deserialize)]
struct Unheard;

impl Update for Unheard {
    const NAME: &'static str = "updates.unheard";
    type Answer = ();
    type Error = AppError;
}

/// The name of one and the answer of another.
#[derive(Serialize, Deserialize)]
struct Misheard {
    seats: u32,
}

impl Update for Misheard {
    const NAME: &'static str = "updates.reserve";
    type Answer = String;
    type Error = AppError;
}

#[derive(Serialize, Deserialize)]
struct Close;

impl Signal for Close {
    const NAME: &'static str = "updates.close";
}

#[derive(Serialize, Deserialize)]
struct Taken;

impl Query for Taken {
    const NAME: &'static str = "updates.taken";
    type Answer = Vec<u32>;
}

#[derive(Serialize, Deserialize)]
struct Count;

impl Activity for Count {
    const NAME: &'static str = "updates.count";
    type Output = u32;
    type Error = AppError;
}

/// A bus that leaves when it is full, or when it is told to.
#[derive(Serialize, Deserialize)]
struct Bus {
    seats: u32,
    /// Whether it waits for so short a time that it stays in memory.
    stays: bool,
}

impl Workflow for Bus {
    const NAME: &'static str = "updates.bus";
    type Output = Vec<u32>;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<Vec<u32>, AppError> {
        let taken = Rc::new(RefCell::new(Vec::new()));
        let (seen, checked, takes, seats) = (taken.clone(), taken.clone(), taken.clone(), self.seats);
        cx.on_query(move |_: &Taken| seen.borrow().clone());
        cx.on_update(
            move |wanted: &Reserve| {
                let left = seats - checked.borrow().iter().sum::<u32>();
                if wanted.seats <= left { Ok(()) } else { Err(Full { left }) }
            },
            move |wanted: Reserve| {
                takes.borrow_mut().push(wanted.seats);
                takes.borrow().clone()
            },
        );
        let full = cx.until(|| taken.borrow().iter().sum::<u32>() == seats);
        let full = full.within(if self.stays { secs(9) } else { hours(9) });
        let _ = cx.race(full, cx.signal::<Close>()).await;
        cx.call(Count).await?;
        let taken = taken.borrow().clone();
        Ok(taken)
    }
}

/// A bus without end: each of its runs takes two groups and goes on as the next one. What is waited for beside the updates is never sent.
#[derive(Serialize, Deserialize)]
struct Line {
    taken: Vec<u32>,
    runs: u32,
}

impl Workflow for Line {
    const NAME: &'static str = "updates.line";
    type Output = Vec<u32>;
    type Error = AppError;

    async fn run(mut self, cx: Cx<Self>) -> Result<Vec<u32>, AppError> {
        let taken = Rc::new(RefCell::new(std::mem::take(&mut self.taken)));
        let (takes, before) = (taken.clone(), taken.borrow().len());
        cx.on_update(
            |wanted: &Reserve| if wanted.seats < 1_000 { Ok(()) } else { Err(Full { left: 999 }) },
            move |wanted: Reserve| {
                takes.borrow_mut().push(wanted.seats);
                takes.borrow().clone()
            },
        );
        let closed = cx.race(cx.until(|| taken.borrow().len() >= before + 2), cx.signal::<Close>()).await;
        let taken = taken.borrow().clone();
        if matches!(closed, Either::Second(_)) {
            return Ok(taken);
        }
        Ok(cx.continue_as_new(Line { taken, runs: self.runs + 1 }).await?)
    }
}

fn build(home: &Home) -> Builder {
    home.open().workflow::<Line>().workflow::<Bus>().activity(async |_: Call<Count>| Ok(1))
}

async fn start(home: &Home) -> Stent {
    build(home).spawn().await.unwrap()
}

async fn stop(stent: Stent) {
    stent.shutdown(Shutdown::within(secs(10))).await.unwrap();
}

async fn bus(stent: &Stent, id: &str, seats: u32, stays: bool) -> Handle<Bus> {
    stent.dispatch(Dispatch::new(Bus { seats, stays }).id(id)).await.unwrap()
}

fn reserve(id: &str, update: &str, seats: u32) -> SendUpdate<Reserve> {
    SendUpdate::new(id, &Reserve { seats }).update_id(update)
}

async fn commits(stent: &Stent, id: &str) -> u32 {
    stent.describe(id).await.unwrap().unwrap().commits
}

#[test]
fn an_update_is_made_once_and_answered_alike_to_whoever_gives_its_id() {
    alone(async {
        for home in Home::all() {
            for stays in [true, false] {
                let id = if stays { "stays" } else { "sleeps" };
                let stent = start(&home).await;
                bus(&stent, id, 5, stays).await;
                assert_eq!(stent.update(reserve(id, "a", 2)).await.unwrap(), [2]);
                // Once more, and beside each other; what it says then does not count.
                let again = join_all((0..4).map(|_| stent.update(reserve(id, "a", 4)))).await;
                assert!(again.into_iter().all(|answer| answer.unwrap() == [2]));
                let beside = join_all((0..4).map(|_| stent.update(reserve(id, "b", 1)))).await;
                assert!(beside.into_iter().all(|answer| answer.unwrap() == [2, 1]));
                stop(stent).await;

                let stent = start(&home).await;
                assert_eq!(stent.update(reserve(id, "a", 2)).await.unwrap(), [2]);
                assert_eq!(stent.query(Ask::new(id, &Taken)).await.unwrap(), [2, 1]);
                let handle = stent.handle::<Bus>(id).await.unwrap().unwrap();
                assert_eq!(stent.update(reserve(id, "c", 2)).await.unwrap(), [2, 1, 2]);
                assert_eq!(handle.result().await.unwrap(), [2, 1, 2], "it was full, and noticed");
                // Also when it has ended; and a new one finds nobody.
                assert_eq!(stent.update(reserve(id, "b", 1)).await.unwrap(), [2, 1]);
                match stent.update(reserve(id, "d", 1)).await {
                    Err(UpdateError::Send(SendError::AlreadyEnded { id: of, .. })) => assert_eq!(of, id),
                    other => panic!("{other:?}"),
                }
                stop(stent).await;
            }
        }
    });
}

#[test]
fn a_rejection_is_typed_changes_nothing_and_leaves_no_event() {
    alone(async {
        for home in Home::all() {
            for stays in [true, false] {
                let id = if stays { "stays" } else { "sleeps" };
                let stent = start(&home).await;
                let handle = bus(&stent, id, 3, stays).await;
                assert_eq!(stent.update(reserve(id, "a", 2)).await.unwrap(), [2]);
                let before = commits(&stent, id).await;
                for _ in 0..2 {
                    match stent.update(reserve(id, "b", 2)).await {
                        Err(UpdateError::Rejected(full)) => assert_eq!(full, Full { left: 1 }),
                        other => panic!("{other:?}"),
                    }
                }
                match stent.update(SendUpdate::new(id, &Unheard)).await {
                    Err(UpdateError::NotTaken(why)) => assert!(why.contains("only \"updates.reserve\""), "{why}"),
                    other => panic!("{other:?}"),
                }
                assert_eq!(commits(&stent, id).await, before);
                // The id is free.
                assert_eq!(stent.update(reserve(id, "b", 1)).await.unwrap(), [2, 1]);
                assert_eq!(handle.result().await.unwrap(), [2, 1]);
                stop(stent).await;
            }
        }
    });
}

#[test]
fn of_many_at_once_from_two_nodes_as_many_are_made_as_there_is_room_and_each_hears_its_own() {
    alone(async {
        for home in Home::shared() {
            for stays in [true, false] {
                let id = if stays { "stays" } else { "sleeps" };
                let (first, second) = (start(&home).await, start(&home).await);
                let handle = bus(&first, id, 7, stays).await;
                let all = (0..20).map(|n| {
                    let node = if n % 2 == 0 { &first } else { &second };
                    node.update(reserve(id, &format!("u{n}"), 1))
                });
                let answers = join_all(all).await;
                let made: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().ok().map(Vec::len)).collect();
                let mut sorted = made.clone();
                sorted.sort_unstable();
                assert_eq!(sorted, [1, 2, 3, 4, 5, 6, 7], "each was the one behind another");
                for refused in answers.iter().filter_map(|answer| answer.as_ref().err()) {
                    let full = matches!(refused, UpdateError::Rejected(Full { left: 0 }));
                    assert!(full || matches!(refused, UpdateError::Send(SendError::AlreadyEnded { .. })), "{refused:?}");
                }
                assert_eq!(handle.result().await.unwrap(), [1; 7]);
                // Each hears the same at the other node.
                for (n, answer) in answers.iter().enumerate().filter_map(|(n, answer)| Some((n, answer.as_ref().ok()?))) {
                    let node = if n % 2 == 0 { &second } else { &first };
                    assert_eq!(node.update(reserve(id, &format!("u{n}"), 1)).await.unwrap(), *answer);
                }
                stop(first).await;
                stop(second).await;
            }
        }
    });
}

#[test]
fn what_cannot_be_sent_or_understood_has_a_typed_error() {
    alone(async {
        for home in Home::both() {
            let stent = start(&home).await;
            bus(&stent, "b", 3, true).await;
            match stent.update(reserve("nobody", "a", 1)).await {
                Err(UpdateError::Send(SendError::Unknown(id))) => assert_eq!(id, "nobody"),
                other => panic!("{other:?}"),
            }
            match stent.update(reserve("b", "stent:a", 1)).await {
                Err(UpdateError::Send(SendError::Invalid(why))) => assert!(why.contains("Stent's own"), "{why}"),
                other => panic!("{other:?}"),
            }
            // The id of a message of another kind.
            stent.signal(SendSignal::new("b", &Close).message_id("x")).await.unwrap();
            eventually("it has left", secs(20), async || stent.describe("b").await.unwrap().unwrap().outcome.is_some()).await;
            match stent.update(reserve("b", "x", 1)).await {
                Err(UpdateError::Send(SendError::AlreadyEnded { .. })) => {}
                other => panic!("{other:?}"),
            }
            bus(&stent, "c", 3, true).await;
            assert_eq!(stent.update(reserve("c", "a", 1)).await.unwrap(), [1]);
            match stent.update(SendUpdate::new("c", &Misheard { seats: 1 }).update_id("a")).await {
                Err(UpdateError::Broken(failure)) => assert!(failure.message().contains("cannot be decoded"), "{failure}"),
                other => panic!("{other:?}"),
            }
            stop(stent).await;
        }
    });
}

#[test]
fn a_handle_signals_and_updates_its_execution_and_says_so_when_the_runtime_is_gone() {
    alone(async {
        let home = Home::sqlite();
        let stent = start(&home).await;
        bus(&stent, "b", 3, true).await;
        let handle = stent.handle::<Bus>("b").await.unwrap().unwrap();
        assert_eq!(handle.update(&Reserve { seats: 1 }).await.unwrap(), [1]);
        assert_eq!(handle.update(&Reserve { seats: 1 }).await.unwrap(), [1, 1], "each call is an update of its own");
        handle.signal(&Close).await.unwrap();
        assert_eq!(handle.result().await.unwrap(), [1, 1]);
        assert!(matches!(handle.signal(&Close).await, Err(stent::Error::Send(SendError::AlreadyEnded { .. }))));
        stop(stent).await;
        assert!(matches!(handle.update(&Reserve { seats: 1 }).await, Err(UpdateError::Unavailable(_))));
    });
}

#[test]
fn an_update_of_a_run_whose_code_is_elsewhere_waits_for_it_and_is_heard_under_its_id() {
    alone(async {
        for home in Home::both() {
            let stent = start(&home).await;
            bus(&stent, "b", 3, false).await;
            stop(stent).await;

            let without = home.open().spawn().await.unwrap();
            match without.update(reserve("b", "a", 1).within(millis(200))).await {
                Err(UpdateError::Unanswered { id, .. }) => assert_eq!(id, "a"),
                other => panic!("{other:?}"),
            }
            stop(without).await;

            let stent = start(&home).await;
            assert_eq!(stent.update(reserve("b", "a", 1)).await.unwrap(), [1]);
            assert_eq!(stent.query(Ask::new("b", &Taken)).await.unwrap(), [1]);
            stop(stent).await;
        }
    });
}

#[cfg(feature = "failpoints")]
#[test]
fn an_update_that_meets_a_crash_at_any_point_is_made_once_and_answered() {
    use stent::failpoints::{self, Action};

    alone(async {
        for home in Home::both() {
            let points = [
                "execution.after_decide",
                "persistence.before_commit",
                "persistence.after_commit",
                "persistence.before_acks",
                "executor.before_deal",
                "execution.before_effects",
                "execution.after_replay",
            ];
            for (n, point) in points.into_iter().enumerate() {
                let stent = start(&home).await;
                for hit in 1..=2 {
                    let id = format!("b{n}-{hit}");
                    bus(&stent, &id, 5, n % 2 == 0).await;
                    failpoints::set(point, Action::Panic, hit);
                    let answers = join_all((1..=3).map(|n| stent.update(reserve(&id, &format!("u{n}"), n)))).await;
                    failpoints::clear();
                    let made = answers.iter().filter(|answer| answer.is_ok()).count();
                    let taken = stent.query(Ask::new(&id, &Taken)).await.unwrap();
                    assert_eq!(taken.len(), made, "{point}: {answers:?}");
                    for (n, answer) in (1..=3).zip(answers) {
                        if let Ok(answer) = answer {
                            assert_eq!(stent.update(reserve(&id, &format!("u{n}"), n)).await.unwrap(), answer, "{point}");
                        }
                    }
                }
                stop(stent).await;
            }
        }
    });
}

#[test]
fn updates_of_an_endless_execution_are_made_once_each_and_answered_alike_whichever_run_takes_them() {
    alone(async {
        for home in Home::all() {
            let stent = start(&home).await;
            let line = stent.dispatch(Dispatch::new(Line { taken: Vec::new(), runs: 0 }).id("line")).await.unwrap();
            // All at once, each by two callers under one id.
            let sent = (0..40_u32).map(|number| {
                let stent = stent.clone();
                async move {
                    let once = || stent.update(reserve("line", &format!("u{number}"), number).within(secs(60)));
                    let (first, second) = futures::join!(once(), once());
                    (first.unwrap(), second.unwrap())
                }
            });
            let answers = join_all(sent).await;
            for (number, (first, second)) in (0..).zip(&answers) {
                assert_eq!(first, second, "u{number}");
                assert_eq!(first.last(), Some(&number));
            }
            // Long ago, in whichever run: the same answer; and what does not fit is rejected.
            assert_eq!(stent.update(reserve("line", "u0", 0).within(secs(60))).await.unwrap(), answers[0].0);
            let rejected = stent.update(reserve("line", "big", 1_000)).await;
            assert!(matches!(rejected, Err(UpdateError::Rejected(Full { left: 999 }))), "{rejected:?}");
            stent.signal(SendSignal::new("line", &Close)).await.unwrap();
            let mut taken = line.result().await.unwrap();
            taken.sort_unstable();
            assert_eq!(taken, (0..40).collect::<Vec<_>>(), "each was made once");
            assert!(stent.describe("line").await.unwrap().unwrap().summary.id.run_no > 10);
            stop(stent).await;
        }
    });
}

#[test]
fn an_update_of_a_run_that_has_not_begun_waits_for_it_and_sees_what_was_sent_before() {
    alone(async {
        for home in Home::all() {
            let stent = start(&home).await;
            let late = Dispatch::new(Bus { seats: 3, stays: true }).id("late").delay(millis(300));
            let late = stent.dispatch(late).await.unwrap();
            let (first, second) = futures::join!(
                stent.update(reserve("late", "a", 2).within(secs(30))),
                stent.update(reserve("late", "b", 1).within(secs(30))),
            );
            assert_eq!(first.unwrap().iter().sum::<u32>().max(second.unwrap().iter().sum()), 3);
            assert_eq!(late.result().await.unwrap().iter().sum::<u32>(), 3);
            stop(stent).await;
        }
    });
}

/// Takes every group while it waits for an act that fails.
#[derive(Serialize, Deserialize)]
struct Stuck;

impl Workflow for Stuck {
    const NAME: &'static str = "updates.stuck";
    type Output = u32;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u32, AppError> {
        cx.on_update(|_: &Reserve| Ok(()), |wanted: Reserve| vec![wanted.seats]);
        Ok(cx.call(Count).retry(Retry::fixed(secs(3600))).await?)
    }
}

#[test]
fn an_update_under_the_id_of_an_order_that_came_to_nothing_hears_at_once_that_the_id_is_in_use() {
    alone(async {
        for home in Home::all() {
            let fails = async |_: Call<Count>| Err::<u32, _>(AppError::new("no"));
            let build = || home.open().workflow::<Stuck>().activity(fails).spawn();
            let waits = async |stent: &Stent| {
                let described = stent.describe("stuck").await.unwrap().unwrap();
                described.waits_for.iter().any(|wait| wait.contains("not before"))
            };
            let stent = build().await.unwrap();
            stent.dispatch(Dispatch::new(Stuck).id("stuck")).await.unwrap();
            eventually("its act is to be tried again", secs(20), async || waits(&stent).await).await;
            stop(stent).await;
            // Two orders about one act while nobody has the run: what the second is about is over when it is taken.
            let elsewhere = home.open().spawn().await.unwrap();
            for order in ["first", "x"] {
                elsewhere.retry_now(RetryNow::new("stuck", "ada").message_id(order)).await.unwrap();
            }
            let before = commits(&elsewhere, "stuck").await;
            stop(elsewhere).await;
            let stent = build().await.unwrap();
            eventually("they are taken", secs(20), async || commits(&stent, "stuck").await > before).await;
            match stent.update(SendUpdate::new("stuck", &Reserve { seats: 2 }).update_id("x").within(secs(20))).await {
                Err(UpdateError::Send(SendError::Invalid(why))) => assert!(why.contains("another message"), "{why}"),
                other => panic!("{other:?}"),
            }
            assert_eq!(stent.update(reserve("stuck", "y", 3)).await.unwrap(), [3]);
            stop(stent).await;
        }
    });
}

#[test]
fn an_update_of_a_run_that_was_paused_before_it_began_is_not_refused_and_waits_until_it_goes_on() {
    alone(async {
        for home in Home::all() {
            let stent = start(&home).await;
            let late = stent.dispatch(Dispatch::new(Bus { seats: 2, stays: true }).id("late").delay(millis(300))).await.unwrap();
            stent.pause(PauseExecution::new("late", "ada")).await.unwrap();
            let paused = async || stent.describe("late").await.unwrap().unwrap().summary.status == Status::Paused;
            eventually("it is paused", secs(20), paused).await;
            let (update, ()) = futures::join!(stent.update(reserve("late", "a", 2).within(secs(30))), async {
                tokio::time::sleep(millis(200)).await;
                stent.resume("late").await.unwrap();
            });
            assert_eq!(update.unwrap(), [2]);
            assert_eq!(late.result().await.unwrap(), [2]);
            stop(stent).await;
        }
    });
}
