//! The workflow that runs any program, and its activities. Its output is text, so that a difference from the model can be read.

use std::{cell::RefCell, pin::Pin, rc::Rc, sync::OnceLock};

use futures_util::future::join_all;
use stent::{Builder, ChildError, ContinueError, prelude::*};

use crate::language::{Act, Grown, Never, Node, Part};

/// One run of a program: of the root, or a child.
#[derive(Serialize, Deserialize)]
pub(crate) struct Program {
    /// The root's name: the ids of children begin with it.
    root: String,
    /// Its runs from this one on: each continues as the next.
    runs: Vec<Node>,
    so_far: SoFar,
}

impl Program {
    /// A whole program.
    pub(crate) fn of(program: &Grown) -> Program {
        Program { root: program.name.clone(), runs: program.runs.clone(), so_far: SoFar::default() }
    }
}

/// What an execution knows, over all its runs.
#[derive(Clone, Default, Serialize, Deserialize)]
struct SoFar {
    /// What the runs before came to.
    values: Vec<String>,
    /// The numbers of the signals that were heard.
    heard: Vec<u32>,
    /// Those of the updates that were made.
    made: Vec<u32>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Go(pub(crate) u32);

impl Signal for Go {
    const NAME: &'static str = "program.go";
}

/// The update of a number, which is to be made behind the one before it; it answers how many were made by then.
#[derive(Serialize, Deserialize)]
pub(crate) struct Raise(pub(crate) u32);

impl Update for Raise {
    const NAME: &'static str = "program.raise";
    type Answer = u32;
    type Error = AppError;
}

/// How many signals were heard, and how many updates made.
#[derive(Serialize, Deserialize)]
pub(crate) struct HowFar;

impl Query for HowFar {
    const NAME: &'static str = "program.how_far";
    type Answer = (u32, u32);
}

/// Nobody sends it.
#[derive(Serialize, Deserialize)]
struct Nothing;

impl Signal for Nothing {
    const NAME: &'static str = "program.nothing";
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Do {
    pub(crate) label: u32,
    failures: u32,
}

impl Activity for Do {
    const NAME: &'static str = "program.do";
    type Output = u32;
    type Error = AppError;
}

/// Returns where it was done, so that whoever shares its result knows whose it is.
#[derive(Serialize, Deserialize)]
pub(crate) struct Shared {
    pub(crate) label: u32,
    pub(crate) key: String,
}

impl Activity for Shared {
    const NAME: &'static str = "program.shared";
    type Output = String;
    type Error = AppError;
}

/// Goes on until it is asked to stop.
#[derive(Serialize, Deserialize)]
struct Hang {
    label: u32,
}

impl Activity for Hang {
    const NAME: &'static str = "program.hang";
    type Output = ();
    type Error = AppError;
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Undo {
    pub(crate) label: u32,
}

impl Activity for Undo {
    const NAME: &'static str = "program.undo";
    type Output = ();
    type Error = AppError;
}

/// Is told of every act when it begins: execution, what, attempt (0 for closures, which do not know theirs).
pub(crate) static ACTS: OnceLock<fn(&str, &str, u32)> = OnceLock::new();

fn acts(execution: &str, what: &str, attempt: u32) {
    if let Some(told) = ACTS.get() {
        told(execution, what, attempt);
    }
}

/// Why a piece of a program did not get to a value.
enum Stop {
    Failed(String),
    Cancelled,
}

impl From<Cancelled> for Stop {
    fn from(_: Cancelled) -> Stop {
        Stop::Cancelled
    }
}

impl<E: std::fmt::Display> From<CallError<E>> for Stop {
    fn from(error: CallError<E>) -> Stop {
        match error {
            CallError::Cancelled => Stop::Cancelled,
            other => Stop::Failed(other.to_string()),
        }
    }
}

type Value = Result<String, Stop>;

impl Workflow for Program {
    const NAME: &'static str = "program";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        let so_far = Rc::new(RefCell::new(self.so_far));
        talks(&cx, &so_far);
        let runner = Runner { cx, root: &self.root, so_far };
        match runner.program(&self.runs).await {
            Ok(value) => Ok(value),
            Err(Stop::Failed(why)) => Err(AppError::new(why)),
            Err(Stop::Cancelled) => Err(AppError::new("cancelled")),
        }
    }
}

/// Answers and takes what comes from outside.
fn talks(cx: &Cx<Program>, so_far: &Rc<RefCell<SoFar>>) {
    let (asked, checked, applied) = (so_far.clone(), so_far.clone(), so_far.clone());
    cx.on_query(move |_: &HowFar| (count(&asked.borrow().heard), count(&asked.borrow().made)));
    cx.on_update(
        move |raise: &Raise| {
            let made = count(&checked.borrow().made);
            if raise.0 == made { Ok(()) } else { Err(AppError::new(format!("{} out of turn: {made} were made", raise.0))) }
        },
        move |raise: Raise| {
            applied.borrow_mut().made.push(raise.0);
            count(&applied.borrow().made)
        },
    );
}

fn count(list: &[u32]) -> u32 {
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}

struct Runner<'a> {
    cx: Cx<Program>,
    root: &'a str,
    so_far: Rc<RefCell<SoFar>>,
}

impl Runner<'_> {
    async fn program(&self, runs: &[Node]) -> Value {
        let [run, rest @ ..] = runs else { return Err(Stop::Failed("nothing to do".to_owned())) };
        let value = self.node(run).await?;
        self.so_far.borrow_mut().values.push(value);
        if rest.is_empty() { Ok(self.so_far.borrow().values.join(" ")) } else { self.go_on(rest).await }
    }

