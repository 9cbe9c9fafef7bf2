//! Conversations with workflows, seen from an application: questions are answered from what is recorded, wherever the run is and
//! whatever has become of it, and change nothing; on every store, over restarts and over nodes.

#![cfg(feature = "sqlite")]

use std::{
    cell::RefCell,
    rc::Rc,
    sync::atomic::{AtomicU32, Ordering::SeqCst},
};

use stent::{
    Builder, Error, QueryError, Stent,
    prelude::*,
    store::{Batch, Item, Outcome, Status, Store, memory::MemoryStore},
};
use support::{Home, alone, counts_memory, eventually};

mod support;

#[derive(Serialize, Deserialize)]
struct Add(String);

impl Signal for Add {
    const NAME: &'static str = "conversation.add";
}

/// Makes a query: `query!(Name("stored.name") -> Answer)`.
macro_rules! query {
    ($name:ident($stored:literal) -> $answer:ty) => {
        #[derive(Serialize, Deserialize)]
        struct $name;

        impl Query for $name {
            const NAME: &'static str = $stored;
            type Answer = $answer;
        }
    };
}

query!(Items("conversation.items") -> Vec<String>);
query!(Broken("conversation.broken") -> u32);
query!(Meddling("conversation.meddling") -> u64);
query!(Huge("conversation.huge") -> Vec<u8>);
query!(Slow("conversation.slow") -> ());
query!(Other("conversation.other") -> u32);

/// The name of one query and the shapes of others.
#[derive(Serialize, Deserialize)]
struct WrongQuestion(u32);

impl Query for WrongQuestion {
    const NAME: &'static str = "conversation.items";
    type Answer = Vec<String>;
}

query!(WrongAnswer("conversation.items") -> u32);

/// How many items carts have taken in this process.
static TAKEN: AtomicU32 = AtomicU32::new(0);

/// Takes items until "done".
#[derive(Serialize, Deserialize)]
struct Cart {
    /// Whether it waits for so short a time that it stays in memory.
    stays: bool,
}

/// One that sleeps in the store while it waits.
const SLEEPER: Cart = Cart { stays: false };

const STAYER: Cart = Cart { stays: true };

impl Workflow for Cart {
    const NAME: &'static str = "conversation.cart";
    type Output = (Vec<String>, u64);
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<(Vec<String>, u64), AppError> {
        let items = Rc::new(RefCell::new(Vec::new()));
        let seen = items.clone();
        cx.on_query(move |_: &Items| seen.borrow().clone());
        cx.on_query(|_: &Broken| panic!("the handler is broken"));
        let inside = cx.clone();
        cx.on_query(move |_: &Meddling| inside.random());
        cx.on_query(|_: &Huge| vec![7; 3 << 20]);
        cx.on_query(|_: &Slow| std::thread::sleep(millis(300)));
        loop {
            let next = cx.signal().within(if self.stays { secs(9) } else { hours(9) });
            let Add(item) = next.await?.ok_or_else(|| AppError::new("nothing came"))?;
            if item == "done" {
                break;
            }
            items.borrow_mut().push(item);
            TAKEN.fetch_add(1, SeqCst);
        }
        let all = items.borrow().clone();
        Ok((all, cx.random()))
    }
}

/// The same name and version, another first command.
#[derive(Serialize, Deserialize)]
struct Changed {
    stays: bool,
}

impl Workflow for Changed {
    const NAME: &'static str = "conversation.cart";
    type Output = (Vec<String>, u64);
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<(Vec<String>, u64), AppError> {
        cx.sleep(secs(if self.stays { 1 } else { 2 })).await?;
        Ok((Vec::new(), 0))
    }
}

fn build(home: &Home) -> Builder {
    home.open().workflow::<Cart>()
}

async fn start(home: &Home) -> Stent {
    build(home).spawn().await.unwrap()
}

async fn stop(stent: Stent) {
    stent.shutdown(Shutdown::within(secs(10))).await.unwrap();
}

async fn add(stent: &Stent, id: &str, item: &str) {
    stent.signal(SendSignal::new(id, &Add(item.into()))).await.unwrap();
}

async fn commits(stent: &Stent, id: &str) -> u32 {
    stent.describe(id).await.unwrap().unwrap().commits
}

/// Waits until a cart has these items.
async fn has(stent: &Stent, id: &str, items: &[&str]) {
    eventually(&format!("{id} has {items:?}"), secs(20), async || stent.query(Ask::new(id, &Items)).await.unwrap() == items)
        .await;
}

