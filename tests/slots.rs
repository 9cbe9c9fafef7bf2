//! A slot is memory that an execution holds. The story: executions that only waited were kept in memory for the sake of acts that
//! nobody waited for any more, and a count of free slots that was told late kept an acknowledged dispatch from ever being
//! claimed. Each test drives one such corner and waits for what must happen.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use stent::prelude::*;
use support::{eventually, system};

mod support;

#[derive(Serialize, Deserialize)]
struct Go;

impl Signal for Go {
    const NAME: &'static str = "slots.go";
}

macro_rules! act {
    ($name:ident) => {
        #[derive(Serialize, Deserialize)]
        struct $name;

        impl Activity for $name {
            const NAME: &'static str = concat!("slots.", stringify!($name));
            type Output = ();
            type Error = AppError;
        }
    };
}

act!(Quick);
act!(Long);
act!(Undo);

macro_rules! flow {
    ($name:ident, |$cx:ident| $body:expr) => {
        #[derive(Serialize, Deserialize)]
        struct $name;

        impl Workflow for $name {
            const NAME: &'static str = concat!("slots.", stringify!($name));
            type Output = ();
            type Error = AppError;

            async fn run(self, $cx: Cx<Self>) -> Result<(), AppError> {
                $body
            }
        }
    };
}

flow!(Waits, |cx| {
    cx.signal::<Go>().await?;
    Ok(())
});

flow!(Short, |cx| {
    cx.call(Quick).await?;
    Ok(())
});

flow!(Races, |cx| {
    cx.race(cx.call(Long), cx.call(Quick)).await;
    cx.signal::<Go>().await?;
    Ok(())
});

flow!(Overruns, |cx| {
    cx.saga(async |saga| {
        let long = saga.call(Long).undo_with(|_| Undo);
        long.timeout(millis(50)).retry(Retry::never()).await?;
        Ok::<_, AppError>(())
    })
    .await
});

async fn open(folder: &tempfile::TempDir, build: impl FnOnce(stent::Builder) -> stent::Builder) -> Stent {
    let builder = Stent::open(&format!("sqlite:{}", folder.path().join("stent.db").display()));
    Stent::of(build(builder).start().await.unwrap()).await.unwrap()
}

#[test]
fn a_deadline_holds_for_a_run_that_was_opened_from_the_store() {
    system(async {
        let folder = tempfile::tempdir().unwrap();
        let stent = open(&folder, |builder| builder.workflow::<Waits>()).await;
        let late = Dispatch::new(Waits).id("late").delay(millis(100)).deadline(secs(1));
        let handle = stent.dispatch(late).await.unwrap();
        assert!(matches!(handle.result().await, Err(RunError::TimedOut)));
        stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
    });
}

#[test]
fn a_dispatch_beyond_the_slots_runs_when_one_is_free() {
    system(async {
        let folder = tempfile::tempdir().unwrap();
        let stent =
            open(&folder, |builder| builder.workflow::<Short>().in_flight(1).activity(async |_: Call<Quick>| Ok(()))).await;
        for round in 0..40 {
            let first = stent.dispatch(Dispatch::new(Short).id(format!("first-{round}"))).await.unwrap();
            let second = stent.dispatch(Dispatch::new(Short).id(format!("second-{round}"))).await.unwrap();
            first.result().await.unwrap();
            second.result().await.unwrap();
        }
        stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
    });
}

#[test]
fn the_loser_of_a_race_is_told_to_stop_and_its_run_leaves_memory() {
    system(async {
        let folder = tempfile::tempdir().unwrap();
        let (begun, stopped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (begins, stops) = (begun.clone(), stopped.clone());
        let stent = open(&folder, |builder| {
            builder.workflow::<Races>().in_flight(4).activity(async |_: Call<Quick>| Ok(())).activity(
                async move |call: Call<Long>| {
                    begins.fetch_add(1, SeqCst);
                    call.cancelled().await;
                    stops.fetch_add(1, SeqCst);
                    Ok(())
                },
            )
        })
        .await;
        // Five times as many as there are slots: those who only wait must not keep theirs.
        let mut handles = Vec::new();
        for number in 0..20 {
            handles.push(stent.dispatch(Dispatch::new(Races).id(format!("race-{number}"))).await.unwrap());
        }
        eventually("all wait outside of memory", secs(60), async || {
            let mut asleep = 0;
            for handle in &handles {
                let found = stent.describe(handle.id()).await.unwrap().unwrap();
                asleep += usize::from(found.summary.owner.is_none() && found.commits > 1);
            }
            asleep == handles.len()
        })
        .await;
        assert_eq!(begun.load(SeqCst), stopped.load(SeqCst), "whoever began was told to stop");
        for handle in &handles {
            stent.signal(SendSignal::new(handle.id(), &Go)).await.unwrap();
            handle.result().await.unwrap();
        }
        stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
    });
}

/// An actor whose act cannot be interrupted.
struct Till(Arc<parking_lot::Mutex<Vec<&'static str>>>);

impl Actor for Till {
    type Context = Context<Self>;
}

impl Handler<Call<Long>> for Till {
    type Result = ResponseFuture<Result<(), AppError>>;

    fn handle(&mut self, _: Call<Long>, _: &mut Context<Self>) -> Self::Result {
        let book = self.0.clone();
        Box::pin(async move {
            // The length of the act itself, longer than its limit.
            tokio::time::sleep(Duration::from_millis(400)).await;
            book.lock().push("done");
            Ok(())
        })
    }
}

#[test]
fn a_compensation_does_not_overtake_an_act_that_ran_over_its_time() {
    system(async {
        let folder = tempfile::tempdir().unwrap();
        let book = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let (till, undone) = (Till(book.clone()).start(), book.clone());
        let stent = open(&folder, |builder| {
            builder.workflow::<Overruns>().activity(till.recipient::<Call<Long>>()).activity(async move |_: Call<Undo>| {
                undone.lock().push("undone");
                Ok(())
            })
        })
        .await;
        let handle = stent.dispatch(Dispatch::new(Overruns)).await.unwrap();
        assert!(handle.result().await.is_err());
        assert_eq!(*book.lock(), ["done", "undone"]);
        stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
    });
}
