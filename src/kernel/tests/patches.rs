//! Code that changes while runs are under way: a patch leads old runs the old way and new ones the new way, for as long as they live.

use super::*;
use crate::kernel::instance::Begin as Begins;

flow!(Before, |cx| -> u64 {
    let first = cx.call(act("old")).await?;
    cx.sleep(secs(5)).await?;
    Ok(first + cx.call(act("last")).await?)
});

flow!(Patched, |cx| -> u64 {
    let what = if cx.patched("new-way") { "new" } else { "old" };
    let first = cx.call(act(what)).await?;
    cx.sleep(secs(5)).await?;
    // A second place of the same name goes the same way.
    let last = if cx.patched("new-way") { "new-last" } else { "last" };
    Ok(first + cx.call(act(last)).await?)
});

flow!(Deprecated, |cx| -> u64 {
    cx.deprecate_patch("new-way");
    let first = cx.call(act("new")).await?;
    cx.sleep(secs(5)).await?;
    Ok(first + cx.call(act("new-last")).await?)
});

flow!(After, |cx| -> u64 {
    let first = cx.call(act("new")).await?;
    cx.sleep(secs(5)).await?;
    Ok(first + cx.call(act("new-last")).await?)
});

fn code<W: Workflow>() -> Begins {
    crate::registry::begin::<W>()
}

/// A run of this code that sleeps, half-way.
fn half_way<W: Workflow>(workflow: &W) -> World {
    let mut world = World::new(workflow);
    world.ack();
    world.start(1);
    world.deliver(1);
    world.turn();
    world.ack();
    world
}

fn acts(world: &World) -> Vec<&str> {
    world.acts.iter().map(|(what, _)| what.as_str()).collect()
}

/// Goes on under other code.
fn goes_on_under(mut world: World, code: Begins) -> World {
    world.begin = code;
    world.evict();
    world.settle();
    assert!(world.replayed(world.log.len()).is_ok());
    world
}

#[test]
fn a_run_from_before_the_patch_goes_the_old_way_at_every_place() {
    let world = goes_on_under(half_way(&Before), code::<Patched>());
    assert_eq!(acts(&world), ["old", "last"]);
    assert_eq!(world.commands(|command| matches!(command, Command::Patched { .. })), 0);
}

#[test]
fn a_run_that_comes_to_the_patch_first_goes_the_new_way_in_every_replay() {
    let mut world = half_way(&Patched);
    world.evict();
    world.settle();
    assert_eq!(acts(&world), ["new", "new-last"]);
    assert_eq!(world.commands(|command| matches!(command, Command::Patched { .. })), 1, "once for both places");
    for commits in 1..=world.log.len() {
        assert!(world.replayed(commits).is_ok(), "the prefix of {commits} commits");
    }
}

#[test]
fn a_patch_outlives_its_old_way_and_then_its_name() {
    let patched = goes_on_under(half_way(&Patched), code::<Deprecated>());
    assert_eq!(acts(&patched), ["new", "new-last"]);
    let deprecated = goes_on_under(half_way(&Deprecated), code::<After>());
    assert_eq!(acts(&deprecated), ["new", "new-last"]);
    // And back again: a roll-back to the code that asks still fits.
    let back = goes_on_under(half_way(&Deprecated), code::<Patched>());
    assert_eq!(acts(&back), ["new", "new-last"]);
}

#[test]
fn a_patch_that_is_forgotten_too_early_is_found() {
    let mut world = half_way(&Patched);
    world.begin = code::<After>();
    let blocked = world.replayed(world.log.len()).err().expect("it was recorded as one that is still asked for").to_string();
    assert!(blocked.contains("new-way"), "{blocked}");
}

#[test]
fn a_patch_beyond_the_limit_of_commands_is_recorded_all_the_same() {
    flow!(Full, |cx| -> u64 {
        let mut calls: Vec<_> = (0..5).map(|_| Box::pin(cx.call(act("a")))).collect();
        futures::future::poll_fn(move |context| {
            calls.iter_mut().for_each(|call| _ = call.as_mut().poll(context).is_ready());
            let _ = cx.patched("p");
            std::task::Poll::<()>::Pending
        })
        .await;
        Ok(1)
    });
    let limits = Limits { commands_per_turn: 5, ..Limits::default() };
    let mut world = World::with(&Full, limits, true, None).unwrap();
    world.ack();
    assert_eq!(world.commands(|command| matches!(command, Command::Patched { .. })), 1);
    assert!(world.replayed(1).is_ok());
}

#[test]
fn a_patch_inside_of_a_step_is_a_mistake_and_found() {
    flow!(Inside, |cx| -> bool { Ok(cx.step("s", async || Ok::<_, AppError>(cx.patched("p"))).await?) });
    let mut world = World::new(&Inside);
    world.ack();
    world.run().grant(1, 1);
    assert!(world.run().poll_steps().is_err());
}
