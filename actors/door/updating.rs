//! Updating a run. An update goes through the inbox like any message, so it reaches its run wherever that is, exactly once by its id;
//! its answer is in the log of the run, where everyone who gives that id finds it. Whoever runs it here tells it at once.
//!
//! It is checked before it is sent, by the state as recorded: what is rejected there leaves no trace. The run checks once more when it
//! takes it, since its state may have changed by then; that answer is recorded, or nobody elsewhere could hear it.

use std::time::Duration;

use super::{Door, in_words};
use crate::{
    actors::{
        asked,
        waiters::{Answering, Updated},
    },
    error::{Error, QueryError, SendError},
    kernel::{
        codec,
        event::{Command, Event, Fact, Ignored, MessageBody, Outcome as RunEnd},
        id::{CommitNo, RunId, RunKey},
        payload::Payload,
        tape::{Inquiry, Told},
    },
    store::{Status, Summary},
};

/// How often it is looked for an answer that nobody here has told: at first, and at last.
const LOOK: Duration = Duration::from_millis(20);
const LONGEST_LOOK: Duration = Duration::from_millis(500);

/// So many commits are read at once.
const PAGE: u32 = 500;

/// A run in whose log an answer is to appear.
struct Followed {
    run: RunKey,
    id: RunId,
    /// What was read of it.
    next: CommitNo,
}

impl Followed {
    /// From its beginning on.
    fn whole(of: Summary) -> Followed {
        Followed { run: of.run, id: of.id, next: 0 }
    }
}

/// What a log says of a message, behind a commit.
enum Seen {
    Nothing,
    Answer(Updated),
    /// It was taken before.
    Before,
    /// It is no update.
    Another,
    Ended(RunEnd),
}

impl Door {
    /// Sends an update and waits for its answer. `None`: there was none in time.
    pub(crate) async fn update(
        &self,
        to: String,
        message: String,
        name: &'static str,
        payload: Payload,
        within: Duration,
    ) -> Result<Option<Updated>, Error> {
        let body = MessageBody::Update { name: name.to_owned(), payload: payload.clone() };
        asked::check_message(&message, &body, &self.config.limits)?;
        let answer = self.updated(to, message, name, payload, body);
        tokio::time::timeout(within, answer).await.map_or(Ok(None), |answer| answer.map(Some))
    }

    async fn updated(
        &self,
        to: String,
        message: String,
        name: &'static str,
        payload: Payload,
        body: MessageBody,
    ) -> Result<Updated, Error> {
        loop {
            let sent = self.update_once(&to, &message, name, &payload, &body).await?;
            match sent {
                Some(updated) => return Ok(updated),
                // The run that was asked has continued since, and knows nothing of it.
                None => self.breathe().await,
            }
        }
    }

    /// The same; `None` if the run went away under it, so that it was not sent.
    async fn update_once(
        &self,
        to: &str,
        message: &str,
        name: &'static str,
        payload: &Payload,
        body: &MessageBody,
    ) -> Result<Option<Updated>, Error> {
        let run = self.current(to).await?.run;
        let tail = self.read(move |reader| async move { reader.tail(run).await }).await?;
        // Behind the tail: an end that is not told here comes behind what is read, and is found there.
        let found = self.summary(run).await?;
        if found.status == Status::Continued {
            return Ok(None);
        }
        if found.status.is_end() {
            return self.look_back(Followed::whole(found), message).await;
        }
        let mut followed = Followed { next: tail.map_or(0, |(commit_no, _)| commit_no + 1), ..Followed::whole(found) };
        let check = Inquiry::Check { message: message.to_owned(), name, payload: payload.clone() };
        match self.inquire(run, check).await {
            Ok(Ok(Told::Fits | Told::Answer(_))) => {}
            // Whichever run of the execution was asked: it may have continued in between.
            Ok(Ok(Told::SeeLog)) => return self.look_back(Followed::whole(self.current(to).await?), message).await,
            Ok(Err(failure)) => {
                // Another state than the one that it was checked by may be there when its turn comes; then the run says so.
                if self.is_next(&followed).await? {
                    return Ok(Some(Updated::Refused(failure)));
                }
            }
            // It cannot be told here: whoever runs it can.
            Err(Error::Query(QueryError::Unregistered { .. } | QueryError::Blocked(_) | QueryError::Failed(_))) => {}
            Err(error) => return Err(error),
        }
        let mut answering = self.waiters.await_answer(followed.run, message);
        match self.post(RunId::current(to), message.to_owned(), body.clone()).await {
            Ok(Some(run)) if run != followed.run => {
                // Another run of the id has begun since.
                followed = Followed::whole(self.summary(run).await?);
                answering = self.waiters.await_answer(run, message);
            }
            Ok(_) => {}
            Err(Error::Send(SendError::AlreadyEnded { .. })) => {
                return self.look_back(Followed::whole(self.current(to).await?), message).await;
            }
            Err(error) => return Err(error),
        }
        self.follow(followed, message, answering).await.map(Some)
    }

