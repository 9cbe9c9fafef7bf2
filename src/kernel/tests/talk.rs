//! What a workflow answers: from its state, without a trace, and without harm whatever the handler does.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use super::*;
use crate::{
    Query,
    kernel::{
        failure::{KIND_CODEC, KIND_INVALID, KIND_LIMIT, KIND_PANIC, KIND_UNANSWERED},
        tape::{Inquiry, Told},
    },
};

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

query!(Words("words") -> Vec<String>);
query!(Bad("bad") -> u64);
query!(Meddling("meddling") -> u64);
query!(Huge("huge") -> String);
query!(Nobody("nobody") -> u64);

/// The name of one, the shape of another.
#[derive(Serialize, Deserialize)]
struct WrongWords(u64);

impl Query for WrongWords {
    const NAME: &'static str = "words";
    type Answer = Vec<String>;
}

fn ask<Q: Query>(world: &World, query: &Q) -> Result<Q::Answer, Failure> {
    let question = Payload::encode(query, "a question").unwrap();
    match world.run.as_ref().unwrap().inquire(&Inquiry::Query { name: Q::NAME, question })? {
        Told::Answer(answer) => Ok(answer.decode("an answer").unwrap()),
        other => panic!("{other:?}"),
    }
}

flow!(Listens, |cx| -> (Vec<String>, u64, u64) {
    let words = Rc::new(RefCell::new(Vec::new()));
    let seen = words.clone();
    cx.on_query(move |_: &Words| seen.borrow().clone());
    cx.on_query(|_: &Bad| panic!("the handler is broken"));
    let inside = cx.clone();
    cx.on_query(move |_: &Meddling| {
        drop(inside.call(act("never")));
        inside.patched("never");
        inside.on_query(|_: &Nobody| 1);
        inside.random()
    });
    cx.on_query(|_: &Huge| "x".repeat(3 << 20));
    while words.borrow().len() < 3 {
        let Word(word) = cx.signal().await?;
        words.borrow_mut().push(word);
    }
    let (random, called) = (cx.random(), cx.call(act("last")).await?);
    Ok((words.take(), random, called))
});

#[test]
fn a_query_sees_the_state_live_replayed_and_at_the_end_and_leaves_no_trace() {
    let mut world = World::new(&Listens);
    assert_eq!(ask(&world, &Words).unwrap(), Vec::<String>::new());
    for word in ["a", "b"] {
        world.word(word);
        world.settle();
        let seen = ask(&world, &Words).unwrap();
        let events = world.events().len();
        world.evict();
        assert_eq!(ask(&world, &Words).unwrap(), seen);
        assert_eq!(world.events().len(), events);
    }
    assert_eq!(ask(&world, &Words).unwrap(), ["a", "b"]);
    world.word("c");
    world.settle();
    assert_eq!(world.output::<(Vec<String>, u64, u64)>().0, ["a", "b", "c"]);
    for _ in 0..2 {
        // What the code took out is gone; the handlers are not.
        assert_eq!(ask(&world, &Words).unwrap(), Vec::<String>::new());
        world.run = Some(world.replayed(world.log.len()).unwrap());
    }
}

#[test]
fn a_query_that_goes_wrong_says_why_and_the_run_goes_on_as_if_nothing_had_been_asked() {
    let mut undisturbed = World::new(&Listens);
    let mut world = World::new(&Listens);
    for word in ["a", "b", "c"] {
        for world in [&mut undisturbed, &mut world] {
            world.word(word);
            world.turn_or_ack();
        }
        let kind = |failure: Failure| (failure.kind().to_owned(), failure.to_string());
        let (unanswered, text) = kind(ask(&world, &Nobody).unwrap_err());
        assert_eq!(unanswered, KIND_UNANSWERED);
        assert!(text.contains("\"bad\", \"huge\", \"meddling\", \"words\""), "{text}");
        let (panicked, text) = kind(ask(&world, &Bad).unwrap_err());
        assert_eq!(panicked, KIND_PANIC);
        assert!(text.contains("the handler is broken"), "{text}");
        let (meddled, text) = kind(ask(&world, &Meddling).unwrap_err());
        assert_eq!(meddled, KIND_INVALID);
        assert!(text.contains("a handler (or a condition of `until`) used `cx`"), "{text}");
        assert_eq!(kind(ask(&world, &Huge).unwrap_err()).0, KIND_LIMIT);
        assert_eq!(kind(ask(&world, &WrongWords(1)).unwrap_err()).0, KIND_CODEC);
    }
    undisturbed.settle();
    world.settle();
    assert_eq!(world.output::<(Vec<String>, u64, u64)>(), undisturbed.output());
    assert_eq!(world.events(), undisturbed.events());
    world.evict();
}

thread_local! {
    static DROPPED: Cell<u32> = const { Cell::new(0) };
}

struct Counted;

impl Drop for Counted {
    fn drop(&mut self) {
        DROPPED.set(DROPPED.get() + 1);
    }
}

#[test]
fn handlers_that_hold_the_context_are_dropped_with_the_run() {
    flow!(Holds, |cx| -> u64 {
        let (held, counted) = (cx.clone(), Counted);
        cx.on_query(move |_: &Nobody| {
            let _ = &counted;
            u64::from(held.is_cancelled())
        });
        Ok(cx.call(act("a")).await?)
    });
    let world = World::with(&Holds, Limits::default(), false, None).unwrap();
    assert_eq!(ask(&world, &Nobody).unwrap(), 0, "what only looks may use the context");
    assert_eq!(DROPPED.get(), 0);
    drop(world);
    assert_eq!(DROPPED.get(), 1);
}

query!(Waits("waits") -> bool);
query!(Drops("drops") -> bool);

#[test]
fn a_query_that_polls_or_drops_what_the_workflow_waits_for_moves_nothing_and_says_so() {
    flow!(Lends, |cx| -> u64 {
        type Lent = Pin<Box<dyn Future<Output = bool>>>;
        let inside = cx.clone();
        let word: Lent = Box::pin(async move { inside.signal::<Word>().await.is_ok() });
        let word = Rc::new(RefCell::new(Some(word)));
        // It stands in line.
        std::future::poll_fn(|context| {
            assert!(word.borrow_mut().as_mut().unwrap().as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        let (polls, drops) = (word.clone(), word.clone());
        cx.on_query(move |_: &Waits| {
            let mut context = Context::from_waker(Waker::noop());
            polls.borrow_mut().as_mut().is_some_and(|word| word.as_mut().poll(&mut context).is_ready())
        });
        cx.on_query(move |_: &Drops| drops.borrow_mut().take().is_some());
        Ok(cx.call(act("a")).await?)
    });
    for polls in [true, false] {
        let mut world = World::new(&Lends).handle(|_, _| value(1));
        world.ack();
        world.word("hello");
        world.turn();
        world.ack();
        let before = world.open();
        let asked = if polls { ask(&world, &Waits) } else { ask(&world, &Drops) };
        assert_eq!(asked.unwrap_err().kind(), KIND_INVALID);
        assert_eq!(world.open(), before);
        world.settle();
        assert_eq!(world.commands(|command| matches!(command, Command::Cancel { .. })), 0);
        assert_eq!(world.output::<u64>(), 1);
        assert!(world.replayed(world.log.len()).is_ok());
    }
}
