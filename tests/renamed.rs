//! A program whose workflows and activities have new names goes on with the runs that it has begun under the old ones, on every store.

#![cfg(feature = "sqlite")]

use std::sync::{Arc, Mutex};

use stent::{Builder, Error, Stent, prelude::*};
use support::{Home, eventually, system};

mod support;

#[derive(Serialize, Deserialize)]
struct Word;

impl Signal for Word {
    const NAME: &'static str = "renamed.word";
}

/// What was paid, in order.
type Book = Arc<Mutex<Vec<i32>>>;

/// The same program, under names that are given to it.
macro_rules! program {
    ($module:ident, $order:literal $order_was:expr, $ship:literal $ship_was:expr, $pay:literal $pay_was:expr) => {
        mod $module {
            use super::*;

            /// Pays, waits for a child and a word, and pays again, all for nothing: what was paid first is undone.
            #[derive(Serialize, Deserialize)]
            pub(super) struct Order {
                pub(super) first: i32,
            }

            impl Workflow for Order {
                const NAME: &'static str = $order;
                const ALIASES: &'static [&'static str] = $order_was;
                type Output = i32;
                type Error = AppError;

                async fn run(self, cx: Cx<Self>) -> Result<i32, AppError> {
                    let (mut sum, first) = (0, self.first);
                    let undone: Result<(), AppError> = cx
                        .saga(async |saga| {
                            sum += saga.call(Pay { amount: first }).undo_with(|_| Pay { amount: -1 }).await?;
                            sum += cx.child(Ship).id(format!("ship-{first}")).await?;
                            cx.signal::<Word>().await?;
                            sum += cx.call(Pay { amount: 10 }).await?;
                            Err(AppError::new("nothing comes of it"))
                        })
                        .await;
                    assert!(undone.is_err());
                    Ok(sum)
                }
            }

            #[derive(Serialize, Deserialize)]
            pub(super) struct Ship;

            impl Workflow for Ship {
                const NAME: &'static str = $ship;
                const ALIASES: &'static [&'static str] = $ship_was;
                type Output = i32;
                type Error = AppError;

                async fn run(self, cx: Cx<Self>) -> Result<i32, AppError> {
                    cx.signal::<Word>().await?;
                    Ok(100)
                }
            }

            #[derive(Serialize, Deserialize)]
            pub(super) struct Pay {
                pub(super) amount: i32,
            }

            impl Activity for Pay {
                const NAME: &'static str = $pay;
                const ALIASES: &'static [&'static str] = $pay_was;
                type Output = i32;
                type Error = AppError;
            }

            /// What is as `hangs` is begun and never ends.
            pub(super) async fn start(home: &Home, book: &Book, hangs: i32) -> Stent {
                let book = book.clone();
                let pay = move |call: Call<Pay>| {
                    let book = book.clone();
                    async move {
                        book.lock().unwrap().push(call.amount);
                        if call.amount == hangs {
                            std::future::pending::<()>().await;
                        }
                        Ok(call.amount)
                    }
                };
                home.open().workflow::<Order>().workflow::<Ship>().activity(pay).spawn().await.unwrap()
            }
        }
    };
}

program!(old, "order" & [], "ship" & [], "pay" & []);
program!(new, "shop.order" & ["orders.place", "order"], "shop.ship" & ["ship"], "shop.pay" & ["pay"]);

async fn stop(stent: Stent) {
    stent.shutdown(Shutdown::within(millis(300))).await.unwrap();
}

#[test]
fn runs_children_open_calls_and_compensations_of_former_names_go_on_under_the_new_ones() {
    system(async {
        for home in Home::all() {
            let book = Book::default();
            let paid = |so_far: &[i32]| {
                let mut paid = book.lock().unwrap().clone();
                paid.sort_unstable();
                paid == so_far
            };
            let stent = old::start(&home, &book, 2).await;
            for first in [1, 2] {
                stent.dispatch(Dispatch::new(old::Order { first }).id(format!("order-{first}"))).await.unwrap();
            }
            eventually("its child is there", secs(20), async || stent.describe("ship-1").await.unwrap().is_some()).await;
            eventually("both have paid", secs(20), async || paid(&[1, 2])).await;
            stop(stent).await;

            let stent = new::start(&home, &book, 0).await;
            // The one that never ended is tried again, under the name that it has now.
            eventually("the second child is there", secs(20), async || stent.describe("ship-2").await.unwrap().is_some()).await;
            for first in [1, 2] {
                let again = Dispatch::new(new::Order { first }).id(format!("order-{first}")).if_in_use(IfInUse::Attach);
                let handle = stent.dispatch(again).await.unwrap();
                stent.signal(SendSignal::new(format!("ship-{first}"), &Word)).await.unwrap();
                stent.signal(SendSignal::new(format!("order-{first}"), &Word)).await.unwrap();
                assert_eq!(handle.result().await.unwrap(), first + 110);
            }
            eventually("what was recorded is not paid again, and undone once", secs(20), async || {
                paid(&[-1, -1, 1, 2, 2, 10, 10])
            })
            .await;
            stop(stent).await;
        }
    });
}

#[test]
fn a_name_that_is_anothers_as_well_is_refused_at_the_start() {
    fn refused(builder: Builder) -> String {
        system(async {
            match builder.spawn().await {
                Err(Error::Config(why)) => why,
                Err(other) => panic!("{other}"),
                Ok(_) => panic!("it started"),
            }
        })
    }
    let builder = || Stent::open("memory:").activity(async |call: Call<new::Pay>| Ok(call.amount));
    let why = refused(builder().workflow::<old::Order>().workflow::<new::Order>());
    assert!(why.contains("\"order\" version 1 is registered twice"), "{why}");
    let why = refused(builder().workflow::<new::Order>().activity(async |call: Call<old::Pay>| Ok(call.amount)));
    assert!(why.contains("\"pay\""), "{why}");
}
