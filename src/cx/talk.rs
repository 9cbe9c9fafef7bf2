//! What a workflow answers while it runs: the typed side of its handlers.

use std::cell::RefCell;

use super::Cx;
use crate::{
    activity::{Durable, DurableError, failure_of},
    kernel::{
        failure::{Failure, KIND_CODEC, KIND_LIMIT},
        payload::Payload,
        tape::Updater,
    },
    workflow::{Query, Update},
};

impl<W> Cx<W> {
    /// Answers a query from here on, for as long as the run is there to be asked: while it goes on, while it sleeps, and when it has
    /// ended. State that the code and its handlers share lives in an `Rc<RefCell<…>>` or a `Cell`:
    ///
    /// ```
    /// # use std::{cell::RefCell, rc::Rc};
    /// # use stent::prelude::*;
    /// # #[derive(Serialize, Deserialize)] struct Items;
    /// # impl Query for Items { const NAME: &'static str = "cart.items"; type Answer = Vec<String>; }
    /// # #[derive(Serialize, Deserialize)] struct Add(String);
    /// # impl Signal for Add { const NAME: &'static str = "cart.add"; }
    /// # async fn body(cx: Cx<impl Workflow>) -> Result<(), AppError> {
    /// let items = Rc::new(RefCell::new(Vec::new()));
    /// let seen = items.clone();
    /// cx.on_query(move |_: &Items| seen.borrow().clone());
    /// while items.borrow().len() < 3 {
    ///     let Add(item) = cx.signal().await?;
    ///     items.borrow_mut().push(item);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// It sees the state as of the last commit, never one that is not recorded, and nothing is recorded of it. So it must only look: what it
    /// changed would be missing in the next replay. Using `cx` in it is a mistake, and the answer says so; a panic is an error of the
    /// one who asked. Neither harms the run. Registered again, the later handler answers. Ask before the code has come here, and the
    /// answer is [`QueryError::NotAnswered`](crate::QueryError::NotAnswered): register before the first await.
    pub fn on_query<Q: Query>(&self, answer: impl Fn(&Q) -> Q::Answer + 'static) {
        let most = self.tape.limits().payload_bytes;
        let answerer = move |question: &Payload| {
            let question: Q = question.decode(format_args!("the query {}", Q::NAME)).map_err(|e| codec(&e))?;
            encode(&answer(&question), "query", Q::NAME, most)
        };
        self.tape.answer_queries(Q::NAME, answerer);
    }

    /// Takes an update from here on, for as long as the code has not returned: `check` says whether it is to be made as the state is, and
    /// `apply` makes it, at once and as a whole, and answers. [`until`](Cx::until) waits for what it has changed:
    ///
    /// ```
    /// # use std::{cell::Cell, rc::Rc};
    /// # use stent::prelude::*;
    /// # #[derive(Serialize, Deserialize)] struct Raise(u64);
    /// # impl Update for Raise { const NAME: &'static str = "auction.raise"; type Answer = u64; type Error = AppError; }
    /// # async fn body(cx: Cx<impl Workflow>) -> Result<(), AppError> {
    /// let price = Rc::new(Cell::new(10));
    /// let (seen, raised) = (price.clone(), price.clone());
    /// cx.on_update(
    ///     move |raise: &Raise| if raise.0 > seen.get() { Ok(()) } else { Err(AppError::new("too low")) },
    ///     move |raise: Raise| raised.replace(raise.0),
    /// );
    /// cx.until(|| price.get() >= 100).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// Each update id is taken once, whatever crashes and however often it is sent: what came in and what was answered are recorded, in one
    /// commit with all that the code did next, and the answer is given behind that. Updates and signals are taken in the order in
    /// which they were sent. Replay applies what was applied, and checks nothing: `check` may become stricter under running
    /// executions, `apply` must do to the same state what it did. `check` must only look. Both see their own state and nothing else:
    /// `cx` in them is a mistake, and found. If `check` panics, that is the sender's error and nothing is changed; if `apply` does,
    /// half of the change may have been made, and the run fails, as by any panic of its code.
    ///
    /// Registered again, the later handlers take it. An update that nobody takes is refused, so register before the first await.
    pub fn on_update<U: Update>(
        &self,
        check: impl Fn(&U) -> Result<(), U::Error> + 'static,
        mut apply: impl FnMut(U) -> U::Answer + 'static,
    ) {
        let most = self.tape.limits().payload_bytes;
        let decode = |update: &Payload| update.decode::<U>(format_args!("the update {}", U::NAME));
        let check = move |update: &Payload| {
            let update = decode(update).map_err(|e| codec(&e))?;
            let failure = |error: U::Error| failure_of(&error, error.advice(), format_args!("the error of {}", U::NAME));
            check(&update).map_err(|error| failure(error).bounded(most))
        };
        let apply = move |update: &Payload| Ok(encode(&apply(decode(update)?), "update", U::NAME, most));
        self.tape.take_updates(U::NAME, Updater { check: Box::new(check), apply: Box::new(RefCell::new(apply)) });
    }
}

fn encode<A: Durable>(answer: &A, what: &str, name: &str, most: usize) -> Result<Payload, Failure> {
    let answer = Payload::encode(answer, format_args!("the answer to the {what} {name}")).map_err(|e| codec(&e))?;
    let size = answer.bytes.len();
    if size > most {
        let why = format!("the answer to the {what} {name} has {size} bytes, the limit is {most}; ask for less at a time");
        return Err(Failure::new(KIND_LIMIT, why).into_final());
    }
    Ok(answer)
}

fn codec(error: &crate::kernel::payload::CodecError) -> Failure {
    Failure::new(KIND_CODEC, error.to_string()).into_final()
}
