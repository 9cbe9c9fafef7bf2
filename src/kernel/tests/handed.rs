//! Forks of runs that belong to a chain: what was handed on to them is a part of their beginning, and what came to later runs of the chain
//! came behind every point.

use super::*;
use crate::kernel::{
    chain::{Inherited, Signalled},
    fork::{Point, PointError, Spot},
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
