//! Waiting: for signals, in order and each one once; for time, never early; and cancellation, which reaches every await.

use super::*;
use crate::{CallError, Cancelled};

fn text(word: Option<Word>) -> String {
    word.map_or_else(|| "none".to_owned(), |word| word.0)
}

flow!(Pair, |cx| -> (Word, Word) {
    let (a, b) = futures::join!(cx.signal::<Word>(), cx.signal::<Word>());
    Ok((a?, b?))
});

#[test]
fn two_waits_on_one_name_take_two_signals_in_order() {
    for evict in [false, true] {
        let mut world = World::new(&Pair);
        world.word("a");
        world.settle();
        if evict {
            world.evict();
        }
        assert_eq!(world.run().state().waits().len(), 1);
        world.word("b");
        world.settle();
        assert_eq!(world.output::<(Word, Word)>(), (Word("a".into()), Word("b".into())));
    }
}

#[test]
fn a_signal_goes_past_a_waiter_that_has_one_and_has_not_looked() {
    flow!(Looks, |cx| -> (String, String) {
        let mut first = cx.signal::<Word>();
        let _ = futures::poll!(&mut first);
        let second = cx.signal::<Word>().await?;
        Ok((text(Some(first.await?)), text(Some(second))))
    });
    let mut world = World::new(&Looks);
    world.word("a");
    world.word("b");
    world.settle();
    assert_eq!(world.output::<(String, String)>(), ("a".into(), "b".into()));
}

#[test]
fn signals_of_dropped_waiters_go_to_the_next_and_keep_their_order() {
    flow!(Drops, |cx| -> Vec<String> {
        let mut waiters: Vec<_> = (0..3).map(|_| cx.signal::<Word>()).collect();
        for waiter in &mut waiters {
            let _ = futures::poll!(waiter);
        }
        cx.sleep(secs(1)).await?;
        drop(waiters);
        let mut read = Vec::new();
        for _ in 0..3 {
            read.push(text(Some(cx.signal().await?)));
        }
        Ok(read)
    });
    for evict in [false, true] {
        let mut world = World::new(&Drops);
        for word in ["a", "b", "c"] {
            world.word(word);
        }
        world.ack();
        world.turn();
        world.ack();
        if evict {
            world.evict();
        }
        world.settle();
        assert_eq!(world.output::<Vec<String>>(), ["a", "b", "c"]);
    }
}

#[test]
fn a_signal_that_meets_the_drop_of_its_waiter_is_read_by_the_next() {
    // The race is won by the call; the waiter and a signal for it are one turn, in both orders.
    flow!(Raced, |cx| -> String {
        let _ = cx.race(cx.call(act("a")), cx.signal::<Word>()).await;
        Ok(text(Some(cx.signal().await?)))
    });
    let mut world = World::new(&Raced);
    world.ack();
    world.start(1);
    world.deliver(1);
    world.word("a");
    world.settle();
    assert_eq!(world.output::<String>(), "a");
}

#[test]
fn a_signal_that_comes_after_the_limit_stays_unread() {
    flow!(Within, |cx| -> (String, String) {
        let early = cx.signal::<Word>().within(secs(5)).await?;
        cx.sleep(secs(5)).await?;
        let late = cx.signal::<Word>().within(secs(5)).await?;
        Ok((text(early), text(late)))
    });
    let mut world = World::new(&Within);
    world.ack();
    world.pass(secs(5));
    world.word("a");
    world.settle();
    assert_eq!(world.output::<(String, String)>(), ("none".into(), "a".into()));

    // Noticed together, the signal first: it counts.
    let mut world = World::new(&Within);
    world.ack();
    world.word("a");
    world.pass(secs(5));
    world.settle();
    assert_eq!(world.output::<(String, String)>(), ("a".into(), "none".into()));
}