    /// Waits until an answer is there: told by whoever runs the run here, or found in its log.
    async fn follow(&self, mut followed: Followed, message: &str, mut answering: Answering<'_>) -> Result<Updated, Error> {
        let mut pause = LOOK;
        loop {
            if let Ok(answer) = tokio::time::timeout(pause, answering.answer()).await {
                return Ok(answer);
            }
            pause = (pause * 2).min(LONGEST_LOOK);
            match self.look(&mut followed, message).await? {
                Seen::Nothing => {}
                Seen::Answer(answer) => return Ok(answer),
                Seen::Before => break,
                Seen::Another => return Err(another(&followed.id.id, message)),
                // What is unread goes with it to the next run.
                Seen::Ended(RunEnd::Continued) => {
                    let next = self.row(&followed.id.id, Some(followed.id.run_no + 1)).await?;
                    if let Some(next) = next {
                        answering = self.waiters.await_answer(next.run, message);
                        followed = Followed::whole(next);
                    }
                }
                Seen::Ended(_) => break,
            }
        }
        let id = followed.id.id.clone();
        self.look_back(followed, message).await?.ok_or_else(|| another(&id, message))
    }

    /// Finds the answer of a message that was taken before, from the beginning on; also if that was before the run was continued as
    /// this one. `None`: no run of the chain has taken it, and the last one goes on.
    async fn look_back(&self, followed: Followed, message: &str) -> Result<Option<Updated>, Error> {
        let id = followed.id.id.clone();
        let mut whole = Followed { next: 0, ..followed };
        let mut found = self.look(&mut whole, message).await?;
        let end = match &found {
            // The execution goes on.
            Seen::Ended(RunEnd::Continued) => None,
            Seen::Ended(outcome) => Some(in_words(outcome)),
            _ => None,
        };
        loop {
            match found {
                Seen::Answer(answer) => return Ok(Some(answer)),
                Seen::Another => {
                    let current = self.current(&id).await?;
                    if current.status.is_end() {
                        return Err(SendError::AlreadyEnded { id, status: current.status.as_str().to_owned() }.into());
                    }
                    return Err(another(&id, message));
                }
                // It goes on from there.
                Seen::Before => {}
                Seen::Nothing | Seen::Ended(_) => match self.before(&whole).await? {
                    Some(before) => whole = Followed::whole(before),
                    None => break,
                },
            }
            found = self.look(&mut whole, message).await?;
        }
        end.map_or(Ok(None), |status| Err(SendError::AlreadyEnded { id, status }.into()))
    }

    /// Returns the run that a run goes on for: it continued as this one, or this one has begun with a copy of its history.
    async fn before(&self, run: &Followed) -> Result<Option<Summary>, Error> {
        // There is no run of number 0.
        let before = self.row(&run.id.id, Some(run.id.run_no.saturating_sub(1))).await?;
        if let Some(before) = before.filter(|before| before.status == Status::Continued) {
            return Ok(Some(before));
        }
        let mut whole = Followed { next: 0, run: run.run, id: run.id.clone() };
        let of = self.read_on(&mut whole, |event| match event {
            Event::Fact(Fact::Forked(forked)) if forked.run_no == run.id.run_no => Some(forked.from),
            _ => None,
        });
        match of.await? {
            Some(of) => self.row(&run.id.id, Some(of)).await,
            None => Ok(None),
        }
    }

