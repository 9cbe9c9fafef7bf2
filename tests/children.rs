//! Children, seen from an application: begun once, heard of once, stopped with their parents, on every store; in one process, over
//! restarts and over nodes.

#![cfg(feature = "sqlite")]

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::SeqCst},
};

use stent::{Builder, ChildError, OnClose, Stent, prelude::*, store::Status};
use support::{Home, eventually, system, unended};

mod support;

/// A tree: each node adds up its children, each leaf is one act.
#[derive(Serialize, Deserialize)]
struct Tree {
    depth: u32,
    width: u32,
}

impl Workflow for Tree {
    const NAME: &'static str = "children.tree";
    type Output = u32;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u32, AppError> {
        let Tree { depth, width } = self;
        if depth == 0 {
            return Ok(cx.call(Leaf).await?);
        }
        let children = (0..width).map(|_| cx.child(Tree { depth: depth - 1, width }));
        let sums = futures::future::join_all(children).await;
        sums.into_iter().try_fold(0, |sum, child| Ok(sum + child?))
    }
}

#[derive(Serialize, Deserialize)]
struct Leaf;

impl Activity for Leaf {
    const NAME: &'static str = "children.leaf";
    type Output = u32;
    type Error = AppError;
}

/// Waits for a word, and says it.
#[derive(Serialize, Deserialize)]
struct Listener;

#[derive(Serialize, Deserialize)]
struct Say(String);

impl Signal for Say {
    const NAME: &'static str = "children.say";
}

impl Workflow for Listener {
    const NAME: &'static str = "children.listener";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        Ok(cx.signal::<Say>().await?.0)
    }
}

/// Fails until its execution has so many runs.
#[derive(Serialize, Deserialize)]
struct Flaky {
    good: u32,
}

impl Workflow for Flaky {
    const NAME: &'static str = "children.flaky";
    type Output = u32;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u32, AppError> {
        let run_no = cx.id().run_no;
        cx.call(Leaf).await?;
        if run_no < self.good { Err(AppError::new(format!("{run_no} is not {}", self.good))) } else { Ok(run_no) }
    }
}

/// Has a child that is tried again.
#[derive(Serialize, Deserialize)]
struct Patient {
    good: u32,
    wait_ms: u64,
}

impl Workflow for Patient {
    const NAME: &'static str = "children.patient";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        let again = Retry::fixed(std::time::Duration::from_millis(self.wait_ms)).jitter_percent(0).attempts(3);
        let child = cx.child(Flaky { good: self.good }).id(format!("{}-child", cx.id().id)).retry(again);
        Ok(match child.await {
            Ok(runs) => format!("good in run {runs}"),
            Err(ChildError::Failed(error)) => {
                let origin = error.origin().map(|origin| origin.run.to_string()).unwrap_or_default();
                format!("{error}, says {origin}")
            }
            Err(other) => other.to_string(),
        })
    }
}

/// What a parent does with its listener.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq)]
enum How {
    Waits,
    LeavesAlone,
    Detaches,
}

#[derive(Serialize, Deserialize)]
struct Parent {
    how: How,
}

impl Workflow for Parent {
    const NAME: &'static str = "children.parent";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        let child = cx.child(Listener).id(format!("{}-listener", cx.id().id)).tag("listener");
        Ok(match self.how {
            How::Waits => match child.await {
                Err(ChildError::IdInUse(id)) => format!("in use: {id}"),
                Err(ChildError::Stopped { .. }) => "stopped".to_owned(),
                other => other?,
            },
            How::LeavesAlone => child.on_close(OnClose::Abandon).await?,
            How::Detaches => child.detach().await?,
        })
    }
}

fn build(home: &Home, acts: &Arc<AtomicU32>) -> Builder {
    let acts = acts.clone();
    let counted = async move |_: Call<Leaf>| {
        acts.fetch_add(1, SeqCst);
        Ok(1)
    };
    let builder = home.open().workflow::<Tree>().workflow::<Listener>().workflow::<Parent>();
    let builder = builder.workflow::<Flaky>().workflow::<Patient>();
    builder.activity(counted).passivate_after(millis(20))
}

async fn start(home: &Home) -> Stent {
    build(home, &Arc::default()).spawn().await.unwrap()
}

async fn stop(stent: Stent) {
    stent.shutdown(Shutdown::within(secs(10))).await.unwrap();
}

fn limit() -> std::time::Duration {
    secs(20)
}

