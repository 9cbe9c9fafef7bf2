//! From a row in the store to a run in memory: read the log, check it, replay it.

use std::{
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc,
    thread,
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
    store::{Inbox, Reader, StoreError, Stored, Undecoded},
};

/// A log that is longer is decoded on a thread of its own while it is replayed: decoding is half of the work.
const LONG: usize = 1_000;

/// So many commits go from the one to the other at once…
const LOT: usize = 128;

/// …or so many bytes of them, or one…
const LOT_BYTES: usize = 256 << 10;

/// …and so many lots are decoded ahead at most.
const LOTS_AHEAD: usize = 4;

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
    /// What was sent to it means nothing here. Another build may know it, so nobody says that it is damage.
    #[error(
        "{run}: message {message:?} in its inbox does not decode ({why}): it was damaged, or a newer build sent it; run that build, or \
         terminate the execution"
    )]
    Undecoded { run: RunId, message: String, why: String },
}

impl Unopened {
    /// Tells whether no build could do better.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Unopened::Unreadable(unreadable) => matches!(unreadable, Unreadable::Corrupt { .. }),
            Unopened::Blocked(blocked) => !blocked.is_of_this_build(),
            Unopened::Unregistered { .. } | Unopened::Undecoded { .. } => false,
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

/// Sees that all that is unread is understood. What is not must not be passed over: what comes behind it may mean something else then.
pub(crate) fn understood(run: &RunId, inbox: &Inbox) -> Result<(), Unopened> {
    match inbox.undecoded.first() {
        Some(Undecoded { message, why, .. }) => {
            Err(Unopened::Undecoded { run: run.clone(), message: message.clone(), why: why.clone() })
        }
        None => Ok(()),
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
    understood(id, &loaded.inbox)?;
    let begin = begin_of(loaded, workflows)?;
    let mut run = current(loaded, workflows, |log| Run::replay(id, log, begin, verify))?;
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
    current(loaded, workflows, |log| Run::replay(id, log, begin, false))
}

/// Goes through the log of a run, decoded and under the current names of what is in it.
fn current<T>(
    loaded: &Stored,
    workflows: &Workflows,
    through: impl FnOnce(&mut dyn Iterator<Item = Result<(Commit, Digest), Unopened>>) -> T,
) -> T {
    let aliases = workflows.aliases();
    ahead(&loaded.summary.id, &loaded.log, |decoded| {
        through(&mut decoded.map(|decoded| {
            let (mut commit, digest) = decoded?;
            aliases.read(&mut commit);
            Ok((commit, digest))
        }))
    })
}

/// Goes through a log; a long one is decoded ahead on another thread, so far and no further.
fn ahead<T>(
    id: &RunId,
    log: &[(CommitNo, Record)],
    through: impl FnOnce(&mut dyn Iterator<Item = Result<(Commit, Digest), Unreadable>>) -> T,
) -> T {
    if log.len() <= LONG {
        return through(&mut decoded(id, log));
    }
    thread::scope(|scope| {
        let (lots, ahead) = mpsc::sync_channel(LOTS_AHEAD);
        let decode = move || {
            // Whoever goes through it may stop in the middle.
            let _ = in_lots(log).try_for_each(|lot| lots.send(decoded(id, lot).collect::<Vec<_>>()));
        };
        match thread::Builder::new().name("stent-decode".to_owned()).spawn_scoped(scope, decode) {
            Ok(_) => through(&mut ahead.into_iter().flatten()),
            Err(_) => through(&mut decoded(id, log)),
        }
    })
}

/// Cuts a log into parts of a bounded size.
fn in_lots(mut log: &[(CommitNo, Record)]) -> impl Iterator<Item = &[(CommitNo, Record)]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |(_, record): &&(CommitNo, Record)| {
            bytes += record.body.len();
            bytes <= LOT_BYTES
        };
        let count = log.iter().take(LOT).take_while(fits).count().max(1);
        let (lot, rest) = log.split_at_checked(count)?;
        log = rest;
        Some(lot)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{
        event::{Event, Fact},
        id::{BuildId, Incarnation},
        time::Timestamp,
    };

    fn id() -> RunId {
        RunId { id: "long".to_owned(), run_no: 1 }
    }

    fn log(commits: usize) -> Vec<(CommitNo, Record)> {
        let mut prev = None;
        let commits = (0..commits).map(|commit_no| {
            let commit_no = CommitNo::try_from(commit_no).unwrap();
            let events = vec![Event::Fact(Fact::Fired { position: commit_no })];
            let (incarnation, build) = (Incarnation(uuid::Uuid::nil()), BuildId(1));
            let commit = Commit { commit_no, prev, incarnation, epoch: 1, build, time: Timestamp(0), events };
            let record = codec::encode(&id(), &commit).unwrap();
            prev = Some(record.digest);
            (commit_no, record)
        });
        commits.collect()
    }

    #[test]
    fn a_log_of_any_length_is_gone_through_whole_and_in_order() {
        for commits in [0, 1, LONG, LONG + 1, LONG + LOT * LOTS_AHEAD * 2 + 1] {
            let log = log(commits);
            let seen: Vec<CommitNo> = ahead(&id(), &log, |log| log.map(|commit| commit.unwrap().0.commit_no).collect());
            assert!(seen.into_iter().eq(log.iter().map(|(commit_no, _)| *commit_no)), "of {commits}");
        }
    }

    #[test]
    fn what_is_decoded_ahead_is_bounded_in_bytes_as_well() {
        let log: Vec<_> = log(10)
            .into_iter()
            .map(|(commit_no, record)| (commit_no, Record { body: vec![0; LOT_BYTES / 3].into(), ..record }))
            .collect();
        assert_eq!(in_lots(&log).map(<[_]>::len).collect::<Vec<_>>(), [3, 3, 3, 1]);
        let large: Vec<_> = log
            .into_iter()
            .map(|(commit_no, record)| (commit_no, Record { body: vec![0; 2 * LOT_BYTES].into(), ..record }))
            .collect();
        assert!(in_lots(&large).all(|lot| lot.len() == 1));
    }

    #[test]
    fn damage_in_the_middle_of_a_long_log_is_found_in_its_place() {
        let mut log = log(2 * LONG);
        let place = LONG + LOT / 2;
        log[place].1.body = log[place - 1].1.body.clone();
        let good: Vec<bool> = ahead(&id(), &log, |log| log.map(|commit| commit.is_ok()).collect());
        let bad: Vec<usize> = (0..good.len()).filter(|place| !good[*place]).collect();
        assert_eq!((bad, good.len()), (vec![place], log.len()));
    }

    #[test]
    fn whoever_stops_in_the_middle_of_a_long_log_waits_for_nothing() {
        let log = log(LONG + LOT * LOTS_AHEAD * 4);
        let first = ahead(&id(), &log, |log| log.next().unwrap().unwrap().0.commit_no);
        assert_eq!(first, 0);
        let panicked = catch_unwind(AssertUnwindSafe(|| ahead(&id(), &log, |_| panic!("replay"))));
        assert!(panicked.is_err());
    }
}