    /// Continues as the next run, as soon as nothing is left that belongs to this one.
    async fn go_on(&self, rest: &[Node]) -> Value {
        loop {
            let so_far = self.so_far.borrow().clone();
            let next = Program { root: self.root.to_owned(), runs: rest.to_vec(), so_far };
            match self.cx.continue_as_new(next).await {
                // What a race has dropped is still being undone.
                Err(ContinueError::OpenSaga) => self.cx.sleep(millis(1)).await?,
                Err(ContinueError::Cancelled) => return Err(Stop::Cancelled),
                Err(other) => return Err(Stop::Failed(other.to_string())),
                Ok(end) => return Ok(end),
            }
        }
    }

    fn node<'n>(&'n self, node: &'n Node) -> Pin<Box<dyn Future<Output = Value> + 'n>> {
        Box::pin(self.run(node))
    }

    async fn run(&self, node: &Node) -> Value {
        let cx = &self.cx;
        match node {
            Node::Act(act) => self.act(cx.call(of(act)), act).await,
            Node::Step { label, blocking, fails } => self.step(*label, *blocking, *fails).await,
            Node::Sleep { millis: pause } => {
                cx.sleep(millis(*pause)).await?;
                Ok("z".to_owned())
            }
            Node::Receive => {
                let Go(number) = cx.signal().await?;
                let heard = &mut self.so_far.borrow_mut().heard;
                heard.push(number);
                cx.publish(HEARD, heard);
                Ok("go".to_owned())
            }
            Node::Until { updates } => {
                cx.until(|| count(&self.so_far.borrow().made) >= *updates).await?;
                Ok(format!("u{updates}"))
            }
            Node::Memo { label, key } => {
                let shared = Shared { label: *label, key: key.clone() };
                let whose = cx.call(shared).memo(Memo::key(key).forever()).retry(Retry::fixed(millis(2))).await?;
                cx.publish(&taken(key), &whose);
                Ok(format!("m{key}"))
            }
            Node::Show { label } => {
                cx.publish(&format!("v{}", label % 3), label);
                cx.count(&counter(*label), 1);
                cx.count(SUM, i64::from(*label));
                Ok(format!("p{label}"))
            }
            Node::Never(never) => self.never(*never).await,
            Node::Fail { label } => Err(Stop::Failed(format!("fail{label}"))),
            Node::Try(inner) => match self.node(inner).await {
                Err(Stop::Failed(why)) => Ok(format!("!{why}")),
                other => other,
            },
            Node::Sequence(nodes) => {
                let mut values = Vec::new();
                for node in nodes {
                    values.push(self.node(node).await?);
                }
                Ok(values.join(" "))
            }
            Node::Join(nodes) => joined(join_all(nodes.iter().map(|node| self.node(node))).await),
            Node::Race { ends, never, swapped } => {
                let (ends, never) = (self.node(ends), self.node(never));
                let (Either::First(value) | Either::Second(value)) =
                    if *swapped { cx.race(never, ends).await } else { cx.race(ends, never).await };
                value
            }
            Node::Map { items, concurrency } => {
                let outputs = cx.map(items, |item| self.node(item)).concurrency(*concurrency).await?;
                Ok(format!("({})", outputs.join(" ")))
            }
            Node::Settle { items, concurrency } => {
                let settled = cx.map(items, |item| self.node(item)).concurrency(*concurrency).settle().await;
                let values = settled.into_iter().map(|result| match result {
                    Err(Stop::Failed(why)) => Ok(format!("!{why}")),
                    other => other,
                });
                Ok(format!("[{}]", values.collect::<Result<Vec<_>, _>>()?.join(" ")))
            }
            Node::AtLeast { label, items, wanted, concurrency } => {
                let enough = cx.map(items, |item| self.node(item)).concurrency(*concurrency).at_least(*wanted).await;
                match enough {
                    Ok(outputs) => Ok(format!("{}of", outputs.len())),
                    Err(errors) if errors.iter().any(|error| matches!(error, Stop::Cancelled)) => Err(Stop::Cancelled),
                    Err(_) => Err(Stop::Failed(format!("few{label}"))),
                }
            }
            Node::Saga(parts) => {
                cx.saga(async |saga| {
                    let mut values = Vec::new();
                    for part in parts {
                        match part {
                            Part::Plain(node) => values.push(self.node(node).await?),
                            Part::Undo { label } => saga.undo(Undo { label: *label }),
                            Part::Act { act, undo } => {
                                let call = saga.call(of(act)).undo_with(|_| Undo { label: *undo });
                                values.push(self.act(call, act).await?);
                            }
                        }
                    }
                    Ok(format!("<{}>", values.join(" ")))
                })
                .await
            }
            Node::Shielded(inner) => cx.shielded(self.node(inner)).await,
            Node::Child { label, body, detached } => self.child(*label, body, *detached).await,
        }
    }

