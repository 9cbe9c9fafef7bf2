//! What can go wrong, and what becomes of it: an error that passes, one that never will, a server that says when to come back, a panic,
//! silence, a crash in the middle of an act that must not happen twice, and a call that waits until somebody has mended the world.
//!
//! `cargo run --example failing [sqlite:failing.db]`

#![expect(clippy::print_stdout, reason = "an example talks to people")]

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use stent::{Advice, prelude::*};

/// A typed error: stored with the failure, and the same value in the workflow, after however many restarts.
#[derive(Debug, PartialEq, thiserror::Error, Serialize, Deserialize)]
enum FetchError {
    #[error("no such page")]
    NotFound,
    #[error("too many requests")]
    TooMany,
    #[error("the connection broke")]
    Broke,
}

#[derive(Serialize, Deserialize)]
struct Fetch {
    page: String,
}

impl Activity for Fetch {
    const NAME: &'static str = "example.fetch";
    type Output = String;
    type Error = FetchError;

    /// The error knows best whether trying again is of any use; all else is the policy of the call.
    fn advice(error: &FetchError) -> Advice {
        match error {
            FetchError::NotFound => Advice::give_up().named("not_found"),
            FetchError::TooMany => Advice::after(millis(30)),
            FetchError::Broke => Advice::default(),
        }
    }
}

/// Prints something on paper. Twice would be a waste.
#[derive(Serialize, Deserialize)]
struct Print {
    text: String,
}

impl Activity for Print {
    const NAME: &'static str = "example.print";
    type Output = ();
    type Error = AppError;
}

#[derive(Serialize, Deserialize)]
struct Report;

impl Workflow for Report {
    const NAME: &'static str = "example.report";
    type Output = Vec<String>;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<Vec<String>, AppError> {
        let fetch = |page: &str| {
            let policy = Retry::exponential(millis(5)).attempts(3);
            cx.call(Fetch { page: page.to_owned() }).timeout(millis(200)).retry(policy)
        };
        let mut lines = Vec::new();
        // Broke once, told to wait once, then there: the workflow never hears of it.
        lines.push(fetch("news").await?);
        // The typed error of the activity, at its first attempt.
        match fetch("nowhere").await {
            Err(CallError::Failed(error)) if error == FetchError::NotFound => lines.push(format!("nowhere: {error}")),
            other => return Err(AppError::new(format!("{other:?}"))),
        }
        // A panic is a failed attempt like any other; so is silence beyond the limit. Three of them, and the call has failed.
        for page in ["cursed", "silent"] {
            match fetch(page).await {
                Err(error @ (CallError::Broken(_) | CallError::TimedOut(_))) => lines.push(format!("{page}: {error}")),
                other => return Err(AppError::new(format!("{other:?}"))),
            }
        }
        // Begun once and never again: had the process died in the middle, this would be `CallError::MaybeDone`. When its attempts are
        // used up it waits for an operator, and the run with it.
        let print = cx.call(Print { text: lines.join("; ") }).at_most_once().on_exhausted(OnExhausted::Park);
        print.await?;
        Ok(lines)
    }
}

#[actix::main]
async fn main() -> stent::Result<()> {
    // The panic below is part of the show: its text goes to the log of the run, not to the screen.
    std::panic::set_hook(Box::new(|_| {}));
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory:".to_owned());
    let paper = Arc::new(AtomicBool::new(false));
    let tray = paper.clone();
    let supervisor = Stent::open(&url)
        .workflow::<Report>()
        .activity(async |call: Call<Fetch>| match (call.page.as_str(), call.attempt()) {
            ("nowhere", _) => Err(FetchError::NotFound),
            ("cursed", _) => panic!("a curse upon {}", call.page),
            ("silent", _) => std::future::pending().await,
            (_, 1) => Err(FetchError::Broke),
            (_, 2) => Err(FetchError::TooMany),
            (page, attempt) => Ok(format!("{page} at attempt {attempt}")),
        })
        .activity(async move |call: Call<Print>| {
            if !tray.load(SeqCst) {
                return Err(AppError::new("out of paper"));
            }
            println!("printed: {}", call.text);
            Ok(())
        })
        .start()
        .await?;

    let report = supervisor.send(Dispatch::new(Report)).await??;
    // `Describe` says by name what a run waits for, and who will move it on: here it is you.
    let parked = loop {
        let described = supervisor.send(Describe::new(report.id())).await??.expect("it was dispatched");
        match described.waits_for.into_iter().find(|wait| wait.contains("parked")) {
            Some(wait) => break wait,
            None => tokio::time::sleep(millis(10)).await,
        }
    };
    println!("{parked}");
    paper.store(true, SeqCst);
    supervisor.send(RetryParked::new(report.id())).await??;

    let lines = report.result().await?;
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[0], "news at attempt 3");
    supervisor.send(Shutdown::within(secs(5))).await??;
    Ok(())
}
