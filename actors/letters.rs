//! Dead letters: what an application may ask and say about calls that have failed for good, and how the door answers.

use actix::{Context, Message, ResponseFuture};
use chrono::{DateTime, Utc};
use tokio::sync::oneshot;

use super::{
    door::Door,
    handle::Stent,
    persistence::{Submit, Whom},
    resets::ResetRun,
    supervisor::{Supervisor, handled},
};
use crate::{
    error::{Error, LetterError, SendError},
    kernel::{
        codec,
        event::{Command, Event, Fact, MessageBody},
        failure::Failure,
        fork::Point,
        id::{Attempt, Position, RunId, RunKey},
        payload::Payload,
        time::Timestamp,
    },
    store::{DeadLetter, Item, LetterFilter, LetterPlace, Outcome, Status},
};

/// So many commits are read at once.
const PAGE: u32 = 500;

/// So many letters are taken at once of all that are asked for.
const TOGETHER: u32 = 100;

/// Names a dead letter: there is at most one of a call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LetterKey {
    /// The run.
    pub run: RunId,
    /// The call in it.
    pub position: Position,
}

impl LetterKey {
    /// Returns the name of this letter.
    #[must_use]
    pub fn of(letter: &DeadLetter) -> LetterKey {
        LetterKey { run: letter.id.clone(), position: letter.letter.position }
    }
}

impl std::fmt::Display for LetterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.run, self.position)
    }
}

/// Lists dead letters, newest first: calls and steps that have failed for good. One that was retried, undone by a reset, or discarded has
/// none any more.
#[derive(Debug, Clone, Default, Message)]
#[rtype(result = "Result<Vec<DeadLetter>, Error>")]
pub struct ListLetters {
    filter: LetterFilter,
}

impl ListLetters {
    /// Lists up to 100 letters.
    #[must_use]
    pub fn new() -> ListLetters {
        ListLetters { filter: LetterFilter { limit: TOGETHER, ..LetterFilter::default() } }
    }

    /// Only those of runs of this workflow.
    #[must_use]
    pub fn workflow(mut self, name: impl Into<String>) -> ListLetters {
        self.filter.workflow = Some(name.into());
        self
    }

    /// Only those of this activity or step.
    #[must_use]
    pub fn activity(mut self, name: impl Into<String>) -> ListLetters {
        self.filter.activity = Some(name.into());
        self
    }

    /// Only failures of this kind.
    #[must_use]
    pub fn kind(mut self, kind: impl Into<String>) -> ListLetters {
        self.filter.kind = Some(kind.into());
        self
    }

    /// Only those whose calls are parked: they wait for an operator, and their runs with them.
    #[must_use]
    pub fn parked(mut self) -> ListLetters {
        self.filter.parked = Some(true);
        self
    }

    /// Only those whose errors went to the code.
    #[must_use]
    pub fn failed(mut self) -> ListLetters {
        self.filter.parked = Some(false);
        self
    }

    /// Only those from then on.
    #[must_use]
    pub fn since(mut self, at: DateTime<Utc>) -> ListLetters {
        self.filter.since = Some(Timestamp(at.timestamp_micros()));
        self
    }

    /// Only those behind the last one of the page before.
    #[must_use]
    pub fn after(mut self, last: LetterPlace) -> ListLetters {
        self.filter.before = Some(last);
        self
    }

    /// At most so many, at most 1,000. When all are replayed or discarded it means nothing.
    #[must_use]
    pub fn limit(mut self, limit: u32) -> ListLetters {
        self.filter.limit = limit.clamp(1, 1_000);
        self
    }
}

/// Shows everything about a dead letter; `None` when there is none.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Option<LetterDetails>, Error>")]
pub struct ShowLetter(pub LetterKey);

/// Everything about a dead letter.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LetterDetails {
    /// As it is listed.
    pub letter: DeadLetter,
    /// The argument of the call; a step has none.
    pub input: Option<Payload>,
    /// How its attempts ended, oldest first, each with all that is known; `None` is one that was lost with its node.
    pub failures: Vec<(Attempt, Option<Failure>)>,
}

/// Replays a dead letter. A parked call is tried again in its own run, with a new budget of attempts. One whose error went to the code is
/// made again by a [reset](ResetRun) to the moment before it failed; its run must have ended, and be the current one of the execution: a letter
/// of a run that another one has followed is left alone ([`ResetError::Overtaken`](crate::ResetError::Overtaken)).
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Replayed, Error>")]
pub struct ReplayLetter {
    key: LetterKey,
    by: String,
    reason: String,
}

