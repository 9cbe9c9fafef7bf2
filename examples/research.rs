//! A research agent: a model plans, searches run side by side, the model reads and says what is missing, until it has enough or its budget is
//! spent; a person approves the outline before anything is written. Each answer of the model is paid for once, whatever crashes. Model and
//! search are mocks; put real clients into the two closures.
//!
//! `cargo run --example research [sqlite:research.db]`

#![expect(clippy::print_stdout, reason = "an example talks to people")]

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::SeqCst},
};

use stent::prelude::*;

#[derive(Serialize, Deserialize)]
struct Research {
    question: String,
    /// How many answers of the model it may cost.
    budget: u32,
}

#[derive(Serialize, Deserialize)]
struct Approval {
    approved: bool,
    remark: String,
}

impl Signal for Approval {
    const NAME: &'static str = "example.approval_of_outline";
}

impl Workflow for Research {
    const NAME: &'static str = "example.research";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        // What a model says is not the same twice. Here it is: the answer is recorded, and a replay reads it in the log.
        let ask = async |task: Task, notes: &[String]| {
            let prompt = Prompt { task, question: self.question.clone(), notes: notes.to_vec() };
            let answer = cx.call(prompt).timeout(mins(2)).retry(Retry::exponential(millis(20)).attempts(4)).await?;
            Ok::<_, AppError>(answer)
        };
        let mut notes = Vec::new();
        let mut queries = ask(Task::Plan, &notes).await?;
        let mut spent = 1;
        while !queries.is_empty() && spent < self.budget {
            // A search engine that is down costs its results and not the whole.
            let found = cx.map(&queries, |query| cx.call(Search { query: query.clone() }).retry(Retry::never())).settle().await;
            notes.extend(found.into_iter().flatten().flatten());
            queries = ask(Task::WhatIsMissing, &notes).await?;
            spent += 1;
        }
        let outline = ask(Task::Outline, &notes).await?;
        // The person may take a week; that costs neither memory nor a thread.
        let remark = match cx.signal::<Approval>().within(days(7)).await? {
            Some(Approval { approved: true, remark }) => remark,
            Some(Approval { remark, .. }) => return Err(AppError::new(format!("not approved: {remark}"))),
            None => return Err(AppError::new("nobody looked at the outline for a week")),
        };
        notes.extend(outline);
        notes.push(remark);
        Ok(ask(Task::Write, &notes).await?.concat())
    }
}

#[derive(Serialize, Deserialize, Clone, Copy)]
enum Task {
    Plan,
    WhatIsMissing,
    Outline,
    Write,
}

/// One question to the model; the answer is a list of lines.
#[derive(Serialize, Deserialize)]
struct Prompt {
    task: Task,
    question: String,
    notes: Vec<String>,
}

impl Activity for Prompt {
    const NAME: &'static str = "example.prompt";
    type Output = Vec<String>;
    type Error = AppError;
}

#[derive(Serialize, Deserialize)]
struct Search {
    query: String,
}

impl Activity for Search {
    const NAME: &'static str = "example.search";
    type Output = Vec<String>;
    type Error = AppError;
}

/// The mock of a model: knows what to ask until it has read of salt.
fn mock_model(prompt: &Prompt) -> Vec<String> {
    let Prompt { task, question, notes } = prompt;
    match task {
        Task::Plan => vec![format!("{question} rivers"), format!("{question} rain"), "broken query".to_owned()],
        Task::WhatIsMissing if !notes.iter().any(|note| note.ends_with(" salt")) => vec![format!("{question} salt")],
        Task::WhatIsMissing => Vec::new(),
        Task::Outline => vec![format!("1. what {} sources say", notes.len())],
        Task::Write => vec![format!("{question} An answer from: {}", notes.join("; "))],
    }
}

#[actix::main]
async fn main() -> stent::Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory:".to_owned());
    let answers = Arc::new(AtomicU32::new(0));
    let paid = answers.clone();
    let supervisor = Stent::open(&url)
        .workflow::<Research>()
        .activity(async move |call: Call<Prompt>| {
            // Overloaded at times, as they are. `call.key()` is the same in each attempt: as the request's idempotency key it makes sure
            // that an answer which was lost on its way is not paid for again.
            if call.attempt() == 1 && matches!(call.task, Task::WhatIsMissing) {
                return Err(AppError::new("overloaded").retry_after(millis(10)));
            }
            paid.fetch_add(1, SeqCst);
            Ok(mock_model(&call))
        })
        .activity(async |call: Call<Search>| match call.query.as_str() {
            "broken query" => Err(AppError::new("the search engine does not understand")),
            query => Ok(vec![format!("a page on {query}")]),
        })
        .start()
        .await?;

    let research = Research { question: "Why is the sea salty?".to_owned(), budget: 5 };
    let research = supervisor.send(Dispatch::new(research).id("sea").deadline(days(30))).await??;
    supervisor.send(SendSignal::new(research.id(), &Approval { approved: true, remark: "be brief".to_owned() })).await??;
    let text = research.result().await?;
    println!("{text}");
    assert!(text.contains("salty? salt") && text.ends_with("be brief"));
    assert_eq!(answers.load(SeqCst), 5, "plan, twice what is missing, outline, text");

    supervisor.send(Shutdown::within(secs(5))).await??;
    Ok(())
}
