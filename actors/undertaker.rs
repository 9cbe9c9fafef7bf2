//! Undertaker: looks after the other nodes. It sees who is silent, takes over from the dead, frees what they owned, finishes
//! what another undertaker began, and says when this node has more than its share.
//!
//! It has a way of its own to a store on a server: a takeover may have to wait for a commit of the dead node that is still
//! under way, and neither a renewal nor a commit of ours waits behind that.

mod judge;

use std::{sync::Arc, time::Duration};

use actix::{Actor, Addr, AsyncContext, Context, WrapFuture, fut::ActorFutureExt};

use self::judge::{Dead, GRACE, GRACE_OF_SESSIONS, Judge};
use super::{
    executor::{Executor, Shed},
    lease_keeper::Way,
    persistence::Affair,
    scheduler::{GiveWay, Nudge, Scheduler},
    stats::Counters,
};
use crate::{
    clock::{Clock, StoreTime},
    config::Config,
    kernel::id::Incarnation,
    store::{NodeRow, NodeState, StoreError, Warden},
};

/// Freed at once, so that no transaction is long.
const MOST_FREED: u32 = 1_000;

/// Every so many looks what other undertakers may have left half-done is swept.
const SWEEP_EVERY: u32 = 10;

/// While somebody is under suspicion it looks this often.
const SUSPICIOUS: Duration = Duration::from_millis(100);

/// So many looks pass between two times that executions are given away: whoever took them has to have said so.
const REST: u32 = 12;

/// Nobody moves executions for the sake of so few.
const FEW: u32 = 16;

/// Looks after the other nodes.
pub(crate) struct Undertaker {
    incarnation: Incarnation,
    /// `None` while a look is under way.
    access: Option<Access>,
    judge: Judge,
    clock: Arc<dyn Clock>,
    time: Arc<StoreTime>,
    counters: Arc<Counters>,
    scheduler: Addr<Scheduler>,
    executor: Addr<Executor>,
    every: Duration,
    looks: u32,
    /// So many looks to go until executions may be moved again: the others have to have said what they hold.
    rest: u32,
    can: i64,
}

/// The way to the store, and what was opened on it.
struct Access {
    way: Way,
    warden: Option<Box<dyn Warden>>,
}

/// What a look brought.
struct Seen {
    nodes: Vec<NodeRow>,
    buried: u64,
    freed: u64,
    suspicion: bool,
}

impl Undertaker {
    #[expect(clippy::too_many_arguments, reason = "the links of one actor, given once")]
    pub(crate) fn new(
        incarnation: Incarnation,
        way: Way,
        config: &Config,
        time: Arc<StoreTime>,
        counters: Arc<Counters>,
        scheduler: Addr<Scheduler>,
        executor: Addr<Executor>,
        can: i64,
    ) -> Undertaker {
        let grace = match &way {
            Way::Batches(_) => GRACE,
            Way::Own(_) => GRACE_OF_SESSIONS,
        };
        Undertaker {
            incarnation,
            access: Some(Access { way, warden: None }),
            judge: Judge::new(grace),
            clock: config.clock.clone(),
            time,
            counters,
            scheduler,
            executor,
            every: (config.renewal / 2).clamp(Duration::from_millis(50), Duration::from_millis(500)),
            looks: 0,
            rest: 0,
            can,
        }
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        let Some(mut access) = self.access.take() else { return };
        failpoint!("undertaker.before_look");
        let (mut judge, me) = (self.judge.take(), self.incarnation);
        let (clock, time) = (self.clock.clone(), self.time.clone());
        let sweeps = self.looks.is_multiple_of(SWEEP_EVERY);
        self.looks = self.looks.wrapping_add(1);
        let look = async move {
            let seen = look(&mut access, &mut judge, me, &*clock, &time, sweeps).await;
            (access, judge, seen)
        };
        ctx.spawn(look.into_actor(self).map(|(access, judge, seen), this, ctx| {
            this.judge = judge;
            this.access = Some(access);
            let mut next = this.every;
            match seen {
                Ok(seen) => {
                    if seen.suspicion {
                        next = next.min(SUSPICIOUS);
                    }
                    this.seen(&seen);
                }
                // The lease decides what becomes of us; here it is only tried again.
                Err(error) => tracing::debug!(%error, "the other nodes could not be looked at"),
            }
            ctx.run_later(next, Self::look);
        }));
    }

