//! From a row in the store to a run in memory: read the log, check it, replay it.

use std::collections::HashSet;

use bytes::Bytes;

use crate::{
    kernel::{
        Blocked,
        codec::{self, Record, Unreadable},
        event::{Commit, Event, Fact, MessageBody},
        id::{CommitNo, Digest, RunId, RunKey},
        run::Run,
        state::State,
    },
    registry::Workflows,
    store::{Inbox, Reader, StoreError, Summary, TaskRow},
};

/// So many rows are read at once.
const PAGE: u32 = 2_000;

/// Everything the store knows of a run.
pub(crate) struct Loaded {
    pub(crate) summary: Summary,
    pub(crate) log: Vec<(CommitNo, Record)>,
    pub(crate) inbox: Inbox,
    pub(crate) heartbeats: Vec<(u32, u32, Bytes)>,
    /// Its attempts in shared queues.
    pub(crate) tasks: Vec<TaskRow>,
}

/// Why a run cannot be opened here. It stays as it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unopened {
    /// A row cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// Its code here does not fit its log.
    #[error(transparent)]
    Blocked(#[from] Blocked),
    /// Its code is not here.
    #[error("{run}: workflow {workflow:?} version {version} is not registered here; run a build that has it")]
    Unregistered { run: RunId, workflow: String, version: u32 },
}

impl Unopened {
    /// Tells whether no build could do better.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Unopened::Unreadable(unreadable) => matches!(unreadable, Unreadable::Corrupt { .. }),
            Unopened::Blocked(blocked) => !blocked.is_of_this_build(),
            Unopened::Unregistered { .. } => false,
        }
    }
}

/// Reads a run. The log before the inbox: a message that was consumed between the two is in neither, and the commit that
/// consumed it makes the next append of this memory a conflict.
pub(crate) async fn read(reader: &dyn Reader, run: RunKey) -> Result<Option<Loaded>, StoreError> {
    let Some(summary) = reader.summaries(&[run]).await?.into_iter().next() else { return Ok(None) };
    let mut log = Vec::new();
    loop {
        let from = CommitNo::try_from(log.len()).unwrap_or(CommitNo::MAX);
        let page = reader.history(run, from, PAGE).await?;
        let full = page.len() >= PAGE as usize;
        log.extend(page);
        if !full {
            break;
        }
    }
    // Tasks before the inbox: one that ends between the two is in the inbox then.
    let (tasks, heartbeats) = futures_util::future::try_join(reader.tasks(run), reader.heartbeats(run)).await?;
    let inbox = reader.inbox(run).await?;
    Ok(Some(Loaded { summary, log, inbox, heartbeats, tasks }))
}

/// Replays a run.
pub(crate) fn open(
    loaded: &Loaded,
    workflows: &Workflows,
    activities: &HashSet<String>,
    is_shared: &dyn Fn(&str) -> bool,
    verify: bool,
) -> Result<Run, Unopened> {
    let id = &loaded.summary.id;
    let log = decode(id, &loaded.log)?;
    let (workflow, version) = (&loaded.summary.workflow, loaded.summary.version);
    let Some(begin) = workflows.get(workflow, version) else {
        return Err(Unopened::Unregistered { run: id.clone(), workflow: workflow.clone(), version });
    };
    let mut run = Run::replay(id, log, begin, verify)?;
    let told = loaded.inbox.unread.iter().filter_map(|unread| match &unread.body {
        MessageBody::Task { position, attempt, .. } => Some((*position, *attempt)),
        _ => None,
    });
    run.found_queued(loaded.tasks.iter().map(|task| (task.key.position, task.key.attempt)).chain(told));
    let lacking = run.open_activities(is_shared).find(|name| !activities.contains(*name)).map(|name| run.unregistered(name));
    lacking.map_or(Ok(run), |blocked| Err(blocked.into()))
}

/// Sums a log up without its code.
pub(crate) fn fold(id: &RunId, log: &[(CommitNo, Record)]) -> Result<Option<State>, Unreadable> {
    let mut state: Option<State> = None;
    for (commit, _) in decode(id, log)? {
        for event in &commit.events {
            match (event, &mut state) {
                (Event::Fact(Fact::Started(started)), None) => state = Some(State::new((**started).clone())),
                (Event::Fact(fact), Some(state)) => {
                    let limits = state.started.limits();
                    state.fact(fact, &limits);
                }
                (Event::Command(command), Some(state)) => state.command(command, commit.time),
                (_, None) => {}
            }
        }
    }
    Ok(state)
}

fn decode(id: &RunId, log: &[(CommitNo, Record)]) -> Result<Vec<(Commit, Digest)>, Unreadable> {
    log.iter().map(|(commit_no, record)| Ok((codec::decode(id, *commit_no, record)?, record.digest))).collect()
}
