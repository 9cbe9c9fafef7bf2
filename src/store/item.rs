//! What an item tells of itself, before any store is asked: its kind, which is its place in the order of a batch, and whether
//! it concerns more than its own run.

use std::time::Duration;

#[cfg(feature = "postgres")]
use super::NewRun;
#[cfg(feature = "postgres")]
use super::ScheduleChange;
use super::{Item, MemoChange, Message, Summary, Turn, Yield, YieldReason};
use crate::kernel::{
    event::CURRENT_RUN,
    id::{BuildId, CommitNo, Digest},
    time::Timestamp,
};

mod weight;

/// How long a run waits that two builds cannot run, so that they do not hand it to and fro as fast as they can.
const TURNED_DOWN_TWICE: Duration = Duration::from_secs(5);

/// Returns when a run that a build cannot run is due for others, which was `blocked` before.
pub(crate) fn due_for_others(blocked: Option<BuildId>, by: BuildId, now: Timestamp) -> Timestamp {
    if blocked.is_none_or(|before| before == by) { now } else { now.after(TURNED_DOWN_TWICE) }
}

impl Yield {
    /// Returns why the run is given back, where its inbox has had so many messages: one that is paused is looked at again if more has come
    /// than its owner has seen.
    #[must_use]
    pub(crate) fn why_behind(&self, inbox_seq: u64, now: Timestamp) -> YieldReason {
        match &self.why {
            YieldReason::Paused { seen, forced, .. } if *seen < inbox_seq => {
                YieldReason::Released { wake_at: Some(now), forced: *forced }
            }
            why => why.clone(),
        }
    }
}

impl Turn {
    /// Tells whether it touches shared queues.
    #[must_use]
    pub fn has_tasks(&self) -> bool {
        !self.tasks.is_empty() || !self.withdrawn.is_empty()
    }

    /// Tells whether it touches no rows of other runs than its own: of its children, of those whom it tells something, of its successor;
    /// and supposes nothing of its own beside the log.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        !self.has_others() && self.successor().is_none() && self.unowned.is_none()
    }

    /// Tells whether it may be taken of a run with this row, as far as that is supposed.
    #[must_use]
    pub(crate) fn fits(&self, row: &Summary) -> bool {
        self.unowned.is_none_or(|epoch| row.owner.is_none() && row.epoch == epoch)
    }

    /// Tells whether its row comes right behind this one.
    #[must_use]
    pub fn follows(&self, commit_no: CommitNo, digest: Digest) -> bool {
        commit_no.checked_add(1) == Some(self.commit_no) && self.prev == Some(digest)
    }
}

impl Message {
    /// Tells whether the run that it is for has ended, the current one of its id being this.
    #[must_use]
    pub(crate) fn is_too_late(&self, current: &Summary) -> bool {
        current.status.is_end() || (self.to.run_no != CURRENT_RUN && self.to.run_no != current.id.run_no)
    }
}

impl Item {
    /// Tells whether it touches shared queues.
    #[must_use]
    pub fn has_tasks(&self) -> bool {
        match self {
            Item::Turn(turn) => turn.has_tasks(),
            Item::EndTask(_) | Item::BeatTask(..) | Item::PlaceTasks(..) => true,
            _ => false,
        }
    }

    /// Tells whether it is a turn that writes rows beside the log that only the general path knows: what it publishes, results that it
    /// shares, and letters.
    #[cfg(feature = "postgres")]
    pub(crate) fn writes_beside(&self) -> bool {
        matches!(self, Item::Turn(turn) if !turn.published.is_empty() || !turn.memos.is_empty() || turn.changes_letters())
    }

    /// Returns where in a batch the kind of this item has its turn. Tasks are placed for what is open behind a turn that is durable, so the turn of that
    /// run which is in the same batch comes later, and may take them out again.
    pub(crate) fn kind(&self) -> u8 {
        match self {
            Item::PlaceTasks(..) => 0,
            Item::Turn(_) => 1,
            Item::Enqueue(..) => 2,
            Item::Yield(_) => 3,
            Item::Send(_) => 4,
            Item::Heartbeat { .. } => 5,
            Item::Progressed(_) => 6,
            Item::EndTask(_) => 7,
            Item::BeatTask(..) => 8,
            Item::Schedule(_) => 9,
            Item::Fork(_) => 10,
            Item::DropLetters(_) => 11,
            Item::Memo(_) => 12,
        }
    }

    /// Returns the rows of the runs that it begins.
    #[cfg(feature = "postgres")]
    pub(crate) fn begins(&self) -> impl Iterator<Item = &NewRun> {
        let own = match self {
            Item::Turn(turn) => turn.start.as_deref(),
            Item::Enqueue(new, _) => Some(&**new),
            Item::Fork(fork) => Some(&fork.row),
            _ => None,
        };
        let children = self.with_others().into_iter().flat_map(|turn| &turn.starts).map(|child| &child.row);
        let scheduled = self.schedule().into_iter().flat_map(|change| &change.starts).map(|(row, _)| row);
        own.into_iter().chain(children).chain(scheduled)
    }

    /// Returns what it does to a schedule, if it is about one.
    #[cfg(feature = "postgres")]
    pub(crate) fn schedule(&self) -> Option<&ScheduleChange> {
        match self {
            Item::Schedule(change) => Some(change),
            _ => None,
        }
    }

    /// Returns what it does about a shared result, if it is about one.
    pub(crate) fn memo(&self) -> Option<&MemoChange> {
        match self {
            Item::Memo(change) => Some(change),
            _ => None,
        }
    }

    /// Tells whether its kind comes before what turns do to other runs: that must find every run as all turns of the batch
    /// have left it, so that who has just gone to sleep is woken and who has just ended hears nothing.
    pub(crate) fn precedes_others(&self) -> bool {
        self.kind() < 3
    }

    /// Returns its turn, if that concerns other runs than its own.
    pub(crate) fn with_others(&self) -> Option<&Turn> {
        match self {
            Item::Turn(turn) if turn.has_others() => Some(turn),
            _ => None,
        }
    }
}
