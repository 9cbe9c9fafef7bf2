//! Gates: dispatches that come to one are decided about by whatever node they come to, and what is due at one by whatever node is up.
//!
//! Dispatches of one gate that come to a node at the same time are decided about together, in their order, and written as one row; so a key
//! that everybody dispatches by costs a commit for all who wait, and mostly only other nodes are in the way.

use std::{collections::HashSet, rc::Rc, time::Duration};

use actix::{AsyncContext, Context, Handler, Message, ResponseFuture, WrapFuture, fut::ActorFutureExt};
use tokio::sync::oneshot;

use super::{Books, Timekeeper};
use crate::{
    actors::{asked, persistence::Read},
    error::{DispatchError, Error},
    gate::{Begun, Decided, Known, Passed, Request, Row, Rule, Wanted, decide, id_of, part},
    kernel::{
        codec::Record,
        event::{RunRetry, Started},
        id::RunKey,
        limits::Limits,
        run::Writer,
        time::Timestamp,
    },
    store::{NewRun, Outcome, Reader, ScheduleChange, ScheduleRow, StoreError, Summary},
};

/// So many dispatches are decided about together…
const MOST: usize = 128;

/// …with so many bytes of arguments, or one.
const MOST_BYTES: usize = 4 << 20;

/// So often other nodes may have been quicker.
const TRIES: u32 = 64;

/// Takes a dispatch to a gate.
///
/// *from* the door · *reply* what became of it · *delivery* ask · *if lost* it is asked again under the same id of its request
#[derive(Message)]
#[rtype(result = "Result<Passed, Error>")]
pub(crate) struct Admit {
    pub(crate) gate: String,
    pub(crate) rule: Rule,
    pub(crate) wanted: Wanted,
    pub(crate) request: String,
}

/// A dispatch, and who waits for its answer. Without one, it was lost with this life of the core, and is asked again.
pub(super) struct Asking {
    admit: Admit,
    told: oneshot::Sender<Result<Passed, Error>>,
}

impl Asking {
    fn bytes(&self) -> usize {
        self.admit.wanted.input.bytes.len()
    }
}

impl Timekeeper {
    /// Lets dispatches pass a gate, and behind them those that have come meanwhile.
    fn admit(&mut self, gate: String, asking: Vec<Asking>, ctx: &mut Context<Self>) {
        let books = self.books.clone();
        let admitted = async move {
            let changed = books.admit(&gate, asking).await;
            (gate, changed)
        };
        ctx.spawn(admitted.into_actor(self).map(|(gate, changed), this, ctx| {
            if changed {
                this.look(ctx);
            }
            let next = this.lines.get_mut(&gate).map(take_some).unwrap_or_default();
            if next.is_empty() {
                this.lines.remove(&gate);
            } else {
                this.admit(gate, next, ctx);
            }
        }));
    }
}

/// Takes the first ones of a line, as many as are decided about together.
fn take_some(line: &mut Vec<Asking>) -> Vec<Asking> {
    let mut bytes = 0;
    let fits = |asking: &&Asking| {
        bytes += asking.bytes();
        bytes <= MOST_BYTES
    };
    let count = line.iter().take(MOST).take_while(fits).count().max(1);
    line.drain(..count.min(line.len())).collect()
}

/// What was read of a gate.
struct Found {
    revision: u64,
    row: Option<ScheduleRow>,
    /// Those of the executions that were asked for by id that exist.
    begun: Vec<Summary>,
}

impl Books {
    /// Answers everyone who asks; tells whether something may be due earlier than was known.
    async fn admit(&self, gate: &str, asking: Vec<Asking>) -> bool {
        let keys = match self.keys(asking.len()).await {
            Ok(keys) => keys,
            Err(error) => return refuse(asking, &error),
        };
        let (requests, told): (Vec<Request>, Vec<_>) = std::iter::zip(asking, keys)
            .map(|(Asking { admit: Admit { rule, wanted, request, .. }, told }, run)| {
                (Request { rule, wanted, request, run }, told)
            })
            .unzip();
        // A dedupe is never due.
        let may_wait = requests.iter().any(|request| !matches!(request.rule, Rule::Dedupe { .. }));
        match self.pass(gate, &requests).await {
            Ok((answers, changed)) => {
                // Whoever does not wait any more has what was decided all the same.
                std::iter::zip(told, answers).for_each(|(told, answer)| _ = told.send(answer.map_err(Error::from)));
                changed && may_wait
            }
            Err(error) => {
                told.into_iter().for_each(|told| tell(told, &error));
                false
            }
        }
    }

