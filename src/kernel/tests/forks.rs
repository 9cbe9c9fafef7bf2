//! Forks: a run that begins with the history of an earlier one, left at any point. What is in the copy never happens again; what was open
//! there is made anew.

use std::collections::HashMap;

use super::{
    orders::{Program, Random, direct, program},
    *,
};
use crate::{
    CallError, Cx, Retry,
    kernel::{
        event::{Order, Ordered},
        fork::{Ask, Came, Fork, Point, PointError, Spot, fork, in_order},
        state::Rest,
    },
};

impl World {
    pub(super) fn commits(&self) -> Vec<Commit> {
        let decode = |(n, record)| codec::decode(&self.id, u32::try_from(n).unwrap(), record).unwrap();
        self.log.iter().enumerate().map(decode).collect()
    }

    pub(super) fn forked(&self, point: Point, messages: bool) -> Result<Fork, PointError> {
        self.forked_beside(point, messages, &[])
    }

    /// The same, of a run that is not the only one.
    pub(super) fn forked_beside(&self, point: Point, messages: bool, beside: &[Came]) -> Result<Fork, PointError> {
        let (run_no, at) = (self.id.run_no + 1, self.now.after(secs(1_000)));
        let incarnation = Incarnation(uuid::Uuid::nil());
        let (by, reason, token, build) = ("ada", "a try", "t", BuildId(1));
        fork(&self.id, self.commits(), &Ask { point, run_no, by, reason, token, messages, beside, at, incarnation, build })
    }

    /// The run has ended, and the next one begins with its history: as stores and claims do it.
    pub(super) fn reset(&mut self, point: Point) -> Result<(), PointError> {
        let fork = self.forked(point, true)?;
        self.go_on_from(fork);
        Ok(())
    }

    pub(super) fn go_on_from(&mut self, fork: Fork) {
        self.id.run_no += 1;
        self.epoch = 1;
        let mut prev = None;
        self.log = Vec::new();
        for mut commit in fork.log {
            commit.prev = prev;
            let record = codec::encode(&self.id, &commit).unwrap();
            prev = Some(record.digest);
            self.now = self.now.max(commit.time);
            self.log.push(record);
        }
        self.inbox = (1..).zip(fork.inbox.iter().map(|(message, body, _)| (message.clone(), body.clone()))).collect();
        self.messages = self.inbox.len() as u64;
        self.shown = fork.published.into_iter().map(|row| (row.key.clone(), row)).collect();
        (self.begun, self.acts, self.told) = (Vec::new(), Vec::new(), Vec::new());
        self.children.clear();
        self.tasks.clear();
        self.claimed(&fork.inbox.iter().map(|(.., at)| *at).collect::<Vec<_>>());
    }

    /// It was claimed, and not by force.
    fn claimed(&mut self, sent: &[Timestamp]) {
        self.in_flight = None;
        self.to_start.clear();
        self.running.clear();
        self.timers.clear();
        self.arrived.clear();
        let mut run = self.replayed(self.log.len()).unwrap();
        let told = self.inbox.values().filter_map(|(_, body)| match body {
            MessageBody::Task { position, attempt, .. } => Some((*position, *attempt)),
            _ => None,
        });
        run.found_queued(told.collect::<Vec<_>>());
        self.adopt(run);
        let state = self.run().state();
        let (begun, forked) = (state.begun(), state.just_forked().unwrap().clone());
        let due: Vec<_> = state.due_sleeps(Timestamp(i64::MAX)).into_iter().map(|at| (state.due_of(at).unwrap(), at)).collect();
        self.deadline = state.started.deadline.filter(|_| !state.deadline_passed);
        if !begun {
            self.arrived.push_back(Arrival::Begin);
        }
        let now = self.now;
        let mut found: Vec<(Timestamp, Arrival)> = Vec::new();
        for (at, position) in due {
            if at <= now {
                found.push((at, Arrival::Due { position }));
            }
        }
        found.extend(self.deadline.filter(|deadline| *deadline <= now).map(|deadline| (deadline, Arrival::Deadline)));
        for ((&seq, (message, body)), at) in self.inbox.iter().zip(sent) {
            found.push((*at, Arrival::Message { seq, message: message.clone(), body: body.clone() }));
        }
        self.arrived.extend(in_order(&forked, found));
        self.turn();
        if let Some(decision) = self.store() {
            let digest = self.log.last().unwrap().digest;
            self.run().recorded(&decision.commit, digest);
        }
        if self.outcome().is_none() {
            let effects = self.run().open_effects(&|queue, _, _| (writer(1).is_shared)(queue));
            self.act(effects);
        }
    }

