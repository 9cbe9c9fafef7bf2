//! Results that executions share: the first that asks for a key has the activity called, all others take its value; a holder that fails, gives
//! up or stays away makes room for the next; what was taken is in the taker's own log. On every store.

#![cfg(feature = "sqlite")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    time::Instant,
};

use stent::{Builder, Happening, Stent, prelude::*};
use support::{Home, eventually, system};
use tokio::sync::Semaphore;

/// Asks what something costs, and shares the answer.
#[derive(Serialize, Deserialize, Clone)]
struct Asks {
    what: String,
    scope: String,
    version: u32,
    ttl_ms: Option<u64>,
    /// Whether it waits for a word behind the answer.
    lingers: bool,
    /// How often the activity may be tried.
    tries: Option<u32>,
    parks: bool,
}

impl Asks {
    fn new(what: &str) -> Asks {
        Asks { what: what.into(), scope: String::new(), version: 0, ttl_ms: None, lingers: false, tries: None, parks: false }
    }

    fn memo(&self) -> Memo {
        let memo = Memo::key(&self.what).scope(self.scope.clone()).version(self.version);
        self.ttl_ms.map_or(memo.clone(), |ttl| memo.ttl(millis(ttl)))
    }

    fn call<W: Workflow>(&self, cx: &Cx<W>) -> stent::cx::Pending<Price> {
        let call = cx.call(Price { what: self.what.clone(), asker: cx.id().id.clone() }).memo(self.memo());
        let call = if self.parks { call.on_exhausted(OnExhausted::Park) } else { call };
        match self.tries {
            Some(tries) => call.retry(Retry::exponential(millis(1)).attempts(tries)),
            None => call,
        }
    }
}

impl Workflow for Asks {
    const NAME: &'static str = "memo.asks";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        let price = self.call(&cx).await?;
        if self.lingers {
            cx.signal::<Go>().await?;
        }
        Ok(price)
    }
}

/// The same, on one node only.
#[derive(Serialize, Deserialize)]
struct AsksHere(Asks);

impl Workflow for AsksHere {
    const NAME: &'static str = "memo.asks_here";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        Ok(self.0.call(&cx).await?)
    }
}

#[derive(Serialize, Deserialize)]
struct Go;

impl Signal for Go {
    const NAME: &'static str = "memo.go";
}

#[derive(Serialize, Deserialize)]
struct Price {
    what: String,
    asker: String,
}

impl Activity for Price {
    const NAME: &'static str = "memo.price";
    type Output = String;
    type Error = AppError;
}

/// Another activity with the same argument and the same keys.
#[derive(Serialize, Deserialize)]
struct Fee {
    what: String,
}

impl Activity for Fee {
    const NAME: &'static str = "memo.fee";
    type Output = u32;
    type Error = AppError;
}

#[derive(Serialize, Deserialize)]
struct Both {
    what: String,
}

impl Workflow for Both {
    const NAME: &'static str = "memo.both";
    type Output = (String, u32);
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<(String, u32), AppError> {
        let memo = || Memo::key(&self.what);
        let price = cx.call(Price { what: self.what.clone(), asker: "both".into() }).memo(memo()).await?;
        Ok((price, cx.call(Fee { what: self.what.clone() }).memo(memo()).await?))
    }
}

/// What the activities do, and what they have done.
#[derive(Clone)]
struct Shop {
    starts: Arc<AtomicU32>,
    /// Whether a call waits for a permit.
    gated: Arc<AtomicBool>,
    gate: Arc<Semaphore>,
    fails: Arc<AtomicBool>,
}

impl Shop {
    fn new() -> Shop {
        let gate = Arc::new(Semaphore::new(0));
        Shop { starts: Arc::default(), gated: Arc::default(), gate, fails: Arc::default() }
    }

    fn gated() -> Shop {
        let shop = Shop::new();
        shop.gated.store(true, SeqCst);
        shop
    }

    fn starts(&self) -> u32 {
        self.starts.load(SeqCst)
    }

    fn node(&self, home: &Home) -> Builder {
        let shop = self.clone();
        home.open()
            .workflow::<Asks>()
            .workflow::<Both>()
            .lease(secs(2))
            .passivate_after(millis(20))
            .activity(async move |call: Call<Price>| {
                let start = shop.starts.fetch_add(1, SeqCst) + 1;
                if shop.gated.load(SeqCst) {
                    shop.gate.acquire().await?.forget();
                }
                if shop.fails.load(SeqCst) {
                    return Err(AppError::new(format!("{} failed", call.asker)));
                }
                Ok(format!("{} #{start}", call.what))
            })
            .activity(async |_: Call<Fee>| Ok(7))
    }

