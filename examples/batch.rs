//! A batch: a night's invoices, some of which cannot be sent. Each one comes to its own end, the bank is asked no faster than it
//! likes, what failed is a list and not a crash, and the same night a second time is the same batch.
//!
//! `cargo run --example batch [sqlite:batch.db]`

#![expect(clippy::print_stdout, reason = "an example talks to people")]

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::SeqCst},
};

use stent::{Queue, prelude::*};

/// The invoices of one day.
#[derive(Serialize, Deserialize)]
struct Night {
    customers: u32,
}

#[derive(Serialize, Deserialize)]
struct Report {
    sent: u32,
    cents: u64,
    failed: Vec<(u32, String)>,
}

impl Workflow for Night {
    const NAME: &'static str = "example.night_of_invoices";
    type Output = Report;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<Report, AppError> {
        // Twelve customers under way at once; `settle` lets each come to its own end instead of stopping at the first error.
        let ends = cx
            .map(0..self.customers, async |customer| {
                let cents = cx.call(Bill { customer }).await?;
                // A shared queue: its limits hold for all batches and all nodes together.
                let send = cx.call(Send { customer, cents }).queue("post").retry(Retry::fixed(millis(5)).attempts(3));
                send.await?;
                Ok::<_, AppError>(cents)
            })
            .concurrency(12)
            .settle()
            .await;

        let mut report = Report { sent: 0, cents: 0, failed: Vec::new() };
        for (customer, end) in (0..).zip(ends) {
            match end {
                Ok(cents) => (report.sent, report.cents) = (report.sent + 1, report.cents + cents),
                Err(error) => report.failed.push((customer, error.to_string())),
            }
        }
        Ok(report)
    }
}

/// Adds up what a customer owes.
#[derive(Serialize, Deserialize)]
struct Bill {
    customer: u32,
}

impl Activity for Bill {
    const NAME: &'static str = "example.bill";
    type Output = u64;
    type Error = AppError;
}

/// Puts an invoice into the post.
#[derive(Serialize, Deserialize)]
struct Send {
    customer: u32,
    cents: u64,
}

impl Activity for Send {
    const NAME: &'static str = "example.send";
    type Output = ();
    type Error = AppError;
}

#[actix::main]
async fn main() -> stent::Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory:".to_owned());
    let (at_once, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let peak = most.clone();
    let supervisor = Stent::open(&url)
        .queue(Queue::named("post").concurrency(3))
        .workflow::<Night>()
        .activity(async |call: Call<Bill>| match call.customer {
            customer if customer % 25 == 7 => Err(AppError::new("no such account").give_up()),
            customer => Ok(u64::from(customer) * 10),
        })
        .activity(async move |call: Call<Send>| {
            most.fetch_max(at_once.fetch_add(1, SeqCst) + 1, SeqCst);
            tokio::time::sleep(millis(2)).await;
            at_once.fetch_sub(1, SeqCst);
            // Every tenth letter is lost once; the key stays the same, so the post can tell a second try from a second letter.
            if call.customer % 10 == 3 && call.attempt() == 1 {
                return Err(AppError::new(format!("{} got lost", call.key())));
            }
            Ok(())
        })
        .start()
        .await?;

    // The day is the id. Whoever starts the batch again, by mistake or behind a crash, gets the one that there is.
    let tonight = || Dispatch::new(Night { customers: 100 }).id("invoices-2026-11-28").if_in_use(IfInUse::Attach);
    let (first, second) = (supervisor.send(tonight()).await??, supervisor.send(tonight()).await??);
    assert_eq!(first.run(), second.run());

    let report = first.result().await?;
    println!("{} sent, {} cents; up to {} letters at once", report.sent, report.cents, peak.load(SeqCst));
    report.failed.iter().for_each(|(customer, why)| println!("customer {customer}: {why}"));
    assert_eq!((report.sent, report.failed.len()), (96, 4));
    assert!(peak.load(SeqCst) <= 3);

    supervisor.send(Shutdown::within(secs(5))).await??;
    Ok(())
}
