//! Guard rails: what would break replay is found at the first run and named; what is over a limit fails typed; what does
//! not fit a log changes nothing.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    pin::Pin,
    rc::Rc,
    sync::{Mutex, atomic::AtomicU64},
    task::{Context, Poll, Waker},
};

use super::{
    super::{Misuse, instance::Instance, tape::Tape},
    *,
};

/// A future that keeps its waker where the test finds it.
#[derive(Clone, Default)]
struct Foreign(Arc<Mutex<Option<Waker>>>);

impl Future for Foreign {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        *self.0.lock().unwrap() = Some(cx.waker().clone());
        Poll::Pending
    }
}

type Stored = (super::super::event::Commit, super::super::id::Digest);

thread_local!(static FOREIGN: Foreign = Foreign::default());

fn wake_from_another_thread() {
    let waker = FOREIGN.with(|foreign| foreign.0.lock().unwrap().clone().unwrap());
    std::thread::spawn(move || waker.wake()).join().unwrap();
}

flow!(Beside, |cx| -> u64 {
    let step = cx.step("s", async || std::future::pending::<Result<u64, AppError>>().await);
    let (_, _) = futures::join!(step, FOREIGN.with(Clone::clone));
    Ok(1)
});

#[test]
fn a_wake_up_from_outside_is_reported_with_the_workflow_also_beside_a_step() {
    let mut world = World::with(&Beside, Limits::default(), false, None).unwrap();
    world.ack();
    world.start(1);
    assert!(world.run().foreign().is_none());
    wake_from_another_thread();
    assert!(world.nudged.load(Ordering::SeqCst), "the host hears of it at once");
    let text = world.run().foreign().unwrap().to_string();
    assert!(text.contains("workflow Beside") && text.contains("cx.sleep"), "{text}");
    assert!(world.run().poll_steps().is_err());
    world.cancel();
    assert!(world.try_turn().is_err(), "nothing is recorded any more");
}

#[test]
fn a_wake_up_from_another_thread_during_a_poll_is_no_excuse() {
    flow!(During, |cx| -> u64 {
        let foreign = async {
            let mut foreign = FOREIGN.with(Clone::clone);
            let _ = futures::poll!(&mut foreign);
            wake_from_another_thread();
        };
        let (_, slept) = futures::join!(foreign, cx.sleep(secs(1)));
        slept?;
        Ok(1)
    });
    let blocked = World::with(&During, Limits::default(), false, None).err().unwrap();
    assert!(matches!(blocked, Blocked::Misuse { misuse: Misuse::ForeignWake, .. }), "{blocked}");
}

#[test]
fn waiting_for_nothing_durable_is_found_at_once() {
    flow!(Forever, |_cx| -> u64 { std::future::pending().await });
    let text = World::with(&Forever, Limits::default(), true, None).err().unwrap().to_string();
    assert!(text.contains("workflow Forever") && text.contains("await only futures of `cx`"), "{text}");
}

