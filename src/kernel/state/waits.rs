//! What a run waits for, in words.

use super::{Open, OpenCall, Phase, State};
use crate::kernel::{id::Position, memo::MemoStand};

impl State {
    /// Returns what the run waits for, one line each, for `describe`.
    pub(crate) fn waits(&self) -> Vec<String> {
        let mut waits: Vec<String> = self
            .open
            .iter()
            .map(|(position, open)| match open {
                Open::Sleep { due } => format!("sleep #{position} until {due}"),
                Open::Receive { signal } => format!("signal {signal:?} (#{position})"),
                Open::Child(child) => format!("child {:?} of {} (#{position})", child.id, child.workflow),
                Open::Call(call) => call.describe(position, self.memos.get(&position)),
            })
            .collect();
        if let Some(deadline) = self.started.deadline.filter(|_| !self.deadline_passed && self.outcome.is_none()) {
            waits.push(format!("deadline at {deadline}"));
        }
        // Waits for conditions are not recorded; but what goes on and waits for nothing else waits for one.
        if self.open.is_empty() && self.outcome.is_none() && self.begun() {
            waits.push("a condition (cx.until), which an update or a signal may fulfil".to_owned());
        }
        waits
    }
}

impl OpenCall {
    fn describe(&self, position: Position, memo: Option<&MemoStand>) -> String {
        let what = match (self.compensating, self.place) {
            (true, _) => "compensation",
            (false, Some(_)) => "step",
            (false, None) => "activity",
        };
        let last = self.last_failure.as_ref().map_or_else(String::new, |last| format!("; last: {last}"));
        let (name, attempt) = (&self.name, self.attempt);
        match self.phase {
            Phase::Intended => {
                format!("{what} {name} (#{position}), attempt {attempt} is under way{last}")
            }
            Phase::Waiting { at } => {
                format!("{what} {name} (#{position}), attempt {attempt} not before {at}{last}")
            }
            Phase::Parked => {
                format!("{what} {name} (#{position}) is parked until it is retried by hand{last}")
            }
            Phase::Asking => {
                let key = memo.map_or_else(String::new, |memo| memo.shares.key.to_string());
                format!("{what} {name} (#{position}) waits for who has its memo (key {key}), or for its turn{last}")
            }
        }
    }
}
