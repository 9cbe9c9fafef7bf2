//! LeaseKeeper: keeps this node's right to act. It has an arbiter of its own and almost no mail, because a busy mailbox
//! starves its actor's timers. The deadline is an atomic that everyone reads; nothing here is ever "told in time".

use std::{sync::Arc, time::Duration};

use actix::{Actor, Addr, AsyncContext, Context, Recipient, WrapFuture, fut::ActorFutureExt};

use super::{
    deadline::Deadline,
    persistence::{CannotGoOn, Persistence, Renew, Renewal},
};
use crate::{clock::Clock, config::Config, kernel::id::Incarnation};

/// Keeps the lease.
pub(crate) struct LeaseKeeper {
    persistence: Addr<Persistence>,
    failed: Recipient<CannotGoOn>,
    incarnation: Incarnation,
    deadline: Deadline,
    clock: Arc<dyn Clock>,
    /// What counts from the moment before a renewal was sent.
    right: Duration,
    every: Duration,
    asking: bool,
}

impl LeaseKeeper {
    pub(crate) fn new(
        persistence: Addr<Persistence>,
        failed: Recipient<CannotGoOn>,
        incarnation: Incarnation,
        deadline: Deadline,
        config: &Config,
    ) -> LeaseKeeper {
        LeaseKeeper {
            persistence,
            failed,
            incarnation,
            deadline,
            clock: config.clock.clone(),
            right: config.lease.saturating_sub(config.margin),
            every: config.renewal,
            asking: false,
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
        let asked = self.persistence.send(Renew).into_actor(self);
        ctx.spawn(asked.map(move |answer, this, _| {
            this.asking = false;
            match answer {
                Ok(Ok(Renewal::Done | Renewal::Held)) => {
                    if !this.deadline.renewed(sent, this.right) {
                        this.lost("the answer to its renewal came after its lease had run out");
                    }
                }
                Ok(Ok(Renewal::Refused)) => this.lost("another node took its lease"),
                // Persistence is gone: whoever watches it knows, and the deadline runs out by itself.
                Ok(Err(())) | Err(_) => {}
            }
        }));
    }

    fn lost(&self, why: &str) {
        self.deadline.fence();
        let why = format!("this node is fenced: {why}");
        self.failed.do_send(CannotGoOn { actor: "LeaseKeeper", incarnation: self.incarnation, why });
    }
}

impl Actor for LeaseKeeper {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.run_interval(self.every, Self::renew);
    }
}
