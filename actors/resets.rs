//! Resets: an execution whose run has ended goes on from a point of its history, as its next run. The kernel says what that begins with
//! ([`fork`](crate::kernel::fork)), the store writes it in one item, and then it is claimed like any run that is due.

use std::{
    collections::{BTreeSet, HashSet},
    rc::Rc,
};

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
        fork::{self, Came, Fork, Forked, Point},
        id::{CommitNo, Incarnation, RunId, RunKey},
    },
    store::{self, Item, NewRun, Outcome, Reader, Redelivered, Status, StoreError, Summary},
};

/// A log that is longer is not copied: so much is one transaction.
const MOST_COMMITS: usize = 20_000;

/// The same in bytes.
const MOST_BYTES: usize = 48 << 20;

/// So many messages of other runs are kept in mind at most; a run remembers fewer.
const MOST_CAME: usize = 100_000;

/// So many runs are looked at that one goes on for.
const MOST_RUNS: usize = 1_000;

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

/// Which runs a run goes on for…
struct Line {
    /// They have continued, and so on; of a copy, those that the one goes on for of which it is one.
    before: BTreeSet<u32>,
    /// …and from which one on any may have been put aside.
    from: u32,
}

/// What came to other runs than the one whose history is copied: each message once.
#[derive(Default)]
struct Beside {
    came: Vec<Came>,
    ids: HashSet<String>,
    /// Of what may come again.
    bytes: usize,
}

impl Beside {
    fn push(&mut self, came: Came) {
        if self.ids.insert(came.id().to_owned()) {
            self.bytes += came.bytes();
            self.came.push(came);
        }
    }
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

    /// Takes the history of another run of the execution than the current one, by its number. Signals and updates that came to other runs since
    /// come again behind its own, or are known.
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
            let log = self.log_of(&source).await?;
            let beside = self.came_beside(&source, seen, asked.messages).await?;
            let links = self.links().await?;
            let Some(key) = self.reserved(&links).await? else { continue };
            let now = self.time.now();
            let forked = self.forked(&source, (log, beside), &asked, next.run_no, &token).await?;
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

    /// Reads a whole log, if it is not too long to be copied.
    async fn log_of(&self, source: &Summary) -> Result<Log, Error> {
        let run = source.run;
        let log = self.read(move |reader| async move { whole(reader, run).await }).await?;
        Ok(log.ok_or(ResetError::TooLong { commits: MOST_COMMITS, bytes: MOST_BYTES })?)
    }

    /// Reads what came to the other runs of an execution, up to the current one: to those behind the one whose history is copied, and to those that
    /// a reset has put aside for it or for one that it goes on for. They may have taken what they were told or not (one that ends at once takes
    /// nothing). What came to runs that it goes on for came before it.
    async fn came_beside(&self, source: &Summary, current: Option<u32>, messages: bool) -> Result<Vec<Came>, Error> {
        let Line { before, from } = self.line_of(source, messages).await?;
        let (mut earlier, mut others) = (Vec::new(), Vec::new());
        for run_no in from..=current.unwrap_or(source.id.run_no) {
            if run_no != source.id.run_no
                && !before.contains(&run_no)
                && let Some(row) = self.row(&source.id.id, Some(run_no)).await?
            {
                others.push(row);
            }
        }
        let mut beside = Beside::default();
        if !others.is_empty() {
            for run_no in before {
                earlier.extend(self.row(&source.id.id, Some(run_no)).await?);
            }
        }
        for row in &earlier {
            self.gather(row, false, &mut beside).await?;
        }
        beside.came.clear();
        for row in &others {
            self.gather(row, messages, &mut beside).await?;
        }
        Ok(beside.came)
    }

