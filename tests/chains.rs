//! Executions that continue as new runs, seen from an application: to everybody outside they are one. On every store; in one process,
//! over restarts and over nodes.

#![cfg(feature = "sqlite")]

use std::{
    cell::Cell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
};

use stent::{
    Builder, ContinueError, Point, ResetRun, Stent,
    kernel::codec,
    prelude::*,
    store::{Filter, Reader, Status, Store, Summary},
};
use support::{Home, alone, eventually};

mod support;

/// Adds up deposits, three to a run, until it has heard so many.
#[derive(Serialize, Deserialize, Clone)]
struct Account {
    heard: Vec<u64>,
    until: usize,
}

#[derive(Serialize, Deserialize)]
struct Deposit(u64);

impl Signal for Deposit {
    const NAME: &'static str = "chains.deposit";
}

/// How many deposits it has heard.
#[derive(Serialize, Deserialize)]
struct Count;

impl Query for Count {
    const NAME: &'static str = "chains.count";
    type Answer = usize;
}

impl Workflow for Account {
    const NAME: &'static str = "chains.account";
    type Output = Vec<u64>;
    type Error = AppError;

    async fn run(mut self, cx: Cx<Self>) -> Result<Vec<u64>, AppError> {
        let so_far = Rc::new(Cell::new(self.heard.len()));
        let told = so_far.clone();
        cx.on_query(move |_: &Count| told.get());
        for _ in 0..3 {
            if self.heard.len() >= self.until {
                return Ok(self.heard);
            }
            let Deposit(amount) = cx.signal().await?;
            self.heard.push(amount);
            so_far.set(self.heard.len());
        }
        Ok(cx.continue_as_new(self).await?)
    }
}

/// Goes on as new so many times, with an act and a nap in each run, and counts its acts.
#[derive(Serialize, Deserialize)]
struct Hops {
    left: u32,
}

#[derive(Serialize, Deserialize)]
struct Act;

impl Activity for Act {
    const NAME: &'static str = "chains.act";
    type Output = u32;
    type Error = AppError;
}

impl Workflow for Hops {
    const NAME: &'static str = "chains.hops";
    type Output = u32;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u32, AppError> {
        let acts = cx.call(Act).await?;
        cx.sleep(millis(1)).await?;
        match self.left {
            0 => Ok(acts),
            left => Ok(cx.continue_as_new(Hops { left: left - 1 }).await?),
        }
    }
}

/// Has one of these as its child.
#[derive(Serialize, Deserialize)]
struct Parent {
    endless: bool,
}

impl Workflow for Parent {
    const NAME: &'static str = "chains.parent";
    type Output = u32;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u32, AppError> {
        let left = if self.endless { 1_000_000 } else { 5 };
        Ok(cx.child(Hops { left }).id(format!("{}-hops", cx.id().id)).await?)
    }
}

/// Fails until its act has been done so often.
#[derive(Serialize, Deserialize)]
struct Flaky {
    good: u32,
}

impl Workflow for Flaky {
    const NAME: &'static str = "chains.flaky";
    type Output = u32;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u32, AppError> {
        let acts = cx.call(Act).await?;
        if acts < self.good { Err(AppError::new(format!("{acts} is not {}", self.good))) } else { Ok(acts) }
    }
}

fn build(home: &Home, acts: &Arc<AtomicU32>) -> Builder {
    let acts = acts.clone();
    let counted = async move |_: Call<Act>| Ok(acts.fetch_add(1, SeqCst) + 1);
    let builder = home.open().workflow::<Account>().workflow::<Hops>().workflow::<Parent>().workflow::<Flaky>();
    builder.activity(counted).passivate_after(millis(20))
}

async fn start(home: &Home) -> Stent {
    build(home, &Arc::default()).spawn().await.unwrap()
}

async fn stop(stent: Stent) {
    stent.shutdown(Shutdown::within(secs(10))).await.unwrap();
}

fn limit() -> std::time::Duration {
    secs(30)
}

async fn current(stent: &Stent, id: &str) -> Summary {
    stent.describe(id).await.unwrap().expect("it is there").summary
}