/// What came of the replay of a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Replayed {
    /// The call is tried again in its run.
    Retried,
    /// This run has begun, and makes the call again.
    Reset(RunId),
}

impl ReplayLetter {
    /// Replays this letter.
    #[must_use]
    pub fn new(key: LetterKey) -> ReplayLetter {
        ReplayLetter { key, by: String::new(), reason: String::new() }
    }

    /// Says who replays it, for the record.
    #[must_use]
    pub fn by(mut self, operator: impl Into<String>) -> ReplayLetter {
        self.by = operator.into();
        self
    }

    /// Says why, for the record.
    #[must_use]
    pub fn reason(mut self, reason: impl Into<String>) -> ReplayLetter {
        self.reason = reason.into();
        self
    }
}

/// Takes a dead letter out, as it is when this is asked: if its call fails anew meanwhile, that letter stays. Its run and the failure in its log
/// stay as they are: a parked call stays parked. The answer is whether there was one.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<bool, Error>")]
pub struct DiscardLetter(pub LetterKey);

/// Replays all letters that a filter names. Of an execution with several, its next run begins before the first one that is named. Left as they are,
/// with the reason: letters of runs that have not ended, that other runs have followed, or that have completed nevertheless, and whatever
/// cannot be replayed.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Swept, Error>")]
pub struct ReplayLetters {
    which: ListLetters,
    by: String,
    reason: String,
}

impl ReplayLetters {
    /// Replays what this would list.
    #[must_use]
    pub fn new(which: ListLetters) -> ReplayLetters {
        ReplayLetters { which, by: String::new(), reason: String::new() }
    }

    /// Says who replays them, for the record.
    #[must_use]
    pub fn by(mut self, operator: impl Into<String>) -> ReplayLetters {
        self.by = operator.into();
        self
    }

    /// Says why, for the record.
    #[must_use]
    pub fn reason(mut self, reason: impl Into<String>) -> ReplayLetters {
        self.reason = reason.into();
        self
    }
}

/// Discards all letters that a filter names, as they are listed: calls that fail anew meanwhile keep their new letters, which the answer counts
/// among those that stay.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Swept, Error>")]
pub struct DiscardLetters(pub ListLetters);

/// What came of many letters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Swept {
    /// How many were dealt with: retries and resets that were begun, or letters that are gone.
    pub done: u64,
    /// Those that stay as they are, and why; the first 1,000.
    pub left: Vec<(LetterKey, String)>,
    /// How many stay in all.
    pub left_in_all: u64,
}

impl Swept {
    /// The most that are told.
    const MOST: usize = 1_000;

    fn leave(&mut self, letter: &DeadLetter, why: String) {
        self.left_in_all += 1;
        if self.left.len() < Swept::MOST {
            self.left.push((LetterKey::of(letter), why));
        }
    }
}

impl Door {
    pub(crate) async fn letters(&self, filter: LetterFilter) -> Result<Vec<DeadLetter>, Error> {
        self.read(move |reader| async move { reader.letters(&filter).await }).await
    }

    async fn letter(&self, key: &LetterKey) -> Result<Option<DeadLetter>, Error> {
        let Some(row) = self.row(&key.run.id, Some(key.run.run_no)).await? else { return Ok(None) };
        let filter = LetterFilter { run: Some(row.run), position: Some(key.position), limit: 1, ..LetterFilter::default() };
        Ok(self.letters(filter).await?.into_iter().next())
    }