    /// Reads, decides, writes; again while other nodes are quicker. Without requests, what is due at the gate begins. Returns the answers,
    /// and whether anything was written.
    pub(super) async fn pass(
        &self,
        gate: &str,
        requests: &[Request],
    ) -> Result<(Vec<Result<Passed, DispatchError>>, bool), Error> {
        let mut in_use = HashSet::new();
        for tried in 0..TRIES {
            let found = match self.find_gate(gate, requests).await {
                Err(Error::Store(StoreError::Busy { .. })) => {
                    tokio::time::sleep(Duration::from_millis(tried.into())).await;
                    continue;
                }
                found => found?,
            };
            // Not where it was read: that thread has the commits of the whole node to see to.
            let row = found.row.map(|stored| Row::decode(&stored.body)).transpose().map_err(DispatchError::Unavailable)?;
            let now = self.door.time.now();
            let begin = |run: Summary| (run.id.id, Begun { run: run.run, input: run.input_digest, status: run.status.as_str() });
            let begun = found.begun.into_iter().map(begin).collect();
            let Decided { row, starts, answers } =
                decide(row, requests, &Known { name: gate, now, begun: &begun, in_use: &in_use });
            let Some(row) = row else { return Ok((answers, false)) };
            let ids = starts.iter().map(|start| start.id.clone()).collect();
            let starts = starts.into_iter().map(|start| self.beginning(start.run, start.id, start.wanted, row.at));
            let change = ScheduleChange {
                name: gate.to_owned(),
                seen: found.revision,
                next_at: row.next_at(),
                awaits: None,
                body: row.encode().map_err(DispatchError::Invalid)?,
                starts: starts.collect::<Result<_, _>>().map_err(DispatchError::Invalid)?,
                tells: Vec::new(),
            };
            match self.write(change).await {
                Ok(Outcome::Done) => {
                    failpoint!("gate.written");
                    return Ok((answers, true));
                }
                Ok(Outcome::IdInUse(_)) => in_use.extend(self.taken(ids).await?),
                Ok(Outcome::Waits) if requests.is_empty() => return Ok((answers, false)),
                // Another node was quicker, or is about to be.
                Ok(Outcome::Conflict | Outcome::Waits) => tokio::time::sleep(Duration::from_millis(tried.into())).await,
                Ok(Outcome::Refused(why)) => return Err(DispatchError::Unavailable(why).into()),
                Ok(_) | Err(_) => return Err(StoreError::Closed.into()),
            }
        }
        Err(DispatchError::Contended { tries: TRIES }.into())
    }

    /// Reads a gate and, behind it, the executions that requests would have at a throttle.
    async fn find_gate(&self, gate: &str, requests: &[Request]) -> Result<Found, Error> {
        let throttled = requests.iter().filter(|request| matches!(request.rule, Rule::Throttle { .. }));
        let ids: Vec<String> = throttled.map(|request| id_of(gate, part(&request.request))).collect();
        let gate = gate.to_owned();
        let read = Read::new(move |reader: Rc<dyn Reader>| async move {
            let stored = reader.schedule(&gate).await?;
            let revision = stored.as_ref().map_or(0, |stored| stored.revision);
            let mut begun = Vec::new();
            for id in ids {
                // Its first run: what it has continued as goes by the same answer.
                begun.extend(reader.find(&id, Some(1)).await?);
            }
            Ok(Found { revision, row: stored, begun })
        });
        Ok(self.persistence.send(read).await??)
    }

    /// Returns the row of an execution that begins now, and its first commit.
    fn beginning(&self, run: RunKey, id: String, wanted: Wanted, now: Timestamp) -> Result<(NewRun, Record), String> {
        let Wanted { workflow, version, input, deadline, retry, priority, queue, tags, needs } = wanted;
        let (config, digest) = (&self.door.config, input.digest());
        let limits = config.limits;
        let started = Started {
            workflow,
            version,
            input,
            seed: asked::fresh_seed(digest),
            deadline: deadline.map(|within| now.after(within)),
            deferred: true,
            limits: (limits != Limits::default()).then(|| Box::new(limits)),
            parent: None,
            retry: retry.map(|policy| Box::new(RunRetry::new(policy, now))),
            copied_from: None,
        };
        let row = NewRun { run, priority, queue, tags, needs, ..asked::first_row(id, &started, digest, now) };
        let writer = Writer { incarnation: self.incarnation, epoch: 0, build: config.build, is_shared: &|_| false };
        let record = asked::without_a_turn(&row.id, started, writer, now)?;
        Ok((row, record))
    }
}

fn refuse(asking: Vec<Asking>, error: &Error) -> bool {
    asking.into_iter().for_each(|asking| tell(asking.told, error));
    false
}

/// Tells somebody of several what all of them hear. If this life of the core is over, nobody hears anything, and each asks the next.
fn tell(told: oneshot::Sender<Result<Passed, Error>>, error: &Error) {
    let error = match error {
        Error::Store(StoreError::Closed) | Error::Stopped => return,
        Error::Dispatch(error) => error.clone(),
        other => DispatchError::Unavailable(other.to_string()),
    };
    _ = told.send(Err(error.into()));
}

impl Handler<Admit> for Timekeeper {
    type Result = ResponseFuture<Result<Passed, Error>>;

    fn handle(&mut self, admit: Admit, ctx: &mut Context<Self>) -> Self::Result {
        let (told, answer) = oneshot::channel();
        let gate = admit.gate.clone();
        let asking = Asking { admit, told };
        match self.lines.get_mut(&gate) {
            Some(line) => line.push(asking),
            None => {
                self.lines.insert(gate.clone(), Vec::new());
                self.admit(gate, vec![asking], ctx);
            }
        }
        Box::pin(async move { answer.await.unwrap_or_else(|_| Err(StoreError::Closed.into())) })
    }
}
