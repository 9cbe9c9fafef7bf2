//! Children: a parcel is an execution of its own, which can be looked up, signalled and stopped by its id while the order that began it
//! sleeps. One parcel gets lost, so its order stops waiting for it and sends another; the mail at the end goes on by itself.
//!
//! `cargo run --example children [sqlite:parcels.db]`

#![expect(clippy::print_stdout, reason = "an example talks to people")]

use stent::{ChildError, prelude::*};

#[derive(Serialize, Deserialize)]
struct Order {
    books: Vec<String>,
}

impl Workflow for Order {
    const NAME: &'static str = "example.order_of_books";
    type Output = Vec<String>;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<Vec<String>, AppError> {
        // One child per book, all under way at once. Each begins with this very commit, or not at all.
        let parcels = self.books.into_iter().map(async |book| {
            let id = format!("{}-{book}", cx.id().id);
            match cx.child(Parcel { book: book.clone() }).id(id).await {
                // Somebody stopped it: the book goes out once more, under the id that a child has by itself.
                Err(ChildError::Stopped { .. }) => cx.child(Parcel { book }).await,
                other => other,
            }
        });
        let delivered = futures::future::try_join_all(parcels).await?;
        // Nobody waits for the mail.
        cx.child(Mail { text: format!("{} books are there", delivered.len()) }).detach().await?;
        Ok(delivered)
    }
}

#[derive(Serialize, Deserialize)]
struct Parcel {
    book: String,
}

#[derive(Serialize, Deserialize)]
struct AtTheDoor;

impl Signal for AtTheDoor {
    const NAME: &'static str = "example.at_the_door";
}

impl Workflow for Parcel {
    const NAME: &'static str = "example.parcel";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        if self.book == "dune" && cx.id().id == "order-1-dune" {
            // This one hears nothing from the carrier, for ever.
            cx.signal::<AtTheDoor>().await?;
        }
        cx.sleep(millis(50)).await?;
        Ok(format!("{} by {}", self.book, cx.id().id))
    }
}

#[derive(Serialize, Deserialize)]
struct Mail {
    text: String,
}

impl Workflow for Mail {
    const NAME: &'static str = "example.mail";
    type Output = String;
    type Error = AppError;

    async fn run(self, _: Cx<Self>) -> Result<String, AppError> {
        Ok(self.text)
    }
}

#[actix::main]
async fn main() -> stent::Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory:".to_owned());
    let supervisor = Stent::open(&url).workflow::<Order>().workflow::<Parcel>().workflow::<Mail>().start().await?;

    let books = ["emma", "dune", "ulysses"].map(str::to_owned).to_vec();
    let order = supervisor.send(Dispatch::new(Order { books }).id("order-1")).await??;

    // The lost parcel is an execution like any other.
    supervisor.send(Cancel::new("order-1-dune").reason("lost on its way")).await??;

    let delivered = order.result().await?;
    delivered.iter().for_each(|line| println!("{line}"));
    assert_eq!(delivered, ["emma by order-1-emma", "dune by order-1/1/4", "ulysses by order-1-ulysses"]);

    supervisor.send(Shutdown::within(secs(5))).await??;
    Ok(())
}