async fn refused<Q: Query>(stent: &Stent, ask: Ask<Q>) -> QueryError {
    match stent.query(ask).await {
        Err(Error::Query(error)) => error,
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("{} was answered", std::any::type_name::<Q>()),
    }
}

#[test]
fn a_run_answers_while_it_goes_on_while_it_sleeps_and_when_it_has_ended_and_nothing_is_recorded() {
    alone(async {
        for home in Home::all() {
            let stent = start(&home).await;
            let cart = stent.dispatch(Dispatch::new(SLEEPER).id("c")).await.unwrap();
            assert_eq!(cart.query(&Items).await.unwrap(), Vec::<String>::new());
            add(&stent, "c", "tea").await;
            has(&stent, "c", &["tea"]).await;
            eventually("it sleeps", secs(20), async || {
                stent.describe("c").await.unwrap().unwrap().summary.owner.is_none() && stent.stats().held == 0
            })
            .await;
            let before = commits(&stent, "c").await;
            for _ in 0..3 {
                assert_eq!(stent.query(Ask::new("c", &Items)).await.unwrap(), ["tea"]);
                assert_eq!(cart.query(&Items).await.unwrap(), ["tea"]);
            }
            let row = stent.describe("c").await.unwrap().unwrap();
            assert_eq!((row.commits, row.summary.owner), (before, None), "nobody had to take it up");
            stop(stent).await;

            let stent = start(&home).await;
            assert_eq!(stent.query(Ask::new("c", &Items)).await.unwrap(), ["tea"]);
            add(&stent, "c", "milk").await;
            add(&stent, "c", "done").await;
            let cart = stent.handle::<Cart>("c").await.unwrap().unwrap();
            assert_eq!(cart.result().await.unwrap().0, ["tea", "milk"]);
            let before = commits(&stent, "c").await;
            assert_eq!(cart.query(&Items).await.unwrap(), ["tea", "milk"]);
            assert_eq!(stent.query(Ask::new("c", &Items)).await.unwrap(), ["tea", "milk"]);
            assert_eq!(commits(&stent, "c").await, before);
            stop(stent).await;
        }
    });
}

#[cfg(feature = "failpoints")]
#[test]
fn a_state_that_is_not_recorded_is_never_told() {
    use stent::{
        failpoints::{self, Action},
        store::{Store, memory::MemoryStore},
    };

    alone(async {
        let store = MemoryStore::new();
        let home = Home::Memory(store.clone());
        let stent = start(&home).await;
        let cart = stent.dispatch(Dispatch::new(STAYER).id("c")).await.unwrap();
        assert_eq!(cart.query(&Items).await.unwrap(), Vec::<String>::new());
        let before = TAKEN.load(SeqCst);
        // The first commit is that of the message, the second that of the turn that takes it.
        failpoints::set("persistence.before_commit", Action::Sleep(millis(600)), 2);
        add(&stent, "c", "tea").await;
        eventually("the turn is decided", secs(20), async || TAKEN.load(SeqCst) > before).await;
        let asked = cart.query(&Items).await.unwrap();
        let recorded = store.reader().history(cart.run(), 0, 100).await.unwrap().len();
        assert_eq!(asked, ["tea"]);
        assert_eq!(recorded, 2, "it was told behind the commit");
        stop(stent).await;
    });
}

#[test]
fn a_question_that_cannot_be_answered_has_a_typed_error_and_harms_nothing() {
    alone(async {
        for home in Home::both() {
            // From the log, and in memory.
            let evicts = counts_memory("nobody stays there");
            for (cart, held) in [(SLEEPER, 0), (STAYER, 1)].into_iter().take(if evicts { 1 } else { 2 }) {
                let stent = start(&home).await;
                let id = format!("c{held}");
                let cart = stent.dispatch(Dispatch::new(cart).id(&id)).await.unwrap();
                let id = id.as_str();
                add(&stent, id, "tea").await;
                has(&stent, id, &["tea"]).await;
                eventually("it is where it is to be", secs(20), async || stent.stats().held == held).await;
                let unknown = refused(&stent, Ask::new("nobody", &Items)).await;
                assert_eq!(unknown, QueryError::Unknown("nobody".into()));
                let QueryError::NotAnswered(why) = refused(&stent, Ask::new(id, &Other)).await else { panic!("another one") };
                assert!(why.contains("\"conversation.items\""), "{why}");
                let QueryError::Failed(why) = refused(&stent, Ask::new(id, &Broken)).await else { panic!("another one") };
                assert!(why.contains("the handler is broken"), "{why}");
                let QueryError::Failed(why) = refused(&stent, Ask::new(id, &Meddling)).await else { panic!("another one") };
                assert!(why.contains("a handler (or a condition of `until`) used `cx`"), "{why}");
                for invalid in [
                    refused(&stent, Ask::new(id, &Huge)).await,
                    refused(&stent, Ask::new(id, &WrongQuestion(7))).await,
                    refused(&stent, Ask::new(id, &WrongAnswer)).await,
                ] {
                    assert!(matches!(invalid, QueryError::Invalid(_)), "{invalid:?}");
                }
                let late = refused(&stent, Ask::new(id, &Slow).within(millis(50))).await;
                assert_eq!(late, QueryError::TimedOut(millis(50)));
                add(&stent, id, "done").await;
                assert_eq!(cart.result().await.unwrap().0, ["tea"]);
                stop(stent).await;
            }
        }
    });
}