    fn seen(&mut self, seen: &Seen) {
        (0..seen.buried).for_each(|_| self.counters.took_over());
        if seen.freed > 0 {
            tracing::info!(freed = seen.freed, "executions of dead nodes are free to be claimed");
            self.scheduler.do_send(Nudge);
        }
        let live = seen.nodes.iter().filter(|node| node.state == NodeState::Live && node.incarnation != self.incarnation);
        self.counters.neighbours(live.clone().count());
        // Those that can run what we run, and have said what they hold.
        let peers: Vec<u32> = live.filter(|node| node.can == self.can && node.beat > 0).map(|node| node.held).collect();
        self.rest = self.rest.saturating_sub(1);
        let surplus = surplus(self.counters.held(), &peers);
        if surplus > 0 {
            // What is given away, and what else is due, is for those who have less.
            self.scheduler.do_send(GiveWay(self.every * 3));
            if self.rest == 0 {
                self.rest = REST;
                self.executor.do_send(Shed(surplus));
            }
        }
    }
}

impl Actor for Undertaker {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.look(ctx);
    }
}

/// Looks, judges, takes over, sweeps.
async fn look(
    access: &mut Access,
    judge: &mut Judge,
    me: Incarnation,
    clock: &dyn Clock,
    time: &StoreTime,
    sweeps: bool,
) -> Result<Seen, StoreError> {
    let nodes = access.nodes().await?;
    let (dead, suspicion) = judge.judge(me, clock.boot(), &nodes);
    let (mut buried, mut freed) = (0, 0);
    for (incarnation, beat) in dead {
        if access.take_over((incarnation, beat)).await? {
            tracing::warn!(%incarnation, "a node is dead; its executions are taken over");
            buried += 1;
        }
    }
    if buried > 0 || (sweeps && nodes.iter().any(|node| node.state == NodeState::Dead)) {
        loop {
            let some = access.sweep(time, MOST_FREED).await?;
            freed += some;
            if some < u64::from(MOST_FREED) {
                break;
            }
        }
    }
    Ok(Seen { nodes, buried, freed, suspicion })
}

impl Access {
    async fn own(warden: &mut Option<Box<dyn Warden>>, open: &crate::store::OpenWarden) -> Result<(), StoreError> {
        if warden.is_none() {
            *warden = Some(open().await?);
        }
        Ok(())
    }

    async fn nodes(&mut self) -> Result<Vec<NodeRow>, StoreError> {
        match &self.way {
            Way::Batches(persistence) => sent(persistence.send(Affair::new(|store| store.nodes())).await),
            Way::Own(open) => {
                Access::own(&mut self.warden, open).await?;
                opened(&mut self.warden)?.nodes().await
            }
        }
    }

    async fn take_over(&mut self, (incarnation, beat): Dead) -> Result<bool, StoreError> {
        match &self.way {
            Way::Batches(persistence) => {
                sent(persistence.send(Affair::new(move |store| store.take_over(incarnation, beat))).await)
            }
            Way::Own(open) => {
                Access::own(&mut self.warden, open).await?;
                opened(&mut self.warden)?.take_over(incarnation, beat).await
            }
        }
    }

    async fn sweep(&mut self, time: &StoreTime, most: u32) -> Result<u64, StoreError> {
        let now = time.now();
        match &self.way {
            Way::Batches(persistence) => sent(persistence.send(Affair::new(move |store| store.sweep(now, most))).await),
            Way::Own(open) => {
                Access::own(&mut self.warden, open).await?;
                opened(&mut self.warden)?.sweep(now, most).await
            }
        }
    }
}

fn opened(warden: &mut Option<Box<dyn Warden>>) -> Result<&mut Box<dyn Warden>, StoreError> {
    warden.as_mut().ok_or(StoreError::Closed)
}

fn sent<T>(answer: Result<Result<T, StoreError>, actix::MailboxError>) -> Result<T, StoreError> {
    answer.unwrap_or(Err(StoreError::Closed))
}

/// By how many executions this node has more than its share: a quarter beyond the mean, and never for the sake of a few.
fn surplus(ours: u32, peers: &[u32]) -> u32 {
    if peers.is_empty() {
        return 0;
    }
    let all = u64::from(ours) + peers.iter().map(|held| u64::from(*held)).sum::<u64>();
    let mean = u32::try_from(all / (peers.len() as u64 + 1)).unwrap_or(u32::MAX);
    if ours > mean.saturating_add(mean / 4).saturating_add(FEW) { ours - mean } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::surplus;

    #[test]
    fn a_node_gives_away_what_is_beyond_its_share_and_keeps_what_is_not() {
        assert_eq!(surplus(1_000, &[]), 0, "alone");
        assert_eq!(surplus(1_000, &[0]), 500);
        assert_eq!(surplus(1_000, &[900, 1_000]), 0);
        assert_eq!(surplus(10, &[0, 0]), 0, "not for so few");
        assert_eq!(surplus(0, &[1_000]), 0);
    }
}
