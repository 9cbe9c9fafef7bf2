//! A program whose values have a new shape goes on with what was recorded in the old one: with arguments, results, errors, messages, shared
//! results, compensations, whatever holds such a value, on every store. How the new shape comes of the old one is said once, with serde.

#![cfg(feature = "sqlite")]

use std::sync::{Arc, Mutex};

use stent::{Stent, prelude::*, store::Status};
use support::{Home, eventually, system};

mod support;

/// What was paid, in order.
type Book = Arc<Mutex<Vec<i64>>>;

/// What an execution does, besides holding amounts.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Debug)]
enum Does {
    /// Pays, is refused, hears of a child that has ended and one that has not, and of a tip.
    Hears,
    /// Undoes what it paid when it has had a tip.
    Undoes,
    /// Its call does not end in the first life.
    Hangs,
    /// Goes on as a run that waits for a tip.
    Continues,
    Waits,
    /// Pays by a key, once for all.
    Shares,
}

/// The same program around an amount that is given to it.
macro_rules! program {
    ($module:ident { $($amount:item)+ }) => {
        mod $module {
            use super::*;

            $($amount)+

            #[derive(Serialize, Deserialize)]
            pub(super) struct Order {
                pub(super) amount: Amount,
                pub(super) does: Does,
            }

            impl Workflow for Order {
                const NAME: &'static str = "reshaped.order";
                type Output = Amount;
                type Error = AppError;

                async fn run(self, cx: Cx<Self>) -> Result<Amount, AppError> {
                    let Order { amount, does } = self;
                    let cents = amount.cents;
                    match does {
                        Does::Hears => {
                            let mut sum = cx.call(Pay { amount: amount.clone() }).await?.cents;
                            match cx.call(Pay { amount: Amount::of(REFUSED) }).retry(Retry::never()).await {
                                Err(CallError::Failed(Refused { amount })) => sum += amount.cents,
                                other => panic!("{other:?}"),
                            }
                            sum += cx.child(Order { amount: amount.clone(), does: Does::Shares }).await?.cents;
                            let waits = Order { amount, does: Does::Waits };
                            sum += cx.child(waits).id(format!("{}-child", cx.id().id)).await?.cents;
                            Ok(Amount::of(sum + cx.signal::<Tip>().await?.0.cents))
                        }
                        Does::Undoes => {
                            let undone: Result<(), AppError> = cx
                                .saga(async |saga| {
                                    let undo = |paid: &Amount| Pay { amount: Amount::of(-paid.cents) };
                                    saga.call(Pay { amount: amount.clone() }).undo_with(move |_| undo(&amount)).await?;
                                    cx.signal::<Tip>().await?;
                                    Err(AppError::new("nothing comes of it"))
                                })
                                .await;
                            undone.map(|()| Amount::of(0)).or(Ok(Amount::of(-cents)))
                        }
                        Does::Hangs => Ok(cx.call(Pay { amount }).await?),
                        Does::Continues => Ok(cx.continue_as_new(Order { amount, does: Does::Waits }).await?),
                        Does::Waits => Ok(Amount::of(cents + cx.signal::<Tip>().await?.0.cents)),
                        Does::Shares => Ok(cx.call(Pay { amount }).memo(Memo::key("shared").forever()).await?),
                    }
                }
            }

            #[derive(Serialize, Deserialize)]
            pub(super) struct Tip(pub(super) Amount);

            impl Signal for Tip {
                const NAME: &'static str = "reshaped.tip";
            }

            #[derive(Serialize, Deserialize)]
            pub(super) struct Pay {
                pub(super) amount: Amount,
            }

            #[derive(Serialize, Deserialize, Debug, thiserror::Error)]
            #[error("refused")]
            pub(super) struct Refused {
                amount: Amount,
            }

            impl Activity for Pay {
                const NAME: &'static str = "reshaped.pay";
                type Output = Amount;
                type Error = Refused;
            }

            /// What is as `hangs` is begun and never ends.
            pub(super) async fn start(home: &Home, book: &Book, hangs: i64) -> Stent {
                let book = book.clone();
                let pay = move |call: Call<Pay>| {
                    let book = book.clone();
                    async move {
                        let cents = call.amount.cents;
                        book.lock().unwrap().push(cents);
                        match cents {
                            REFUSED => Err(Refused { amount: Amount::of(REFUSED) }),
                            cents if cents == hangs => std::future::pending().await,
                            cents => Ok(Amount::of(cents)),
                        }
                    }
                };
                home.open().workflow::<Order>().activity(pay).spawn().await.unwrap()
            }
        }
    };
}

const REFUSED: i64 = 1_000;

program!(was {
    #[derive(Serialize, Deserialize, Clone, Debug)]
    pub(super) struct Amount {
        pub(super) cents: i64,
    }

    impl Amount {
        pub(super) fn of(cents: i64) -> Amount {
            Amount { cents }
        }
    }
});

