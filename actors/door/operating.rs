//! Operating a run. An order is carried out by whoever owns the run: it goes to the inbox, and the owner's next turn takes it. A run that
//! nobody owns needs nobody: what is ordered is decided from its log, without its code, and recorded by whatever node was asked, in
//! one commit behind the log's last row. If somebody takes the run up in between, or writes, nothing was done, and it is looked anew.

use std::{rc::Rc, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use super::{Door, Links, in_words};
use crate::{
    actors::{
        asked,
        bells::Rung,
        executor::Overruled,
        loading,
        orders::Named,
        persistence::{self, Affair, Submit, Whom},
        scheduler::Nudge,
        steward::Serve,
    },
    error::{Error, SendError},
    kernel::{
        codec,
        event::{CURRENT_RUN, Command, Event, Fact, MessageBody, Order, Ordered, Outcome as RunEnd},
        id::{Position, RunId, RunKey},
        memo::MemoKey,
        run::{Decision, Effect, Ward, Writer},
        state::{OpenCall, State},
        time::Timestamp,
    },
    store::{Inbox, Item, NOT_BEGUN, Outcome, Reader, Status, StoreError, Stored, Summary, Then, Turn, Unread},
};

/// How long the owner of a run has to carry an order out, before it is carried out over its head: a thread of it may be blocked.
const OWNERS: Duration = Duration::from_secs(2);

/// How long the sender of an order waits until it is taken.
const LONGEST: Duration = Duration::from_secs(30);

/// How often it is looked whether it has: at first, and at last.
const LOOK: Duration = Duration::from_millis(5);
const LONGEST_LOOK: Duration = Duration::from_millis(200);

/// So often the store may refuse the record for a reason of its own.
const MOST_REFUSED: u32 = 20;

/// What an order supposes and is not there.
fn missing(state: &State, what: &Ordered, activity: Option<Named>, now: Timestamp) -> Option<String> {
    match what {
        Ordered::Retry { position } => {
            let there = state.to_retry(*position, now).next().is_some();
            let runs = |position: &Position| state.call(*position).is_some_and(OpenCall::is_begun);
            let what = || match position {
                Some(position) if runs(position) => {
                    format!(
                        "the time of call #{position} has come: its attempt runs, or does as soon as the execution and its queue let it"
                    )
                }
                Some(position) => format!("no call #{position} waits for its next attempt or is parked"),
                None => "no call waits for its next attempt or is parked".to_owned(),
            };
            (!there).then(what)
        }
        Ordered::Skip { position } => state.due_of(*position).is_none().then(|| format!("no sleep #{position} is open")),
        Ordered::Complete { position, end } => match state.call(*position) {
            Some(call) if call.input.is_some() && activity.is_some_and(|activity| !activity.is(&call.name)) => {
                let named = activity.map(|activity| activity.name).unwrap_or_default();
                Some(format!("the call #{position} is one of {:?}, and not of {named:?}", call.name))
            }
            Some(call) if call.compensating && call.input.is_some() && !state.may_complete(*position, end) => {
                Some(format!("#{position} undoes an act, and can only be ended well"))
            }
            _ if state.may_complete(*position, end) => None,
            _ => Some(format!("no call #{position} of an activity is open")),
        },
        Ordered::Terminate | Ordered::Pause | Ordered::GoOn => None,
    }
}

/// Tells whether such an order is in an inbox.
fn waits(inbox: &Inbox, what: &Ordered) -> bool {
    inbox.unread.iter().any(|unread| unread.body.order().is_some_and(|order| order.what == *what))
}

/// Returns the orders to pause and to go on that are in a run's inbox and come before a message: they were given before it.
fn given_before<'a>(stored: &'a Stored, message: &str) -> Vec<(&'a str, &'a Order)> {
    let earlier = stored.inbox.unread.iter().take_while(|unread| unread.message != message);
    let orders = earlier.filter_map(|unread| Some((&*unread.message, unread.body.order()?)));
    orders.filter(|(_, order)| matches!(order.what, Ordered::Pause | Ordered::GoOn)).collect()
}

