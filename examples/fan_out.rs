//! Fan-out: many activities at once, in two ways. `cx.map` bounds how many run together; `join_all` starts them all. Both replay
//! the same way, because the place of a call in the log is reserved when the call is made, whoever is finished first.
//!
//! `cargo run --example fan_out [sqlite:fan.db]`

#![expect(clippy::print_stdout, reason = "an example talks to people")]

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use futures::future::join_all;
use stent::prelude::*;

/// Counts the primes below `below`, slice by slice.
#[derive(Serialize, Deserialize)]
struct CountPrimes {
    below: u64,
    slices: u64,
}

impl Workflow for CountPrimes {
    const NAME: &'static str = "example.count_primes";
    type Output = u64;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u64, AppError> {
        let width = self.below.div_ceil(self.slices);
        let slice = |n: u64| PrimesIn { from: n * width, to: ((n + 1) * width).min(self.below) };

        // At most eight at a time; the outputs are in the order of the slices. The first error would cancel the rest.
        let counts = cx.map(0..self.slices, |n| cx.call(slice(n))).concurrency(8).await?;

        // All at once, each with its own result.
        let again = join_all((0..self.slices).map(|n| cx.call(slice(n)))).await;

        let again = again.into_iter().collect::<Result<Vec<_>, _>>()?;
        if counts != again {
            return Err(AppError::new("the two ways disagree"));
        }
        Ok(counts.iter().sum())
    }
}

#[derive(Serialize, Deserialize)]
struct PrimesIn {
    from: u64,
    to: u64,
}

impl Activity for PrimesIn {
    const NAME: &'static str = "example.primes_in";
    type Output = u64;
    type Error = AppError;
}

fn primes_in(from: u64, to: u64) -> u64 {
    let is_prime = |n: u64| n > 1 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d));
    (from..to).map(|n| u64::from(is_prime(n))).sum()
}

#[actix::main]
async fn main() -> stent::Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory:".to_owned());
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let peak = most.clone();
    let supervisor = Stent::open(&url)
        .workflow::<CountPrimes>()
        .activity(async move |call: Call<PrimesIn>| {
            most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
            let (from, to) = (call.from, call.to);
            // Work that keeps a processor busy belongs on the blocking pool, as everywhere in async Rust.
            let count = tokio::task::spawn_blocking(move || primes_in(from, to)).await;
            running.fetch_sub(1, SeqCst);
            Ok(count?)
        })
        .start()
        .await?;

    let handle = supervisor.send(Dispatch::new(CountPrimes { below: 200_000, slices: 100 })).await??;
    let count = handle.result().await?;
    println!("{count} primes below 200,000, counted twice in 100 slices, up to {} at once", peak.load(SeqCst));
    assert_eq!(count, 17_984);

    supervisor.send(Shutdown::within(secs(5))).await??;
    Ok(())
}
