//! Shared queues in memory: the reference for what every store answers.

use std::collections::HashMap;

use super::{Data, Node, lines::TaskLine};
use crate::{
    kernel::{
        id::{Epoch, Incarnation, RunKey},
        time::Timestamp,
    },
    store::{
        EndTask, NOT_BEGUN, NewTask, NodeState, Outcome, Queue, QueueState, StaleTask, TakenTasks, Task, TaskKey, TaskRequest,
        TaskRow,
        queue::{Head, Line, MOST_KEYS},
    },
};

/// A task's row.
#[derive(Debug)]
pub(super) struct TaskCell {
    pub(super) task: NewTask,
    pub(super) worker: Option<Incarnation>,
    pub(super) dropped: bool,
    pub(super) details: Option<bytes::Bytes>,
}

impl TaskCell {
    pub(super) fn line(&self) -> TaskLine<'_> {
        let NewTask { key, queue, lane, activity, needs, due_at, start_by, body, .. } = &self.task;
        TaskLine {
            position: key.position,
            attempt: key.attempt,
            queue,
            lane,
            rank: self.task.rank(),
            due_at: *due_at,
            start_by: *start_by,
            activity,
            needs,
            worker: self.worker,
            dropped: self.dropped,
            body,
            details: self.details.as_deref(),
        }
    }

    fn row(&self) -> TaskRow {
        let NewTask { key, queue, .. } = &self.task;
        TaskRow { key: *key, queue: queue.clone(), worker: self.worker, dropped: self.dropped }
    }
}

impl Node {
    /// Tells whether the permits of a dead node have come back.
    fn is_over(&self, now: Timestamp) -> bool {
        !self.is_live() && (self.is_gone() || self.left_well || now >= self.beat_at.after(self.lease))
    }
}

impl Data {
    pub(super) fn put_tasks(&mut self, tasks: &[NewTask]) {
        for task in tasks {
            // What somebody holds stays with him: the attempt is the same.
            if self.tasks.get(&task.key).is_none_or(|cell| cell.worker.is_none()) {
                let cell = TaskCell { task: task.clone(), worker: None, dropped: false, details: None };
                self.tasks.insert(task.key, cell);
            }
        }
    }

    pub(super) fn withdraw_tasks(&mut self, run: RunKey, positions: &[u32]) {
        self.tasks.retain(|key, cell| {
            let wanted = key.run != run || !positions.contains(&key.position);
            cell.dropped |= !wanted;
            cell.worker.is_some() || wanted && (key.run != run || !positions.contains(&NOT_BEGUN))
        });
    }

    pub(super) fn place_tasks(&mut self, run: RunKey, epoch: Epoch, tasks: &[NewTask], ours: Incarnation) -> Outcome {
        let owned = self.runs.get(&run).is_some_and(|run| run.summary.owner == Some(ours) && run.summary.epoch == epoch);
        if !owned {
            return Outcome::NotOwned;
        }
        self.put_tasks(tasks);
        Outcome::Done
    }

    pub(super) fn end_task(&mut self, end: &EndTask, now: Timestamp) -> Outcome {
        if self.tasks.get(&end.key).is_none_or(|cell| cell.worker != end.by) {
            return Outcome::NotOwned;
        }
        let Some(cell) = self.tasks.remove(&end.key) else { return Outcome::NotOwned };
        let wanted = self.runs.get(&end.key.run).is_some_and(|run| !run.summary.status.is_end());
        if cell.dropped || !wanted {
            return Outcome::Done;
        }
        self.deliver(end.key.run, end.message(), end.told(cell.details), now, now)
    }

    pub(super) fn beat_task(&mut self, key: TaskKey, details: &bytes::Bytes, ours: Incarnation) -> Outcome {
        match self.tasks.get_mut(&key) {
            Some(cell) if cell.worker == Some(ours) => {
                cell.details = Some(details.clone());
                Outcome::Done
            }
            _ => Outcome::NotOwned,
        }
    }

    pub(super) fn declare(&mut self, rules: &Queue) {
        let line = self.queues.entry(rules.name.clone()).or_default();
        if line.rules.rate != rules.rate || line.rules.period != rules.period {
            line.tokens = rules.rate.map_or(0, i64::from);
            line.filled_at = 0;
        }
        line.rules = rules.clone();
    }

