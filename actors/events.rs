//! The events of a run, for whoever follows it: each one once and in order, from a commit on, first those of the past and then as they are recorded.
//! All are read from the log, also the newest: a bell says only that there is more. So a follower gets what is durable and nothing else,
//! on whatever node, and one that is slow simply asks later: nothing is kept for it, and nobody waits for it.

use std::collections::{BTreeMap, VecDeque};

use actix::{Addr, Handler, Message, Recipient, ResponseFuture};
use chrono::{DateTime, Utc};
use tokio::sync::oneshot;

use super::{
    bells::Rung,
    door::Door,
    handle::{Handle, Stent},
    supervisor::Supervisor,
};
use crate::{
    error::{Error, SendError},
    kernel::{
        codec::{self, Record},
        event::{Command, Commit, Event, Fact, MessageBody, Next, Outcome, Skipped},
        id::{CommitNo, Position, RunId, RunKey},
        memo::MemoWord,
    },
};

/// So many commits are read at once: at first, and at most; less as soon as they are large.
const FIRST_PAGE: u32 = 16;
const MOST_PAGE: u32 = 256;
/// What a page should not be much larger than, in bytes.
const PAGE_BYTES: usize = 256 << 10;

/// Something that happened to a run, or that it asked for: one entry of its log.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[rtype(result = "()")]
#[non_exhaustive]
pub struct Happened {
    /// Whose it is.
    pub run: RunId,
    /// In which commit, and…
    pub commit: CommitNo,
    /// …where in it, from 0. Both together are its place in the log, which never changes.
    pub index: u32,
    /// The store's time of that commit.
    pub at: DateTime<Utc>,
    /// What it is.
    pub what: Happening,
    /// The place of the call, step, sleep or child that it is about, if it is about one.
    pub position: Option<Position>,
    /// The name of the activity, step, signal, workflow, key or patch that it is about. Of what follows a command it is known if the stream began
    /// before that.
    pub name: Option<String>,
    /// More, in words: why something failed or was given up, how much was counted. User data is not shown.
    pub text: Option<String>,
}

/// What kind of entry it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Happening {
    /// The run was recorded.
    Started,
    /// Its first turn was taken, of a run that was recorded without it.
    Begun,
    /// It took over what the run before it had not read.
    Inherited,
    /// Up to here its history is a copy of that of an earlier run; the text says of which, by whom and why.
    Forked,
    /// Another node took it over by force.
    Claimed,
    /// An attempt of a call or step succeeded.
    Succeeded,
    /// An attempt failed; the text says how, and what follows.
    Failed,
    /// An attempt was lost with its node.
    Lost,
    /// A sleep is over.
    Awake,
    /// A message was taken: a signal or an update, by its name, or what the text says.
    Received,
    /// An operator has ordered something; the text says what, who and why.
    Ordered,
    /// A call took the result of another run's, by its memo; the text says whose.
    Shared,
    /// An update was refused when it was taken; the text says why.
    Refused,
    /// An update was made, and has its answer.
    Answered,
    /// A message had no effect.
    Ignored,
    /// The run's deadline passed.
    DeadlinePassed,
    /// It called an activity.
    Called,
    /// It began a step.
    Stepped,
    /// It went to sleep.
    Slept,
    /// It waits for a signal.
    Waits,
    /// It gave up a call, a sleep or a wait.
    Dropped,
    /// It began a child.
    ChildBegun,
    /// It published a value.
    Published,
    /// It counted.
    Counted,
    /// A saga was opened, kept or is being compensated, or got a compensation.
    Saga,
    /// It took the new way at a patch.
    Patched,
    /// It goes on as the next run of its execution: the last entry but its end.
    Continued,
    /// It has failed, and is tried again as the next run of its execution: the last entry but its end.
    TriedAgain,
    /// It is over: the last entry.
    Ended,
}

/// The events of one run; see [`Stent::events`].
#[derive(Debug)]
pub struct Events {
    supervisor: Addr<Supervisor>,
    run: RunKey,
    id: RunId,
    /// The next commit to be read.
    next: CommitNo,
    page: u32,
    read: VecDeque<Happened>,
    names: BTreeMap<Position, String>,
    over: bool,
}

impl Events {
    fn new(supervisor: Addr<Supervisor>, run: RunKey, id: RunId, from: CommitNo) -> Events {
        let (read, names) = (VecDeque::new(), BTreeMap::new());
        Events { supervisor, run, id, next: from, page: FIRST_PAGE, read, names, over: false }
    }

