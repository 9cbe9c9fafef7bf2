//! Queues that have rules which they had not when a call of theirs was recorded, or of which a node has yet to hear: what runs beside its run,
//! or waits there, is not begun once more from a line, nor the other way round.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use stent::{Stent, prelude::*, store::Status};
use tokio::sync::watch;

use crate::{
    stop,
    support::{Home, counts_memory, eventually, system},
};

/// Between two tries. A node looks at the rules of queues every five seconds.
const BACK_OFF: Duration = Duration::from_secs(20);

/// One call that is begun once at most, in a queue; its first attempt may fail.
#[derive(Serialize, Deserialize)]
struct Careful {
    once: bool,
}

impl Workflow for Careful {
    const NAME: &'static str = "queues.careful";
    type Output = u32;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u32, AppError> {
        let call = cx.call(Charge).queue("late").retry(Retry::fixed(BACK_OFF).jitter_percent(0));
        Ok(if self.once { call.at_most_once().await? } else { call.await? })
    }
}

#[derive(Serialize, Deserialize)]
struct Charge;

impl Activity for Charge {
    const NAME: &'static str = "queues.charge";
    type Output = u32;
    type Error = AppError;
}

/// Nobody reads it; whoever gets it is in memory.
#[derive(Serialize, Deserialize)]
struct Nudge;

impl Signal for Nudge {
    const NAME: &'static str = "queues.nudge";
}

/// Charges, behind a gate.
#[derive(Clone, Default)]
struct Till {
    /// How often it was begun for `x`.
    begun: Arc<AtomicU32>,
    /// A first attempt fails.
    declines: bool,
    open: Arc<watch::Sender<bool>>,
}

impl Till {
    async fn node(&self, home: &Home) -> Stent {
        let Till { begun, declines, open } = self.clone();
        // It stays in memory: there it could be mistaken for one that runs here.
        let builder = home.open().workflow::<Careful>().lease(secs(2)).passivate_after(secs(60)).activity(
            async move |call: Call<Charge>| {
                let number = begun.fetch_add(u32::from(call.run().id == "x"), SeqCst) + 1;
                let _ = open.subscribe().wait_for(|open| *open).await;
                if declines && call.attempt() == 1 { Err(AppError::new("declined")) } else { Ok(number) }
            },
        );
        builder.spawn().await.unwrap()
    }

    fn opens(&self) {
        self.open.send_replace(true);
    }

    fn begun(&self) -> u32 {
        self.begun.load(SeqCst)
    }
}

async fn standing(stent: &Stent) -> u64 {
    stent.queues().await.unwrap().iter().map(|queue| queue.waiting).sum()
}

/// Pauses a queue that had no rules, and waits until this node knows: then a call stands in its line.
async fn pauses(stent: &Stent) {
    stent.pause_queue("late").await.unwrap();
    eventually("the queue counts as one with rules", secs(20), async || {
        let id = format!("probe-{}", uuid::Uuid::now_v7());
        stent.dispatch(Dispatch::new(Careful { once: false }).id(&id)).await.unwrap();
        tokio::time::sleep(millis(50)).await;
        let stands = standing(stent).await > 0;
        stent.terminate(Terminate::new(&id, "a test")).await.unwrap();
        stands
    })
    .await;
    eventually("nobody stands in line", secs(10), async || standing(stent).await == 0).await;
}

/// Pauses a run and lets it go on: it is replayed.
async fn replayed(stent: &Stent, id: &str) {
    stent.pause(PauseExecution::new(id, "a test")).await.unwrap();
    stent.resume(id).await.unwrap();
    eventually("it goes on", secs(10), async || stent.describe(id).await.unwrap().unwrap().summary.status == Status::Active)
        .await;
}

#[test]
fn what_runs_where_it_was_recorded_is_not_put_into_its_queue_when_that_gets_rules() {
    // All at once: most of it is waiting.
    system(async {
        let on = async |home: Home| {
            let till = Till::default();
            let stent = till.node(&home).await;
            let handle = stent.dispatch(Dispatch::new(Careful { once: true }).id("x")).await.unwrap();
            eventually("it charges", secs(10), async || till.begun() == 1).await;
            pauses(&stent).await;
            replayed(&stent, "x").await;
            till.opens();
            assert_eq!(handle.result().await.unwrap(), 1);
            assert_eq!(standing(&stent).await, 0, "it has ended, and stands in a line");
            stent.resume_queue("late").await.unwrap();
            stop(stent).await;
            assert_eq!(till.begun(), 1);
        };
        futures::future::join_all(Home::all().into_iter().map(on)).await;
    });
}

#[test]
fn an_attempt_whose_queue_is_paused_while_it_waits_elsewhere_is_not_begun_by_its_timer() {
    // All at once: most of it is waiting.
    system(async {
        let on = async |(home, replays): (Home, bool)| {
            let till = Till { declines: true, ..Till::default() };
            till.opens();
            let stent = till.node(&home).await;
            let handle = stent.dispatch(Dispatch::new(Careful { once: false }).id("x")).await.unwrap();
            let again =
                async || stent.describe("x").await.unwrap().unwrap().waits_for.iter().any(|line| line.contains("attempt 2"));
            eventually("it is declined, and waits for its next try", secs(10), async || again().await).await;
            let declined = Instant::now();
            pauses(&stent).await;
            // Either it is put into the line by a replay, or at the time of its timer.
            if replays && !counts_memory("whoever leaves memory is put into the line when its time comes") {
                replayed(&stent, "x").await;
                eventually("its next try stands in line", secs(10), async || standing(&stent).await == 1).await;
                let commits = async || stent.describe("x").await.unwrap().unwrap().commits;
                let before = commits().await;
                stent.signal(SendSignal::new("x", &Nudge)).await.unwrap();
                eventually("it is in memory", secs(10), async || commits().await > before).await;
            }
            assert!(declined.elapsed() < BACK_OFF, "too slow to see anything");
            // Behind the time of the timer; nothing tells that it has done nothing.
            tokio::time::sleep((BACK_OFF + secs(2)).saturating_sub(declined.elapsed())).await;
            eventually("its next try stands in line", secs(10), async || standing(&stent).await == 1).await;
            assert_eq!(till.begun(), 1, "the queue is paused");
            stent.resume_queue("late").await.unwrap();
            assert_eq!(handle.result().await.unwrap(), 2);
            stop(stent).await;
            assert_eq!(till.begun(), 2);
        };
        let homes = Home::all().into_iter().zip([true; 3]).chain(Home::all().into_iter().zip([false; 3]));
        futures::future::join_all(homes.map(on)).await;
    });
}

#[test]
fn a_queue_that_was_paused_stays_so_from_the_first_moment_of_the_next_life() {
    for home in Home::all() {
        system(async {
            let till = Till::default();
            till.opens();
            let stent = till.node(&home).await;
            stent.pause_queue("late").await.unwrap();
            stop(stent).await;
            let stent = till.node(&home).await;
            let handle = stent.dispatch(Dispatch::new(Careful { once: true }).id("x")).await.unwrap();
            eventually("it stands in line", secs(10), async || standing(&stent).await == 1 || till.begun() > 0).await;
            assert_eq!(till.begun(), 0, "the queue is paused");
            stent.resume_queue("late").await.unwrap();
            assert_eq!(handle.result().await.unwrap(), 1);
            stop(stent).await;
        });
    }
}
