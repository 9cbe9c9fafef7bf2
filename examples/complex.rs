//! Everything together: a loan is decided. Checks run side by side, two credit bureaus race, a clerk is asked and reminded, the money is
//! paid out by a workflow of its own, and whatever was done is undone if the applicant changes his mind meanwhile.
//!
//! `cargo run --example complex [sqlite:loans.db]`

#![expect(clippy::print_stdout, reason = "an example talks to people")]

use std::sync::{Arc, Mutex};

use futures::try_join;
use stent::prelude::*;

#[derive(Serialize, Deserialize)]
struct Loan {
    applicant: String,
    euros: u64,
}

#[derive(Serialize, Deserialize, Debug, PartialEq)]
enum Decision {
    Paid { transfer: String, reminders: u32 },
    Refused(String),
}

impl Workflow for Loan {
    const NAME: &'static str = "example.loan";
    type Output = Decision;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<Decision, AppError> {
        let Loan { applicant, euros } = self;
        // Two checks side by side; the first error would cancel the other one.
        let ((), score) =
            try_join!(async { Ok(cx.call(Act::new("check identity", &applicant)).await.map(drop)?) }, score(&cx, &applicant),)?;
        if score < 400 {
            return Ok(Decision::Refused(format!("a score of {score}")));
        }
        cx.saga(async |saga| {
            saga.call(Act::new("reserve funds", &applicant)).undo_with(|_| Act::new("release funds", &applicant)).await?;
            let (granted, reminders) = if euros < 1_000 { (true, 0) } else { ask(&cx, &applicant).await? };
            if !granted {
                // Returned as an error, so that the saga undoes what was done.
                return Err(AppError::new("the clerk said no"));
            }
            let transfer = cx.child(Payout { applicant: applicant.clone(), euros }).await?;
            Ok(Decision::Paid { transfer, reminders })
        })
        .await
    }
}

/// Asks two bureaus at once; the slower answer is not waited for.
async fn score(cx: &Cx<Loan>, applicant: &str) -> Result<u64, AppError> {
    let bureaus = ["score by Alpha", "score by Beta"].map(|bureau| cx.call(Act::new(bureau, applicant)).timeout(secs(5)));
    let [alpha, beta] = bureaus;
    let (Either::First(answer) | Either::Second(answer)) = cx.race(alpha, beta).await;
    Ok(answer?.parse()?)
}

/// Waits for a clerk's word, with a reminder whenever there was none for a while.
async fn ask(cx: &Cx<Loan>, applicant: &str) -> Result<(bool, u32), AppError> {
    for reminders in 0..5 {
        if let Some(Word { granted }) = cx.signal::<Word>().within(millis(40)).await? {
            return Ok((granted, reminders));
        }
        cx.call(Act::new("remind the clerk", applicant)).await?;
    }
    Ok((false, 5))
}

#[derive(Serialize, Deserialize)]
struct Word {
    granted: bool,
}

impl Signal for Word {
    const NAME: &'static str = "example.word";
}

#[derive(Serialize, Deserialize)]
struct Payout {
    applicant: String,
    euros: u64,
}

impl Workflow for Payout {
    const NAME: &'static str = "example.payout";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        Ok(cx.call(Act::new("transfer", &format!("{} euros to {}", self.euros, self.applicant))).await?)
    }
}

/// All that touches the world; a real program would have a type for each.
#[derive(Serialize, Deserialize)]
struct Act {
    what: String,
    whom: String,
}

impl Act {
    fn new(what: &str, whom: &str) -> Act {
        Act { what: what.to_owned(), whom: whom.to_owned() }
    }
}

impl Activity for Act {
    const NAME: &'static str = "example.act";
    type Output = String;
    type Error = AppError;
}

#[actix::main]
async fn main() -> stent::Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory:".to_owned());
    let world: Arc<Mutex<Vec<String>>> = Arc::default();
    let (deeds, office) = (world.clone(), Arc::new(tokio::sync::Notify::new()));
    let reminded = office.clone();
    let supervisor = Stent::open(&url)
        .workflow::<Loan>()
        .workflow::<Payout>()
        .activity(async move |call: Call<Act>| {
            match call.what.as_str() {
                "score by Alpha" => std::future::pending().await, // It never answers, and nobody minds.
                "score by Beta" => return Ok(if call.whom == "eve" { "300" } else { "720" }.to_owned()),
                "remind the clerk" => reminded.notify_one(),
                _ => {}
            }
            deeds.lock().unwrap().push(format!("{} {}", call.what, call.whom));
            Ok(call.key())
        })
        .start()
        .await?;

    let apply = |applicant: &str, euros| {
        supervisor.send(Dispatch::new(Loan { applicant: applicant.to_owned(), euros }).id(format!("loan-of-{applicant}")))
    };
    // A small one needs no clerk, a bad score gets none.
    assert!(matches!(apply("ada", 900).await??.result().await?, Decision::Paid { reminders: 0, .. }));
    assert_eq!(apply("eve", 900).await??.result().await?, Decision::Refused("a score of 300".to_owned()));

    // The clerk answers when reminded.
    let bob = apply("bob", 9_000).await??;
    office.notified().await;
    supervisor.send(SendSignal::new(bob.id(), &Word { granted: true })).await??;
    let paid = bob.result().await?;
    println!("{paid:?}");
    assert!(matches!(paid, Decision::Paid { reminders: 1.., .. }));

    // This one changes his mind while the clerk thinks: cancelled, and his funds are free again before that is said.
    let dan = apply("dan", 9_000).await??;
    office.notified().await;
    supervisor.send(Cancel::new(dan.id()).reason("he bought a bicycle")).await??;
    println!("{}", dan.result().await.expect_err("it was cancelled"));
    let deeds = world.lock().unwrap().clone();
    assert!(deeds.contains(&"release funds dan".to_owned()) && !deeds.contains(&"release funds bob".to_owned()), "{deeds:?}");

    supervisor.send(Shutdown::within(secs(5))).await??;
    Ok(())
}
