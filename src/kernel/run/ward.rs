//! A run as its log alone tells it. What an operator orders is decided by that where no node has the run in memory, or none can: its
//! code may not be here, may not fit its log any more, or may be what kills nodes. No code of the run's is touched.

use super::{Decision, Effect, Writer, others::tells_at_end};
use crate::kernel::{
    event::{Command, Commit, Event, Fact, Ignored, MessageBody, Order, Ordered, Outcome, Skipped},
    id::{CommitNo, Digest, Epoch, RunId},
    letter::LetterChange,
    memo::{self, Memos},
    state::{Rest, State},
    time::Timestamp,
};

/// One run, without its code.
pub(crate) struct Ward {
    id: RunId,
    /// The log, summed up as far as it can be read.
    pub(crate) state: Option<State>,
    /// Why not further.
    pub(crate) unreadable: Option<String>,
    /// The last row of the log, readable or not.
    tail: Option<(CommitNo, Digest)>,
    last_time: Timestamp,
    last_epoch: Epoch,
    /// Since when it is paused.
    pub(crate) paused_at: Option<Timestamp>,
}

impl State {
    /// Folds a commit of a run's log in; the first one begins it.
    pub(crate) fn fold(state: &mut Option<State>, commit: &Commit, run_no: u32) {
        for event in &commit.events {
            match (event, &mut *state) {
                (Event::Fact(Fact::Started(started)), None) => *state = Some(State::new((**started).clone(), run_no)),
                (Event::Fact(fact), Some(state)) => {
                    let limits = state.started.limits();
                    state.fact(fact, &limits);
                }
                (Event::Command(command), Some(state)) => state.command(command, commit.time),
                (_, None) => {}
            }
        }
    }
}

impl Ward {
    /// Knows nothing but how its log ends, until the log is folded in from its beginning.
    pub(crate) fn new(id: RunId, epoch: Epoch, tail: Option<(CommitNo, Digest)>) -> Ward {
        Ward { id, state: None, unreadable: None, tail, last_time: Timestamp(i64::MIN), last_epoch: epoch, paused_at: None }
    }

    /// Folds the next commit of its log in.
    pub(crate) fn fold(&mut self, commit: &Commit) {
        State::fold(&mut self.state, commit, self.id.run_no);
        let paused = self.state.as_ref().is_some_and(|state| state.paused.is_some());
        self.paused_at = if paused { self.paused_at.or(Some(commit.time)) } else { None };
        self.last_time = commit.time;
        self.last_epoch = self.last_epoch.max(commit.epoch);
    }

    /// Decides the end of the run, as an operator orders it: the same that the run itself would decide.
    pub(crate) fn terminate(&self, message: &str, order: &Order, at: Timestamp, writer: Writer<'_>) -> Decision {
        let received = Fact::Received { message: message.to_owned(), body: MessageBody::Order(Box::new(order.clone())) };
        let (state, lost) = (self.state.as_ref(), self.unreadable.as_ref());
        let mut end = state.and_then(|state| state.terminates(&received)).unwrap_or_else(|| without_a_log(order));
        // What cannot be read may have had more to undo, and must not look as if it had not.
        if let (Command::End { outcome }, Some(why)) = (&mut end, lost)
            && let Outcome::Terminated { skipped, .. } = &mut **outcome
        {
            skipped.push(Skipped { position: 0, activity: format!("(what cannot be read of the log: {why})") });
        }
        let tells = match (&end, state) {
            (Command::End { outcome }, Some(state)) => tells_at_end(&self.id, state, outcome),
            _ => Vec::new(),
        };
        let open = || state.into_iter().flat_map(|state| state.open.keys());
        let left = state.into_iter().flat_map(State::transactions);
        let events = vec![Event::Fact(received), Event::Command(end)];
        let parked = state.into_iter().flat_map(|state| state.parked(None));
        let shares = state.map(|state| state.memos.clone()).unwrap_or_default();
        Decision {
            letters: parked.map(LetterChange::Drop).collect(),
            memos: memo::steps(&self.id, shares, &Memos::new(), &events, at),
            effects: open().map(|position| Effect::Withdraw { position }).collect(),
            settled: open().chain(left).collect(),
            tells,
            rest: Rest::Ended,
            ..self.decision(events, at, writer)
        }
    }

    /// Decides that the run is paused, or goes on, as an operator orders it; behind the orders that were given `before` and that nobody has
    /// taken.
    pub(crate) fn take(
        &self,
        before: &[(&str, &Order)],
        message: &str,
        order: &Order,
        at: Timestamp,
        writer: Writer<'_>,
    ) -> Decision {
        let mut paused = self.state.as_ref().is_some_and(|state| state.paused.is_some());
        let knows = |message: &str| self.state.as_ref().is_some_and(|state| state.knows(message));
        let taken = before.iter().map(|&(message, order)| {
            let message = message.to_owned();
            let pauses = order.what == Ordered::Pause;
            let fact = if knows(&message) {
                Fact::Ignored { message, why: Ignored::Duplicate }
            } else if pauses == paused {
                Fact::Ignored { message, why: Ignored::Late }
            } else {
                paused = pauses;
                Fact::Received { message, body: MessageBody::Order(Box::new(order.clone())) }
            };
            Event::Fact(fact)
        });
        let received = Fact::Received { message: message.to_owned(), body: MessageBody::Order(Box::new(order.clone())) };
        let events = taken.collect::<Vec<_>>().into_iter().chain([Event::Fact(received)]);
        self.decision(events.collect(), at, writer)
    }

    fn decision(&self, events: Vec<Event>, at: Timestamp, writer: Writer<'_>) -> Decision {
        let (commit_no, prev) = self.tail.map_or((0, None), |(last, digest)| (last + 1, Some(digest)));
        let commit = Commit {
            commit_no,
            prev,
            incarnation: writer.incarnation,
            epoch: writer.epoch.max(self.last_epoch),
            build: writer.build,
            time: at.max(self.last_time),
            events,
        };
        Decision {
            commit,
            effects: Vec::new(),
            consumed: Vec::new(),
            settled: Vec::new(),
            starts: Vec::new(),
            tells: Vec::new(),
            published: Vec::new(),
            memos: Vec::new(),
            letters: Vec::new(),
            onward: None,
            rest: Rest::Waits { next: None },
        }
    }
}

fn without_a_log(order: &Order) -> Command {
    let Order { by, reason, .. } = order;
    let outcome = Outcome::Terminated { reason: reason.clone(), by: by.clone(), skipped: Vec::new() };
    Command::End { outcome: Box::new(outcome) }
}
