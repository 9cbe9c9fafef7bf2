//! Steward: answers those who ask for results that runs share. Every node has one, and each looks for itself: a question is answered in an
//! item that replaces the row of its key if nobody else has, so of those who answer the same one is accepted, and the others find it
//! answered.
//!
//! It holds no truth and needs no hints. It is nudged behind each commit of this node that asks for a key or lets go of one, and looks once
//! in five seconds at what others may have left: a node that died between a commit and its nudge, a run that holds a key and that nobody
//! takes up, values that do not count any more. Whoever waits costs nothing meanwhile.

use std::{
    collections::{HashMap, VecDeque},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, WrapFuture, fut::ActorFutureExt};
use tokio::sync::oneshot;

use self::decide::{MOST_ASKS, decide};
use super::{
    asked,
    door::Door,
    persistence::{Persistence, Read, Submit, Whom},
};
use crate::{
    error::Error,
    kernel::{
        id::{Digest, RunKey},
        memo::MemoKey,
    },
    store::{Item, MemoChange, MemoFound, MemoThen, Outcome, Reader, StoreError, Summary},
};

mod decide;

/// How often it looks at what nobody has told it about.
const TICK: Duration = Duration::from_secs(5);

/// The same where there was more than one look tells.
const SOON: Duration = Duration::from_millis(100);

/// So many keys are found in one look, or forgotten at once.
const MOST: u32 = 100;

/// So many keys are served at once: then their commits are one.
const AT_ONCE: usize = 64;

/// How often an answer is tried again that somebody else's transaction stands in the way of; then it is left for the next look.
const TRIES: u32 = 8;

/// Something has changed about these keys.
///
/// *from* outbox · *reply* none · *delivery* nudge · *if lost* the next look
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Serve(pub(crate) Vec<MemoKey>);

/// Forgets everything between two keys, both included.
///
/// *from* the door · *reply* how many there were · *delivery* ask · *if lost* it is asked again: what is forgotten is not there any more
#[derive(Message)]
#[rtype(result = "Result<u64, Error>")]
pub(crate) struct Forget(pub(crate) MemoKey, pub(crate) MemoKey);

/// Who looks after shared results.
pub(crate) struct Steward {
    books: Books,
    /// The keys that are being served, and whether something has changed since about them…
    serving: HashMap<MemoKey, bool>,
    /// …those that wait for that, and how many do not.
    line: VecDeque<MemoKey>,
    busy: usize,
}

/// The way to the rows.
#[derive(Clone)]
struct Books {
    door: Arc<Door>,
    persistence: Addr<Persistence>,
}

impl Steward {
    pub(crate) fn new(door: Arc<Door>, persistence: Addr<Persistence>) -> Steward {
        let books = Books { door, persistence };
        Steward { books, serving: HashMap::new(), line: VecDeque::new(), busy: 0 }
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        let books = self.books.clone();
        let looked = async move { books.work().await };
        ctx.spawn(looked.into_actor(self).map(|found, this, ctx| {
            let mut rest = TICK;
            match found {
                Ok(keys) => {
                    if keys.len() >= MOST as usize {
                        rest = SOON;
                    }
                    keys.into_iter().for_each(|key| this.serve(key));
                }
                Err(error) => tracing::debug!(%error, "shared results could not be looked at; it is tried again"),
            }
            this.go_on(ctx);
            ctx.run_later(rest, Self::look);
        }));
    }

    fn serve(&mut self, key: MemoKey) {
        match self.serving.get_mut(&key) {
            Some(changed) => *changed = true,
            None => {
                self.serving.insert(key, false);
                self.line.push_back(key);
            }
        }
    }

    fn go_on(&mut self, ctx: &mut Context<Self>) {
        while self.busy < AT_ONCE {
            let Some(key) = self.line.pop_front() else { break };
            self.serving.insert(key, false);
            self.busy += 1;
            let books = self.books.clone();
            let served = async move { books.serve(key).await };
            ctx.spawn(served.into_actor(self).map(move |served, this, ctx| {
                this.busy -= 1;
                let changed = this.serving.remove(&key).unwrap_or(false);
                match served {
                    Ok(()) if changed => this.serve(key),
                    Ok(()) => {}
                    Err(error) => tracing::debug!(%key, %error, "a shared result could not be seen to; it is tried again"),
                }
                this.go_on(ctx);
            }));
        }
    }
}

