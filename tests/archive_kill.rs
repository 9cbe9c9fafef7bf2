//! The archive example, killed (SIGKILL) at random moments and started again until it is done. Then every output must be there
//! and fit its hash, and no file may have been processed again once its result was recorded.
//!
//! What was recorded is taken from the only witness that counts: behind each kill the database is copied and its log read. A call
//! whose completion is in that log must have no line in `processed.log` behind the place that this file had then reached. (A line
//! is written *before* the result is recorded, so at the end every recorded call also has a line.) That is stronger than "what
//! was acknowledged", for whatever is acknowledged is in the log already.
//!
//! `ARCHIVE_KILL_SEED` repeats a run; the seed is printed.

#![cfg(all(unix, feature = "sqlite"))]
#![expect(clippy::print_stdout, reason = "a failure needs its seed and its course")]

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};
use stent::{
    kernel::{
        codec,
        event::{Event, Fact},
        random::mix,
    },
    store::{
        Filter, Store,
        sqlite::{SqliteOptions, SqliteStore},
    },
};

const FILES: u64 = 400;
const KILLS: u32 = 10;

#[test]
fn a_killed_archive_goes_on_and_repeats_no_recorded_file() {
    let seed = std::env::var("ARCHIVE_KILL_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(seed_of_the_day);
    println!("ARCHIVE_KILL_SEED={seed}");
    let mut random = Random(seed);
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    let tree = plant(&from, &mut random);

    // What the log said behind each kill, and how many lines `processed.log` had.
    let mut witnesses: Vec<(BTreeSet<String>, usize)> = Vec::new();
    let mut kills = 0;
    while kills < KILLS {
        let mut child = start(&from, &to);
        let began = Instant::now();
        // In turns: after a short time, from before the store is open on; and in the middle of the work, after so many files.
        // (A run that is killed six times in a row before it made any progress is quarantined, on purpose.)
        let early = kills % 2 == 0;
        let wait = if early { Duration::from_micros(random.below(60_000)) } else { Duration::from_secs(60) };
        let goal = lines(&to).len() + usize::try_from(random.below(FILES / 4)).unwrap();
        while began.elapsed() < wait && (early || lines(&to).len() <= goal) && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_micros(500));
        }
        child.kill().unwrap();
        let ended = child.wait().unwrap();
        if ended.code().is_some() {
            println!("it ended by itself ({ended}) before kill {}", kills + 1);
            break;
        }
        kills += 1;
        let (recorded, seen) = (recorded(&to), lines(&to).len());
        println!("kill {kills} after {:?}: {seen} lines, {} results recorded", began.elapsed(), recorded.len());
        witnesses.push((recorded, seen));
    }
    assert!(kills >= 3, "killed only {kills} times, which proves little");
    assert!(start(&from, &to).wait().unwrap().success());

    check_outputs(&to, &tree);
    let lines = lines(&to);
    let keys: HashMap<&str, usize> = lines.iter().fold(HashMap::new(), |mut keys, (key, _)| {
        *keys.entry(key.as_str()).or_default() += 1;
        keys
    });
    assert_eq!(keys.len(), tree.len(), "each file is one call");
    for (recorded, seen) in &witnesses {
        for (key, path) in &lines[*seen..] {
            assert!(!recorded.contains(key), "{path} was processed again although its result was recorded ({key})");
        }
        for key in recorded {
            assert!(lines[..*seen].iter().any(|(done, _)| done == key), "{key} is recorded but was never processed");
        }
    }
    println!("{} files, {} times processed, {kills} kills", tree.len(), lines.len());

    // A further start does nothing.
    assert!(start(&from, &to).wait().unwrap().success());
    assert_eq!(self::lines(&to).len(), lines.len());
}

/// Makes a tree of files from empty to a few hundred kilobytes, and returns their hashes by path.
fn plant(root: &Path, random: &mut Random) -> BTreeMap<String, String> {
    let mut tree = BTreeMap::new();
    for n in 0..FILES {
        let path = match n {
            0 => "with a space and a\nnew line \\ slash.txt".to_owned(),
            n => format!("{}/{}/file-{n}.dat", random.below(7), random.below(5)),
        };
        let magnitude = random.below(19);
        let size = usize::try_from(random.below(1 << magnitude)).unwrap();
        // Half noise, half repetition: something to do for the compressor, and something to gain.
        let bytes: Vec<u8> = (0..size).map(|at| if at % 128 < 64 { random.below(256) as u8 } else { (at % 64) as u8 }).collect();
        let file = root.join(&path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, &bytes).unwrap();
        tree.insert(path, hex(&bytes));
    }
    tree
}