/// Waits until a run has a state.
async fn becomes(stent: &Stent, id: &str, status: Status) {
    let what = format!("{id} is {status:?}");
    eventually(&what, limit(), async || {
        stent.describe(id).await.unwrap().is_some_and(|description| description.summary.status == status)
    })
    .await;
}

#[test]
fn a_tree_of_children_runs_each_leaf_once_and_adds_up() {
    system(async {
        for home in Home::all() {
            let acts = Arc::new(AtomicU32::new(0));
            let stent = build(&home, &acts).spawn().await.unwrap();
            let tree = stent.dispatch(Dispatch::new(Tree { depth: 3, width: 4 }).id("tree")).await.unwrap();
            assert_eq!(tree.result().await.unwrap(), 64);
            assert_eq!(acts.load(SeqCst), 64, "each leaf acted once");
            assert_eq!(unended(&stent).await, []);
            stop(stent).await;
        }
    });
}

#[test]
fn parent_and_child_sleep_over_a_restart_and_the_child_is_found_by_its_id() {
    system(async {
        for home in Home::all() {
            let stent = start(&home).await;
            stent.dispatch(Dispatch::new(Parent { how: How::Waits }).id("p")).await.unwrap();
            becomes(&stent, "p-listener", Status::Active).await;
            let why = stent.describe("p").await.unwrap().unwrap();
            assert!(why.waits_for.iter().any(|wait| wait.contains("p-listener")), "{:?}", why.waits_for);
            stop(stent).await;

            let stent = start(&home).await;
            stent.signal(SendSignal::new("p-listener", &Say("hello".into()))).await.unwrap();
            let parent = stent.handle::<Parent>("p").await.unwrap().unwrap();
            assert_eq!(parent.result().await.unwrap(), "hello");
            stop(stent).await;
        }
    });
}

#[test]
fn a_cancelled_parent_stops_its_children_and_leaves_alone_what_it_is_to_leave_alone() {
    system(async {
        for home in Home::all() {
            let stent = start(&home).await;
            for (id, how) in [("a", How::Waits), ("b", How::LeavesAlone), ("c", How::Detaches)] {
                stent.dispatch(Dispatch::new(Parent { how }).id(id)).await.unwrap();
                becomes(&stent, &format!("{id}-listener"), Status::Active).await;
            }
            becomes(&stent, "c", Status::Completed).await;
            for id in ["a", "b"] {
                stent.cancel(Cancel::new(id).reason("enough")).await.unwrap();
                becomes(&stent, id, Status::Cancelled).await;
            }
            becomes(&stent, "a-listener", Status::Cancelled).await;
            for id in ["b-listener", "c-listener"] {
                let handle = stent.handle::<Listener>(id).await.unwrap().unwrap();
                stent.signal(SendSignal::new(id, &Say("on my own".into()))).await.unwrap();
                assert_eq!(handle.result().await.unwrap(), "on my own");
            }
            stop(stent).await;
        }
    });
}

#[test]
fn a_child_that_is_cancelled_from_outside_is_heard_of_as_stopped() {
    system(async {
        for home in Home::all() {
            let stent = start(&home).await;
            let parent = stent.dispatch(Dispatch::new(Parent { how: How::Waits }).id("p")).await.unwrap();
            becomes(&stent, "p-listener", Status::Active).await;
            stent.cancel(Cancel::new("p-listener").reason("enough")).await.unwrap();
            assert_eq!(parent.result().await.unwrap(), "stopped");
            stop(stent).await;
        }
    });
}

#[test]
fn a_child_that_fails_is_tried_again_if_asked_for_also_by_another_life_and_its_parent_hears_the_last_end_only() {
    system(async {
        for home in Home::all() {
            let acts = Arc::default();
            let stent = build(&home, &acts).spawn().await.unwrap();
            let run_of =
                async |stent: &Stent, id: &str| stent.describe(id).await.unwrap().map_or(0, |told| told.summary.id.run_no);
            stent.dispatch(Dispatch::new(Patient { good: 3, wait_ms: 700 }).id("good")).await.unwrap();
            eventually("the child's first run has failed", limit(), async || run_of(&stent, "good-child").await == 2).await;
            stop(stent).await;

            let stent = build(&home, &acts).spawn().await.unwrap();
            let good = stent.handle::<Patient>("good").await.unwrap().unwrap();
            assert_eq!(good.result().await.unwrap(), "good in run 3");
            assert_eq!(acts.load(SeqCst), 3);
            let bad = stent.dispatch(Dispatch::new(Patient { good: 9, wait_ms: 1 }).id("bad")).await.unwrap();
            assert_eq!(bad.result().await.unwrap(), "3 is not 9, says bad-child/3");
            assert_eq!(acts.load(SeqCst), 6);

            // A parent that is asked to stop takes along a child whose next try is an hour away.
            let waits = stent.dispatch(Dispatch::new(Patient { good: 9, wait_ms: 3_600_000 }).id("waits")).await.unwrap();
            eventually("the child's first run has failed", limit(), async || run_of(&stent, "waits-child").await == 2).await;
            stent.cancel(Cancel::new("waits").reason("enough")).await.unwrap();
            assert_eq!(waits.result().await.unwrap(), "cancelled");
            becomes(&stent, "waits-child", Status::Cancelled).await;
            stop(stent).await;
        }
    });
}

