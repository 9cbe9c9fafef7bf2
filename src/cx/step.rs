//! Steps: closures written inline in a workflow. Like any activity they are recorded as an intent first; the closure runs
//! when that is durable, and what it returned becomes the answer only with the turn that records it.

use std::{
    future::poll_fn,
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use super::call::{OnExhausted, Settings, Wait};
use crate::{
    activity::{Durable, DurableError, failure_of},
    error::{AppError, CallError},
    kernel::{
        event::{Command, StepPlace},
        failure::{Failure, KIND_CODEC, KIND_LIMIT, KIND_PANIC, KIND_STORE},
        id::Position,
        instance::panic_text,
        payload::Payload,
        retry::Retry,
        tape::{BlockingWork, StepWork, Tape, TransactionWork, What},
    },
};

/// What runs the closure of an inline step, attempt after attempt; it never ends by itself.
type Runner<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// A step that was constructed and, once polled, recorded.
#[must_use = "a step does nothing unless it is awaited"]
pub struct Step<'a, T> {
    wait: Wait,
    name: Rc<str>,
    settings: Option<Settings>,
    work: Work<'a>,
    value: PhantomData<fn() -> T>,
}

enum Work<'a> {
    Inline(Runner<'a>),
    Blocking(BlockingWork),
    Transaction(TransactionWork),
}

impl<'a, T: Durable> Step<'a, T> {
    pub(super) fn inline<E, F>(tape: Rc<Tape>, name: &str, closure: F) -> Self
    where
        E: Into<AppError> + 'a,
        F: AsyncFn() -> Result<T, E> + 'a,
    {
        let name: Rc<str> = name.into();
        let wait = Wait::new(tape.clone());
        let runner = run(tape, wait.position, name.clone(), closure);
        Step { wait, name, settings: Some(Settings::default()), work: Work::Inline(Box::pin(runner)), value: PhantomData }
    }

    pub(super) fn blocking<E, F>(tape: Rc<Tape>, name: &str, closure: F) -> Self
    where
        E: Into<AppError>,
        F: Fn() -> Result<T, E> + Send + Sync + 'static,
    {
        let text: Arc<str> = name.into();
        let work = Arc::new(move || encode(closure().map_err(Into::into), &text));
        Step {
            wait: Wait::new(tape),
            name: name.into(),
            settings: Some(Settings::default()),
            work: Work::Blocking(work),
            value: PhantomData,
        }
    }

    pub(super) fn transaction<C, E, F>(tape: Rc<Tape>, name: &str, closure: F) -> Self
    where
        C: 'static,
        E: Into<AppError>,
        F: AsyncFn(&mut C) -> Result<T, E> + Send + Sync + 'static,
    {
        let (text, closure): (Arc<str>, _) = (name.into(), Arc::new(closure));
        let most = tape.limits().payload_bytes;
        let work: TransactionWork = Arc::new(move |connection| {
            let (text, closure) = (text.clone(), closure.clone());
            Box::pin(async move {
                let connection = connection.downcast_mut::<C>().ok_or_else(|| other_store::<C>(&text))?;
                let value = encode(closure(connection).await.map_err(Into::into), &text)?;
                // What is too large for the log must not take place.
                let size = value.bytes.len();
                if size > most {
                    let why = format!("the result of {text} has {size} bytes, the limit is {most}; nothing was changed");
                    return Err(Failure::new(KIND_LIMIT, why).into_final());
                }
                Ok(value)
            })
        });
        Step {
            wait: Wait::new(tape),
            name: name.into(),
            settings: Some(Settings::default()),
            work: Work::Transaction(work),
            value: PhantomData,
        }
    }

    fn set(mut self, set: impl FnOnce(&mut Settings)) -> Self {
        if let Some(settings) = &mut self.settings {
            set(settings);
        }
        self
    }

    /// Limits one attempt, from its start to its end. By default there is no limit. A blocking step cannot be interrupted:
    /// its result is dropped. A transaction that takes longer is rolled back; its limit is 10 s unless it is set here, on SQLite
    /// 1 s, and never more than 5 s or a quarter of the node's lease (2.5 s by default): nobody else writes meanwhile.
    pub fn timeout(self, limit: Duration) -> Self {
        self.set(|s| s.limit("timeout", limit, |o, d| o.start_to_close = Some(d)))
    }

