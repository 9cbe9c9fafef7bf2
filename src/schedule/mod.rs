//! Schedules, the part that knows no clock and no store: what one is ([`Schedule`]), when it fires (`spec`), and what becomes of its row
//! when something is due or somebody asks for something (`state`, `decide`). Whoever has a clock and a store reads the row, lets it be
//! decided here, and writes what came of it if the row is still the one that was read.

mod decide;
mod plan;
mod spec;
mod state;

pub(crate) use decide::{Decided, Known, Order, decide, guarded};
pub(crate) use plan::check_name;
pub use plan::{Overlap, Schedule};
pub use spec::Spec;
pub(crate) use spec::Times;
pub(crate) use state::Row;
pub use state::{Pause, ScheduleCounts, ScheduleDescription, ScheduledRun, Triggered, Why};

#[cfg(test)]
mod tests;
