//! Gates, seen from an application: bursts fold, windows are kept, one stands for many, one is open at a time; on every store, with
//! several nodes at once, over restarts and lost answers.
//!
//! Nothing here depends on how quick the machine is: what is asserted follows from the answers and from the rows of the executions.

#![cfg(feature = "sqlite")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use stent::{
    Admitted, Builder, DispatchError, Error, Happening, SendError, Stent,
    clock::ShiftedClock,
    kernel::time::Timestamp,
    prelude::*,
    store::{Status, Summary},
};
use support::{Home, eventually, system};

mod support;

/// Says its text; at once, or when it is told to.
#[derive(Serialize, Deserialize, Clone)]
struct Note {
    text: String,
    waits: bool,
}

#[derive(Serialize, Deserialize)]
struct Go;

impl Signal for Go {
    const NAME: &'static str = "gates.go";
}

impl Workflow for Note {
    const NAME: &'static str = "gates/note";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        if self.waits {
            cx.signal::<Go>().await?;
        }
        Ok(self.text)
    }
}

/// Another workflow, which returns something else.
#[derive(Serialize, Deserialize)]
struct Other;

impl Workflow for Other {
    const NAME: &'static str = "gates.other";
    type Output = u64;
    type Error = AppError;

    async fn run(self, _: Cx<Self>) -> Result<u64, AppError> {
        Ok(7)
    }
}

fn note(text: impl Into<String>) -> Dispatch<Note> {
    Dispatch::new(Note { text: text.into(), waits: false })
}

fn waiting(text: impl Into<String>) -> Dispatch<Note> {
    Dispatch::new(Note { text: text.into(), waits: true })
}

fn build(home: &Home) -> Builder {
    home.open().workflow::<Note>().workflow::<Other>().passivate_after(millis(20))
}

async fn start(home: &Home) -> Stent {
    build(home).spawn().await.unwrap()
}

async fn nodes(home: &Home) -> [Stent; 3] {
    [start(home).await, start(home).await, start(home).await]
}

async fn stop(nodes: impl IntoIterator<Item = Stent>) {
    for node in nodes {
        node.shutdown(Shutdown::within(secs(10))).await.unwrap();
    }
}

/// Leaves without waiting for anything.
async fn vanish(node: Stent) {
    node.shutdown(Shutdown::within(Duration::ZERO)).await.unwrap();
}

fn limit() -> Duration {
    secs(30)
}

async fn runs(stent: &Stent) -> Vec<Summary> {
    stent.list(List::new().limit(1_000)).await.unwrap()
}

/// Waits for an execution that may have to begin first, on whichever node.
async fn said(stent: &Stent, id: &str) -> String {
    eventually(&format!("{id} begins"), limit(), async || stent.describe(id).await.unwrap().is_some()).await;
    stent.handle::<Note>(id).await.unwrap().unwrap().result().await.unwrap()
}

/// Any `most` and one more of them began no closer than `per` to each other, by the store's clock.
fn windows_are_kept(runs: &[Summary], most: usize, per: Duration) {
    let mut begun: Vec<Timestamp> = runs.iter().map(|run| run.created_at).collect();
    begun.sort();
    for window in begun.windows(most + 1) {
        assert!(window[most].since(window[0]) >= per, "{begun:?}");
    }
}

fn ids(runs: &[Summary]) -> BTreeSet<String> {
    assert!(runs.iter().all(|run| run.id.run_no == 1), "{runs:?}");
    runs.iter().map(|run| run.id.id.clone()).collect()
}

/// The text of the last dispatch of each burst, by the burst's id.
fn bursts(admitted: &[(String, Admitted<Note>)]) -> BTreeMap<String, String> {
    admitted.iter().map(|(text, admitted)| (admitted.handle.id().to_owned(), text.clone())).collect()
}

