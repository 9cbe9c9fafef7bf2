//! The threads of the runtime. When an arbiter ends, actix drops what is left on it behind the runtime's back: a connection
//! of a pool that goes home by spawning a task, a timer that an actor's last words would set, find no runtime then and
//! panic; two of them in one actor end the process. Here a thread stays inside its runtime until it is over.

use std::io;

use actix::{Arbiter, System, SystemRunner};
use tokio::runtime::{Builder, Runtime};

use crate::error::Error;

/// Says that a thread could not be had.
pub(crate) fn none(error: io::Error) -> Error {
    Error::NoSystem(error.to_string())
}

/// Starts an arbiter on which whatever is left at its end can be dropped.
pub(crate) fn arbiter() -> io::Result<Arbiter> {
    Arbiter::try_with_tokio_rt(inside)
}

/// Makes a system of which the same holds, on this thread.
pub(crate) fn system() -> io::Result<SystemRunner> {
    let runtime = inside()?;
    Ok(System::with_tokio_rt(move || runtime))
}

/// Makes this thread's runtime, and enters it for good.
fn inside() -> io::Result<Runtime> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    std::mem::forget(runtime.enter());
    Ok(runtime)
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::mpsc};

    use tokio::runtime::Handle;

    use super::*;

    /// Tells whether there was a runtime when it was dropped.
    struct Left(mpsc::Sender<bool>);

    impl Drop for Left {
        fn drop(&mut self) {
            self.0.send(Handle::try_current().is_ok()).unwrap();
        }
    }

    /// On a thread of its own: it stays inside for good.
    fn elsewhere(test: impl FnOnce() + Send + 'static) {
        std::thread::spawn(test).join().unwrap();
    }

    #[test]
    fn what_is_left_on_an_arbiter_is_dropped_inside_its_runtime() {
        let (left, dropped) = mpsc::channel();
        elsewhere(move || {
            system().unwrap().block_on(async {
                let arbiter = arbiter().unwrap();
                let (began, begun) = tokio::sync::oneshot::channel();
                arbiter.spawn(async move {
                    let _left = Left(left);
                    began.send(()).unwrap();
                    pending::<()>().await;
                });
                begun.await.unwrap();
                arbiter.stop();
                arbiter.join().unwrap();
            });
        });
        assert_eq!(dropped.try_recv(), Ok(true));
    }

    #[test]
    fn what_is_left_on_a_system_is_dropped_inside_its_runtime() {
        let (left, dropped) = mpsc::channel();
        elsewhere(move || {
            let runner = system().unwrap();
            runner.block_on(async {
                actix_rt::spawn(async move {
                    let _left = Left(left);
                    pending::<()>().await;
                });
                tokio::task::yield_now().await;
            });
            drop(runner);
        });
        assert_eq!(dropped.try_recv(), Ok(true));
    }
}
