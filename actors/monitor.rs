//! Watched actors. actix's own supervisor restarts neither after a panic nor with a limit, so the runtime owns the task of
//! each core actor: the panic is caught *inside* it, and its end is told to whoever started it, once.

use std::panic::AssertUnwindSafe;

use actix::{Actor, Addr, ArbiterHandle, AsyncContext, Context};
use futures_util::FutureExt;

use crate::kernel::instance::panic_text;

/// How an actor ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// By its own stop.
    Stopped,
    /// By a panic, which is always a bug of ours: user code is caught earlier.
    Panicked(String),
}

/// Starts an actor on an arbiter as a watched task. `tell` is called once, on that arbiter, after it has ended. `None`: the
/// arbiter is gone.
pub(crate) async fn start_on<A, M, T>(arbiter: &ArbiterHandle, make: M, tell: T) -> Option<Addr<A>>
where
    A: Actor<Context = Context<A>>,
    M: FnOnce(&mut Context<A>) -> A + Send + 'static,
    T: FnOnce(Exit) + Send + 'static,
{
    let (started, address) = tokio::sync::oneshot::channel();
    let accepted = arbiter.spawn_fn(move || {
        let _ = started.send(start_here(make, tell));
    });
    if accepted { address.await.ok() } else { None }
}

/// Starts an actor on this thread's arbiter as a watched task.
pub(crate) fn start_here<A, M, T>(make: M, tell: T) -> Addr<A>
where
    A: Actor<Context = Context<A>>,
    M: FnOnce(&mut Context<A>) -> A,
    T: FnOnce(Exit) + 'static,
{
    let mut context = Context::new();
    let actor = make(&mut context);
    let address = context.address();
    // Caught before the context is dropped: its destructor polls, and a second panic there would abort the process.
    let task = AssertUnwindSafe(context.into_future(actor)).catch_unwind();
    actix_rt::spawn(async move {
        tell(match task.await {
            Ok(()) => Exit::Stopped,
            Err(panic) => Exit::Panicked(panic_text(&*panic)),
        });
    });
    address
}
