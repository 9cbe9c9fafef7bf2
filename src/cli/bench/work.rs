//! What the workloads run: workflows and activities, trivial on purpose.

use std::{
    fs::File,
    io::Write,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use futures_util::future::join_all;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::Polled;
use crate::{Activity, AppError, Builder, Call, Cx, Signal, Workflow};

/// Fewer than a turn may ask for.
const CHUNK: u64 = 5_000;

/// `n` → `n + 1`.
#[derive(Serialize, Deserialize)]
pub(super) struct Increment {
    pub(super) n: u64,
}

impl Activity for Increment {
    const NAME: &'static str = "bench.increment";
    type Output = u64;
    type Error = AppError;
}

/// So many increments, one after the other.
#[derive(Serialize, Deserialize)]
pub(super) struct Steps {
    pub(super) steps: u64,
}

impl Workflow for Steps {
    const NAME: &'static str = "bench.chain";
    type Output = u64;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u64, AppError> {
        let mut n = 0;
        for _ in 0..self.steps {
            n = cx.call(Increment { n }).await?;
        }
        Ok(n)
    }
}

/// So many increments at once; returns the sum of what they returned.
#[derive(Serialize, Deserialize)]
pub(super) struct Wide {
    pub(super) width: u64,
}

impl Workflow for Wide {
    const NAME: &'static str = "bench.fanout";
    type Output = u64;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u64, AppError> {
        let mut sum = 0;
        let mut from = 0;
        while from < self.width {
            let to = self.width.min(from + CHUNK);
            for output in join_all((from..to).map(|n| cx.call(Increment { n }))).await {
                sum += output?;
            }
            from = to;
        }
        Ok(sum)
    }
}

/// So many increments, a window of them at once, then a wait for [`Finish`]; returns the sum of what they returned.
#[derive(Serialize, Deserialize)]
pub(super) struct Mapped {
    pub(super) items: u64,
    pub(super) concurrency: usize,
}

impl Workflow for Mapped {
    const NAME: &'static str = "bench.map";
    type Output = u64;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u64, AppError> {
        let outputs = cx.map(0..self.items, |n| cx.call(Increment { n })).concurrency(self.concurrency).await?;
        cx.signal::<Finish>().await?;
        Ok(outputs.iter().sum())
    }
}

/// Ends a [`Long`] or a [`Mapped`] run.
#[derive(Serialize, Deserialize)]
pub(super) struct Finish;

impl Signal for Finish {
    const NAME: &'static str = "bench.finish";
}

/// So many stamped increments, one after the other, then a wait for [`Finish`].
#[derive(Serialize, Deserialize)]
pub(super) struct Long {
    pub(super) depth: u64,
}

impl Workflow for Long {
    const NAME: &'static str = "bench.deep";
    type Output = u64;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u64, AppError> {
        let mut n = 0;
        for _ in 0..self.depth {
            n = cx.call(Stamped { n }).await?;
        }
        cx.signal::<Finish>().await?;
        Ok(n)
    }
}

/// `n` → `n + 1`, and the time is noted.
#[derive(Serialize, Deserialize)]
pub(super) struct Stamped {
    pub(super) n: u64,
}

impl Activity for Stamped {
    const NAME: &'static str = "bench.stamped";
    type Output = u64;
    type Error = AppError;
}

/// When each stamped increment ran.
pub(super) type Stamps = Arc<Mutex<Vec<Instant>>>;

/// How many effects each execution of `recovery` has.
pub(super) const EFFECTS: u64 = 5;

/// Five effects with a pause in the middle.
#[derive(Serialize, Deserialize)]
pub(super) struct Paused {
    pub(super) execution: u64,
}

impl Workflow for Paused {
    const NAME: &'static str = "bench.recovery";
    type Output = u64;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u64, AppError> {
        let execution = self.execution;
        let mut n = 0;
        for step in 1..=EFFECTS {
            n = cx.call(Effect { execution, step, n }).await?;
            if step == EFFECTS.div_ceil(2) {
                cx.sleep(std::time::Duration::from_millis(200)).await?;
            }
        }
        Ok(n)
    }
}

/// `n` → `n + 1`, and a line in the file of effects.
#[derive(Serialize, Deserialize)]
pub(super) struct Effect {
    pub(super) execution: u64,
    pub(super) step: u64,
    pub(super) n: u64,
}

impl Activity for Effect {
    const NAME: &'static str = "bench.effect";
    type Output = u64;
    type Error = AppError;
}

/// Where effects leave their traces: `execution step attempt pid`, one line each, appended in one write.
#[derive(Clone)]
pub(super) struct Effects {
    file: Arc<File>,
    first: Arc<Mutex<Option<Instant>>>,
}

impl Effects {
    pub(super) fn open(path: &Path) -> std::io::Result<Effects> {
        let file = File::options().create(true).append(true).open(path)?;
        Ok(Effects { file: Arc::new(file), first: Arc::default() })
    }

    /// Returns when this process had its first effect.
    pub(super) fn first(&self) -> Option<Instant> {
        *self.first.lock()
    }

    fn leave(&self, execution: u64, step: u64, attempt: u32) -> std::io::Result<()> {
        self.first.lock().get_or_insert_with(Instant::now);
        let line = format!("{execution} {step} {attempt} {}\n", std::process::id());
        (&*self.file).write_all(line.as_bytes())
    }
}

/// Sleeps until a moment, in microseconds since the Unix epoch; returns how many microseconds later it went on.
#[derive(Serialize, Deserialize)]
pub(super) struct Sleeper {
    pub(super) until: i64,
}

impl Workflow for Sleeper {
    const NAME: &'static str = "bench.sleeper";
    type Output = i64;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<i64, AppError> {
        cx.sleep_until(chrono::DateTime::from_timestamp_micros(self.until).unwrap_or_default()).await?;
        Ok(cx.now().timestamp_micros() - self.until)
    }
}

/// A number from outside.
#[derive(Serialize, Deserialize)]
pub(super) struct Number {
    pub(super) n: u64,
}

impl Signal for Number {
    const NAME: &'static str = "bench.number";
}

/// Waits for a [`Number`]; returns `n + 1`.
#[derive(Serialize, Deserialize)]
pub(super) struct Waiting;

impl Workflow for Waiting {
    const NAME: &'static str = "bench.waiting";
    type Output = u64;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u64, AppError> {
        Ok(cx.signal::<Number>().await?.n + 1)
    }
}

/// Registers what `signals` runs.
pub(super) fn waiting(builder: Builder) -> Builder {
    builder.workflow::<Waiting>()
}

/// Registers what `sleepers` runs.
pub(super) fn sleeping(builder: Builder) -> Builder {
    builder.workflow::<Sleeper>()
}

/// Registers what `chain`, `latency` and a node of `cluster` run.
pub(super) fn plain(builder: Builder, polled: Polled) -> Builder {
    polled.add(builder.workflow::<Steps>(), async |call: Call<Increment>| Ok(call.n + 1))
}

/// How many increments ran.
pub(super) type Done = Arc<AtomicU64>;

/// Registers what `fanout` and `map` run.
pub(super) fn counted(builder: Builder, polled: Polled, done: &Done) -> Builder {
    let done = done.clone();
    polled.add(builder.workflow::<Wide>().workflow::<Mapped>(), move |call: Call<Increment>| {
        done.fetch_add(1, Relaxed);
        async move { Ok(call.n + 1) }
    })
}

/// Registers what `deep` runs.
pub(super) fn stamped(builder: Builder, polled: Polled, stamps: &Stamps) -> Builder {
    let stamps = stamps.clone();
    polled.add(builder.workflow::<Long>(), move |call: Call<Stamped>| {
        stamps.lock().push(Instant::now());
        async move { Ok(call.n + 1) }
    })
}

/// Registers what `recovery` runs.
pub(super) fn paused(builder: Builder, effects: &Effects) -> Builder {
    let effects = effects.clone();
    builder.workflow::<Paused>().activity(move |call: Call<Effect>| {
        let left = effects.leave(call.execution, call.step, call.attempt());
        async move {
            left?;
            Ok(call.n + 1)
        }
    })
}
