//! What is published is what the log says, no more and no less: seen with the commit of its turn and not before, once, whatever crashes,
//! within its limits, and the same under code that has changed.

use super::{super::Misuse, *};
use crate::Progress;

flow!(Shows, |cx| -> u64 {
    cx.publish("state", &"waits".to_owned());
    cx.count("steps", 2);
    for number in 0..3_u64 {
        cx.publish("step", &number);
        cx.progress(number, 3, "steps");
        cx.call(act("step")).await?;
        cx.count("steps", 1);
    }
    cx.publish("state", &"done".to_owned());
    cx.count("steps", -10);
    Ok(1)
});

#[test]
fn what_is_published_is_seen_with_the_commit_of_its_turn_and_not_before() {
    let mut world = World::new(&Shows);
    assert_eq!(world.value::<String>("state"), None, "decided and not recorded");
    world.ack();
    assert_eq!(world.value::<String>("state").as_deref(), Some("waits"));
    assert_eq!(world.value::<i64>("steps"), Some(2));
    assert_eq!(world.value::<Progress>("stent:progress").unwrap(), Progress { done: 0, total: Some(3), text: "steps".into() });
    world.start(1);
    world.deliver(1);
    world.turn();
    assert_eq!(world.value::<i64>("steps"), Some(2));
    world.ack();
    assert_eq!((world.value::<i64>("steps"), world.value::<u64>("step")), (Some(3), Some(1)));
    world.settle();
    assert_eq!((world.value::<i64>("steps"), world.value::<String>("state")), (Some(-5), Some("done".into())));
    assert_eq!(world.commands(|command| matches!(command, Command::Publish { .. })), 8, "each is in the log");
}

#[test]
fn several_values_of_one_key_in_a_turn_are_one_row_and_the_last_one() {
    flow!(Hasty, |cx| -> u64 {
        for number in 0..100_u64 {
            cx.publish("number", &number);
            cx.count("counted", 1);
        }
        cx.sleep(secs(1)).await?;
        Ok(1)
    });
    let world = World::new(&Hasty);
    let rows = &world.in_flight.as_ref().unwrap().published;
    assert_eq!(rows.iter().map(|row| row.key.as_str()).collect::<Vec<_>>(), ["counted", "number"]);
    assert_eq!(rows[1].value.decode::<u64>("x").unwrap(), 99);
    assert_eq!(rows[0].value.decode::<i64>("x").unwrap(), 100);
}

#[test]
fn a_turn_that_is_lost_with_its_node_counts_nothing_and_one_that_was_stored_counts_once() {
    for stored in [false, true] {
        let mut world = World::new(&Shows);
        world.ack();
        world.start(1);
        world.deliver(1);
        world.turn();
        world.crash(stored);
        world.settle();
        assert_eq!(world.value::<i64>("steps"), Some(-5), "stored: {stored}");
        world.evict();
        assert_eq!(world.value::<i64>("steps"), Some(-5));
    }
}

#[test]
fn versions_grow_over_all_keys_and_are_higher_in_a_later_run() {
    use crate::kernel::published::Published;
    let count = |key: &str| Command::Count { key: key.into(), by: 1 };
    let [mut first, mut second] = [1, 2].map(Published::new);
    first.command(&count("a"));
    let (a, seen) = (first.newer_than(0), first.version());
    first.command(&count("b"));
    assert_eq!(first.newer_than(seen).iter().map(|row| row.key.as_str()).collect::<Vec<_>>(), ["b"]);
    assert!(first.newer_than(seen)[0].version > a[0].version);
    second.command(&count("a"));
    assert!(second.newer_than(0)[0].version > first.version());
}

#[test]
fn a_counter_saturates() {
    flow!(Far, |cx| -> u64 {
        cx.count("far", i64::MAX);
        cx.count("far", 7);
        Ok(1)
    });
    let mut world = World::new(&Far);
    world.ack();
    assert_eq!(world.value::<i64>("far"), Some(i64::MAX));
}

