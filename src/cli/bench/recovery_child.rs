//! The process that `recovery` kills: it dispatches, notes what was acknowledged, and works until its death.

use std::{io::Write, path::PathBuf};

use clap::Args;
use futures_util::{StreamExt, stream};

use super::{
    Failure, Level,
    recovery::id_of,
    work::{self, Effects, Paused},
};
use crate::{Dispatch, Stent};

/// Not for people.
#[derive(Args, Debug)]
pub(super) struct Child {
    #[arg(long)]
    url: String,
    #[arg(long, value_enum)]
    durability: Level,
    #[arg(long)]
    executions: u64,
    #[arg(long)]
    effects: PathBuf,
    #[arg(long)]
    acknowledged: PathBuf,
}

impl Child {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Child { url, durability, executions, effects, acknowledged } = self;
        let effects = Effects::open(&effects)?;
        let acknowledged = std::fs::File::options().create(true).append(true).open(acknowledged)?;
        let builder = Stent::open(&url).durability(durability.durability());
        let stent = Stent::of(work::paused(builder, &effects).start().await?).await?;
        let told = stream::iter(0..executions).map(async |execution| {
            let handle = stent.dispatch(Dispatch::new(Paused { execution }).id(id_of(execution))).await?;
            (&acknowledged).write_all(format!("{}\n", handle.id()).as_bytes())?;
            handle.result().await.map(|_| ()).map_err(|error| Failure::Failed(error.to_string()))
        });
        // All in flight at once: the pause of each must not hold up the others.
        let mut told = told.buffer_unordered(usize::try_from(executions).unwrap_or(usize::MAX));
        while let Some(done) = told.next().await {
            done?;
        }
        Ok(())
    }
}
