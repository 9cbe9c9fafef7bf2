//! Failures as data: an error says whether and when to try again, and stays what it is wherever it goes, on every store.

#![cfg(feature = "sqlite")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use stent::{Advice, RunError, Stent, prelude::*};
use support::{Home, system};

mod support;

#[derive(Debug, Clone, PartialEq, thiserror::Error, Serialize, Deserialize)]
enum PayError {
    #[error("declined: {0}")]
    Declined(String),
    #[error("busy")]
    Busy { millis: u64 },
    #[error("unreachable")]
    Unreachable,
}

/// Fails at its first attempt as it is told, then succeeds.
#[derive(Serialize, Deserialize)]
struct Pay {
    fails: PayError,
}

impl Activity for Pay {
    const NAME: &'static str = "failures.pay";
    type Output = u32;
    type Error = PayError;

    fn advice(error: &PayError) -> Advice {
        match error {
            PayError::Declined(_) => Advice::give_up().named("declined"),
            PayError::Busy { millis } => Advice::after(Duration::from_millis(*millis)),
            PayError::Unreachable => Advice::default().named("unreachable"),
        }
    }
}

/// Pays once, under a policy that never gives up by itself, but for one name.
#[derive(Serialize, Deserialize)]
struct Payment {
    fails: PayError,
    except: String,
}

impl Workflow for Payment {
    const NAME: &'static str = "failures.payment";
    type Output = u32;
    type Error = PayError;

    async fn run(self, cx: Cx<Self>) -> Result<u32, PayError> {
        let policy = Retry::fixed(millis(1)).jitter_percent(0).except(self.except);
        match cx.call(Pay { fails: self.fails }).retry(policy).await {
            Ok(attempt) => Ok(attempt),
            Err(CallError::Failed(error)) => Err(error),
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_error_says_by_value_and_by_name_whether_and_when_it_is_tried_again() {
    system(async {
        for home in Home::all() {
            let begun: Arc<Mutex<Vec<Instant>>> = Arc::default();
            let theirs = begun.clone();
            let stent = home
                .open()
                .workflow::<Payment>()
                .activity(async move |call: Call<Pay>| {
                    theirs.lock().unwrap().push(Instant::now());
                    if call.attempt() == 1 { Err(call.into_inner().fails) } else { Ok(call.attempt()) }
                })
                .start()
                .await
                .unwrap();
            let stent = Stent::of(stent).await.unwrap();
            let pay = async |fails: PayError, except: &str| {
                begun.lock().unwrap().clear();
                let payment = Payment { fails, except: except.to_owned() };
                let result = stent.dispatch(Dispatch::new(payment)).await.unwrap().result().await;
                (result, begun.lock().unwrap().clone())
            };

            // By value: final, although the policy would go on for ever.
            let (declined, attempts) = pay(PayError::Declined("no money".into()), "").await;
            assert!(matches!(declined, Err(RunError::Failed(PayError::Declined(why))) if why == "no money"));
            assert_eq!(attempts.len(), 1);

            // By value: later, although the policy would go on at once.
            let (paid, attempts) = pay(PayError::Busy { millis: 150 }, "").await;
            assert_eq!((paid.unwrap(), attempts.len()), (2, 2));
            assert!(attempts[1] - attempts[0] >= Duration::from_millis(150), "{:?}", attempts[1] - attempts[0]);

            // By name, which is the policy's business.
            let (unreachable, attempts) = pay(PayError::Unreachable, "unreachable").await;
            assert!(matches!(unreachable, Err(RunError::Failed(PayError::Unreachable))));
            assert_eq!(attempts.len(), 1);
            assert_eq!(pay(PayError::Unreachable, "declined").await.0.unwrap(), 2);
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}

/// How often the closures of [`Steps`] ran. In no result: a replay runs none of them.
static TRIES: AtomicU32 = AtomicU32::new(0);

#[derive(Serialize, Deserialize)]
struct Steps;

impl Workflow for Steps {
    const NAME: &'static str = "failures.steps";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        let policy = Retry::fixed(millis(1));
        let fails = |error: AppError| {
            TRIES.fetch_add(1, SeqCst);
            Err::<(), _>(error)
        };
        let inline = cx.step("inline", async || fails(AppError::new("no use").give_up())).retry(policy.clone()).await;
        let blocking = cx.blocking("blocking", move || fails(AppError::new("no use either").named("hopeless")));
        let blocking = blocking.retry(policy.except("hopeless")).await;
        Ok(format!("{} {}", inline.unwrap_err(), blocking.unwrap_err()))
    }
}

#[test]
fn the_error_of_a_step_says_so_as_well() {
    system(async {
        for home in Home::all() {
            let stent = Stent::of(home.open().workflow::<Steps>().start().await.unwrap()).await.unwrap();
            TRIES.store(0, SeqCst);
            let said = stent.dispatch(Dispatch::new(Steps)).await.unwrap().result().await.unwrap();
            assert_eq!((said.as_str(), TRIES.load(SeqCst)), ("no use no use either", 2));
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}

/// So many workflows above one another; the lowest calls what fails.
#[derive(Serialize, Deserialize)]
struct Tower {
    floors: u32,
    panics: bool,
}

impl Workflow for Tower {
    const NAME: &'static str = "failures.tower";
    type Output = ();
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<(), AppError> {
        let Tower { floors, panics } = self;
        match floors {
            0 => cx.call(Fall { panics }).retry(Retry::fixed(millis(1)).attempts(2)).await?,
            _ => cx.child(Tower { floors: floors - 1, panics }).id(format!("floor-{}-{panics}", floors - 1)).await?,
        }
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Fall {
    panics: bool,
}

impl Activity for Fall {
    const NAME: &'static str = "failures.fall";
    type Output = ();
    type Error = AppError;
}

#[derive(Debug, thiserror::Error)]
#[error("the ladder slipped")]
struct Slipped(#[source] std::fmt::Error);

#[test]
fn a_failure_keeps_its_message_name_causes_and_origin_over_any_number_of_hops_and_over_a_restart() {
    system(async {
        for home in Home::all() {
            for life in 0..2 {
                let builder = home.open().workflow::<Tower>().activity(async |call: Call<Fall>| {
                    assert!(!call.panics, "the roof came down");
                    Err::<(), _>(AppError::from(Slipped(std::fmt::Error)).named("accident"))
                });
                let stent = Stent::of(builder.start().await.unwrap()).await.unwrap();
                for (panics, message, name) in [(false, "the ladder slipped", "accident"), (true, "the roof came down", "panic")]
                {
                    let id = format!("tower-{panics}");
                    let handle = if life == 0 {
                        stent.dispatch(Dispatch::new(Tower { floors: 3, panics }).id(id)).await.unwrap()
                    } else {
                        stent.handle::<Tower>(id).await.unwrap().expect("it is in the store")
                    };
                    let Err(RunError::Failed(error)) = handle.result().await else { panic!("it fell") };
                    assert_eq!((error.to_string().as_str(), error.name()), (message, Some(name)));
                    assert_eq!(error.causes().len(), usize::from(!panics), "{:?}", error.causes());
                    let origin = error.origin().expect("it came from afar");
                    assert_eq!(origin.to_string(), format!("failures.fall, attempt 2 of floor-0-{panics}/1/1"));
                }
                stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
            }
        }
    });
}
