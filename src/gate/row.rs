//! The row of a gate: its name, its rules, what waits at it, what has passed it. Encoded as the body of a
//! [`ScheduleRow`](crate::store::ScheduleRow); the codes of the variants are short and never used again.
//!
//! A row is as large as its bounds let it be, however much goes through the gate: one argument of a debounce, the requests that are known
//! again, the backlog of a throttle and as many times as its window has.

use std::{collections::VecDeque, fmt, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    error::DispatchError,
    kernel::{
        id::{OUR_IDS, RunKey},
        payload::Payload,
        retry::Retry,
        time::Timestamp,
    },
};

/// With this begin the names of rows that are gates; no schedule's name has it.
const GATE: char = '#';

/// In the order of names, all gates stand before this.
pub(crate) const BEHIND_GATES: &str = "#\u{10ffff}";

/// The longest id of a request.
pub(crate) const LONGEST_REQUEST: usize = 100;

/// The most that a throttle lets begin in a window: so many times are in its row.
const MOST_PER_WINDOW: u32 = 1_000;

/// What somebody asks of a gate.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Rule {
    /// Begins so long behind the last dispatch, and at most so long behind the first.
    Debounce { quiet: Duration, at_most: Option<Duration> },
    /// Begins so many within each such time.
    Throttle { most: u32, per: Duration },
    /// Begins one, which stands for all that come within such a time.
    Dedupe { window: Duration },
}

/// The execution that is to begin, without its id.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Wanted {
    pub(crate) workflow: String,
    pub(crate) version: u32,
    pub(crate) input: Payload,
    pub(crate) deadline: Option<Duration>,
    pub(crate) retry: Option<Retry>,
    pub(crate) priority: i32,
    pub(crate) queue: String,
    pub(crate) tags: Vec<String>,
    pub(crate) needs: Vec<String>,
}

/// The body of a row.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    /// When it was written. What is decided about it later is decided at this time or later, whichever node's clock says what.
    pub(crate) at: Timestamp,
    pub(crate) state: State,
}

/// How a gate stands.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum State {
    #[serde(rename = "b")]
    Debounce(Debounce),
    #[serde(rename = "t")]
    Throttle(Throttle),
    #[serde(rename = "o")]
    Dedupe(Dedupe),
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Debounce {
    /// How many bursts there were, the open one included.
    pub(crate) number: u64,
    pub(crate) burst: Option<Box<Burst>>,
    /// Requests that are known again, the newest last.
    pub(crate) recent: VecDeque<Recent>,
}

/// A burst whose execution has not begun.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Burst {
    pub(crate) run: RunKey,
    /// When its first dispatch came.
    pub(crate) since: Timestamp,
    pub(crate) due: Timestamp,
    /// What its last dispatch wants.
    pub(crate) wanted: Wanted,
}

/// A request that went into a burst, or began an execution.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Recent {
    pub(crate) request: Bytes,
    pub(crate) number: u64,
    pub(crate) run: RunKey,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Throttle {
    pub(crate) most: u32,
    pub(crate) per: Duration,
    /// When the newest executions have begun, oldest first, as far as they count still.
    pub(crate) begun: VecDeque<Timestamp>,
    pub(crate) waiting: VecDeque<Waiting>,
}

/// An execution that waits for its place.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Waiting {
    pub(crate) run: RunKey,
    pub(crate) request: String,
    pub(crate) wanted: Wanted,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Dedupe {
    /// How many executions it has begun…
    pub(crate) number: u64,
    /// …and the newest, with the time up to which it stands for others.
    pub(crate) last: Option<(RunKey, Timestamp)>,
    /// Requests that began one, which are known again, the newest last: who hears no answer asks once more, and the window may be over.
    pub(crate) recent: VecDeque<Recent>,
}

