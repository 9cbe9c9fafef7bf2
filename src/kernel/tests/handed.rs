//! Forks of runs that belong to a chain: what was handed on to them is a part of their beginning, and what came to later runs of the chain
//! came behind every point.

use super::*;
use crate::{
    Cx,
    kernel::{
        chain::{Inherited, Signalled},
        fork::{Fork, Point, PointError, Spot, came},
    },
};

impl World {
    /// Another run has continued as this one, which has not done anything yet, and handed on a word that it had not read.
    pub(super) fn takes_over(&mut self, word: &str) {
        self.ack();
        let started = Started { deferred: true, ..self.run().state().started.clone() };
        let payload = Payload::encode(&Word(word.into()), "word").unwrap();
        let unread = vec![Signalled { name: "word".into(), payload }];
        let inherited = Inherited { unread, known: vec![format!("word-{word}")], ..Inherited::default() };
        self.onward = Some(Box::new(Onward { started, inherited, at: None }));
        (self.begun, self.children, self.acts) = (Vec::new(), BTreeMap::new(), Vec::new());
        self.go_on();
    }
}

#[test]
fn between_its_start_and_what_was_handed_on_to_it_a_run_cannot_be_left() {
    flow!(Hears, |cx| -> String {
        let Word(word) = cx.signal().await?;
        Err(AppError::new(word))
    });
    let mut world = World::new(&Hears);
    world.takes_over("before");
    world.settle();
    assert_eq!(world.failure().message(), "before");
    let error = world.forked(Point::Before(0, 1), true).unwrap_err();
    let PointError::NotGood { before, after, why, .. } = &error else { panic!("{error}") };
    assert!(why.contains("took over"), "{error}");
    assert_eq!((before, after), (&None, &Some(Spot { commit: 1, event: 0 })), "and neither is it offered");
    for point in [Point::Start, Point::After(0)] {
        let (log, id) = (world.log.clone(), world.id.clone());
        world.reset(point).unwrap();
        world.settle();
        assert_eq!(world.failure().message(), "before", "{point:?}");
        (world.log, world.id) = (log, id);
    }
}

/// Hears two words, and goes on as new; in its second run two more, and fails.
#[derive(Serialize, Deserialize)]
struct Two {
    heard: String,
    goes_on: bool,
}

impl Workflow for Two {
    const NAME: &'static str = "two";
    type Output = String;
    type Error = AppError;

    async fn run(mut self, cx: Cx<Self>) -> Result<String, AppError> {
        for _ in 0..2 {
            self.heard.push_str(&cx.signal::<Word>().await?.0);
        }
        let Two { heard, goes_on } = self;
        if goes_on { Ok(cx.continue_as_new(Two { heard, goes_on: false }).await?) } else { Err(AppError::new(heard)) }
    }
}

#[test]
fn what_later_runs_took_comes_behind_what_the_earlier_one_took_once_each_and_in_order() {
    let mut world = World::new(&Two { heard: String::new(), goes_on: true });
    for word in ["a", "b", "c"] {
        world.word(word);
    }
    world.settle();
    let (log, id) = (world.log.clone(), world.id.clone());
    world.go_on();
    world.settle();
    world.word("a");
    world.word("d");
    world.settle();
    assert_eq!(world.failure().message(), "abcd");
    let second = world.commits();
    let came = |messages| second.iter().flat_map(move |commit| came(commit.clone(), messages)).collect::<Vec<_>>();
    (world.log, world.id) = (log, id);
    let ids = |fork: &Fork| fork.inbox.iter().map(|(message, ..)| message.clone()).collect::<Vec<_>>();
    let known = |fork: &Fork| match fork.log.last().and_then(|commit| commit.events.last()) {
        Some(Event::Fact(Fact::Forked(forked))) => forked.known.clone(),
        other => panic!("{other:?}"),
    };
    let fork = world.forked_beside(Point::Start, true, &came(true)).unwrap();
    assert_eq!(ids(&fork), ["word-a", "word-b", "word-c", "word-d"]);
    assert_eq!(known(&fork), [""; 0]);
    let none = world.forked_beside(Point::Start, false, &came(false)).unwrap();
    assert_eq!((ids(&none), known(&none).len()), (Vec::new(), 4));
    world.go_on_from(fork);
    world.settle();
    world.go_on();
    world.settle();
    assert_eq!(world.failure().message(), "abcd");
}
