//! `cluster`: several nodes, processes of their own, on one server or one file. First the rate with one node, two, and so on. Then a
//! load of effects during which one node is killed and another is frozen past its lease and let go on: how long until
//! others work on what the dead one had begun, is anything lost, is anything recorded done again?

use std::{
    collections::{HashMap, HashSet},
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use clap::Args;
use indicatif::ProgressBar;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value, json};

use super::{
    Failure, Target,
    chain::{stop, verified},
    place::Place,
    report::{Report, bar, millis, peak_mb, per_second, round},
    work::{EFFECTS, Effect, Paused},
};
use crate::{
    Stats, Stent,
    kernel::{
        codec,
        event::{Command as Asked, Event, Fact},
        id::RunId,
    },
    store::Reader,
};

/// How long anything may take that takes a moment.
const PATIENCE: Duration = Duration::from_secs(120);

/// Several nodes on one server, or one file.
#[derive(Args, Debug)]
pub(super) struct Cluster {
    #[command(flatten)]
    target: Target,
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(2..=16))]
    nodes: u64,
    /// Chains of each rate.
    #[arg(long, default_value_t = 12_000, value_parser = clap::value_parser!(u64).range(100..))]
    executions: u64,
    /// Activities of each chain.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// Executions in flight at once, all nodes together.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    in_flight: u64,
    /// The lease in milliseconds.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(200..))]
    lease_ms: u64,
}

/// What a node is to do.
struct Share<'a> {
    from: u64,
    to: u64,
    in_flight: u64,
    effects: Option<(&'a Path, &'a Path)>,
}

impl Cluster {
    pub(super) async fn run(self) -> Result<(), Failure> {
        if self.target.url == "memory:" {
            return Err(Failure::Usage(
                "processes share no memory: --url sqlite:<file> or postgres://<server>/<database>".to_owned(),
            ));
        }
        let mut figures = Map::new();
        let (mut rate, mut wall) = (0.0, Duration::ZERO);
        // By nodes' rates, and then: the load is there, others have taken over, the frozen one goes on, all have ended.
        let stages = bar(self.nodes + 4, "stages");
        for nodes in 1..=self.nodes {
            let place = Place::make(&self.target).await?;
            wall = self.chains(&place, nodes)?;
            rate = per_second(self.executions, wall);
            figures.insert(format!("rate_with_{nodes}"), json!(round(rate)));
            place.clear().await?;
            stages.inc(1);
        }
        let place = Place::make(&self.target).await?;
        let verdict = self.faults(&place, &mut figures, &stages).await?;
        stages.finish_and_clear();
        Report {
            workload: "cluster",
            params: json!({"nodes": self.nodes, "executions": self.executions, "steps": self.steps,
                           "in_flight": self.in_flight, "lease_ms": self.lease_ms}),
            wall,
            rate,
            unit: "executions/s",
            times: Vec::new(),
            stats: Stats::default(),
            rss_mb: peak_mb(),
            figures,
            notes: "rate: with all nodes; takeover: from the kill to the first effect of another node in an execution of the dead one"
                .to_owned(),
        }
        .print(&place)?;
        place.clear().await?;
        verdict
    }

    /// Chains on so many nodes; returns how long they took.
    fn chains(&self, place: &Place, nodes: u64) -> Result<Duration, Failure> {
        let share = |node: u64| Share {
            from: self.executions * node / nodes,
            to: self.executions * (node + 1) / nodes,
            in_flight: (self.in_flight / nodes).max(1),
            effects: None,
        };
        let mut all = (0..nodes).map(|node| self.node(place, &share(node))).collect::<Result<Vec<_>, _>>()?;
        all.iter_mut().try_for_each(|node| node.hear("ready"))?;
        let began = Instant::now();
        all.iter_mut().try_for_each(Node::go)?;
        all.iter_mut().try_for_each(|node| node.hear("done"))?;
        Ok(began.elapsed())
    }

