//! Many runs are taken up at once (a wave of sleepers, what a dead node has left), so databases read many in one go; here their rows
//! are put together again.

use bytes::Bytes;

use super::{PAGE, Stored, Summary, TaskRow, Undecoded, Unread};
use crate::{
    fast::FastMap,
    kernel::{
        codec::Record,
        id::{Attempt, CommitNo, Position, RunKey},
    },
};

/// At most so many rows of logs are read in one go, as many as a page of one log has. A run whose log goes on behind them is read
/// alone, page by page.
pub(super) const MOST_ROWS: usize = PAGE as usize;

/// Runs that are being put together, from statements that each tell rows of all of them, run after run.
pub(super) struct Gathering {
    runs: Vec<Stored>,
    places: FastMap<RunKey, usize>,
    rows: usize,
    most: usize,
    /// The place of the last row of a log.
    last: usize,
}

impl Gathering {
    /// Begins with nothing; so many rows of logs will be read at most.
    pub(super) fn new(most: usize) -> Gathering {
        Gathering { runs: Vec::new(), places: FastMap::default(), rows: 0, most, last: 0 }
    }

    /// Begins a run; all are begun before any other row.
    pub(super) fn begin(&mut self, summary: Summary) {
        self.places.insert(summary.run, self.runs.len());
        self.runs.push(Stored::new(summary));
    }

    fn run(&mut self, run: RunKey) -> Option<&mut Stored> {
        self.runs.get_mut(*self.places.get(&run)?)
    }

    pub(super) fn record(&mut self, run: RunKey, commit_no: CommitNo, record: Record) {
        self.rows += 1;
        if let Some(place) = self.places.get(&run) {
            self.last = *place;
            self.runs[*place].log.push((commit_no, record));
        }
    }

    pub(super) fn task(&mut self, task: TaskRow) {
        if let Some(run) = self.run(task.key.run) {
            run.tasks.push(task);
        }
    }

    pub(super) fn heartbeat(&mut self, run: RunKey, (position, attempt, details): (Position, Attempt, Bytes)) {
        if let Some(run) = self.run(run) {
            run.heartbeats.push((position, attempt, details));
        }
    }

    pub(super) fn inbox(&mut self, run: RunKey, seq: u64, message: Option<Result<Unread, Undecoded>>) {
        if let Some(run) = self.run(run) {
            run.inbox.seq = seq;
            message.into_iter().for_each(|message| run.inbox.put(message));
        }
    }

    /// Returns the runs that are all there: not the one that was being read when there were enough rows, nor those behind it.
    pub(super) fn finish(mut self) -> Vec<Stored> {
        if self.rows >= self.most {
            self.runs.truncate(self.last);
        }
        for run in &mut self.runs {
            run.log.sort_unstable_by_key(|(commit_no, _)| *commit_no);
            run.inbox.sort();
            run.tasks.sort_unstable_by_key(|task| (task.key.position, task.key.attempt));
            run.heartbeats.sort_unstable_by_key(|(position, attempt, _)| (*position, *attempt));
        }
        self.runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kernel::{
            id::{Digest, RunId},
            time::Timestamp,
        },
        store::Status,
    };

    fn summary(run: i64) -> Summary {
        Summary {
            run: RunKey(run),
            id: RunId { id: run.to_string(), run_no: 1 },
            workflow: "flow".into(),
            version: 1,
            status: Status::Active,
            owner: None,
            epoch: 0,
            wake_at: None,
            priority: 0,
            queue: String::new(),
            tags: Vec::new(),
            needs: Vec::new(),
            created_at: Timestamp(0),
            ended_at: None,
            deadline: None,
            input_digest: Digest([0; 32]),
            inbox_seq: 0,
            blocked_build: None,
            reason: None,
        }
    }

    /// Reads three runs of two rows each as a statement would that stops behind so many rows.
    fn read(most: usize) -> Vec<(i64, usize)> {
        let mut gathering = Gathering::new(most);
        (1..=3).for_each(|run| gathering.begin(summary(run)));
        for row in (0..6_u32).take(most) {
            let record = Record { digest: Digest([0; 32]), body: Bytes::new() };
            gathering.record(RunKey(i64::from(row / 2 + 1)), row % 2, record);
        }
        gathering.finish().into_iter().map(|run| (run.summary.run.0, run.log.len())).collect()
    }

    #[test]
    fn no_run_is_told_of_whose_log_may_go_on_behind_what_was_read() {
        assert_eq!(read(7), [(1, 2), (2, 2), (3, 2)]);
        assert_eq!(read(6), [(1, 2), (2, 2)], "the third may have more");
        assert_eq!(read(5), [(1, 2), (2, 2)]);
        assert_eq!(read(3), [(1, 2)]);
        assert_eq!(read(1), []);
    }
}
