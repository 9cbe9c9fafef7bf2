//! Chains of runs: the next one begins in the commit of the end, and takes over what belongs to the execution. Nothing is lost, nothing
//! read twice.

use futures::future::join;

use super::{orders::Leaf, *};
use crate::{
    ContinueError, Cx,
    kernel::{chain::History, event::Parent},
};

/// Counts words, so many to a run, and goes on until it hears the last one.
#[derive(Serialize, Deserialize)]
struct Counts {
    heard: Vec<String>,
    each: usize,
}

impl Workflow for Counts {
    const NAME: &'static str = "counts";
    type Output = Vec<String>;
    type Error = AppError;

    async fn run(mut self, cx: Cx<Self>) -> Result<Vec<String>, AppError> {
        for _ in 0..self.each {
            let Word(word) = cx.signal().await?;
            let last = word == "last";
            self.heard.push(word);
            if last {
                return Ok(self.heard);
            }
        }
        Ok(cx.continue_as_new(self).await?)
    }
}

fn counts(each: usize) -> World {
    World::new(&Counts { heard: Vec::new(), each })
}

/// Lets everything happen, in whatever run.
fn settle(world: &mut World) {
    world.settle();
    while world.onward.is_some() {
        world.go_on();
        world.settle();
    }
}

fn started(world: &World) -> Started {
    match world.events().into_iter().next() {
        Some(Event::Fact(Fact::Started(started))) => *started,
        other => panic!("it begins with {other:?}"),
    }
}

#[test]
fn the_next_run_is_decided_in_the_commit_of_the_end_and_nothing_is_left_to_do() {
    let mut world = counts(1);
    world.word("a");
    world.ack();
    world.turn();
    let decision = world.in_flight.as_ref().unwrap();
    let commands: Vec<&Event> = decision.commit.events.iter().rev().take(2).collect();
    assert!(matches!(commands[..], [Event::Command(Command::End { outcome }), Event::Command(Command::Continue { .. })]
        if **outcome == Outcome::Continued));
    let Onward { started, inherited, .. } = &**decision.onward.as_ref().unwrap();
    assert_eq!((started.workflow.as_str(), started.version), ("counts", 1));
    assert_eq!(started.input.decode::<Counts>("it").unwrap().heard, ["a"]);
    assert_eq!(inherited.known, ["word-a"]);
    assert!(decision.effects.is_empty() && inherited.unread.is_empty());
    assert_ne!(started.seed, 7, "its random numbers are others");
}

#[test]
fn signals_that_nobody_has_read_are_read_by_the_next_runs_in_their_order_and_known_ids_stay_known() {
    let mut world = counts(2);
    for word in ["a", "b", "c", "d", "e"] {
        world.word(word);
    }
    world.ack();
    world.turn();
    // Two are facts of the first run, the others are still in the inbox; of those that were received none is unread.
    assert_eq!(world.in_flight.as_ref().unwrap().consumed, [1, 2]);
    settle(&mut world);
    assert_eq!(world.id.run_no, 3);
    // Sent once more, by somebody who heard no answer: to another run of the chain.
    world.word("a");
    world.word("e");
    world.word("last");
    settle(&mut world);
    assert_eq!(world.output::<Vec<String>>(), ["a", "b", "c", "d", "e", "last"]);
    assert_eq!(world.facts(|fact| matches!(fact, Fact::Ignored { .. })), 2);
}

#[test]
fn what_was_received_and_not_read_is_handed_on_before_what_is_still_in_the_inbox() {
    #[derive(Serialize, Deserialize)]
    struct Second(u32);
    impl Workflow for Second {
        const NAME: &'static str = "second";
        type Output = Vec<String>;
        type Error = AppError;
        async fn run(self, cx: Cx<Self>) -> Result<Vec<String>, AppError> {
            if self.0 == 0 {
                cx.sleep(secs(1)).await?;
                return Ok(cx.continue_as_new(Second(1)).await?);
            }
            let mut heard = Vec::new();
            for _ in 0..4 {
                heard.push(cx.signal::<Word>().await?.0);
            }
            Ok(heard)
        }
    }
    let mut world = World::new(&Second(0));
    world.ack();
    world.word("a");
    world.word("b");
    world.turn();
    world.ack();
    world.evict();
    world.pass(secs(1));
    world.word("c");
    world.turn();
    // Somebody sends while the end is under way.
    world.word("d");
    settle(&mut world);
    assert_eq!(world.output::<Vec<String>>(), ["a", "b", "c", "d"]);
}

