//! An order as a saga: reserve, book, wait for a person, charge. What was done is undone, in reverse, when the order comes to
//! nothing. Two orders run side by side: one is approved, one is rejected.
//!
//! `cargo run --example order_saga`

#![expect(clippy::print_stdout, reason = "an example talks to people")]

use std::sync::{Arc, Mutex};

use stent::prelude::*;

#[derive(Serialize, Deserialize)]
struct PlaceOrder {
    item: String,
    cents: u64,
}

impl Workflow for PlaceOrder {
    const NAME: &'static str = "shop.place_order";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        cx.saga(async |saga| {
            // Recorded together with the intent: no crash comes between. So it may run although nothing was reserved.
            saga.call(Reserve { item: self.item.clone() }).undo_with(|key| Release { key }).await?;

            // This one needs what the act returned, so it is registered behind it.
            let parcel = cx.call(BookCourier { item: self.item.clone() }).await?;
            saga.undo(CancelCourier { parcel: parcel.clone() });
            // Neither of these waits holds a thread, and a restart changes nothing.
            if !cx.signal::<Approval>().within(days(3)).await?.is_some_and(|approval| approval.granted) {
                return Err(AppError::new("not approved"));
            }
            cx.sleep(millis(30)).await?; // A moment to think again; it could as well be a week.
            let charge = cx.call(Charge { cents: self.cents });
            let charge = charge.timeout(secs(30)).retry(Retry::exponential(millis(20)).attempts(5)).await?;
            Ok(format!("{parcel}, {charge}"))
        })
        .await
    }
}

#[derive(Serialize, Deserialize)]
struct Approval {
    granted: bool,
}

impl Signal for Approval {
    const NAME: &'static str = "approval";
}

/// Declares an activity: a message, and the name under which it is stored.
macro_rules! activity {
    ($name:ident { $field:ident: $type:ty } = $stored:literal) => {
        #[derive(Serialize, Deserialize)]
        struct $name {
            $field: $type,
        }
        impl Activity for $name {
            const NAME: &'static str = $stored;
            type Output = String;
            type Error = AppError;
        }
    };
}

activity!(Reserve { item: String } = "stock.reserve");
activity!(Release { key: String } = "stock.release");
activity!(BookCourier { item: String } = "courier.book");
activity!(CancelCourier { parcel: String } = "courier.cancel");
activity!(Charge { cents: u64 } = "pay.charge");

/// An activity may be handled by an ordinary actor…
struct Payments;

impl Actor for Payments {
    type Context = Context<Self>;
}

impl Handler<Call<Charge>> for Payments {
    type Result = Result<String, AppError>;

    fn handle(&mut self, call: Call<Charge>, _: &mut Self::Context) -> Self::Result {
        // The first attempt fails: the retry policy of the call carries on.
        let charged = || format!("{} cents charged as {}", call.cents, call.key());
        (call.attempt() > 1).then(charged).ok_or_else(|| AppError::new("the bank does not answer"))
    }
}

/// The world outside: what was done to it.
type World = Arc<Mutex<Vec<String>>>;

fn act(world: &World, deed: String) -> Result<String, AppError> {
    println!("  {deed}");
    world.lock().unwrap().push(deed.clone());
    Ok(deed)
}

#[actix::main]
async fn main() -> stent::Result<()> {
    let world = World::default();
    let [w1, w2, w3, w4] = std::array::from_fn(|_| world.clone());
    let supervisor = Stent::open("memory:") // `sqlite:shop.db` makes it durable
        .workflow::<PlaceOrder>()
        .activity(Payments.start().recipient::<Call<Charge>>())
        // …or by an async closure with captured state.
        .activity(async move |call: Call<Reserve>| act(&w1, format!("reserve {} as {}", call.item, call.key())))
        .activity(async move |call: Call<Release>| act(&w2, format!("release {}", call.key)))
        .activity(async move |call: Call<BookCourier>| act(&w3, format!("courier for {}", call.item)))
        .activity(async move |call: Call<CancelCourier>| act(&w4, format!("cancel {}", call.parcel)))
        .start()
        .await?;

    let order = |item: &str| Dispatch::new(PlaceOrder { item: item.to_owned(), cents: 900 }).id(format!("order-of-{item}"));
    let good = supervisor.send(order("lamp")).await??;
    let bad = supervisor.send(order("piano")).await??;
    // A signal is kept until it is read, so it may come before the order waits for it.
    supervisor.send(SendSignal::new(good.id(), &Approval { granted: true })).await??;
    supervisor.send(SendSignal::new(bad.id(), &Approval { granted: false })).await??;
    println!("{}: {}", good.id(), good.result().await?);
    // A run does not end before its compensations have: they are retried until they are done.
    println!("{}: {}", bad.id(), bad.result().await.expect_err("it was rejected"));
    let deeds = world.lock().unwrap().clone();
    let undone = deeds.iter().filter(|deed| deed.starts_with("cancel") || deed.starts_with("release")).collect::<Vec<_>>();
    assert_eq!(undone, ["cancel courier for piano", "release order-of-piano/1/2"]);
    supervisor.send(Shutdown::within(secs(5))).await??;
    Ok(())
}
