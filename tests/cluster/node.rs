//! A seat of a cluster: a process that is started, killed, frozen and told what to do, and the network in front of it.

use std::{
    fs::OpenOptions,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{now, proxy::Proxy, support::servers::until};

/// How long a node may take to come up or to leave.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How a node is started.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Separated by commas: `load`, `load2`, `rare`, `changed`.
    pub(crate) workflows: &'static str,
    pub(crate) lease: Duration,
    pub(crate) grace: Duration,
    /// How far ahead sleepers are claimed; short, or the naps of these jobs would be spent in memory.
    pub(crate) ahead: Duration,
    /// Activities at once.
    pub(crate) activities: u64,
    /// Of the queue `limited`, in the whole cluster; 0 means none.
    pub(crate) limit: usize,
    /// The same for one key of it.
    pub(crate) per_key: usize,
    /// The wall clock is that far off, in seconds.
    pub(crate) clock_off: i64,
    pub(crate) timezone: &'static str,
    pub(crate) build: &'static str,
    /// Another way for hints than the store's own; empty means none.
    pub(crate) hints: String,
    /// As in `STENT_FAILPOINTS`.
    pub(crate) failpoints: String,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            workflows: "load",
            lease: Duration::from_secs(2),
            grace: Duration::from_secs(5),
            ahead: Duration::from_millis(20),
            activities: 1_000,
            limit: 0,
            per_key: 0,
            clock_off: 0,
            timezone: "UTC",
            build: "cluster",
            hints: String::new(),
            failpoints: String::new(),
        }
    }
}

/// What the process said so far.
#[derive(Default)]
struct Said {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

struct Process {
    child: Child,
    input: Option<ChildStdin>,
    said: Arc<Said>,
    tags: u64,
}

/// The number of a command whose answer may be asked for later.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tag(u64);

/// When a process stood still, in µs of boot time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frozen {
    pub(crate) pid: u32,
    pub(crate) from: u128,
    pub(crate) to: u128,
}

/// A seat.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) options: Options,
    /// The network in front of it, where the store is a server.
    pub(crate) proxy: Option<Proxy>,
    url: String,
    folder: PathBuf,
    process: Option<Process>,
    /// When it was thawed: what a frozen process had begun is done then, whatever happened meanwhile.
    pub(crate) thawed: Vec<Frozen>,
    /// Since when it is frozen, if it is.
    frozen: u128,
}

impl Node {
    pub(crate) fn new(name: String, url: String, proxy: Option<Proxy>, folder: &Path, options: Options) -> Node {
        Node { name, options, proxy, url, folder: folder.to_owned(), process: None, thawed: Vec::new(), frozen: 0 }
    }

    /// Starts the process and waits until it is up.
    pub(crate) fn start(&mut self) {
        self.begin();
        let what = format!("{} is up", self.name);
        until(&what, PATIENCE, || {
            if let Some(why) = self.left() {
                panic!("{} did not start: {why}; {:?}", self.name, self.said());
            }
            self.is_up()
        });
    }

