//! Who hears of a commit: those whose items it held, the owners of runs that got messages, and the other nodes.

use super::{Ack, Acks, ClaimedRuns, Deliver, Persistence, Post, Posted, Renewal, UnderWay, Whom};
use crate::{
    actors::{executor::Hinted, notifier::Tell, scheduler::TICK},
    hints::Hint,
    kernel::{id::Incarnation, time::Timestamp},
    store::{Batch, BatchAnswer, Item, Outcome, StoreError, Told, Unread, YieldReason},
};

impl Persistence {
    /// Tells the other nodes where looking pays behind a commit; nothing when there are none.
    pub(super) fn hint(&self, batch: &Batch, answer: &BatchAnswer) {
        let Some(notifier) = self.links.as_ref().and_then(|links| links.notifier.as_ref()) else { return };
        if self.counters.is_alone() {
            return;
        }
        let now = batch.now;
        let due = |at: Option<Timestamp>| at.is_none_or(|at| at <= now);
        let mail = |run, owner: Option<Incarnation>| match owner {
            None => Some(Hint::Due),
            Some(owner) if owner != self.incarnation => Some(Hint::Mail { run, owner }),
            Some(_) => None,
        };
        let published = batch.items.iter().zip(&answer.outcomes).filter_map(|(item, outcome)| match (item, outcome) {
            (Item::Turn(turn), Outcome::Done) if !turn.published.is_empty() => Some(Hint::Published { run: turn.run }),
            _ => None,
        });
        let hints: Vec<Hint> = batch
            .items
            .iter()
            .zip(&answer.outcomes)
            .filter_map(|(item, outcome)| match (item, outcome) {
                (Item::Send(_) | Item::EndTask(_), Outcome::Sent { owner, run, .. }) => mail(*run, *owner),
                (Item::Turn(turn), Outcome::Done) if turn.successor().is_some_and(|next| due(next.due)) => Some(Hint::Due),
                (Item::Turn(turn), Outcome::Done) if turn.starts.iter().any(|start| due(start.row.wake_at)) => Some(Hint::Due),
                (Item::Enqueue(new, _), Outcome::Done) if due(new.wake_at) => Some(Hint::Due),
                (Item::Fork(fork), Outcome::Done) if due(fork.row.wake_at) => Some(Hint::Due),
                (Item::Schedule(change), Outcome::Done) if change.starts.iter().any(|(new, _)| due(new.wake_at)) => {
                    Some(Hint::Due)
                }
                (Item::Yield(given), Outcome::Done) => match given.why {
                    YieldReason::Blocked { .. } => Some(Hint::Due),
                    YieldReason::Released { wake_at: Some(wake_at), .. } if wake_at <= now.after(TICK) => Some(Hint::Due),
                    _ => None,
                },
                _ => None,
            })
            .chain(published)
            .chain(answer.told.iter().filter_map(|told| mail(told.run, told.owner)))
            .collect();
        if !hints.is_empty() {
            notifier.do_send(Tell(hints));
        }
    }

    /// Tells the other nodes that something may be due now which was not before.
    pub(super) fn hint_due(&self) {
        let notifier = self.links.as_ref().and_then(|links| links.notifier.as_ref());
        if let Some(notifier) = notifier.filter(|_| !self.counters.is_alone()) {
            notifier.do_send(Tell(vec![Hint::Due]));
        }
    }

    pub(super) fn tell(&mut self, told: UnderWay, answer: BatchAnswer) {
        failpoint!("persistence.before_acks");
        let mut acks = Vec::with_capacity(told.whoms.len());
        let (mut deliver, mut look) = (Vec::new(), Vec::new());
        let mut woken = false;
        // In the order of their numbers: what runs tell each other comes before what is sent in the same batch.
        for Told { run, owner, unread } in answer.told {
            if owner == Some(self.incarnation) {
                deliver.push((run, unread));
            } else {
                woken = true;
            }
        }
        for ((whom, post), outcome) in told.whoms.into_iter().zip(told.posts).zip(answer.outcomes) {
            if let Outcome::Sent { seq, run, owner } = &outcome {
                match post {
                    _ if *owner != Some(self.incarnation) => woken = true,
                    Posted::Said(Post { message, body, sent_at, .. }) => {
                        deliver.push((*run, Unread { seq: *seq, message, body, sent_at }));
                    }
                    Posted::Stored => look.push(*run),
                    Posted::Nothing => {}
                }
            }
            match whom {
                Whom::Execution { run, generation, claims } => acks.push(Ack { run, generation, claims, outcome }),
                Whom::Caller(caller) => {
                    // Nobody waits any more: what is recorded stays recorded.
                    let _ = caller.send(outcome);
                }
                Whom::Nobody => {}
            }
        }
        for renewal in told.renewals {
            let _ = renewal.send(if answer.live { Renewal::Done } else { Renewal::Refused });
        }
        if let Some(claim) = told.claim {
            let _ = claim.send(answer.claimed.len());
        }
        if let Some(links) = &self.links {
            if !acks.is_empty() {
                links.executor.do_send(Acks(acks));
            }
            if !answer.claimed.is_empty() {
                links.executor.do_send(ClaimedRuns(answer.claimed));
            }
            if !deliver.is_empty() {
                links.executor.do_send(Deliver(deliver));
            }
            if !look.is_empty() {
                links.executor.do_send(Hinted { mail: look, ..Hinted::default() });
            }
            if woken {
                links.scheduler.do_send(crate::actors::scheduler::Nudge);
            }
        }
        if !answer.live {
            self.give_up(&StoreError::Other("this node was declared dead by another".to_owned()), true);
        }
    }
}
