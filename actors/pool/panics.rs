//! Panics of user code as data. The payload of a panic says what; only a panic hook hears where. The hook is chained once
//! per process, speaks up only for panics that are going to be caught here, and lets the program's own hook run as before.

use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    cell::{Cell, RefCell},
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
    sync::Once,
};

use crate::kernel::failure::{Failure, KIND_PANIC};

thread_local! {
    /// How many catchers are on this thread's stack.
    static CATCHING: Cell<u32> = const { Cell::new(0) };
    /// Where the panic came from that is on its way to the catcher.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Chains the hook; repeating it is harmless.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info| {
            if CATCHING.try_with(Cell::get).unwrap_or(0) > 0 {
                let mut place = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
                let trace = Backtrace::capture();
                if trace.status() == BacktraceStatus::Captured {
                    place = format!("{place}\n{trace}");
                }
                let _ = PLACE.try_with(|cell| *cell.borrow_mut() = Some(place));
            }
            before(info);
        }));
    });
}

/// Runs user code; its panic becomes a retryable failure.
pub(crate) fn catch<R>(code: impl FnOnce() -> R) -> Result<R, Failure> {
    // One that user code caught itself may have left its place.
    PLACE.take();
    CATCHING.set(CATCHING.get() + 1);
    // What a panic leaves half done belongs to the attempt, which ends here.
    let caught = catch_unwind(AssertUnwindSafe(code));
    CATCHING.set(CATCHING.get() - 1);
    caught.map_err(|panic| {
        let failure = Failure::new(KIND_PANIC, text_of(&*panic));
        discard(panic);
        match PLACE.take() {
            Some(place) => failure.with_backtrace(place),
            None => failure,
        }
    })
}

/// Drops a value whose destructor is the user's: its panic must reach nobody.
pub(crate) fn discard<T>(value: T) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        tracing::warn!(panic = text_of(&*panic), "a destructor of user code panicked");
        // The payload may be a user's value with a destructor of the same kind; there is no end to this but to leak it.
        std::mem::forget(panic);
    }
}

/// Returns the message of a panic.
pub(crate) fn text_of(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&'static str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_says_what_and_where() {
        install();
        let failure = catch(|| panic!("broken {}", 7)).unwrap_err();
        assert_eq!((failure.kind(), failure.message(), failure.is_final()), (KIND_PANIC, "broken 7", false));
        assert!(failure.backtrace().unwrap().contains("panics.rs"), "{failure:?}");
    }

    #[test]
    fn a_payload_that_panics_when_dropped_is_contained() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("again");
            }
        }
        let failure = catch(|| std::panic::panic_any(Bomb)).unwrap_err();
        assert_eq!(failure.message(), "a panic without a message");
    }
}
