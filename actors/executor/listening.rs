//! Runs that somebody here listens to and that are not here: how far their logs have come is looked at, of some of them each second, in turn.
//! Hints tell it sooner, for turns that publish; this is for all others, and for hints that were lost.

use std::rc::Rc;

use actix::{AsyncContext, Context, WrapFuture, fut::ActorFutureExt};

use super::Executor;
use crate::{actors::persistence::Read, kernel::id::RunKey, store::Reader};

impl Executor {
    /// One tick.
    pub(super) fn look_at_logs(&mut self, ctx: &mut Context<Self>) {
        if self.looking {
            return;
        }
        let Executor { door, engine, held, listening, .. } = self;
        let listened = || {
            let mut listened = door.bells.listened();
            listened.retain(|run| !held.contains_key(run));
            listened
        };
        let runs = listening.turn(engine.counters.is_alone(), listened);
        if !runs.is_empty() {
            self.looking = true;
            self.look_at(runs, ctx);
        }
    }

    fn look_at(&mut self, runs: Vec<RunKey>, ctx: &mut Context<Self>) {
        let read = Read::new(move |reader: Rc<dyn Reader>| async move { reader.heights(&runs).await });
        let asked = self.engine.persistence.send(read).into_actor(self);
        ctx.spawn(asked.map(|heights, this, _| {
            this.looking = false;
            match heights {
                Ok(Ok(heights)) => this.door.bells.seen(&heights),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "logs of runs elsewhere could not be looked at; it is tried again");
                    this.listening.stir();
                }
                // Persistence is gone, and with it this incarnation.
                Err(_) => {}
            }
        }));
    }
}