    async fn begun(&self, starts: u32) {
        eventually("the activity is called", secs(20), async || self.starts() == starts).await;
    }
}

async fn start(builder: Builder) -> Stent {
    builder.spawn().await.unwrap()
}

async fn stop(stent: Stent) {
    stent.shutdown(Shutdown::within(secs(10))).await.unwrap();
}

async fn asks(stent: &Stent, id: &str, asks: &Asks) -> Handle<Asks> {
    stent.dispatch(Dispatch::new(asks.clone()).id(id)).await.unwrap()
}

/// Waits until an execution waits for somebody else's result.
async fn waits(stent: &Stent, id: &str) {
    let waiting = async || {
        let described = stent.describe(id).await.unwrap().unwrap();
        described.waits_for.iter().any(|wait| wait.contains("memo"))
    };
    eventually("it waits for the memo", secs(20), waiting).await;
}

#[test]
fn of_many_that_ask_at_once_one_calls_the_activity_and_all_have_its_value() {
    system(async {
        for home in Home::all() {
            let shop = Shop::gated();
            let stent = start(shop.node(&home)).await;
            let mut handles = vec![asks(&stent, "first", &Asks::new("tea")).await];
            shop.begun(1).await;
            for n in 0..100 {
                handles.push(asks(&stent, &format!("n{n}"), &Asks::new("tea")).await);
            }
            for n in 0..100 {
                waits(&stent, &format!("n{n}")).await;
            }
            shop.gate.add_permits(1);
            for handle in handles {
                assert_eq!(handle.result().await.unwrap(), "tea #1");
            }
            // And whoever comes later.
            assert_eq!(asks(&stent, "late", &Asks::new("tea")).await.result().await.unwrap(), "tea #1");
            assert_eq!(shop.starts(), 1);
            let mut events = stent.events("late", 0).await.unwrap().unwrap();
            let mut taken = Vec::new();
            while let Some(event) = events.next().await.unwrap() {
                if event.what == Happening::Shared {
                    taken.push((event.name, event.text));
                }
            }
            assert_eq!(taken, [(Some("memo.price".into()), Some("the result of first/1/1".into()))]);
            stop(stent).await;
        }
    });
}

#[test]
fn the_next_of_those_who_wait_takes_over_when_the_holder_fails_parks_or_is_cancelled() {
    system(async {
        for home in Home::all() {
            let shop = Shop::gated();
            let stent = start(shop.node(&home)).await;
            // Fails for good: errors are not shared.
            let fails = asks(&stent, "fails", &Asks { tries: Some(1), ..Asks::new("tea") }).await;
            shop.begun(1).await;
            let parks = asks(&stent, "parks", &Asks { tries: Some(1), parks: true, ..Asks::new("tea") }).await;
            waits(&stent, "parks").await;
            shop.fails.store(true, SeqCst);
            shop.gate.add_permits(1);
            assert!(fails.result().await.unwrap_err().to_string().contains("fails failed"));
            shop.begun(2).await;
            // Parks: whoever waits does not wait for an operator.
            let cancelled = asks(&stent, "cancelled", &Asks::new("tea")).await;
            waits(&stent, "cancelled").await;
            shop.gate.add_permits(1);
            shop.begun(3).await;
            shop.fails.store(false, SeqCst);
            let last = asks(&stent, "last", &Asks::new("tea")).await;
            waits(&stent, "last").await;
            // Cancelled, and so over.
            stent.cancel(Cancel::new("cancelled")).await.unwrap();
            cancelled.result().await.unwrap_err();
            shop.begun(4).await;
            shop.gate.add_permits(10);
            assert_eq!(last.result().await.unwrap(), "tea #4");
            // The parked one is retried, asks again, and finds the value.
            stent.retry_parked(RetryParked::new("parks")).await.unwrap();
            assert_eq!(parks.result().await.unwrap(), "tea #4");
            assert_eq!(shop.starts(), 4);
            stop(stent).await;
        }
    });
}

#[test]
fn another_activity_scope_version_or_key_has_a_result_of_its_own() {
    system(async {
        for home in Home::all() {
            let shop = Shop::new();
            let stent = start(shop.node(&home)).await;
            let tea = Asks::new("tea");
            let all = [
                (tea.clone(), "tea #1"),
                (Asks { scope: "eu".into(), ..tea.clone() }, "tea #2"),
                (Asks { version: 1, ..tea.clone() }, "tea #3"),
                (Asks::new("milk"), "milk #4"),
            ];
            for round in 0..2 {
                for (n, (ask, expected)) in all.iter().enumerate() {
                    assert_eq!(asks(&stent, &format!("{round}/{n}"), ask).await.result().await.unwrap(), *expected);
                }
            }
            let both = stent.dispatch(Dispatch::new(Both { what: "tea".into() })).await.unwrap();
            assert_eq!(both.result().await.unwrap(), ("tea #1".into(), 7));
            stop(stent).await;
        }
    });
}

