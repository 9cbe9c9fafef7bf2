//! A cluster: some nodes on one store, the jobs they were given, and the end of the story, in which everything is healed
//! and everything must come to its end.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    checker::{Expect, History, Side, judge, read_histories},
    node::{Frozen, Node, Options, PATIENCE, Tag},
    proxy::Proxy,
    support::servers::Database,
};

/// Where the executions are.
pub(crate) enum Place<'a> {
    /// A file on this machine, for one process or several.
    Sqlite(PathBuf),
    Postgres(Database<'a>),
}

/// What executions do; see `tests/bin/cluster_node.rs`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    /// `load`, `load2` or `rare`.
    pub(crate) workflow: &'static str,
    /// Calls one behind the other…
    pub(crate) steps: u32,
    /// …of which each takes so long.
    pub(crate) pause_ms: u64,
    /// How long it sleeps then; 0 means not at all.
    pub(crate) sleep_ms: u64,
    /// Whether it waits for a signal.
    pub(crate) signal: bool,
}

impl Job {
    /// A bit of everything, in about a tenth of a second.
    pub(crate) const MIXED: Job = Job { workflow: "load", steps: 3, pause_ms: 20, sleep_ms: 40, signal: true };

    /// Acts all the time: for so many calls of 50 ms.
    pub(crate) fn busy(steps: u32) -> Job {
        Job { workflow: "load", steps, pause_ms: 50, sleep_ms: 0, signal: false }
    }

    pub(crate) fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.workflow)
    }

    /// Returns both results that an execution may have: its act at most once may be *maybe done*.
    pub(crate) fn results(&self) -> [String; 2] {
        ["once", "maybe"].map(|once| {
            let steps = (0..self.steps).map(|step| format!("{step} ")).collect::<String>();
            let go = if self.signal { "go " } else { "" };
            format!("{} {steps}inline {go}stable {once} left right", self.workflow)
        })
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Job { workflow, steps, pause_ms, sleep_ms, signal } = self;
        write!(f, "{workflow} {steps} {pause_ms} {sleep_ms} {}", u8::from(*signal))
    }
}

/// Some nodes on one store.
pub(crate) struct Cluster<'a> {
    pub(crate) nodes: Vec<Node>,
    pub(crate) place: Place<'a>,
    folder: Option<tempfile::TempDir>,
    /// What was dispatched, by id.
    pub(crate) jobs: BTreeMap<String, Job>,
    next: u64,
}

impl<'a> Cluster<'a> {
    /// Starts nodes on a fresh database, each behind a proxy of its own.
    pub(crate) fn on(database: Database<'a>, options: impl IntoIterator<Item = Options>) -> Cluster<'a> {
        Cluster::new(options, |_| Place::Postgres(database))
    }

    /// Starts nodes on one fresh file.
    pub(crate) fn on_file(options: impl IntoIterator<Item = Options>) -> Cluster<'static> {
        Cluster::new(options, |folder| Place::Sqlite(folder.join("stent.db")))
    }

