//! Compensations as data. A scope collects what would undo its acts; when it ends badly (error, cancel, panic, drop) the
//! kernel runs them in reverse, one after the other, shielded, and the run may not end before they have.

use std::{
    collections::BTreeMap,
    task::{Poll, Waker},
};

use super::{
    event::{Call, CallOptions, Command, Compensation},
    id::Position,
};

#[derive(Default)]
struct Scope {
    /// The scopes around it: theirs is undone only when this one is.
    within: Vec<Position>,
    /// What undoes its acts, each with the position that recorded it.
    undos: Vec<(Position, Compensation)>,
    compensating: bool,
    /// The compensation that runs.
    running: Option<Position>,
    waker: Option<Waker>,
}

/// The open scopes of a run.
#[derive(Default)]
pub(crate) struct Sagas {
    scopes: BTreeMap<Position, Scope>,
}

impl Sagas {
    pub(crate) fn open(&mut self, scope: Position, within: Vec<Position>) {
        self.scopes.insert(scope, Scope { within, ..Scope::default() });
    }

    pub(crate) fn add(&mut self, scope: Position, position: Position, compensation: Compensation) {
        if let Some(scope) = self.scopes.get_mut(&scope) {
            scope.undos.push((position, compensation));
        }
    }

    /// Replaces what the code asked for by what the log says: changed code must not change how a recorded act is undone.
    pub(crate) fn recorded(&mut self, scope: Position, position: Position, compensation: &Compensation) {
        let undos = self.scopes.get_mut(&scope).map(|scope| &mut scope.undos);
        if let Some((_, undo)) = undos.and_then(|undos| undos.iter_mut().find(|(at, _)| *at == position)) {
            undo.clone_from(compensation);
        }
    }

    pub(crate) fn keep(&mut self, scope: Position) {
        self.scopes.remove(&scope);
    }

    pub(crate) fn compensate(&mut self, scope: Position) {
        if let Some(scope) = self.scopes.get_mut(&scope) {
            scope.compensating = true;
        }
    }

    pub(crate) fn poll(&mut self, scope: Position, waker: &Waker) -> Poll<()> {
        match self.scopes.get_mut(&scope) {
            Some(state) => {
                state.waker = Some(waker.clone());
                Poll::Pending
            }
            None => Poll::Ready(()),
        }
    }

    /// Returns the next thing to do: start a compensation at `position`, or wake whoever waits for a finished scope.
    pub(crate) fn next(&mut self, position: Position) -> Option<(Option<Command>, Option<Waker>)> {
        let inner_undone = |id: &Position| !self.scopes.values().any(|other| other.compensating && other.within.contains(id));
        let ready = |(id, scope): &(&Position, &Scope)| scope.compensating && scope.running.is_none() && inner_undone(id);
        let id = *self.scopes.iter().find(ready)?.0;
        let scope = self.scopes.get_mut(&id)?;
        let Some((_, undo)) = scope.undos.pop() else {
            return Some((None, self.scopes.remove(&id).and_then(|scope| scope.waker)));
        };
        scope.running = Some(position);
        // An exhausted compensation parks: skipping it silently would break the books.
        let mut options = undo.options.unwrap_or_default();
        options.park = true;
        let options: Option<Box<CallOptions>> = Some(options);
        let call = Call {
            position,
            activity: undo.activity,
            input: undo.input,
            options,
            undo: None,
            scope: Some(id),
            compensating: true,
            memo: None,
        };
        Some((Some(Command::Call(Box::new(call))), None))
    }

    /// Takes note that a compensation has ended; tells whether `position` was one.
    pub(crate) fn ended(&mut self, position: Position) -> bool {
        match self.scopes.values_mut().find(|scope| scope.running == Some(position)) {
            Some(scope) => {
                scope.running = None;
                true
            }
            None => false,
        }
    }

    /// Tells whether no scope is open, nor being undone.
    pub(crate) fn is_empty(&self) -> bool {
        self.scopes.is_empty()
    }

    /// Tells whether a compensation is still to run.
    pub(crate) fn busy(&self) -> bool {
        self.scopes.values().any(|scope| scope.compensating)
    }
}
