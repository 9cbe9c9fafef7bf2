//! Inline steps are polled live and never in replay. Whatever that does to the combinators around them, the order of what is
//! recorded must not depend on it.

use std::{cell::RefCell, task::Waker};

use super::*;

thread_local! {
    /// Who waits for the I/O of the step, which never comes.
    static IO: RefCell<Option<Waker>> = const { RefCell::new(None) };
}

async fn io() -> Result<u64, AppError> {
    std::future::poll_fn(|cx| {
        IO.set(Some(cx.waker().clone()));
        std::task::Poll::Pending
    })
    .await
}

#[test]
fn a_map_that_stops_with_a_step_under_way_is_replayed_though_the_step_was_polled_in_between() {
    flow!(Stops, |cx| -> usize {
        let items = cx.map(0..4_u64, async |n| match n {
            0 => cx.step("io", io).await.map_err(|error| error.to_string()),
            n => cx.call(act(&n.to_string())).await.map_err(|error| error.to_string()),
        });
        let enough = items.concurrency(4).at_least(1).await.map_err(|_| AppError::new("too few"))?;
        Ok(enough.len())
    });
    let mut world = World::new(&Stops).handle(|_, _| value(1_u64));
    world.ack();
    // The step is granted, and polled: its item was touched last.
    world.start(1);
    world.start(2);
    world.deliver(2);
    world.turn();
    world.ack();
    assert_eq!(world.output::<usize>(), 1);
    assert_eq!(world.commands(|command| matches!(command, Command::Cancel { .. })), 3);
    assert!(world.replayed(world.log.len()).is_ok());
}

#[test]
fn a_step_whose_io_is_ready_when_its_run_is_cancelled_is_not_served_before_its_turn() {
    flow!(CleansUp, |cx| -> usize {
        let items = cx.map(0..2_u64, async |n| {
            let stopped = if n == 0 {
                cx.call(act("waits")).await.map_err(|error| error.to_string()).err()
            } else {
                cx.step("io", io).await.map_err(|error| error.to_string()).err()
            };
            assert!(stopped.is_some());
            cx.shielded(cx.call(act(&format!("clean {n}")))).await.map_err(|error| error.to_string())
        });
        Ok(items.concurrency(2).settle().await.len())
    });
    let mut world = World::new(&CleansUp).handle(|_, _| value(1_u64));
    world.ack();
    world.start(2);
    IO.take().expect("the step waits for its I/O").wake();
    world.cancel();
    world.turn_or_ack();
    world.settle();
    assert_eq!(world.output::<usize>(), 2);
    assert!(world.replayed(world.log.len()).is_ok());
}