impl Books {
    async fn read<T, F>(&self, read: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: AsyncFnOnce(Rc<dyn Reader>) -> Result<T, StoreError> + Send + 'static,
    {
        Ok(self.persistence.send(Read::new(move |reader: Rc<dyn Reader>| read(reader))).await??)
    }

    async fn work(&self) -> Result<Vec<MemoKey>, Error> {
        let now = self.door.time.now();
        let stuck = now.before(self.door.config.lease);
        self.read(async move |reader| reader.memo_work(now, stuck, MOST).await).await
    }

    /// Does what there is to do about a key.
    async fn serve(&self, key: MemoKey) -> Result<(), Error> {
        let mut waits = 0;
        loop {
            let (found, runs) = self.find(key).await?;
            let now = self.door.time.now();
            let change = decide(key, &found, &runs, now, now.before(self.door.config.lease), fresh_stamp());
            let Some(change) = change else { return Ok(()) };
            failpoint!("steward.answers");
            // Behind one that is done there may be more to do, and behind one that somebody else was quicker with, less.
            if self.submit(change).await? == Outcome::Waits {
                self.wait(&mut waits).await?;
            }
        }
    }

    async fn find(&self, key: MemoKey) -> Result<(MemoFound, HashMap<RunKey, Summary>), Error> {
        self.read(async move |reader| {
            let found = reader.memo(key, MOST_ASKS).await?;
            let holder = found.row.as_ref().and_then(|row| row.holder);
            let runs: Vec<RunKey> = found.asks.iter().chain(&holder).map(|ask| ask.run).collect();
            // Nobody waits for one that is held, or for a value: there is nothing to decide about.
            let runs = if found.asks.is_empty() { Vec::new() } else { reader.summaries(&runs).await? };
            Ok((found, runs.into_iter().map(|run| (run.run, run)).collect()))
        })
        .await
    }

    async fn submit(&self, change: MemoChange) -> Result<Outcome, Error> {
        let (told, outcome) = oneshot::channel();
        self.persistence.do_send(Submit(vec![(Item::Memo(Box::new(change)), Whom::Caller(told))]));
        match outcome.await {
            Ok(outcome @ (Outcome::Done | Outcome::Conflict | Outcome::Waits)) => Ok(outcome),
            Ok(Outcome::Refused(why)) => Err(StoreError::Other(why).into()),
            Ok(_) | Err(_) => Err(StoreError::Closed.into()),
        }
    }

    async fn wait(&self, waits: &mut u32) -> Result<(), Error> {
        *waits += 1;
        if *waits > TRIES {
            return Err(StoreError::Other("a transaction of somebody else's stands in the way".to_owned()).into());
        }
        tokio::time::sleep(Duration::from_millis(5 << *waits)).await;
        Ok(())
    }

    /// Takes out the rows between two keys: values, and who holds a key, whose result is then its own.
    async fn forget(&self, mut first: MemoKey, last: MemoKey) -> Result<(u64, Vec<MemoKey>), Error> {
        let (mut forgotten, mut waits) = (Vec::new(), 0);
        loop {
            let page = self.read(async move |reader| reader.memo_keys(first, last, MOST).await).await?;
            let full = page.len() >= MOST as usize;
            let mut again = false;
            let changes = page.iter().map(|(key, stamp)| async move {
                let (seen, then) = (Some(*stamp), MemoThen::Gone);
                let change = MemoChange { key: *key, seen, then, taken: Vec::new(), unowned: None, tells: Vec::new() };
                Ok::<_, Error>((*key, self.submit(change).await?))
            });
            for outcome in futures_util::future::join_all(changes).await {
                match outcome? {
                    (key, Outcome::Done) => forgotten.push(key),
                    (_, Outcome::Waits) => {
                        again = true;
                        self.wait(&mut waits).await?;
                    }
                    _ => again = true,
                }
            }
            // What was written again since is read again, and may be newer than the wish; it goes as well.
            if again {
                continue;
            }
            match page.last().filter(|_| full) {
                Some((key, _)) => first = *key,
                None => return Ok((forgotten.len() as u64, forgotten)),
            }
        }
    }
}

/// Returns a number that no other row has.
fn fresh_stamp() -> i64 {
    asked::fresh_seed(Digest([0; 32])).cast_signed()
}

impl Actor for Steward {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.look(ctx);
    }
}

impl Handler<Serve> for Steward {
    type Result = ();

    fn handle(&mut self, Serve(keys): Serve, ctx: &mut Context<Self>) {
        keys.into_iter().for_each(|key| self.serve(key));
        self.go_on(ctx);
    }
}

impl Handler<Forget> for Steward {
    type Result = actix::ResponseActFuture<Self, Result<u64, Error>>;

    fn handle(&mut self, Forget(first, last): Forget, _: &mut Context<Self>) -> Self::Result {
        let books = self.books.clone();
        let forgotten = async move { books.forget(first, last).await };
        Box::pin(forgotten.into_actor(self).map(|forgotten, this, ctx| {
            let (count, keys) = forgotten?;
            // Whoever waited for one that was held has its turn now.
            keys.into_iter().for_each(|key| this.serve(key));
            this.go_on(ctx);
            Ok(count)
        }))
    }
}
