//! Resets: an execution whose run has ended goes on from a point of its history, as its next run. The kernel says what that begins with
//! ([`fork`](crate::kernel::fork)), the store writes it in one item, and then it is claimed like any run that is due.

use std::rc::Rc;

use actix::{Context, Message, ResponseFuture};
use tokio::sync::oneshot;

use super::{
    door::{Door, Links},
    handle::Stent,
    persistence::{ReserveKeys, Submit, Whom},
    scheduler::Nudge,
    supervisor::{Supervisor, handled},
};
use crate::{
    error::{Error, ResetError},
    kernel::{
        codec::{self, Record},
        event::{Event, Fact},
        fork::{self, Fork, Forked, Point},
        id::{CommitNo, Incarnation, RunId, RunKey},
    },
    store::{self, Item, NewRun, Outcome, Reader, Redelivered, Status, StoreError, Summary},
};

/// A log that is longer is not copied: so much is one transaction.
const MOST_COMMITS: usize = 20_000;

/// The same in bytes.
const MOST_BYTES: usize = 48 << 20;

const TOO_LONG: ResetError = ResetError::TooLong { commits: MOST_COMMITS, bytes: MOST_BYTES };

/// So many rows of a log are read at once.
const PAGE: u32 = 2_000;

/// A request is looked for in so many of the newest runs.
const LATEST_RUNS: usize = 32;

/// So many rows of a log are read at once on this thread.
const SHORT_PAGE: u32 = 200;

/// The most bytes of the name of a request.
const LONGEST_REQUEST: usize = 255;

/// Who asked for something and why is kept up to so many bytes each.
const LONGEST_NOTE: usize = 4_000;

/// What is stored of a log.
type Log = Vec<(CommitNo, Record)>;

/// How much more is read.
#[derive(Clone, Copy)]
struct Room {
    commits: usize,
    bytes: usize,
}

/// Lets an execution whose run has ended go on from a [`Point`] of that run's history, as its next run. The answer is the new run.
///
/// The run that has ended stays as it is. The new one begins with a copy of its history up to the point: what was recorded there has
/// happened and is not done again, with whatever keys it had. What was under way at the point (calls, steps) is made again, under new keys and
/// with new budgets of attempts, at most once or not: whoever resets has looked. Sleeps end when they would have, so a call that is made again
/// beside one that is over by now comes second: choose a point before that sleep. Children that were
/// awaited at the point are not begun again: the run must have heard of their ends, and hears of them again, or the point is refused. Signals and
/// updates that came behind the point come again, in their order, unless they are left [out](ResetRun::without_messages); what asked the run to stop
/// does not. A deadline leaves as much time as it left at the point. Random numbers go on differently. What the run shows is what it
/// showed at the point. Compensations that have run already stay done: of a saga that was undone, leave its beginning out as well.
///
/// Of several who ask at once one is accepted; the others hear that a run has begun ([`Running`](ResetError::Running)) or has followed meanwhile
/// ([`Overtaken`](ResetError::Overtaken)), even if it has ended by then: whoever resets has looked at the run that is current. Whoever may ask twice gives the
/// request an [id](ResetRun::request_id).
///
/// The new run is due at once, on any node that has its workflow, and its parent, if it had one, does not hear of it: that has had its answer.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<RunId, Error>")]
pub struct ResetRun {
    id: String,
    point: Point,
    run_no: Option<u32>,
    by: String,
    reason: String,
    messages: bool,
    request: Option<String>,
    /// The run must be the current one.
    current: bool,
}

impl ResetRun {
    /// Resets the execution of this id to a point of its current run.
    #[must_use]
    pub fn new(id: impl Into<String>, point: Point) -> ResetRun {
        let (by, reason) = (String::new(), String::new());
        ResetRun { id: id.into(), point, run_no: None, by, reason, messages: true, request: None, current: false }
    }

    /// Takes the history of another run of the execution than the current one, by its number. Signals and updates that came to the runs that
    /// follow from it come again too, or are known: those that it continued as, and what was begun by resets of these in their place. Their logs
    /// count with its own, which must not be too long together; of messages that are left out only the last log counts.
    #[must_use]
    pub fn run(mut self, run_no: u32) -> ResetRun {
        self.run_no = Some(run_no);
        self
    }

    /// Says who resets it, for the record.
    #[must_use]
    pub fn by(mut self, operator: impl Into<String>) -> ResetRun {
        self.by = operator.into();
        self
    }

    /// Says why, for the record.
    #[must_use]
    pub fn reason(mut self, reason: impl Into<String>) -> ResetRun {
        self.reason = reason.into();
        self
    }

