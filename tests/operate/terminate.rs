//! Ending a run at once: in whatever state it is, by any node, without its code.

use super::*;

/// Terminates a run and sees that it is over, once and for good.
async fn terminate(stent: &Stent, world: &World, id: &str, undone: &str) {
    let acts = (world.begun.load(SeqCst), world.tried.load(SeqCst));
    let handle = stent.handle::<Trip>(id).await.unwrap().unwrap();
    stent.terminate(order(id)).await.unwrap();
    let told = stent.describe(id).await.unwrap().unwrap();
    assert_eq!(told.summary.status, Status::Terminated, "{id}");
    assert_eq!(told.outcome.unwrap(), format!("terminated by ada: enough{undone}"), "{id}");
    assert_eq!(told.moved_by, "nobody: it has ended");
    match handle.result().await {
        Err(RunError::Terminated { reason, by }) => assert_eq!((&*reason, &*by), ("enough", "ada")),
        other => panic!("{id}: {other:?}"),
    }
    stent.terminate(order(id)).await.expect("the same order again");
    match stent.terminate(Terminate::new(id, "bob")).await {
        Err(Error::Send(SendError::AlreadyEnded { status, .. })) => {
            assert!(status.starts_with("terminated by ada"), "{status}");
        }
        other => panic!("{id}: {other:?}"),
    }
    let all = events(stent, id).await;
    let ordered = all.iter().filter(|(what, _)| *what == Happening::Ordered).map(|(_, text)| text.as_str());
    assert_eq!(ordered.collect::<Vec<_>>(), ["terminate by ada: enough"], "{id}");
    assert_eq!(all.last().unwrap().0, Happening::Ended);
    assert_eq!((world.begun.load(SeqCst), world.tried.load(SeqCst)), acts, "{id}: nothing was begun");
}

const UNBOOK: &str = "; not undone: operate.unbook (#2)";

#[test]
fn a_run_is_terminated_in_whatever_state_it_is_and_what_was_not_undone_is_named() {
    alone(async {
        for home in Home::all() {
            let world = World::default();
            let stent = world.start(&home).await;
            stent.pause_queue("line").await.unwrap();
            for then in [Then::Works, Then::Sleeps, Then::Parks, Then::BacksOff, Then::Queues] {
                dispatch(&stent, then).await;
            }
            let later = Dispatch::new(Trip { then: Then::Sleeps }).id("later").delay(hours(1));
            stent.dispatch(later).await.unwrap();
            says(&stent, "Works", "operate.work (#3), attempt 1 is under way").await;
            eventually("it works", secs(10), async || world.begun.load(SeqCst) == 1).await;
            says(&stent, "Parks", "parked").await;
            says(&stent, "BacksOff", "attempt 2 not before").await;
            says(&stent, "Sleeps", "sleep #3").await;
            says(&stent, "Queues", "waits in queue").await;
            for asleep in ["Sleeps", "Parks", "BacksOff", "Queues"] {
                is_alone(&stent, asleep).await;
            }
            for id in ["Works", "Sleeps", "Parks", "BacksOff", "Queues"] {
                terminate(&stent, &world, id, UNBOOK).await;
            }
            terminate(&stent, &world, "later", "").await;
            eventually("its act is told to stop", secs(10), async || world.stopped.load(SeqCst) == 1).await;
            let queues = stent.queues().await.unwrap();
            assert!(queues.iter().all(|queue| queue.waiting == 0), "{queues:?}");
            match stent.terminate(order("nobody")).await {
                Err(Error::Send(SendError::Unknown(id))) => assert_eq!(id, "nobody"),
                other => panic!("{other:?}"),
            }
            for bad in [Terminate::new("later", ""), order("later").reason("x".repeat(5_000)), order("later").message_id("")] {
                assert!(matches!(stent.terminate(bad).await, Err(Error::Send(SendError::Invalid(_)))));
            }
            assert_eq!(world.undone.load(SeqCst), 0);
            stop(stent).await;
        }
    });
}

#[test]
fn a_run_that_no_node_can_run_is_terminated_by_any() {
    alone(async {
        for home in Home::all() {
            let world = World::default();
            let stent = world.start(&home).await;
            for id in ["blocked", "gone", "quarantined"] {
                stent.dispatch(Dispatch::new(Trip { then: Then::Listens }).id(id)).await.unwrap();
                says(&stent, id, "operate.word").await;
                is_alone(&stent, id).await;
            }
            stop(stent).await;

            let stent = world.acts(home.open()).workflow::<Changed>().build("changed").spawn().await.unwrap();
            stent.signal(SendSignal::new("blocked", &Word(2))).await.unwrap();
            says(&stent, "blocked", "another build").await;
            terminate(&stent, &world, "blocked", UNBOOK).await;
            stop(stent).await;

            let stent = world.acts(home.open()).workflow::<Parent>().spawn().await.unwrap();
            says(&stent, "gone", "this one has not").await;
            terminate(&stent, &world, "gone", UNBOOK).await;
            stop(stent).await;

            let mut limits = Limits::default();
            limits.history_commits = 2;
            let stent = world.build(&home).limits(limits).spawn().await.unwrap();
            stent.signal(SendSignal::new("quarantined", &Word(2))).await.unwrap();
            says(&stent, "quarantined", "quarantined").await;
            terminate(&stent, &world, "quarantined", UNBOOK).await;
            assert_eq!(world.undone.load(SeqCst), 0);
            stop(stent).await;
        }
    });
}

