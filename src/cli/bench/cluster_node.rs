//! A node of `cluster`: a process that says when it is ready, works when it is told to, says when its share is done, and
//! leaves when nobody talks to it any more.

use std::{
    io::{BufRead, Write},
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use futures_util::{StreamExt, stream};

use super::{
    Failure, Level,
    chain::verified,
    recovery::id_of,
    work::{self, EFFECTS, Effects, Paused, Steps},
};
use crate::{Dispatch, Shutdown, Stent};

/// Not for people.
#[derive(Args, Debug)]
pub(super) struct Node {
    #[arg(long)]
    url: String,
    #[arg(long, value_enum)]
    durability: Level,
    #[arg(long)]
    lease_ms: u64,
    #[arg(long)]
    in_flight: usize,
    /// Its executions have these numbers.
    #[arg(long)]
    from: u64,
    #[arg(long)]
    to: u64,
    /// Plain chains of so many steps, unless there is a file for effects.
    #[arg(long)]
    steps: u64,
    #[arg(long)]
    effects: Option<PathBuf>,
    #[arg(long)]
    acknowledged: Option<PathBuf>,
}

impl Node {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let builder = Stent::open(&self.url).durability(self.durability.durability()).lease(Duration::from_millis(self.lease_ms));
        let builder = match &self.effects {
            Some(effects) => work::paused(builder, &Effects::open(effects)?),
            None => work::plain(builder, super::Polled::default()),
        };
        let stent = Stent::of(builder.start().await?).await?;
        let mut heard = lines();
        say("ready")?;
        // Told to go, or nobody is there any more.
        if heard.recv().await.is_some() {
            match &self.acknowledged {
                Some(acknowledged) => self.effects(&stent, acknowledged).await?,
                None => self.chains(&stent).await?,
            }
            say("done")?;
            while heard.recv().await.is_some() {}
        }
        stent.shutdown(Shutdown::within(Duration::from_secs(10))).await?;
        Ok(())
    }

    async fn chains(&self, stent: &Stent) -> Result<(), Failure> {
        let steps = self.steps;
        let runs = stream::iter(self.from..self.to).map(async |_| super::chain::once(stent, Steps { steps }, steps).await);
        let mut runs = std::pin::pin!(runs.buffer_unordered(self.in_flight));
        while let Some(done) = runs.next().await {
            done?;
        }
        Ok(())
    }

    async fn effects(&self, stent: &Stent, acknowledged: &PathBuf) -> Result<(), Failure> {
        let acknowledged = std::fs::File::options().create(true).append(true).open(acknowledged)?;
        let runs = stream::iter(self.from..self.to).map(async |execution| {
            let handle = stent.dispatch(Dispatch::new(Paused { execution }).id(id_of(execution))).await?;
            (&acknowledged).write_all(format!("{}\n", handle.id()).as_bytes())?;
            verified(&handle, EFFECTS).await
        });
        let mut runs = std::pin::pin!(runs.buffer_unordered(self.in_flight));
        while let Some(done) = runs.next().await {
            done?;
        }
        Ok(())
    }
}

fn say(word: &str) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    writeln!(out, "{word}")?;
    Ok(out.flush()?)
}

/// The lines that come in, read on a thread of their own.
fn lines() -> tokio::sync::mpsc::UnboundedReceiver<String> {
    let (to, lines) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if to.send(line).is_err() {
                return;
            }
        }
    });
    lines
}