#[test]
fn more_keys_or_bytes_than_the_limits_fail_the_run_with_the_limit_in_the_text() {
    flow!(Keys, |cx| -> u64 {
        for number in 0..4 {
            cx.publish(&format!("key-{number}"), &number);
        }
        Ok(1)
    });
    flow!(Bytes, |cx| -> u64 {
        // In place of what was there: that is no more.
        for _ in 0..9 {
            cx.publish("big", &"x".repeat(60));
        }
        cx.publish("other", &"x".repeat(60));
        Ok(1)
    });
    let limits = Limits { published_keys: 3, published_bytes: 100, ..Limits::default() };
    let failed = |mut world: World| {
        world.ack();
        assert!(world.replayed(world.log.len()).is_ok());
        (world.failure().to_string(), world.shown.len())
    };
    let (text, shown) = failed(World::with(&Keys, limits, true, None).unwrap());
    assert!(text.contains("key-3") && text.contains("than 3 published keys"), "{text}");
    assert_eq!(shown, 3, "what there was room for stays");
    let (text, shown) = failed(World::with(&Bytes, limits, true, None).unwrap());
    assert!(text.contains("other") && text.contains("the limit is 100"), "{text}");
    assert_eq!(shown, 1);
}

#[test]
fn a_key_that_makes_no_sense_or_is_of_both_kinds_is_a_mistake_that_is_found() {
    flow!(Empty, |cx| -> u64 {
        Ok({
            cx.publish("", &1);
            1
        })
    });
    flow!(Long, |cx| -> u64 {
        Ok({
            cx.count(&"x".repeat(256), 1);
            1
        })
    });
    flow!(Nul, |cx| -> u64 {
        Ok({
            cx.publish("a\0b", &1);
            1
        })
    });
    flow!(Ours, |cx| -> u64 {
        Ok({
            cx.publish("stent:progress", &1);
            1
        })
    });
    flow!(Both, |cx| -> u64 {
        cx.publish("n", &1);
        cx.count("n", 1);
        Ok(1)
    });
    let misuse = |world: Result<World, Blocked>| match world.err() {
        Some(Blocked::Misuse { misuse, .. }) => misuse,
        other => panic!("{other:?}"),
    };
    let with = |begun: Result<World, Blocked>| misuse(begun);
    let limits = Limits::default();
    assert_eq!(with(World::with(&Empty, limits, true, None)), Misuse::PublishedKey(String::new()));
    assert_eq!(with(World::with(&Long, limits, true, None)), Misuse::PublishedKey("x".repeat(256)));
    assert_eq!(with(World::with(&Nul, limits, true, None)), Misuse::PublishedKey("a\0b".into()));
    assert_eq!(with(World::with(&Ours, limits, true, None)), Misuse::PublishedKey("stent:progress".into()));
    assert_eq!(with(World::with(&Both, limits, true, None)), Misuse::PublishedKind("n".into()));
}

#[test]
fn publishing_inside_the_closure_of_a_step_is_a_mistake_that_is_found() {
    flow!(Inside, |cx| -> u64 {
        let inside = cx.clone();
        let step = cx.step("s", async move || {
            inside.count("n", 1);
            Ok::<_, AppError>(1_u64)
        });
        Ok(step.await?)
    });
    let mut world = World::new(&Inside);
    world.ack();
    let (position, attempt) = (1, 1);
    world.run().grant(position, attempt);
    let blocked = world.run().poll_steps().unwrap_err();
    assert!(matches!(blocked, Blocked::Misuse { misuse: Misuse::CxInStep, .. }), "{blocked}");
}

flow!(Renamed, |cx| -> u64 {
    cx.publish("status", &"waits".to_owned());
    cx.call(act("step")).await?;
    Ok(1)
});

flow!(Reworded, |cx| -> u64 {
    cx.publish("state", &"is waiting for what comes".to_owned());
    cx.count("steps", 7);
    for number in 0..3_u64 {
        cx.publish("step", &number);
        cx.progress(number, 3, "steps");
        cx.call(act("step")).await?;
        cx.count("steps", 1);
    }
    Ok(1)
});

#[test]
fn replay_compares_keys_and_what_is_recorded_counts_whatever_the_code_says_now() {
    let mut world = World::new(&Shows);
    world.ack();
    world.begin = crate::registry::begin::<Renamed>();
    let text = world.replayed(1).err().unwrap().to_string();
    assert!(text.contains("publish \"state\"") && text.contains("publish \"status\""), "{text}");

    world.begin = crate::registry::begin::<Reworded>();
    world.evict();
    world.settle();
    assert_eq!(world.value::<String>("state").as_deref(), Some("waits"), "published under the old code, and not again");
    assert_eq!(world.value::<i64>("steps"), Some(5), "two of the old code and three of the new one");
}
