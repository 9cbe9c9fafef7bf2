//! Who handles an activity, with the types taken off: a name in a table leads to bytes in, bytes or a failure out.
//!
//! A handler is an actor's recipient or an async closure; a marker type tells the two apart so that one `.activity(…)`
//! infers both. Only a closure's future can be dropped half-way: an actor that has begun goes on whatever we do.

use std::{marker::PhantomData, sync::Arc};

use actix::{MailboxError, Recipient};
use futures_util::future::LocalBoxFuture;

use super::call::{Call, CallContext};
use crate::{
    activity::{Activity, failure_of},
    kernel::{
        failure::{Failure, KIND_CODEC, KIND_HANDLER_GONE},
        payload::{CodecError, Payload},
    },
};

/// Marks a handler that is an actor.
#[derive(Debug)]
pub struct ByActor;

/// Marks a handler that is an async closure.
#[derive(Debug)]
pub struct ByClosure;

/// What can handle an activity: a `Recipient<Call<A>>`, or a clonable async closure that takes a `Call<A>`.
///
/// `Kind` is inferred; there is nothing to implement.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot handle the activity `{A}`",
    note = "give the `Recipient<Call<…>>` of an actor, or a closure such as `async move |call: Call<…>| …` that is `Clone + Send`"
)]
pub trait ActivityHandler<A: Activity, Kind>: 'static {
    /// Whether dropping the future ends the act.
    #[doc(hidden)]
    const ABORTABLE: bool;

    /// Begins the act.
    #[doc(hidden)]
    fn begin(&self, call: Call<A>) -> LocalBoxFuture<'static, Answer<A>>;
}

/// What a handler answers; the outer error says that there was nobody to answer.
#[doc(hidden)]
pub type Answer<A> = Result<Result<<A as Activity>::Output, <A as Activity>::Error>, MailboxError>;

impl<A: Activity> ActivityHandler<A, ByActor> for Recipient<Call<A>> {
    const ABORTABLE: bool = false;

    fn begin(&self, call: Call<A>) -> LocalBoxFuture<'static, Answer<A>> {
        Box::pin(self.send(call))
    }
}

impl<A: Activity, F> ActivityHandler<A, ByClosure> for F
where
    F: AsyncFn(Call<A>) -> Result<A::Output, A::Error> + Clone + Send + 'static,
{
    const ABORTABLE: bool = true;

    fn begin(&self, call: Call<A>) -> LocalBoxFuture<'static, Answer<A>> {
        let closure = self.clone();
        Box::pin(async move { Ok(closure(call).await) })
    }
}

/// What can handle an activity inline: a clonable async closure that takes a `Call<A>` and never blocks.
///
/// There is nothing to implement.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot handle the activity `{A}` inline",
    note = "only the future of a closure such as `async move |call: Call<…>| …`, `Clone + Send`, can be polled in place; give the `Recipient` of an actor to `.activity(…)`"
)]
pub trait InlineHandler<A: Activity>: ActivityHandler<A, ByClosure> {}

impl<A: Activity, F: ActivityHandler<A, ByClosure>> InlineHandler<A> for F {}

/// A handler without its types.
pub(crate) trait Handle {
    /// Decodes, acts, encodes. Everything, decoding included, happens when the future is polled.
    fn call(&self, input: Payload, cx: Arc<CallContext>) -> LocalBoxFuture<'static, Result<Payload, Failure>>;

    /// Tells whether dropping the future ends the act.
    fn abortable(&self) -> bool;

    /// Tells whether it was registered to be polled in place.
    fn is_inline(&self) -> bool;

    /// Makes a copy for another thread.
    fn clone_box(&self) -> Box<dyn Handle + Send>;
}

/// Takes the types off a handler; the name it answers to is `A::NAME`.
pub(crate) fn erase<A, Kind, H>(handler: H) -> Box<dyn Handle + Send>
where
    A: Activity,
    Kind: 'static,
    H: ActivityHandler<A, Kind> + Clone + Send,
{
    Box::new(Erased { handler, inline: false, types: PhantomData })
}

/// The same for a handler that is polled in place.
pub(crate) fn erase_inline<A, H>(handler: H) -> Box<dyn Handle + Send>
where
    A: Activity,
    H: InlineHandler<A> + Clone + Send,
{
    Box::new(Erased::<A, ByClosure, H> { handler, inline: true, types: PhantomData })
}

struct Erased<A, Kind, H> {
    handler: H,
    inline: bool,
    types: PhantomData<fn() -> (A, Kind)>,
}

