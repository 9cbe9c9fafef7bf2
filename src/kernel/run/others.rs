//! What a run says to other runs: to its parent how it ended, and to its children that nobody waits for them any more.

use super::{Run, turning::Turning};
use crate::kernel::{
    event::{Command, MessageBody, OUR_MESSAGES, OnClose, Outcome, Parent, Tell, child_message},
    failure::Origin,
    id::{Position, RunId},
    state::{OpenChild, State},
};

impl Tell {
    /// To the parent: how this run ended. It says which of an execution's runs failed: the parent knows the execution only.
    pub(super) fn ended(id: &RunId, state: &State, parent: &Parent, outcome: &Outcome) -> Tell {
        let Parent { run, position } = parent;
        let origin = || Origin { run: id.clone(), name: state.started.workflow.clone(), call: None };
        let end = match outcome {
            Outcome::Failed(failure) => Outcome::Failed(failure.clone().with_origin(origin)),
            other => other.clone(),
        };
        let body = MessageBody::Child { position: *position, end: Box::new(end) };
        Tell { to: run.clone(), message: child_message(*position), body }
    }

    /// To a child: it is asked to stop, if that is what it was begun with.
    pub(super) fn stop(from: &RunId, position: Position, child: &OpenChild) -> Option<Tell> {
        // It may have continued: whichever run is the current one, if it is this parent's.
        let to = RunId::current(&child.id);
        let message = format!("{OUR_MESSAGES}stop:{from}/{position}");
        let body = MessageBody::Stop { parent: Parent { run: from.clone(), position } };
        (child.on_close == OnClose::Cancel).then_some(Tell { to, message, body })
    }
}

/// What a run says to others when it ends, while its children are still open.
pub(super) fn tells_at_end(id: &RunId, state: &State, outcome: &Outcome) -> Vec<Tell> {
    let stops = state.children().filter_map(|(position, child)| Tell::stop(id, position, child));
    // Whoever waits hears of the end of the last run of a chain.
    let parent = state.started.parent.as_deref().filter(|_| *outcome != Outcome::Continued);
    stops.chain(parent.map(|parent| Tell::ended(id, state, parent, outcome))).collect()
}

impl Run {
    /// What a command does to other runs, seen before it is folded in.
    pub(super) fn concerns_others(&self, command: &Command, turn: &mut Turning) {
        let unwanted = |position: &Position, child: &OpenChild| Tell::stop(&self.id, *position, child);
        match command {
            Command::Child(child) => turn.starts.push((**child).clone()),
            Command::Cancel { position } => {
                turn.tells.extend(self.state.child(*position).and_then(|child| unwanted(position, child)));
            }
            Command::End { outcome } => {
                turn.tells.extend(tells_at_end(&self.id, &self.state, outcome));
            }
            _ => {}
        }
    }
}
