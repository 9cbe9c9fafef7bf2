//! The story: nobody asks anything of a node. Executions sleep in its store, and somebody waits for each of them. What the node asks
//! of the database meanwhile is the same however many there are, and little.
//!
//! Ticks come by the real clock: leases and looks go by time since boot on several threads, which no test can move. So what is
//! counted here are the statements of some seconds; that a day has as many for ten runs as for a hundred thousand follows from
//! whose turn it is to be looked at, which is tested where it is decided.

#![allow(clippy::print_stdout, reason = "what was sent is printed for whoever wonders what it is")]

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{LazyLock, OnceLock},
    time::Duration,
};

use futures::{StreamExt, stream};
use parking_lot::Mutex;
use stent::{Handle, Queue, prelude::*};
use support::{Home, alone, eventually};
use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

mod support;

#[derive(Serialize, Deserialize)]
struct Sleeps;

impl Workflow for Sleeps {
    const NAME: &'static str = "idle.sleeps";
    type Output = ();
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<(), AppError> {
        cx.sleep(Duration::from_secs(30 * 24 * 3600)).await?;
        Ok(())
    }
}

/// Statements since it was emptied, by their beginnings.
static SEEN: LazyLock<Mutex<BTreeMap<String, u32>>> = LazyLock::new(Mutex::default);

/// Counts what the driver says it has sent.
struct Counting;

impl<S: tracing::Subscriber> Layer<S> for Counting {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        struct Summary(String);
        impl tracing::field::Visit for Summary {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn Debug) {
                if field.name() == "summary" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        let mut summary = Summary(String::new());
        event.record(&mut summary);
        *SEEN.lock().entry(summary.0).or_default() += 1;
    }
}

/// Returns what was sent within so long.
async fn sent(time: Duration) -> BTreeMap<String, u32> {
    SEEN.lock().clear();
    tokio::time::sleep(time).await;
    std::mem::take(&mut *SEEN.lock())
}

#[derive(Serialize, Deserialize)]
struct Acts;

impl Activity for Acts {
    const NAME: &'static str = "idle.acts";
    type Output = ();
    type Error = AppError;
}

async fn asleep(stent: &Stent, count: u64) -> Vec<Handle<Sleeps>> {
    let asked = stream::iter(0..count).map(|_| stent.dispatch(Dispatch::new(Sleeps)));
    let handles: Vec<_> = asked.buffer_unordered(200).map(Result::unwrap).collect().await;
    eventually("all sleep in the store", secs(60), async || stent.stats().held == 0).await;
    handles
}

#[test]
fn an_idle_node_asks_the_store_as_often_for_thousands_of_sleepers_as_for_ten_and_less_than_five_times_a_second() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let targets = Targets::new().with_target("sqlx::query", tracing::Level::DEBUG);
        tracing_subscriber::registry().with(Counting.with_filter(targets)).init();
    });
    let homes = [
        Home::sqlite(),
        #[cfg(feature = "postgres")]
        Home::postgres(),
    ];
    for home in homes {
        alone(async {
            let builder = home.open().workflow::<Sleeps>().activity(async |_: Call<Acts>| Ok(()));
            // Who has a queue has more to look after than who has none.
            let builder = builder.queue(Queue::named("idle").concurrency(1));
            let stent = Stent::of(builder.start().await.unwrap()).await.unwrap();
            // Ticks are up to five seconds long: of ten seconds each has its share.
            let time = secs(10);
            let mut counts = Vec::new();
            let mut handles = Vec::new();
            for more in [10, 3_000] {
                handles.extend(asleep(&stent, more).await);
                // Whatever the dispatches and the start have left to be done.
                sent(secs(2)).await;
                let sent = sent(time).await;
                println!(
                    "{} asleep: {:.1}/s {sent:#?}",
                    handles.len(),
                    f64::from(sent.values().sum::<u32>()) / time.as_secs_f64()
                );
                counts.push(sent.values().sum::<u32>());
            }
            let [few, many] = counts[..] else { unreachable!() };
            assert!(few > 0, "it is alive");
            assert!(many <= few + 6, "{few} statements, and with hundreds of times as many sleepers {many}");
            assert!(u64::from(many) < 5 * time.as_secs(), "{many} in {time:?}");
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        });
    }
}
