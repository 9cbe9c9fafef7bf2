//! What becomes of the items of a map: the first error ends it, each comes to its own end, or enough of them do.

use super::*;

/// Acts 2 and 4 fail at their first attempt, for good; the others return ten times their number.
fn world<W: Workflow>(workflow: &W) -> World {
    World::new(workflow).handle(|what, _| match what {
        "2" | "4" => {
            Err(crate::activity::failure_of(&AppError::new(format!("{what} is broken")), Default::default(), "act").into_final())
        }
        number => value(number.parse::<u64>().unwrap() * 10),
    })
}

fn call<'a, W>(cx: &'a crate::Cx<W>) -> impl Fn(u64) -> crate::cx::Pending<Act> + 'a {
    |n| cx.call(act(&n.to_string()))
}

/// Starts what is intended, and delivers the results in this order of positions.
fn deliver(world: &mut World, positions: &[Position]) {
    world.ack();
    for &position in positions {
        if world.to_start.contains_key(&position) {
            world.start(position);
        }
        world.deliver(position);
        world.turn();
        world.ack();
    }
}

#[test]
fn settled_each_item_has_its_own_end_in_the_order_of_the_items() {
    flow!(Settles, |cx| -> Vec<String> {
        let ends = cx.map(1..=5, call(&cx)).concurrency(2).settle().await;
        Ok(ends.into_iter().map(|end| end.map_or_else(|error| error.to_string(), |output| output.to_string())).collect())
    });
    let mut world = world(&Settles);
    world.settle();
    assert_eq!(world.output::<Vec<String>>(), ["10", "2 is broken", "30", "4 is broken", "50"]);
    assert!(world.aborted.is_empty(), "nobody was cancelled for the sake of others");
    assert!(world.replayed(world.log.len()).is_ok());
}

#[test]
fn enough_are_those_that_were_ready_first_and_what_still_runs_is_cancelled() {
    flow!(Enough, |cx| -> Vec<(usize, u64)> {
        let enough = cx.map([1, 2, 3, 5, 6, 7], call(&cx)).concurrency(4).at_least(2).await;
        enough.map_err(|_| AppError::new("too few"))
    });
    let mut world = world(&Enough);
    // The failure makes room for the fifth, the first success for the sixth.
    deliver(&mut world, &[2, 4, 1]);
    world.settle();
    assert_eq!(world.output::<Vec<(usize, u64)>>(), [(3, 50), (0, 10)]);
    assert_eq!(world.commands(|command| matches!(command, Command::Call(_))), 6);
    assert_eq!(world.commands(|command| matches!(command, Command::Cancel { .. })), 3);
    assert!(world.replayed(world.log.len()).is_ok());
}

#[test]
fn when_too_few_can_succeed_all_errors_are_told_and_none_wanted_is_none_begun() {
    flow!(TooFew, |cx| -> Vec<String> {
        let none: Result<Vec<(usize, u64)>, _> = cx.map([9], call(&cx)).at_least(0).await;
        assert_eq!(none.map(|outputs| outputs.len()).unwrap_or(1), 0);
        let few = cx.map([4, 1, 2], call(&cx)).at_least(2).await;
        Ok(few.err().unwrap_or_default().iter().map(ToString::to_string).collect())
    });
    let mut world = world(&TooFew);
    world.settle();
    let mut errors: Vec<String> = world.output();
    errors.sort();
    assert_eq!(errors, ["2 is broken", "4 is broken"]);
    assert_eq!(world.commands(|command| matches!(command, Command::Call(_))), 3);
}