    /// Looks at which runs a run goes on for.
    async fn line_of(&self, source: &Summary, messages: bool) -> Result<Line, Error> {
        let id = &source.id.id;
        let mut line = Line { before: BTreeSet::new(), from: source.id.run_no };
        let mut at = source.clone();
        while line.before.len() < MOST_RUNS {
            let copied = match self.copied_from(&at).await {
                // What cannot be read is nobody's concern if nothing of it is to come again.
                Err(Error::Reset(ResetError::Unreadable(_))) if !messages => None,
                copied => copied?,
            };
            if let Some(run_no) = copied
                && let Some(row) = self.row(id, Some(run_no)).await?
            {
                line.from = line.from.min(run_no);
                at = row;
                continue;
            }
            let before = match at.id.run_no.checked_sub(1) {
                Some(run_no @ 1..) => self.row(id, Some(run_no)).await?,
                _ => None,
            };
            let Some(row) = before.filter(|row| row.status == Status::Continued) else { break };
            line.before.insert(row.id.run_no);
            at = row;
        }
        Ok(line)
    }

    /// Returns the number of the run with a copy of whose history a run begins.
    async fn copied_from(&self, row: &Summary) -> Result<Option<u32>, Error> {
        self.mark_of(row, |mark: &Forked| (mark.run_no == row.id.run_no).then_some(mark.from)).await
    }

    /// Reads what came to a run, page by page: however long its log is, only that is kept.
    async fn gather(&self, row: &Summary, messages: bool, beside: &mut Beside) -> Result<(), Error> {
        let (run, mut from) = (row.run, 0);
        loop {
            let page = self.read(move |reader| async move { reader.history(run, from, SHORT_PAGE).await }).await?;
            let Some((newest, _)) = page.last() else { return Ok(()) };
            from = newest.saturating_add(1);
            for (commit_no, record) in &page {
                match codec::decode(&row.id, *commit_no, record) {
                    Ok(commit) => fork::came(commit, messages).for_each(|came| beside.push(came)),
                    Err(_) if !messages => return Ok(()),
                    Err(why) => {
                        let why = format!("{why}; what came to that run is not known: leave the messages out to do without it");
                        return Err(ResetError::Unreadable(why).into());
                    }
                }
            }
            if beside.bytes > MOST_BYTES || beside.came.len() > MOST_CAME {
                if messages {
                    return Err(ResetError::TooManyMessages.into());
                }
                // No run remembers so many ids.
                beside.came.drain(..MOST_CAME / 2);
            }
        }
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
    async fn forked(
        &self,
        source: &Summary,
        (log, beside): (Log, Vec<Came>),
        asked: &ResetRun,
        run_no: u32,
        token: &str,
    ) -> Result<Fork, Error> {
        let (id, asked, token, at, build) =
            (source.id.clone(), asked.clone(), token.to_owned(), self.time.now(), self.config.build);
        let fork = move || -> Result<Fork, ResetError> {
            let decoded = log.iter().map(|(commit_no, record)| codec::decode(&id, *commit_no, record));
            let log: Vec<_> = decoded.collect::<Result<_, _>>().map_err(|e| ResetError::Unreadable(e.to_string()))?;
            let ResetRun { point, by, reason, messages, .. } = &asked;
            // No node has run anything of it.
            let incarnation = Incarnation(uuid::Uuid::nil());
            let (point, messages) = (*point, *messages);
            let ask = fork::Ask { point, run_no, by, reason, token: &token, messages, beside: &beside, at, incarnation, build };
            let forked = fork::fork(&id, log, &ask).map_err(ResetError::Point);
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

/// Reads a whole log; `None` if it is too long.
async fn whole(reader: Rc<dyn Reader>, run: RunKey) -> Result<Option<Log>, StoreError> {
    let (mut log, mut bytes) = (Log::new(), 0);
    loop {
        let page = reader.history(run, CommitNo::try_from(log.len()).unwrap_or(CommitNo::MAX), PAGE).await?;
        let full = page.len() >= PAGE as usize;
        bytes += page.iter().map(|(_, record)| record.body.len()).sum::<usize>();
        log.extend(page);
        if log.len() > MOST_COMMITS || bytes > MOST_BYTES {
            return Ok(None);
        }
        if !full {
            return Ok(Some(log));
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