#[test]
fn a_result_counts_for_its_time_and_not_longer() {
    system(async {
        for home in Home::all() {
            let shop = Shop::new();
            let stent = start(shop.node(&home)).await;
            let tea = Asks { ttl_ms: Some(300), ..Asks::new("tea") };
            let began = Instant::now();
            assert_eq!(asks(&stent, "0", &tea).await.result().await.unwrap(), "tea #1");
            let mut n = 0;
            // However often it is asked: anew once the time is over, and not before.
            while shop.starts() == 1 {
                n += 1;
                let price = asks(&stent, &format!("again {n}"), &tea).await.result().await.unwrap();
                assert_eq!(price, format!("tea #{}", shop.starts()));
            }
            assert!(began.elapsed() >= millis(300), "it was called anew too early: {:?}", began.elapsed());
            stop(stent).await;
        }
    });
}

#[test]
fn what_is_forgotten_is_asked_for_anew_also_by_those_who_wait_and_what_was_taken_stays() {
    system(async {
        for home in Home::all() {
            let shop = Shop::new();
            let stent = start(shop.node(&home)).await;
            let [tea, milk] = ["tea", "milk"].map(Asks::new);
            let eu = Asks { scope: "eu".into(), ..tea.clone() };
            let taken = asks(&stent, "taken", &Asks { lingers: true, ..tea.clone() }).await;
            for (n, ask) in [&tea, &milk, &eu].into_iter().enumerate() {
                asks(&stent, &format!("{n}"), ask).await.result().await.unwrap();
            }
            assert_eq!(shop.starts(), 3);
            assert_eq!(stent.forget_memo(ForgetMemo::one::<Fee>(tea.memo())).await.unwrap(), 0, "of another activity");
            assert_eq!(stent.forget_memo(ForgetMemo::one::<Price>(tea.memo())).await.unwrap(), 1);
            assert_eq!(stent.forget_memo(ForgetMemo::one::<Price>(tea.memo())).await.unwrap(), 0);
            assert_eq!(asks(&stent, "anew", &tea).await.result().await.unwrap(), "tea #4");
            assert_eq!(asks(&stent, "kept", &milk).await.result().await.unwrap(), "milk #2");
            assert_eq!(stent.forget_memo(ForgetMemo::scope::<Price>("eu")).await.unwrap(), 1);
            assert_eq!(stent.forget_memo(ForgetMemo::activity::<Price>()).await.unwrap(), 2);

            // While it is under way: the holder has its result for itself, the others have it called anew.
            shop.gated.store(true, SeqCst);
            let holds = asks(&stent, "holds", &tea).await;
            shop.begun(5).await;
            let waiting = asks(&stent, "waiting", &tea).await;
            waits(&stent, "waiting").await;
            assert_eq!(stent.forget_memo(ForgetMemo::one::<Price>(tea.memo())).await.unwrap(), 1);
            shop.begun(6).await;
            shop.gate.add_permits(1);
            assert_eq!(holds.result().await.unwrap(), "tea #5");
            shop.gate.add_permits(1);
            assert_eq!(waiting.result().await.unwrap(), "tea #6");
            assert_eq!(asks(&stent, "late", &tea).await.result().await.unwrap(), "tea #6");
            let unfit = ForgetMemo::one::<Price>(tea.memo().scope("s".repeat(256)));
            assert!(stent.forget_memo(unfit).await.unwrap_err().to_string().contains("256 bytes"));

            // What was taken is in the taker's log.
            stop(stent).await;
            let stent = start(shop.node(&home)).await;
            stent.signal(SendSignal::new("taken", &Go)).await.unwrap();
            let again = stent.handle::<Asks>("taken").await.unwrap().unwrap();
            assert_eq!(again.result().await.unwrap(), "tea #1");
            assert_eq!(taken.id(), again.id());
            stop(stent).await;
        }
    });
}

#[test]
fn those_who_wait_are_asleep_and_are_told_over_a_restart() {
    system(async {
        for home in Home::all() {
            let shop = Shop::gated();
            let stent = start(shop.node(&home)).await;
            asks(&stent, "first", &Asks::new("tea")).await;
            shop.begun(1).await;
            for n in 0..5 {
                asks(&stent, &format!("n{n}"), &Asks::new("tea")).await;
            }
            for n in 0..5 {
                let asleep = async || stent.describe(&format!("n{n}")).await.unwrap().unwrap().summary.owner.is_none();
                eventually("it has left memory", secs(20), asleep).await;
            }
            // The holder's attempt dies with this life, and the next makes it again: it still holds the key.
            stent.shutdown(Shutdown::within(millis(1))).await.unwrap();
            let stent = start(shop.node(&home)).await;
            shop.begun(2).await;
            shop.gate.add_permits(2);
            for id in ["first", "n0", "n1", "n2", "n3", "n4"] {
                let handle = stent.handle::<Asks>(id).await.unwrap().unwrap();
                assert_eq!(handle.result().await.unwrap(), "tea #2", "{id}");
            }
            assert_eq!(shop.starts(), 2);
            stop(stent).await;
        }
    });
}

