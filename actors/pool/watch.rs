//! The limits of all attempts, minded by one thread on which no user code runs: an act that holds its own thread for ever
//! still times out to the minute, and so do its neighbours.
//!
//! Each attempt that has something to fear has one alarm, at the earliest moment at which it may be due; when it rings the
//! attempt is looked at and, if nothing is due yet (a heartbeat came in between), the alarm is set again. So a beat costs
//! no lock, and an attempt without limits costs nothing at all.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use super::PoolConfig;
use crate::{actors::call::CallContext, clock::Clock};

/// A moment that never comes.
pub(crate) const NEVER: u64 = u64::MAX;

/// Boot time goes on while the machine sleeps, the wait of a thread does not: never wait longer than this for an alarm.
const LONGEST_NAP: Duration = Duration::from_secs(10);

/// The alarms, and the bed of the thread that minds them.
pub(crate) struct Watch {
    clock: Arc<dyn Clock>,
    cancel_grace: u64,
    heartbeat_flush: u64,
    seq: AtomicU64,
    alarms: Mutex<Alarms>,
    bell: Condvar,
    /// Work is outstanding, so that somebody may turn out to be late; lowered by the watching thread only.
    attending: AtomicBool,
}

#[derive(Default)]
struct Alarms {
    /// By moment in boot microseconds, then by attempt.
    due: BTreeMap<(u64, u64), Arc<CallContext>>,
    /// When the thread wakes up by itself.
    planned: u64,
    closed: bool,
}

impl Watch {
    pub(crate) fn new(clock: Arc<dyn Clock>, config: &PoolConfig) -> Watch {
        Watch {
            clock,
            cancel_grace: micros(config.cancel_grace),
            heartbeat_flush: micros(config.heartbeat_flush),
            seq: AtomicU64::new(0),
            alarms: Mutex::default(),
            bell: Condvar::new(),
            attending: AtomicBool::new(false),
        }
    }

    /// Returns boot time in microseconds.
    pub(crate) fn now(&self) -> u64 {
        micros(self.clock.boot())
    }

    pub(crate) fn next_seq(&self) -> u64 {
        self.seq.fetch_add(1, Ordering::Relaxed)
    }

    /// Sets an attempt's alarm to the next moment at which something of it may be due.
    pub(crate) fn arm(&self, cx: &Arc<CallContext>) {
        let due = self.due(cx);
        if due == NEVER {
            return self.disarm(cx);
        }
        let mut alarms = self.alarms.lock();
        let before = cx.life.alarm.swap(due, Ordering::SeqCst);
        if before == due {
            return;
        }
        if before != 0 {
            alarms.due.remove(&(before, cx.life.seq));
        }
        alarms.due.insert((due, cx.life.seq), cx.clone());
        if due < alarms.planned {
            alarms.planned = due;
            self.bell.notify_one();
        }
    }

    /// Takes an attempt's alarm away.
    pub(crate) fn disarm(&self, cx: &CallContext) {
        if cx.life.alarm.load(Ordering::SeqCst) != 0 {
            let mut alarms = self.alarms.lock();
            let before = cx.life.alarm.swap(0, Ordering::SeqCst);
            alarms.due.remove(&(before, cx.life.seq));
        }
    }

    /// Returns the next moment at which something of an attempt may be due.
    fn due(&self, cx: &CallContext) -> u64 {
        let (life, limits) = (&cx.life, &cx.life.limits);
        if life.is_settled() {
            return NEVER;
        }
        let close = after(life.queued_at, limits.close_by);
        if life.is_queued() {
            return close.min(after(life.queued_at, limits.schedule_to_start));
        }
        close
            .min(after(life.started_at(), limits.start_to_close))
            .min(after(cx.beat_at(), limits.heartbeat))
            .min(cx.cancelled_at().map_or(NEVER, |at| at.saturating_add(self.cancel_grace)))
            .min(cx.save_due(self.save_every(cx)).unwrap_or(NEVER))
    }

    /// Returns how long the details of an attempt may stay in memory only.
    pub(crate) fn save_every(&self, cx: &CallContext) -> u64 {
        cx.life.limits.heartbeat.map_or(self.heartbeat_flush, |limit| micros(limit) / 3)
    }

    /// Returns the moment at which a cancelled attempt is dropped.
    pub(crate) fn grace_over(&self, cx: &CallContext) -> u64 {
        cx.cancelled_at().map_or(NEVER, |at| at.saturating_add(self.cancel_grace))
    }

    /// Takes the alarms that ring.
    pub(crate) fn ringing(&self, now: u64) -> Vec<Arc<CallContext>> {
        let mut alarms = self.alarms.lock();
        let mut ringing = Vec::new();
        while let Some(first) = alarms.due.first_entry() {
            if first.key().0 > now {
                break;
            }
            let cx = first.remove();
            cx.life.alarm.store(0, Ordering::SeqCst);
            ringing.push(cx);
        }
        ringing
    }

    /// Says that work is outstanding: the watching thread looks after the arbiters until all is served.
    pub(crate) fn attend(&self) {
        if !self.attending.load(Ordering::SeqCst) && !self.attending.swap(true, Ordering::SeqCst) {
            let _bed = self.alarms.lock();
            self.bell.notify_one();
        }
    }

    /// Says that nothing is outstanding; whoever adds work from here on calls again.
    pub(crate) fn relax(&self) {
        self.attending.store(false, Ordering::SeqCst);
    }

    /// Sleeps until the next alarm, until somebody calls, or, while work is outstanding, for a tick. Returns `false` when
    /// the pool is closed for good.
    pub(crate) fn sleep(&self, tick: Duration) -> bool {
        let mut alarms = self.alarms.lock();
        if alarms.closed {
            return false;
        }
        let now = self.now();
        let first = alarms.due.first_key_value().map(|((due, _), _)| *due);
        let mut nap = first.map(|due| Duration::from_micros(due.saturating_sub(now)).min(LONGEST_NAP));
        // Read under the lock under which the caller rings: a call is either seen here or wakes the wait below.
        if self.attending.load(Ordering::SeqCst) {
            nap = Some(nap.map_or(tick, |nap| nap.min(tick)));
        }
        match nap {
            Some(nap) => {
                alarms.planned = now.saturating_add(micros(nap));
                self.bell.wait_for(&mut alarms, nap);
            }
            None => {
                alarms.planned = NEVER;
                self.bell.wait(&mut alarms);
            }
        }
        // Awake: whoever sets an alarm needs not ring, it is read before the next sleep.
        alarms.planned = 0;
        !alarms.closed
    }

    /// Ends the watching thread and lets go of all attempts.
    pub(crate) fn close(&self) {
        let mut alarms = self.alarms.lock();
        alarms.closed = true;
        alarms.due.clear();
        self.bell.notify_one();
    }
}

/// Returns `from` plus a limit, or never without one.
pub(crate) fn after(from: u64, limit: Option<Duration>) -> u64 {
    limit.map_or(NEVER, |limit| from.saturating_add(micros(limit)))
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