/// Checks the logs of all runs of an id: numbered without a gap, all but the last continued, and each of them short.
async fn audit(reader: &dyn Reader, id: &str, longest: usize) -> u32 {
    let all = reader.list(&Filter { limit: 10_000, ..Filter::default() }).await.unwrap();
    let mut runs: Vec<Summary> = all.into_iter().filter(|run| run.id.id == id).collect();
    runs.sort_unstable_by_key(|run| run.id.run_no);
    for (number, run) in runs.iter().enumerate() {
        assert_eq!(run.id.run_no as usize, number + 1);
        assert_eq!(run.status == Status::Continued, number + 1 < runs.len(), "{:?} is {:?}", run.id, run.status);
        let log = reader.history(run.run, 0, 10_000).await.unwrap();
        let events: usize = log.iter().map(|(no, record)| codec::decode(&run.id, *no, record).unwrap().events.len()).sum();
        assert!(events <= longest, "{:?} has {events} events", run.id);
        assert!(reader.inbox(run.run).await.unwrap().unread.is_empty());
    }
    runs.last().unwrap().id.run_no
}

async fn audit_at(home: &Home, id: &str, longest: usize) -> Option<u32> {
    match home {
        Home::Memory(store) => Some(audit(&*store.reader(), id, longest).await),
        Home::Sqlite(_) => {
            use stent::store::sqlite::{SqliteOptions, SqliteStore};
            let mut store = SqliteStore::open(&home.file(), SqliteOptions::default()).await.unwrap();
            let runs = audit(&*store.reader(), id, longest).await;
            store.close().await.unwrap();
            Some(runs)
        }
        #[cfg(feature = "postgres")]
        Home::Postgres(_) => None,
    }
}

#[test]
fn two_hundred_continuations_hear_each_signal_once_while_senders_and_restarts_interfere() {
    // Each store with a time of its own.
    Home::all().into_iter().for_each(|home| alone(two_hundred_continuations(home)));
}

async fn two_hundred_continuations(home: Home) {
    const DEPOSITS: u64 = 600;
    const LIVES: u64 = 4;
    let account = Account { heard: Vec::new(), until: 600 };
    let mut heard = Vec::new();
    for life in 0..LIVES {
        let stent = start(&home).await;
        let again = Dispatch::new(account.clone()).id("account").if_in_use(IfInUse::Attach);
        let handle = stent.dispatch(again).await.unwrap();
        let senders = (0..4).map(|sender| {
            let stent = stent.clone();
            async move {
                let each = DEPOSITS / LIVES;
                for amount in (life * each..(life + 1) * each).filter(|amount| amount % 4 == sender) {
                    let deposit = || SendSignal::new("account", &Deposit(amount)).message_id(format!("d-{amount}"));
                    stent.signal(deposit()).await.unwrap();
                    // Once more, as whoever has heard no answer does: mostly to another run.
                    if amount % 3 == 0 && amount + 5 < DEPOSITS {
                        stent.signal(deposit()).await.unwrap();
                    }
                }
            }
        });
        futures::future::join_all(senders).await;
        if life + 1 == LIVES {
            heard = handle.result().await.unwrap();
            assert_eq!((handle.id(), current(&stent, "account").await.id.run_no), ("account", 201));
            // The senders are side by side; each by itself was answered one after the other.
            for sender in 0..4 {
                let own: Vec<u64> = heard.iter().copied().filter(|amount| amount % 4 == sender).collect();
                assert!(own.is_sorted(), "the order of one sender is kept");
            }
        }
        // In the middle of whatever is under way.
        stent.shutdown(Shutdown::within(millis(1))).await.unwrap();
    }
    heard.sort_unstable();
    assert_eq!(heard, (0..DEPOSITS).collect::<Vec<_>>(), "each once");
    if let Some(runs) = audit_at(&home, "account", 60).await {
        assert_eq!(runs, 201);
    }
}

#[test]
fn a_handle_and_a_parent_hear_of_the_last_run_and_each_act_was_done_once() {
    alone(async {
        for home in Home::all() {
            let acts = Arc::new(AtomicU32::new(0));
            let stent = build(&home, &acts).spawn().await.unwrap();
            let handle = stent.dispatch(Dispatch::new(Hops { left: 9 }).id("hops").tag("t")).await.unwrap();
            let other = stent.handle::<Hops>("hops").await.unwrap().unwrap();
            assert_eq!((handle.result().await.unwrap(), other.result().await.unwrap()), (10, 10));
            assert_eq!(handle.run_no(), 1, "the run that was there when the handle was made");
            let late = stent.handle::<Hops>("hops").await.unwrap().unwrap();
            assert_eq!((late.run_no(), late.result().await.unwrap()), (10, 10));
            let row = current(&stent, "hops").await;
            assert_eq!((row.status, row.tags, row.id.run_no), (Status::Completed, vec!["t".to_owned()], 10));
            // The same dispatch again finds what it began, whose argument it has; another argument is another dispatch.
            let again = Dispatch::new(Hops { left: 9 }).id("hops").if_in_use(IfInUse::Attach);
            assert_eq!(stent.dispatch(again).await.unwrap().run_no(), 10);
            let differs = Dispatch::new(Hops { left: 0 }).id("hops").if_in_use(IfInUse::Attach);
            assert!(matches!(stent.dispatch(differs).await, Err(stent::Error::Dispatch(_))));

            let parent = stent.dispatch(Dispatch::new(Parent { endless: false }).id("parent")).await.unwrap();
            assert_eq!(parent.result().await.unwrap(), 16, "the output of the last run, once");
            assert_eq!(acts.load(SeqCst), 16);
            stop(stent).await;
            audit_at(&home, "hops", 12).await;
        }
    });
}