impl Door {
    /// Has an order carried out about the current run of an id as such: to end, to pause, to go on.
    pub(crate) async fn operate(&self, to: String, message: String, order: Order) -> Result<(), Error> {
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
            let run = row.run;
            // An order to pause that is taken between two reads is in neither, if the inbox is read behind the log only.
            let read = move |reader: Rc<dyn Reader>| async move { Ok((reader.inbox(run).await?, reader.run(run).await?)) };
            let (inbox, stored) = self.read(read).await?;
            let Some(stored) = stored.filter(|stored| !stored.summary.status.is_end()) else { continue };
            let ward = loading::ward(&stored);
            let opposite = match order.what {
                Ordered::Pause => Ordered::GoOn,
                _ => Ordered::Pause,
            };
            let opposed = waits(&inbox, &opposite) || waits(&stored.inbox, &opposite);
            if self.is_carried_out(&ward, &stored, opposed, &message, &order).await? {
                return Ok(());
            }
            let patience = since.elapsed();
            if Self::goes_without_owner(&stored.summary, &order, patience, sent == Some((run, false))) {
                match self.without_code(&stored, &ward, &message, &order).await? {
                    Outcome::Refused(why) if refused == MOST_REFUSED => return Err(SendError::Unavailable(why).into()),
                    Outcome::Refused(_) => refused += 1,
                    // What has come of it is seen at the next look.
                    Outcome::Done => continue,
                    _ => {}
                }
            } else if sent.is_none_or(|(to, _)| to != run) {
                match self.send(to.clone(), message.clone(), body.clone()).await {
                    Ok(()) => sent = Some((run, true)),
                    Err(Error::Send(SendError::AlreadyEnded { .. })) => continue,
                    Err(Error::Send(SendError::InboxFull(_))) => sent = Some((run, false)),
                    Err(error) => return Err(error),
                }
            } else if patience > LONGEST {
                let why = format!("it is in the inbox of {to}, whose node has not taken it within {LONGEST:?}");
                return Err(SendError::Unavailable(why).into());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_LOOK);
        }
    }

    /// Sends an order about something within the current run of an id, if that is there. What is over when the run takes it is recorded
    /// as ignored. `activity` is the name of the one whose call is to be ended.
    pub(crate) async fn order_within(
        &self,
        to: String,
        message: String,
        order: Order,
        activity: Option<Named>,
    ) -> Result<(), Error> {
        let body = MessageBody::Order(Box::new(order.clone()));
        let mut first = None;
        loop {
            let row = self.current(&to).await?;
            // A run that follows the one that was looked at has another call at the same place.
            let meant = *first.get_or_insert(row.id.run_no);
            if order.what.position().is_some() && meant != row.id.run_no {
                let row = self.row(&to, Some(meant)).await?.unwrap_or(row);
                return self.ended_by(row, &message).await;
            }
            if row.status.is_end() && row.status != Status::Continued {
                return self.ended_by(row, &message).await;
            }
            let run = row.run;
            let stored = self.read(move |reader| async move { reader.run(run).await }).await?;
            let ward = stored.as_ref().map(loading::ward);
            let unread = stored.as_ref().is_some_and(|stored| stored.inbox.has(&message));
            if let Some(state) = ward.and_then(|ward| ward.state).filter(|state| !unread && !state.knows(&message))
                && let Some(what) = missing(&state, &order.what, activity, self.time.now())
            {
                return Err(SendError::NotThere { id: to, what }.into());
            }
            let run_no = order.what.position().map_or(CURRENT_RUN, |_| row.id.run_no);
            let addressee = RunId { id: to.clone(), run_no };
            match self.post(addressee, message.clone(), body.clone()).await {
                // By this, perhaps; or it has been followed.
                Err(Error::Send(SendError::AlreadyEnded { .. })) => self.breathe().await,
                sent => return sent.map(drop),
            }
        }
    }

    /// Tells whether an order is carried out already, or there is nothing to do; and sees that the run's row says so.
    /// `opposed` says that the opposite order waits to be taken, or did a moment ago: this one has to be heard behind that.
    async fn is_carried_out(
        &self,
        ward: &Ward,
        stored: &Stored,
        opposed: bool,
        message: &str,
        order: &Order,
    ) -> Result<bool, Error> {
        let row = &stored.summary;
        // The row was read before the log: with this very order in it the run has ended meanwhile, and the next look finds that.
        let is_used = |state: &State| state.outcome.is_none() && state.knows(message);
        if order.what == Ordered::Terminate && ward.state.as_ref().is_some_and(is_used) {
            let why = format!("the id {message:?} is that of another message to {}; give this order one of its own", row.id.id);
            return Err(SendError::Invalid(why).into());
        }
        let Some(state) = ward.state.as_ref().filter(|_| order.what != Ordered::Terminate) else {
            // Of a run whose log cannot be read nothing can be paused; and it may well be tried again.
            let why = ward.unreadable.clone().unwrap_or_else(|| "it has no log".to_owned());
            return match order.what {
                Ordered::Pause => Err(SendError::Unavailable(why).into()),
                Ordered::GoOn => self.lift(&row.id.id).await,
                _ => Ok(false),
            };
        };
        match (&order.what, &state.paused) {
            (Ordered::Pause, Some(_)) if !state.knows(message) && opposed => Ok(false),
            (Ordered::Pause, Some(paused)) => {
                if row.owner.is_none() && row.status != Status::Paused {
                    let (run, epoch, reason) = (row.run, row.epoch, paused.pauses(ward.paused_at.unwrap_or_default()));
                    let links = self.links().await?;
                    let halt = Affair::new(move |store| Box::pin(async move { store.halt(run, epoch, &reason).await }));
                    if !matches!(links.persistence.send(halt).await, Ok(Ok(()))) {
                        self.breathe().await;
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            (Ordered::Pause, None) => Ok(state.knows(message)),
            // It has gone on by this order; who has paused it again since means that.
            (Ordered::GoOn, Some(_)) => Ok(state.knows(message)),
            (Ordered::GoOn, None) if !state.knows(message) && opposed => Ok(false),
            (Ordered::GoOn, None) => self.lift(&row.id.id).await,
            _ => Ok(false),
        }
    }

    /// Lets a run be claimed again that is quarantined, blocked or marked as paused; `false` if it has ended meanwhile.
    async fn lift(&self, id: &str) -> Result<bool, Error> {
        loop {
            let links = self.links().await?;
            let resume = persistence::Resume { id: id.to_owned(), now: self.time.now() };
            match links.persistence.send(resume).await {
                Ok(Ok(Outcome::Unknown)) => return Err(SendError::Unknown(id.to_owned()).into()),
                Ok(Ok(Outcome::Ended(_))) => return Ok(false),
                Ok(Ok(_)) => {
                    links.scheduler.do_send(Nudge);
                    return Ok(true);
                }
                Ok(Err(StoreError::Closed)) | Err(_) => self.breathe().await,
                Ok(Err(error)) => return Err(error.into()),
            }
        }
    }

    /// Tells whether an order is to be carried out without the owner of the run, or its code.
    fn goes_without_owner(row: &Summary, order: &Order, patience: Duration, full: bool) -> bool {
        match (&order.what, row.owner) {
            (Ordered::Terminate, owner) => owner.is_none() || full || patience > OWNERS,
            // Nobody takes it up.
            (Ordered::GoOn, None) => row.status == Status::Paused || full || patience > OWNERS,
            (_, None) => row.status != Status::Active || full || patience > OWNERS,
            (_, Some(_)) => false,
        }
    }

    /// Answers for a run that has ended: well, if it has taken this order before.
    async fn ended_by(&self, row: Summary, message: &str) -> Result<(), Error> {
        let run = row.run;
        let stored = self.read(move |reader| async move { reader.run(run).await }).await?;
        let log = stored.map(|stored| stored.log).unwrap_or_default();
        let commits = log.iter().filter_map(|(commit_no, record)| codec::decode(&row.id, *commit_no, record).ok());
        let mut status = row.status.as_str().to_owned();
        for event in commits.flat_map(|commit| commit.events) {
            match event {
                Event::Fact(Fact::Received { message: of, body: MessageBody::Order(_) }) if of == message => return Ok(()),
                Event::Fact(Fact::Ignored { message: of, .. }) if of == message => return Ok(()),
                Event::Command(Command::End { outcome }) => status = in_words(&outcome),
                _ => {}
            }
        }
        Err(SendError::AlreadyEnded { id: row.id.id, status }.into())
    }

    /// Records what comes of an order as the run's log alone tells it.
    async fn without_code(&self, stored: &Stored, ward: &Ward, message: &str, order: &Order) -> Result<Outcome, Error> {
        let (links, now, seen) = (self.links().await?, self.time.now(), stored.inbox.seq);
        let writer = self.writer(&links, stored.summary.epoch);
        let before = given_before(stored, message);
        match order.what {
            Ordered::Terminate => {
                let decision = ward.terminate(message, order, now, writer);
                let end = decision.commit.events.last().cloned();
                let then = Then::End { status: Status::Terminated, seen: None };
                let outcome = self.record(&links, stored, decision, then).await?;
                if let (Outcome::Done, Some(Event::Command(Command::End { outcome }))) = (&outcome, end) {
                    self.over(&links, stored.summary.run, *outcome).await;
                }
                Ok(outcome)
            }
            Ordered::Pause => {
                let mut decision = ward.take(&before, message, order, now, writer);
                decision.effects.push(Effect::Withdraw { position: NOT_BEGUN });
                self.record(&links, stored, decision, Then::Passivate { wake_at: None, seen }).await
            }
            _ => {
                let decision = ward.take(&before, message, order, now, writer);
                self.record(&links, stored, decision, Then::Passivate { wake_at: Some(now), seen }).await
            }
        }
    }

    fn writer(&self, links: &Links, epoch: u64) -> Writer<'_> {
        Writer { incarnation: links.incarnation, epoch, build: self.config.build, is_shared: &|_| false }
    }

    /// Records what was decided about a run without its code, and takes the orders that it is about out of its inbox.
    async fn record(&self, links: &Links, stored: &Stored, decision: Decision, then: Then) -> Result<Outcome, Error> {
        let Decision { commit, effects, settled, tells, memos, letters, .. } = decision;
        let record = codec::encode(&stored.summary.id, &commit).map_err(Error::Wait)?;
        let taken = |unread: &&Unread| {
            let said = |event: &Event| match event {
                Event::Fact(Fact::Received { message, .. } | Fact::Ignored { message, .. }) => *message == unread.message,
                _ => false,
            };
            commit.events.iter().any(said)
        };
        let consumed = stored.inbox.unread.iter().filter(taken).map(|unread| unread.seq).collect();
        // An end may be recorded over the head of whoever has the run, whose next commit does not fit then. Nothing else may.
        let of_nobody = !matches!(then, Then::End { .. });
        let keys: Vec<MemoKey> = memos.iter().map(|entry| entry.key).collect();
        let turn = Turn {
            run: stored.summary.run,
            start: None,
            commit_no: commit.commit_no,
            prev: commit.prev,
            record,
            then,
            consumed,
            settled,
            tasks: Vec::new(),
            withdrawn: Effect::withdrawn(&effects),
            starts: Vec::new(),
            tells,
            published: Vec::new(),
            memos,
            letters,
            unowned: of_nobody.then_some(stored.summary.epoch),
        };
        let (told, outcome) = oneshot::channel();
        links.persistence.do_send(Submit(vec![(Item::Turn(turn.into()), Whom::Caller(told))]));
        // Without an answer the incarnation is over, and it is looked anew what became of it.
        let outcome = outcome.await.unwrap_or(Outcome::Fenced);
        if outcome == Outcome::Done && !keys.is_empty() {
            links.steward.do_send(Serve(keys));
        }
        Ok(outcome)
    }

    /// Tells all whom it concerns that a run is over: whoever waits, whoever has it in memory, and the other nodes.
    async fn over(&self, links: &Links, run: RunKey, outcome: RunEnd) {
        self.waiters.settle(run, || outcome);
        self.bells.ring(run, Rung::News);
        // If it is not heard, its next commit is refused.
        let _ = links.executor.send(Overruled(vec![run])).await;
    }
}
