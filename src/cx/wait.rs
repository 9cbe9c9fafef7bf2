//! Waiting: for time, for signals, for either; and the shield against cancellation.

use std::{
    marker::PhantomData,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use super::call::Wait;
use crate::{
    error::Cancelled,
    kernel::{
        event::Command,
        tape::{Answer, Fault, Misuse, Tape, What},
        time::{LONGEST_WAIT, Timestamp},
    },
    workflow::Signal,
};

/// Until when.
pub(super) enum Until {
    After(Duration),
    At(Timestamp),
}

/// A durable sleep.
#[must_use = "a sleep does nothing unless it is awaited"]
pub struct Sleep {
    wait: Wait,
    until: Option<Until>,
}

impl Sleep {
    pub(super) fn new(tape: Rc<Tape>, until: Until) -> Sleep {
        Sleep { wait: Wait::new(tape), until: Some(until) }
    }
}

impl Future for Sleep {
    type Output = Result<(), Cancelled>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(until) = self.until.take() {
            if ready!(self.wait.tape.refuses()) {
                return Poll::Ready(Err(Cancelled));
            }
            let now = self.wait.tape.now();
            let due = match until {
                Until::After(duration) => now.after(duration.min(LONGEST_WAIT)),
                Until::At(moment) => moment.min(now.after(LONGEST_WAIT)),
            };
            let position = self.wait.position;
            self.wait.begin(What::Sleep, Command::Sleep { position, due });
        }
        self.wait.poll(cx).map(|answer| match answer {
            Some(Answer::Fired) => Ok(()),
            _ => Err(Cancelled),
        })
    }
}

/// A wait for a signal.
#[must_use = "a wait does nothing unless it is awaited"]
pub struct Recv<S: Signal> {
    tape: Rc<Tape>,
    position: crate::kernel::id::Position,
    state: RecvState,
    signal: PhantomData<fn() -> S>,
}

#[derive(PartialEq)]
enum RecvState {
    New,
    Waiting,
    Over,
}

impl<S: Signal> Recv<S> {
    pub(super) fn new(tape: Rc<Tape>) -> Self {
        let position = tape.reserve();
        Recv { tape, position, state: RecvState::New, signal: PhantomData }
    }

    /// Limits the wait: `None` when no signal came in time. A signal that comes later stays unread.
    pub fn within(self, limit: Duration) -> Within<S> {
        let sleep = Sleep::new(self.tape.clone(), Until::After(limit));
        Within { recv: self, sleep }
    }
}

impl<S: Signal> Future for Recv<S> {
    type Output = Result<S, Cancelled>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let position = self.position;
        if self.state == RecvState::New {
            if ready!(self.tape.refuses()) {
                self.state = RecvState::Over;
                return Poll::Ready(Err(Cancelled));
            }
            if !self.tape.command(Command::Receive { position, signal: S::NAME.to_owned() }) {
                return Poll::Pending;
            }
            self.state = RecvState::Waiting;
            self.tape.await_signal(S::NAME, position);
        }
        let answer = ready!(self.tape.poll(position, cx.waker()));
        self.state = RecvState::Over;
        match answer {
            Some(Answer::Signal(_, payload)) => match payload.decode(format_args!("the signal {}", S::NAME)) {
                Ok(signal) => Poll::Ready(Ok(signal)),
                Err(undecodable) => {
                    self.tape.fault(Fault::Blocks(Misuse::Undecodable(undecodable)));
                    Poll::Pending
                }
            },
            _ => {
                self.tape.abandon_signal(S::NAME, position);
                Poll::Ready(Err(Cancelled))
            }
        }
    }
}

impl<S: Signal> Drop for Recv<S> {
    fn drop(&mut self) {
        if self.state == RecvState::Waiting {
            self.tape.abandon_signal(S::NAME, self.position);
        }
    }
}

/// A wait for a signal, limited in time.
#[must_use = "a wait does nothing unless it is awaited"]
pub struct Within<S: Signal> {
    recv: Recv<S>,
    sleep: Sleep,
}

impl<S: Signal> Future for Within<S> {
    type Output = Result<Option<S>, Cancelled>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // The signal first: one that came before the limit counts even if both are noticed together.
        if let Poll::Ready(received) = Pin::new(&mut self.recv).poll(cx) {
            return Poll::Ready(received.map(Some));
        }
        Pin::new(&mut self.sleep).poll(cx).map(|slept| slept.map(|()| None))
    }
}

/// A future whose awaits go on although the run was asked to stop.
#[must_use = "futures do nothing unless they are awaited"]
pub struct Shielded<F> {
    tape: Rc<Tape>,
    future: Pin<Box<F>>,
}

impl<F: Future> Shielded<F> {
    pub(super) fn new(tape: Rc<Tape>, future: F) -> Self {
        Shielded { tape, future: Box::pin(future) }
    }
}

impl<F: Future> Future for Shielded<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let _up = Up::raise(self.tape.clone());
        self.future.as_mut().poll(cx)
    }
}

/// The shield is up while this lives, also through a panic.
struct Up(Rc<Tape>);

impl Up {
    fn raise(tape: Rc<Tape>) -> Up {
        tape.shield(true);
        Up(tape)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.0.shield(false);
    }
}
