//! The order in which results arrive, and how they are grouped in commits, never matters to replay.
//! Random programs of nested joins, maps, races and waits are delivered at random, evicted at random and replayed.

use futures::{StreamExt, stream::FuturesUnordered};

use super::*;
use crate::Cx;

#[derive(Serialize, Deserialize, Clone, Debug)]
pub(super) enum Program {
    Call(u64),
    Sleep(u64),
    Word(u64),
    Child(u64),
    Chain(Vec<Program>),
    Join(Vec<Program>),
    Both(Box<Program>, Box<Program>),
    Bag(Vec<Program>),
    Map(usize, Vec<Program>),
    Race(Box<Program>, Box<Program>),
    Settle(usize, Vec<Program>),
    Enough(usize, Vec<Program>),
    Gate(Box<Program>),
}

#[derive(Serialize, Deserialize)]
pub(super) struct Random(pub(super) Program);

impl Workflow for Random {
    const NAME: &'static str = "random";
    type Output = u64;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u64, AppError> {
        eval(&cx, &self.0).await
    }
}

/// Never run here: the world says how it ends.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub(super) struct Leaf(pub(super) u64);

impl Workflow for Leaf {
    const NAME: &'static str = "leaf";
    type Output = u64;
    type Error = AppError;

    async fn run(self, _: Cx<Self>) -> Result<u64, AppError> {
        Ok(self.0 * 7)
    }
}

type Evaluated<'a> = std::pin::Pin<Box<dyn Future<Output = Result<u64, AppError>> + 'a>>;

fn eval<'a>(cx: &'a Cx<Random>, program: &'a Program) -> Evaluated<'a> {
    Box::pin(async move {
        Ok(match program {
            Program::Call(n) => {
                cx.count("calls", 1);
                cx.publish("last", n);
                cx.call(Act(n.to_string())).await?
            }
            Program::Sleep(n) => {
                cx.sleep(secs(*n)).await?;
                1
            }
            Program::Word(n) => {
                cx.signal::<Word>().within(secs(*n)).await?;
                2
            }
            Program::Child(n) => cx.child(Leaf(*n)).await?,
            Program::Chain(parts) => {
                let mut sum = 0;
                for part in parts {
                    sum = mix(sum, eval(cx, part).await?);
                }
                sum
            }
            Program::Join(parts) => {
                let all = futures::future::join_all(parts.iter().map(|part| eval(cx, part))).await;
                all.into_iter().try_fold(0, |sum, part| part.map(|part| mix(sum, part)))?
            }
            Program::Both(a, b) => {
                let (a, b) = futures::join!(eval(cx, a), eval(cx, b));
                mix(a?, b?)
            }
            Program::Bag(parts) => {
                let mut bag: FuturesUnordered<_> = parts.iter().map(|part| eval(cx, part)).collect();
                let mut sum = 0_u64;
                while let Some(part) = bag.next().await {
                    // Constructed in the order of completion: its position is that of the log.
                    sum = sum.wrapping_add(part?).wrapping_add(cx.call(act("5")).await?);
                }
                sum
            }
            Program::Map(most, parts) => {
                let all = cx.map(parts, |part| eval(cx, part)).concurrency(*most).await?;
                all.into_iter().fold(0, mix)
            }
            Program::Settle(most, parts) => {
                let all = cx.map(parts, |part| eval(cx, part)).concurrency(*most).settle().await;
                all.into_iter().try_fold(0, |sum, part| part.map(|part| mix(sum, part)))?
            }
            Program::Enough(wanted, parts) => {
                let enough = cx.map(parts, |part| eval(cx, part)).concurrency(3).at_least(*wanted).await;
                4 + enough.map_or(0, |outputs| outputs.len() as u64)
            }
            Program::Gate(part) => {
                // Whoever waits is polled before the one who opens.
                let open = std::cell::Cell::new(false);
                let waits = async {
                    cx.until(|| open.get()).await?;
                    Ok::<_, AppError>(cx.call(act("5")).await?)
                };
                let opens = async {
                    let part = eval(cx, part).await;
                    open.set(true);
                    part
                };
                let (waited, part) = futures::future::join(waits, opens).await;
                mix(waited?, part?)
            }
            Program::Race(a, b) => {
                let _ = cx.race(eval(cx, a), eval(cx, b)).await;
                3
            }
        })
    })
}

/// What the program gives without any kernel.
pub(super) fn direct(program: &Program) -> u64 {
    match program {
        Program::Call(n) => n * 3,
        Program::Sleep(_) => 1,
        Program::Word(_) => 2,
        Program::Child(n) => n * 7,
        Program::Chain(parts) | Program::Join(parts) | Program::Map(_, parts) | Program::Settle(_, parts) => {
            parts.iter().map(direct).fold(0, mix)
        }
        Program::Both(a, b) => mix(direct(a), direct(b)),
        Program::Bag(parts) => parts.iter().fold(0, |sum, part| sum.wrapping_add(direct(part)).wrapping_add(15)),
        Program::Gate(part) => mix(15, direct(part)),
        Program::Race(..) => 3,
        Program::Enough(wanted, parts) => 4 + if *wanted <= parts.len() { *wanted as u64 } else { 0 },
    }
}