    /// Tells whether what comes now would be taken next, by the state that was recorded when it was asked: no message is unread, none was
    /// taken behind what is read of the log, and the run is the current one still. So whatever was acknowledged before counts, and
    /// so does a copy of the message itself.
    async fn is_next(&self, followed: &Followed) -> Result<bool, Error> {
        let run = followed.run;
        // The inbox first: what is taken in between is in the log.
        let inbox = self.read(move |reader| async move { reader.inbox(run).await }).await?;
        if inbox.count() > 0 || self.current(&followed.id.id).await?.run != run {
            return Ok(false);
        }
        let mut behind = Followed { run, id: followed.id.clone(), next: followed.next };
        let taken = |event| matches!(event, Event::Fact(Fact::Received { .. } | Fact::Refused { .. })).then_some(());
        Ok(self.read_on(&mut behind, taken).await?.is_none())
    }

    /// Reads on in a log until it says something of a message, or is read.
    async fn look(&self, followed: &mut Followed, message: &str) -> Result<Seen, Error> {
        let mut end = Seen::Nothing;
        let seen = self.read_on(followed, |event| match said(event, message) {
            Seen::Nothing => None,
            Seen::Ended(outcome) => {
                end = Seen::Ended(outcome);
                None
            }
            seen => Some(seen),
        });
        let seen = seen.await?;
        Ok(seen.unwrap_or(end))
    }

    /// Reads on in a log, a page at a time, until an event is what is looked for. The rest of its commit counts as read.
    async fn read_on<T>(&self, followed: &mut Followed, mut found: impl FnMut(Event) -> Option<T>) -> Result<Option<T>, Error> {
        loop {
            let (run, from) = (followed.run, followed.next);
            let page = self.read(move |reader| async move { reader.history(run, from, PAGE).await }).await?;
            let full = page.len() >= PAGE as usize;
            for (commit_no, record) in page {
                let commit = codec::decode(&followed.id, commit_no, &record).map_err(|e| Error::Wait(e.to_string()))?;
                followed.next = commit_no + 1;
                if let Some(found) = commit.events.into_iter().find_map(&mut found) {
                    return Ok(Some(found));
                }
            }
            if !full {
                return Ok(None);
            }
        }
    }

    pub(super) async fn current(&self, id: &str) -> Result<Summary, Error> {
        Ok(self.row(id, None).await?.ok_or_else(|| SendError::Unknown(id.to_owned()))?)
    }

    async fn summary(&self, run: RunKey) -> Result<Summary, Error> {
        let found = self.read(move |reader| async move { reader.summaries(&[run]).await }).await?;
        Ok(found.into_iter().next().ok_or_else(|| SendError::Unknown(format!("(run {})", run.0)))?)
    }
}

fn another(id: &str, message: &str) -> Error {
    SendError::Invalid(format!("the id {message:?} is that of another message to {id}; choose another")).into()
}

/// What an event says of a message.
fn said(event: Event, message: &str) -> Seen {
    match event {
        Event::Command(Command::Answered { message: of, reply }) if of == message => Seen::Answer(Updated::Replied(*reply)),
        Event::Fact(Fact::Refused { message: of, failure }) if of == message => Seen::Answer(Updated::Refused(*failure)),
        Event::Fact(Fact::Ignored { message: of, why: Ignored::Duplicate }) if of == message => Seen::Before,
        // An order or a word that came too late, which no update does.
        Event::Fact(Fact::Ignored { message: of, why: Ignored::Late }) if of == message => Seen::Another,
        Event::Fact(Fact::Received { message: of, body }) if of == message && !matches!(body, MessageBody::Update { .. }) => {
            Seen::Another
        }
        Event::Command(Command::End { outcome }) => Seen::Ended(*outcome),
        _ => Seen::Nothing,
    }
}