#[test]
fn a_key_whose_holder_nobody_takes_up_goes_to_the_next_and_the_holder_takes_its_value_when_it_is_back() {
    system(async {
        for home in Home::shared() {
            let shop = Shop::gated();
            // Only this node can run the holder.
            let here = start(shop.node(&home).workflow::<AsksHere>()).await;
            let there = start(shop.node(&home)).await;
            let holder = Dispatch::new(AsksHere(Asks::new("tea"))).id("holder");
            here.dispatch(holder).await.unwrap();
            shop.begun(1).await;
            let waiting = asks(&there, "waiting", &Asks::new("tea")).await;
            waits(&there, "waiting").await;
            here.shutdown(Shutdown::within(millis(1))).await.unwrap();
            shop.begun(2).await;
            shop.gated.store(false, SeqCst);
            shop.gate.add_permits(2);
            assert_eq!(waiting.result().await.unwrap(), "tea #2");
            let back = start(shop.node(&home).workflow::<AsksHere>()).await;
            let holder = back.handle::<AsksHere>("holder").await.unwrap().unwrap();
            assert_eq!(holder.result().await.unwrap(), "tea #2");
            assert_eq!(shop.starts(), 2);
            stop(back).await;
            stop(there).await;
        }
    });
}

#[test]
fn a_paused_holder_lets_the_next_have_the_key_and_takes_its_value_though_it_has_a_result_of_its_own() {
    system(async {
        for home in Home::all() {
            let shop = Shop::gated();
            let stent = start(shop.node(&home)).await;
            let holder = asks(&stent, "holder", &Asks::new("tea")).await;
            shop.begun(1).await;
            let waiting = asks(&stent, "waiting", &Asks::new("tea")).await;
            waits(&stent, "waiting").await;
            stent.pause(PauseExecution::new("holder", "ada")).await.unwrap();
            // It is under way, so whoever waits goes on waiting; its result is kept, and then nobody has the run.
            assert_eq!(shop.starts(), 1);
            shop.gate.add_permits(1);
            shop.begun(2).await;
            shop.gate.add_permits(1);
            assert_eq!(waiting.result().await.unwrap(), "tea #2");
            stent.resume("holder").await.unwrap();
            assert_eq!(holder.result().await.unwrap(), "tea #2");
            assert_eq!(shop.starts(), 2);
            stop(stent).await;
        }
    });
}

#[test]
fn nodes_share_results_and_each_is_called_for_once_whoever_asks() {
    system(async {
        for home in Home::shared() {
            let shop = Shop::new();
            let nodes = [start(shop.node(&home)).await, start(shop.node(&home)).await];
            let mut handles = Vec::new();
            for n in 0..200 {
                let ask = Asks::new(&format!("tea {}", n % 10));
                handles.push((n, asks(&nodes[n % 3 % 2], &format!("n{n}"), &ask).await));
            }
            let mut prices = std::collections::BTreeMap::new();
            for (n, handle) in handles {
                let price = handle.result().await.unwrap();
                assert_eq!(*prices.entry(n % 10).or_insert_with(|| price.clone()), price);
            }
            assert_eq!((shop.starts(), prices.len()), (10, 10));
            for node in nodes {
                stop(node).await;
            }
        }
    });
}

#[test]
fn values_that_count_no_more_are_taken_out_however_many_they_are() {
    system(async {
        let home = Home::both().into_iter().next().unwrap();
        let Home::Memory(store) = &home else { panic!("the first is in memory") };
        let rows = async || {
            let lines = stent::store::Store::reader(store).snapshot().await.unwrap();
            lines.into_iter().filter(|line| line.starts_with("memo")).count()
        };
        let shop = Shop::new();
        let stent = start(shop.node(&home)).await;
        let mut handles = Vec::new();
        for n in 0..250 {
            let ask = Asks { ttl_ms: Some(4_000), ..Asks::new(&n.to_string()) };
            handles.push(asks(&stent, &format!("n{n}"), &ask).await);
        }
        for handle in handles {
            handle.result().await.unwrap();
        }
        assert_eq!(rows().await, 250, "they count");
        eventually("they are gone", secs(20), async || rows().await == 0).await;
        stop(stent).await;
    });
}
