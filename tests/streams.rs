//! The events of an execution, followed live: each one once and in order, from any commit on, by slow and by quick ones, over restarts and from
//! other nodes; on every store.

#![cfg(feature = "sqlite")]

use std::{sync::mpsc, time::Duration};

use stent::{Builder, Error, Events, Happened, Happening, Stent, Subscribe, prelude::*};
use support::{Home, eventually, system};

mod support;

#[derive(Serialize, Deserialize)]
struct Walk {
    steps: u32,
}

#[derive(Serialize, Deserialize)]
struct Go;

impl Signal for Go {
    const NAME: &'static str = "streams.go";
}

#[derive(Serialize, Deserialize)]
struct Step(u32);

impl Activity for Step {
    const NAME: &'static str = "streams.step";
    type Output = u32;
    type Error = AppError;
}

impl Workflow for Walk {
    const NAME: &'static str = "streams.walk";
    type Output = u32;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u32, AppError> {
        for step in 0..self.steps {
            cx.call(Step(step)).await?;
            cx.count("steps", 1);
        }
        cx.signal::<Go>().await?;
        cx.call(Step(self.steps)).await?;
        Ok(self.steps)
    }
}

const LIMIT: Duration = secs(30);

fn build(home: &Home) -> Builder {
    home.open().workflow::<Walk>().activity(async |call: Call<Step>| Ok(call.0)).passivate_after(millis(20))
}

async fn stop(stent: Stent) {
    stent.shutdown(Shutdown::within(secs(10))).await.unwrap();
}

/// Takes events until one of this kind came.
async fn until(events: &mut Events, what: Happening) -> Vec<Happened> {
    let mut all = Vec::new();
    while all.last().is_none_or(|last: &Happened| last.what != what) {
        all.push(tokio::time::timeout(LIMIT, events.next()).await.expect("in time").unwrap().expect("not over"));
    }
    all
}

/// Each place of the log once, without a gap, from this commit on.
fn assert_whole(all: &[Happened], from: u32) {
    let (mut commit, mut index) = (from, 0);
    for happened in all {
        if happened.commit != commit {
            (commit, index) = (commit + 1, 0);
        }
        assert_eq!((happened.commit, happened.index), (commit, index), "{happened:?}");
        index += 1;
    }
}

#[test]
fn a_follower_gets_each_event_once_and_in_order_first_of_the_past_and_then_live_to_the_end() {
    system(async {
        for home in Home::all() {
            let stent = build(&home).spawn().await.unwrap();
            let handle = stent.dispatch(Dispatch::new(Walk { steps: 40 }).id("w")).await.unwrap();
            let mut early = stent.events("w", 0).await.unwrap().unwrap();
            let mut seen = until(&mut early, Happening::Waits).await;
            stent.signal(SendSignal::new("w", &Go)).await.unwrap();
            seen.extend(until(&mut early, Happening::Ended).await);
            assert_eq!(early.next().await.unwrap(), None);
            assert_whole(&seen, 0);
            assert_eq!(seen.iter().filter(|event| event.what == Happening::Counted).count(), 40);
            assert_eq!((seen[0].what, seen[0].name.as_deref()), (Happening::Started, Some("streams.walk")));
            let succeeded = seen.iter().filter(|event| event.what == Happening::Succeeded);
            assert!(succeeded.clone().all(|event| event.name.as_deref() == Some("streams.step")) && succeeded.count() == 41);

            // Who comes when all is over gets the same, and who begins in the middle the rest of it.
            let mut late = handle.events(0);
            assert_eq!(until(&mut late, Happening::Ended).await, seen);
            let rest = until(&mut handle.events(5), Happening::Ended).await;
            assert_whole(&rest, 5);
            assert_eq!(rest.len(), seen.iter().filter(|event| event.commit >= 5).count());
            assert_eq!(handle.events(10_000).next().await.unwrap(), None, "nothing will ever be there");
            assert!(stent.events("nobody", 0).await.unwrap().is_none());
            stop(stent).await;
        }
    });
}