    /// Sets when and how often it is tried again.
    pub fn retry(self, retry: Retry) -> Self {
        self.set(|s| s.change(|o| o.retry = retry))
    }

    /// Never starts it twice. A crash in the middle is reported as [`CallError::MaybeDone`] instead; of a transaction it is
    /// known whether it took place, so there only a failed attempt is not repeated.
    pub fn at_most_once(self) -> Self {
        self.set(|s| s.change(|o| o.at_most_once = true))
    }

    /// Sets what happens when its attempts are used up.
    pub fn on_exhausted(self, then: OnExhausted) -> Self {
        self.set(|s| s.change(|o| o.park = then == OnExhausted::Park))
    }
}

impl<T: Durable> Future for Step<'_, T> {
    type Output = Result<T, CallError<AppError>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Some(settings) = this.settings.take() {
            if let Some(failure) = settings.invalid {
                return Poll::Ready(Err(CallError::Broken(failure)));
            }
            if ready!(this.wait.tape.refuses()) {
                return Poll::Ready(Err(CallError::Cancelled));
            }
            let place = match &this.work {
                Work::Inline(_) => StepPlace::Inline,
                Work::Blocking(work) => {
                    this.wait.tape.keep_closure(this.wait.position, StepWork::Blocking(work.clone()));
                    StepPlace::Blocking
                }
                Work::Transaction(work) => {
                    this.wait.tape.keep_closure(this.wait.position, StepWork::Transaction(work.clone()));
                    StepPlace::Transaction
                }
            };
            let position = this.wait.position;
            this.wait.begin(What::Step, Command::Step { position, name: this.name.to_string(), place, options: settings.given });
        }
        if let Poll::Ready(ended) = this.wait.poll_ended(cx, &this.name) {
            return Poll::Ready(ended);
        }
        if let Work::Inline(runner) = &mut this.work
            && runner.as_mut().poll(cx).is_ready()
        {
            debug_assert!(false, "a runner waits for its next grant for ever");
        }
        Poll::Pending
    }
}

/// Runs the closure each time that the kernel grants an attempt, and stops when the grant is taken back.
async fn run<T, E, F>(tape: Rc<Tape>, position: Position, name: Rc<str>, closure: F)
where
    T: Durable,
    E: Into<AppError>,
    F: AsyncFn() -> Result<T, E>,
{
    loop {
        let grant = poll_fn(|cx| tape.grant_of(position, cx.waker()).map_or(Poll::Pending, Poll::Ready)).await;
        // Called within the first poll: whatever runs before the closure's first await is caught and watched as well.
        let mut attempt = Box::pin(async { closure().await });
        let result = poll_fn(|cx| {
            if tape.grant_of(position, cx.waker()) != Some(grant) {
                return Poll::Ready(None);
            }
            // Its wake-ups are marked as a step's own, so that a foreign await elsewhere is still noticed.
            let waker = tape.wake_signal().for_step(cx.waker());
            tape.in_step(true);
            let polled = catch_unwind(AssertUnwindSafe(|| attempt.as_mut().poll(&mut Context::from_waker(&waker))));
            tape.in_step(false);
            match polled {
                Ok(Poll::Pending) => Poll::Pending,
                Ok(Poll::Ready(result)) => Poll::Ready(Some(encode(result.map_err(Into::into), &name))),
                Err(panic) => Poll::Ready(Some(Err(Failure::new(KIND_PANIC, panic_text(&*panic))))),
            }
        })
        .await;
        if let Some(result) = result {
            tape.step_ended(position, grant.attempt, result);
        }
    }
}

/// Says that a transaction was written for another kind of store than the one that is open.
fn other_store<C>(name: &str) -> Failure {
    let wanted = std::any::type_name::<C>();
    let why = format!("transaction {name:?} is written for a {wanted}, and this store has connections of another type");
    Failure::new(KIND_STORE, why).into_final()
}

fn encode<T: Durable>(result: Result<T, AppError>, name: &str) -> Result<Payload, Failure> {
    match result {
        Ok(value) => Payload::encode(&value, format_args!("the output of {name}"))
            .map_err(|e| Failure::new(KIND_CODEC, e.to_string()).into_final()),
        Err(error) => Err(failure_of(&error, error.advice(), format_args!("the error of {name}"))),
    }
}