    /// Returns the next event, as soon as it is recorded; `None` behind the last one of the run. Works under any async runtime and through
    /// restarts of the core. Of runs on this node it comes at once, of others within a second.
    ///
    /// # Cancel safety
    /// Dropped, it has taken nothing: the next call returns what this one would have.
    ///
    /// # Errors
    /// [`Error::Stopped`] when the runtime is over, [`Error::Store`], or [`Error::Wait`] when a row of the log cannot be read. Asked again it
    /// goes on where it was.
    pub async fn next(&mut self) -> Result<Option<Happened>, Error> {
        loop {
            if let Some(happened) = self.read.pop_front() {
                return Ok(Some(happened));
            }
            if self.over {
                return Ok(None);
            }
            // Whoever drops this future does not wait any more.
            let (_wants, wanted) = oneshot::channel();
            let rows = FollowingRows { run: self.run, from: self.next, limit: self.page, wanted };
            let rows = self.supervisor.send(rows).await.unwrap_or(Err(Error::Stopped))?;
            self.over = rows.is_empty();
            let bytes: usize = rows.iter().map(|(_, record)| record.body.len()).sum();
            self.page = if bytes > PAGE_BYTES { (self.page / 2).max(1) } else { (self.page * 2).min(MOST_PAGE) };
            for (commit_no, record) in rows {
                let commit = codec::decode(&self.id, commit_no, &record).map_err(|error| Error::Wait(error.to_string()))?;
                self.next = commit_no + 1;
                self.take(commit);
            }
        }
    }

    fn take(&mut self, commit: Commit) {
        let at = commit.time.to_utc();
        for (index, event) in (0..).zip(commit.events) {
            let (what, position, name, text) = match event {
                Event::Fact(fact) => self.fact(fact),
                Event::Command(command) => self.command(command),
            };
            self.over |= what == Happening::Ended;
            let (run, commit) = (self.id.clone(), commit.commit_no);
            self.read.push_back(Happened { run, commit, index, at, what, position, name, text });
        }
    }

    fn fact(&mut self, fact: Fact) -> Shown {
        let about = |what, position, name, text| (what, Some(position), name, text);
        match fact {
            Fact::Started(started) => (Happening::Started, None, Some(started.workflow), None),
            Fact::Begun => (Happening::Begun, None, None, None),
            Fact::Inherited(inherited) => {
                (Happening::Inherited, None, None, Some(format!("{} signals unread", inherited.unread.len())))
            }
            Fact::Forked(forked) => (Happening::Forked, None, None, Some(forked.to_string())),
            Fact::Claimed { by, epoch } => (Happening::Claimed, None, None, Some(format!("by node {by}, epoch {epoch}"))),
            Fact::Completed { position, attempt, .. } => {
                about(Happening::Succeeded, position, self.names.remove(&position), Some(format!("attempt {attempt}")))
            }
            Fact::Failed { position, attempt, failure, next } => {
                let name = self.named(position, &next);
                about(Happening::Failed, position, name, Some(format!("attempt {attempt}: {failure}; {}", follows(&next))))
            }
            Fact::Lost { position, attempt, next } => {
                let name = self.named(position, &next);
                about(Happening::Lost, position, name, Some(format!("attempt {attempt}; {}", follows(&next))))
            }
            Fact::Fired { position } => about(Happening::Awake, position, None, None),
            Fact::Received { body, .. } => match body {
                MessageBody::Signal { name, .. } | MessageBody::Update { name, .. } => {
                    (Happening::Received, None, Some(name), None)
                }
                MessageBody::Child { position, end } => {
                    let text = format!("the child {}", in_a_word(&end));
                    about(Happening::Received, position, self.names.remove(&position), Some(text))
                }
                MessageBody::Retry { position } => (Happening::Received, position, None, Some("retried by hand".to_owned())),
                MessageBody::Task { position, attempt, .. } => {
                    about(Happening::Received, position, None, Some(format!("the end of attempt {attempt}")))
                }
                MessageBody::Order(order) => (Happening::Ordered, None, None, Some(order.in_words())),
                MessageBody::Memo { position, word: MemoWord::Value(kept), .. } => {
                    let text = format!("the result of {}/{}", kept.run, kept.position);
                    about(Happening::Shared, position, self.names.remove(&position), Some(text))
                }
                MessageBody::Memo { position, word, .. } => {
                    let text =
                        if word == MemoWord::Granted { "its memo is for it to fill" } else { "its memo is another's to fill" };
                    about(Happening::Received, position, self.names.get(&position).cloned(), Some(text.to_owned()))
                }
                body => (Happening::Received, None, None, body.stops().map(|why| format!("asked to stop: {why}"))),
            },
            Fact::Ignored { why, .. } => (Happening::Ignored, None, None, Some(format!("{why:?}").to_lowercase())),
            Fact::Refused { failure, .. } => (Happening::Refused, None, None, Some(failure.to_string())),
            Fact::DeadlinePassed => (Happening::DeadlinePassed, None, None, None),
        }
    }

