//! Published values and counters: what a workflow shows of itself while it runs, and what stays readable when it has ended. Each is a command in
//! the log, and a row that is written in the commit of its turn: nobody sees what is not recorded, and what is tried again counts once.

use serde::{Deserialize, Serialize};

use super::Cx;
use crate::{
    activity::Durable,
    kernel::{
        event::Command,
        failure::{Failure, KIND_CODEC},
        payload::Payload,
        tape::{Fault, PROGRESS, Tape},
    },
};

/// How far an execution is, as [`Cx::progress`] says it and `Stent::progress` reads it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Progress {
    /// How much is done…
    pub done: u64,
    /// …of how much, if that is known.
    pub total: Option<u64>,
    /// What it is about, in words.
    pub text: String,
}

impl<W> Cx<W> {
    /// Publishes a value under a key, in place of the one before: it is read from outside by id and key (`Stent::value`, or
    /// `Stent::value_when` to wait for it), on every node, also when the execution has ended.
    ///
    /// It is recorded at its place in the order of commands and becomes visible with the commit of this turn, not before; of several values
    /// for one key in a turn only the last is ever seen. Replay publishes nothing again. It is no await: cancellation does not touch it.
    /// Each call is an entry of the history, of the size of its value: publish what somebody may want to see, not every step of a loop.
    ///
    /// # Limits
    /// 1,000 keys and 1 MiB in all for each run ([`Limits`](crate::kernel::limits::Limits)); beyond it the run fails, with the limit in the
    /// text. A key has 1 to 255 bytes, no NUL, does not begin with `stent:`, and is of a value or of a counter for good: what is not so
    /// is a mistake in the code, which blocks the run until it is corrected; so is publishing inside the closure of a step.
    pub fn publish<T: Durable>(&self, key: &str, value: &T) {
        if let Some(value) = encoded(&self.tape, key, value) {
            self.tape.publish(&Command::Publish { key: key.to_owned(), value });
        }
    }

    /// Adds to a counter, which begins at zero: `Stent::counter` reads it. It belongs to this execution, and is written by it alone: sums over
    /// several are made by whoever reads them. All that [`publish`](Cx::publish) says holds for it too. It saturates at the ends of `i64`.
    pub fn count(&self, key: &str, by: i64) {
        self.tape.publish(&Command::Count { key: key.to_owned(), by });
    }

    /// Publishes how far this execution is: `cx.progress(3, 10, "pages")`, or with `None` where the total is not known. `Stent::progress` reads it.
    /// All that [`publish`](Cx::publish) says holds for it too.
    pub fn progress(&self, done: u64, total: impl Into<Option<u64>>, text: impl Into<String>) {
        let progress = Progress { done, total: total.into(), text: text.into() };
        if let Some(value) = encoded(&self.tape, PROGRESS, &progress) {
            self.tape.show(&Command::Publish { key: PROGRESS.to_owned(), value });
        }
    }
}

/// Encodes a value; one that cannot be encoded is the end of the run.
fn encoded<T: Durable>(tape: &Tape, key: &str, value: &T) -> Option<Payload> {
    match Payload::encode(value, format_args!("the published value {key:?}")) {
        Ok(value) => Some(value),
        Err(error) => {
            tape.fault(Fault::Fails(Failure::new(KIND_CODEC, error.to_string()).into_final()));
            None
        }
    }
}
