//! A store that does wrong what a test has planned: one commit of many, a reservation of keys.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use futures::FutureExt;
use parking_lot::Mutex;
use stent::{
    kernel::{
        id::{Incarnation, RunKey},
        time::Timestamp,
    },
    store::{
        Answer, Batch, BatchAnswer, Item, NewNode, NodeRow, Outcome, Queue, Reader, Renewed, Store, StoreError, TakenTasks,
        TaskRequest, Warden,
    },
};

/// What happens to a commit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum How {
    /// The item is refused as one whose tail has moved; its neighbours go in.
    Conflict,
    /// The item waits for a transaction of somebody else; its neighbours go in.
    Waits,
    Busy,
    /// It waits so long for a lock, and then does not have it.
    BusyAfter(Duration),
    Full,
    /// Nothing is written, and the store is not to be trusted any more.
    Io,
    /// Everything is written, and then the store is not to be trusted any more.
    IoAfter,
}

/// Which commit: told its number within the run.
type Pick = Box<dyn FnMut(&Batch) -> Option<(usize, How)> + Send>;

/// What the wrapped store is to do wrong.
#[derive(Clone)]
pub(crate) struct Faults {
    pick: Arc<Mutex<Pick>>,
    pub(crate) fired: Arc<Mutex<Vec<How>>>,
    /// So many reservations of keys are refused.
    pub(crate) keys: Arc<AtomicU32>,
    /// The runs that a retiring node kept.
    pub(crate) kept: Arc<Mutex<Vec<RunKey>>>,
    /// How many lives of nodes have begun.
    pub(crate) entered: Arc<AtomicU32>,
    /// The node has said that it leaves.
    pub(crate) leaves: Arc<AtomicBool>,
}

impl Faults {
    pub(crate) fn new(pick: impl FnMut(&Batch) -> Option<(usize, How)> + Send + 'static) -> Faults {
        let pick: Pick = Box::new(pick);
        let (fired, keys, kept) = (Arc::default(), Arc::default(), Arc::default());
        Faults { pick: Arc::new(Mutex::new(pick)), fired, keys, kept, entered: Arc::default(), leaves: Arc::default() }
    }

    /// Hits the first commit with this number of any run, once.
    pub(crate) fn at(commit_no: u32, how: How) -> Faults {
        let mut over = false;
        Faults::new(move |batch| {
            let hit = turns(batch).find(|(_, no)| *no == commit_no && !over).map(|(index, _)| (index, how));
            over |= hit.is_some();
            hit
        })
    }
}

pub(crate) fn turns(batch: &Batch) -> impl Iterator<Item = (usize, u32)> {
    batch.items.iter().enumerate().filter_map(|(index, item)| match item {
        Item::Turn(turn) => Some((index, turn.commit_no)),
        _ => None,
    })
}

/// A store that does what its faults say.
pub(crate) struct Faulty {
    pub(crate) inner: Box<dyn Store>,
    pub(crate) faults: Faults,
}

impl Faulty {
    pub(crate) fn error(how: How) -> StoreError {
        let path = "faulty".to_owned();
        match how {
            How::Busy | How::BusyAfter(_) => StoreError::Busy { reason: "a test holds the lock".into() },
            How::Full => StoreError::Full { path },
            _ => StoreError::Io { path, reason: "a test broke it".into() },
        }
    }
}

impl Warden for Faulty {
    fn renew(&mut self, incarnation: Incarnation, held: u32) -> Answer<'_, Renewed> {
        self.inner.renew(incarnation, held)
    }

    fn nodes(&mut self) -> Answer<'_, Vec<NodeRow>> {
        self.inner.nodes()
    }

    fn drain(&mut self, incarnation: Incarnation) -> Answer<'_, ()> {
        self.faults.leaves.store(true, SeqCst);
        self.inner.drain(incarnation)
    }

    fn take_over(&mut self, incarnation: Incarnation, seen_beat: u64) -> Answer<'_, bool> {
        self.inner.take_over(incarnation, seen_beat)
    }

    fn sweep(&mut self, now: Timestamp, most: u32) -> Answer<'_, u64> {
        self.inner.sweep(now, most)
    }

    fn take_tasks(&mut self, request: TaskRequest) -> Answer<'_, TakenTasks> {
        self.inner.take_tasks(request)
    }
}

impl Store for Faulty {
    fn register(&mut self, node: &NewNode) -> Answer<'_, u64> {
        self.faults.entered.fetch_add(1, SeqCst);
        self.inner.register(node)
    }

    fn retire(&mut self, incarnation: Incarnation, free: bool, keep: &[RunKey]) -> Answer<'_, u64> {
        self.faults.kept.lock().extend(keep);
        self.inner.retire(incarnation, free, keep)
    }

    fn declare_queues(&mut self, queues: &[Queue]) -> Answer<'_, ()> {
        self.inner.declare_queues(queues)
    }

    fn pause_queue(&mut self, name: &str, paused: bool) -> Answer<'_, ()> {
        self.inner.pause_queue(name, paused)
    }

    fn reserve_keys(&mut self, count: u32) -> Answer<'_, RunKey> {
        if self.faults.keys.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
            return async { Err(Faulty::error(How::Busy)) }.boxed_local();
        }
        self.inner.reserve_keys(count)
    }

    fn resume(&mut self, id: &str, now: Timestamp) -> Answer<'_, Outcome> {
        self.inner.resume(id, now)
    }

    fn halt(&mut self, run: RunKey, epoch: u64, reason: &str) -> Answer<'_, ()> {
        self.inner.halt(run, epoch, reason)
    }

    fn commit<'a>(&'a mut self, batch: &'a Batch) -> Answer<'a, BatchAnswer> {
        let Some((index, how)) = (self.faults.pick.lock())(batch) else { return self.inner.commit(batch) };
        self.faults.fired.lock().push(how);
        async move {
            match how {
                How::BusyAfter(long) => {
                    tokio::time::sleep(long).await;
                    Err(Faulty::error(how))
                }
                How::Busy | How::Full | How::Io => Err(Faulty::error(how)),
                How::IoAfter => {
                    self.inner.commit(batch).await?;
                    Err(Faulty::error(how))
                }
                How::Conflict | How::Waits => {
                    let mut rest = batch.clone();
                    rest.items.remove(index);
                    let mut answer = self.inner.commit(&rest).await?;
                    answer.outcomes.insert(index, if how == How::Waits { Outcome::Waits } else { Outcome::Conflict });
                    Ok(answer)
                }
            }
        }
        .boxed_local()
    }

    fn reader(&self) -> Rc<dyn Reader> {
        self.inner.reader()
    }

    fn close(&mut self) -> Answer<'_, ()> {
        self.inner.close()
    }
}