    fn new(options: impl IntoIterator<Item = Options>, place: impl FnOnce(&Path) -> Place<'a>) -> Cluster<'a> {
        let folder = tempfile::Builder::new().prefix("stent-cluster-").tempdir().unwrap();
        let place = place(folder.path());
        let mut cluster = Cluster { nodes: Vec::new(), place, folder: Some(folder), jobs: BTreeMap::new(), next: 1 };
        for options in options {
            cluster.add(options);
        }
        cluster
    }

    /// Starts one more node; returns its place in `nodes`.
    pub(crate) fn add(&mut self, options: Options) -> usize {
        let (url, proxy) = match &self.place {
            Place::Sqlite(file) => (format!("sqlite:{}", file.display()), None),
            Place::Postgres(database) => {
                let proxy = Proxy::to(database.server().port());
                (database.url_at(proxy.port()), Some(proxy))
            }
        };
        let mut node = Node::new(format!("node{}", self.nodes.len()), url, proxy, self.folder(), options);
        node.start();
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.as_ref().expect("taken only at the end").path()
    }

    pub(crate) fn side(&self) -> Side {
        Side::read(&self.folder().join("side.txt"))
    }

    /// Takes numbers for so many executions.
    fn take(&mut self, job: Job, count: u64) -> RangeInclusive<u64> {
        let numbers = self.next..=self.next + count - 1;
        self.next += count;
        self.jobs.extend(numbers.clone().map(|number| (job.id(number), job)));
        numbers
    }

    /// Dispatches through a node, and waits until all are acknowledged.
    pub(crate) fn dispatch(&mut self, node: usize, job: Job, count: u64) -> RangeInclusive<u64> {
        let numbers = self.take(job, count);
        self.nodes[node].must(&format!("dispatch {job} {} {}", numbers.start(), numbers.end()));
        numbers
    }

    /// Dispatches through a node, and waits for nothing.
    pub(crate) fn dispatch_later(&mut self, node: usize, job: Job, count: u64) -> (Tag, RangeInclusive<u64>) {
        let numbers = self.take(job, count);
        (self.nodes[node].tell(&format!("dispatch {job} {} {}", numbers.start(), numbers.end())), numbers)
    }

    /// Sends the signals of a range through a node, and waits for nothing.
    pub(crate) fn signal_later(&mut self, node: usize, job: Job, numbers: &RangeInclusive<u64>) -> Tag {
        self.nodes[node].tell(&format!("signal {job} {} {}", numbers.start(), numbers.end()))
    }

    /// Waits until something shows in the side file.
    pub(crate) fn until(&self, what: &str, limit: Duration, mut holds: impl FnMut(&Side) -> bool) -> Side {
        let since = Instant::now();
        loop {
            let side = self.side();
            if holds(&side) {
                return side;
            }
            assert!(since.elapsed() < limit, "{what}: not within {limit:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Heals the network and starts every seat that is empty.
    pub(crate) fn heal(&mut self) {
        for node in &mut self.nodes {
            if let Some(proxy) = &node.proxy {
                proxy.heal();
            }
            if let Some(why) = node.left() {
                println!("{} had left by itself: {why}", node.name);
            }
            if !node.runs() {
                node.begin();
            }
        }
        for node in &mut self.nodes {
            if !node.is_up() {
                let what = format!("{} is up", node.name);
                crate::support::servers::until(&what, PATIENCE, || {
                    assert_eq!(node.left(), None, "{} did not start", node.name);
                    node.is_up()
                });
            }
        }
    }

    /// The end of the story: what is left behind is judged.
    pub(crate) fn finish(mut self, expect: Expect) {
        let (histories, side) = self.settle(expect);
        let thawed: Vec<Frozen> = self.nodes.iter().flat_map(|node| node.thawed.iter().copied()).collect();
        judge(&histories, &side, &self.jobs, &thawed, &expect);
        let most = self.nodes.iter().map(|node| node.options.activities).max().unwrap_or(0);
        let peak = side.peak_of_a_process();
        assert!(peak as u64 <= most, "{peak} acts at once in a process, the limit is {most}");
    }

    /// All is healed, what nobody acknowledged is asked for again, everything ends, and the nodes leave well.
    pub(crate) fn settle(&mut self, expect: Expect) -> (BTreeMap<String, History>, Side) {
        let healed = Instant::now();
        self.heal();
        let side = self.side();
        let jobs: Vec<(String, Job)> = self.jobs.iter().map(|(id, job)| (id.clone(), *job)).collect();
        let able = |node: &Node, job: &Job| node.options.workflows.split(',').any(|name| name == job.workflow);
        let mut lost = BTreeSet::new();
        for (id, job) in &jobs {
            let number: u64 = id.rsplit('-').next().unwrap().parse().unwrap();
            let command = |verb: &str| format!("{verb} {job} {number} {number}");
            let node = self.nodes.iter_mut().find(|node| able(node, job)).expect("a node that can dispatch it");
            if side.acked.contains(id) {
                let missing = node.must(&command("missing"));
                if !missing.is_empty() {
                    lost.insert(missing);
                    node.must(&command("dispatch"));
                }
            } else {
                node.must(&command("dispatch"));
            }
            if job.signal && (!side.signalled.contains(id) || expect.may_forget) {
                node.must(&command("signal"));
            }
        }
        assert!(expect.may_forget || lost.is_empty(), "acknowledged and lost: {lost:?}");
        self.all_ended(expect.within);
        println!("all {} executions had ended {:?} after the healing", jobs.len(), healed.elapsed());
        for node in &mut self.nodes {
            node.stop();
        }
        if let Place::Postgres(database) = &self.place {
            let what = "no connection is left behind the last node";
            crate::support::servers::until(what, Duration::from_secs(5), || database.connections() == 0);
        }
        if let Place::Sqlite(file) = &self.place {
            let files = std::fs::read_dir(file.parent().unwrap()).unwrap().map(|file| file.unwrap().file_name());
            let lives: Vec<_> = files.filter(|file| file.to_str().unwrap().contains(".node-")).collect();
            assert!(lives.is_empty(), "left behind by nodes that are no more: {lives:?}");
        }
        (read_histories(&self.place), self.side())
    }

    /// Waits until nothing is left to do.
    pub(crate) fn all_ended(&mut self, limit: Duration) {
        let since = Instant::now();
        loop {
            let left = self.nodes[0].ask("unended", PATIENCE).unwrap_or_else(|error| format!("? {error}"));
            if left.starts_with("0 ") || left == "0" {
                return;
            }
            assert!(since.elapsed() < limit, "not ended {limit:?} after everything was healed: {left}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        self.nodes.clear();
        if std::thread::panicking()
            && let Some(folder) = self.folder.take()
        {
            println!("side file and logs are kept in {}", folder.keep().display());
        }
    }
}