    /// Leaves out the signals and updates that came behind the point.
    #[must_use]
    pub fn without_messages(mut self) -> ResetRun {
        self.messages = false;
        self
    }

    /// Sets the request's own id, 1 to 255 bytes, so that it may be asked again: the same id again begins nothing, whatever else is asked, and is
    /// answered with the run that it began, whether that has ended or not. It is known as long as that run is among the 32 newest of the execution.
    #[must_use]
    pub fn request_id(mut self, id: impl Into<String>) -> ResetRun {
        self.request = Some(id.into());
        self
    }

    /// Takes the history of the run of this number, which must be the current one.
    pub(super) fn current_run(mut self, run_no: u32) -> ResetRun {
        self.run_no = Some(run_no);
        self.current = true;
        self
    }

    fn check(&self) -> Result<(), ResetError> {
        for (what, text) in [("the name of who resets", &self.by), ("the reason", &self.reason)] {
            if text.len() > LONGEST_NOTE {
                return Err(ResetError::Invalid(format!("{what} has {} bytes, the limit is {LONGEST_NOTE}", text.len())));
            }
        }
        match self.request.as_ref().map_or(1, String::len) {
            1..=LONGEST_REQUEST => Ok(()),
            bytes => Err(ResetError::Invalid(format!("the request's id has {bytes} bytes; use 1 to {LONGEST_REQUEST}"))),
        }
    }
}

impl Door {
    /// Resets an execution.
    pub(crate) async fn reset(&self, asked: ResetRun) -> Result<RunId, Error> {
        asked.check()?;
        let token = asked.request.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        let (mut seen, mut waits) = (None::<u32>, 0);
        loop {
            let current = self.row(&asked.id, None).await?.ok_or_else(|| ResetError::Unknown(asked.id.clone()))?;
            match seen {
                Some(run_no) if run_no == current.id.run_no => {}
                Some(run_no) => {
                    // It was written and the answer was lost, or somebody else was faster. A run that has begun since then may have ended too, and
                    // nobody who asked for this has looked at it.
                    let next = self.row(&asked.id, run_no.checked_add(1)).await?;
                    let ours = match &next {
                        Some(next) => self.begun_by(next, &token).await?,
                        None => None,
                    };
                    return Ok(ours.ok_or_else(|| overtaken(&current))?);
                }
                None => {
                    if asked.request.is_some()
                        && let Some(run) = self.asked_before(&current, &token).await?
                    {
                        return Ok(run);
                    }
                    if asked.current && asked.run_no != Some(current.id.run_no) {
                        return Err(overtaken(&current).into());
                    }
                    seen = Some(current.id.run_no);
                }
            }
            let next = next_run(&current)?;
            let source = match asked.run_no {
                Some(run_no) if run_no != current.id.run_no => self
                    .row(&asked.id, Some(run_no))
                    .await?
                    .ok_or_else(|| ResetError::UnknownRun(RunId { id: asked.id.clone(), run_no }))?,
                _ => current,
            };
            let logs = self.logs_of(source.clone(), seen, asked.messages).await?;
            let links = self.links().await?;
            let Some(key) = self.reserved(&links).await? else { continue };
            let now = self.time.now();
            let forked = self.forked(logs, &asked, next.run_no, &token).await?;
            let row = NewRun { wake_at: Some(now), deadline: forked.deadline, ..row_of(&source, key, &next) };
            let fork = in_store(&next, row, forked, source.run)?;
            let (told, outcome) = oneshot::channel();
            links.persistence.do_send(Submit(vec![(Item::Fork(Box::new(fork)), Whom::Caller(told))]));
            match outcome.await {
                Ok(Outcome::Done) => {
                    links.scheduler.do_send(Nudge);
                    return Ok(next);
                }
                Ok(Outcome::InboxFull) => return Err(ResetError::TooManyMessages.into()),
                Ok(Outcome::Refused(why)) => return Err(ResetError::Unavailable(why).into()),
                Ok(Outcome::Waits) => self.let_others_finish(&mut waits).await,
                // Somebody has been faster, or the incarnation ended with the answer: it is looked at again.
                Ok(_) | Err(_) => self.breathe().await,
            }
        }
    }

    /// Returns the run that a request has begun before, if it is one of the newest.
    async fn asked_before(&self, current: &Summary, token: &str) -> Result<Option<RunId>, Error> {
        for run_no in (1..=current.id.run_no).rev().take(LATEST_RUNS) {
            if let Some(row) = self.row(&current.id.id, Some(run_no)).await?
                && let Some(run) = self.begun_by(&row, token).await?
            {
                return Ok(Some(run));
            }
        }
        Ok(None)
    }

