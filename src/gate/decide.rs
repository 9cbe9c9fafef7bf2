//! What becomes of dispatches that come to a gate, and of what is due at it: pure, from the row as it was read and the time.
//!
//! Several dispatches are decided about in one go, in the order in which they came, and written together; each has an answer of its own.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;

use super::row::{Burst, Debounce, Dedupe, Recent, Row, Rule, State, Throttle, Waiting, Wanted, id_of, part};
use crate::{
    error::DispatchError,
    kernel::{
        id::{Digest, RunKey},
        time::Timestamp,
    },
};

/// So many requests of a debounce, or that a dedupe let begin, are known again.
pub(crate) const MOST_RECENT: usize = 128;

/// So many dispatches wait at one throttle…
pub(crate) const MOST_WAITING: usize = 1_000;

/// …with so many bytes of arguments, or one.
pub(crate) const MOST_BYTES: usize = 4 << 20;

/// So many begin in one commit; more begin in the next.
pub(crate) const MOST_STARTS: usize = 100;

/// A dispatch at a gate.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) rule: Rule,
    pub(crate) wanted: Wanted,
    /// By which it is known again.
    pub(crate) request: String,
    /// The key of its run, if it comes to one of its own.
    pub(crate) run: RunKey,
}

/// An execution that exists.
#[derive(Clone, Debug)]
pub(crate) struct Begun {
    pub(crate) run: RunKey,
    pub(crate) input: Digest,
    /// In what state it is.
    pub(crate) status: &'static str,
}

/// What is known beside the row.
pub(crate) struct Known<'a> {
    /// The name of the row.
    pub(crate) name: &'a str,
    pub(crate) now: Timestamp,
    /// Those executions that requests would have at a throttle, by id, looked up *behind* the row: none of them has begun since, if the
    /// row is still the same when this is written.
    pub(crate) begun: &'a HashMap<String, Begun>,
    /// Ids that were found to be in use when it was written.
    pub(crate) in_use: &'a HashSet<String>,
}

/// An execution to begin.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Start {
    pub(crate) run: RunKey,
    pub(crate) id: String,
    pub(crate) wanted: Wanted,
}

/// What became of a dispatch.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Passed {
    pub(crate) run: RunKey,
    pub(crate) id: String,
    pub(crate) how: How,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum How {
    /// It has begun, by this.
    Begun,
    /// It is to begin then.
    Waits(Timestamp),
    /// It was to begin already, and does so then, with this argument.
    Folded(Timestamp),
    /// It had begun, or was asked for by this very request.
    Attached,
}

/// What was decided.
#[derive(Debug)]
pub(crate) struct Decided {
    /// The row as it is to be; `None` if it stays as it is.
    pub(crate) row: Option<Row>,
    /// What begins, in order.
    pub(crate) starts: Vec<Start>,
    /// What becomes of each request.
    pub(crate) answers: Vec<Result<Passed, DispatchError>>,
}

/// Decides about what is due, and then about these requests. `row` is what was read, if anything was.
pub(crate) fn decide(row: Option<Row>, requests: &[Request], known: &Known<'_>) -> Decided {
    let now = row.as_ref().map_or(known.now, |row| row.at.max(known.now));
    let Some(mut state) = row.as_ref().map(|row| row.state.clone()).or_else(|| Some(State::of(&requests.first()?.rule))) else {
        return Decided { row: None, starts: Vec::new(), answers: Vec::new() };
    };
    let mut work = Work { name: known.name, now, known, starts: Vec::new() };
    work.due(&mut state);
    let answers = requests.iter().map(|request| work.admit(&mut state, request)).collect();
    let starts = work.starts;
    let changed = row.is_none_or(|row| row.state != state);
    let row = changed.then_some(Row { at: now, state });
    Decided { row, starts, answers }
}

/// A row that is being changed.
struct Work<'a> {
    name: &'a str,
    now: Timestamp,
    known: &'a Known<'a>,
    starts: Vec<Start>,
}

