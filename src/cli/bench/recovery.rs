//! `recovery`: a process is killed with SIGKILL when half of its effects are done. Its log is read as it was at that
//! moment; then this process goes on with it. Nothing acknowledged may be lost, nothing recorded may run again; what ran
//! and was not yet recorded may repeat, and is counted.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use clap::Args;
use futures_util::{StreamExt, stream};
use serde_json::{Map, json};

use super::{
    Failure, Target,
    chain::{stop, verified},
    place::{Place, each_page},
    report::{Report, bar, peak_mb, per_second, round},
    work::{self, EFFECTS, Effect, Effects, Paused},
};
use crate::{
    Dispatch, Stent,
    kernel::{
        codec,
        event::{Command as Asked, Event, Fact},
    },
    store::Reader,
};

/// How long the child may take to get half-way, and its successor to the end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process is killed half-way and restarted.
#[derive(Args, Debug)]
pub(super) struct Recovery {
    #[command(flatten)]
    target: Target,
    /// How many executions.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    executions: u64,
}

/// An effect by its execution and step.
type Key = (u64, u64);

/// What the store held when the process was killed.
#[derive(Default)]
struct AtDeath {
    ids: HashSet<String>,
    /// Effects whose results are in the log.
    recorded: HashSet<Key>,
}

impl Recovery {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Recovery { target, executions } = self;
        let place = Place::make(&target).await?;
        if !place.survives() {
            return Err(Failure::Usage("a store in memory does not survive its process; use sqlite: or postgres:".to_owned()));
        }
        let (trace, acknowledged) = (place.beside(".effects"), place.beside(".acknowledged"));
        let mut child = Killed(
            Command::new(std::env::current_exe()?)
                .args(["bench", "recovery-child", "--durability", target.durability.word()])
                .args(["--executions", &executions.to_string()])
                .arg("--url")
                .arg(place.url())
                .arg("--effects")
                .arg(&trace)
                .arg("--acknowledged")
                .arg(&acknowledged)
                .stdout(Stdio::null())
                .spawn()?,
        );
        half_way(&mut child.0, &trace, executions * EFFECTS / 2).await?;
        child.0.kill()?;
        child.0.wait()?;

        let before = at_death(&place).await?;
        let promised = std::fs::read_to_string(&acknowledged).unwrap_or_default();
        let lost = promised.lines().filter(|id| !before.ids.contains(*id)).count();

        let effects = Effects::open(&trace)?;
        let began = Instant::now();
        let stent = Stent::of(work::paused(place.builder(), &effects).start().await?).await?;
        let open = began.elapsed();
        tokio::time::timeout(PATIENCE, all_done(&stent, &before, executions)).await.map_err(|_| {
            Failure::Failed(format!("not every run that was in the store has ended {PATIENCE:?} after the restart"))
        })??;
        let wall = began.elapsed();
        // What never reached the store was never promised; it is run as well, so that every execution is verified.
        rest(&stent, &before, executions).await?;
        let stats = stent.stats();
        stop(&stent).await?;

        let (repeated, again) = count(&std::fs::read_to_string(&trace)?, &before.recorded, executions)?;
        let mut figures = Map::new();
        let first = effects.first().map(|first| round(first.duration_since(began).as_secs_f64() * 1e3));
        figures.insert("door_open_ms".to_owned(), json!(round(open.as_secs_f64() * 1e3)));
        figures.insert("first_effect_ms".to_owned(), json!(first));
        figures.insert("in_store_at_kill".to_owned(), json!(before.ids.len()));
        figures.insert("steps_recorded_at_kill".to_owned(), json!(before.recorded.len()));
        figures.insert("lost".to_owned(), json!(lost));
        figures.insert("repeated_effects".to_owned(), json!(repeated));
        figures.insert("recorded_steps_repeated".to_owned(), json!(again));
        Report {
            workload: "recovery",
            params: json!({"executions": executions}),
            wall,
            rate: per_second(before.ids.len() as u64, wall),
            unit: "executions/s",
            times: Vec::new(),
            stats,
            rss_mb: peak_mb(),
            figures,
            notes: "wall: from the restart until every run that was in the store at the kill is done, their pauses included"
                .to_owned(),
        }
        .print(&place)?;
        place.clear().await?;
        if lost > 0 || again > 0 {
            return Err(Failure::Failed(format!("{lost} acknowledged executions lost, {again} recorded steps repeated")));
        }
        Ok(())
    }
}

/// Returns the id of an execution.
pub(super) fn id_of(execution: u64) -> String {
    format!("bench-{execution}")
}

