//! The same programs in a process that is killed with SIGKILL at random moments. Between two lives the logs are read: what is recorded is
//! there for good, and no line of a later life repeats it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    judge,
    language::{NEWER, grow},
    log, reader,
    support::{Home, Rng},
};

/// How many programs share a database.
const PROGRAMS: u64 = 25;

/// A database with the side file of its lives.
struct Bench {
    home: Home,
    folder: tempfile::TempDir,
    seeds: std::ops::Range<u64>,
    /// Whether an operator pauses them, and lets them go on.
    pauses: bool,
    lives: u32,
    judged: usize,
    /// What was recorded as over, by execution: calls, and attempts.
    over: BTreeSet<(String, String)>,
    attempts: BTreeSet<(String, String, u32)>,
}

impl Bench {
    fn url(&self) -> String {
        match &self.home {
            #[cfg(feature = "postgres")]
            Home::Postgres(database) => database.url(),
            home => format!("sqlite:{}", home.file().display()),
        }
    }

    fn side(&self) -> PathBuf {
        self.folder.path().join("side.txt")
    }

    /// Runs a life; returns whether it came to its own end before the time for its death.
    fn live(&mut self, until: Duration) -> bool {
        self.lives += 1;
        let mut child = Command::new(env!("CARGO_BIN_EXE_stent-program-child"))
            .arg(self.url())
            .arg(self.side())
            .args([self.seeds.start.to_string(), self.seeds.end.to_string()])
            .env("STENT_INLINE", (self.lives % 2).to_string())
            // Every third life remembers nothing.
            .env("STENT_EVICT", u32::from(self.lives.is_multiple_of(3)).to_string())
            .env("STENT_PAUSES", u32::from(self.pauses).to_string())
            .stdout(Stdio::null())
            .stderr(if std::env::var_os("STENT_LOG").is_some() { Stdio::inherit() } else { Stdio::null() })
            .spawn()
            .unwrap();
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "{status:?} with seeds {:?}", self.seeds);
                return true;
            }
            if start.elapsed() > until {
                child.kill().unwrap();
                child.wait().unwrap();
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn logs(&self) -> BTreeMap<String, log::Told> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut store, reader) = reader(&self.home).await;
            let logs = log::read(reader).await;
            store.close().await.unwrap();
            logs
        })
    }

    /// Looks at what happened since the last look: no line may repeat what was recorded before it.
    fn look(&mut self) -> BTreeMap<String, log::Told> {
        let text = std::fs::read_to_string(self.side()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        for line in &lines[self.judged..] {
            let words: Vec<&str> = line.split(' ').collect();
            let ["act", execution, place, attempt] = words[..] else { continue };
            let call = (execution.to_owned(), place.to_owned());
            assert!(!self.over.contains(&call), "{line} again, although it was recorded; seeds {:?}", self.seeds);
            let attempt = (call.0, call.1, attempt.parse().unwrap());
            assert!(!self.attempts.contains(&attempt), "{line}: this attempt was over; seeds {:?}", self.seeds);
        }
        self.judged = lines.len();
        let logs = self.logs();
        let pairs = |told: &BTreeMap<String, log::Told>, of: fn(&log::Told) -> &BTreeSet<String>| -> BTreeSet<(String, String)> {
            told.iter().flat_map(|(id, told)| of(told).iter().map(|place| (id.clone(), place.clone()))).collect()
        };
        let over = pairs(&logs, |told| &told.recorded);
        assert!(self.over.is_subset(&over), "what was recorded is gone; seeds {:?}", self.seeds);
        for line in lines.iter().filter_map(|line| line.strip_prefix("ack ")) {
            assert!(logs.contains_key(line), "{line} was acknowledged and is lost");
        }
        for (execution, place) in pairs(&logs, |told| &told.once) {
            let begun = lines.iter().filter(|line| line.starts_with(&format!("act {execution} {place} "))).count();
            assert!(begun <= 1, "{execution} {place} may begin once, and did {begun} times; seeds {:?}", self.seeds);
        }
        self.over = over;
        let attempts = logs.iter().flat_map(|(id, told)| told.over.iter().map(|(place, no)| (id.clone(), place.clone(), *no)));
        self.attempts = attempts.collect();
        logs
    }
}

/// Kills programs, a database full of them at a time. Bounded by time as well: a slow machine sees fewer programs.
fn kill(home: impl Fn() -> Home, test: &str, most: u32, lives: (u64, u64), limit: Duration) {
    let mut rng = Rng::from_env(test);
    let begun = Instant::now();
    let (mut kills, mut databases) = (0, 0);
    while databases < most && begun.elapsed() < limit {
        let first = NEWER + rng.next() % 1_000_000_000;
        let (folder, pauses) = (tempfile::tempdir().unwrap(), rng.between(0, 1) == 1);
        let (over, attempts) = Default::default();
        let seeds = first..first + PROGRAMS;
        let mut bench = Bench { home: home(), folder, seeds, pauses, lives: 0, judged: 0, over, attempts };
        databases += 1;
        println!("programs {:?}{}", bench.seeds, if pauses { ", with pauses" } else { "" });
        for _ in 0..rng.between(3, 10) {
            if bench.live(Duration::from_millis(rng.between(lives.0, lives.1))) {
                break;
            }
            kills += 1;
            bench.look();
        }
        assert!(bench.live(Duration::from_secs(60)), "stuck; seeds {:?}", bench.seeds);
        let logs = bench.look();
        let programs: Vec<_> = bench.seeds.clone().map(grow).collect();
        judge(&logs, &programs, true);
    }
    println!("{kills} kills in {databases} databases");
    assert!(kills > 0, "nothing was killed");
}

#[test]
fn killed_again_and_again_a_program_still_does_what_its_model_says_and_repeats_nothing_that_was_recorded() {
    kill(Home::sqlite, "killed programs", 12, (10, 250), Duration::from_secs(40));
}

#[cfg(feature = "postgres")]
#[test]
fn killed_again_and_again_on_a_server_that_lives_on_a_program_still_does_what_its_model_says() {
    // A server has to notice that a life is over before the next one may take what it had.
    kill(Home::postgres, "programs killed on PostgreSQL", 6, (300, 2_500), Duration::from_secs(30));
}