#[test]
fn a_burst_of_dispatches_becomes_one_execution_with_the_argument_of_the_last() {
    system(async {
        for home in Home::all() {
            let stent = start(&home).await;
            let mut all = Vec::new();
            for n in 0..20 {
                let text = n.to_string();
                let gated = note(&text).tag("folded").debounce("k", secs(1)).at_most(secs(60));
                all.push((text, stent.admit(gated).await.unwrap()));
            }
            assert!(matches!(all[0].1.admission, Admission::Waits { .. }), "{:?}", all[0].1);
            let folded = |admission| matches!(admission, Admission::Folded { .. });
            assert!(all.iter().any(|(_, admitted)| folded(admitted.admission)));
            // Not begun yet: a handle waits, and nobody else knows of it.
            let later = stent.admit(note("later").debounce("later", hours(1))).await.unwrap().handle;
            assert!(stent.describe(later.id()).await.unwrap().is_none());
            let unknown = later.signal(&Go).await;
            assert!(matches!(unknown, Err(Error::Send(SendError::Unknown(_)))), "{unknown:?}");
            for (text, admitted) in &all {
                assert_eq!(admitted.handle.result().await.unwrap(), bursts(&all)[admitted.handle.id()], "{text}");
            }
            let begun = runs(&stent).await;
            assert_eq!(ids(&begun), bursts(&all).into_keys().collect());
            assert!(begun.len() < all.len() && begun.iter().all(|run| run.tags == ["folded"]));
            assert_eq!(all[0].1.handle.id(), "stent:debounce/gates%2Fnote/k/1");
            stop([stent]).await;
        }
    });
}

#[test]
fn who_follows_an_execution_that_waits_at_a_gate_sees_all_that_happens_once_it_begins() {
    system(async {
        for home in Home::all() {
            let stent = start(&home).await;
            let handle = stent.admit(note("later").debounce("k", millis(300))).await.unwrap().handle;
            let mut events = handle.events(0);
            let mut seen = Vec::new();
            while let Some(happened) = events.next().await.unwrap() {
                assert_eq!(happened.run.id, handle.id());
                seen.push(happened.what);
            }
            assert_eq!((seen.first(), seen.last()), (Some(&Happening::Started), Some(&Happening::Ended)), "{seen:?}");
            stop([stent]).await;
        }
    });
}

#[test]
fn a_burst_outlives_the_node_that_took_it_and_its_id_says_where_to_look() {
    system(async {
        for home in Home::all() {
            let stent = start(&home).await;
            stent.admit(note("first").debounce("k", millis(700))).await.unwrap();
            let last = stent.admit(note("last").debounce("k", millis(700))).await.unwrap();
            let id = last.handle.id().to_owned();
            vanish(stent).await;
            let stent = start(&home).await;
            assert_eq!(said(&stent, &id).await, "last");
            stop([stent]).await;
        }
    });
}

#[test]
fn nodes_that_dispatch_by_one_key_at_once_fold_into_the_same_bursts_and_each_begins_once() {
    system(async {
        for home in Home::shared() {
            let nodes = nodes(&home).await;
            let asked = (0..60).map(|n| {
                let node = nodes[n % 3].clone();
                async move {
                    let text = n.to_string();
                    let gated = note(&text).debounce("k", millis(300)).at_most(secs(2));
                    (text, node.admit(gated).await.unwrap())
                }
            });
            let all = join_all(asked).await;
            let mut of: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for (text, admitted) in &all {
                of.entry(admitted.handle.id().to_owned()).or_default().push(text.clone());
            }
            // The handle of every one of them hears the one result, whichever node runs it.
            for (_, admitted) in &all {
                let said = admitted.handle.result().await.unwrap();
                assert!(of[admitted.handle.id()].contains(&said));
            }
            assert_eq!(ids(&runs(&nodes[0]).await), of.into_keys().collect());
            stop(nodes).await;
        }
    });
}

#[test]
fn a_throttle_keeps_its_window_over_all_nodes_and_leaves_none_out() {
    system(async {
        for home in Home::shared() {
            let nodes = nodes(&home).await;
            let asked = (0..10).map(|n| {
                let node = nodes[n % 3].clone();
                async move { node.admit(note(n.to_string()).throttle("k", 2, millis(400))).await.unwrap() }
            });
            let all = join_all(asked).await;
            assert!(all.iter().any(|admitted| admitted.admission == Admission::Begun));
            assert!(all.iter().any(|admitted| matches!(admitted.admission, Admission::Waits { .. })));
            for (n, admitted) in all.iter().enumerate() {
                assert_eq!(admitted.handle.result().await.unwrap(), n.to_string());
            }
            let begun = runs(&nodes[0]).await;
            assert_eq!(begun.len(), 10);
            windows_are_kept(&begun, 2, millis(400));
            stop(nodes).await;
        }
    });
}

