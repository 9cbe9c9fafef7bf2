//! Sagas: acts that are undone when what follows them fails.

use std::{future::poll_fn, pin::pin, rc::Rc};

use super::call::{Pending, encode_input};
use crate::{
    activity::Activity,
    kernel::{
        event::{Command, Compensation},
        id::Position,
        tape::{Fault, Tape},
    },
};

/// An open saga: where compensations are registered.
pub struct Saga {
    tape: Rc<Tape>,
    scope: Position,
    open: bool,
}

impl Saga {
    /// Registers a compensation for something that was done. It is recorded before the workflow goes on.
    ///
    /// A crash between the act and this line leaves the act without its compensation; [`Saga::call`] with
    /// [`Undoable::undo_with`] closes that gap.
    pub fn undo<A: Activity>(&mut self, compensation: A) {
        match encode_input(&compensation, A::NAME, self.tape.limits().payload_bytes) {
            Ok(input) => {
                let compensation = Compensation { activity: A::NAME.to_owned(), input, options: None };
                let position = self.tape.reserve();
                self.tape.add_undo(self.scope, position, compensation.clone());
                self.tape.command(Command::Undo { position, scope: self.scope, compensation: Box::new(compensation) });
            }
            Err(failure) => self.tape.fault(Fault::Fails(failure)),
        }
    }

    /// Calls an activity whose compensation can be registered *with* its intent.
    pub fn call<A: Activity>(&mut self, activity: A) -> Undoable<A> {
        Undoable(Pending::new(self.tape.clone(), activity, Some(self.scope)))
    }

    fn close(&mut self, well: bool) {
        if std::mem::take(&mut self.open) {
            self.tape.close_saga(self.scope, well);
        }
    }
}

impl Drop for Saga {
    /// A scope that is dropped or unwound hands its compensations to the kernel.
    fn drop(&mut self) {
        self.close(false);
    }
}

/// A call of a saga, before its compensation is known.
#[must_use = "a call does nothing unless it is awaited"]
pub struct Undoable<A: Activity>(Pending<A>);

impl<A: Activity> Undoable<A> {
    /// Records what undoes the call together with its intent; the closure gets the call's stable key. The compensation runs
    /// whenever the saga fails, also when the call itself failed or its effect is *maybe done*: it must bear that there
    /// is nothing to undo.
    pub fn undo_with<C: Activity>(self, compensation: impl FnOnce(String) -> C) -> Pending<A> {
        let key = self.0.key();
        self.0.undo(compensation(key))
    }
}

impl<A: Activity> IntoFuture for Undoable<A> {
    type Output = <Pending<A> as Future>::Output;
    type IntoFuture = Pending<A>;

    fn into_future(self) -> Pending<A> {
        self.0
    }
}

pub(super) async fn run<T, E>(tape: &Rc<Tape>, body: impl AsyncFnOnce(&mut Saga) -> Result<T, E>) -> Result<T, E> {
    let scope = tape.open_saga();
    let mut saga = Saga { tape: tape.clone(), scope, open: true };
    let result = {
        // What opens within this body is undone before this scope is.
        let mut body = pin!(body(&mut saga));
        poll_fn(|cx| {
            let _within = Within::enter(tape, scope);
            body.as_mut().poll(cx)
        })
        .await
    };
    saga.close(result.is_ok());
    if result.is_err() {
        poll_fn(|cx| tape.poll_saga(scope, cx.waker())).await;
    }
    result
}

/// The scope is being polled while this lives, also through a panic.
struct Within<'a>(&'a Tape);

impl Within<'_> {
    fn enter(tape: &Tape, scope: Position) -> Within<'_> {
        tape.enter_saga(scope);
        Within(tape)
    }
}

impl Drop for Within<'_> {
    fn drop(&mut self) {
        self.0.leave_saga();
    }
}
