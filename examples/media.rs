//! A media pipeline on several worker processes, some of which are killed in the middle: probe a video, make three renditions side by
//! side, package them. What a dead worker held goes on in another one, from the slice that it had reached.
//!
//! `cargo run --example media [folder]`
//!
//! This program starts the workers (itself, with `worker` as its first argument), gives them work through one SQLite file, kills
//! (`kill -9`) five of them, and checks the results. With a PostgreSQL URL in place of the file they could be on as many machines.

#![expect(clippy::print_stdout, reason = "an example talks to people")]

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use stent::prelude::*;

const VIDEOS: u32 = 12;
const HEIGHTS: [u32; 3] = [480, 720, 1080];
const WORKERS: usize = 3;
const KILLS: usize = 5;

/// One video, from its upload to a package of renditions.
#[derive(Serialize, Deserialize)]
struct Publish {
    video: String,
}

impl Workflow for Publish {
    const NAME: &'static str = "example.publish";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        let Publish { video } = self;
        let slices = cx.call(Probe { video: video.clone() }).await?;
        // A worker that is silent for two seconds is given up, and the rendition goes to the next one.
        let transcode = |height| cx.call(Transcode { video: video.clone(), height, slices }).heartbeat(secs(2));
        let renditions = cx.map(HEIGHTS, transcode).await?;
        cx.blocking("package", move || Ok::<_, AppError>(format!("{video}: {}", renditions.join(", ")))).await.map_err(Into::into)
    }
}

/// Finds out how long a video is.
#[derive(Serialize, Deserialize)]
struct Probe {
    video: String,
}

impl Activity for Probe {
    const NAME: &'static str = "example.probe";
    type Output = u32;
    type Error = AppError;
}

/// Makes one rendition.
#[derive(Serialize, Deserialize)]
struct Transcode {
    video: String,
    height: u32,
    slices: u32,
}

impl Activity for Transcode {
    const NAME: &'static str = "example.transcode";
    type Output = String;
    type Error = AppError;
}

/// Encodes slice by slice, and says with each heartbeat how far it is: the next attempt, in whatever process, goes on from there.
async fn transcode(folder: &Path, call: &Call<Transcode>) -> Result<String, AppError> {
    let Transcode { video, height, slices } = &**call;
    note(folder, &format!("{} attempt {} in process {}", call.key(), call.attempt(), std::process::id()))?;
    let done: u32 = call.details().unwrap_or(0);
    for slice in done..*slices {
        tokio::time::sleep(millis(15)).await; // Hard work.
        fs::write(folder.join(format!("{video}-{height}.{slice}")), format!("slice {slice}"))?;
        call.heartbeat(&(slice + 1))?;
    }
    let parts = (0..*slices).map(|slice| fs::read_to_string(folder.join(format!("{video}-{height}.{slice}"))));
    let whole = parts.collect::<Result<Vec<_>, _>>()?.join("\n");
    // Written beside and renamed: whoever looks sees all of it or nothing, also if two attempts are at it.
    let (name, draft) = (format!("{video}-{height}"), format!("{video}-{height}.{}", call.attempt() + 1_000));
    fs::write(folder.join(&draft), whole)?;
    fs::rename(folder.join(&draft), folder.join(&name))?;
    Ok(name)
}

/// A line for each attempt that is begun.
fn note(folder: &Path, line: &str) -> std::io::Result<()> {
    let log = fs::OpenOptions::new().create(true).append(true).open(folder.join("work.log"))?;
    (&log).write_all(format!("{line}\n").as_bytes())
}

fn url(folder: &Path) -> String {
    format!("sqlite:{}", folder.join("media.db").display())
}

/// A worker: a node that lives until it is killed, or until its standard input ends with whoever started it.
async fn work(folder: PathBuf) -> stent::Result<()> {
    let theirs = folder.clone();
    let supervisor = Stent::open(&url(&folder))
        .workflow::<Publish>()
        .activity(async |call: Call<Probe>| Ok(6 + u32::try_from(call.video.len() % 3)?))
        .activity(async move |call: Call<Transcode>| transcode(&theirs, &call).await)
        .activities(4)
        .start()
        .await?;
    let closed = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    let _ = closed.await;
    supervisor.send(Shutdown::within(secs(2))).await?
}

fn hire(folder: &Path) -> std::io::Result<Child> {
    Command::new(std::env::current_exe()?).arg("worker").arg(folder).stdin(Stdio::piped()).spawn()
}

#[actix::main]
async fn main() -> stent::Result<()> {
    let mut args = std::env::args_os().skip(1);
    let (first, temporary) = (args.next(), tempfile::tempdir().expect("a folder"));
    if first.as_deref().is_some_and(|first| first == "worker") {
        return work(args.next().map(PathBuf::from).expect("worker <folder>")).await;
    }
    let folder = first.map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    fs::create_dir_all(&folder).expect("a folder for the results");

    // This node only gives out work: it serves no queue, so what it dispatches is the workers' to do.
    let supervisor = Stent::open(&url(&folder)).workflow::<Publish>().serve(["none"]).start().await?;
    let mut workers: Vec<Child> = (0..WORKERS).map(|_| hire(&folder).expect("a worker")).collect();
    let mut videos = Vec::new();
    for number in 0..VIDEOS {
        let publish = Publish { video: format!("video-{number}") };
        videos.push(supervisor.send(Dispatch::new(publish).id(format!("publish-{number}"))).await??);
    }

    // Whenever three more renditions were begun, the next worker dies in the middle of its own.
    let begun = || fs::read_to_string(folder.join("work.log")).map_or(0, |log| log.lines().count());
    let mut seen = 0;
    for kill in 0..KILLS {
        while begun() < seen + 3 {
            tokio::time::sleep(millis(5)).await;
        }
        seen = begun();
        let worker = &mut workers[kill % WORKERS];
        worker.kill().and_then(|()| worker.wait()).expect("it can be killed");
        println!("killed process {} when {seen} renditions were begun", worker.id());
        *worker = hire(&folder).expect("a worker");
    }

    for video in videos {
        println!("{}", video.result().await?);
    }
    let (calls, attempts) = (VIDEOS as usize * HEIGHTS.len(), begun());
    println!("{calls} renditions in {attempts} attempts, {KILLS} workers killed");
    assert!(attempts >= calls);
    for number in 0..VIDEOS {
        for height in HEIGHTS {
            let rendition = fs::read_to_string(folder.join(format!("video-{number}-{height}"))).expect("it was made");
            let slices = 6 + format!("video-{number}").len() % 3;
            assert!(rendition.lines().enumerate().all(|(n, line)| line == format!("slice {n}")), "{rendition}");
            assert_eq!(rendition.lines().count(), slices);
        }
    }
    for worker in &mut workers {
        drop(worker.stdin.take());
        worker.wait().expect("it leaves by itself");
    }
    supervisor.send(Shutdown::within(secs(5))).await??;
    Ok(())
}
