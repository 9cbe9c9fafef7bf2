//! Asking a run. Whoever holds it here answers itself; any other is replayed from its log, without effects and without a claim, on a
//! thread of its own, so that no question holds up the door or an engine, and forgotten again.

use std::time::Duration;

use tokio::sync::oneshot;

use super::Door;
use crate::{
    actors::{
        execution::Inquire,
        executor::MARK,
        loading::{self, Unopened},
        messages::Whose,
    },
    error::{Error, QueryError},
    kernel::{
        failure::{Failure, KIND_CODEC, KIND_LIMIT, KIND_UNANSWERED},
        id::RunKey,
        payload::Payload,
        tape::{Inquiry, Told},
    },
    store::Status,
};

/// So many runs are replayed for questions at once; the others wait their turn, within their time.
pub(super) const MOST_REPLAYS: usize = 4;

/// How often it is looked whether the next run of a chain has begun: at first, and at last.
const PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

impl Door {
    /// Asks a query.
    pub(crate) async fn ask(
        &self,
        of: Whose,
        query: &'static str,
        question: Payload,
        within: Duration,
    ) -> Result<Payload, Error> {
        let (size, most) = (question.bytes.len(), self.config.limits.payload_bytes);
        if size > most {
            return Err(QueryError::Invalid(format!("the query {query} has {size} bytes, the limit is {most}")).into());
        }
        let asked = async {
            let run = self.whose(of).await?;
            self.inquire(run, Inquiry::Query { name: query, question }).await
        };
        match tokio::time::timeout(within, asked).await {
            Ok(told) => match told?.map_err(|failure| in_query(&failure))? {
                Told::Answer(answer) => Ok(answer),
                other => Err(QueryError::Failed(format!("a query was answered {other:?}; this is a bug")).into()),
            },
            Err(_) => Err(QueryError::TimedOut(within).into()),
        }
    }

    async fn whose(&self, of: Whose) -> Result<RunKey, Error> {
        let id = match of {
            Whose::Run(run) => return Ok(run),
            Whose::Current(id) => id,
        };
        let found = self.row(&id, None).await?;
        Ok(found.map(|found| found.run).ok_or(QueryError::Unknown(id))?)
    }

    /// Puts a question to a run, wherever it is; that of one that has continued to its next run.
    pub(super) async fn inquire(&self, mut run: RunKey, inquiry: Inquiry) -> Result<Result<Told, Failure>, Error> {
        let mut pause = PAUSE;
        loop {
            let links = self.links().await?;
            let (reply, answer) = oneshot::channel();
            links.executor.do_send(Inquire { run, inquiry: inquiry.clone(), reply });
            if let Ok(answer) = answer.await {
                return Ok(answer);
            }
            // It is not here, or was not to be trusted: what is recorded is.
            match self.inquire_log(run, inquiry.clone()).await? {
                Asked::Answered(answer) => return Ok(answer),
                Asked::Continued(next) => run = next,
                // Its code has not been polled, so it has no handlers; it is due, and the question has a time.
                Asked::NotBegun => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    async fn inquire_log(&self, run: RunKey, inquiry: Inquiry) -> Result<Asked, Error> {
        // It stays with the replay, however long that takes and whether or not somebody still waits for it.
        let permit = self.replays.clone().acquire_owned().await.map_err(|_| Error::Stopped)?;
        let Some(stored) = self.read(move |reader| async move { reader.run(run).await }).await? else {
            return Err(QueryError::Unknown(format!("(run {})", run.0)).into());
        };
        let summary = &stored.summary;
        if summary.status == Status::Continued {
            let next = self.row(&summary.id.id, summary.id.run_no.checked_add(1)).await?;
            if let Some(next) = next {
                return Ok(Asked::Continued(next.run));
            }
        }
        // One that is paused may not have begun either; it does when it goes on.
        let lives = matches!(summary.status, Status::Active | Status::Paused);
        if lives && summary.epoch == 0 {
            // Nobody has claimed it, so none of its code was polled.
            match inquiry {
                // What it has no handler for is said by the run, when it has had the chance to have one.
                Inquiry::Check { .. } => return Ok(Asked::Answered(Ok(Told::Fits))),
                Inquiry::Query { .. } if summary.id.run_no > 1 && summary.status == Status::Active => return Ok(Asked::NotBegun),
                Inquiry::Query { .. } => {}
            }
        }
        if summary.status == Status::Quarantined {
            let reason = summary.reason.as_deref().unwrap_or("no reason was kept");
            return Err(
                QueryError::Blocked(format!("{} is quarantined, and not opened to be asked: {reason}", summary.id)).into()
            );
        }
        // The mark goes with its first turn. Until then nobody knows whether it fells whoever replays it, and a question leaves no mark.
        let is_opened = summary.status == Status::Active && summary.blocked_build.is_none();
        if is_opened && stored.heartbeats.iter().any(|(position, ..)| *position == MARK) {
            let why = "its node may have died of opening it; it is asked again when it has taken a turn, or is quarantined";
            return Err(QueryError::Blocked(format!("{} is a suspect, and not opened to be asked: {why}", summary.id)).into());
        }
        let workflows = self.workflows.clone();
        let (told, answer) = oneshot::channel();
        let replay = move || {
            let _permit = permit;
            let goes_on = lives && stored.summary.blocked_build.is_none();
            let _ = told.send(loading::replay(&stored, &workflows).map(|run| match inquiry {
                Inquiry::Check { .. } if goes_on && !run.state().begun() => Asked::Answered(Ok(Told::Fits)),
                _ if goes_on && run.state().is_about_to_go_on() => Asked::NotBegun,
                inquiry => Asked::Answered(run.inquire(&inquiry)),
            }));
        };
        std::thread::Builder::new()
            .name("stent-inquiry".to_owned())
            .spawn(replay)
            .map_err(|error| QueryError::Failed(format!("no thread could be had to replay the run on: {error}")))?;
        match answer.await {
            Ok(Ok(asked)) => Ok(asked),
            Ok(Err(Unopened::Unregistered { workflow: name, version, .. })) => {
                Err(QueryError::Unregistered { name, version }.into())
            }
            Ok(Err(unopened)) => Err(QueryError::Blocked(unopened.to_string()).into()),
            Err(_) => Err(QueryError::Failed("the replay of the run panicked; see the node's log".to_owned()).into()),
        }
    }
}

/// What came of a question to a log.
enum Asked {
    Answered(Result<Told, Failure>),
    /// This run has taken its place.
    Continued(RunKey),
    /// It has continued as this run a moment ago.
    NotBegun,
}

/// What the asker of a query hears.
fn in_query(failure: &Failure) -> QueryError {
    let why = failure.to_string();
    match failure.kind() {
        KIND_UNANSWERED => QueryError::NotAnswered(why),
        KIND_CODEC | KIND_LIMIT => QueryError::Invalid(why),
        _ => QueryError::Failed(why),
    }
}
