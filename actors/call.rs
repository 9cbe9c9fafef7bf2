//! What the handler of an activity is given: the user's message, and around it all that an act needs to know of itself:
//! its stable key, its fencing token, which attempt it is, whether it should stop, and a way to say that it is alive.
//!
//! Everything here is memory: a beat costs no commit, and the latest details travel to the store at the pace of the pool.

use std::{
    fmt,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use actix::Message;
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::Notify;

use super::pool::life::Life;
use crate::{
    activity::Activity,
    kernel::{
        id::{Attempt, Epoch, Position, RunId, RunKey},
        payload::{CodecError, Encoding, Payload},
    },
};

/// One attempt of an activity, as its handler sees it. It dereferences to the activity.
pub struct Call<A> {
    message: A,
    cx: Arc<CallContext>,
}

impl<A: Activity> Message for Call<A> {
    type Result = Result<A::Output, A::Error>;
}

impl<A> Deref for Call<A> {
    type Target = A;

    fn deref(&self) -> &A {
        &self.message
    }
}

impl<A: fmt::Debug> fmt::Debug for Call<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("message", &self.message)
            .field("key", &self.cx.key())
            .field("attempt", &self.cx.attempt)
            .finish_non_exhaustive()
    }
}

impl<A: Activity> Call<A> {
    /// Makes a call outside the runtime, to test a handler: the first attempt at position 1 of run `test/1`.
    #[must_use]
    pub fn for_test(message: A) -> Call<A> {
        let id = Arc::new(RunId { id: "test".to_owned(), run_no: 1 });
        Call::new(message, Arc::new(CallContext::new(RunKey(0), id, 1, 1, 1, None)))
    }

    pub(crate) fn new(message: A, cx: Arc<CallContext>) -> Call<A> {
        Call { message, cx }
    }

    /// Returns the activity itself.
    #[must_use]
    pub fn into_inner(self) -> A {
        self.message
    }

    /// Returns the idempotency key, `id/run_no/position`: the same for every attempt, whatever crashes.
    #[must_use]
    pub fn key(&self) -> String {
        self.cx.key()
    }

    /// Returns the fencing token: a foreign system that remembers the greatest one it saw can refuse an owner that is none
    /// any more.
    #[must_use]
    pub fn fence(&self) -> u64 {
        self.cx.epoch
    }

    /// Returns which attempt this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.cx.attempt
    }

    /// Returns the run that made the call.
    #[must_use]
    pub fn run(&self) -> &RunId {
        &self.cx.id
    }

    /// Says that the attempt is alive and how far it has come. The latest details reach the next attempt, also over a crash
    /// (then as they were a few seconds before: they are stored at most every third of the heartbeat limit).
    ///
    /// # Errors
    /// [`CodecError`] when the details cannot be encoded; the beat counts nevertheless.
    pub fn heartbeat<T: Serialize + ?Sized>(&self, details: &T) -> Result<(), CodecError> {
        let encoded = Payload::encode(details, "the details of a heartbeat");
        self.cx.beat();
        self.cx.note(encoded?.bytes);
        Ok(())
    }

    /// Returns the last heartbeat details of the attempt before, if it left any that are a `T`.
    #[must_use]
    pub fn details<T: DeserializeOwned>(&self) -> Option<T> {
        let bytes = self.cx.previous.clone()?;
        match (Payload { encoding: Encoding::MessagePack, bytes }).decode("the details of a heartbeat") {
            Ok(details) => Some(details),
            Err(error) => {
                tracing::debug!(key = self.key(), %error, "heartbeat details of another type were left alone");
                None
            }
        }
    }

    /// Waits until the attempt is asked to stop. It is then dropped after a grace (by default 5 s); an actor's handler and
    /// blocking code cannot be dropped and should look.
    ///
    /// # Cancel safety
    /// Safe: nothing is lost by dropping it.
    pub fn cancelled(&self) -> impl Future<Output = ()> + 'static + use<A> {
        let cx = self.cx.clone();
        async move { cx.cancelled().await }
    }

    /// Tells whether the attempt was asked to stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cx.cancelled_at().is_some()
    }
}

/// What all holders of one attempt share: the handler, the table of attempts, the runner and the watch.
pub(crate) struct CallContext {
    pub(crate) run: RunKey,
    pub(crate) id: Arc<RunId>,
    pub(crate) position: Position,
    pub(crate) attempt: Attempt,
    pub(crate) epoch: Epoch,
    /// The name of the activity, for reports; a step has none.
    pub(crate) activity: Option<Arc<str>>,
    /// The details that the attempt before left.
    pub(crate) previous: Option<Bytes>,
    /// How far it is and how it ended.
    pub(crate) life: Life,
    cancel: Notify,
    /// Boot time in microseconds, 0 while nobody asked; never 0 afterwards.
    cancelled_at: AtomicU64,
    /// Boot time in microseconds of the last sign of life, its start included.
    beat_at: AtomicU64,
    notes: Mutex<Notes>,
}

/// The latest heartbeat details and whether the store has them.
#[derive(Default)]
struct Notes {
    latest: Option<Bytes>,
    unsaved: bool,
    /// Boot time in microseconds of the last flush, or of the start: an attempt shorter than that costs no write.
    saved_at: u64,
}