    /// Returns what a call is named, and forgets it if nothing more follows.
    fn named(&mut self, position: Position, next: &Next) -> Option<String> {
        if *next == Next::GiveUp { self.names.remove(&position) } else { self.names.get(&position).cloned() }
    }

    fn command(&mut self, command: Command) -> Shown {
        let position = Some(command.position()).filter(|position| *position > 0);
        let mut open = |name: &str| {
            self.names.extend(position.map(|position| (position, name.to_owned())));
            Some(name.to_owned())
        };
        let saga = |text: &str| (Happening::Saga, position, None, Some(text.to_owned()));
        match command {
            Command::Call(call) => {
                let text = call.compensating.then(|| "as a compensation".to_owned());
                (Happening::Called, position, open(&call.activity), text)
            }
            Command::Step { name, .. } => (Happening::Stepped, position, open(&name), None),
            Command::Child(child) => {
                let name = if child.awaited { open(&child.workflow) } else { Some(child.workflow.clone()) };
                (Happening::ChildBegun, position, name, Some(child.id))
            }
            Command::Sleep { due, .. } => (Happening::Slept, position, None, Some(format!("until {due}"))),
            Command::Receive { signal, .. } => (Happening::Waits, position, Some(signal), None),
            Command::Cancel { position } => (Happening::Dropped, Some(position), self.names.remove(&position), None),
            Command::OpenSaga { .. } => saga("opened"),
            Command::Undo { compensation, .. } => {
                (Happening::Saga, position, Some(compensation.activity), Some("undo".to_owned()))
            }
            Command::KeepSaga { .. } => saga("kept"),
            Command::Compensate { .. } => saga("compensates"),
            Command::Publish { key, .. } => (Happening::Published, None, Some(key), None),
            Command::Count { key, by } => (Happening::Counted, None, Some(key), Some(by.to_string())),
            Command::Again { failure, at } => {
                (Happening::TriedAgain, None, None, Some(format!("not before {at}, behind: {failure}")))
            }
            Command::Continue { .. } => (Happening::Continued, None, None, None),
            Command::Answered { .. } => (Happening::Answered, None, None, None),
            Command::Patched { id, .. } => (Happening::Patched, None, Some(id), None),
            Command::End { outcome } => (Happening::Ended, None, None, Some(in_a_word(&outcome))),
        }
    }
}

type Shown = (Happening, Option<Position>, Option<String>, Option<String>);

fn follows(next: &Next) -> String {
    match next {
        Next::Retry { at } => format!("the next not before {at}"),
        Next::GiveUp => "no more".to_owned(),
        Next::Park => "parked until it is retried by hand".to_owned(),
    }
}

/// How a run was terminated, in words.
pub(super) fn terminated(reason: &str, by: &str, skipped: &[Skipped]) -> String {
    let skipped: Vec<String> = skipped.iter().map(|undo| format!("{} (#{})", undo.activity, undo.position)).collect();
    let undone = if skipped.is_empty() { String::new() } else { format!("; not undone: {}", skipped.join(", ")) };
    format!("terminated by {by}: {reason}{undone}")
}

fn in_a_word(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Completed(_) => "completed".to_owned(),
        Outcome::Failed(failure) => format!("failed: {failure}"),
        Outcome::Cancelled { reason } => format!("cancelled: {reason}"),
        Outcome::TimedOut => "timed out".to_owned(),
        Outcome::Terminated { reason, by, skipped } => terminated(reason, by, skipped),
        Outcome::Continued => "continued as its next run".to_owned(),
    }
}

