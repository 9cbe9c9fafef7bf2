//! How many bytes an item brings to its store. A batch is bounded by them: a statement has a time limit and a size limit, and
//! what does not fit today would not fit tomorrow either.

use crate::{
    kernel::{
        codec::Record,
        event::{MessageBody, Outcome},
        memo::MemoWord,
    },
    store::{Item, NewTask, Publication, Tell, Turn},
};

impl Item {
    /// Returns about how many bytes it brings: logs, messages, tasks and what is shown.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Item::Turn(turn) => turn.bytes(),
            Item::Enqueue(_, record) => body(record),
            Item::Send(message) => said(&message.body),
            Item::Heartbeat { details, .. } | Item::BeatTask(_, details) => details.len(),
            Item::EndTask(end) => said(&end.body),
            Item::PlaceTasks(_, _, tasks) => all(tasks, task),
            Item::Schedule(change) => {
                change.body.len() + all(&change.starts, |(_, record)| body(record)) + all(&change.tells, tell)
            }
            Item::Memo(change) => all(&change.tells, tell),
            Item::Fork(fork) => {
                let inbox = all(&fork.inbox, |message| said(&message.body));
                all(&fork.log, body) + inbox + all(&fork.published, shown)
            }
            Item::Yield(_) | Item::Progressed(_) | Item::DropLetters(_) => 0,
        }
    }
}

impl Turn {
    fn bytes(&self) -> usize {
        let next = self.successor().map_or(0, |next| body(&next.record) + all(&next.published, shown));
        let others = all(&self.starts, |child| body(&child.record)) + all(&self.tells, tell);
        body(&self.record) + next + others + all(&self.tasks, task) + all(&self.published, shown)
    }
}

fn all<T>(of: &[T], bytes: impl Fn(&T) -> usize) -> usize {
    of.iter().map(bytes).sum()
}

fn body(record: &Record) -> usize {
    record.body.len()
}

fn task(task: &NewTask) -> usize {
    task.body.len()
}

fn tell(tell: &Tell) -> usize {
    said(&tell.body)
}

fn shown(shown: &Publication) -> usize {
    shown.value.bytes.len()
}

fn said(body: &MessageBody) -> usize {
    match body {
        MessageBody::Signal { payload, .. } | MessageBody::Update { payload, .. } => payload.bytes.len(),
        MessageBody::Task { end, details, .. } => end.bytes() + details.as_ref().map_or(0, bytes::Bytes::len),
        MessageBody::Child { end, .. } => match &**end {
            Outcome::Completed(output) => output.bytes.len(),
            Outcome::Failed(failure) => failure.bytes(),
            _ => 0,
        },
        MessageBody::Memo { word: MemoWord::Value(kept), .. } => kept.output.bytes.len(),
        _ => 0,
    }
}