/// A process that does not outlive us.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until the child has left so many traces.
async fn half_way(child: &mut Child, trace: &Path, wanted: u64) -> Result<(), Failure> {
    let bar = bar(wanted, "effects before the kill");
    let began = Instant::now();
    loop {
        let done = std::fs::read(trace).map_or(0, |text| text.iter().filter(|byte| **byte == b'\n').count() as u64);
        bar.set_position(done);
        if done >= wanted {
            bar.finish_and_clear();
            return Ok(());
        }
        if let Some(status) = child.try_wait()? {
            return Err(Failure::Failed(format!("the process to be killed ended by itself: {status}")));
        }
        if began.elapsed() > PATIENCE {
            return Err(Failure::Failed(format!("only {done} of {wanted} effects after {PATIENCE:?}")));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Reads the log as the dead process left it.
async fn at_death(place: &Place) -> Result<AtDeath, Failure> {
    let mut store = place.store().await?;
    let reader = store.reader();
    let mut found = AtDeath::default();
    each_page(&*reader, async |page| {
        for run in &page {
            recorded(&*reader, run, &mut found.recorded).await?;
        }
        found.ids.extend(page.into_iter().map(|run| run.id.id));
        Ok(())
    })
    .await?;
    store.close().await?;
    Ok(found)
}

async fn recorded(reader: &dyn Reader, run: &crate::store::Summary, to: &mut HashSet<Key>) -> Result<(), Failure> {
    let mut asked = HashMap::new();
    for (commit_no, record) in reader.history(run.run, 0, 1_000).await? {
        let commit = codec::decode(&run.id, commit_no, &record).map_err(|error| Failure::Failed(error.to_string()))?;
        for event in commit.events {
            match event {
                Event::Command(Asked::Call(call)) => {
                    let Effect { execution, step, .. } =
                        call.input.decode("an effect").map_err(|error| Failure::Failed(error.to_string()))?;
                    asked.insert(call.position, (execution, step));
                }
                Event::Fact(Fact::Completed { position, .. }) => to.extend(asked.get(&position)),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Waits for every run that was in the store.
async fn all_done(stent: &Stent, before: &AtDeath, executions: u64) -> Result<(), Failure> {
    let bar = bar(before.ids.len() as u64, "executions behind the restart");
    let waits = stream::iter(0..executions).filter(|n| std::future::ready(before.ids.contains(&id_of(*n)))).map(async |n| {
        match stent.handle::<Paused>(id_of(n)).await? {
            Some(handle) => verified(&handle, EFFECTS).await,
            None => Err(Failure::Failed(format!("{} was in the store and is not any more", id_of(n)))),
        }
    });
    let mut waits = std::pin::pin!(waits.buffer_unordered(256));
    while let Some(done) = waits.next().await {
        done?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

/// Runs what never got into the store.
async fn rest(stent: &Stent, before: &AtDeath, executions: u64) -> Result<(), Failure> {
    let rest = stream::iter(0..executions).filter(|n| std::future::ready(!before.ids.contains(&id_of(*n)))).map(async |n| {
        let handle = stent.dispatch(Dispatch::new(Paused { execution: n }).id(id_of(n))).await?;
        verified(&handle, EFFECTS).await
    });
    let mut rest = std::pin::pin!(rest.buffer_unordered(2_000));
    while let Some(done) = rest.next().await {
        done?;
    }
    Ok(())
}

/// Counts effects that happened more than once, and those of them whose result had been recorded before the kill. Every
/// effect must have happened.
fn count(trace: &str, recorded: &HashSet<Key>, executions: u64) -> Result<(u64, u64), Failure> {
    let ours = std::process::id();
    let mut seen: HashMap<Key, u64> = HashMap::new();
    let mut again = 0;
    for line in trace.lines() {
        let fields: Vec<u64> = line.split(' ').filter_map(|field| field.parse().ok()).collect();
        let [execution, step, _, pid] = fields[..] else {
            return Err(Failure::Failed(format!("a damaged line in the file of effects: {line:?}")));
        };
        *seen.entry((execution, step)).or_default() += 1;
        if pid == u64::from(ours) && recorded.contains(&(execution, step)) {
            again += 1;
        }
    }
    let wanted = executions * EFFECTS;
    if seen.len() as u64 != wanted {
        return Err(Failure::Failed(format!("{} of {wanted} effects happened", seen.len())));
    }
    Ok((seen.values().map(|times| times - 1).sum(), again))
}
