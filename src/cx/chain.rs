//! Going on as a new run: the same workflow with another argument and an empty history.

use std::{
    marker::PhantomData,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use crate::{
    kernel::{chain::ContinueError, payload::Payload, tape::Tape},
    workflow::Workflow,
};

/// The end of a run that goes on as the next one of its execution. Awaited, it comes back only if it is refused.
#[must_use = "a run does not continue unless this is awaited"]
pub struct Continue<W: Workflow> {
    tape: Rc<Tape>,
    /// The argument of the next run, until it was asked for.
    input: Option<Result<Payload, ContinueError>>,
    workflow: PhantomData<fn() -> W>,
}

impl<W: Workflow> Continue<W> {
    pub(super) fn new(tape: Rc<Tape>, next: &W) -> Self {
        let limit = tape.limits().payload_bytes;
        let input = match Payload::encode(next, format_args!("the input of {}", W::NAME)) {
            Ok(input) if input.bytes.len() > limit => Err(ContinueError::TooLarge { size: input.bytes.len(), limit }),
            Ok(input) => Ok(input),
            Err(error) => Err(ContinueError::Unencodable(error)),
        };
        Continue { tape, input: Some(input), workflow: PhantomData }
    }
}

impl<W: Workflow> Future for Continue<W> {
    type Output = Result<W::Output, ContinueError>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        match self.input.take() {
            Some(Ok(input)) => self.tape.go_on(input).map(Err),
            Some(Err(refused)) => Poll::Ready(Err(refused)),
            // The run is over.
            None => Poll::Pending,
        }
    }
}
