//! The part of the tape that is about sagas: scopes are opened, polled and ended, and their compensations are started one by one.

use std::task::{Poll, Waker};

use super::{Tape, wake};
use crate::kernel::{
    event::{Command, Compensation},
    id::Position,
};

impl Tape {
    pub(crate) fn open_saga(&self) -> Position {
        let scope = self.reserve();
        if self.command(Command::OpenSaga { position: scope }) {
            let mut inner = self.inner.borrow_mut();
            let within = inner.scopes.clone();
            inner.sagas.open(scope, within);
        }
        scope
    }

    /// Begins to poll the body of a scope.
    pub(crate) fn enter_saga(&self, scope: Position) {
        self.inner.borrow_mut().scopes.push(scope);
    }

    /// Ends to poll the body of the innermost scope.
    pub(crate) fn leave_saga(&self) {
        self.inner.borrow_mut().scopes.pop();
    }

    /// Adds a compensation, which is recorded at `position`.
    pub(crate) fn add_undo(&self, scope: Position, position: Position, compensation: Compensation) {
        self.inner.borrow_mut().sagas.add(scope, position, compensation);
    }

    /// Lets a recorded compensation replace the one that replayed code registered.
    pub(crate) fn recorded_undo(&self, scope: Position, position: Position, compensation: &Compensation) {
        self.inner.borrow_mut().sagas.recorded(scope, position, compensation);
    }

    /// Ends a scope: well, or by running its compensations.
    pub(crate) fn close_saga(&self, scope: Position, well: bool) {
        let mut inner = self.inner.borrow_mut();
        if inner.sealed {
            return;
        }
        if well {
            inner.sagas.keep(scope);
            drop(inner);
            self.command(Command::KeepSaga { scope });
        } else {
            inner.sagas.compensate(scope);
            drop(inner);
            self.command(Command::Compensate { scope });
        }
    }

    /// Waits until a scope's compensations have all run. Shielded: cancellation does not interrupt it.
    pub(crate) fn poll_saga(&self, scope: Position, waker: &Waker) -> Poll<()> {
        self.inner.borrow_mut().sagas.poll(scope, waker)
    }

    /// Starts the next compensation of each scope that has none running. Returns whether anything changed.
    pub(crate) fn drive_sagas(&self) -> bool {
        let mut changed = false;
        loop {
            let mut inner = self.inner.borrow_mut();
            let position = inner.next;
            let Some((command, waker)) = inner.sagas.next(position) else {
                return changed;
            };
            changed = true;
            if let Some(command) = command {
                inner.next += 1;
                drop(inner);
                self.command(command);
            } else {
                drop(inner);
                wake(waker);
            }
        }
    }

    /// Tells whether a compensation is still to run.
    pub(crate) fn compensates(&self) -> bool {
        self.inner.borrow().sagas.busy()
    }
}