    /// One node is killed and one is frozen past its lease, under load.
    async fn faults(
        &self,
        place: &Place,
        figures: &mut Map<String, Value>,
        stages: &ProgressBar,
    ) -> Result<Result<(), Failure>, Failure> {
        let (trace, acknowledged) = (place.beside(".effects"), place.beside(".acknowledged"));
        let executions = (self.executions / 10).max(self.nodes * 100);
        let share = |node: u64| Share {
            from: executions * node / self.nodes,
            to: executions * (node + 1) / self.nodes,
            in_flight: (self.in_flight / self.nodes).max(1),
            effects: Some((&trace, &acknowledged)),
        };
        let mut all = (0..self.nodes).map(|node| self.node(place, &share(node))).collect::<Result<Vec<_>, _>>()?;
        all.iter_mut().try_for_each(|node| node.hear("ready"))?;
        all.iter_mut().try_for_each(Node::go)?;
        let lines = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        wait(|| lines(&trace).lines().count() as u64 > executions * EFFECTS / 5, "a fifth of the effects")?;
        stages.inc(1);

        let mut killed = all.remove(0);
        let dead = killed.child.id();
        killed.child.kill()?;
        let at = Instant::now();
        let begun: HashSet<u64> =
            of(&lines(&trace)).filter(|effect| effect[3] == u64::from(dead)).map(|effect| effect[0]).collect();
        let behind = lines(&trace).lines().count();
        let taken = |text: &str| of(text).skip(behind).any(|e| e[3] != u64::from(dead) && begun.contains(&e[0]));
        wait(|| taken(&lines(&trace)), "that others go on with what the dead node had begun")?;
        figures.insert("takeover_ms".to_owned(), json!(millis(at.elapsed())));

        stages.inc(1);
        let frozen = Pid::from_child(&all[0].child);
        let signal = |signal| kill_process(frozen, signal).map_err(|error| Failure::Failed(format!("a signal: {error}")));
        signal(Signal::STOP)?;
        tokio::time::sleep(Duration::from_millis(self.lease_ms * 2)).await;
        signal(Signal::CONT)?;
        stages.inc(1);

        // A client: it has no workflow and runs nothing, and learns of every end.
        let client = Stent::of(place.builder().start().await?).await?;
        let promised: HashSet<String> = lines(&acknowledged).lines().map(str::to_owned).collect();
        let mut lost = 0;
        for id in &promised {
            match client.handle::<Paused>(id.clone()).await? {
                Some(handle) => {
                    let ended = tokio::time::timeout(PATIENCE, verified(&handle, EFFECTS)).await;
                    ended.map_err(|_| Failure::Failed(format!("{id} did not end in {PATIENCE:?}")))??;
                }
                None => lost += 1,
            }
        }
        all.iter_mut().try_for_each(|node| node.hear("done"))?;
        stages.inc(1);
        drop(all);
        stop(&client).await?;
        let again = repeated(place, &promised, &lines(&trace)).await?;
        figures.insert("acknowledged".to_owned(), json!(promised.len()));
        figures.insert("lost".to_owned(), json!(lost));
        figures.insert("recorded_steps_repeated".to_owned(), json!(again));
        Ok(if lost + again > 0 {
            Err(Failure::Failed(format!("{lost} acknowledged executions lost, {again} recorded steps repeated")))
        } else {
            Ok(())
        })
    }

    fn node(&self, place: &Place, share: &Share<'_>) -> Result<Node, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bench", "cluster-node", "--durability", self.target.durability.word(), "--url", &place.url()]);
        let numbers = [
            ("--lease-ms", self.lease_ms),
            ("--in-flight", share.in_flight),
            ("--from", share.from),
            ("--to", share.to),
            ("--steps", self.steps),
        ];
        for (name, number) in numbers {
            command.arg(name).arg(number.to_string());
        }
        if let Some((effects, acknowledged)) = share.effects {
            command.arg("--effects").arg(effects).arg("--acknowledged").arg(acknowledged);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take();
        let (say, heard) = channel();
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if say.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Node { child, stdin, heard })
    }
}

/// A node process; it does not outlive us.
struct Node {
    child: Child,
    stdin: Option<ChildStdin>,
    heard: Receiver<String>,
}

impl Node {
    fn go(&mut self) -> Result<(), Failure> {
        match &mut self.stdin {
            Some(stdin) => Ok(stdin.write_all(b"go\n")?),
            None => Err(Failure::Failed("a node has no way to be told anything".to_owned())),
        }
    }

    fn hear(&mut self, word: &str) -> Result<(), Failure> {
        match self.heard.recv_timeout(PATIENCE) {
            Ok(heard) if heard == word => Ok(()),
            other => Err(Failure::Failed(format!("a node was to say {word:?}, but: {other:?}"))),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It leaves in order when nobody talks to it any more.
        self.stdin = None;
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(15) {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait(mut until: impl FnMut() -> bool, what: &str) -> Result<(), Failure> {
    let began = Instant::now();
    while !until() {
        if began.elapsed() > PATIENCE {
            return Err(Failure::Failed(format!("waited {PATIENCE:?} for {what}")));
        }
        std::thread::sleep(Duration::from_millis(3));
    }
    Ok(())
}

/// The effects in a trace: execution, step, attempt, process.
fn of(trace: &str) -> impl Iterator<Item = [u64; 4]> {
    trace.lines().filter_map(|line| {
        let fields: Vec<u64> = line.split(' ').filter_map(|field| field.parse().ok()).collect();
        fields.try_into().ok()
    })
}

/// Counts effects of attempts behind the one whose result is recorded.
async fn repeated(place: &Place, promised: &HashSet<String>, trace: &str) -> Result<u64, Failure> {
    let mut store = place.store().await?;
    let reader = store.reader();
    let mut recorded = HashMap::new();
    for id in promised {
        if let Some(run) = reader.find(id, None).await? {
            completed(&*reader, &run.id, run.run, &mut recorded).await?;
        }
    }
    store.close().await?;
    let again = of(trace)
        .filter(|[execution, step, attempt, _]| recorded.get(&(*execution, *step)).is_some_and(|completed| attempt > completed));
    Ok(again.count() as u64)
}

async fn completed(
    reader: &dyn Reader,
    id: &RunId,
    run: crate::kernel::id::RunKey,
    to: &mut HashMap<(u64, u64), u64>,
) -> Result<(), Failure> {
    let mut asked = HashMap::new();
    for (commit_no, record) in reader.history(run, 0, 1_000).await? {
        let commit = codec::decode(id, commit_no, &record).map_err(|error| Failure::Failed(error.to_string()))?;
        for event in commit.events {
            match event {
                Event::Command(Asked::Call(call)) => {
                    let Effect { execution, step, .. } =
                        call.input.decode("an effect").map_err(|error| Failure::Failed(error.to_string()))?;
                    asked.insert(call.position, (execution, step));
                }
                Event::Fact(Fact::Completed { position, attempt, .. }) => {
                    if let Some(key) = asked.get(&position) {
                        to.insert(*key, attempt.into());
                    }
                }
                _ => {}
            }
        }
    }
    Ok(())
}
