//! What a workflow answers while it runs: the typed side of its handlers.

use std::rc::Rc;

use super::Cx;
use crate::{
    activity::Durable,
    kernel::{
        failure::{Failure, KIND_CODEC, KIND_LIMIT},
        payload::Payload,
    },
    workflow::Query,
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
        self.tape.answer_queries(Q::NAME, Rc::new(answerer));
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