    async fn act(&self, call: stent::cx::Pending<Do>, act: &Act) -> Value {
        let retry = Retry::fixed(millis(2)).jitter_percent(0).attempts(act.attempts);
        let call = call.retry(retry);
        let call = if act.once { call.at_most_once() } else { call };
        match call.await {
            Ok(label) => Ok(format!("a{label}")),
            Err(CallError::Failed(_)) => Err(Stop::Failed(format!("a{}", act.label))),
            // Its node died: it may have taken place, and counts as what it would have been.
            Err(CallError::MaybeDone(_)) if act.succeeds() => Ok(format!("a{}", act.label)),
            Err(CallError::MaybeDone(_)) => Err(Stop::Failed(format!("a{}", act.label))),
            Err(other) => Err(other.into()),
        }
    }

    async fn step(&self, label: u32, blocking: bool, fails: bool) -> Value {
        let id = self.cx.id().id.clone();
        let closure = move || {
            acts(&id, &step_name(label), 0);
            if fails { Err(AppError::new("planned")) } else { Ok(label) }
        };
        let step = if blocking {
            self.cx.blocking(&step_name(label), closure)
        } else {
            self.cx.step(&step_name(label), async move || closure())
        };
        match step.retry(Retry::never()).await {
            Ok(label) => Ok(step_name(label)),
            Err(CallError::Failed(_)) => Err(Stop::Failed(step_name(label))),
            Err(other) => Err(other.into()),
        }
    }