#[test]
fn whoever_stops_an_endless_execution_or_its_parent_reaches_the_run_of_that_moment() {
    alone(async {
        for home in Home::all() {
            let stent = start(&home).await;
            let handle = stent.dispatch(Dispatch::new(Hops { left: 1_000_000 }).id("endless")).await.unwrap();
            let parent = stent.dispatch(Dispatch::new(Parent { endless: true }).id("parent")).await.unwrap();
            for id in ["endless", "parent-hops"] {
                let many = async || stent.describe(id).await.unwrap().is_some_and(|it| it.summary.id.run_no >= 5);
                eventually("it has continued a few times", limit(), many).await;
            }
            stent.cancel(Cancel::new("endless").reason("enough")).await.unwrap();
            assert!(matches!(handle.result().await, Err(RunError::Cancelled { reason }) if reason == "enough"));
            stent.cancel(Cancel::new("parent")).await.unwrap();
            assert!(matches!(parent.result().await, Err(RunError::Cancelled { .. })));
            let stopped = async || current(&stent, "parent-hops").await.status == Status::Cancelled;
            eventually("the child is stopped", limit(), stopped).await;
            // One more of the same id, in place of one that goes on.
            let first = stent.dispatch(Dispatch::new(Hops { left: 1_000_000 }).id("again")).await.unwrap();
            let many = async || current(&stent, "again").await.id.run_no >= 3;
            eventually("it has continued", limit(), many).await;
            let replaces = Dispatch::new(Hops { left: 2 }).id("again").if_in_use(IfInUse::Replace);
            let second = stent.dispatch(replaces).await.unwrap();
            assert!(matches!(first.result().await, Err(RunError::Cancelled { .. })));
            assert!(second.result().await.is_ok());
            stop(stent).await;
        }
    });
}

#[test]
fn whoever_asks_is_answered_by_the_run_of_that_moment_whenever_the_handle_was_taken() {
    alone(async {
        for home in Home::all() {
            let stent = start(&home).await;
            let account = Dispatch::new(Account { heard: Vec::new(), until: 40 }).id("account");
            let handle = stent.dispatch(account).await.unwrap();
            let mut before = 0;
            for amount in 0..40 {
                stent.signal(SendSignal::new("account", &Deposit(amount))).await.unwrap();
                let now = handle.query(&Count).await.unwrap();
                assert!(now >= before && now <= 40, "{before}, then {now}");
                before = now;
            }
            assert_eq!(handle.result().await.unwrap().len(), 40);
            assert_eq!(handle.query(&Count).await.unwrap(), 40, "the last run, which has ended");
            stop(stent).await;
        }
    });
}

#[test]
fn a_deadline_is_that_of_the_whole_chain() {
    alone(async {
        for home in Home::all() {
            let stent = start(&home).await;
            let hops = Dispatch::new(Hops { left: 1_000_000 }).id("late").deadline(millis(400));
            assert!(matches!(stent.dispatch(hops).await.unwrap().result().await, Err(RunError::TimedOut)));
            assert!(current(&stent, "late").await.id.run_no > 1);
            stop(stent).await;
        }
    });
}