impl CallContext {
    pub(crate) fn new(
        run: RunKey,
        id: Arc<RunId>,
        position: Position,
        attempt: Attempt,
        epoch: Epoch,
        previous: Option<Bytes>,
    ) -> CallContext {
        CallContext {
            run,
            id,
            position,
            attempt,
            epoch,
            activity: None,
            previous,
            life: Life::default(),
            cancel: Notify::new(),
            cancelled_at: AtomicU64::new(0),
            beat_at: AtomicU64::new(0),
            notes: Mutex::new(Notes::default()),
        }
    }

    pub(crate) fn key(&self) -> String {
        format!("{}/{}", self.id, self.position)
    }

    /// Asks the handler to stop; tells whether it was the first to ask.
    pub(crate) fn cancel(&self, now_micros: u64) -> bool {
        let first = self.cancelled_at.compare_exchange(0, now_micros.max(1), Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if first {
            self.cancel.notify_waiters();
        }
        first
    }

    pub(crate) fn cancelled_at(&self) -> Option<u64> {
        match self.cancelled_at.load(Ordering::SeqCst) {
            0 => None,
            at => Some(at),
        }
    }

    pub(crate) async fn cancelled(&self) {
        let asked = self.cancel.notified();
        tokio::pin!(asked);
        // Listed before the look, or a request between the two would be missed.
        asked.as_mut().enable();
        if self.cancelled_at().is_none() {
            asked.await;
        }
    }

    /// Counts the beginning as the first sign of life.
    pub(crate) fn started(&self, now_micros: u64) {
        self.beat_at.store(now_micros, Ordering::SeqCst);
        self.notes.lock().saved_at = now_micros;
    }

    pub(crate) fn beat_at(&self) -> u64 {
        self.beat_at.load(Ordering::SeqCst)
    }

    fn beat(&self) {
        if let Some(watch) = self.life.watch() {
            self.beat_at.store(watch.now(), Ordering::SeqCst);
        }
    }

    fn note(self: &Arc<Self>, details: Bytes) {
        let first_unsaved = {
            let mut notes = self.notes.lock();
            if notes.latest.as_ref() == Some(&details) {
                return;
            }
            notes.latest = Some(details);
            !std::mem::replace(&mut notes.unsaved, true)
        };
        if first_unsaved {
            self.life.watch().into_iter().for_each(|watch| watch.arm(self));
        }
    }

    /// Returns when the details are to be stored, if they have changed.
    pub(crate) fn save_due(&self, every_micros: u64) -> Option<u64> {
        let notes = self.notes.lock();
        notes.unsaved.then(|| notes.saved_at.saturating_add(every_micros))
    }

    /// Takes the details to be stored.
    pub(crate) fn take_unsaved(&self, now_micros: u64) -> Option<Bytes> {
        let mut notes = self.notes.lock();
        if !std::mem::take(&mut notes.unsaved) {
            return None;
        }
        notes.saved_at = now_micros;
        notes.latest.clone()
    }

    /// Returns the latest details of this attempt, stored or not: the next attempt is to have them.
    /// Returns the details that the next attempt is to see: the last ones of this attempt, or those that it was given.
    pub(crate) fn details_for_next(&self) -> Option<Bytes> {
        self.latest().or_else(|| self.previous.clone())
    }

    pub(crate) fn latest(&self) -> Option<Bytes> {
        self.notes.lock().latest.clone()
    }
}

impl fmt::Debug for CallContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "attempt {} of {}", self.attempt, self.key())?;
        self.activity.as_ref().map_or(Ok(()), |name| write!(f, " ({name})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, serde::Deserialize, Debug)]
    struct Greet {
        name: String,
    }

    impl Activity for Greet {
        const NAME: &'static str = "greet";
        type Output = String;
        type Error = crate::AppError;
    }

    #[test]
    fn a_call_for_tests_is_the_first_attempt_and_never_cancelled() {
        let call = Call::for_test(Greet { name: "Ada".to_owned() });
        assert_eq!((call.key().as_str(), call.attempt(), call.fence()), ("test/1/1", 1, 1));
        assert_eq!(call.name, "Ada");
        assert!(!call.is_cancelled());
        assert_eq!(call.details::<u32>(), None);
        call.heartbeat(&7).unwrap();
        assert_eq!(call.into_inner().name, "Ada");
    }

    #[tokio::test]
    async fn cancellation_reaches_those_who_wait_and_those_who_come_later() {
        let call = Call::for_test(Greet { name: "Ada".to_owned() });
        let waiting = tokio::spawn(call.cancelled());
        tokio::task::yield_now().await;
        assert!(call.cx.cancel(5) && !call.cx.cancel(6));
        waiting.await.unwrap();
        call.cancelled().await;
        assert!(call.is_cancelled());
    }

    #[test]
    fn only_changed_details_are_stored_and_not_too_often() {
        let call = Call::for_test(Greet { name: String::new() });
        call.cx.started(100);
        assert_eq!(call.cx.save_due(50), None);
        call.heartbeat("half").unwrap();
        assert_eq!(call.cx.save_due(50), Some(150));
        assert!(call.cx.take_unsaved(160).is_some());
        call.heartbeat("half").unwrap();
        assert_eq!(call.cx.save_due(50), None);
        call.heartbeat("all").unwrap();
        assert_eq!(call.cx.save_due(50), Some(210));
    }
}
