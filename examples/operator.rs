//! What a person may do to an execution that is under way, or has failed: skip a wait, end a call that nobody answers, stop everything for
//! a while, and let a failed run go on from before its failure when the world is mended. Each is recorded, with who and why.
//!
//! `cargo run --example operator [sqlite:operator.db]`

#![expect(clippy::print_stdout, reason = "an example talks to people")]

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
};

use stent::{LetterKey, ListLetters, ReplayLetter, prelude::*};

/// Reserves, waits until tomorrow, asks another company, and charges.
#[derive(Serialize, Deserialize)]
struct Order;

impl Workflow for Order {
    const NAME: &'static str = "example.order";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        cx.call(Reserve).await?; // #1
        cx.sleep(days(1)).await?; // #2
        let slot = cx.call(AskCarrier).await?; // #3
        cx.call(Charge).retry(Retry::never()).await?; // #4
        Ok(format!("delivered at {slot}"))
    }
}

#[derive(Serialize, Deserialize)]
struct Reserve;

impl Activity for Reserve {
    const NAME: &'static str = "example.reserve";
    type Output = ();
    type Error = AppError;
}

#[derive(Serialize, Deserialize)]
struct AskCarrier;

impl Activity for AskCarrier {
    const NAME: &'static str = "example.ask_carrier";
    type Output = String;
    type Error = AppError;
}

#[derive(Serialize, Deserialize)]
struct Charge;

impl Activity for Charge {
    const NAME: &'static str = "example.charge";
    type Output = ();
    type Error = AppError;
}

/// Waits until an execution says that it waits for something.
async fn waits_for(stent: &Stent, what: &str) -> stent::Result<()> {
    while !stent.describe("order-1").await?.is_some_and(|order| order.waits_for.iter().any(|wait| wait.contains(what))) {
        actix::clock::sleep(millis(5)).await;
    }
    Ok(())
}

#[actix::main]
async fn main() -> stent::Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory:".to_owned());
    let (reserved, bank_is_up) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let (reserves, bank) = (reserved.clone(), bank_is_up.clone());
    let stent = Stent::open(&url)
        .workflow::<Order>()
        .activity(move |_: Call<Reserve>| {
            reserves.fetch_add(1, SeqCst);
            async { Ok(()) }
        })
        // The carrier has gone out of business: it never answers.
        .activity(async |_: Call<AskCarrier>| std::future::pending().await)
        .activity(move |_: Call<Charge>| {
            let is_up = bank.load(SeqCst);
            async move { if is_up { Ok(()) } else { Err(AppError::new("the bank is closed")) } }
        })
        .spawn()
        .await?;
    let order = stent.dispatch(Dispatch::new(Order).id("order-1")).await?;

    // The customer cannot wait until tomorrow.
    waits_for(&stent, "sleep #2").await?;
    stent.skip_wait(SkipWait::new("order-1", "ada", 2).reason("they are at the door")).await?;

    // While ada is on the phone nothing is to happen; then she knows what the carrier would have said.
    waits_for(&stent, "example.ask_carrier (#3)").await?;
    stent.pause(PauseExecution::new("order-1", "ada").reason("on the phone")).await?;
    let paused = stent.describe("order-1").await?.expect("it is there");
    println!("{}", paused.moved_by);
    stent.resume(Resume::new("order-1").by("ada")).await?;
    stent.complete_call(CompleteCall::with::<AskCarrier>("order-1", "ada", 3, &"noon".to_owned())).await?;

    // The bank is closed, and the order fails; its failed call has left a letter.
    let error = order.result().await.expect_err("the bank is closed");
    println!("the order failed: {error}");
    let letters = stent.letters(ListLetters::new().activity("example.charge")).await?;
    let failed = &letters[0].letter;
    println!("a letter: {} (#{}) of {}: {}", failed.activity, failed.position, letters[0].id, failed.text);

    // In the morning it goes on from before that call, as the next run of the same order. What was done is not done again.
    bank_is_up.store(true, SeqCst);
    stent.replay_letter(ReplayLetter::new(LetterKey::of(&letters[0])).by("ben").reason("the bank is open")).await?;
    let order = stent.handle::<Order>("order-1").await?.expect("it is there");
    let delivered = order.result().await?;
    println!("{delivered}, by run {} of it; reserved {} time", order.run_no(), reserved.load(SeqCst));
    assert_eq!((delivered.as_str(), order.run_no(), reserved.load(SeqCst)), ("delivered at noon", 2, 1));
    assert!(stent.letters(ListLetters::new()).await?.is_empty());

    stent.shutdown(Shutdown::within(secs(5))).await
}