/// Reads the next rows of a log, as soon as there are some; none when the run has ended.
///
/// *from* [`Events`] · *reply* the rows · *delivery* ask · *if lost* asked again
#[derive(Message)]
#[rtype(result = "Result<Vec<(CommitNo, Record)>, Error>")]
pub(crate) struct FollowingRows {
    run: RunKey,
    from: CommitNo,
    limit: u32,
    /// Ends with whoever waits.
    wanted: oneshot::Receiver<()>,
}

impl Door {
    async fn following(&self, run: RunKey, from: CommitNo, limit: u32) -> Result<Vec<(CommitNo, Record)>, Error> {
        let mut listener = None;
        loop {
            let rows = self.read(move |reader| async move {
                let rows = reader.history(run, from, limit).await?;
                if !rows.is_empty() {
                    return Ok(Some(rows));
                }
                // What is not there behind the end of a run will never be. One without a row waits at a gate, and has not begun.
                let ended = reader.summaries(&[run]).await?.first().is_some_and(|summary| summary.status.is_end());
                if ended { Ok(Some(reader.history(run, from, limit).await?)) } else { Ok(None) }
            });
            if let Some(rows) = rows.await? {
                return Ok(rows);
            }
            match &mut listener {
                // What came between the look and this is found by looking again.
                None => listener = Some(self.bells.listen(run, Rung::Commit)),
                Some(listener) => listener.rung().await,
            }
        }
    }
}

impl Handler<FollowingRows> for Supervisor {
    type Result = ResponseFuture<Result<Vec<(CommitNo, Record)>, Error>>;

    fn handle(&mut self, rows: FollowingRows, _: &mut actix::Context<Self>) -> Self::Result {
        let (door, FollowingRows { run, from, limit, wanted }) = (self.door.clone(), rows);
        Box::pin(async move {
            tokio::select! {
                biased;
                rows = door.following(run, from, limit) => rows,
                _ = wanted => Err(Error::Stopped),
            }
        })
    }
}

/// Sends the events of the current run of an id to an actor, each as a [`Happened`], in order and each one once. The next is sent when the one before
/// was handled, so a slow actor has never more than one in its mailbox, and nobody waits for it.
///
/// It is answered when it is over: `Ok` behind the last event of the run, or when the actor is no more.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct Subscribe {
    id: String,
    from: CommitNo,
    to: Recipient<Happened>,
}

impl Subscribe {
    /// Sends all events, from the first one on.
    pub fn new(id: impl Into<String>, to: Recipient<Happened>) -> Subscribe {
        Subscribe { id: id.into(), from: 0, to }
    }

    /// Only those of this commit and of later ones.
    #[must_use]
    pub fn from(mut self, commit: CommitNo) -> Subscribe {
        self.from = commit;
        self
    }
}

impl Handler<Subscribe> for Supervisor {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, Subscribe { id, from, to }: Subscribe, ctx: &mut actix::Context<Self>) -> Self::Result {
        let (door, supervisor) = (self.door.clone(), actix::AsyncContext::address(ctx));
        Box::pin(async move {
            let found = door.find(id.clone()).await?.ok_or(Error::Send(SendError::Unknown(id)))?;
            let mut events = Events::new(supervisor, found.run, found.id, from);
            while let Some(happened) = events.next().await? {
                if to.send(happened).await.is_err() {
                    break;
                }
            }
            Ok(())
        })
    }
}

impl Stent {
    /// Follows the current run of an id: its events in order, each one once, from this commit on (0 is the first); first those of the past, then as
    /// they are recorded. `None` if there is no such execution. For an actor see [`Subscribe`].
    ///
    /// # Errors
    /// [`Error::Store`] or [`Error::Stopped`].
    pub async fn events(&self, id: impl Into<String>, from: CommitNo) -> Result<Option<Events>, Error> {
        let found = self.supervisor().send(super::supervisor::Find(id.into())).await;
        let found = found.unwrap_or_else(|_| Err(self.door.standing.borrow().error()))?;
        Ok(found.map(|found| Events::new(self.supervisor().clone(), found.run, found.id, from)))
    }
}

impl<W> Handle<W> {
    /// Follows this run; see [`Stent::events`].
    #[must_use]
    pub fn events(&self, from: CommitNo) -> Events {
        Events::new(self.supervisor.clone(), self.run(), self.run_id().clone(), from)
    }
}
