//! Claiming: a poll that writes nothing when there is nothing to do, then the claim itself.
//!
//! Runs that were due leave dead entries at the front of the index, and while somebody holds an old snapshot they stay. So
//! polls begin at a *floor*, the due time that a whole search has found everything below to be taken, less a minute; a
//! whole search is made every half a minute, and for as long as there is more than one claim takes.

use std::time::{Duration, Instant};

use sqlx::Row;

use super::{
    commit::{Commit, Writer},
    rows, sql,
    trouble::Trouble,
    values::Values,
};
use crate::{
    kernel::time::Timestamp,
    store::{ClaimRequest, Claimed, FORMAT, queue::rank},
};

/// How far the floor stays behind: whoever makes a run due may be so slow to commit, or its clock so late.
const LAG: Duration = Duration::from_secs(60);

/// How often everything is searched.
const WHOLE: Duration = Duration::from_secs(30);

/// From where on polls look.
#[derive(Default)]
pub(super) struct Floor {
    searched: Option<Searched>,
}

/// A search of everything that took all there was.
struct Searched {
    at: Instant,
    floor: Timestamp,
    /// What was asked for: another question may find more.
    request: ClaimRequest,
}

impl Floor {
    /// Returns from where to look, and whether that is everything.
    fn of(&self, request: &ClaimRequest) -> (i64, bool) {
        match &self.searched {
            Some(last) if last.at.elapsed() < WHOLE && last.answers(request) => (last.floor.0, false),
            _ => (i64::MIN, true),
        }
    }

    /// Something becomes due then: if that is below the floor, the next poll looks at everything.
    pub(super) fn due_at(&mut self, due: Timestamp) {
        if self.searched.as_ref().is_some_and(|last| due < last.floor) {
            self.searched = None;
        }
    }
}

impl Searched {
    fn answers(&self, request: &ClaimRequest) -> bool {
        let last = &self.request;
        last.build == request.build
            && last.workflows == request.workflows
            && last.queues == request.queues
            && last.tags == request.tags
    }
}

impl Writer {
    /// Claims what may be claimed; `None` when the node is dead.
    pub(super) async fn claim(&mut self, commit: &Commit<'_>, request: &ClaimRequest) -> Result<Option<Vec<Claimed>>, Trouble> {
        if let Some(due) = self.session.home.take_late() {
            self.floor.due_at(due);
        }
        let (floor, whole) = self.floor.of(request);
        let values = values(commit, request, floor);
        let poll = self.session.again(sql::POLL, values.clone()).await?;
        let Some(row) = poll.first() else { return Ok(None) };
        let found: bool = row.try_get(0).map_err(|error| self.session.home.sort(&error))?;
        let claimed = if found { self.take(commit, values.with(commit.batch.incarnation.0)).await? } else { Some(Vec::new()) };
        if whole && let Some(all) = &claimed {
            let forced = all.iter().filter(|claimed| claimed.forced).count();
            if all.len() < request.limit as usize && forced < request.forced_limit as usize {
                let floor = commit.batch.now.before(LAG);
                self.floor.searched = Some(Searched { at: Instant::now(), floor, request: request.clone() });
            }
        }
        Ok(claimed)
    }

    async fn take(&mut self, commit: &Commit<'_>, values: Values) -> Result<Option<Vec<Claimed>>, Trouble> {
        let node = commit.node;
        let taken = self.session.transaction(async |session| {
            let fence = session.rows(sql::FENCE, Values::default().with(node)).await?;
            let Some(row) = fence.first() else { return Ok(None) };
            session.is_number(row.try_get(0).map_err(|error| session.home.sort(&error))?);
            session.rows(sql::CLAIM, values.clone()).await.map(Some)
        });
        let Some(taken) = taken.await? else { return Ok(None) };
        let read = |row| -> Result<_, sqlx::Error> {
            let (summary, beside) = rows::summary(row)?;
            let due: i64 = row.try_get(rows::COLUMNS + 1)?;
            let due = Timestamp(due);
            let order = (rank(due, summary.priority), summary.run);
            Ok((order, Claimed { summary, due, forced: row.try_get(rows::COLUMNS)?, claims: beside.claims }))
        };
        let claimed: Result<Vec<_>, _> = taken.iter().map(read).collect();
        let mut claimed = claimed.map_err(|error| self.session.home.sort(&error))?;
        claimed.sort_unstable_by_key(|(order, _)| *order);
        Ok(Some(claimed.into_iter().map(|(_, claimed)| claimed).collect()))
    }
}

fn values(commit: &Commit<'_>, request: &ClaimRequest, floor: i64) -> Values {
    Values::default()
        .with(commit.node)
        .with(commit.batch.now.0)
        .with(floor)
        .with(i32::try_from(FORMAT).unwrap_or(i32::MAX))
        .with(request.build.0)
        .with(request.workflows.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>())
        .with(request.workflows.iter().map(|(_, version)| i64::from(*version)).collect::<Vec<_>>())
        .with(request.queues.as_deref())
        .with(&request.tags[..])
        .with(i64::from(request.limit))
        .with(i64::from(request.forced_limit))
        .with(commit.batch.now.after(request.ahead).0)
}
