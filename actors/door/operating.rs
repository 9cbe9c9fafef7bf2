//! Operating a run. An order is carried out by whoever owns the run: it goes to the inbox, and the owner's next turn takes it. A run that
//! nobody owns needs nobody: what is ordered is decided from its log, without its code, and recorded by whatever node was asked, in
//! one commit behind the log's last row. If somebody takes the run up in between, or writes, nothing was done, and it is looked anew.

use std::time::Duration;

use tokio::{sync::oneshot, time::Instant};

use super::{Door, Links, in_words};
use crate::{
    actors::{
        asked,
        bells::Rung,
        executor::Overruled,
        loading,
        persistence::{Submit, Whom},
    },
    error::{Error, SendError},
    kernel::{
        codec,
        event::{Command, Event, Fact, MessageBody, Order, Outcome as RunEnd},
        id::RunKey,
        run::{Decision, Effect, Writer},
    },
    store::{Item, Outcome, Status, Stored, Summary, Then, Turn},
};

/// How long the owner of a run has to carry an order out, before it is carried out over its head: a thread of it may be blocked.
const OWNERS: Duration = Duration::from_secs(2);

/// How often it is looked whether it has: at first, and at last.
const LOOK: Duration = Duration::from_millis(5);
const LONGEST_LOOK: Duration = Duration::from_millis(200);

/// So often the store may refuse the record for a reason of its own.
const MOST_REFUSED: u32 = 20;

impl Door {
    /// Ends the current run of an id, whoever has it.
    pub(crate) async fn terminate(&self, to: String, message: String, order: Order) -> Result<(), Error> {
        let body = MessageBody::Order(Box::new(order.clone()));
        asked::check_message(&message, &body, &self.config.limits)?;
        let (since, mut pause, mut sent, mut refused) = (Instant::now(), LOOK, None, 0);
        loop {
            let row = self.current(&to).await?;
            if row.status == Status::Continued {
                // Its next run is there already.
                self.breathe().await;
                continue;
            }
            if row.status.is_end() {
                return self.ended_by(row, &message).await;
            }
            let full = sent == Some((row.run, false));
            if row.owner.is_none() || full || since.elapsed() > OWNERS {
                match self.end_without_code(&row, &message, &order).await? {
                    Outcome::Done => return Ok(()),
                    Outcome::Refused(why) if refused == MOST_REFUSED => return Err(SendError::Unavailable(why).into()),
                    Outcome::Refused(_) => refused += 1,
                    _ => {}
                }
            } else if sent.is_none_or(|(run, _)| run != row.run) {
                match self.send(to.clone(), message.clone(), body.clone()).await {
                    Ok(()) => sent = Some((row.run, true)),
                    Err(Error::Send(SendError::AlreadyEnded { .. })) => continue,
                    Err(Error::Send(SendError::InboxFull(_))) => sent = Some((row.run, false)),
                    Err(error) => return Err(error),
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_LOOK);
        }
    }

    /// Answers for a run that has ended: well, if it was ended by this message.
    async fn ended_by(&self, row: Summary, message: &str) -> Result<(), Error> {
        let run = row.run;
        let tail = self.read(move |reader| async move { reader.tail(run).await }).await?;
        let last = tail.and_then(|(commit_no, record)| codec::decode(&row.id, commit_no, &record).ok());
        let events = last.map(|commit| commit.events).unwrap_or_default();
        let is_it = |event: &Event| matches!(event, Event::Fact(Fact::Received { message: of, .. }) if of == message);
        if row.status == Status::Terminated && events.iter().any(is_it) {
            return Ok(());
        }
        let status = match events.last() {
            Some(Event::Command(Command::End { outcome })) => in_words(outcome),
            _ => row.status.as_str().to_owned(),
        };
        Err(SendError::AlreadyEnded { id: row.id.id, status }.into())
    }

    /// Records the end of a run as its log alone tells it, and whatever belongs to an end.
    async fn end_without_code(&self, row: &Summary, message: &str, order: &Order) -> Result<Outcome, Error> {
        let run = row.run;
        let stored = self.read(move |reader| async move { reader.run(run).await }).await?;
        let Some(stored) = stored.filter(|stored| !stored.summary.status.is_end()) else { return Ok(Outcome::Conflict) };
        let links = self.links().await?;
        let ward = loading::ward(&stored);
        let decision = ward.terminate(message, order, self.time.now(), self.writer(&links, stored.summary.epoch));
        let end = decision.commit.events.last().cloned();
        let then = Then::End { status: Status::Terminated, seen: None };
        let outcome = self.record(&links, &stored, message, decision, then).await?;
        if let (Outcome::Done, Some(Event::Command(Command::End { outcome }))) = (&outcome, end) {
            self.over(&links, run, *outcome).await;
        }
        Ok(outcome)
    }

    fn writer(&self, links: &Links, epoch: u64) -> Writer<'_> {
        Writer { incarnation: links.incarnation, epoch, build: self.config.build, is_shared: &|_| false }
    }

    /// Records what was decided about a run without its code, and takes the order out of its inbox if it is there.
    async fn record(
        &self,
        links: &Links,
        stored: &Stored,
        message: &str,
        decision: Decision,
        then: Then,
    ) -> Result<Outcome, Error> {
        let Decision { commit, effects, settled, tells, .. } = decision;
        let record = codec::encode(&stored.summary.id, &commit).map_err(Error::Wait)?;
        let withdrawn = effects.iter().filter_map(|effect| match effect {
            Effect::Withdraw { position } => Some(*position),
            _ => None,
        });
        let ours = stored.inbox.unread.iter().filter(|unread| unread.message == message);
        let turn = Turn {
            run: stored.summary.run,
            start: None,
            commit_no: commit.commit_no,
            prev: commit.prev,
            record,
            then,
            consumed: ours.map(|unread| unread.seq).collect(),
            settled,
            tasks: Vec::new(),
            withdrawn: withdrawn.collect(),
            starts: Vec::new(),
            tells,
            published: Vec::new(),
        };
        let (told, outcome) = oneshot::channel();
        links.persistence.do_send(Submit(vec![(Item::Turn(turn.into()), Whom::Caller(told))]));
        // Without an answer the incarnation is over, and it is looked anew what became of it.
        Ok(outcome.await.unwrap_or(Outcome::Fenced))
    }

    /// Tells all whom it concerns that a run is over: whoever waits, whoever has it in memory, and the other nodes.
    async fn over(&self, links: &Links, run: RunKey, outcome: RunEnd) {
        self.waiters.settle(run, || outcome);
        self.bells.ring(run, Rung::News);
        // If it is not heard, its next commit is refused.
        let _ = links.executor.send(Overruled(vec![run])).await;
    }
}