/// Goes on once, and then reads until its history is long.
#[derive(Serialize, Deserialize)]
struct Reads {
    second: bool,
}

impl Workflow for Reads {
    const NAME: &'static str = "reads";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        if !self.second {
            cx.signal::<Word>().await?;
            return Ok(cx.continue_as_new(Reads { second: true }).await?);
        }
        if cx.should_continue() {
            return Ok("went on at once".to_owned());
        }
        Ok(cx.signal::<Word>().await?.0)
    }
}

#[test]
fn a_run_that_was_handed_much_is_not_long_by_that_and_does_its_part() {
    let mut world = World::new(&Reads { second: false });
    for number in 0..3 {
        let payload = Payload::encode(&"x".repeat(1_900_000), "other").unwrap();
        world.send(&format!("other-{number}"), MessageBody::Signal { name: "other".into(), payload });
    }
    world.word("first");
    settle(&mut world);
    world.word("second");
    settle(&mut world);
    assert_eq!(world.output::<String>(), "second");
}

#[test]
fn deadline_limits_and_parent_go_along_and_the_parent_hears_of_the_last_end_only() {
    let limits = Limits { history_commits: 77, ..Limits::default() };
    let mut world = World::with(&Counts { heard: Vec::new(), each: 1 }, limits, true, Some(secs(60))).unwrap();
    let parent = Parent { run: RunId { id: "p".into(), run_no: 4 }, position: 9 };
    world.word("a");
    world.ack();
    world.turn();
    world.in_flight.as_mut().unwrap().onward.as_mut().unwrap().started.parent = Some(Box::new(parent.clone()));
    world.ack();
    world.go_on();
    let (deadline, now) = (started(&world).deadline, world.now);
    assert_eq!((deadline, started(&world).limits), (Some(Timestamp(1_000_000).after(secs(60))), Some(Box::new(limits))));
    assert!(now < deadline.unwrap());
    // The second run continues as well, and says nothing to whoever waits.
    world.word("b");
    world.settle();
    assert!(world.told.is_empty());
    world.go_on();
    assert_eq!(started(&world).parent.as_deref(), Some(&parent));
    // Whoever began the first run may stop any, and nobody else.
    let stranger = Parent { position: 8, ..parent.clone() };
    world.send("stop-x", MessageBody::Stop { parent: stranger });
    world.send("stop", MessageBody::Stop { parent: parent.clone() });
    world.settle();
    assert!(matches!(world.outcome(), Some(Outcome::Cancelled { .. })));
    assert!(matches!(&world.told[..], [Tell { to, body: MessageBody::Child { position: 9, .. }, .. }] if *to == parent.run));
}

#[test]
fn a_deadline_passes_in_whatever_run_it_finds() {
    let mut world = World::with(&Counts { heard: Vec::new(), each: 1 }, Limits::default(), true, Some(secs(60))).unwrap();
    world.word("a");
    world.ack();
    world.turn();
    world.ack();
    world.go_on();
    settle(&mut world);
    assert_eq!(world.outcome(), Some(Outcome::TimedOut));
    assert_eq!(world.id.run_no, 2);
}

/// Says why it was refused, and goes on.
fn refused(error: ContinueError) -> Result<String, AppError> {
    Ok(error.to_string())
}

#[test]
fn it_is_refused_by_name_while_something_is_awaited_elsewhere_and_the_run_goes_on() {
    flow!(Awaits, |cx| -> String {
        let all = join(
            async {
                let _ = join(join(cx.call(act("a")), cx.sleep(secs(1))), join(cx.signal::<Word>(), cx.child(Leaf(1)))).await;
            },
            async { refused(cx.continue_as_new(Awaits).await.unwrap_err()) },
        );
        all.await.1
    });
    let mut world = World::new(&Awaits);
    world.word("a");
    world.settle();
    let text = world.output::<String>();
    assert!(text.contains("an activity (#1), a sleep (#2), a signal (#3), a child (#4)"), "{text}");
    assert!(text.contains("await or drop these first") && world.onward.is_none());
    assert_eq!(world.commands(|command| matches!(command, Command::Continue { .. })), 0, "nothing of it is recorded");
}

#[test]
fn what_was_dropped_is_not_in_the_way_nor_is_a_detached_child() {
    flow!(Drops, |cx| -> String {
        let _ = cx.race(cx.call(act("slow")), cx.sleep(secs(1))).await;
        cx.child(Leaf(1)).detach().await?;
        Ok(cx.continue_as_new(Drops).await?)
    });
    let mut world = World::new(&Drops);
    world.ack();
    world.pass(secs(1));
    world.turn();
    let decision = world.in_flight.as_ref().unwrap();
    assert!(decision.onward.is_some() && decision.starts.len() == 1 && decision.tells.is_empty());
    assert!(decision.effects.iter().any(|effect| matches!(effect, Effect::Abort { .. })), "the slow act is told to stop");
}