    pub(crate) async fn show_letter(&self, key: LetterKey) -> Result<Option<LetterDetails>, Error> {
        let Some(letter) = self.letter(&key).await? else { return Ok(None) };
        let (run, last) = (letter.run, letter.letter.commit_no);
        let (mut input, mut failures, mut from) = (None, Vec::new(), 0);
        while from <= last {
            let page = self.read(move |reader| async move { reader.history(run, from, PAGE).await }).await?;
            let Some((newest, _)) = page.last() else { break };
            from = newest + 1;
            for (commit_no, record) in page.iter().filter(|(commit_no, _)| *commit_no <= last) {
                let commit = codec::decode(&letter.id, *commit_no, record).map_err(|e| LetterError::Unreadable(e.to_string()))?;
                for event in commit.events {
                    match event {
                        Event::Command(Command::Call(call)) if call.position == key.position => input = Some(call.input),
                        Event::Fact(Fact::Failed { position, attempt, failure, .. }) if position == key.position => {
                            failures.push((attempt, Some(*failure)));
                        }
                        Event::Fact(Fact::Lost { position, attempt, .. }) if position == key.position => {
                            failures.push((attempt, None));
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok(Some(LetterDetails { letter, input, failures }))
    }

    pub(crate) async fn replay_letter(&self, asked: ReplayLetter) -> Result<Replayed, Error> {
        let ReplayLetter { key, by, reason } = asked;
        let letter = self.letter(&key).await?.ok_or(LetterError::Unknown(key))?;
        self.replay(&letter, by, reason).await
    }

    async fn replay(&self, letter: &DeadLetter, by: String, reason: String) -> Result<Replayed, Error> {
        let (id, position) = (letter.id.clone(), letter.letter.position);
        if letter.letter.parked {
            failpoint!("letters.found");
            // A letter is replayed once, however often that is asked for.
            let digest = blake3::hash(format!("{id}/{position}/{}", letter.letter.attempt).as_bytes());
            let body = MessageBody::Retry { position: Some(position) };
            // To the run of the letter: another one that has begun under the id may have parked the same call.
            return match self.post(id, format!("letter-{}", digest.to_hex()), body).await {
                Ok(_) => Ok(Replayed::Retried),
                Err(Error::Send(SendError::AlreadyEnded { .. })) => Err(LetterError::Over(LetterKey::of(letter)).into()),
                Err(error) => Err(error),
            };
        }
        let reset = ResetRun::new(id.id, Point::BeforeFailure(position)).current_run(id.run_no).by(by).reason(reason);
        Ok(Replayed::Reset(self.reset(reset).await?))
    }

    pub(crate) async fn replay_letters(&self, asked: ReplayLetters) -> Result<Swept, Error> {
        let ReplayLetters { which, by, reason } = asked;
        let mut swept = Swept::default();
        // What fails again meanwhile is a new letter, and newer than what is asked for.
        let mut filter = LetterFilter { limit: TOGETHER, ..which.filter };
        filter.before.get_or_insert(LetterPlace { at: self.time.now(), run: RunKey(i64::MAX), position: Position::MAX });
        loop {
            let page = self.letters(filter.clone()).await?;
            let Some(last) = page.last() else { return Ok(swept) };
            filter.before = Some(last.place());
            for listed in page {
                // One of the same run may have dealt with it.
                let Some(letter) = self.letter(&LetterKey::of(&listed)).await? else { continue };
                if let Some(why) = self.stays(&letter).await? {
                    swept.leave(&letter, why);
                    continue;
                }
                let letter = self.first_of_its_run(&filter, letter).await?;
                match self.replay(&letter, by.clone(), reason.clone()).await {
                    Ok(_) => swept.done += 1,
                    Err(error @ (Error::Send(_) | Error::Reset(_) | Error::Letter(_))) => swept.leave(&letter, error.to_string()),
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// Returns why a letter is not replayed along with others, if so.
    async fn stays(&self, letter: &DeadLetter) -> Result<Option<String>, Error> {
        if letter.letter.parked {
            return Ok(None);
        }
        if letter.status == Status::Completed {
            return Ok(Some("its run has completed nevertheless; replay it by itself if it is to run again".to_owned()));
        }
        let current = self.row(&letter.id.id, None).await?;
        let followed = current.filter(|current| current.run != letter.run);
        Ok(followed.map(|current| format!("run {} of the execution has followed", current.id.run_no)))
    }

    /// Returns the first failure of a run among those that are wanted: what comes behind it is made again along with it.
    async fn first_of_its_run(&self, wanted: &LetterFilter, letter: DeadLetter) -> Result<DeadLetter, Error> {
        if letter.letter.parked {
            return Ok(letter);
        }
        let filter = LetterFilter { run: Some(letter.run), parked: Some(false), before: None, limit: 1_000, ..wanted.clone() };
        let all = self.letters(filter).await?;
        Ok(all.into_iter().min_by_key(|found| (found.letter.commit_no, found.letter.event)).unwrap_or(letter))
    }

    pub(crate) async fn discard_letter(&self, key: LetterKey) -> Result<bool, Error> {
        match self.letter(&key).await? {
            Some(letter) => self.drop_letters(&[letter]).await.map(|()| true),
            None => Ok(false),
        }
    }

    pub(crate) async fn discard_letters(&self, which: ListLetters) -> Result<Swept, Error> {
        let mut swept = Swept::default();
        let mut filter = LetterFilter { limit: 1_000, ..which.filter };
        filter.before.get_or_insert(LetterPlace { at: self.time.now(), run: RunKey(i64::MAX), position: Position::MAX });
        loop {
            let page = self.letters(filter.clone()).await?;
            let Some(last) = page.last() else { return Ok(swept) };
            filter.before = Some(last.place());
            failpoint!("letters.found");
            self.drop_letters(&page).await?;
            for listed in page {
                // A call fails anew only while its run goes on.
                let stays = !listed.status.is_end() && self.letter(&LetterKey::of(&listed)).await?.is_some();
                if stays {
                    swept.leave(&listed, "its call has failed anew meanwhile; the newer letter stays".to_owned());
                } else {
                    swept.done += 1;
                }
            }
        }
    }

    async fn drop_letters(&self, letters: &[DeadLetter]) -> Result<(), Error> {
        let all: Vec<_> = letters.iter().map(DeadLetter::seen).collect();
        loop {
            let links = self.links().await?;
            let (told, outcome) = oneshot::channel();
            links.persistence.do_send(Submit(vec![(Item::DropLetters(all.clone()), Whom::Caller(told))]));
            match outcome.await {
                Ok(Outcome::Done) => return Ok(()),
                Ok(Outcome::Refused(why)) => return Err(LetterError::Unavailable(why).into()),
                Ok(_) | Err(_) => self.breathe().await,
            }
        }
    }
}

handled!(ListLetters, Vec<DeadLetter>, |door, ListLetters { filter }| door.letters(filter).await);
handled!(ShowLetter, Option<LetterDetails>, |door, ShowLetter(key)| door.show_letter(key).await);
handled!(ReplayLetter, Replayed, |door, asked| door.replay_letter(asked).await);
handled!(ReplayLetters, Swept, |door, asked| door.replay_letters(asked).await);
handled!(DiscardLetter, bool, |door, DiscardLetter(key)| door.discard_letter(key).await);
handled!(DiscardLetters, Swept, |door, DiscardLetters(which)| door.discard_letters(which).await);

impl Stent {
    /// Lists dead letters; see [`ListLetters`].
    ///
    /// # Errors
    /// [`Error::Store`] or [`Error::Stopped`].
    pub async fn letters(&self, list: ListLetters) -> Result<Vec<DeadLetter>, Error> {
        self.asked(self.supervisor().send(list).await)
    }

    /// Shows everything about a dead letter; see [`ShowLetter`].
    ///
    /// # Errors
    /// [`Error::Letter`] when its log cannot be read.
    pub async fn letter(&self, key: LetterKey) -> Result<Option<LetterDetails>, Error> {
        self.asked(self.supervisor().send(ShowLetter(key)).await)
    }

    /// Replays a dead letter; see [`ReplayLetter`].
    ///
    /// # Errors
    /// [`Error::Letter`], [`Error::Reset`] or [`Error::Send`] says why not.
    pub async fn replay_letter(&self, replay: ReplayLetter) -> Result<Replayed, Error> {
        self.asked(self.supervisor().send(replay).await)
    }

    /// Replays many dead letters; see [`ReplayLetters`].
    ///
    /// # Errors
    /// [`Error::Store`] or [`Error::Stopped`]; what was replayed by then stays so. What cannot be replayed is told in the answer.
    pub async fn replay_letters(&self, replay: ReplayLetters) -> Result<Swept, Error> {
        self.asked(self.supervisor().send(replay).await)
    }

    /// Discards a dead letter; see [`DiscardLetter`].
    ///
    /// # Errors
    /// [`Error::Letter`] when the store refused it.
    pub async fn discard_letter(&self, key: LetterKey) -> Result<bool, Error> {
        self.asked(self.supervisor().send(DiscardLetter(key)).await)
    }

    /// Discards many dead letters; see [`DiscardLetters`].
    ///
    /// # Errors
    /// [`Error::Store`] or [`Error::Stopped`]; what was discarded by then stays so.
    pub async fn discard_letters(&self, which: ListLetters) -> Result<Swept, Error> {
        self.asked(self.supervisor().send(DiscardLetters(which)).await)
    }
}