    /// Returns the run that a request has begun, if it is this one, or one whose mark is in the copy that this one begins with.
    async fn begun_by(&self, row: &Summary, token: &str) -> Result<Option<RunId>, Error> {
        let id = &row.id.id;
        let ours = |mark: &Forked| (mark.token == token).then(|| RunId { id: id.clone(), run_no: mark.run_no });
        self.mark_of(row, ours).await
    }

    /// Looks at the mark of the copy that a run begins with, and before it at those that are in the copy.
    async fn mark_of<T>(&self, row: &Summary, is: impl Fn(&Forked) -> Option<T>) -> Result<Option<T>, Error> {
        let (run, mut from) = (row.run, 0);
        loop {
            // The first commit says whether there is a copy at all.
            let limit = if from == 0 { 1 } else { SHORT_PAGE };
            let page = self.read(move |reader| async move { reader.history(run, from, limit).await }).await?;
            let Some((newest, _)) = page.last() else { return Ok(None) };
            from = newest.saturating_add(1);
            for (commit_no, record) in &page {
                let commit = codec::decode(&row.id, *commit_no, record).map_err(|e| ResetError::Unreadable(e.to_string()))?;
                let mut copied = *commit_no > 0;
                for event in commit.events {
                    match event {
                        Event::Fact(Fact::Forked(mark)) => {
                            let found = is(&mark);
                            // Its own mark: the copy ends.
                            if found.is_some() || mark.run_no == row.id.run_no {
                                return Ok(found);
                            }
                        }
                        Event::Fact(Fact::Started(started)) => copied |= started.copied_from.is_some(),
                        _ => {}
                    }
                }
                if !copied {
                    return Ok(None);
                }
            }
        }
    }

    /// Reads the log of a run, and behind it those of the runs that follow from it, up to the current one. If no messages are to come again it is
    /// enough to know which were taken, and that the last of them knows.
    async fn logs_of(&self, source: Summary, current: Option<u32>, messages: bool) -> Result<Vec<(RunId, Log)>, Error> {
        let mut runs = self.followed(source, current).await?;
        if !messages && runs.len() > 2 {
            runs.drain(1..runs.len() - 1);
        }
        let (mut logs, mut room) = (Vec::with_capacity(runs.len()), Room { commits: MOST_COMMITS, bytes: MOST_BYTES });
        for row in runs {
            let run = row.run;
            let read = self.read(move |reader| async move { whole(reader, run, room).await }).await?;
            let (log, left) = read.ok_or(TOO_LONG)?;
            room = left;
            logs.push((row.id, log));
        }
        Ok(logs)
    }

    /// Returns a run and those that follow from it: it has continued as the next one, and so on. One that begins with a copy of one of these
    /// stands for that and all behind it: they were put aside, and what they took it has taken again, or knows.
    async fn followed(&self, source: Summary, current: Option<u32>) -> Result<Vec<Summary>, Error> {
        let (id, first) = (source.id.id.clone(), source.id.run_no);
        let mut runs = vec![source];
        for run_no in (first..=current.unwrap_or(first)).skip(1) {
            let Some(row) = self.row(&id, Some(run_no)).await? else { continue };
            let is_next = |last: &Summary| last.status == Status::Continued && last.id.run_no.checked_add(1) == Some(run_no);
            if !runs.last().is_some_and(is_next) {
                let own = |mark: &Forked| (mark.run_no == run_no).then_some(mark.from);
                let copied = self.mark_of(&row, own).await?;
                let Some(at) = runs.iter().position(|run| copied == Some(run.id.run_no)) else { continue };
                runs.truncate(at.max(1));
            }
            runs.push(row);
            if runs.len() > MOST_COMMITS {
                return Err(TOO_LONG.into());
            }
        }
        Ok(runs)
    }

    /// Reserves a key; `None`: it is to be tried again.
    async fn reserved(&self, links: &Links) -> Result<Option<RunKey>, Error> {
        match links.persistence.send(ReserveKeys(1)).await {
            Ok(Ok(key)) => Ok(Some(key)),
            Ok(Err(StoreError::Closed)) | Err(_) => {
                self.breathe().await;
                Ok(None)
            }
            Ok(Err(error)) => Err(error.into()),
        }
    }