#[test]
fn runs_of_one_chain_go_from_node_to_node_and_every_node_hears_of_the_last() {
    alone(async {
        for home in Home::shared() {
            let acts = Arc::new(AtomicU32::new(0));
            let one = build(&home, &acts).spawn().await.unwrap();
            let two = build(&home, &acts).spawn().await.unwrap();
            let mut begun = Vec::new();
            for number in 0..6 {
                let id = format!("hops-{number}");
                let here = one.dispatch(Dispatch::new(Hops { left: 8 }).id(&id)).await.unwrap();
                let there = two.handle::<Hops>(&id).await.unwrap().unwrap();
                begun.push((here, there));
            }
            let account = Dispatch::new(Account { heard: Vec::new(), until: 60 }).id("account");
            let handle = one.dispatch(account).await.unwrap();
            for amount in 0..60 {
                let node = if amount % 2 == 0 { &one } else { &two };
                node.signal(SendSignal::new("account", &Deposit(amount))).await.unwrap();
            }
            for (here, there) in &begun {
                assert_eq!(here.result().await.unwrap(), there.result().await.unwrap());
            }
            assert_eq!(acts.load(SeqCst), 54, "each act once");
            assert_eq!(handle.result().await.unwrap(), (0..60).collect::<Vec<_>>(), "acknowledged one after the other");
            // What a node that leaves has begun, the other ends.
            let last = two.dispatch(Dispatch::new(Hops { left: 30 }).id("moves")).await.unwrap();
            let there = one.handle::<Hops>("moves").await.unwrap().unwrap();
            drop(last);
            stop(two).await;
            assert_eq!(there.result().await.unwrap(), 85);
            stop(one).await;
        }
    });
}

#[cfg(feature = "failpoints")]
#[test]
fn a_handle_follows_the_chain_through_restarts_of_the_core() {
    alone(async {
        for home in Home::all() {
            for point in
                ["execution.before_settle", "persistence.before_acks", "executor.before_deal", "persistence.after_commit"]
            {
                let acts = Arc::new(AtomicU32::new(0));
                let stent = build(&home, &acts).spawn().await.unwrap();
                let handle = stent.dispatch(Dispatch::new(Hops { left: 12 }).id(point)).await.unwrap();
                stent::failpoints::set(point, stent::failpoints::Action::Panic, 5);
                assert!(handle.result().await.unwrap() >= 13);
                assert_eq!(current(&stent, point).await.id.run_no, 13, "{point}");
                stent::failpoints::clear();
                stop(stent).await;
            }
        }
    });
}

/// Says which refusal it has met, and ends.
#[derive(Serialize, Deserialize)]
struct Refused;

impl Workflow for Refused {
    const NAME: &'static str = "chains.refused";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        let mut listens = Box::pin(cx.signal::<Deposit>());
        let _ = futures::poll!(listens.as_mut());
        cx.sleep(millis(1)).await?;
        match cx.continue_as_new(Refused).await {
            Err(ContinueError::Unsettled(what)) => Ok(what.join(", ")),
            Err(other) => Err(other.into()),
            Ok(never) => Ok(never),
        }
    }
}

#[test]
fn refused_it_says_what_is_in_the_way_and_goes_on() {
    alone(async {
        let home = Home::sqlite();
        let stent = home.open().workflow::<Refused>().spawn().await.unwrap();
        let handle = stent.dispatch(Dispatch::new(Refused).id("refused")).await.unwrap();
        assert_eq!(handle.result().await.unwrap(), "a signal (#1)");
        assert_eq!(current(&stent, "refused").await.id.run_no, 1);
        stop(stent).await;
    });
}

#[test]
fn a_run_that_fails_is_tried_again_as_often_as_was_asked_for_also_by_another_life_and_its_caller_hears_the_last_end() {
    alone(async {
        for home in Home::all() {
            let acts = Arc::default();
            let stent = build(&home, &acts).spawn().await.unwrap();
            let retry = |attempts| Retry::fixed(millis(700)).jitter_percent(0).attempts(attempts);
            stent.dispatch(Dispatch::new(Flaky { good: 3 }).id("f").retry(retry(3))).await.unwrap();
            eventually("its first run has failed", limit(), async || current(&stent, "f").await.id.run_no == 2).await;
            stop(stent).await;

            let stent = build(&home, &acts).spawn().await.unwrap();
            assert_eq!(stent.handle::<Flaky>("f").await.unwrap().unwrap().result().await.unwrap(), 3);
            assert_eq!((current(&stent, "f").await.id.run_no, acts.load(SeqCst)), (3, 3));
            let last = stent.dispatch(Dispatch::new(Flaky { good: 99 }).id("g").retry(retry(2))).await.unwrap();
            match last.result().await {
                Err(RunError::Failed(error)) => assert_eq!(error.to_string(), "5 is not 99"),
                other => panic!("{other:?}"),
            }
            assert_eq!(current(&stent, "g").await.id.run_no, 2);

            // While the next try waits, a signal is kept for it, and a wish to stop is heard at once.
            let long = Retry::fixed(secs(3_600)).attempts(2);
            let waits = stent.dispatch(Dispatch::new(Flaky { good: 99 }).id("h").retry(long)).await.unwrap();
            eventually("its first run has failed", limit(), async || current(&stent, "h").await.id.run_no == 2).await;
            stent.signal(SendSignal::new("h", &Deposit(1))).await.unwrap();
            let commits = async || stent.describe("h").await.unwrap().unwrap().commits;
            eventually("the signal is taken", limit(), async || commits().await == 2).await;
            eventually("it has gone back to sleep", limit(), async || current(&stent, "h").await.owner.is_none()).await;
            assert_eq!((current(&stent, "h").await.id.run_no, acts.load(SeqCst)), (2, 6));
            stent.cancel(Cancel::new("h").reason("enough")).await.unwrap();
            assert!(matches!(waits.result().await, Err(RunError::Cancelled { reason }) if reason == "enough"));
            stop(stent).await;
        }
    });
}