#[test]
fn what_became_due_while_no_node_was_up_does_not_begin_in_a_rush() {
    system(async {
        for home in Home::both() {
            let stent = start(&home).await;
            let mut all = Vec::new();
            for n in 0..5 {
                all.push(stent.admit(note(n.to_string()).throttle("k", 1, millis(400))).await.unwrap());
            }
            let ids: Vec<String> = all.iter().map(|admitted| admitted.handle.id().to_owned()).collect();
            vanish(stent).await;
            // An hour later, by its clock.
            let clock = ShiftedClock::default();
            clock.shift(3_600_000_000);
            let stent = build(&home).clock(Arc::new(clock)).spawn().await.unwrap();
            for (n, id) in ids.iter().enumerate() {
                assert_eq!(said(&stent, id).await, n.to_string());
            }
            let begun = runs(&stent).await;
            assert_eq!(begun.len(), 5);
            windows_are_kept(&begun, 1, millis(400));
            stop([stent]).await;
        }
    });
}

#[test]
fn one_execution_stands_for_all_dispatches_of_its_window_whichever_nodes_they_come_to() {
    system(async {
        for home in Home::shared() {
            let nodes = nodes(&home).await;
            let asked = (0..30).map(|n| {
                let node = nodes[n % 3].clone();
                async move { (n.to_string(), node.admit(note(n.to_string()).dedupe("k", hours(1))).await.unwrap()) }
            });
            let all = join_all(asked).await;
            let began: Vec<_> = all.iter().filter(|(_, admitted)| admitted.admission == Admission::Begun).collect();
            assert_eq!(began.len(), 1);
            for (_, admitted) in &all {
                assert_eq!(admitted.handle.result().await.unwrap(), began[0].0);
            }
            assert_eq!(runs(&nodes[0]).await.len(), 1);
            stop(nodes).await;
            // Also for the next life, and only for this key; behind the window the next one begins.
            let stent = start(&home).await;
            let again = stent.admit(note("again").dedupe("k", hours(1))).await.unwrap();
            assert_eq!((again.admission, again.handle.id()), (Admission::Attached, began[0].1.handle.id()));
            assert_eq!(stent.admit(note("other").dedupe("l", millis(1))).await.unwrap().admission, Admission::Begun);
            eventually("the window is over", limit(), async || {
                let next = stent.admit(note("next").dedupe("l", millis(1))).await.unwrap();
                next.admission == Admission::Begun && next.handle.id().ends_with("/2")
            })
            .await;
            assert_eq!(said(&stent, "stent:dedupe/gates%2Fnote/l/2").await, "next");
            stop([stent]).await;
        }
    });
}

#[test]
fn of_a_singleton_one_run_is_open_at_a_time_and_the_next_begins_behind_its_end() {
    system(async {
        for home in Home::shared() {
            let nodes = nodes(&home).await;
            let asked = (0..12).map(|n| {
                let node = nodes[n % 3].clone();
                async move { node.admit(waiting(n.to_string()).singleton("k", IfOpen::Attach)).await.unwrap() }
            });
            let all = join_all(asked).await;
            let began: Vec<_> = all.iter().enumerate().filter(|(_, admitted)| admitted.admission == Admission::Begun).collect();
            assert_eq!(began.len(), 1);
            assert_eq!(runs(&nodes[0]).await.len(), 1);
            let id = all[0].handle.id().to_owned();
            assert_eq!(id, "stent:singleton/gates%2Fnote/k");
            let rejected = nodes[1].admit(waiting("x").singleton("k", IfOpen::Reject)).await;
            assert!(matches!(&rejected, Err(Error::Dispatch(DispatchError::IdInUse { differs: true, .. }))), "{rejected:?}");
            nodes[2].signal(SendSignal::new(&*id, &Go)).await.unwrap();
            for admitted in &all {
                assert_eq!(admitted.handle.result().await.unwrap(), began[0].0.to_string());
            }
            // It has completed, so the next begins; that one is replaced.
            let second = nodes[1].admit(waiting("second").singleton("k", IfOpen::Reject)).await.unwrap();
            assert_eq!((second.admission, second.handle.run_no()), (Admission::Begun, 2));
            let third = nodes[0].admit(waiting("third").singleton("k", IfOpen::Replace)).await.unwrap();
            assert_eq!((third.admission, third.handle.run_no()), (Admission::Begun, 3));
            assert!(matches!(second.handle.result().await, Err(RunError::Cancelled { .. })));
            stop(nodes).await;
            let stent = start(&home).await;
            let still = stent.admit(waiting("fourth").singleton("k", IfOpen::Attach)).await.unwrap();
            assert_eq!((still.admission, still.handle.run_no()), (Admission::Attached, 3));
            still.handle.signal(&Go).await.unwrap();
            assert_eq!(still.handle.result().await.unwrap(), "third");
            stop([stent]).await;
        }
    });
}