impl Work<'_> {
    /// Begins what is due.
    fn due(&mut self, state: &mut State) {
        match state {
            State::Debounce(debounce) => {
                if let Some(burst) = debounce.burst.take_if(|burst| burst.due <= self.now) {
                    self.start(burst.run, id_of(self.name, debounce.number), burst.wanted);
                }
            }
            State::Throttle(throttle) => {
                while self.starts.len() < MOST_STARTS
                    && throttle.next(self.now) <= self.now
                    && let Some(Waiting { run, request, wanted }) = throttle.waiting.pop_front()
                {
                    throttle.begun.push_back(self.now);
                    self.start(run, id_of(self.name, part(&request)), wanted);
                }
                let old = throttle.begun.iter().take_while(|begun| begun.after(throttle.per) <= self.now).count();
                throttle.begun.drain(..old);
            }
            State::Dedupe(_) => {}
        }
    }

    fn start(&mut self, run: RunKey, mut id: String, wanted: Wanted) {
        // Ids of gates are not given to others, so somebody has taken pains to have this one. Whoever waits, waits for the run.
        while self.known.in_use.contains(&id) {
            id.push('+');
        }
        self.starts.push(Start { run, id, wanted });
    }

    fn admit(&mut self, state: &mut State, request: &Request) -> Result<Passed, DispatchError> {
        match (&request.rule, &mut *state) {
            (&Rule::Debounce { quiet, at_most }, State::Debounce(debounce)) => {
                let folded = self.fold(debounce, request, quiet, at_most);
                self.due(state);
                Ok(folded)
            }
            (&Rule::Throttle { most, per }, State::Throttle(throttle)) => {
                if let Some(known) = self.known_again(throttle, request) {
                    return known;
                }
                // Before it is known whether there is room: the rule may be what there is none for.
                if (throttle.most, throttle.per) != (most, per) {
                    (throttle.most, throttle.per) = (most, per);
                    self.due(state);
                }
                self.line_up(state, request)
            }
            (&Rule::Dedupe { window }, State::Dedupe(dedupe)) => Ok(self.stand_in(dedupe, request, window)),
            _ => Err(DispatchError::Unavailable(format!("the row {:?} is that of another gate; it is damaged", self.name))),
        }
    }

    // ---- debounce ----------------------------------------------------------------------------------------------

    /// Takes a dispatch into the burst that is open, or opens one.
    fn fold(&self, debounce: &mut Debounce, asked: &Request, quiet: Duration, at_most: Option<Duration>) -> Passed {
        if let Some(recent) = known_among(&debounce.recent, asked) {
            let (run, id) = (recent.run, id_of(self.name, recent.number));
            let open = debounce.burst.as_ref().filter(|burst| burst.run == run);
            return Passed { run, id, how: open.map_or(How::Attached, |burst| How::Folded(burst.due)) };
        }
        let first = debounce.burst.is_none();
        debounce.number += u64::from(first);
        let (since, run) = debounce.burst.as_ref().map_or((self.now, asked.run), |burst| (burst.since, burst.run));
        let latest = at_most.map_or(Timestamp(i64::MAX), |most| since.after(most));
        let due = self.now.after(quiet).min(latest);
        debounce.burst = Some(Box::new(Burst { run, since, due, wanted: asked.wanted.clone() }));
        remember(&mut debounce.recent, asked, debounce.number, run);
        let how = match first {
            _ if due <= self.now => How::Begun,
            true => How::Waits(due),
            false => How::Folded(due),
        };
        Passed { run, id: id_of(self.name, debounce.number), how }
    }

    // ---- throttle ----------------------------------------------------------------------------------------------

    /// A request that was taken before: it has begun, or it waits.
    fn known_again(&self, throttle: &Throttle, asked: &Request) -> Option<Result<Passed, DispatchError>> {
        let id = id_of(self.name, part(&asked.request));
        let digest = asked.wanted.input.digest();
        let began =
            self.starts.iter().find(|start| start.id == id).map(|start| (start.run, start.wanted.input.digest(), "active"));
        let began = began.or_else(|| self.known.begun.get(&id).map(|begun| (begun.run, begun.input, begun.status)));
        let place = throttle.waiting.iter().position(|waiting| waiting.request == asked.request);
        let waits = place.and_then(|place| throttle.waiting.get(place));
        let waits = waits.map(|waiting| (waiting.run, waiting.wanted.input.digest(), "waiting"));
        let (run, input, status) = began.or(waits)?;
        if input != digest {
            let (workflow, status) = (asked.wanted.workflow.clone(), status.to_owned());
            return Some(Err(DispatchError::IdInUse { id, workflow, status, differs: true }));
        }
        let how = place.map_or(How::Attached, |place| How::Waits(throttle.until(place, self.now)));
        Some(Ok(Passed { run, id, how }))
    }

    /// Puts a request in line; its turn may have come.
    fn line_up(&mut self, state: &mut State, asked: &Request) -> Result<Passed, DispatchError> {
        if let State::Throttle(throttle) = state {
            self.wait(throttle, asked)?;
        }
        self.due(state);
        Ok(self.in_line(state, asked))
    }

    fn wait(&self, throttle: &mut Throttle, asked: &Request) -> Result<(), DispatchError> {
        let bytes = throttle.bytes();
        if throttle.waiting.len() >= MOST_WAITING || (bytes > 0 && bytes + asked.wanted.input.bytes.len() > MOST_BYTES) {
            let (waiting, retry_after) = (throttle.waiting.len(), throttle.next(self.now).since(self.now));
            return Err(DispatchError::GateFull { waiting, bytes, retry_after });
        }
        let Request { wanted, request, run, .. } = asked.clone();
        throttle.waiting.push_back(Waiting { run, request, wanted });
        Ok(())
    }

    /// What has become of a request that was just put in line.
    fn in_line(&self, state: &State, asked: &Request) -> Passed {
        let waits = match state {
            State::Throttle(throttle) if throttle.waiting.back().is_some_and(|last| last.run == asked.run) => {
                Some(throttle.until(throttle.waiting.len() - 1, self.now))
            }
            _ => None,
        };
        Passed { run: asked.run, id: id_of(self.name, part(&asked.request)), how: waits.map_or(How::Begun, How::Waits) }
    }

    // ---- dedupe ------------------------------------------------------------------------------------------------

    fn stand_in(&mut self, dedupe: &mut Dedupe, asked: &Request, window: Duration) -> Passed {
        if let Some(recent) = known_among(&dedupe.recent, asked) {
            return Passed { run: recent.run, id: id_of(self.name, recent.number), how: How::Attached };
        }
        if let Some((run, until)) = dedupe.last
            && until > self.now
        {
            return Passed { run, id: id_of(self.name, dedupe.number), how: How::Attached };
        }
        dedupe.number += 1;
        dedupe.last = Some((asked.run, self.now.after(window)));
        remember(&mut dedupe.recent, asked, dedupe.number, asked.run);
        let id = id_of(self.name, dedupe.number);
        self.start(asked.run, id.clone(), asked.wanted.clone());
        Passed { run: asked.run, id, how: How::Begun }
    }
}

impl State {
    fn of(rule: &Rule) -> State {
        match *rule {
            Rule::Debounce { .. } => State::Debounce(Debounce::default()),
            Rule::Throttle { most, per } => {
                State::Throttle(Throttle { most, per, begun: VecDeque::new(), waiting: VecDeque::new() })
            }
            Rule::Dedupe { .. } => State::Dedupe(Dedupe::default()),
        }
    }
}

/// Finds what became of a request that has come before.
fn known_among<'r>(recent: &'r VecDeque<Recent>, asked: &Request) -> Option<&'r Recent> {
    let request = mark(&asked.request);
    recent.iter().find(|recent| recent.request == request)
}

fn remember(recent: &mut VecDeque<Recent>, asked: &Request, number: u64, run: RunKey) {
    recent.push_back(Recent { request: mark(&asked.request), number, run });
    let old = recent.len().saturating_sub(MOST_RECENT);
    recent.drain(..old);
}

/// What is kept of a request's id.
fn mark(request: &str) -> Bytes {
    Bytes::copy_from_slice(&blake3::hash(request.as_bytes()).as_bytes()[..16])
}