#[test]
fn what_came_to_later_runs_of_a_chain_comes_again_behind_a_reset_of_an_earlier_one_or_is_known() {
    alone(async {
        for home in Home::all() {
            let stent = start(&home).await;
            let deposit = async |amount: u64| {
                let sent = SendSignal::new("a", &Deposit(amount)).message_id(format!("d{amount}"));
                stent.signal(sent).await.unwrap();
            };
            let result = async || stent.handle::<Account>("a").await.unwrap().unwrap().result().await.unwrap();
            let all: Vec<u64> = (1..=7).collect();
            stent.dispatch(Dispatch::new(Account { heard: Vec::new(), until: 7 }).id("a")).await.unwrap();
            for amount in 1..=7 {
                deposit(amount).await;
            }
            assert_eq!(result().await, all);
            let run_no = async || stent.describe("a").await.unwrap().unwrap().summary.id.run_no;
            assert_eq!(run_no().await, 3);
            // All three runs have heard some.
            for (run, last) in [(1, 6), (2, 8), (1, 11), (1, 14), (3, 15)] {
                stent.reset(ResetRun::new("a", Point::Start).run(run)).await.unwrap();
                assert_eq!(result().await, all, "run {run}");
                assert_eq!(run_no().await, last, "run {run}");
            }
            // Left out, they are known, whichever run has taken them.
            stent.reset(ResetRun::new("a", Point::Start).run(1).without_messages()).await.unwrap();
            for amount in (1..=7).chain(11..=17) {
                deposit(amount).await;
            }
            assert_eq!(result().await, (11..=17).collect::<Vec<_>>());
            // Behind what the run itself took comes what any other was told, in its order, whatever was put aside since.
            stent.reset(ResetRun::new("a", Point::Start).run(1)).await.unwrap();
            assert_eq!(result().await, all);
            stop(stent).await;
        }
    });
}

#[test]
fn what_any_run_was_told_comes_again_though_it_was_put_aside_and_those_behind_it_ended_before_they_took_it() {
    alone(async {
        for home in Home::all() {
            let stent = start(&home).await;
            let told = async |amounts: &[u64], heard: usize| {
                for amount in amounts {
                    let sent = SendSignal::new("a", &Deposit(*amount)).message_id(format!("d{amount}"));
                    stent.signal(sent).await.unwrap();
                }
                let has_heard = async || stent.query(Ask::new("a", &Count)).await.is_ok_and(|told| told == heard);
                eventually("it has heard them", secs(20), has_heard).await;
                stent.terminate(Terminate::new("a", "a test")).await.unwrap();
            };
            let reset = async |run: u32, messages: bool| {
                let reset = ResetRun::new("a", Point::Start).run(run);
                stent.reset(if messages { reset } else { reset.without_messages() }).await.unwrap();
            };
            stent.dispatch(Dispatch::new(Account { heard: Vec::new(), until: 9 }).id("a")).await.unwrap();
            // Three runs: the third has heard one.
            told(&[1, 2, 3, 4, 5, 6, 7], 7).await;
            // Two that stand for others hear something new, one after the other, and are put aside themselves; another hears nothing at all.
            reset(1, false).await;
            told(&[21], 1).await;
            reset(2, false).await;
            told(&[22], 4).await;
            reset(1, false).await;
            told(&[], 0).await;
            reset(1, true).await;
            let handle = stent.handle::<Account>("a").await.unwrap().unwrap();
            assert_eq!(handle.result().await.unwrap(), [1, 2, 3, 4, 5, 6, 7, 21, 22]);
            // Of a run that goes on for others, what those have heard is not heard again.
            reset(2, true).await;
            let handle = stent.handle::<Account>("a").await.unwrap().unwrap();
            assert_eq!(handle.result().await.unwrap(), [1, 2, 3, 4, 5, 6, 7, 21, 22]);
            stop(stent).await;
        }
    });
}
