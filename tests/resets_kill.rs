//! The story: a program that resets an execution is killed with SIGKILL at every commit around that, before, behind and in the middle of
//! telling of it. Between two lives the file is read: the next run is there whole or not at all, and the letter of the failure goes exactly with it.
//! In the end there is one next run, and nothing that was recorded before the point was done again.

#![cfg(all(feature = "failpoints", feature = "sqlite"))]

use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use stent::{
    Error, ListLetters, Point, ResetRun, Stent,
    kernel::{
        codec,
        event::{Event, Fact},
    },
    prelude::*,
    store::{
        LetterFilter, Status, Store,
        sqlite::{SqliteOptions, SqliteStore},
    },
};

/// Tells the program where it works, and what it is to do.
const FOLDER: &str = "STENT_RESETS_FOLDER";
const BROKEN: &str = "STENT_RESETS_BROKEN";

#[derive(Serialize, Deserialize)]
struct Order;

#[derive(Serialize, Deserialize)]
struct Act(String);

impl Activity for Act {
    const NAME: &'static str = "kill.act";
    type Output = String;
    type Error = AppError;
}

#[derive(Serialize, Deserialize)]
struct Word(String);

impl Signal for Word {
    const NAME: &'static str = "kill.word";
}

impl Workflow for Order {
    const NAME: &'static str = "kill.order";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        let hold = cx.call(Act("reserve".into())).await?;
        cx.publish("state", &"reserved".to_owned());
        let charge = cx.call(Act("charge".into())).retry(Retry::never()).await?;
        let Word(word) = cx.signal().await?;
        Ok(format!("{hold} {charge} {word}"))
    }
}

/// The program: it brings the execution to its failure; or resets it, unless that was done, and waits for its end.
#[test]
fn the_program_that_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let broken = std::env::var_os(BROKEN).is_some();
    actix::System::new().block_on(async {
        let side = folder.join("side.txt");
        let act = async move |call: Call<Act>| {
            let mut file = OpenOptions::new().create(true).append(true).open(&side).unwrap();
            file.write_all(format!("{} {}\n", call.0, call.key()).as_bytes()).unwrap();
            if broken && call.0 == "charge" { Err(AppError::new("declined")) } else { Ok(call.0.clone()) }
        };
        let url = format!("sqlite:{}", folder.join("stent.db").display());
        let stent = Stent::open(&url).workflow::<Order>().activity(act).spawn().await.unwrap();
        if broken {
            let handle = stent.dispatch(Dispatch::new(Order).id("a")).await.unwrap();
            handle.result().await.unwrap_err();
        } else {
            let current = stent.describe("a").await.unwrap().unwrap().summary.id.run_no;
            if current == 1 {
                stent.reset(ResetRun::new("a", Point::BeforeFailure(2)).by("ada")).await.unwrap();
            }
            match stent.signal(SendSignal::new("a", &Word("go".into())).message_id("word")).await {
                Ok(()) | Err(Error::Send(stent::SendError::AlreadyEnded { .. })) => {}
                Err(other) => panic!("{other}"),
            }
            let handle = stent.handle::<Order>("a").await.unwrap().unwrap();
            assert_eq!(handle.result().await.unwrap(), "reserve charge go");
            assert_eq!(stent.letters(ListLetters::new()).await.unwrap().len(), 0);
        }
        stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
    });
}

fn life(folder: &Path, broken: bool, failpoints: &str) -> ExitStatus {
    let mut program = Command::new(std::env::current_exe().unwrap());
    program.args(["--exact", "the_program_that_is_killed", "--nocapture"]);
    program.env(FOLDER, folder).env("STENT_FAILPOINTS", failpoints).stdout(Stdio::null());
    program.stderr(if std::env::var_os("STENT_LOG").is_some() { Stdio::inherit() } else { Stdio::null() });
    if broken {
        program.env(BROKEN, "1");
    }
    program.status().unwrap()
}

fn acts(folder: &Path) -> Vec<String> {
    std::fs::read_to_string(folder.join("side.txt")).unwrap_or_default().lines().map(ToOwned::to_owned).collect()
}

/// Reads the file between two lives; returns whether the next run is there.
async fn look(folder: &Path) -> bool {
    let mut store = SqliteStore::open(&folder.join("stent.db"), SqliteOptions::default()).await.unwrap();
    let reader = store.reader();
    let first = reader.find("a", Some(1)).await.unwrap().unwrap();
    assert_eq!(first.status, Status::Failed, "it stays as it ended");
    let letters = reader.letters(&LetterFilter { limit: 9, ..LetterFilter::default() }).await.unwrap();
    let next = reader.find("a", Some(2)).await.unwrap();
    if let Some(next) = &next {
        let log = reader.history(next.run, 0, 100).await.unwrap();
        let mut prev = None;
        let mut forked = 0;
        for (commit_no, record) in &log {
            let commit = codec::decode(&next.id, *commit_no, record).unwrap();
            assert_eq!(commit.prev, prev, "commit {commit_no} follows");
            prev = Some(record.digest);
            forked += commit.events.iter().filter(|event| matches!(event, Event::Fact(Fact::Forked(_)))).count();
        }
        assert_eq!(forked, 1, "the copy is there, up to its mark");
        assert_eq!(reader.published(next.run, None).await.unwrap().len(), 1, "and what it shows");
        assert!(letters.is_empty(), "the letter has gone with it");
    } else {
        assert_eq!(letters.len(), 1, "the letter is there as long as the failure stands");
    }
    assert!(reader.find("a", Some(3)).await.unwrap().is_none(), "there is one next run");
    store.close().await.unwrap();
    next.is_some()
}

#[test]
fn a_program_that_is_killed_anywhere_around_a_reset_leaves_it_done_or_not_and_repeats_nothing_of_the_copy() {
    let prepared = tempfile::tempdir().unwrap();
    assert!(life(prepared.path(), true, "").success());
    assert_eq!(acts(prepared.path()), ["reserve a/1/1", "charge a/1/2"]);
    let (mut killed, mut done, mut not) = (0, 0, 0);
    for point in ["persistence.before_commit", "persistence.after_commit", "persistence.before_acks", "execution.after_replay"] {
        for hit in 1..40 {
            let folder = tempfile::tempdir().unwrap();
            for entry in std::fs::read_dir(prepared.path()).unwrap() {
                let entry = entry.unwrap();
                std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
            }
            let ended = life(folder.path(), false, &format!("{point}=kill@{hit}"));
            let is_there = actix::System::new().block_on(look(folder.path()));
            if ended.success() {
                break;
            }
            killed += 1;
            if is_there {
                done += 1
            } else {
                not += 1
            }
            assert!(life(folder.path(), false, "").success(), "{point}@{hit}");
            assert!(actix::System::new().block_on(look(folder.path())));
            let all = acts(folder.path());
            for once in ["reserve a/1/1", "charge a/1/2"] {
                assert_eq!(all.iter().filter(|act| *act == once).count(), 1, "{point}@{hit}: {all:?}");
            }
            assert!(
                all.iter().skip(2).all(|act| act == "charge a/2/2"),
                "{point}@{hit}: only what was open, under its new key: {all:?}"
            );
            assert!(all.len() >= 3, "{point}@{hit}: {all:?}");
        }
    }
    assert!(killed > 10 && done > 3 && not > 3, "{killed} kills, {done} behind the reset, {not} before it");
}