#[test]
fn a_sleep_is_never_over_early_and_time_never_goes_back() {
    flow!(Naps, |cx| -> bool {
        let moment = cx.now() + chrono::Duration::nanoseconds(1500);
        cx.sleep_until(moment).await?;
        let fine = cx.now() >= moment;
        cx.sleep(secs(9)).await?;
        Ok(fine)
    });
    let mut world = World::new(&Naps);
    world.settle_by(&mut Dice::new(1));
    assert!(world.output::<bool>());

    let mut world = World::new(&Naps);
    world.ack();
    world.arrived.push_back(Arrival::Due { position: 1 });
    world.turn();
    assert!(world.in_flight.is_none(), "a timer that is not due means nothing");
    world.pass(secs(1));
    world.turn();
    let before = world.now;
    world.ack();
    world.now = Timestamp(1);
    world.word("x");
    world.turn();
    assert_eq!(world.in_flight.as_ref().unwrap().commit.time, before);
}

flow!(Everywhere, |cx| -> Vec<String> {
    let call = async { cx.call(act("a")).await.map(|_| ()).map_err(|e| e.to_string()) };
    let sleep = async { cx.sleep(secs(100)).await.map_err(|e| e.to_string()) };
    let word = async { cx.signal::<Word>().await.map(|_| ()).map_err(|e| e.to_string()) };
    let step = async {
        cx.step("s", async || std::future::pending::<Result<u64, Cancelled>>().await).await.map(|_| ()).map_err(|e| e.to_string())
    };
    let kept = async { cx.shielded(cx.call(act("kept"))).await.map(|_| ()).map_err(|e| e.to_string()) };
    let (a, b, c, d, e) = futures::join!(call, sleep, word, step, kept);
    let again = cx.call(act("again")).await.map(|_| ()).map_err(|e| e.to_string());
    let clean = cx.shielded(async { cx.call(act("clean")).await }).await.map(|_| ()).map_err(|e| e.to_string());
    Ok([a, b, c, d, e, again, clean].into_iter().map(|r| r.err().unwrap_or_else(|| "ok".into())).collect())
});

#[test]
fn cancellation_reaches_every_await_is_sticky_and_stops_at_the_shield() {
    for evict in [false, true] {
        let mut world = World::new(&Everywhere);
        world.ack();
        for position in 1..=2 {
            if world.to_start.contains_key(&position) {
                world.start(position);
            }
        }
        world.cancel();
        world.turn();
        world.ack();
        if evict {
            world.evict();
        }
        world.settle();
        let expected = ["cancelled", "cancelled", "cancelled", "cancelled", "ok", "cancelled", "ok"];
        assert_eq!(world.output::<Vec<String>>(), expected);
        assert_eq!(world.acts_named("again"), 0);
        assert!(world.aborted.contains(&1));
    }
}

#[test]
fn the_log_decides_whether_cancel_or_deadline_stopped_the_run() {
    flow!(Long, |cx| -> u64 {
        let slept = cx.sleep(secs(100)).await;
        let _ = cx.shielded(cx.call(act("clean"))).await;
        slept?;
        Ok(1)
    });
    for deadline_first in [true, false] {
        let mut world = World::with(&Long, Limits::default(), true, Some(secs(5))).unwrap();
        world.ack();
        if deadline_first {
            world.pass(secs(5));
            world.cancel();
        } else {
            world.cancel();
            world.pass(secs(5));
        }
        world.settle();
        match world.outcome().unwrap() {
            Outcome::TimedOut => assert!(deadline_first),
            Outcome::Cancelled { reason } => assert!(!deadline_first && reason == "enough"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_call_that_was_made_and_dropped_in_one_turn_is_never_started() {
    flow!(Brief, |cx| -> u64 {
        let mut brief = Box::pin(cx.call(act("brief")));
        let _ = futures::poll!(&mut brief);
        drop(brief);
        Ok(cx.call(act("b")).await?)
    });
    let mut world = World::new(&Brief);
    world.settle();
    assert_eq!(world.acts_named("brief"), 0);
    assert_eq!(world.output::<u64>(), 1);
}

#[test]
fn code_that_tries_again_for_ever_after_a_cancel_is_stopped() {
    flow!(Stubborn, |cx| -> u64 {
        loop {
            match cx.call(act("a")).await {
                Ok(n) => return Ok(n),
                Err(CallError::Cancelled) => {}
                Err(other) => return Err(other.into()),
            }
        }
    });
    let mut world = World::new(&Stubborn);
    world.ack();
    world.cancel();
    let blocked = world.try_turn().unwrap_err();
    assert!(matches!(blocked, Blocked::Misuse { misuse: super::super::Misuse::Spins(_), .. }), "{blocked}");
}