    /// The places before which something happened.
    pub(super) fn spots(&self) -> Vec<Spot> {
        let of = |commit: &Commit| {
            let commit_no = commit.commit_no;
            (0..).zip(&commit.events).map(move |(event, _)| Spot { commit: commit_no, event }).collect::<Vec<_>>()
        };
        self.commits().iter().flat_map(of).collect()
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct Pays;

impl Workflow for Pays {
    const NAME: &'static str = "pays";
    type Output = u64;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u64, AppError> {
        let hold = cx.call(act("hold")).await?;
        let charge = cx.call(act("charge")).retry(Retry::never()).await?;
        let mail = cx.call(act("mail")).await?;
        Ok(hold + charge + mail)
    }
}

/// Its second call has failed, and the run with it; from now on all goes well.
fn failed() -> World {
    let mut world = World::new(&Pays).handle(|what, _| if what == "charge" { broken("declined") } else { value(1) });
    world.settle();
    assert_eq!(world.failure().message(), "declined");
    world.handler = Box::new(|_, _| value(10));
    world
}

#[test]
fn before_its_failure_a_call_is_made_again_and_what_came_before_is_not() {
    let mut world = failed();
    world.reset(Point::BeforeFailure(2)).unwrap();
    world.settle();
    assert_eq!(world.acts, [("charge".into(), 2), ("mail".into(), 1)], "attempts go on, their budget is new");
    assert_eq!(world.output::<u64>(), 21, "the first result is that of the run before");
    assert_eq!(world.id.run_no, 2);
}

#[test]
fn before_a_call_the_code_decides_again_what_follows_a_result_that_is_kept() {
    let mut world = failed();
    world.reset(Point::BeforeCall(2)).unwrap();
    let forked = world.commits().iter().position(|commit| commit.events.iter().any(is_forked)).unwrap();
    let calls = |commit: &Commit| {
        commit.events.iter().any(|event| matches!(event, Event::Command(Command::Call(call)) if call.position == 2))
    };
    assert!(!world.commits()[..=forked].iter().any(calls), "the call is not in the copy");
    world.settle();
    assert_eq!(world.acts, [("charge".into(), 1), ("mail".into(), 1)], "it was made anew");
    assert_eq!(world.output::<u64>(), 21);
    assert!(world.inbox.is_empty());
}

fn is_forked(event: &Event) -> bool {
    matches!(event, Event::Fact(Fact::Forked(_)))
}

#[test]
fn before_a_call_behind_a_failure_that_the_code_has_taken_the_failure_happens_again() {
    flow!(Takes, |cx| -> u64 {
        let first = cx.call(act("first")).retry(Retry::fixed(secs(1)).attempts(2)).await;
        let text = match first {
            Err(CallError::Failed(error)) => error.to_string(),
            other => format!("{other:?}"),
        };
        cx.call(Act(text)).await?;
        Err(AppError::new("as planned"))
    });
    let mut world = World::new(&Takes).handle(|what, _| if what == "first" { broken("odd") } else { value(1) });
    world.settle();
    assert_eq!(world.failure().message(), "as planned");
    world.reset(Point::BeforeCall(2)).unwrap();
    world.settle();
    assert_eq!(world.acts, [("odd".into(), 1)]);
    assert_eq!(world.failure().message(), "as planned");
}

#[test]
fn before_a_call_behind_one_that_was_ended_from_outside_as_failed_that_happens_again_though_it_parks_by_itself() {
    flow!(Parks, |cx| -> u64 {
        let parks = cx.call(act("parks")).retry(Retry::never()).on_exhausted(crate::cx::OnExhausted::Park).await;
        cx.call(Act(format!("{:?}", parks.map_err(|error| error.to_string())))).await?;
        Err(AppError::new("as planned"))
    });
    let mut world = World::new(&Parks).handle(|what, _| if what == "parks" { broken("odd") } else { value(1) });
    world.settle();
    let end = Box::new(TaskEnd::Failed(Failure::new("error", "given up").into()));
    let what = Ordered::Complete { position: 1, end };
    world.send("no", MessageBody::Order(Box::new(Order { by: "ada".into(), reason: String::new(), what })));
    world.settle();
    assert_eq!(world.failure().message(), "as planned");
    let acted = world.acts.last().unwrap().clone();
    assert!(acted.0.contains("given up"), "{acted:?}");
    world.reset(Point::BeforeCall(2)).unwrap();
    world.settle();
    assert_eq!(world.acts, [acted], "its end is as it was said");
    assert_eq!(world.failure().message(), "as planned");
    // The one that goes on from there has a budget of its own.
    world.reset(Point::BeforeFailure(1)).unwrap();
    world.settle();
    assert_eq!(world.acts, [("parks".into(), 2)]);
    assert!(world.run().state().waits()[0].contains("parked"));
}

#[test]
fn from_the_start_everything_runs_again_and_draws_other_random_numbers() {
    flow!(Draws, |cx| -> u64 {
        let first = cx.random();
        cx.call(act("a")).await?;
        Ok(first ^ cx.random())
    });
    let mut world = World::new(&Draws).handle(|_, _| value(1));
    world.settle();
    let before = world.output::<u64>();
    world.reset(Point::Start).unwrap();
    assert_eq!(world.log.len(), 2, "its start, and its first turn");
    world.settle();
    assert_eq!(world.acts, [("a".into(), 1)]);
    assert_ne!(world.output::<u64>(), before);
}

#[test]
fn what_was_drawn_in_the_copy_stays_and_what_comes_behind_it_differs_also_from_fork_to_fork() {
    flow!(Draws, |cx| -> (u64, u64) {
        let first = cx.random();
        cx.call(act("a")).await?;
        Ok((first, cx.random()))
    });
    let mut world = World::new(&Draws).handle(|_, _| value(1));
    world.settle();
    let (first, second) = world.output::<(u64, u64)>();
    let mut seen = vec![second];
    for _ in 0..3 {
        world.reset(Point::After(0)).unwrap();
        world.settle();
        let (again, other) = world.output::<(u64, u64)>();
        assert_eq!(again, first);
        assert!(!seen.contains(&other), "{other} was drawn before");
        seen.push(other);
    }
}

#[test]
fn at_every_good_point_of_every_program_the_next_run_comes_to_the_same_end_and_repeats_nothing_of_the_copy() {
    let (mut good, mut bad) = (0, 0);
    for (seed, handed) in seeds(60).into_iter().flat_map(|seed| [(seed, false), (seed, true)]) {
        let _named = Named(seed);
        let mut dice = Dice::new(seed);
        let program: Program = program(&mut dice, 3);
        let mut world = World::with(&Random(program.clone()), Limits::default(), false, None).unwrap();
        world.handler = Box::new(|what, _| value(what.parse::<u64>().unwrap() * 3));
        if handed {
            world.takes_over("before");
        }
        let mut words = 0;
        while world.step(&mut dice) {
            if dice.below(12) == 0 && words < 30 && world.outcome().is_none() {
                words += 1;
                world.word(&words.to_string());
            }
        }
        assert_eq!(world.output::<u64>(), direct(&program));
        let (log, id, now) = (world.log.clone(), world.id.clone(), world.now);
        let mut spots = world.spots();
        while spots.len() > 25 {
            spots.remove(dice.below(spots.len()));
        }
        for spot in spots {
            (world.log, world.id, world.now) = (log.clone(), id.clone(), now);
            let Ok(fork) = world.forked(Point::Before(spot.commit, spot.event), true) else {
                bad += 1;
                continue;
            };
            good += 1;
            let (copy, inbox) = (fork.log.clone(), fork.inbox.len());
            assert!(copy.iter().rev().skip(1).all(|commit| !commit.events.iter().any(is_forked)));
            world.go_on_from(fork);
            if dice.below(3) == 0 && world.outcome().is_none() {
                world.crash(true);
            }
            world.settle_by(&mut dice);
            assert_eq!(world.output::<u64>(), direct(&program), "{spot}: {program:?}");
            assert_eq!(world.facts(|fact| matches!(fact, Fact::Forked(_))), 1);
            assert_eq!(world.facts(|fact| matches!(fact, Fact::Inherited(_))), usize::from(handed), "{spot}: what it took over");
            let mut ends: HashMap<Position, u32> = HashMap::new();
            for event in world.events() {
                if let Event::Fact(Fact::Completed { position, .. }) = event {
                    *ends.entry(position).or_default() += 1;
                }
            }
            assert!(ends.values().all(|count| *count == 1), "{spot}: a result came twice");
            assert!(inbox == 0 || world.outcome().is_some());
            world.replayed(world.log.len()).unwrap();
        }
    }
    assert!(good > 200 && bad > 200, "{good} good points, {bad} others");
}

#[test]
fn a_fork_of_a_fork_has_the_names_of_each_part() {
    flow!(Names, |cx| -> Vec<String> {
        let mut names = Vec::new();
        for _ in 0..3 {
            let call = cx.call(act("a"));
            names.push(call.key());
            call.await?;
            names.push(cx.id().to_string());
        }
        Ok(names)
    });
    let mut world = World::new(&Names).handle(|_, _| value(1));
    world.settle();
    assert_eq!(world.output::<Vec<String>>(), ["x/1/1", "x/1", "x/1/2", "x/1", "x/1/3", "x/1"]);
    world.reset(Point::BeforeCall(2)).unwrap();
    world.settle();
    assert_eq!(
        world.output::<Vec<String>>(),
        ["x/1/1", "x/2", "x/2/2", "x/2", "x/2/3", "x/2"],
        "and keys are new behind the point"
    );
    world.reset(Point::BeforeCall(3)).unwrap();
    world.settle();
    assert_eq!(world.output::<Vec<String>>(), ["x/1/1", "x/2", "x/2/2", "x/3", "x/3/3", "x/3"]);
    world.evict();
}

#[test]
fn a_child_that_has_ended_is_a_fact_and_hears_nothing_and_one_whose_end_is_known_is_heard_again() {
    flow!(Kid, |cx| -> u64 {
        let first = cx.call(act("first")).await?;
        let kid = cx.child(super::orders::Leaf(6)).await?;
        Ok(first + kid + cx.call(act("last")).await?)
    });
    let mut world = World::new(&Kid).handle(|_, _| value(1));
    world.settle();
    assert_eq!(world.output::<u64>(), 44);
    for point in [Point::BeforeCall(3), Point::BeforeFailure(9), Point::After(1)] {
        let again = world.forked(point, false);
        match point {
            Point::BeforeFailure(_) => {
                let error = again.unwrap_err();
                assert!(matches!(error, PointError::NoSuchPlace { .. }), "{error}");
            }
            _ => {
                let fork = again.unwrap();
                assert!(matches!(&fork.inbox[..], [(id, MessageBody::Child { position: 2, .. }, _)] if *id == child_message(2)));
            }
        }
    }
    world.reset(Point::After(1)).unwrap();
    world.settle();
    assert_eq!(world.output::<u64>(), 44);
    assert_eq!(world.acts, [("last".into(), 1)]);
    assert!(world.begun.is_empty(), "no child is begun again");
}

#[test]
fn a_point_at_which_a_child_is_open_that_was_never_heard_of_is_refused_with_the_nearest_good_ones() {
    flow!(Leaves, |cx| -> u64 {
        cx.call(act("first")).await?;
        let kid = cx.child(super::orders::Leaf(6));
        let nap = cx.sleep(secs(5));
        let _ = cx.race(kid, nap).await;
        cx.call(act("last")).await?;
        Ok(1)
    });
    let mut world = World::new(&Leaves).handle(|_, _| value(1));
    let mut dice = Dice::new(1);
    while world.outcome().is_none() {
        world.children.clear();
        assert!(world.step(&mut dice) || world.outcome().is_some());
    }
    world.ack();
    let error = world.forked(Point::Before(2, 0), true).unwrap_err();
    let PointError::NotGood { before, after, why, .. } = &error else { panic!("{error}") };
    assert_eq!((before, after), (&Some(Spot { commit: 1, event: 0 }), &Some(Spot { commit: 3, event: 0 })), "{error}");
    assert!(why.contains("x/1/2"), "{error}");
    assert!(error.to_string().contains("after commit 0 and after commit 2"), "{error}");
    // Behind its drop it is nobody's any more.
    world.reset(Point::After(2)).unwrap();
    world.settle();
    assert_eq!(world.output::<u64>(), 1);
}

#[test]
fn points_within_what_one_fact_has_led_to_behind_the_end_and_nowhere_are_refused() {
    let world = failed();
    let why = |point| world.forked(point, true).unwrap_err().to_string();
    let within = why(Point::Before(0, 1));
    assert!(within.contains("within what one fact has led to") && within.contains("after commit 0"), "{within}");
    let last = u32::try_from(world.log.len()).unwrap() - 1;
    assert!(why(Point::After(last)).contains("has ended"));
    for nowhere in [Point::After(99), Point::Before(99, 0), Point::Before(0, 99), Point::BeforeCall(99), Point::BeforeFailure(1)]
    {
        assert!(why(nowhere).contains("has no"), "{nowhere:?}");
    }
}

#[test]
fn signals_behind_the_point_come_again_in_their_order_or_are_left_out_and_never_a_second_time() {
    flow!(Hears, |cx| -> String {
        let mut heard = String::new();
        cx.call(act("a")).await?;
        for _ in 0..3 {
            heard.push_str(&cx.signal::<Word>().await?.0);
        }
        Err(AppError::new(heard))
    });
    let mut world = World::new(&Hears).handle(|_, _| value(1));
    world.word("0");
    world.settle();
    for word in ["1", "2"] {
        world.word(word);
    }
    world.settle();
    assert_eq!(world.failure().message(), "012");
    let log = world.log.clone();
    let spot = world.commits().iter().position(|commit| {
        commit.events.iter().any(|event| matches!(event, Event::Fact(Fact::Received { message, .. }) if message == "word-1"))
    });
    let point = Point::Before(u32::try_from(spot.unwrap()).unwrap(), 0);
    let fork = world.forked(point, false).unwrap();
    world.go_on_from(fork);
    world.settle();
    assert_eq!(world.outcome(), None, "it waits");
    // They were taken by the run before: a late copy of its sender's is not read.
    world.word("2");
    world.settle();
    assert_eq!(world.outcome(), None);
    for word in ["8", "9"] {
        world.word(word);
    }
    world.settle();
    assert_eq!(world.failure().message(), "089");
    (world.log, world.id.run_no) = (log, 1);
    world.reset(point).unwrap();
    world.settle();
    assert_eq!(world.failure().message(), "012");
}

#[test]
fn what_led_to_a_call_comes_before_sleeps_that_are_over_long_ago_and_so_does_a_signal_that_was_in_time() {
    flow!(Patient, |cx| -> String {
        let quick = cx.race(cx.call(act("quick")), cx.sleep(secs(100))).await;
        let word = cx.signal::<Word>().within(secs(100)).await?;
        let nap = cx.race(cx.sleep(secs(10)), cx.sleep(secs(5))).await;
        cx.call(act("last")).await?;
        Err(AppError::new(format!(
            "{} {} {}",
            matches!(quick, crate::cx::Either::First(_)),
            word.is_some(),
            matches!(nap, crate::cx::Either::Second(_))
        )))
    });
    let mut world = World::new(&Patient).handle(|_, _| value(1));
    world.ack();
    world.start(1);
    world.deliver(1);
    world.turn_or_ack();
    world.word("in time");
    world.settle();
    assert_eq!(world.failure().message(), "true true true");
    let (log, id, now) = (world.log.clone(), world.id.clone(), world.now);
    let mut points: Vec<Point> = (3..=8).map(Point::BeforeCall).collect();
    points.extend(world.spots().into_iter().map(|spot| Point::Before(spot.commit, spot.event)));
    let (mut tried, mut calls) = (0, 0);
    for point in points {
        (world.log, world.id, world.now) = (log.clone(), id.clone(), now);
        let Ok(fork) = world.forked(point, true) else { continue };
        // What was open and is made again has lost its race against a time that is over.
        if fork
            .log
            .iter()
            .flat_map(|commit| &commit.events)
            .any(|event| matches!(event, Event::Fact(Fact::Completed { position: 1, .. })))
            || fork.inbox.iter().any(|(_, body, _)| matches!(body, MessageBody::Task { .. }))
        {
            calls += u32::from(matches!(point, Point::BeforeCall(_)));
            tried += 1;
            world.go_on_from(fork);
            world.settle();
            assert_eq!(world.failure().message(), "true true true", "{point:?}");
        }
    }
    assert!(tried >= 8 && calls >= 4, "{tried} {calls}");
}

#[test]
fn what_came_next_comes_first_also_if_a_timer_was_late_by_then() {
    flow!(Late, |cx| -> String {
        let word = cx.signal::<Word>().within(secs(5)).await?;
        let nap = cx.race(cx.sleep(secs(1)), cx.sleep(secs(5))).await;
        cx.call(act("last")).await?;
        Err(AppError::new(format!("{} {}", word.is_some(), matches!(nap, crate::cx::Either::Second(_)))))
    });
    let mut world = World::new(&Late).handle(|_, _| value(1));
    world.ack();
    world.now = world.now.after(secs(10));
    world.word("late, and yet before the timer");
    world.turn_or_ack();
    let open: Vec<Position> = world.run().state().open.keys().collect();
    let &[one, other] = &open[..] else { panic!("{open:?}") };
    world.now = world.now.after(secs(10));
    world.arrived.push_back(Arrival::Due { position: other });
    world.turn_or_ack();
    world.settle();
    assert_eq!(world.failure().message(), "true true");
    let (log, id, now) = (world.log.clone(), world.id.clone(), world.now);
    for point in [Point::BeforeCall(one), Point::BeforeCall(other + 1)] {
        (world.log, world.id, world.now) = (log.clone(), id.clone(), now);
        world.reset(point).unwrap();
        let (kept, rest) = (point == Point::BeforeCall(one), ["true true", "true false"]);
        world.settle();
        let message = world.failure().message().to_owned();
        assert!(if kept { rest.contains(&&*message) } else { message == "true true" }, "{point:?}: {message}");
    }
}

#[test]
fn what_asked_it_to_stop_does_not_come_again() {
    let mut world = World::new(&Pays).handle(|_, _| value(1));
    world.ack();
    world.cancel();
    world.settle();
    assert!(matches!(world.outcome(), Some(Outcome::Cancelled { .. })), "{:?}", world.outcome());
    world.reset(Point::After(0)).unwrap();
    world.cancel();
    world.settle();
    assert_eq!(world.output::<u64>(), 3, "the same wish, sent again, is known");
}

#[test]
fn sleeps_end_when_they_would_have_and_a_deadline_leaves_as_much_time_as_at_the_point() {
    flow!(Sleeps, |cx| -> u64 {
        cx.call(act("a")).await?;
        cx.sleep(secs(5_000)).await?;
        Ok(1)
    });
    let mut world = World::with(&Sleeps, Limits::default(), true, Some(secs(100))).unwrap().handle(|_, _| value(1));
    world.settle();
    assert_eq!(world.outcome(), Some(Outcome::TimedOut));
    let due = Timestamp(1_000_000).after(secs(5_000));
    world.reset(Point::After(1)).unwrap();
    let now = world.now;
    let state = world.run().state().clone();
    assert_eq!(state.due_of(2), Some(due));
    assert_eq!(state.started.deadline, Some(now.after(secs(100))));
    assert_eq!(world.run().rest(now), Rest::Waits { next: Some(now.after(secs(100))) });
    world.settle();
    assert_eq!(world.outcome(), Some(Outcome::TimedOut), "and it is one");
}

#[test]
fn what_is_shown_is_what_was_shown_at_the_point_and_newer_than_anything_before() {
    flow!(Shows, |cx| -> u64 {
        cx.publish("state", &"first".to_owned());
        cx.count("acts", 1);
        cx.call(act("a")).await?;
        cx.publish("state", &"last".to_owned());
        cx.count("acts", 1);
        Err(AppError::new("odd"))
    });
    let mut world = World::new(&Shows).handle(|_, _| value(1));
    world.settle();
    let newest = world.shown["state"].version;
    world.reset(Point::After(0)).unwrap();
    assert_eq!((world.value::<String>("state").unwrap().as_str(), world.value::<u64>("acts")), ("first", Some(1)));
    assert!(world.shown.values().all(|row| row.version > newest));
    world.settle();
    assert_eq!((world.value::<String>("state").unwrap().as_str(), world.value::<u64>("acts")), ("last", Some(2)));
}

/// Hears a word, shows it, and goes on as new; the second run fails.
#[derive(Serialize, Deserialize)]
struct Goes(bool);

impl Workflow for Goes {
    const NAME: &'static str = "goes";
    type Output = u64;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u64, AppError> {
        let Word(word) = cx.signal().await?;
        cx.publish("word", &word);
        cx.call(Act(word)).await?;
        if self.0 { Ok(cx.continue_as_new(Goes(false)).await?) } else { Err(AppError::new("odd")) }
    }
}

#[test]
fn what_a_run_took_over_from_the_one_that_continued_as_it_is_taken_over_and_shown_again() {
    let mut world = World::new(&Goes(true)).handle(|_, _| value(1));
    world.word("a");
    world.word("b");
    world.settle();
    world.go_on();
    world.settle();
    assert_eq!(world.failure().message(), "odd");
    let newest = world.shown["word"].version;
    for point in [Point::Start, Point::BeforeCall(2), Point::After(0)] {
        let (log, id) = (world.log.clone(), world.id.clone());
        let fork = world.forked(point, true).unwrap();
        let shown = &fork.published[0];
        assert_eq!(shown.value.decode::<String>("it").unwrap(), "a", "{point:?}: what it had taken over");
        assert!(shown.version > newest, "{point:?}: it is newer than what was shown before");
        world.go_on_from(fork);
        world.settle();
        assert_eq!(world.failure().message(), "odd", "{point:?}");
        assert_eq!(world.acts, [("b".into(), 1)], "{point:?}: the word that was handed on");
        (world.log, world.id) = (log, id);
    }
}

#[test]
fn inline_and_blocking_steps_that_were_open_run_again_under_their_next_attempts() {
    flow!(Steps, |cx| -> u64 {
        let inline = cx.step("inline", async || Ok::<_, AppError>(1_u64));
        let blocking = cx.blocking("blocking", || Ok::<_, AppError>(2_u64));
        let (inline, blocking) = futures::join!(inline, blocking);
        Ok(inline? + blocking?)
    });
    let mut world = World::new(&Steps);
    world.settle();
    assert_eq!(world.output::<u64>(), 3);
    world.reset(Point::After(0)).unwrap();
    world.settle();
    assert_eq!(world.output::<u64>(), 3);
    let attempts = world.events().into_iter().filter_map(|event| match event {
        Event::Fact(Fact::Completed { attempt, .. }) => Some(attempt),
        _ => None,
    });
    assert_eq!(attempts.collect::<Vec<_>>(), [2, 2]);
}
