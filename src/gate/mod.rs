//! Gates, the part that knows no clock and no store: what somebody asks of one ([`Rule`]), how it stands (`row`), and what becomes of a
//! dispatch that comes to it (`decide`). A gate is a row of the table of schedules with a name and a body of its own kind: whoever has
//! a clock and a store reads it, lets it be decided here, and writes what came of it if the row is still the one that was read.

mod decide;
mod row;

pub(crate) use decide::{Begun, Decided, How, Known, Passed, Request, decide};
pub(crate) use row::{BEHIND_GATES, LONGEST_REQUEST, Row, Rule, Wanted, gate_name, id_of, is_gate, longest_id, our_id, part};

#[cfg(test)]
mod tests;