#[test]
fn an_end_that_has_come_and_was_not_heard_of_is_in_the_way_too() {
    flow!(Deaf, |cx| -> String {
        let mut word = Box::pin(cx.signal::<Word>());
        let first = futures::poll!(word.as_mut());
        assert!(first.is_pending());
        cx.sleep(secs(1)).await?;
        let why = refused(cx.continue_as_new(Deaf).await.unwrap_err())?;
        Ok(format!("{why}; {}", word.await?.0))
    });
    let mut world = World::new(&Deaf);
    world.ack();
    world.word("a");
    world.turn();
    world.settle();
    assert!(world.output::<String>().contains("a signal (#1)") && world.output::<String>().ends_with("; a"));
}

#[test]
fn it_is_refused_within_a_saga_and_while_one_is_being_undone() {
    flow!(InSaga, |cx| -> String {
        let within = cx
            .saga(async |saga| {
                saga.undo(act("undo"));
                refused(cx.continue_as_new(InSaga).await.unwrap_err())
            })
            .await?;
        // Behind it, it is possible; dropped in the middle, it is undone first.
        let dropped = cx.saga(async |saga| {
            saga.undo(act("undo"));
            cx.sleep(secs(9)).await?;
            Ok::<_, AppError>(())
        });
        let _ = cx.race(dropped, cx.sleep(secs(1))).await;
        let undoing = refused(cx.continue_as_new(InSaga).await.unwrap_err())?;
        Ok(format!("{within}|{undoing}"))
    });
    let mut world = World::new(&InSaga);
    world.settle();
    let text = world.output::<String>();
    assert_eq!(text.matches("within a saga").count(), 2, "{text}");
    assert_eq!(world.acts_named("undo"), 1);
}

#[test]
fn too_large_an_argument_and_too_much_that_is_unread_are_refused_with_the_numbers() {
    #[derive(Serialize, Deserialize)]
    struct Large(String);
    impl Workflow for Large {
        const NAME: &'static str = "large";
        type Output = String;
        type Error = AppError;
        async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
            cx.sleep(secs(1)).await?;
            let large = cx.continue_as_new(Large("x".repeat(1_000))).await.unwrap_err();
            let much = cx.continue_as_new(Large(String::new())).await.unwrap_err();
            let Word(_) = cx.signal().await?;
            cx.continue_as_new(Large(format!("{large:?} {much:?}"))).await?;
            Ok("it does not come back".to_owned())
        }
    }
    let limits = Limits { payload_bytes: 800, item_bytes: 1_000, ..Limits::default() };
    let mut world = World::with(&Large(String::new()), limits, true, None).unwrap();
    world.ack();
    world.word(&"a".repeat(600));
    world.word(&"b".repeat(600));
    world.turn();
    world.ack();
    if !world.arrived.is_empty() {
        world.turn();
        world.ack();
    }
    world.pass(secs(1));
    world.turn();
    let onward = world.in_flight.as_ref().unwrap().onward.clone().unwrap();
    assert_eq!(onward.inherited.unread.len(), 1);
    let Large(said) = onward.started.input.decode("it").unwrap();
    assert!(said.starts_with("TooLarge { size: 1003, limit: 800 }"), "{said}");
    assert!(said.contains("TooMuchUnread { bytes: 1") && said.contains("limit: 1000"), "{said}");
}

#[test]
fn a_cancelled_run_is_refused_as_any_await_is_and_behind_the_shield_the_next_run_is_cancelled() {
    #[derive(Serialize, Deserialize)]
    struct Cleans(u32);
    impl Workflow for Cleans {
        const NAME: &'static str = "cleans";
        type Output = String;
        type Error = AppError;
        async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
            if self.0 == 1 {
                assert!(cx.is_cancelled(), "from its beginning on");
                cx.shielded(cx.call(act("clean"))).await?;
                cx.sleep(secs(1)).await?;
            }
            let _ = cx.sleep(secs(1)).await;
            assert_eq!(cx.continue_as_new(Cleans(9)).await, Err(ContinueError::Cancelled));
            Ok(cx.shielded(cx.continue_as_new(Cleans(1))).await?)
        }
    }
    let mut world = World::new(&Cleans(0));
    world.ack();
    world.cancel();
    world.settle();
    world.go_on();
    // A second wish comes too late, as it would have in the first run.
    world.send("again", MessageBody::Cancel { reason: "once more".into() });
    world.settle();
    assert_eq!(world.outcome(), Some(Outcome::Cancelled { reason: "enough".into() }));
    assert_eq!(world.acts_named("clean"), 1);
}

