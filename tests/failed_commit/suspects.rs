//! Runs that were claimed too often without progress, on a node that leaves while they wait to be opened.

use stent::{
    kernel::id::{BuildId, Incarnation},
    kernel::time::Timestamp,
    store::{Batch, ClaimRequest, NewNode, Outcome, Yield, YieldReason},
};

use super::*;

const ALL: [&str; 3] = ["a", "b", "c"];

/// A node that claims all that is due and gives it back, again and again, without a turn.
async fn makes_suspects(memory: &MemoryStore) {
    let (mut store, incarnation, build, now) =
        (memory.clone(), Incarnation(uuid::Uuid::from_u128(7)), BuildId(7), Timestamp(i64::MAX / 2));
    store.register(&NewNode { incarnation, build, label: "made".into(), lease: secs(10), can: 1, now }).await.unwrap();
    for claims in 1..=6 {
        let claim = ClaimRequest {
            limit: 9,
            ahead: millis(0),
            forced_limit: 9,
            build,
            workflows: vec![("commit.hears".into(), 1)],
            queues: None,
            tags: Vec::new(),
        };
        let batch = Batch { incarnation, now, renew: false, items: Vec::new(), claim: Some(claim) };
        let claimed = store.commit(&batch).await.unwrap().claimed;
        assert!(claimed.len() == ALL.len() && claimed.iter().all(|claimed| claimed.claims == claims));
        let given_back = claimed.into_iter().map(|claimed| {
            let why = YieldReason::Released { wake_at: Some(Timestamp(1)), forced: true };
            Item::Yield(Yield { run: claimed.summary.run, epoch: claimed.summary.epoch, why })
        });
        let batch = Batch { incarnation, now, renew: false, items: given_back.collect(), claim: None };
        assert_eq!(store.commit(&batch).await.unwrap().outcomes, vec![Outcome::Done; ALL.len()]);
    }
    store.retire(incarnation, true, &[]).await.unwrap();
}

#[test]
fn suspects_that_wait_to_be_opened_as_their_node_leaves_are_given_back_without_a_mark() {
    system(async {
        let memory = MemoryStore::new();
        let mut runs = Vec::new();
        let stent = Stent::open("memory:").memory(memory.clone()).workflow::<Hears>().spawn().await.unwrap();
        for id in ALL {
            stent.dispatch(Dispatch::new(Hears).id(id).delay(hours(1))).await.unwrap();
            runs.push(stent.describe(id).await.unwrap().unwrap().summary.run);
        }
        stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        makes_suspects(&memory).await;

        let leaves = Arc::new(AtomicBool::new(false));
        let (leaving, mut more) = (leaves.clone(), 0);
        let mut faults = Faults::new(move |batch| {
            // Two tries behind the word of the node, the engine has heard it as well.
            more += u32::from(leaving.load(SeqCst));
            let marks = |item: &Item| matches!(item, Item::Heartbeat { position: 0, .. });
            batch.items.iter().position(marks).filter(|_| more < 3).map(|index| (index, How::Full))
        });
        faults.leaves = leaves;
        let (of_store, fired) = (memory.clone(), faults.fired.clone());
        let open = move |_| {
            let (memory, faults) = (of_store.clone(), faults.clone());
            async move { Ok(Box::new(Faulty { inner: Box::new(memory), faults }) as Box<dyn Store>) }
        };
        let stent = Stent::open("memory:").store(open).workflow::<Hears>().spawn().await.unwrap();
        eventually("the first is being marked, and the others wait", secs(10), async || !fired.lock().is_empty()).await;
        stent.shutdown(Shutdown::within(secs(20))).await.unwrap();
        for run in runs {
            let [row] = &memory.reader().summaries(&[run]).await.unwrap()[..] else { panic!("it has a row") };
            assert_eq!(row.owner, None, "{} was given back", row.id);
            assert_eq!(memory.reader().heartbeats(run).await.unwrap(), [], "{} has no mark", row.id);
        }
    });
}
