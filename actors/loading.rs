//! From a row in the store to a run in memory: read the log, check it, replay it.

use std::{
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::{
    kernel::{
        Blocked,
        codec::{self, Record, Unreadable},
        event::{Commit, MessageBody},
        id::{CommitNo, Digest, RunId, RunKey},
        instance::{Begin, panic_text},
        run::{Run, Ward},
        state::State,
    },
    registry::Workflows,
    store::{Reader, StoreError, Stored},
};

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

/// Reads runs in one go, those that can be; or one alone, whatever its length.
pub(crate) async fn read(reader: &dyn Reader, runs: &[RunKey], alone: bool) -> Result<Vec<Stored>, StoreError> {
    match runs {
        [run] if alone => Ok(reader.run(*run).await?.into_iter().collect()),
        runs => reader.runs(runs).await,
    }
}

/// Returns how its workflow begins here.
fn begin_of<'w>(loaded: &Stored, workflows: &'w Workflows) -> Result<&'w Begin, Unopened> {
    let (workflow, version) = (&loaded.summary.workflow, loaded.summary.version);
    let unregistered = || Unopened::Unregistered { run: loaded.summary.id.clone(), workflow: workflow.clone(), version };
    workflows.get(workflow, version).ok_or_else(unregistered)
}

/// Replays a run.
pub(crate) fn open(
    loaded: &Stored,
    workflows: &Workflows,
    activities: &HashSet<String>,
    is_shared: &dyn Fn(&str) -> bool,
    verify: bool,
) -> Result<Box<Run>, Unopened> {
    let id = &loaded.summary.id;
    let begin = begin_of(loaded, workflows)?;
    let mut run = Run::replay(id, current(loaded, workflows), begin, verify)?;
    let told = loaded.inbox.unread.iter().filter_map(|unread| match &unread.body {
        MessageBody::Task { position, attempt, .. } => Some((*position, *attempt)),
        _ => None,
    });
    run.found_queued(loaded.tasks.iter().map(|task| (task.key.position, task.key.attempt)).chain(told));
    let lacking = run.open_activities(is_shared).find(|name| !activities.contains(*name)).map(|name| run.unregistered(name));
    lacking.map_or(Ok(run), |blocked| Err(blocked.into()))
}

/// Replays a run only to ask it: it need not be able to go on here.
pub(crate) fn replay(loaded: &Stored, workflows: &Workflows) -> Result<Box<Run>, Unopened> {
    let id = &loaded.summary.id;
    let begin = begin_of(loaded, workflows)?;
    Run::replay(id, current(loaded, workflows), begin, false)
}

/// Decodes the log, under the current names of what is in it.
fn current<'l>(loaded: &'l Stored, workflows: &'l Workflows) -> impl Iterator<Item = Result<(Commit, Digest), Unopened>> + 'l {
    let aliases = workflows.aliases();
    decoded(&loaded.summary.id, &loaded.log).map(|decoded| {
        let (mut commit, digest) = decoded?;
        aliases.read(&mut commit);
        Ok((commit, digest))
    })
}

/// Sums a run up without its code, as far as its log can be read.
pub(crate) fn ward(stored: &Stored) -> Ward {
    let tail = stored.log.last().map(|(commit_no, record)| (*commit_no, record.digest));
    let mut ward = Ward::new(stored.summary.id.clone(), stored.summary.epoch, tail);
    for commit in decoded(&stored.summary.id, &stored.log) {
        let folded = match commit {
            // What nobody can have written is damage, and not a reason for this node to fall.
            Ok((commit, _)) => catch_unwind(AssertUnwindSafe(|| ward.fold(&commit))).map_err(|panic| panic_text(&*panic)),
            Err(unreadable) => Err(unreadable.to_string()),
        };
        if let Err(why) = folded {
            ward.unreadable = Some(why);
            break;
        }
    }
    ward
}

/// Sums a log up without its code.
pub(crate) fn fold(id: &RunId, log: &[(CommitNo, Record)]) -> Result<Option<State>, Unreadable> {
    let mut state: Option<State> = None;
    for commit in decoded(id, log) {
        let (commit, _) = commit?;
        let folded = catch_unwind(AssertUnwindSafe(|| State::fold(&mut state, &commit, id.run_no)));
        folded.map_err(|panic| Unreadable::Corrupt {
            run: id.clone(),
            commit_no: commit.commit_no,
            what: panic_text(&*panic),
        })?;
    }
    Ok(state)
}

fn decoded(id: &RunId, log: &[(CommitNo, Record)]) -> impl Iterator<Item = Result<(Commit, Digest), Unreadable>> {
    log.iter().map(|(commit_no, record)| Ok((codec::decode(id, *commit_no, record)?, record.digest)))
}