#[test]
fn a_workflow_that_wakes_itself_without_end_is_stopped() {
    flow!(Spins, |_cx| -> u64 {
        std::future::poll_fn(|cx| {
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await
    });
    let blocked = World::with(&Spins, Limits::default(), false, None).err().unwrap();
    assert!(matches!(blocked, Blocked::Misuse { misuse: Misuse::Spins(_), .. }));
}

#[test]
fn the_twin_finds_what_is_not_deterministic_at_the_first_run() {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    flow!(Counts, |cx| -> u64 { Ok(cx.call(Act(COUNT.fetch_add(1, Ordering::SeqCst).to_string())).await?) });
    flow!(Naps, |cx| -> u64 {
        cx.sleep(Duration::from_millis(COUNT.fetch_add(1, Ordering::SeqCst))).await?;
        Ok(1)
    });
    flow!(Order, |cx| -> u64 {
        let map: HashMap<u64, u64> = (0..40).map(|n| (n, n)).collect();
        let all = futures::future::join_all(map.keys().map(|n| cx.call(Act(n.to_string())))).await;
        Ok(all.len() as u64)
    });
    let text = World::with(&Counts, Limits::default(), true, None).err().unwrap().to_string();
    assert!(text.contains("Counts is not deterministic") && text.contains("with other data"), "{text}");
    assert!(matches!(World::with(&Naps, Limits::default(), true, None), Err(Blocked::NotDeterministic { .. })));
    assert!(matches!(World::with(&Order, Limits::default(), true, None), Err(Blocked::NotDeterministic { .. })));
}

#[derive(Serialize, Deserialize)]
struct Table(HashMap<u64, u64>);

impl Activity for Table {
    const NAME: &'static str = "table";
    type Output = u64;
    type Error = AppError;
}

#[test]
fn the_twin_accepts_a_map_within_a_value() {
    flow!(Passes, |cx| -> HashMap<u64, u64> {
        let map: HashMap<u64, u64> = (0..40).map(|n| (n, n)).collect();
        let mut call = Box::pin(cx.call(Table(map.clone())));
        let _ = futures::poll!(&mut call);
        Ok(map)
    });
    World::new(&Passes).settle();
}

thread_local!(static BUILD: Cell<u32> = const { Cell::new(1) });

#[test]
fn changed_code_is_blocked_with_what_was_expected_and_found() {
    flow!(Changed, |cx| -> u64 {
        cx.call(act("a")).await?;
        match BUILD.get() {
            1 => cx.sleep(secs(5)).await?,
            2 => {
                cx.call(act("b")).await?;
            }
            3 => {}
            _ => drop(futures::join!(cx.sleep(secs(5)), cx.sleep(secs(5)))),
        }
        Ok(1)
    });
    BUILD.set(1);
    let mut world = World::new(&Changed);
    world.ack();
    world.start(1);
    world.deliver(1);
    world.turn();
    world.ack();
    let log = world.log.clone();
    for (build, expected, found) in
        [(2, "sleep (#2)", "call \"act\" (#2)"), (3, "sleep (#2)", "the end"), (4, "nothing more", "sleep (#3)")]
    {
        BUILD.set(build);
        let blocked = world.replayed(2).err().unwrap();
        let text = blocked.to_string();
        assert!(blocked.is_of_this_build());
        assert!(text.contains(&format!("asks for {found} where its log has {expected} (commit 1, event ")), "{text}");
        assert!(text.contains("the last commands were: call \"act\" (#1)"), "{text}");
    }
    BUILD.set(1);
    assert!(world.replayed(2).is_ok(), "the build that wrote it goes on");
    assert_eq!(world.log, log, "nothing was recorded");
}

#[test]
fn another_name_or_another_place_of_a_step_is_changed_code() {
    flow!(Names, |cx| -> u64 {
        Ok(match BUILD.get() {
            1 => cx.step("s", async || Ok::<_, AppError>(1_u64)).await?,
            2 => cx.step("other", async || Ok::<_, AppError>(1_u64)).await?,
            _ => cx.blocking("s", || Ok::<_, AppError>(1_u64)).await?,
        })
    });
    BUILD.set(1);
    let mut world = World::new(&Names);
    world.ack();
    for (build, found) in [(2, "step \"other\" (#1)"), (3, "blocking step \"s\" (#1)")] {
        BUILD.set(build);
        let text = world.replayed(1).err().unwrap().to_string();
        assert!(text.contains(&format!("asks for {found} where its log has step \"s\" (#1)")), "{text}");
    }
}

/// Uses the context when it is dropped.
struct Guard<F: Fn()>(F);

impl<F: Fn()> Drop for Guard<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[test]
fn destructors_run_at_eviction_and_record_nothing_even_if_they_panic() {
    thread_local!(static DROPS: Cell<u32> = const { Cell::new(0) });
    flow!(Guarded, |cx| -> u64 {
        let inner = cx.clone();
        let _guard = Guard(move || {
            DROPS.set(DROPS.get() + 1);
            let mut call = Box::pin(inner.call(act("from drop")));
            let _ = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            if DROPS.get() < 100 {
                std::panic::resume_unwind(Box::new("on purpose"));
            }
        });
        cx.saga(async |saga| {
            saga.undo(act("undo"));
            cx.call(act("a")).await?;
            Ok(1)
        })
        .await
    });
    let mut world = World::new(&Guarded);
    world.ack();
    let log = world.log.clone();
    for _ in 0..3 {
        world.evict();
    }
    assert_eq!(DROPS.get(), 6, "with its twin");
    assert_eq!(world.log, log);
    assert_eq!(world.acts_named("undo"), 0);
    DROPS.set(1000);
    world.settle();
    assert_eq!(world.output::<u64>(), 1);
}

#[test]
fn a_sealed_context_takes_no_command() {
    thread_local!(static TAPE: RefCell<Option<Rc<Tape>>> = const { RefCell::new(None) });
    let begin: Begin = Arc::new(|_, tape| {
        TAPE.set(Some(tape.clone()));
        Ok(Box::pin(async move {
            let position = tape.reserve();
            tape.open(position, crate::kernel::tape::What::Activity);
            let inner = tape.clone();
            let _guard = Guard(move || {
                inner.command(Command::Cancel { position });
            });
            std::future::pending().await
        }))
    });
    let input = Payload::encode(&(), "nothing").unwrap();
    let started = Started {
        workflow: "w".into(),
        version: 1,
        input,
        seed: 1,
        deadline: None,
        deferred: false,
        limits: None,
        parent: None,
        retry: None,
        copied_from: None,
    };
    let id = RunId { id: "x".into(), run_no: 1 };
    let mut instance = Instance::new(id, &started, &begin, Limits::default()).unwrap();
    assert_eq!(instance.apply(&Fact::Started(Box::new(started)), Timestamp(1)), Ok(Vec::new()));
    drop(instance);
    let tape = TAPE.take().unwrap();
    assert_eq!(tape.take_commands(), [], "its guard was dropped sealed");
    assert!(!tape.command(Command::Cancel { position: 1 }));
}

#[test]
fn over_the_limits_a_run_fails_typed_and_what_fits_is_not_touched() {
    flow!(Many, |cx| -> u64 {
        futures::future::join_all((0..10).map(|_| cx.call(act("a")))).await;
        Ok(1)
    });
    flow!(Heavy, |cx| -> u64 { Ok(cx.call(Act("x".repeat(2000))).await?) });
    flow!(Wordy, |_cx| -> String { Ok("x".repeat(2000)) });
    flow!(Plain, |cx| -> u64 { Ok(cx.call(act("a")).await?) });
    let limits = Limits { commands_per_turn: 5, payload_bytes: 1000, ..Limits::default() };
    let mut world = World::with(&Many, limits, true, None).unwrap();
    world.settle();
    assert_eq!((world.failure().kind(), world.acts.len()), ("limit", 0));
    for mut world in [World::with(&Heavy, limits, true, None).unwrap(), World::with(&Wordy, limits, true, None).unwrap()] {
        world.settle();
        assert!(world.failure().message().contains("the limit is 1000"), "{}", world.failure());
    }
    let mut world = World::with(&Plain, limits, true, None).unwrap();
    world = world.handle(|_, _| Ok(Payload::encode(&"x".repeat(2000), "x").unwrap()));
    world.settle();
    assert!(world.failure().message().contains("the result has 200"), "{}", world.failure());
    let mut world = World::with(&Plain, limits, true, None).unwrap().handle(|_, attempt| match attempt {
        1 => Err(Failure::new("big", "x".repeat(2000))),
        _ => value(1),
    });
    world.settle();
    assert_eq!(world.output::<u64>(), 1, "an error over the limit is retried as ever");
    assert!(world.log.iter().all(|record| record.body.len() < 1500));
}

#[test]
fn many_waits_may_be_given_up_at_once_although_they_were_not_begun_at_once() {
    flow!(Grows, |cx| -> u64 {
        let mut calls: Vec<_> = Vec::new();
        for _ in 0..4 {
            for _ in 0..4 {
                calls.push(Box::pin(cx.call(act("a"))));
                let _ = futures::poll!(calls.last_mut().unwrap());
            }
            cx.sleep(secs(1)).await?;
        }
        drop(calls);
        Ok(1)
    });
    let limits = Limits { commands_per_turn: 5, ..Limits::default() };
    let mut world = World::with(&Grows, limits, true, None).unwrap();
    for _ in 0..10 {
        world.ack();
        world.pass(secs(1));
        if world.outcome().is_none() {
            world.turn();
        }
    }
    assert_eq!(world.output::<u64>(), 1);
    assert_eq!(world.commands(|command| matches!(command, Command::Cancel { .. })), 16);
}

#[test]
fn a_stored_value_of_another_type_blocks_and_records_nothing() {
    flow!(Typed, |cx| -> u64 { Ok(cx.call(act("a")).await?) });
    let wrong = || Ok(Payload::encode("text", "text").unwrap());
    let mut world = World::new(&Typed).handle(move |_, _| wrong());
    world.ack();
    world.start(1);
    world.deliver(1);
    let text = world.try_turn().unwrap_err().to_string();
    assert!(text.contains("the output of act cannot be decoded as u64"), "{text}");
    assert!(world.in_flight.is_none());
}

#[test]
fn a_log_with_a_gap_or_in_another_order_is_refused() {
    flow!(Short, |cx| -> u64 { Ok(cx.call(act("a")).await?) });
    let mut world = World::new(&Short);
    world.settle();
    let commits: Vec<_> = (0..2_u32)
        .map(|n| (codec::decode(&world.id, n, &world.log[n as usize]).unwrap(), world.log[n as usize].digest))
        .collect();
    let replay = |log: Vec<_>| Run::replay::<Blocked>(&world.id, log.into_iter().map(Ok), &world.begin, false).err();
    let damaged = |change: &dyn Fn(&mut Vec<Stored>)| {
        let mut log = commits.clone();
        change(&mut log);
        matches!(replay(log), Some(Blocked::BadLog { .. }))
    };
    assert!(replay(commits.clone()).is_none());
    assert!(damaged(&Vec::clear));
    assert!(damaged(&|log| drop(log.remove(0))));
    assert!(damaged(&|log| log.swap(0, 1)));
    assert!(damaged(&|log| log[1].0.commit_no = 2));
    assert!(damaged(&|log| log[0].1 = log[1].1));
    assert!(damaged(&|log| log[1].0.time = Timestamp(1)));
    assert!(damaged(&|log| log[1].0.events.push(Event::Fact(Fact::DeadlinePassed))), "nothing follows the end");
}

#[test]
fn a_cancelled_run_fails_only_if_its_own_code_panics_and_not_by_an_error_of_that_name() {
    use crate::kernel::failure::KIND_PANIC;
    flow!(Passes, |cx| -> u64 {
        let stopped = cx.call(act("waits")).await;
        stopped.map_err(|_| AppError::new("what cleans up has panicked").named(KIND_PANIC))
    });
    flow!(Panics, |cx| -> u64 {
        let stopped = cx.call(act("waits")).await;
        Ok(stopped.expect("it is not cancelled"))
    });
    fn cancelled(mut world: World) -> Outcome {
        world.ack();
        world.cancel();
        world.turn_or_ack();
        world.settle();
        assert!(world.replayed(world.log.len()).is_ok());
        world.outcome().unwrap()
    }
    let passes = cancelled(World::new(&Passes));
    assert!(matches!(passes, Outcome::Cancelled { .. }), "{passes:?}");
    let panics = cancelled(World::new(&Panics));
    assert!(matches!(&panics, Outcome::Failed(failure) if failure.kind() == KIND_PANIC), "{panics:?}");
}