impl<A, Kind, H> Handle for Erased<A, Kind, H>
where
    A: Activity,
    Kind: 'static,
    H: ActivityHandler<A, Kind> + Clone + Send,
{
    fn call(&self, input: Payload, cx: Arc<CallContext>) -> LocalBoxFuture<'static, Result<Payload, Failure>> {
        let handler = self.handler.clone();
        Box::pin(async move {
            let message = input.decode::<A>("the input of an activity").map_err(|e| codec::<A>(&e))?;
            match handler.begin(Call::new(message, cx)).await {
                Ok(Ok(output)) => Payload::encode(&output, "the output of an activity").map_err(|e| codec::<A>(&e)),
                Ok(Err(error)) => Err(failure_of(&error, A::advice(&error), "the error of an activity")),
                Err(gone) => Err(Failure::new(
                    KIND_HANDLER_GONE,
                    format!("the actor that handles {} is gone or gave no answer: {gone}", A::NAME),
                )),
            }
        })
    }

    fn abortable(&self) -> bool {
        H::ABORTABLE
    }

    fn is_inline(&self) -> bool {
        self.inline
    }

    fn clone_box(&self) -> Box<dyn Handle + Send> {
        Box::new(Erased::<A, Kind, H> { handler: self.handler.clone(), inline: self.inline, types: PhantomData })
    }
}

/// The bytes or the types are wrong, and the next attempt would find them just the same.
fn codec<A: Activity>(error: &CodecError) -> Failure {
    Failure::new(KIND_CODEC, format!("activity {}: {error}", A::NAME)).into_final()
}

#[cfg(test)]
mod tests {
    use actix::{Actor, Context, Handler};
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::kernel::id::{RunId, RunKey};

    #[derive(Serialize, Deserialize)]
    struct Charge {
        cents: u64,
    }

    #[derive(Debug, PartialEq, thiserror::Error, Serialize, Deserialize)]
    enum PayError {
        #[error("declined")]
        Declined(#[source] Reason),
    }

    #[derive(Debug, PartialEq, thiserror::Error, Serialize, Deserialize)]
    #[error("no money")]
    struct Reason;

    impl Activity for Charge {
        const NAME: &'static str = "pay.charge";
        type Output = String;
        type Error = PayError;
    }

    struct Payments;

    impl Actor for Payments {
        type Context = Context<Self>;
    }

    impl Handler<Call<Charge>> for Payments {
        type Result = Result<String, PayError>;

        fn handle(&mut self, call: Call<Charge>, _: &mut Context<Self>) -> Self::Result {
            assert_ne!(call.cents, 13, "this actor dies of 13");
            Ok(format!("{} {}", call.key(), call.cents))
        }
    }

    fn context() -> Arc<CallContext> {
        Arc::new(CallContext::new(RunKey(1), Arc::new(RunId { id: "order".to_owned(), run_no: 2 }), 3, 1, 1, None))
    }

    fn register<A: Activity, Kind: 'static>(handler: impl ActivityHandler<A, Kind> + Clone + Send) -> Box<dyn Handle + Send> {
        erase(handler).clone_box()
    }

    fn cents(cents: u64) -> Payload {
        Payload::encode(&Charge { cents }, "input").unwrap()
    }

    #[actix::test]
    async fn actors_and_closures_are_told_apart_by_inference() {
        let actor = register(Payments.start().recipient::<Call<Charge>>());
        let output = actor.call(cents(9), context()).await.unwrap();
        assert_eq!(output.decode::<String>("output").unwrap(), "order/2/3 9");
        assert!(!actor.abortable());

        let prefix = "paid ".to_owned();
        let closure = register(async move |call: Call<Charge>| Ok(format!("{prefix}{}", call.cents)));
        let output = closure.call(cents(9), context()).await.unwrap();
        assert_eq!(output.decode::<String>("output").unwrap(), "paid 9");
        assert!(closure.abortable());
    }

    #[actix::test]
    async fn a_typed_error_keeps_its_value_and_causes() {
        let handler = register(async |_: Call<Charge>| Err(PayError::Declined(Reason)));
        let failure = handler.call(cents(9), context()).await.unwrap_err();
        assert_eq!((failure.kind(), failure.message(), failure.is_final()), ("error", "declined", false));
        assert_eq!(failure.causes(), ["no money"]);
        assert_eq!(failure.details().unwrap().decode::<PayError>("error").unwrap(), PayError::Declined(Reason));
    }

    #[actix::test]
    async fn a_dead_actor_is_a_retryable_failure() {
        let handler = register(Payments.start().recipient::<Call<Charge>>());
        for cents_ in [13, 9] {
            let failure = handler.call(cents(cents_), context()).await.unwrap_err();
            assert_eq!((failure.kind(), failure.is_final()), (KIND_HANDLER_GONE, false));
        }
    }

    #[actix::test]
    async fn an_input_of_another_shape_is_final() {
        let handler = register(async |_: Call<Charge>| Ok(String::new()));
        let input = Payload::encode("text", "input").unwrap();
        let failure = handler.call(input, context()).await.unwrap_err();
        assert_eq!((failure.kind(), failure.is_final()), (KIND_CODEC, true));
    }
}