    async fn never(&self, never: Never) -> Value {
        match never {
            Never::Sleep => self.cx.sleep(hours(1)).await?,
            Never::Signal => _ = self.cx.signal::<Nothing>().await?,
            Never::Act { label } => self.cx.call(Hang { label }).await?,
        }
        Err(Stop::Failed("never".to_owned()))
    }

    async fn child(&self, label: u32, body: &Node, detached: bool) -> Value {
        let program = Program { root: self.root.to_owned(), runs: vec![body.clone()], so_far: SoFar::default() };
        let child = self.cx.child(program).id(child_id(self.root, label));
        if detached {
            child.detach().await.map_err(of_child)?;
            return Ok(format!("d{label}"));
        }
        Ok(format!("c({})", child.await.map_err(of_child)?))
    }
}

fn of(act: &Act) -> Do {
    Do { label: act.label, failures: act.failures }
}

fn of_child(error: ChildError<AppError>) -> Stop {
    match error {
        ChildError::Cancelled => Stop::Cancelled,
        ChildError::Failed(why) => Stop::Failed(why.to_string()),
        other => Stop::Failed(format!("child: {other}")),
    }
}

/// Under which key a list of the signals heard is published, …
pub(crate) const HEARD: &str = "heard";

/// …and the sum of all that was counted.
pub(crate) const SUM: &str = "sum";

/// The counter of one that counts.
pub(crate) fn counter(label: u32) -> String {
    format!("n{label}")
}

/// Under which key it is published whose result of a shared key was taken.
pub(crate) fn taken(key: &str) -> String {
    format!("m{key}")
}

/// The id of a child.
pub(crate) fn child_id(root: &str, label: u32) -> String {
    format!("{root}-c{label}")
}

pub(crate) fn step_name(label: u32) -> String {
    format!("s{label}")
}

/// All values, or the first error in their order; cancelled goes before.
fn joined(values: Vec<Value>) -> Value {
    if values.iter().any(|value| matches!(value, Err(Stop::Cancelled))) {
        return Err(Stop::Cancelled);
    }
    Ok(format!("{{{}}}", values.into_iter().collect::<Result<Vec<_>, _>>()?.join(" ")))
}

/// Registers all of it; the calls on the engine's own thread if `inline`.
pub(crate) fn register(builder: Builder, inline: bool) -> Builder {
    let act = async |call: Call<Do>| {
        acts(&call.run().id, &place(call.key()), call.attempt());
        tokio::time::sleep(millis(u64::from(call.label % 4))).await;
        if call.attempt() <= call.failures { Err(AppError::new("planned")) } else { Ok(call.label) }
    };
    let undo = async |call: Call<Undo>| {
        acts(&call.run().id, &place(call.key()), call.attempt());
        Ok(())
    };
    let hang = async |call: Call<Hang>| {
        acts(&call.run().id, &place(call.key()), call.attempt());
        call.cancelled().await;
        Err(AppError::new("stopped"))
    };
    let shared = async |call: Call<Shared>| {
        acts(&call.run().id, &place(call.key()), call.attempt());
        tokio::time::sleep(millis(u64::from(call.label % 3))).await;
        Ok(call.key())
    };
    let builder = builder.workflow::<Program>().activity(hang).activity(shared);
    if inline { builder.inline(act).inline(undo) } else { builder.activity(act).activity(undo) }
}

/// A call by its place in the log of a run.
fn place(key: String) -> String {
    let mut parts = key.rsplit('/');
    let (position, run) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    format!("{run}#{position}")
}