#[test]
fn a_wish_to_stop_that_comes_while_the_end_is_under_way_finds_the_next_run() {
    let mut world = counts(1);
    world.word("a");
    world.ack();
    world.turn();
    world.cancel();
    settle(&mut world);
    assert_eq!((world.id.run_no, world.outcome()), (2, Some(Outcome::Cancelled { reason: "enough".into() })));
}

#[test]
fn what_is_for_a_place_in_the_old_run_never_reaches_the_new_one() {
    let mut world = counts(1);
    world.word("a");
    world.ack();
    world.turn();
    world.send("task/1/1", MessageBody::Task { position: 1, attempt: 1, end: TaskEnd::Lost, details: None });
    world.send("stent:child:1", MessageBody::Child { position: 1, end: Box::new(Outcome::TimedOut) });
    world.send("retry", MessageBody::Retry { position: Some(1) });
    world.send("retry-all", MessageBody::Retry { position: None });
    settle(&mut world);
    assert_eq!((world.id.run_no, world.inbox.len()), (2, 0));
    assert_eq!(world.facts(|fact| matches!(fact, Fact::Ignored { .. })), 1, "the one that is for whatever is parked");
}

#[test]
fn nothing_stands_behind_it_whatever_else_is_ready_in_the_same_poll() {
    flow!(Races, |cx| -> u64 {
        let _ = join(cx.continue_as_new(Races), async { cx.call(act("late")).await }).await;
        Ok(1)
    });
    let mut world = World::new(&Races);
    world.settle();
    assert_eq!(world.outcome(), Some(Outcome::Continued));
    assert!(world.acts.is_empty());
    flow!(Ready, |cx| -> u64 {
        let _ = cx.race(cx.continue_as_new(Ready), std::future::ready(())).await;
        Ok(1)
    });
    let world = World::new(&Ready);
    assert!(world.in_flight.unwrap().onward.is_some());
    flow!(Breaks, |cx| -> u64 {
        let _ = join(cx.continue_as_new(Breaks), async { panic!("boom") }).await;
        Ok(1)
    });
    let mut world = World::new(&Breaks);
    assert!(world.in_flight.as_ref().unwrap().onward.is_none(), "a run that breaks does not go on");
    world.settle();
    assert!(world.failure().message().contains("boom"));
}

#[test]
fn inside_the_closure_of_a_step_it_is_a_mistake_and_found() {
    flow!(Inside, |cx| -> u64 {
        let inner = cx.clone();
        Ok(cx.step("s", async || inner.continue_as_new(Inside).await.map_err(|e| AppError::new(e.to_string()))).await?)
    });
    let mut world = World::new(&Inside);
    world.ack();
    let position = *world.to_start.keys().next().unwrap();
    let attempt = world.to_start[&position].0;
    world.run().grant(position, attempt);
    assert!(world.run().poll_steps().is_err());
}

#[test]
fn replay_compares_what_a_run_goes_on_with_and_the_length_of_its_history_is_the_same_in_replay() {
    #[derive(Serialize, Deserialize)]
    struct Measures(Vec<(u64, u64, u64)>);
    impl Workflow for Measures {
        const NAME: &'static str = "measures";
        type Output = Vec<(u64, u64, u64)>;
        type Error = AppError;
        async fn run(mut self, cx: Cx<Self>) -> Result<Self::Output, AppError> {
            for n in 0..12 {
                let History { commits, events, bytes, .. } = cx.history();
                self.0.push((commits, events, bytes));
                match n % 4 {
                    0 => _ = cx.call(act("a")).await?,
                    1 => cx.sleep(secs(1)).await?,
                    2 => _ = cx.signal::<Word>().await?,
                    _ => _ = cx.race(cx.sleep(secs(9)), cx.sleep(secs(1))).await,
                }
            }
            Ok(self.0)
        }
    }
    let measured = |evicts: bool| {
        let mut world = World::new(&Measures(Vec::new()));
        ["a", "b", "c"].iter().for_each(|word| world.word(word));
        let mut dice = Dice::new(3);
        while world.step(&mut dice) {
            if evicts && world.in_flight.is_none() && world.outcome().is_none() && world.arrived.is_empty() {
                world.evict();
                let effects = world.to_start.len();
                assert!(effects <= 1);
            }
        }
        world.output::<Vec<(u64, u64, u64)>>()
    };
    let lived = measured(false);
    assert_eq!(measured(true), lived);
    assert!(lived.is_sorted() && lived[0] == (0, 0, 0) && lived[11].1 > 20 && lived[11].2 > 0, "{lived:?}");
    assert!(!History { events: 4_095, ..History::default() }.is_long());
    assert!(History { events: 4_096, ..History::default() }.is_long());
    assert!(History { bytes: 4 << 20, ..History::default() }.is_long());

    let mut world = counts(1);
    world.word("a");
    world.settle();
    let log = world.events();
    world.begin = {
        flow!(Another, |cx| -> u64 { Ok(cx.signal::<Word>().await.map(|_| 1)?) });
        crate::registry::begin::<Another>()
    };
    assert!(log.iter().any(|event| matches!(event, Event::Command(Command::Continue { .. }))));
    assert!(world.replayed(world.log.len()).is_err(), "it returns where the log goes on");
}