    /// Decides what the new run begins with, on a thread of its own: a long log takes a while.
    async fn forked(&self, logs: Vec<(RunId, Log)>, asked: &ResetRun, run_no: u32, token: &str) -> Result<Fork, Error> {
        let (asked, token, at, build) = (asked.clone(), token.to_owned(), self.time.now(), self.config.build);
        let fork = move || -> Result<Fork, ResetError> {
            let decode = |(id, log): &(RunId, Log)| -> Result<Vec<_>, _> {
                log.iter().map(|(commit_no, record)| codec::decode(id, *commit_no, record)).collect()
            };
            let decoded: Result<Vec<_>, _> = logs.iter().map(decode).collect();
            let mut decoded = decoded.map_err(|e| ResetError::Unreadable(e.to_string()))?.into_iter();
            let (Some((id, _)), Some(log)) = (logs.first(), decoded.next()) else {
                return Err(ResetError::Unreadable("it has no log".to_owned()));
            };
            let behind: Vec<_> = decoded.collect();
            let ResetRun { point, by, reason, messages, .. } = &asked;
            // No node has run anything of it.
            let incarnation = Incarnation(uuid::Uuid::nil());
            let (point, messages) = (*point, *messages);
            let ask = fork::Ask { point, run_no, by, reason, token: &token, messages, behind: &behind, at, incarnation, build };
            let forked = fork::fork(id, log, &ask).map_err(ResetError::Point);
            failpoint!("reset.decided");
            forked
        };
        let (told, answer) = oneshot::channel();
        std::thread::Builder::new()
            .name("stent-reset".to_owned())
            .spawn(move || told.send(fork()))
            .map_err(|error| ResetError::Unavailable(format!("no thread could be had to read the log on: {error}")))?;
        let panicked = || ResetError::Unreadable("reading its log panicked; see the node's log".to_owned());
        Ok(answer.await.map_err(|_| panicked())??)
    }
}

/// Reads a whole log, and says how much room it leaves; `None` if it is too long.
async fn whole(reader: Rc<dyn Reader>, run: RunKey, room: Room) -> Result<Option<(Log, Room)>, StoreError> {
    let (mut log, mut bytes) = (Log::new(), 0);
    loop {
        let page = reader.history(run, CommitNo::try_from(log.len()).unwrap_or(CommitNo::MAX), PAGE).await?;
        let full = page.len() >= PAGE as usize;
        bytes += page.iter().map(|(_, record)| record.body.len()).sum::<usize>();
        log.extend(page);
        let (Some(commits), Some(bytes)) = (room.commits.checked_sub(log.len()), room.bytes.checked_sub(bytes)) else {
            return Ok(None);
        };
        if !full {
            return Ok(Some((log, Room { commits, bytes })));
        }
    }
}

/// Returns the name of the run that may follow the current one, if that has ended.
fn next_run(current: &Summary) -> Result<RunId, ResetError> {
    let RunId { id, run_no } = current.id.clone();
    if !current.status.is_end() {
        return Err(ResetError::Running { run: current.id.clone(), status: current.status.as_str().to_owned() });
    }
    match run_no.checked_add(1) {
        Some(run_no) => Ok(RunId { id, run_no }),
        None => Err(ResetError::Invalid("the execution has as many runs as can be counted".to_owned())),
    }
}

/// Says that another run has followed.
fn overtaken(current: &Summary) -> ResetError {
    ResetError::Overtaken { run: current.id.clone(), status: current.status.as_str().to_owned() }
}

/// Returns the row of the new run, as that of the one whose history it begins with.
fn row_of(source: &Summary, run: RunKey, id: &RunId) -> NewRun {
    let Summary { workflow, version, priority, queue, tags, needs, created_at, input_digest, .. } = source.clone();
    NewRun {
        run,
        id: id.clone(),
        after: Status::ALL.into_iter().filter(|status| status.is_end()).collect(),
        workflow,
        version,
        priority,
        queue,
        tags,
        needs,
        created_at,
        wake_at: None,
        deadline: None,
        input_digest,
    }
}

/// Chains the new log under the new name.
fn in_store(id: &RunId, row: NewRun, fork: Fork, of: RunKey) -> Result<store::Fork, ResetError> {
    let mut log = Vec::with_capacity(fork.log.len());
    let mut prev = None;
    for mut commit in fork.log {
        commit.prev = prev;
        let record = codec::encode(id, &commit).map_err(ResetError::Unavailable)?;
        prev = Some(record.digest);
        log.push(record);
    }
    let again = |(message, body, sent_at)| Redelivered { message, body, sent_at };
    let inbox = fork.inbox.into_iter().map(again).collect();
    Ok(store::Fork { row, log, inbox, published: fork.published, of, undone: fork.undone.into_iter().collect() })
}

handled!(ResetRun, RunId, |door, asked| door.reset(asked).await);

impl Stent {
    /// Lets an execution whose run has ended go on from a point of its history, as its next run; see [`ResetRun`].
    ///
    /// # Errors
    /// [`Error::Reset`] says why not: above all, that its run has not ended, or which points are the nearest good ones.
    pub async fn reset(&self, reset: ResetRun) -> Result<RunId, Error> {
        self.asked(self.supervisor().send(reset).await)
    }
}
