//! What a run says to other runs: to its parent how it ended, and to its children that nobody waits for them any more.

use super::{Run, turning::Turning};
use crate::kernel::{
    event::{Command, MessageBody, OUR_MESSAGES, OnClose, Outcome, Parent, child_message},
    id::{Position, RunId},
    state::OpenChild,
};

/// A message to another run, which goes with the commit of the turn that led to it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Telling {
    pub(crate) to: RunId,
    /// The message's own id.
    pub(crate) message: String,
    pub(crate) body: MessageBody,
}

impl Telling {
    /// To the parent: how this run ended.
    pub(super) fn ended(parent: &Parent, outcome: &Outcome) -> Telling {
        let Parent { run, position } = parent;
        let body = MessageBody::Child { position: *position, end: Box::new(outcome.clone()) };
        Telling { to: run.clone(), message: child_message(*position), body }
    }

    /// To a child: it is asked to stop, if that is what it was begun with.
    pub(super) fn stop(from: &RunId, position: Position, child: &OpenChild) -> Option<Telling> {
        let to = RunId { id: child.id.clone(), run_no: 1 };
        let message = format!("{OUR_MESSAGES}stop:{from}/{position}");
        let body = MessageBody::Stop { parent: Parent { run: from.clone(), position } };
        (child.on_close == OnClose::Cancel).then_some(Telling { to, message, body })
    }
}

impl Run {
    /// What a command does to other runs, seen before it is folded in.
    pub(super) fn concerns_others(&self, command: &Command, turn: &mut Turning) {
        let unwanted = |position: &Position, child: &OpenChild| Telling::stop(&self.id, *position, child);
        match command {
            Command::Child(child) => turn.starts.push((**child).clone()),
            Command::Cancel { position } => {
                turn.tells.extend(self.state.child(*position).and_then(|child| unwanted(position, child)));
            }
            Command::End { outcome } => {
                turn.tells.extend(self.state.children().filter_map(|(position, child)| unwanted(&position, child)));
                turn.tells.extend(self.state.started.parent.as_deref().map(|parent| Telling::ended(parent, outcome)));
            }
            _ => {}
        }
    }
}