fn start(from: &Path, to: &Path) -> Child {
    Command::new(example()).args([from, to]).stdout(Stdio::null()).spawn().unwrap()
}

/// Returns the example's program: `cargo test` builds the examples next to the tests (`target/<profile>/deps/<this test>`).
fn example() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let profile = program.ancestors().nth(2).expect("a test lives in target/<profile>/deps");
    let example = profile.join("examples").join("archive");
    assert!(example.is_file(), "{} is missing: run `cargo build --example archive` first", example.display());
    example
}

/// Returns the key and the path of each line that is whole.
fn lines(to: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(to.join("processed.log")).unwrap_or_default();
    let parse = |line: &str| {
        let mut parts = line.split('\t');
        (parts.next().unwrap().to_owned(), parts.nth(2).unwrap().to_owned())
    };
    text.lines().map(parse).collect()
}

/// Returns the keys of the calls whose completion is in the log, as a copy of the database tells.
fn recorded(to: &Path) -> BTreeSet<String> {
    let copy = tempfile::tempdir().unwrap();
    for name in ["archive.db", "archive.db-wal"] {
        let _ = fs::copy(to.join(name), copy.path().join(name));
    }
    let database = copy.path().join("archive.db");
    if !database.is_file() {
        return BTreeSet::new();
    }
    let mut keys = BTreeSet::new();
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let store = SqliteStore::open(&database, SqliteOptions::default()).await.unwrap();
        let reader = store.reader();
        for run in reader.list(&Filter { limit: 10, ..Default::default() }).await.unwrap() {
            let mut from = 0;
            loop {
                let rows = reader.history(run.run, from, 1_000).await.unwrap();
                let Some((last, _)) = rows.last() else { break };
                from = last + 1;
                for (commit_no, record) in rows {
                    for event in codec::decode(&run.id, commit_no, &record).unwrap().events {
                        if let Event::Fact(Fact::Completed { position, output, .. }) = event
                            // A result of `Pack`; the steps of the workflow answer other things.
                            && output.decode::<Packed>("a result").is_ok()
                        {
                            keys.insert(format!("{}/{position}", run.id));
                        }
                    }
                }
            }
        }
    });
    keys
}

/// The result of the example's activity, as far as this test must know it.
#[derive(serde::Deserialize)]
enum Packed {
    #[expect(dead_code, reason = "only the shape matters")]
    Done { source: String, packed: String, bytes_in: u64, bytes_out: u64 },
}

/// Every file has its compressed form, both manifests are right, and nothing else lies about.
fn check_outputs(to: &Path, tree: &BTreeMap<String, String>) {
    let (packed, sources) = (manifest(to, "MANIFEST.sha256"), manifest(to, "SOURCES.sha256"));
    assert_eq!(&sources, tree);
    assert_eq!(packed.len(), tree.len());
    for (path, hash) in tree {
        let name = format!("{path}.zst");
        let bytes = fs::read(to.join(&name)).unwrap();
        assert_eq!(packed[&name], hex(&bytes), "{name} does not fit the manifest");
        assert_eq!(&hex(&zstd::decode_all(&*bytes).unwrap()), hash, "{name} does not hold its source");
    }
    assert_eq!(fs::read_to_string(to.join("FAILED.txt")).unwrap(), "");
    let stray = fs::read_dir(to).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(stray.filter(|name| name.ends_with(".tmp")).collect::<Vec<_>>(), Vec::<String>::new());
}

/// Reads a manifest as `sha256sum -c` does.
fn manifest(to: &Path, name: &str) -> BTreeMap<String, String> {
    let text = fs::read_to_string(to.join(name)).unwrap();
    let parse = |line: &str| {
        let (escaped, line) = line.strip_prefix('\\').map_or((false, line), |line| (true, line));
        let (hash, path) = line.split_once("  ").unwrap();
        let path = if escaped { path.replace("\\n", "\n").replace("\\\\", "\\") } else { path.to_owned() };
        (path, hash.to_owned())
    };
    text.lines().map(parse).collect()
}

fn hex(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

fn seed_of_the_day() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_secs() ^ u64::from(since.subsec_nanos())
}

/// A small generator: the n-th number follows from the seed.
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = mix(self.0, 0x5eed);
        self.0 % most.max(1)
    }
}
