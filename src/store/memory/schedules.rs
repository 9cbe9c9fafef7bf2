//! The rows of schedules in memory: the reference for every store.

use super::{Data, apply::Writer};
use crate::{
    kernel::time::Timestamp,
    store::{Outcome, ScheduleChange, ScheduleDue, Told},
};

impl Data {
    pub(super) fn schedule(&mut self, change: &ScheduleChange, writer: Writer, told: &mut Vec<Told>) -> Result<(), Outcome> {
        let found = self.schedules.get(&change.name).map_or(0, |row| row.revision);
        if found != change.seen {
            return Err(Outcome::Conflict);
        }
        // All or nothing: no two of them are in each other's way.
        change.starts.iter().try_for_each(|(new, _)| self.may_begin(new))?;
        for (new, record) in &change.starts {
            self.enqueue(new, record, writer)?;
        }
        self.tells(&change.tells, writer, told);
        self.schedules.insert(change.name.clone(), change.row());
        Ok(())
    }

    pub(super) fn due_schedules(&self, until: Timestamp, limit: u32) -> Vec<ScheduleDue> {
        let due = self.schedules.values().filter(|row| row.awaits.is_some() || row.next_at.is_some_and(|at| at <= until));
        let mut due: Vec<ScheduleDue> = due
            .map(|row| {
                let over = row.awaits.map(|run| self.runs.get(&run).is_none_or(|run| run.summary.status.is_end()));
                ScheduleDue { name: row.name.clone(), next_at: row.next_at, ready: over.unwrap_or(false) }
            })
            .collect();
        due.sort_by(|a, b| {
            let order = |due: &ScheduleDue| (!due.ready, due.next_at.is_none(), due.next_at);
            order(a).cmp(&order(b)).then_with(|| a.name.cmp(&b.name))
        });
        due.truncate(limit as usize);
        due
    }
}