    /// Starts the process.
    pub(crate) fn begin(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let options = &self.options;
        let mut command = Command::new(env!("CARGO_BIN_EXE_stent-cluster-node"));
        command
            .arg(format!("url={}", self.url))
            .arg(format!("side={}", self.folder.join("side.txt").display()))
            .arg(format!("workflows={}", options.workflows))
            .arg(format!("lease_ms={}", options.lease.as_millis()))
            .arg(format!("grace_ms={}", options.grace.as_millis()))
            .arg(format!("ahead_ms={}", options.ahead.as_millis()))
            .arg(format!("activities={}", options.activities))
            .arg(format!("limit={}", options.limit))
            .arg(format!("per_key={}", options.per_key))
            .arg(format!("shift_us={}", options.clock_off * 1_000_000))
            .arg(format!("build={}", options.build))
            .arg(format!("hints={}", options.hints))
            .env("TZ", options.timezone)
            .env("STENT_FAILPOINTS", &options.failpoints)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let log = OpenOptions::new().create(true).append(true).open(self.folder.join(format!("{}.log", self.name))).unwrap();
        let mut child = command.stderr(log).spawn().unwrap();
        let said = Arc::new(Said::default());
        let (output, for_thread) = (child.stdout.take().unwrap(), said.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                for_thread.lines.lock().unwrap().push(line);
                for_thread.more.notify_all();
            }
            for_thread.more.notify_all();
        });
        self.process = Some(Process { input: child.stdin.take(), child, said, tags: 0 });
    }

    pub(crate) fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Tells whether it said that it is ready.
    pub(crate) fn is_up(&self) -> bool {
        self.said().iter().any(|line| line.starts_with("ready "))
    }

    fn said(&self) -> Vec<String> {
        self.process.as_ref().map(|process| process.said.lines.lock().unwrap().clone()).unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").child.id()
    }

    /// Returns how the process left, if it left by itself; the seat is free then.
    pub(crate) fn left(&mut self) -> Option<String> {
        let status = self.process.as_mut()?.child.try_wait().unwrap()?;
        let last = self.said().into_iter().rev().find(|line| line.starts_with("failed ") || line.starts_with("stopped "));
        self.process = None;
        Some(format!("{status}: {}", last.unwrap_or_default()))
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        let _ = kill_process(pid, signal);
    }

    /// `kill -9`; returns when it is dead.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.child.kill();
            process.child.wait().unwrap();
        }
    }

    /// SIGTERM; it leaves by itself.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGTERM; returns when it has left, which it must do well.
    pub(crate) fn stop(&mut self) {
        if !self.runs() {
            return;
        }
        self.terminate();
        let mut why = None;
        until(&format!("{} leaves", self.name), PATIENCE, || {
            why = self.left();
            why.is_some()
        });
        let why = why.unwrap();
        assert!(why.starts_with("exit status: 0"), "{}: {why}", self.name);
    }

    /// SIGSTOP.
    pub(crate) fn freeze(&mut self) {
        self.frozen = now();
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub(crate) fn thaw(&mut self) {
        self.thawed.push(Frozen { pid: self.pid(), from: self.frozen, to: now() });
        self.signal(Signal::CONT);
    }

    /// Gives a command; its answer may be read later, or never.
    pub(crate) fn tell(&mut self, command: &str) -> Tag {
        let process = self.process.as_mut().expect("it runs");
        process.tags += 1;
        if let Some(input) = &mut process.input {
            // It may be dead by now: then there is no answer.
            let _ = input.write_all(format!("{} {command}\n", process.tags).as_bytes());
        }
        Tag(process.tags)
    }

    /// Waits for the answer to a command.
    pub(crate) fn answer(&mut self, tag: Tag, limit: Duration) -> Result<String, String> {
        let begins = format!("{} ", tag.0);
        let until = Instant::now() + limit;
        loop {
            let process = self.process.as_mut().ok_or("it is dead")?;
            let lines = process.said.lines.lock().unwrap();
            if let Some(answer) = lines.iter().find_map(|line| line.strip_prefix(&begins)) {
                return match answer.split_once(' ').unwrap_or((answer, "")) {
                    ("ok", text) => Ok(text.to_owned()),
                    (_, text) => Err(text.to_owned()),
                };
            }
            if Instant::now() > until {
                return Err(format!("no answer within {limit:?}"));
            }
            let _ = process.said.more.wait_timeout(lines, Duration::from_millis(50)).unwrap();
            if let Some(why) = self.left() {
                return Err(why);
            }
        }
    }

    pub(crate) fn ask(&mut self, command: &str, limit: Duration) -> Result<String, String> {
        let tag = self.tell(command);
        self.answer(tag, limit)
    }

    /// Asks, and takes no error for an answer.
    pub(crate) fn must(&mut self, command: &str) -> String {
        self.ask(command, PATIENCE).unwrap_or_else(|error| panic!("{}: {command}: {error}", self.name))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}
