//! What would have to be undone if the run were undone now, by its log alone: the compensations of scopes that are open, and of those
//! that are being compensated what has not run to its end. Only whoever ends a run without its code asks for it.

use std::collections::BTreeMap;

use super::{
    event::{Command, Skipped},
    id::Position,
};

/// The open compensations of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Undone {
    scopes: BTreeMap<Position, Vec<Skipped>>,
    /// Those that run, by the position of their call.
    running: BTreeMap<Position, Skipped>,
}

impl Undone {
    /// Folds a command in.
    pub(crate) fn command(&mut self, command: &Command) {
        match command {
            Command::OpenSaga { position } => _ = self.scopes.insert(*position, Vec::new()),
            Command::Undo { position, scope, compensation } => self.add(*scope, *position, &compensation.activity),
            Command::KeepSaga { scope } => _ = self.scopes.remove(scope),
            Command::Call(call) => match (call.scope, &call.undo) {
                // They run in reverse, one after the other.
                (Some(scope), _) if call.compensating => {
                    let last = self.scopes.get_mut(&scope).and_then(Vec::pop);
                    self.running.extend(last.map(|undone| (call.position, undone)));
                }
                (Some(scope), Some(undo)) => self.add(scope, call.position, &undo.activity),
                _ => {}
            },
            _ => {}
        }
    }

    fn add(&mut self, scope: Position, position: Position, activity: &str) {
        if let Some(scope) = self.scopes.get_mut(&scope) {
            scope.push(Skipped { position, activity: activity.to_owned() });
        }
    }

    /// Takes note that a call is over.
    pub(crate) fn ended(&mut self, position: Position) {
        self.running.remove(&position);
    }

    /// Returns what is open, in the order in which it was recorded.
    pub(crate) fn open(&self) -> Vec<Skipped> {
        let mut open: Vec<Skipped> = self.scopes.values().flatten().chain(self.running.values()).cloned().collect();
        open.sort_by_key(|skipped| skipped.position);
        open
    }
}