#[test]
fn a_terminated_parent_stops_its_children_and_a_terminated_child_is_heard_of() {
    alone(async {
        for home in Home::all() {
            let world = World::default();
            let stent = world.start(&home).await;
            for id in ["a", "b"] {
                stent.dispatch(Dispatch::new(Parent).id(id)).await.unwrap();
                says(&stent, &format!("{id}-child"), "operate.word").await;
            }
            stent.terminate(order("a")).await.unwrap();
            let child = stent.handle::<Trip>("a-child").await.unwrap().unwrap();
            assert!(matches!(child.result().await, Err(RunError::Cancelled { .. })));
            assert_eq!(world.undone.load(SeqCst), 1, "it was asked to stop, and has undone its acts");
            let parent = stent.handle::<Parent>("b").await.unwrap().unwrap();
            stent.terminate(order("b-child")).await.unwrap();
            assert_eq!(parent.result().await.unwrap(), "ada: enough");
            assert_eq!(world.undone.load(SeqCst), 1);
            stop(stent).await;
        }
    });
}

#[test]
fn a_run_of_another_node_is_terminated_and_its_acts_stop_there() {
    alone(async {
        for home in Home::shared() {
            let (here, there) = (World::default(), World::default());
            let owner = here.start(&home).await;
            let other = there.build(&home).serve(["elsewhere"]).spawn().await.unwrap();
            let handle = dispatch(&owner, Then::Works).await;
            eventually("it works", secs(10), async || here.begun.load(SeqCst) == 1).await;
            other.terminate(order("Works")).await.unwrap();
            assert!(matches!(handle.result().await, Err(RunError::Terminated { .. })));
            eventually("its act is told to stop", secs(10), async || here.stopped.load(SeqCst) == 1).await;
            assert_eq!(there.begun.load(SeqCst) + here.undone.load(SeqCst) + there.undone.load(SeqCst), 0);
            stop(owner).await;
            stop(other).await;
        }
    });
}

#[test]
fn a_run_whose_node_stands_still_is_ended_over_its_head_and_what_it_does_then_is_refused() {
    alone(async {
        for home in Home::shared() {
            let world = World::default();
            let owner = world.start(&home).await;
            let other = world.build(&home).serve(["elsewhere"]).spawn().await.unwrap();
            dispatch(&owner, Then::Blocks).await;
            says(&other, "Blocks", "blocks (#3)").await;
            let handle = other.handle::<Trip>("Blocks").await.unwrap().unwrap();
            other.terminate(order("Blocks")).await.unwrap();
            assert!(matches!(handle.result().await, Err(RunError::Terminated { .. })));
            let commits = other.describe("Blocks").await.unwrap().unwrap().commits;
            eventually("the owner goes on", secs(20), async || {
                let told = owner.dispatch(Dispatch::new(Trip { then: Then::Sleeps }).id("after")).await;
                told.is_ok()
            })
            .await;
            says(&owner, "after", "sleep").await;
            let told = other.describe("Blocks").await.unwrap().unwrap();
            assert_eq!((told.summary.status, told.commits), (Status::Terminated, commits));
            stop(owner).await;
            stop(other).await;
        }
    });
}

#[cfg(feature = "failpoints")]
#[test]
fn an_order_that_meets_a_crash_at_any_point_is_carried_out_once() {
    use stent::failpoints::{self, Action};
    let points = [
        "persistence.before_commit",
        "persistence.after_commit",
        "persistence.before_acks",
        "executor.before_deal",
        "execution.before_effects",
        "execution.before_settle",
    ];
    alone(async {
        for home in Home::both() {
            let world = World::default();
            for then in [Then::Works, Then::Sleeps] {
                for (point, hit) in points.into_iter().flat_map(|point| [(point, 1), (point, 2)]) {
                    // One life has a limited number of restarts.
                    let stent = world.start(&home).await;
                    let id = format!("{then:?} {point} {hit}");
                    stent.dispatch(Dispatch::new(Trip { then }).id(&id)).await.unwrap();
                    says(&stent, &id, "#3").await;
                    failpoints::set(point, Action::Panic, hit);
                    stent.terminate(order(&id)).await.unwrap();
                    failpoints::clear();
                    let handle = stent.handle::<Trip>(&*id).await.unwrap().unwrap();
                    assert!(matches!(handle.result().await, Err(RunError::Terminated { .. })), "{id}");
                    stop(stent).await;
                }
            }
            assert_eq!(world.undone.load(SeqCst), 0);
        }
    });
}
