//! A report each night by the clock of Berlin, and what an operator does with it: look when it comes, fill a week that was missed,
//! trigger it, pause it.
//!
//! `cargo run --example schedule [sqlite:reports.db]`

#![expect(clippy::print_stdout, reason = "an example talks to people")]

use chrono::{DateTime, TimeDelta, Utc};
use stent::prelude::*;

#[derive(Serialize, Deserialize)]
struct Report {
    of: String,
}

impl Workflow for Report {
    const NAME: &'static str = "example.report";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        Ok(format!("{} ({})", self.of, cx.id().id))
    }
}

#[actix::main]
async fn main() -> stent::Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory:".to_owned());
    let stent = Stent::open(&url).workflow::<Report>().spawn().await?;

    let nightly = Schedule::new("nightly", Report { of: "sales".into() })
        .cron("30 2 * * *", "Europe/Berlin")
        .overlap(Overlap::BufferAll)
        .jitter(mins(5))
        .tag("report");
    stent.create_schedule(nightly.clone()).await?;
    stent.create_schedule(nightly.clone()).await?; // Each start of the program may say it again.

    // Where the clock is put forward over it, it fires behind the gap; where it comes twice, once.
    let spring: DateTime<Utc> = "2026-03-27T12:00:00Z".parse().unwrap_or_default();
    let around = nightly.times_after(spring, 3)?;
    println!("around the change to summer time: {around:?}");
    assert_eq!(around[1].to_rfc3339(), "2026-03-29T01:00:00+00:00");

    let yesterday = Utc::now() - TimeDelta::days(1);
    let week = BackfillSchedule::new("nightly", yesterday - TimeDelta::days(6), yesterday);
    let nights = stent.backfill_schedule(week).await?;
    println!("{nights} nights are filled, one behind the other");
    assert!((6..=7).contains(&nights));
    let triggered = stent.trigger_schedule(TriggerSchedule::new("nightly").overlap(Overlap::AllowAll)).await?;
    let Triggered::Started(id) = triggered else { panic!("beside others it begins at once") };
    let handle = stent.handle::<Report>(&*id).await?.expect("it is there with its firing");
    println!("triggered: {}", handle.result().await?);

    stent.pause_schedule(PauseSchedule::new("nightly").by("ada").reason("the year is being closed")).await?;
    let told = stent.describe_schedule(DescribeSchedule::new("nightly").next(2)).await?.expect("it is there");
    let pause = told.paused.as_ref().expect("it is paused");
    println!(
        "{}: paused by {} ({}), {:?} so far; it would be next at {:?}",
        told.name, pause.by, pause.reason, told.counts, told.next
    );
    assert_eq!(told.next.len(), 2);
    stent.unpause_schedule("nightly").await?;
    stent.delete_schedule("nightly").await?;

    stent.shutdown(Shutdown::within(secs(5))).await
}