#[test]
fn a_repeated_request_begins_nothing_again_also_behind_the_end_of_its_execution() {
    system(async {
        for home in Home::all() {
            let stent = start(&home).await;
            let debounced = || note("d").debounce("k", millis(50)).request_id("r");
            let throttled = |text: &str| note(text).throttle("k", 1, hours(1)).request_id("r");
            let (first, second) = (stent.admit(debounced()).await.unwrap(), stent.admit(throttled("t")).await.unwrap());
            assert_eq!(second.handle.id(), "stent:throttle/gates%2Fnote/k/r");
            for admitted in [&first, &second] {
                admitted.handle.result().await.unwrap();
            }
            stop([stent]).await;
            let stent = start(&home).await;
            for (again, of) in [(debounced(), &first), (throttled("t"), &second)] {
                let again = stent.admit(again).await.unwrap();
                assert_eq!((again.admission, again.handle.id()), (Admission::Attached, of.handle.id()));
                again.handle.result().await.unwrap();
            }
            let other = stent.admit(throttled("u")).await;
            assert!(matches!(other, Err(Error::Dispatch(DispatchError::IdInUse { differs: true, .. }))), "{other:?}");
            assert_eq!(runs(&stent).await.len(), 2);
            stop([stent]).await;
        }
    });
}