#[test]
fn each_word_is_counted_once_in_its_order_however_runs_end_and_crash() {
    for seed in seeds(400) {
        let _named = Named(seed);
        let mut dice = Dice::new(seed);
        let mut world = counts(1 + dice.below(4));
        let (mut sent, mut runs) = (0, 1);
        loop {
            match dice.below(10) {
                0..=2 if sent < 20 => {
                    let word = if sent == 19 { "last".to_owned() } else { format!("{sent:02}") };
                    world.word(&word);
                    sent += 1;
                }
                3 if sent > 1 && sent < 20 => world.word(&format!("{:02}", dice.below(sent))),
                4 if !world.log.is_empty() => {
                    let stored = world.in_flight.is_some() && dice.below(2) == 0;
                    world.crash(stored);
                }
                5 if world.in_flight.is_none() && !world.log.is_empty() && world.arrived.is_empty() => world.evict(),
                _ => _ = world.step(&mut dice),
            }
            if world.in_flight.is_none() && world.onward.is_some() {
                assert!(world.log.len() < 40, "the log of each run is short");
                world.go_on();
                runs += 1;
            }
            if sent == 20 && matches!(world.outcome(), Some(Outcome::Completed(_))) && world.in_flight.is_none() {
                break;
            }
        }
        let heard = world.output::<Vec<String>>();
        let wanted: Vec<String> = (0..19).map(|n| format!("{n:02}")).chain(["last".to_owned()]).collect();
        assert_eq!(heard, wanted);
        assert!(runs >= 5, "{runs} runs");
    }
}

/// Shows each word that it hears, one to a run.
#[derive(Serialize, Deserialize)]
struct Shows {
    other: bool,
}

impl Workflow for Shows {
    const NAME: &'static str = "shows";
    type Output = u64;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u64, AppError> {
        if self.other {
            cx.publish("other", &1);
        }
        let Word(word) = cx.signal().await?;
        cx.count("words", 1);
        cx.publish("word", &word);
        if word == "last" {
            return Ok(1);
        }
        Ok(cx.continue_as_new(Shows { other: word == "other" }).await?)
    }
}

#[test]
fn what_is_published_goes_along_as_it_is_and_counters_go_on() {
    let mut world = World::new(&Shows { other: false });
    for (number, word) in [(1, "a"), (2, "b"), (3, "last")] {
        world.word(word);
        world.settle();
        let before = world.shown.clone();
        if world.onward.is_some() {
            let handed: Vec<_> =
                world.onward.as_ref().unwrap().inherited.published.iter().filter_map(|kept| kept.publication()).collect();
            assert_eq!(handed, before.values().cloned().collect::<Vec<_>>());
            world.go_on();
            world.settle();
            world.evict();
            assert_eq!(world.shown, before, "what is handed on is no news");
        }
        assert_eq!((world.value::<i64>("words"), world.value::<String>("word")), (Some(number), Some(word.to_owned())));
    }
    assert_eq!(world.id.run_no, 3);
}

#[test]
fn what_was_handed_on_counts_for_the_limits_and_keeps_its_kind() {
    let limits = Limits { published_keys: 2, ..Limits::default() };
    let mut world = World::with(&Shows { other: false }, limits, true, None).unwrap();
    world.word("other");
    settle(&mut world);
    assert!(world.failure().to_string().contains("than 2 published keys"));
}