#[test]
fn a_follower_that_is_dropped_in_the_middle_of_its_wait_has_missed_nothing_and_leaves_nothing() {
    system(async {
        let home = Home::sqlite();
        let stent = build(&home).spawn().await.unwrap();
        stent.dispatch(Dispatch::new(Walk { steps: 2 }).id("w")).await.unwrap();
        let mut events = stent.events("w", 0).await.unwrap().unwrap();
        let mut seen = until(&mut events, Happening::Waits).await;
        assert!(tokio::time::timeout(millis(50), events.next()).await.is_err(), "it waits");
        eventually("nobody listens", LIMIT, async || stent.stats().listened == 0).await;
        stent.signal(SendSignal::new("w", &Go)).await.unwrap();
        seen.extend(until(&mut events, Happening::Ended).await);
        assert_whole(&seen, 0);
        stop(stent).await;
    });
}

#[test]
fn a_follower_on_another_node_gets_the_same() {
    system(async {
        for home in Home::shared() {
            let first = build(&home).spawn().await.unwrap();
            // It has no such workflow, so it runs none of it.
            let second = home.open().spawn().await.unwrap();
            first.dispatch(Dispatch::new(Walk { steps: 3 }).id("w")).await.unwrap();
            let mut events = second.events("w", 0).await.unwrap().unwrap();
            let mut seen = until(&mut events, Happening::Waits).await;
            first.signal(SendSignal::new("w", &Go)).await.unwrap();
            seen.extend(until(&mut events, Happening::Ended).await);
            assert_whole(&seen, 0);
            stop(first).await;
            stop(second).await;
        }
    });
}

#[test]
fn whoever_follows_hears_when_the_runtime_stops_and_goes_on_in_the_next_life_from_where_it_was() {
    system(async {
        let home = Home::sqlite();
        let stent = build(&home).spawn().await.unwrap();
        stent.dispatch(Dispatch::new(Walk { steps: 2 }).id("w")).await.unwrap();
        let mut events = stent.events("w", 0).await.unwrap().unwrap();
        let mut seen = until(&mut events, Happening::Waits).await;
        let waits = actix::spawn(async move { events.next().await });
        eventually("it waits", LIMIT, async || stent.stats().listened == 1).await;
        stop(stent).await;
        assert!(matches!(waits.await.unwrap(), Err(Error::Stopped)));

        let stent = build(&home).spawn().await.unwrap();
        stent.signal(SendSignal::new("w", &Go)).await.unwrap();
        let next = seen.last().unwrap().commit + 1;
        let mut events = stent.events("w", next).await.unwrap().unwrap();
        seen.extend(until(&mut events, Happening::Ended).await);
        assert_whole(&seen, 0);
        stop(stent).await;
    });
}

/// Is slow, and says what it got.
struct Slow(mpsc::Sender<Happened>);

impl Actor for Slow {
    type Context = Context<Self>;
}

impl Handler<Happened> for Slow {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, happened: Happened, _: &mut Context<Self>) -> Self::Result {
        let got = self.0.clone();
        Box::pin(async move {
            tokio::time::sleep(millis(1)).await;
            let _ = got.send(happened);
        })
    }
}

#[test]
fn a_slow_actor_gets_all_of_it_and_holds_up_nobody() {
    system(async {
        for home in Home::both() {
            let stent = build(&home).spawn().await.unwrap();
            let (got, seen) = mpsc::channel();
            let slow = Slow(got).start();
            let handle = stent.dispatch(Dispatch::new(Walk { steps: 100 }).id("w")).await.unwrap();
            let over = stent.supervisor().send(Subscribe::new("w", slow.recipient()));
            let runs = async {
                stent.signal(SendSignal::new("w", &Go)).await.unwrap();
                handle.result().await.unwrap()
            };
            let (over, steps) = futures::join!(over, runs);
            over.unwrap().unwrap();
            assert_eq!(steps, 100);
            let seen: Vec<Happened> = seen.try_iter().collect();
            assert_whole(&seen, 0);
            assert_eq!(seen.last().unwrap().what, Happening::Ended);
            stop(stent).await;
        }
    });
}