/// Two processes on one file dispatch the same requests; in turn one of them is killed with SIGKILL, at whatever it is, and begins again.
#[cfg(feature = "failpoints")]
#[test]
fn processes_that_are_killed_at_gates_begin_nothing_twice_and_leave_no_request_out() {
    use std::process::{Child, Command, Stdio};
    const REQUESTS: usize = 40;

    let mut rng = support::Rng::from_env("gates");
    let folder = tempfile::tempdir().unwrap();
    let (database, side) = (folder.path().join("stent.db"), folder.path().join("side.txt"));
    let life = || -> Child {
        Command::new(env!("CARGO_BIN_EXE_stent-crash-child"))
            .args([database.as_os_str(), side.as_os_str(), REQUESTS.to_string().as_ref()])
            .env("STENT_GATES", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let told = || std::fs::read_to_string(&side).unwrap_or_default();
    let until = |what: &str, times: usize| {
        let begun = std::time::Instant::now();
        while told().lines().filter(|line| line.starts_with(what)).count() < times {
            assert!(begun.elapsed() < secs(60), "{what}: not {times} times");
            std::thread::sleep(millis(2));
        }
    };
    let mut two = [life(), life()];
    for kill in 0..8 {
        let before = told().lines().filter(|line| line.starts_with("took")).count();
        until("took", before + usize::try_from(rng.between(1, 15)).unwrap());
        let dies = &mut two[kill % 2];
        dies.kill().unwrap();
        dies.wait().unwrap();
        *dies = life();
    }
    until("passed", 1);
    system(async {
        // Without the workflow: it only looks.
        let stent = Stent::open(&format!("sqlite:{}", database.display())).spawn().await.unwrap();
        let behind = |runs: &[Summary], gate: &str| -> Vec<Summary> {
            let prefix = format!("stent:{gate}/crash.part/");
            runs.iter().filter(|run| run.id.id.starts_with(&prefix)).cloned().collect()
        };
        let wanted: BTreeSet<String> = (0..REQUESTS).map(|n| format!("stent:throttle/crash.part/t/{n}")).collect();
        eventually("all that was throttled has begun", limit(), async || {
            behind(&runs(&stent).await, "throttle").len() >= REQUESTS
        })
        .await;
        // Each request went into one burst, whoever asked and however often.
        let mut of: BTreeMap<String, String> = BTreeMap::new();
        let told = told();
        for (number, id) in told.lines().filter_map(|line| line.strip_prefix("took ")?.split_once(' ')) {
            if id.starts_with("stent:debounce/") {
                assert_eq!(of.entry(number.to_owned()).or_insert_with(|| id.to_owned()), id, "request {number}");
            }
        }
        assert_eq!(of.len(), REQUESTS);
        let bursts: BTreeSet<String> = of.into_values().collect();
        eventually("all bursts have begun", limit(), async || behind(&runs(&stent).await, "debounce").len() >= bursts.len())
            .await;
        let all = runs(&stent).await;
        assert_eq!(ids(&behind(&all, "throttle")), wanted);
        assert_eq!(ids(&behind(&all, "debounce")), bursts);
        windows_are_kept(&behind(&all, "throttle"), 3, millis(100));
        stop([stent]).await;
    });
    for process in &mut two {
        process.kill().unwrap();
        process.wait().unwrap();
    }
}

#[test]
fn what_makes_no_sense_together_is_refused_and_gates_are_no_schedules() {
    system(async {
        let home = Home::sqlite();
        let stent = start(&home).await;
        let long = "k".repeat(250);
        let senseless = [
            note("x").id("mine").debounce("k", secs(1)),
            note("x").if_in_use(IfInUse::Reject).singleton("k", IfOpen::Attach),
            note("x").delay(secs(1)).debounce("k", secs(1)),
            note("x").delay(secs(1)).throttle("k", 1, secs(1)),
            note("x").delay(secs(1)).dedupe("k", secs(1)),
            note("x").debounce("", secs(1)),
            note("x").debounce("a\0b", secs(1)),
            note("x").debounce("k", Duration::ZERO),
            note("x").debounce("k", secs(1)).at_most(Duration::ZERO),
            note("x").throttle("k", 0, secs(1)),
            note("x").throttle("k", 1_001, secs(1)),
            note("x").throttle("k", 1, Duration::ZERO),
            note("x").throttle("k", 1, secs(1)).at_most(secs(1)),
            note("x").throttle("k", 1, secs(1)).request_id(""),
            note("x").throttle("k", 1, secs(1)).request_id("r".repeat(101)),
            note("x").dedupe("k", Duration::ZERO),
            note("x").dedupe("k", secs(1)).request_id("r"),
            note("x").singleton("k", IfOpen::Attach).request_id("r"),
            note("x").singleton(&*long, IfOpen::Attach),
            note("x").debounce(&*long, secs(1)),
            note("x").tag("a\0b").debounce("k", secs(1)),
            note("x").needs("").debounce("k", secs(1)),
        ];
        for (n, gated) in senseless.into_iter().enumerate() {
            let told = stent.admit(gated).await;
            assert!(matches!(&told, Err(Error::Dispatch(DispatchError::Invalid(_)))), "{n}: {told:?}");
        }
        let taken = stent.dispatch(note("x").id("stent:debounce/gates%2Fnote/k/1")).await;
        assert!(matches!(&taken, Err(Error::Dispatch(DispatchError::Invalid(_)))), "{taken:?}");
        assert_eq!(runs(&stent).await, []);
        // More gates than a page has, and schedules before and behind them.
        let gates = (0..150).map(|n| stent.admit(note("x").debounce(n.to_string(), hours(1))));
        assert!(join_all(gates).await.iter().all(Result::is_ok));
        for name in ["!", "a"] {
            let schedule = Schedule::new(name, Note { text: String::new(), waits: false }).cron("0 0 1 1 *", "UTC");
            stent.create_schedule(schedule).await.unwrap();
        }
        let names = stent.schedules(ListSchedules::new()).await.unwrap();
        assert_eq!(names.iter().map(|schedule| &*schedule.name).collect::<Vec<_>>(), ["!", "a"]);
        stop([stent]).await;
    });
}

#[test]
fn ids_begin_anew_behind_their_end_if_they_are_allowed_to() {
    system(async {
        for home in Home::all() {
            let stent = start(&home).await;
            let dispatch = |text: &str| waiting(text).id("mine").if_in_use(IfInUse::AllowAfterEnd);
            let first = stent.dispatch(dispatch("a")).await.unwrap();
            assert_eq!(stent.dispatch(dispatch("b")).await.unwrap().run(), first.run());
            let other = stent.dispatch(Dispatch::new(Other).id("mine").if_in_use(IfInUse::AllowAfterEnd)).await;
            assert!(
                matches!(other, Err(Error::Dispatch(DispatchError::IdInUse { .. }))),
                "{:?}",
                other.map(|handle| handle.run())
            );
            first.signal(&Go).await.unwrap();
            assert_eq!(first.result().await.unwrap(), "a");
            let next = stent.dispatch(dispatch("b")).await.unwrap();
            assert_eq!(next.run_no(), 2);
            assert_eq!(stent.describe("mine").await.unwrap().unwrap().summary.status, Status::Active);
            stop([stent]).await;
        }
    });
}
