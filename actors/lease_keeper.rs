//! LeaseKeeper: keeps this node's right to act. It has an arbiter of its own and almost no mail, because a busy mailbox
//! starves its actor's timers. The deadline is an atomic that everyone reads; nothing here is ever "told in time".
//!
//! A store on a server gives it a connection of its own, so that a renewal never waits behind work; there each renewal also
//! brings a sample of the server's clock. In an embedded store renewals are items of the next batch.

use std::{sync::Arc, time::Duration};

use actix::{Actor, Addr, AsyncContext, Context, Recipient, WrapFuture, fut::ActorFutureExt};

use super::{
    deadline::Deadline,
    persistence::{Blame, CannotGoOn, Persistence, Renew, Renewal},
    stats::Counters,
};
use crate::{
    clock::{Clock, StoreTime},
    config::Config,
    kernel::id::Incarnation,
    store::{OpenWarden, StoreError, Warden},
};

/// A wall clock that differs from the store's by more than this is worth a warning, though it decides nothing.
const SKEW_WORTH_TELLING: i64 = 1_000_000;

/// How often the deadline is looked at, whatever the lease.
const WATCHED: Duration = Duration::from_millis(250);

/// How renewals get to the store.
pub(crate) enum Way {
    /// With the next batch.
    Batches(Addr<Persistence>),
    /// Over a connection of its own.
    Own(OpenWarden),
}

/// Keeps the lease.
pub(crate) struct LeaseKeeper {
    way: Way,
    /// `None` while it is not open, or under way with a renewal.
    warden: Option<Box<dyn Warden>>,
    failed: Recipient<CannotGoOn>,
    incarnation: Incarnation,
    deadline: Deadline,
    clock: Arc<dyn Clock>,
    time: Arc<StoreTime>,
    counters: Arc<Counters>,
    /// What counts from the moment before a renewal was sent.
    right: Duration,
    every: Duration,
    asking: bool,
    /// It has been said that the right is lost.
    told: bool,
}

impl LeaseKeeper {
    pub(crate) fn new(
        way: Way,
        failed: Recipient<CannotGoOn>,
        incarnation: Incarnation,
        deadline: Deadline,
        config: &Config,
        time: Arc<StoreTime>,
        counters: Arc<Counters>,
    ) -> LeaseKeeper {
        LeaseKeeper {
            way,
            warden: None,
            failed,
            incarnation,
            deadline,
            clock: config.clock.clone(),
            time,
            counters,
            right: config.lease.saturating_sub(config.margin),
            every: config.renewal,
            asking: false,
            told: false,
        }
    }

    fn renew(&mut self, ctx: &mut Context<Self>) {
        if !self.deadline.stands() {
            return self.lost("its lease ran out before it was renewed");
        }
        if std::mem::replace(&mut self.asking, true) {
            return;
        }
        failpoint!("lease_keeper.before_renew");
        let sent = self.clock.boot();
        match &self.way {
            Way::Batches(persistence) => {
                let asked = persistence.send(Renew).into_actor(self);
                ctx.spawn(asked.map(move |answer, this, _| {
                    this.asking = false;
                    match answer {
                        Ok(Ok(Renewal::Done | Renewal::Held)) => this.renewed(sent),
                        Ok(Ok(Renewal::Refused)) => this.lost("another node took its lease"),
                        // Persistence is gone: whoever watches it knows, and the deadline runs out by itself.
                        Ok(Err(())) | Err(_) => {}
                    }
                }));
            }
            Way::Own(open) => {
                let (open, warden, time) = (open.clone(), self.warden.take(), self.time.clone());
                let (incarnation, held) = (self.incarnation, self.counters.held());
                let asked = async move {
                    let mut warden = match warden {
                        Some(warden) => warden,
                        None => match open().await {
                            Ok(warden) => warden,
                            Err(error) => return (None, Err(error)),
                        },
                    };
                    let renewed = warden.renew(incarnation, held).await;
                    // Here and not in a handler: the sample is worth the more the sooner it is taken note of.
                    let renewed = renewed.map(|renewed| (renewed.live, renewed.store_now.map(|sample| time.heard(sample))));
                    (Some(warden), renewed)
                };
                ctx.spawn(asked.into_actor(self).map(move |(warden, renewed), this, ctx| {
                    this.asking = false;
                    this.warden = warden;
                    match renewed {
                        Ok((true, skew)) => {
                            skew.into_iter().for_each(|skew| this.skewed(skew));
                            this.renewed(sent);
                        }
                        Ok((false, _)) => this.lost("another node took its lease"),
                        Err(error) => this.again(&error, ctx),
                    }
                }));
            }
        }
    }

    fn renewed(&mut self, sent: Duration) {
        if !self.deadline.renewed(sent, self.right) {
            self.lost("the answer to its renewal came after its lease had run out");
        }
    }

    /// The server did not answer: it is asked again soon, for as long as the lease stands.
    fn again(&self, error: &StoreError, ctx: &mut Context<Self>) {
        tracing::warn!(%error, "the lease could not be renewed; it is tried again");
        ctx.run_later(self.every / 8, Self::renew);
    }

    fn skewed(&self, micros: i64) {
        let before = self.counters.skewed(micros);
        if micros.abs() > SKEW_WORTH_TELLING && before.abs() <= SKEW_WORTH_TELLING {
            let by_ms = micros / 1000;
            tracing::warn!(by_ms, "this machine's clock differs from the store's; nothing depends on it, but logs will puzzle");
        }
    }

    fn lost(&mut self, why: &str) {
        self.deadline.fence();
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        let why = format!("this node is fenced: {why}");
        let blame = Blame::World;
        self.failed.do_send(CannotGoOn { actor: "LeaseKeeper", incarnation: self.incarnation, why, blame });
    }
}

impl Actor for LeaseKeeper {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.run_interval(self.every, Self::renew);
        // What runs here is stopped when the right to act runs out, and not a renewal later.
        ctx.run_interval((self.every / 8).min(WATCHED), |this, _| {
            if !this.deadline.stands() {
                this.lost("its lease ran out");
            }
        });
        // The connection of its own is the proof that this node lives: the sooner it stands the better.
        if let Way::Own(_) = self.way {
            self.renew(ctx);
        }
    }
}