program!(is {
    /// An amount has a currency now.
    #[derive(Serialize, Deserialize, Clone, Debug)]
    #[serde(from = "Stored")]
    pub(super) struct Amount {
        pub(super) cents: i64,
        pub(super) currency: String,
    }

    /// Every shape that an amount was ever stored in, newest first.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Stored {
        Now { cents: i64, currency: String },
        Was { cents: i64 },
    }

    impl From<Stored> for Amount {
        fn from(stored: Stored) -> Amount {
            match stored {
                Stored::Now { cents, currency } => Amount { cents, currency },
                Stored::Was { cents } => Amount { cents, currency: "EUR".to_owned() },
            }
        }
    }

    impl Amount {
        pub(super) fn of(cents: i64) -> Amount {
            Amount { cents, currency: "EUR".to_owned() }
        }
    }
});

// Somebody forgot what is stored.
program!(careless {
    #[derive(Serialize, Deserialize, Clone, Debug)]
    pub(super) struct Amount {
        pub(super) cents: i64,
        pub(super) currency: String,
    }

    impl Amount {
        pub(super) fn of(cents: i64) -> Amount {
            Amount { cents, currency: "EUR".to_owned() }
        }
    }
});

async fn stop(stent: Stent) {
    stent.shutdown(Shutdown::within(millis(300))).await.unwrap();
}

const OPEN: [&str; 4] = ["hears", "undoes", "hangs", "continues"];

#[test]
fn what_was_recorded_in_an_older_shape_is_read_in_the_new_one_and_code_that_cannot_read_it_changes_nothing() {
    system(async {
        for home in Home::all() {
            let book = Book::default();
            let paid = |so_far: &[i64]| {
                let mut paid = book.lock().unwrap().clone();
                paid.sort_unstable();
                paid == so_far
            };
            let stent = was::start(&home, &book, 13).await;
            let does = [(5, Does::Hears), (7, Does::Undoes), (13, Does::Hangs), (20, Does::Continues)];
            for (id, (cents, does)) in OPEN.into_iter().zip(does) {
                stent.dispatch(Dispatch::new(was::Order { amount: was::Amount::of(cents), does }).id(id)).await.unwrap();
            }
            stent.signal(SendSignal::new("hears", &was::Tip(was::Amount::of(1)))).await.unwrap();
            let shares = was::Order { amount: was::Amount::of(99), does: Does::Shares };
            eventually("one child has ended, and one is there", secs(20), async || {
                stent.describe("hears-child").await.unwrap().is_some()
            })
            .await;
            stent.dispatch(Dispatch::new(shares).id("ended")).await.unwrap().result().await.unwrap();
            eventually("all has been paid", secs(20), async || paid(&[5, 5, 7, 13, REFUSED])).await;
            eventually("one has gone on", secs(20), async || {
                stent.describe("continues").await.unwrap().unwrap().summary.id.run_no == 2
            })
            .await;
            stop(stent).await;

            let stent = careless::start(&home, &book, 0).await;
            for id in ["undoes", "hears-child", "continues"] {
                stent.signal(SendSignal::new(id, &careless::Tip(careless::Amount::of(2)))).await.unwrap();
            }
            for id in ["undoes", "hears-child", "continues", "hangs"] {
                eventually("it is blocked", secs(20), async || {
                    let known = stent.describe(id).await.unwrap().unwrap();
                    assert_eq!(known.summary.status, Status::Active);
                    known.moved_by.contains("missing field `currency`")
                })
                .await;
            }
            stop(stent).await;
            assert!(paid(&[5, 5, 7, 13, REFUSED]));

            let stent = is::start(&home, &book, 0).await;
            // This is still the build that they are blocked for. Another one would have taken them up by itself.
            for id in ["undoes", "hears-child", "continues", "hangs"] {
                stent.resume(Resume::new(id)).await.unwrap();
            }
            let ends = [5 + REFUSED + 5 + (5 + 2) + 1, -7, 13, 22, 5];
            for (id, end) in OPEN.into_iter().chain(["ended"]).zip(ends) {
                let amount = stent.handle::<is::Order>(id).await.unwrap().unwrap().result().await.unwrap();
                assert_eq!((amount.cents, &*amount.currency), (end, "EUR"), "{id}");
            }
            let shares = is::Order { amount: is::Amount::of(99), does: Does::Shares };
            let shared = stent.dispatch(Dispatch::new(shares).id("late")).await.unwrap().result().await.unwrap();
            assert_eq!(shared.cents, 5, "the result of another's call");
            assert!(paid(&[-7, 5, 5, 7, 13, 13, REFUSED]), "{book:?}");
            stop(stent).await;
        }
    });
}