pub(super) fn program(dice: &mut Dice, depth: usize) -> Program {
    let kind = if depth == 0 { dice.below(4) } else { dice.below(13) };
    let many = |dice: &mut Dice, most: usize| (0..=dice.below(most)).map(|_| program(dice, depth - 1)).collect::<Vec<_>>();
    match kind {
        0 => Program::Call(dice.below(100) as u64),
        1 => Program::Sleep(dice.below(20) as u64),
        2 => Program::Word(1 + dice.below(20) as u64),
        3 => Program::Child(dice.below(100) as u64),
        4 => Program::Chain(many(dice, 3)),
        // More than thirty: join_all changes its algorithm there.
        5 if depth == 1 && dice.below(4) == 0 => Program::Join((0..40).map(|_| program(dice, 0)).collect()),
        5 => Program::Join(many(dice, 4)),
        6 => Program::Both(Box::new(program(dice, depth - 1)), Box::new(program(dice, depth - 1))),
        7 => Program::Bag(many(dice, 4)),
        8 => Program::Map(1 + dice.below(4), many(dice, 6)),
        9 => Program::Settle(1 + dice.below(4), many(dice, 4)),
        10 => Program::Enough(dice.below(4), many(dice, 4)),
        11 => Program::Gate(Box::new(program(dice, depth - 1))),
        _ => Program::Race(Box::new(program(dice, depth - 1)), Box::new(program(dice, depth - 1))),
    }
}

fn play(seed: u64, crashes: bool) {
    let _named = Named(seed);
    let mut dice = Dice::new(seed);
    let program = program(&mut dice, 3);
    let twin = dice.below(2) == 0;
    let mut world = World::with(&Random(program.clone()), Limits::default(), twin, None).unwrap();
    world.handler = Box::new(|what, _| value(what.parse::<u64>().unwrap() * 3));
    let mut opens: Vec<String> = Vec::new();
    let mut words = 0;
    for _ in 0..20_000 {
        let commits = world.log.len();
        if !world.step(&mut dice) {
            break;
        }
        if world.log.len() > commits {
            opens.push(world.open());
        }
        if dice.below(12) == 0 && words < 30 && world.outcome().is_none() {
            words += 1;
            world.word(&words.to_string());
        }
        if dice.below(6) == 0 && world.in_flight.is_none() {
            world.evict();
        }
        if crashes && dice.below(25) == 0 && !world.log.is_empty() {
            let stored = dice.below(2) == 0;
            world.crash(stored);
            while opens.len() < world.log.len() {
                opens.push(String::new());
            }
            opens[world.log.len() - 1] = world.open();
        }
    }
    assert_eq!(world.output::<u64>(), direct(&program), "{program:?}");
    let begun = world.commands(|command| matches!(command, Command::Child(_)));
    assert_eq!(world.begun.len(), begun, "each child was begun with its intent");
    let counted = world.commands(|command| matches!(command, Command::Count { .. }));
    assert_eq!(world.value::<usize>("calls").unwrap_or(0), counted, "each call was counted once");
    let shown: Vec<Publication> = world.shown.values().cloned().collect();
    let replayed = world.replayed(world.log.len()).unwrap();
    assert_eq!(replayed.state().published.newer_than(0), shown, "what is shown is what the log says");
    for (n, open) in opens.iter().enumerate().filter(|(_, open)| !open.is_empty()) {
        let run = world.replayed(n + 1).unwrap();
        assert_eq!(&format!("{:?}", run.state().open), open, "the prefix of {} commits", n + 1);
    }
}

#[test]
fn results_in_any_order_and_grouping_replay_to_the_same_run() {
    for seed in seeds(400) {
        play(seed, false);
    }
}

#[test]
fn a_run_that_crashes_anywhere_goes_on_to_the_same_result() {
    for seed in seeds(300) {
        play(seed, true);
    }
}

/// Two branches of two calls each; the second of each is constructed when the first is answered.
#[derive(Serialize, Deserialize)]
struct Crossing;

impl Workflow for Crossing {
    const NAME: &'static str = "crossing";
    type Output = u64;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u64, AppError> {
        let branch = async |a: &str, b: &str| -> Result<u64, AppError> { Ok(cx.call(act(a)).await? + cx.call(act(b)).await?) };
        let (a, b) = futures::join!(branch("a1", "a2"), branch("b1", "b2"));
        Ok(a? + b?)
    }
}

#[test]
fn facts_of_one_turn_are_applied_one_by_one() {
    let mut world = World::new(&Crossing);
    world.ack();
    world.start(1);
    world.start(2);
    world.deliver(2);
    world.deliver(1);
    world.turn();
    world.ack();
    // The branch that was answered first got the lower position, although `join!` polls the other one first.
    let name = |at| world.run.as_ref().unwrap().state().call(at).unwrap().input.clone().unwrap().decode::<String>("x").unwrap();
    assert_eq!((name(3), name(4)), ("b2".to_owned(), "a2".to_owned()));
    world.evict();
    world.settle();
    assert_eq!(world.output::<u64>(), 4);
}