    pub(super) fn take_tasks(&mut self, request: &TaskRequest) -> TakenTasks {
        self.now = request.now;
        if self.nodes.get(&request.by.0).is_none_or(|node| node.state != NodeState::Live) {
            return TakenTasks::default();
        }
        let mut names: Vec<String> =
            self.tasks.values().filter(|cell| cell.worker.is_none()).map(|cell| cell.task.queue.clone()).collect();
        names.sort();
        names.dedup();
        names.retain(|name| request.queues.as_ref().is_none_or(|queues| queues.contains(name)));
        let mut taken = TakenTasks::default();
        for name in names {
            let limit = request.limit - u32::try_from(taken.tasks.len()).unwrap_or(u32::MAX);
            for key in self.pick(&name, request, limit) {
                let Some(cell) = self.tasks.get_mut(&key) else { continue };
                cell.worker = Some(request.by);
                let NewTask { queue, activity, body, .. } = cell.task.clone();
                taken.tasks.push(Task { key, queue, activity, body });
            }
        }
        taken
    }

    fn pick(&mut self, queue: &str, request: &TaskRequest, limit: u32) -> Vec<TaskKey> {
        let mut line = self.queues.get(queue).cloned().unwrap_or_default();
        line.running = self.running(queue);
        let mut heads: Vec<Head> = self
            .tasks
            .values()
            .filter(|cell| {
                let task = &cell.task;
                cell.worker.is_none()
                    && task.queue == queue
                    && task.due_at <= request.now
                    && request.activities.contains(&task.activity)
                    && task.needs.iter().all(|tag| request.tags.contains(tag))
            })
            .map(|cell| Head { key: cell.task.key, lane: cell.task.lane.clone(), rank: cell.task.rank() })
            .collect();
        heads.sort_by_key(|head| (head.rank, head.key));
        if line.rules.is_keyed() {
            heads = by_turns(heads, &line, line.room(limit, request.now));
        }
        let picked = line.pick(heads, limit, request.now);
        if let Some(kept) = self.queues.get_mut(queue) {
            (kept.cursor, kept.tokens, kept.filled_at) = (line.cursor, line.tokens, line.filled_at);
        }
        picked
    }

    fn running(&self, queue: &str) -> HashMap<String, u32> {
        let mut running: HashMap<String, u32> = HashMap::new();
        for cell in self.tasks.values().filter(|cell| cell.worker.is_some() && cell.task.queue == queue) {
            *running.entry(cell.task.lane.clone()).or_default() += 1;
        }
        running
    }

    pub(super) fn tasks_that(&self, wanted: impl Fn(&TaskKey, &TaskCell) -> bool) -> Vec<TaskRow> {
        self.tasks.iter().filter(|(key, cell)| wanted(key, cell)).map(|(_, cell)| cell.row()).collect()
    }

    pub(super) fn stale_tasks(&self, now: Timestamp, most: usize) -> Vec<StaleTask> {
        let stale = self.tasks.iter().filter(|(_, cell)| match cell.worker {
            None => cell.task.start_by.is_some_and(|start_by| start_by <= now),
            Some(worker) => self.nodes.get(&worker.0).is_none_or(|node| node.is_over(now)),
        });
        stale.map(|(key, cell)| StaleTask { key: *key, by: cell.worker }).take(most).collect()
    }

    pub(super) fn queue_states(&self) -> Vec<QueueState> {
        let mut names: Vec<&String> = self.queues.keys().chain(self.tasks.values().map(|cell| &cell.task.queue)).collect();
        names.sort();
        names.dedup();
        let state = |name: &String| {
            let line = self.queues.get(name).cloned().unwrap_or_default();
            let waiting = || self.tasks.values().filter(|cell| cell.task.queue == *name && cell.worker.is_none());
            QueueState {
                waiting: waiting().count() as u64,
                running: u64::from(self.running(name).values().sum::<u32>()),
                oldest: waiting().map(|cell| cell.task.due_at).min(),
                ..line.state(name)
            }
        };
        names.into_iter().map(state).collect()
    }
}

/// Returns what a claim of a keyed queue looks at: the first lanes behind the cursor that have room, of each its heads.
fn by_turns(heads: Vec<Head>, line: &Line, room: u32) -> Vec<Head> {
    let full = line.full();
    let mut lanes: Vec<String> = heads.iter().map(|head| head.lane.clone()).filter(|lane| !full.contains(lane)).collect();
    lanes.sort();
    lanes.dedup();
    let behind = lanes.partition_point(|lane| *lane <= line.cursor);
    lanes.rotate_left(behind);
    lanes.truncate(MOST_KEYS);
    let of = |lane: &String| heads.iter().filter(|head| head.lane == *lane).take(room as usize).cloned().collect::<Vec<_>>();
    lanes.iter().flat_map(of).collect()
}
