//! The store is in trouble for a long time: it is too slow for what has piled up, its disk is full while the core starts anew,
//! somebody holds its lock for longer than the lease. Nothing is lost, and all goes on by itself when it is over.

use super::*;

/// A node whose store does what its faults say, and which opens as `open` allows it.
fn node(faults: &Faults, open: impl Fn() -> Result<(), StoreError> + Send + Sync + 'static) -> stent::Builder {
    let (memory, faults) = (MemoryStore::new(), faults.clone());
    let store = move |_| {
        let (memory, faults, opened) = (memory.clone(), faults.clone(), open());
        async move { opened.map(|()| Box::new(Faulty { inner: Box::new(memory), faults }) as Box<dyn Store>) }
    };
    let builder = Stent::open("memory:").store(store).workflow::<Large>().workflow::<Once>();
    builder.activity(async |call: Call<Quick>| Ok(call.number))
}

/// Hands back what it got.
#[derive(Serialize, Deserialize)]
struct Large {
    text: String,
}

impl Workflow for Large {
    const NAME: &'static str = "commit.large";
    type Output = usize;
    type Error = AppError;

    async fn run(self, _: Cx<Self>) -> Result<usize, AppError> {
        Ok(self.text.len())
    }
}

async fn all_end(stent: &Stent, numbers: std::ops::Range<u64>) {
    let all = numbers.map(|number| async move {
        let handle = stent.dispatch(Dispatch::new(Once { number }).id(format!("x-{number}"))).await.unwrap();
        assert_eq!(handle.result().await.unwrap(), format!("{number} 5 {number}"));
    });
    futures::future::join_all(all).await;
}

#[test]
fn what_is_too_much_at_once_for_the_store_goes_in_in_smaller_portions() {
    system(async {
        let faults = Faults::new(|batch| (batch.items.len() > 3).then_some((0, How::Busy)));
        let stent = node(&faults, || Ok(())).spawn().await.unwrap();
        all_end(&stent, 0..50).await;
        assert!(!faults.fired.lock().is_empty(), "it was too much at least once");
        stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
    });
}

#[test]
fn what_has_piled_up_goes_in_in_portions_that_a_server_can_take() {
    const MIB: usize = 1 << 20;
    system(async {
        let (full, most) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU32::new(0)));
        let (is_full, seen) = (full.clone(), most.clone());
        let faults = Faults::new(move |batch| {
            let bytes = batch.items.iter().map(|item| match item {
                Item::Turn(turn) => turn.record.body.len(),
                _ => 0,
            });
            seen.fetch_max(u32::try_from(bytes.sum::<usize>() / MIB).unwrap(), SeqCst);
            (is_full.load(SeqCst) && !batch.items.is_empty()).then_some((0, How::Full))
        });
        let stent = node(&faults, || Ok(())).spawn().await.unwrap();
        let all = (0..40).map(|number| {
            let large = Large { text: "x".repeat(MIB) };
            stent.dispatch(Dispatch::new(large).id(format!("large-{number}")))
        });
        let room = async {
            eventually("it was tried several times", secs(20), async || faults.fired.lock().len() > 4).await;
            full.store(false, SeqCst);
        };
        let (handles, ()) = futures::join!(futures::future::join_all(all), room);
        for handle in handles {
            assert_eq!(handle.unwrap().result().await.unwrap(), MIB);
        }
        let most = most.load(SeqCst);
        assert!((8..=16).contains(&most), "{most} MiB at once");
        stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
    });
}

#[test]
fn a_core_that_cannot_start_because_the_disk_is_full_waits_for_room_and_does_not_give_up() {
    for error in [
        || StoreError::Full { path: "here".into() },
        || StoreError::Busy { reason: "a test holds the lock".into() },
        || StoreError::InUse { path: "here".into(), pid: 7 },
    ] {
        system(async move {
            let (faults, opened) = (Faults::at(0, How::Io), AtomicU32::new(0));
            // The first core opens it, and then it is refused more often than a runtime takes.
            let open = move || if (1..12).contains(&opened.fetch_add(1, SeqCst)) { Err(error()) } else { Ok(()) };
            let stent = node(&faults, open).spawn().await.unwrap();
            let handle = stent.dispatch(Dispatch::new(Large { text: "large".into() })).await.unwrap();
            assert_eq!(handle.result().await.unwrap(), 5);
            assert_eq!(faults.entered.load(SeqCst), 2, "one life ended, and one began behind it");
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        });
    }
}

#[test]
fn a_node_alone_keeps_its_lease_while_somebody_holds_the_lock_for_longer_than_that() {
    system(async {
        let locked = Arc::new(AtomicBool::new(false));
        let is_locked = locked.clone();
        let faults = Faults::new(move |_| is_locked.load(SeqCst).then_some((0, How::BusyAfter(millis(600)))));
        let stent = node(&faults, || Ok(())).lease(secs(1)).spawn().await.unwrap();
        all_end(&stent, 0..3).await;
        locked.store(true, SeqCst);
        let going_on = all_end(&stent, 3..6);
        let lock = async {
            eventually("it was locked for some leases", secs(30), async || faults.fired.lock().len() >= 5).await;
            locked.store(false, SeqCst);
        };
        futures::join!(going_on, lock);
        assert_eq!(faults.entered.load(SeqCst), 1, "it is the same life");
        stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
    });
}