#[test]
fn a_run_whose_code_is_not_here_or_does_not_fit_is_not_asked_but_named() {
    alone(async {
        for home in Home::both() {
            let stent = start(&home).await;
            stent.dispatch(Dispatch::new(STAYER).id("c")).await.unwrap();
            has(&stent, "c", &[]).await;
            stop(stent).await;

            let stent = home.open().workflow::<Changed>().spawn().await.unwrap();
            let QueryError::Blocked(why) = refused(&stent, Ask::new("c", &Items)).await else { panic!("another one") };
            assert!(why.contains("conversation.add") && why.contains("sleep"), "{why}");
            stop(stent).await;

            let stent = home.open().spawn().await.unwrap();
            let unregistered = refused(&stent, Ask::new("c", &Items)).await;
            assert_eq!(unregistered, QueryError::Unregistered { name: "conversation.cart".into(), version: 1 });
            stop(stent).await;
        }
    });
}

#[test]
fn a_run_of_one_node_is_asked_at_another_which_takes_nothing_from_it() {
    if counts_memory("a run that nobody has cannot be asked at its owner") {
        return;
    }
    alone(async {
        for home in Home::shared() {
            let first = start(&home).await;
            let second = start(&home).await;
            let cart = first.dispatch(Dispatch::new(STAYER).id("c")).await.unwrap();
            let owner = first.describe("c").await.unwrap().unwrap().summary.owner;
            assert!(owner.is_some());
            for (n, item) in ["tea", "milk", "bread"].into_iter().enumerate() {
                add(&second, "c", item).await;
                has(&second, "c", &["tea", "milk", "bread"][..=n]).await;
                assert_eq!(cart.query(&Items).await.unwrap().len(), n + 1);
            }
            assert_eq!(second.describe("c").await.unwrap().unwrap().summary.owner, owner);
            add(&second, "c", "done").await;
            cart.result().await.unwrap();
            has(&second, "c", &["tea", "milk", "bread"]).await;
            assert_eq!(second.describe("c").await.unwrap().unwrap().summary.status, Status::Completed);
            stop(first).await;
            stop(second).await;
        }
    });
}

#[test]
fn a_run_that_may_be_what_kills_nodes_is_asked_where_it_lives_and_opened_for_no_question() {
    if counts_memory("a run that nobody has lives nowhere") {
        return;
    }
    alone(async {
        let mut store = MemoryStore::new();
        let home = Home::Memory(store.clone());
        let (first, second) = (start(&home).await, start(&home).await);
        let cart = first.dispatch(Dispatch::new(STAYER).id("c")).await.unwrap();
        let row = first.describe("c").await.unwrap().unwrap().summary;
        let (incarnation, now) = (row.owner.unwrap(), row.created_at);
        has(&second, "c", &[]).await;
        // As its node does before it opens a suspect.
        let mark = Item::Heartbeat { run: row.run, position: 0, attempt: 1, details: bytes::Bytes::new() };
        let marked = store.commit(&Batch { incarnation, now, renew: false, items: vec![mark], claim: None }).await.unwrap();
        assert_eq!(marked.outcomes, [Outcome::Done]);
        let QueryError::Blocked(why) = refused(&second, Ask::new("c", &Items)).await else { panic!("another one") };
        assert!(why.contains("suspect"), "{why}");
        assert_eq!(cart.query(&Items).await.unwrap(), Vec::<String>::new());
        stop(first).await;
        stop(second).await;
    });
}
