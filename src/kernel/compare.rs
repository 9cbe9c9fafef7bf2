//! What replay and twins compare, and how a command is told to people.

use std::collections::VecDeque;

use super::{
    event::{Command, Outcome, Reply, StepPlace},
    payload::Payload,
};

/// Replay compares kind, name and place of a command; what it carries is data, and the recorded one counts.
pub(super) fn same(a: &Command, b: &Command) -> bool {
    fn name(command: &Command) -> Option<(&str, Option<StepPlace>)> {
        match command {
            Command::Call(call) => Some((&call.activity, None)),
            // Where a closure runs is part of its name: a grant is of no use to a blocking one, nor a thread to an inline one.
            Command::Step { name, place, .. } => Some((name, Some(*place))),
            Command::Receive { signal, .. } => Some((signal, None)),
            Command::Undo { compensation, .. } => Some((&compensation.activity, None)),
            Command::Child(child) => Some((&child.workflow, None)),
            Command::Patched { id, .. } => Some((id, None)),
            Command::Publish { key, .. } | Command::Count { key, .. } => Some((key, None)),
            Command::Answered { message, .. } => Some((message, None)),
            _ => None,
        }
    }
    let alike = std::mem::discriminant(a) == std::mem::discriminant(b) && a.position() == b.position() && name(a) == name(b);
    // The code talks to a child by its id, and waits for it or does not.
    let children = match (a, b) {
        (Command::Child(a), Command::Child(b)) => a.id == b.id && a.awaited == b.awaited,
        _ => true,
    };
    alike && children
}

/// Between twins the data counts as well: a clock or a random number that is only an argument now is a decision later. But
/// a `HashMap` within a value may be written in any order, so only which bytes there are counts.
fn same_data(a: &Command, b: &Command) -> bool {
    let bytes = |payload: &Payload| {
        let mut counts = [0_usize; 256];
        payload.bytes.iter().for_each(|&byte| counts[usize::from(byte)] += 1);
        counts
    };
    match (a, b) {
        (Command::Call(a), Command::Call(b)) => bytes(&a.input) == bytes(&b.input) && a.memo == b.memo,
        (Command::Undo { compensation: a, .. }, Command::Undo { compensation: b, .. }) => bytes(&a.input) == bytes(&b.input),
        (Command::Child(a), Command::Child(b)) => bytes(&a.input) == bytes(&b.input),
        (Command::Publish { value: a, .. }, Command::Publish { value: b, .. }) => bytes(a) == bytes(b),
        (Command::Count { by: a, .. }, Command::Count { by: b, .. }) => a == b,
        (Command::Answered { reply: a, .. }, Command::Answered { reply: b, .. }) => match (&**a, &**b) {
            (Reply::Done(a), Reply::Done(b)) => bytes(a) == bytes(b),
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        },
        (Command::Continue { input: a }, Command::Continue { input: b }) => bytes(a) == bytes(b),
        (Command::Sleep { due: a, .. }, Command::Sleep { due: b, .. }) => a == b,
        (Command::End { outcome: a }, Command::End { outcome: b }) => match (&**a, &**b) {
            (Outcome::Completed(a), Outcome::Completed(b)) => bytes(a) == bytes(b),
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        },
        _ => true,
    }
}

/// Tells whether a command comes of a drop. Several futures that are dropped in one go say so in the order of their destructors, which is not
/// that of the log: a combinator keeps its futures in the order in which it has last polled them, and steps are polled live
/// only. What is given up in one go comes to the same in any order.
fn is_given_up(command: &Command) -> bool {
    matches!(command, Command::Cancel { .. } | Command::Compensate { .. })
}

/// Takes the command that replayed code asked for in place of a recorded one: the next, or one of those that are given up along with it.
pub(super) fn take_same(asked: &mut VecDeque<Command>, expected: &Command) -> Option<Command> {
    let together = asked.iter().take_while(|found| is_given_up(found));
    let at = if is_given_up(expected) { together.into_iter().position(|found| same(expected, found)) } else { None };
    asked.remove(at.unwrap_or(0))
}

/// Commands with what is given up in one go in the order of its places.
fn in_order(commands: &[Command]) -> Vec<&Command> {
    let together = commands.chunk_by(|a, b| is_given_up(a) && is_given_up(b));
    let sorted = together.flat_map(|together| {
        let mut together: Vec<&Command> = together.iter().collect();
        together.sort_by_key(|command| command.position());
        together
    });
    sorted.collect()
}

/// Returns what the twins asked for where they first differ.
pub(super) fn first_difference(a: &[Command], b: &[Command]) -> Option<(String, String)> {
    let (a, b) = (in_order(a), in_order(b));
    let at = (0..a.len().max(b.len())).find(|&i| match (a.get(i), b.get(i)) {
        (Some(a), Some(b)) => !same(a, b) || !same_data(a, b),
        _ => true,
    })?;
    let text = |command: Option<&Command>| command.map_or_else(|| "nothing".to_owned(), describe);
    let (expected, mut found) = (text(a.get(at).copied()), text(b.get(at).copied()));
    if expected == found {
        found.push_str(" with other data");
    }
    Some((expected, found))
}

/// A command in words, for reports.
pub(super) fn describe(command: &Command) -> String {
    match command {
        Command::Call(call) => format!("call {:?} (#{})", call.activity, call.position),
        Command::Step { position, name, place: StepPlace::Inline, .. } => format!("step {name:?} (#{position})"),
        Command::Step { position, name, place: StepPlace::Blocking, .. } => format!("blocking step {name:?} (#{position})"),
        Command::Step { position, name, place: StepPlace::Transaction, .. } => format!("transaction {name:?} (#{position})"),
        Command::Sleep { position, .. } => format!("sleep (#{position})"),
        Command::Receive { position, signal } => format!("signal {signal:?} (#{position})"),
        Command::Cancel { position } => format!("the drop of #{position}"),
        Command::OpenSaga { position } => format!("a saga (#{position})"),
        Command::Undo { position, compensation, .. } => format!("undo {:?} (#{position})", compensation.activity),
        Command::KeepSaga { scope } => format!("the good end of saga #{scope}"),
        Command::Compensate { scope } => format!("the compensation of saga #{scope}"),
        Command::Patched { id, .. } => format!("the patch {id:?}"),
        Command::Publish { key, .. } => format!("publish {key:?}"),
        Command::Count { key, .. } => format!("count {key:?}"),
        Command::Answered { message, .. } => format!("the answer to the update of id {message:?}"),
        Command::Child(child) => {
            let how = if child.awaited { "child" } else { "detached child" };
            format!("{how} {:?} of {:?} (#{})", child.id, child.workflow, child.position)
        }
        Command::Again { .. } => "to be tried again as a new run".to_owned(),
        Command::Continue { .. } => "to continue as a new run".to_owned(),
        Command::End { .. } => "the end".to_owned(),
    }
}