impl Row {
    pub(crate) fn encode(&self) -> Result<Bytes, String> {
        rmp_serde::to_vec(self).map(Bytes::from).map_err(|error| format!("a gate cannot be encoded: {error}"))
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Row, String> {
        rmp_serde::from_slice(body)
            .map_err(|error| format!("a gate's row does not decode: {error}; it is of another release, or damaged"))
    }

    /// Returns when somebody has to look at it.
    pub(crate) fn next_at(&self) -> Option<Timestamp> {
        match &self.state {
            State::Debounce(debounce) => debounce.burst.as_ref().map(|burst| burst.due),
            State::Throttle(throttle) if throttle.waiting.is_empty() => None,
            State::Throttle(throttle) => Some(throttle.next(self.at)),
            State::Dedupe(_) => None,
        }
    }
}

impl Throttle {
    /// Returns when the next one may begin, if it is this time now.
    pub(crate) fn next(&self, now: Timestamp) -> Timestamp {
        next_of(&self.begun, self.most, self.per, now)
    }

    /// Returns when the one at this place, from 0, of those that wait begins, if nothing else happens.
    pub(crate) fn until(&self, place: usize, now: Timestamp) -> Timestamp {
        let mut begun = self.begun.clone();
        for _ in 0..place {
            begun.push_back(next_of(&begun, self.most, self.per, now));
        }
        next_of(&begun, self.most, self.per, now)
    }

    /// Bytes of arguments that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.waiting.iter().map(|waiting| waiting.wanted.input.bytes.len()).sum()
    }
}

/// Within `per`, that end excluded, `most` begin.
fn next_of(begun: &VecDeque<Timestamp>, most: u32, per: Duration, now: Timestamp) -> Timestamp {
    let place = begun.len().checked_sub(most as usize);
    place.and_then(|place| begun.get(place)).map_or(now, |before| before.after(per).max(now))
}

impl Rule {
    /// Refuses what makes no sense.
    pub(crate) fn check(&self) -> Result<(), DispatchError> {
        let (time, at_most, most) = match *self {
            Rule::Debounce { quiet, at_most } => (quiet, at_most, 1),
            Rule::Throttle { most, per } => (per, None, most),
            Rule::Dedupe { window } => (window, None, 1),
        };
        if time.is_zero() || at_most.is_some_and(|most| most.is_zero()) {
            return Err(DispatchError::Invalid("the times of a gate are more than zero".to_owned()));
        }
        if !(1..=MOST_PER_WINDOW).contains(&most) {
            let why = format!("a throttle lets 1 to {MOST_PER_WINDOW} begin in a window, and not {most}");
            return Err(DispatchError::Invalid(why));
        }
        Ok(())
    }

    /// Returns the kind as it stands in names and ids.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Rule::Debounce { .. } => "debounce",
            Rule::Throttle { .. } => "throttle",
            Rule::Dedupe { .. } => "dedupe",
        }
    }
}

/// Returns the name of a gate's row: no two of a kind, a workflow and a key have the same.
pub(crate) fn gate_name(kind: &str, workflow: &str, key: &str) -> String {
    format!("{GATE}{kind}/{}/{}", part(workflow), part(key))
}

/// Returns the id that follows from such a name.
pub(crate) fn our_id(gate: &str) -> String {
    format!("{OUR_IDS}{}", gate.trim_start_matches(GATE))
}

/// Returns the id of one of the executions behind the gate of that name: it has a number, or a request's id.
pub(crate) fn id_of(gate: &str, which: impl fmt::Display) -> String {
    format!("{}/{which}", our_id(gate))
}

/// Returns the longest id that such a request may lead to.
pub(crate) fn longest_id(gate: &str, rule: &Rule, request: &str) -> String {
    match rule {
        Rule::Throttle { .. } => id_of(gate, part(request)),
        Rule::Debounce { .. } | Rule::Dedupe { .. } => id_of(gate, u64::MAX),
    }
}

/// Tells whether a row of this name is a gate.
pub(crate) fn is_gate(name: &str) -> bool {
    name.starts_with(GATE)
}

/// A part of a name, without what separates parts.
pub(crate) fn part(text: &str) -> String {
    text.replace('%', "%25").replace('/', "%2F")
}