#[test]
fn a_child_whose_id_is_in_use_is_not_begun_and_the_parent_hears_it() {
    system(async {
        for home in Home::all() {
            let stent = start(&home).await;
            stent.dispatch(Dispatch::new(Listener).id("p-listener")).await.unwrap();
            let parent = stent.dispatch(Dispatch::new(Parent { how: How::Waits }).id("p")).await.unwrap();
            assert_eq!(parent.result().await.unwrap(), "in use: p-listener");
            // The one that was there is not touched by the end of somebody else's parent.
            becomes(&stent, "p-listener", Status::Active).await;
            stop(stent).await;
        }
    });
}

#[test]
fn a_parent_that_begins_a_child_which_is_not_registered_is_blocked_by_name() {
    system(async {
        let home = Home::Memory(stent::store::memory::MemoryStore::new());
        let stent = home.open().workflow::<Parent>().spawn().await.unwrap();
        let refused = stent.dispatch(Dispatch::new(Parent { how: How::Waits }).id("p")).await.unwrap_err().to_string();
        assert!(refused.contains("children.listener"), "{refused}");
        stop(stent).await;
    });
}

/// Begins a crowd for each word, all at once.
#[derive(Serialize, Deserialize)]
struct Crowd {
    each: u32,
}

impl Workflow for Crowd {
    const NAME: &'static str = "children.crowd";
    type Output = u32;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u32, AppError> {
        let words = (0..2).map(async |_| {
            cx.signal::<Say>().await?;
            // Nobody serves this queue, so nobody runs them.
            let crowd = (0..self.each).map(|_| cx.child(Listener).queue("nobody's").detach());
            futures::future::try_join_all(crowd).await.map_err(AppError::from)
        });
        let begun = futures::future::try_join_all(words).await?;
        Ok(begun.iter().map(|ids| u32::try_from(ids.len()).unwrap_or(0)).sum())
    }
}

#[test]
fn a_turn_with_more_children_than_keys_are_reserved_at_once_is_recorded() {
    system(async {
        let home = Home::Memory(stent::store::memory::MemoryStore::new());
        let stent = home.open().workflow::<Crowd>().workflow::<Listener>().spawn().await.unwrap();
        let dispatch = Dispatch::new(Crowd { each: 9_000 }).id("crowd").delay(millis(300));
        let crowd = stent.dispatch(dispatch).await.unwrap();
        for word in ["one", "two"] {
            stent.signal(SendSignal::new("crowd", &Say(word.into()))).await.unwrap();
        }
        assert_eq!(crowd.result().await.unwrap(), 18_000);
        stop(stent).await;
    });
}

#[test]
fn a_message_id_of_ours_is_refused_with_a_reason() {
    system(async {
        for home in Home::both() {
            let stent = start(&home).await;
            stent.dispatch(Dispatch::new(Listener).id("l")).await.unwrap();
            let made_up = SendSignal::new("l", &Say("x".into())).message_id("stent:child:1");
            let refused = stent.signal(made_up).await.unwrap_err().to_string();
            assert!(refused.contains("Stent's own"), "{refused}");
            stop(stent).await;
        }
    });
}

#[test]
fn children_of_one_node_are_run_by_another_and_their_ends_find_the_way_back() {
    system(async {
        for home in Home::shared() {
            let acts = Arc::new(AtomicU32::new(0));
            let first = build(&home, &acts).spawn().await.unwrap();
            let second = build(&home, &acts).spawn().await.unwrap();
            let tree = first.dispatch(Dispatch::new(Tree { depth: 4, width: 4 }).id("tree")).await.unwrap();
            assert_eq!(tree.result().await.unwrap(), 256);
            assert_eq!(acts.load(SeqCst), 256);
            stop(first).await;
            stop(second).await;
        }
    });
}
