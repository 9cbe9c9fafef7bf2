//! Executor: hosts executions on its arbiter. It deals out what arrives for them, brings claimed runs to memory, and takes
//! back those that left or fell. It holds no truth: what it forgets, the reconciler finds in the store.
//!
//! A run that is held is *loading* (its log is on the way), *live* (an [`Execution`]), *cold* (owned, and out of memory), or waits to
//! be *reopened* after it fell, with back-off; after too many falls without progress it is quarantined.

use std::{
    collections::{HashSet, VecDeque},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix::{Actor, Addr, AsyncContext, Context, WrapFuture, fut::ActorFutureExt};
use tokio::sync::oneshot;

use super::{
    asked, backlog,
    bells::Rung,
    door::Door,
    engine::Engine,
    execution::{Begun, Depart, Execution, Home, Mail, Unbegun},
    loading::{self, Unopened},
    persistence::{Read, ReserveKeys, Whom},
    scheduler::{Nudge, Room},
};
use crate::{
    kernel::{
        event::Started,
        id::{Epoch, Position, RunKey},
        run::Run,
        time::Timestamp,
    },
    store::{Item, NewRun, Outcome, Reader, StoreError, Stored, Unread, Yield, YieldReason},
};

mod cold;
mod elsewhere;
mod leaving;
mod listening;
mod memory;
mod messages;
mod overruled;
mod room;

pub(crate) use cold::Freeze;
use elsewhere::Elsewhere;
pub(crate) use leaving::{Drain, Shed, Stop};
use memory::Memory;
pub(crate) use messages::{
    AskKeys, AttemptsEnded, ExecutionsLeft, FlushPanicked, Hinted, Left, LeftHow, LinkOthers, ReadInbox, Reconcile, Start,
    TimersDue,
};
pub(crate) use overruled::Overruled;
pub(crate) use room::MakeRoom;

/// How often it is looked whether some of the runs that somebody here waits for have ended on another node: hints tell it
/// sooner.
const ELSEWHERE: Duration = Duration::from_secs(1);

/// Run keys are reserved in blocks of this size, or more if more are asked for at once…
const KEYS: u32 = 16_384;
/// …and the next block is asked for when so few are left.
const KEYS_LOW: i64 = 4_096;

/// How long after a refusal keys are asked for again.
const KEYS_RETRY: Duration = Duration::from_millis(100);

/// How often a run is looked at whose act outlives the life that began it.
const LINGERS: Duration = Duration::from_millis(50);

/// So many runs are read in one go…
const READ_TOGETHER: usize = 64;
/// …and so many times at once, and as many again of single ones; the others wait their turn.
const MOST_READING: usize = 2;

/// So many falls without progress, and the run is quarantined.
const MOST_FALLS: u32 = 5;

/// The place, among the heartbeat rows of a run, of the mark that it is being opened as a suspect. Calls begin at 1.
pub(crate) const MARK: Position = 0;

/// The host of executions.
pub(crate) struct Executor {
    engine: Rc<Engine>,
    held: Memory,
    generation: u64,
    asking_keys: bool,
    /// So many at once were asked for by an execution.
    wants_keys: usize,
    /// Dispatches that wait for run keys.
    unkeyed: VecDeque<Start>,
    /// Claimed runs whose logs wait to be read.
    unread: VecDeque<(RunKey, Ticket)>,
    reading: usize,
    /// Those that are to be read alone: a long log, or one that could not be read along with others.
    alone: VecDeque<(RunKey, Ticket)>,
    reading_alone: usize,
    /// Runs that the last look found owned and not held; twice in a row is a loss.
    suspects: HashSet<RunKey>,
    /// Runs that the last look found held and not owned.
    unowned: HashSet<RunKey>,
    /// Runs that are being given back.
    yielding: HashSet<RunKey>,
    /// Runs that were claimed too often without progress, to be opened one at a time.
    examined: VecDeque<(RunKey, Ticket, Stored)>,
    examining: bool,
    draining: bool,
    door: Arc<Door>,
    /// Whose ends are looked for next, of those that are waited for and not here…
    elsewhere: Elsewhere,
    /// …and some are being read.
    settling: bool,
    /// The same for logs of runs that are listened to.
    listening: Elsewhere,
    looking: bool,
}

enum Held {
    /// *departs* if it is to leave this node as soon as it is here.
    Loading {
        generation: u64,
        mail: Vec<Unread>,
        departs: bool,
    },
    /// *stirred* if something was sent to it since it last asked to leave.
    Live {
        ticket: Ticket,
        address: Addr<Execution>,
        stirred: bool,
    },
    /// It has seen so many messages.
    Cold {
        ticket: Ticket,
        seen: u64,
    },
    Falling {
        generation: u64,
    },
}

/// What is known of a run before its log is read.
#[derive(Clone, Copy)]
struct Ticket {
    generation: u64,
    epoch: Epoch,
    forced: bool,
    same_incarnation: bool,
    falls: u32,
    /// Claims since it last made progress; cleared in the store once it has.
    claims: u32,
    /// When it was due, or is, if it was claimed: what is given back unopened is due then.
    due: Option<Timestamp>,
    /// The boot time since when it is here.
    since: Duration,
}

impl Executor {
    pub(crate) fn new(engine: Rc<Engine>, door: Arc<Door>) -> Executor {
        Executor {
            held: Memory::new(engine.slots.clone()),
            engine,
            generation: 0,
            asking_keys: false,
            wants_keys: 0,
            unkeyed: VecDeque::new(),
            unread: VecDeque::new(),
            reading: 0,
            alone: VecDeque::new(),
            reading_alone: 0,
            suspects: HashSet::new(),
            unowned: HashSet::new(),
            yielding: HashSet::new(),
            examined: VecDeque::new(),
            examining: false,
            draining: false,
            door,
            elsewhere: Elsewhere::default(),
            settling: false,
            listening: Elsewhere::default(),
            looking: false,
        }
    }

    fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    fn live(&self, run: RunKey, generation: Option<u64>) -> Option<&Addr<Execution>> {
        match self.held.get(&run) {
            Some(Held::Live { ticket, address, .. }) if generation.is_none_or(|wanted| wanted == ticket.generation) => {
                Some(address)
            }
            _ => None,
        }
    }

    // ---- new runs ----------------------------------------------------------------------------------------------

    fn start(&mut self, start: Start, ctx: &mut Context<Self>) {
        if self.engine.keys_left() < KEYS_LOW {
            self.ask_keys(ctx);
        }
        let Some(key) = self.engine.take_keys(1) else {
            self.unkeyed.push_back(start);
            return;
        };
        let Start { mut row, started, reply } = start;
        row.run = RunKey(key);
        let queues = &self.door.queues;
        let elsewhere = !queues.serves(&row.queue) || !queues.has(&row.needs);
        if elsewhere || row.wake_at.is_some() {
            return self.enqueue(row, started, None, reply);
        }
        let Some(begin) = self.engine.workflows.get(&row.workflow, row.version) else {
            return self.enqueue(row, started, None, reply);
        };
        if !self.held.has_room() {
            self.held.begun_none();
            self.make_room();
            // It will be claimed when there is room, if not too many wait for that.
            match self.door.backlog.enter(row.run) {
                Some(entered) => self.enqueue(row, started, Some(entered), reply),
                None => _ = reply.send(Begun { run: row.run, outcome: Err(Unbegun::Busy), end: None }),
            }
            return;
        }
        failpoint!("executor.before_first_turn");
        let config = &self.engine.config;
        let at = self.engine.time.now();
        let epoch = 1;
        let begun = Run::begin(row.id.clone(), started, begin, config.verify, at, self.engine.writer(epoch));
        let begun = begun.and_then(|(run, decision)| match self.engine.lacks(&run, &decision) {
            Some(blocked) => Err(blocked),
            None => Ok((run, decision)),
        });
        match begun {
            Ok((run, decision)) => {
                let generation = self.next_generation();
                let home = self.home(row.run, generation, epoch, 0, Vec::new());
                let address = Execution::begin(home, row, run, decision, reply);
                let since = self.engine.config.clock.boot();
                let (forced, same_incarnation) = (false, true);
                let ticket = Ticket { generation, epoch, forced, same_incarnation, falls: 0, claims: 0, due: None, since };
                self.held.insert(RunKey(key), Held::Live { ticket, address, stirred: false });
            }
            Err(blocked) => {
                // Nothing was recorded: the caller hears why, and no run exists.
                self.held.begun_none();
                let _ = reply.send(Begun { run: row.run, outcome: Err(Unbegun::Blocked(blocked)), end: None });
            }
        }
    }

    /// Writes a run without running it here: it is delayed, there is no slot, or its code is elsewhere.
    fn enqueue(&mut self, mut row: NewRun, started: Started, entered: Option<backlog::Entered>, reply: oneshot::Sender<Begun>) {
        let now = self.engine.time.now();
        row.wake_at.get_or_insert(now);
        let (run, wake_at) = (row.run, row.wake_at);
        let Ok(record) = asked::without_a_turn(&row.id, started, self.engine.writer(0), now) else { return };
        // Before it is recorded: it may be claimed, run and over before the answer is dealt out.
        let end = self.engine.waiters.wait(run);
        let (told, outcome) = oneshot::channel();
        self.engine.record(Item::Enqueue(Box::new(row), record), Whom::Caller(told));
        let engine = self.engine.clone();
        actix_rt::spawn(async move {
            if let Ok(outcome) = outcome.await {
                let end = Some(end).filter(|_| outcome == Outcome::Done);
                if end.is_none() {
                    engine.waiters.forget(run);
                }
                if outcome == Outcome::Done {
                    entered.into_iter().for_each(backlog::Entered::recorded);
                    engine.scheduler.do_send(Room { due: wake_at, wake: None });
                }
                let _ = reply.send(Begun { run, outcome: Ok(outcome), end });
            }
        });
    }

    fn ask_keys(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.asking_keys, true) {
            return;
        }
        // Enough for whoever lacks most, behind those who come first.
        let wanted = std::mem::take(&mut self.wants_keys) + self.unkeyed.len();
        let count = KEYS.max(u32::try_from(wanted).unwrap_or(u32::MAX));
        let asked = self.engine.persistence.send(ReserveKeys(count)).into_actor(self);
        ctx.spawn(asked.map(move |first, this, ctx| {
            this.asking_keys = false;
            match first {
                Ok(Ok(RunKey(first))) => {
                    this.engine.renew_keys(first..first + i64::from(count));
                    for start in std::mem::take(&mut this.unkeyed) {
                        this.start(start, ctx);
                    }
                }
                // The disk is full or the file locked. Those who wait have nobody else to ask for them.
                Ok(Err(error)) => {
                    tracing::warn!(%error, "no run keys could be reserved; it is tried again");
                    ctx.run_later(KEYS_RETRY, Self::ask_keys);
                }
                // Persistence is gone, and with it this incarnation.
                Err(_) => {}
            }
        }));
    }

    fn home(&self, key: RunKey, generation: u64, epoch: Epoch, seen: u64, details: Vec<(u32, u32, bytes::Bytes)>) -> Home {
        Home { engine: self.engine.clone(), key, generation, epoch, seen, details }
    }

    // ---- runs from the store -----------------------------------------------------------------------------------

    fn load(&mut self, run: RunKey, ticket: Ticket, ctx: &mut Context<Self>) {
        if self.engine.lingering.holds(run) {
            let generation = ticket.generation;
            self.held.insert(run, Held::Falling { generation });
            ctx.run_later(LINGERS, move |this, ctx| this.load_fallen(run, ticket, ctx));
            return;
        }
        // It keeps its slot all along: a claim at the same time would take one that seemed to be free.
        let (mail, departs) = match self.held.get_mut(&run) {
            Some(Held::Loading { mail, departs, .. }) => (std::mem::take(mail), *departs),
            _ => (Vec::new(), false),
        };
        self.held.insert(run, Held::Loading { generation: ticket.generation, mail, departs });
        // What could not be read before, or fell, does not do so to others.
        let line = if ticket.falls > 0 { &mut self.alone } else { &mut self.unread };
        line.push_back((run, ticket));
        self.read_next(ctx);
    }

    fn read_next(&mut self, ctx: &mut Context<Self>) {
        while self.reading < MOST_READING && !self.unread.is_empty() {
            let together = self.unread.len().min(READ_TOGETHER);
            let wanted = self.unread.drain(..together).collect();
            self.reading += 1;
            self.read(wanted, false, ctx);
        }
        while self.reading_alone < MOST_READING
            && let Some(wanted) = self.alone.pop_front()
        {
            self.reading_alone += 1;
            self.read(vec![wanted], true, ctx);
        }
    }

    fn read(&mut self, wanted: Vec<(RunKey, Ticket)>, alone: bool, ctx: &mut Context<Self>) {
        let runs: Vec<RunKey> = wanted.iter().map(|(run, _)| *run).collect();
        let read = Read::new(move |reader: Rc<dyn Reader>| async move { loading::read(&*reader, &runs, alone).await });
        let asked = self.engine.persistence.send(read).into_actor(self);
        ctx.spawn(asked.map(move |read, this, ctx| {
            *(if alone { &mut this.reading_alone } else { &mut this.reading }) -= 1;
            match read {
                Ok(Ok(stored)) => this.on_read(wanted, stored, alone, ctx),
                // One that is damaged keeps nobody else waiting…
                Ok(Err(StoreError::Corrupt { .. })) if !alone => this.alone.extend(wanted),
                // …nor its place here for ever.
                Ok(Err(error @ StoreError::Corrupt { .. })) => this.is_damaged(wanted, &error, ctx),
                Ok(Err(error)) => this.could_not_read(wanted, &error, ctx),
                // The read panicked, or Persistence is gone and with it this incarnation.
                Err(error) => this.could_not_read(wanted, &error, ctx),
            }
            this.read_next(ctx);
        }));
    }

    fn on_read(&mut self, wanted: Vec<(RunKey, Ticket)>, stored: Vec<Stored>, alone: bool, ctx: &mut Context<Self>) {
        let mut stored = stored.into_iter().peekable();
        for (run, ticket) in wanted {
            match stored.next_if(|stored| stored.summary.run == run) {
                Some(loaded) if ticket.claims > MOST_FALLS => {
                    self.examined.push_back((run, ticket, loaded));
                    self.examine(ctx);
                }
                Some(loaded) => self.open(run, ticket, loaded, ctx),
                // Its log is too long to be read along with others.
                None if !alone => self.alone.push_back((run, ticket)),
                None => {
                    tracing::error!(run = run.0, "a claimed run has no row; this is a bug");
                    self.held.remove(&run);
                }
            }
        }
    }

    fn could_not_read(&mut self, wanted: Vec<(RunKey, Ticket)>, error: &dyn std::fmt::Display, ctx: &mut Context<Self>) {
        let runs: Vec<i64> = wanted.iter().map(|(run, _)| run.0).collect();
        tracing::warn!(?runs, %error, "runs could not be read; it is tried again");
        for (run, ticket) in wanted {
            // With a back-off, but without a count: it is not the run's fault.
            self.fall(run, Ticket { falls: ticket.falls.max(1), ..ticket }, ctx);
        }
    }

    /// A run cannot be read, though it is read alone. It is tried some times more, since the damage may be that of the read; then this build
    /// lets it go.
    fn is_damaged(&mut self, wanted: Vec<(RunKey, Ticket)>, error: &StoreError, ctx: &mut Context<Self>) {
        for (run, ticket) in wanted {
            if ticket.falls < MOST_FALLS {
                tracing::warn!(run = run.0, %error, "a run cannot be read; it is tried again");
                self.fall(run, Ticket { falls: ticket.falls + 1, ..ticket }, ctx);
            } else {
                tracing::error!(run = run.0, %error, "a run cannot be read; nothing was changed");
                let why = YieldReason::Blocked { build: self.engine.config.build, reason: error.to_string() };
                self.give_back(Yield { run, epoch: ticket.epoch, why }, ctx);
            }
        }
    }

    fn open(&mut self, run: RunKey, ticket: Ticket, loaded: Stored, ctx: &mut Context<Self>) {
        let (mail, departs) = match self.held.get_mut(&run) {
            Some(Held::Loading { generation, mail, departs }) if *generation == ticket.generation => {
                (std::mem::take(mail), *departs)
            }
            _ => return,
        };
        // But for a suspect that is marked by now: its mark goes with its first turn, behind which it leaves.
        if self.leaves_unopened(run) && ticket.claims <= MOST_FALLS {
            return self.give_back(self.unopened(run, ticket), ctx);
        }
        let config = &self.engine.config;
        let opened =
            loading::open(&loaded, &self.engine.workflows, &self.engine.activities, &*self.engine.is_shared, config.verify);
        match opened {
            Ok(replayed) => {
                let home = self.home(run, ticket.generation, ticket.epoch, loaded.inbox.seq, loaded.heartbeats);
                let address = Execution::resume(home, replayed, ticket.forced, ticket.same_incarnation, loaded.inbox.unread);
                if !mail.is_empty() {
                    address.do_send(Mail(mail));
                }
                if departs {
                    address.do_send(Depart);
                }
                let mut ticket = ticket;
                if std::mem::take(&mut ticket.claims) > 1 {
                    // Its replay and its first turn have not killed this node, so they were not what killed those before. It
                    // travels with the commit of that turn: told later, a node killed often enough in between would
                    // make a sound run look like a poisonous one.
                    self.engine.record(Item::Progressed(vec![run]), Whom::Nobody);
                }
                self.held.insert(run, Held::Live { ticket, address, stirred: false });
                // Logs of runs that are here are not looked at, and the hint of what it did elsewhere may be lost.
                self.door.bells.ring(run, Rung::News);
            }
            Err(unopened) => {
                tracing::error!(run = %loaded.summary.id, report = %unopened, "the run cannot be opened; nothing was changed");
                let reason = unopened.to_string();
                let build = config.build;
                let why =
                    if matches!(&unopened, Unopened::Blocked(blocked) if !blocked.is_of_this_build()) || unopened.is_damage() {
                        YieldReason::Quarantined { reason }
                    } else {
                        YieldReason::Blocked { build, reason }
                    };
                self.give_back(Yield { run, epoch: ticket.epoch, why }, ctx);
            }
        }
    }

    /// Opens the next run that may be what killed its nodes. A claim proves little: a node that dies takes sound runs along,
    /// again and again. So each suspect is opened alone, behind a mark that is durable first and goes with its first
    /// turn; marks that are found are deaths in the middle of that, and nobody else's.
    fn examine(&mut self, ctx: &mut Context<Self>) {
        if self.examining {
            return;
        }
        // Each of those that are not opened makes way for the next.
        let (run, ticket, mut loaded, marks) = loop {
            let Some((run, ticket, loaded)) = self.examined.pop_front() else { return };
            if self.leaves_unopened(run) {
                self.give_back(self.unopened(run, ticket), ctx);
                continue;
            }
            let marks = loaded.heartbeats.iter().find(|(position, ..)| *position == MARK).map_or(0, |(_, marks, _)| *marks);
            if marks < MOST_FALLS {
                break (run, ticket, loaded, marks);
            }
            let reason =
                format!("its node died {marks} times in the middle of opening it and nothing else: it is what killed it");
            self.give_back(Yield { run, epoch: ticket.epoch, why: YieldReason::Quarantined { reason } }, ctx);
        };
        self.examining = true;
        let (told, marked) = oneshot::channel();
        let details = bytes::Bytes::from_static(b"opening");
        let mark = Item::Heartbeat { run, position: MARK, attempt: marks + 1, details };
        self.engine.record(mark, Whom::Caller(told));
        ctx.spawn(marked.into_actor(self).map(move |marked, this, ctx| {
            if marked == Ok(Outcome::Done) {
                loaded.heartbeats.push((MARK, marks + 1, bytes::Bytes::new()));
                this.open(run, ticket, loaded, ctx);
            } else {
                this.fall(run, Ticket { falls: ticket.falls.max(1), ..ticket }, ctx);
            }
            this.examining = false;
            this.examine(ctx);
        }));
    }

    /// Gives a run back. Until that is durable the store says that it is ours, and the reconciler must not believe it.
    fn give_back(&mut self, yielded: Yield, ctx: &mut Context<Self>) {
        let run = yielded.run;
        self.held.remove(&run);
        self.yielding.insert(run);
        let (told, outcome) = oneshot::channel();
        self.engine.record(Item::Yield(yielded.clone()), Whom::Caller(told));
        ctx.spawn(outcome.into_actor(self).map(move |outcome, this, ctx| {
            if outcome == Ok(Outcome::Waits) {
                // Somebody else's transaction holds the row for a moment.
                ctx.run_later(KEYS_RETRY, move |this, ctx| this.give_back(yielded, ctx));
                return;
            }
            this.yielding.remove(&run);
            // It may be due at once: a message can be unread.
            this.engine.scheduler.do_send(Nudge);
        }));
    }

    /// A run fell out of memory: it is replayed after a back-off, or quarantined when it falls again and again.
    fn fall(&mut self, run: RunKey, ticket: Ticket, ctx: &mut Context<Self>) {
        if ticket.falls > MOST_FALLS {
            let reason = format!(
                "it fell {} times on this node without making progress; see the node's log for the reports",
                ticket.falls
            );
            return self.give_back(Yield { run, epoch: ticket.epoch, why: YieldReason::Quarantined { reason } }, ctx);
        }
        let generation = self.next_generation();
        self.held.insert(run, Held::Falling { generation });
        // It may have ended, and nobody be told.
        self.elsewhere.stir();
        let wait = Duration::from_millis(if ticket.falls == 0 { 0 } else { 50 << ticket.falls.min(6) });
        ctx.run_later(wait, move |this, ctx| {
            this.load_fallen(run, Ticket { generation, ..ticket }, ctx);
        });
    }

    fn load_fallen(&mut self, run: RunKey, ticket: Ticket, ctx: &mut Context<Self>) {
        if matches!(self.held.get(&run), Some(Held::Falling { generation }) if *generation == ticket.generation) {
            self.load(run, ticket, ctx);
        }
    }

    fn left(&mut self, left: Left, ctx: &mut Context<Self>) -> Option<Timestamp> {
        let Left { run, generation, how } = left;
        let (ticket, stirred) = match self.held.get(&run) {
            Some(Held::Live { ticket, stirred, .. }) if ticket.generation == generation => (*ticket, *stirred),
            _ => return None,
        };
        self.engine.resting.forget(run);
        match how {
            LeftHow::Passive { wake_at } => {
                self.held.remove(&run);
                return wake_at;
            }
            LeftHow::Ended => {
                self.held.remove(&run);
            }
            LeftHow::Cold { seen } => self.cooled(run, ticket, seen, stirred, ctx),
            LeftHow::Yields(yielded) => {
                let wake_at = match &yielded.why {
                    YieldReason::Released { wake_at, .. } => *wake_at,
                    _ => None,
                };
                self.give_back(yielded, ctx);
                return wake_at;
            }
            // Nothing of its own was under way in its memory, so what of it is open and not here was never begun.
            LeftHow::Anew { by_force, fell } => {
                let generation = self.next_generation();
                let ticket = Ticket { generation, forced: by_force, same_incarnation: fell, falls: 0, ..ticket };
                self.load(run, ticket, ctx);
            }
            LeftHow::Refused => self.fall(run, Ticket { falls: ticket.falls + 1, same_incarnation: true, ..ticket }, ctx),
            LeftHow::Crashed(panic) => {
                tracing::error!(
                    run = run.0,
                    panic,
                    "an execution's actor panicked; this is a bug of stent's; the run is replayed"
                );
                self.fall(run, Ticket { falls: ticket.falls + 1, same_incarnation: true, ..ticket }, ctx);
            }
        }
        None
    }

    fn on_owned(&mut self, owned: &[(RunKey, u64)], ctx: &mut Context<Self>) {
        // A hint of a message may have been lost: whoever has not seen it looks.
        for (run, inbox_seq) in owned.iter().filter(|(_, inbox_seq)| *inbox_seq > 0) {
            self.behind(*run, *inbox_seq, ctx);
        }
        let lost: HashSet<RunKey> = owned
            .iter()
            .map(|(run, _)| *run)
            .filter(|run| !self.held.contains_key(run) && !self.yielding.contains(run))
            .collect();
        for run in lost.intersection(&self.suspects).copied().collect::<Vec<_>>() {
            tracing::error!(
                run = run.0,
                "the store says that this run is ours, but nobody held it; this is a bug; it is opened again"
            );
            let generation = self.next_generation();
            self.adopt(run, generation, ctx);
        }
        self.suspects = lost;
        // A hint that one of ours was ended over our heads may have been lost as well.
        let unowned = self.unowned(owned);
        let twice = unowned.intersection(&self.unowned).copied().collect();
        self.unowned = unowned;
        self.look_whether_over(twice, ctx);
    }

    /// Opens a run that is owned and not held: its epoch is in its row.
    fn adopt(&mut self, run: RunKey, generation: u64, ctx: &mut Context<Self>) {
        let read = Read::new(move |reader: Rc<dyn Reader>| async move { reader.summaries(&[run]).await });
        let asked = self.engine.persistence.send(read).into_actor(self);
        ctx.spawn(asked.map(move |answer, this, ctx| {
            let Ok(Ok(rows)) = answer else { return };
            let Some(row) = rows.into_iter().next() else { return };
            if row.owner == Some(this.engine.incarnation) && !this.held.contains_key(&run) {
                let (epoch, since) = (row.epoch, this.engine.config.clock.boot());
                let (forced, same_incarnation) = (true, false);
                let ticket = Ticket { generation, epoch, forced, same_incarnation, falls: 0, claims: 0, due: None, since };
                this.load(run, ticket, ctx);
            }
        }));
    }
}

impl Actor for Executor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.ask_keys(ctx);
        ctx.run_interval(ELSEWHERE, |this, ctx| {
            this.settle_elsewhere(ctx);
            this.look_at_logs(ctx);
        });
    }
}
