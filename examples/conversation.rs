//! A conversation with a workflow: bids are updates, which the auction checks, takes and answers; whoever wants to know asks it, while it
//! goes on and when it is over. It ends when nobody has bid for a while.
//!
//! `cargo run --example conversation [sqlite:auction.db]`

#![expect(clippy::print_stdout, reason = "an example talks to people")]

use std::{cell::RefCell, rc::Rc};

use stent::{UpdateError, prelude::*};

#[derive(Serialize, Deserialize)]
struct Auction {
    lot: String,
    least: u32,
}

#[derive(Serialize, Deserialize, Clone)]
struct Bid {
    by: String,
    amount: u32,
}

impl Update for Bid {
    const NAME: &'static str = "example.bid";
    /// How many bids there are with this one.
    type Answer = usize;
    type Error = TooLow;
}

#[derive(Serialize, Deserialize, Debug, PartialEq, thiserror::Error)]
#[error("it takes more than {0}")]
struct TooLow(u32);

#[derive(Serialize, Deserialize)]
struct Highest;

impl Query for Highest {
    const NAME: &'static str = "example.highest_bid";
    type Answer = Option<Bid>;
}

impl Workflow for Auction {
    const NAME: &'static str = "example.auction";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        let bids = Rc::new(RefCell::new(Vec::<Bid>::new()));
        let (asked, checked, taken) = (bids.clone(), bids.clone(), bids.clone());
        cx.on_query(move |_: &Highest| asked.borrow().last().cloned());
        cx.on_update(
            move |bid: &Bid| {
                let highest = checked.borrow().last().map_or(self.least, |last| last.amount);
                if bid.amount > highest { Ok(()) } else { Err(TooLow(highest)) }
            },
            move |bid: Bid| {
                taken.borrow_mut().push(bid);
                taken.borrow().len()
            },
        );
        loop {
            let heard = bids.borrow().len();
            if !cx.until(|| bids.borrow().len() > heard).within(millis(400)).await? {
                break;
            }
        }
        let winner = bids.borrow().last().map_or_else(|| "nobody".to_owned(), |last| last.by.clone());
        Ok(format!("{} goes to {winner}", self.lot))
    }
}

#[actix::main]
async fn main() -> stent::Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory:".to_owned());
    let supervisor = Stent::open(&url).workflow::<Auction>().start().await?;
    let auction = supervisor.send(Dispatch::new(Auction { lot: "a clock".into(), least: 10 }).id("lot-1")).await??;

    let bid = |by: &str, amount| SendUpdate::new("lot-1", &Bid { by: by.into(), amount }).update_id(format!("{by}-{amount}"));
    assert_eq!(supervisor.send(bid("ada", 20)).await??, 1);
    match supervisor.send(bid("ben", 15)).await? {
        Err(UpdateError::Rejected(too_low)) => println!("ben is refused: {too_low}"),
        other => panic!("ben's bid is too low, and yet: {other:?}"),
    }
    assert_eq!(supervisor.send(bid("ben", 25)).await??, 2);
    // The answer was lost on its way? The same id again: it is made once, and answered as before.
    assert_eq!(supervisor.send(bid("ada", 20)).await??, 1);

    let highest = supervisor.send(Ask::new("lot-1", &Highest)).await??;
    println!("so far: {:?}", highest.map(|bid| (bid.by, bid.amount)));

    let result = auction.result().await?;
    println!("{result}");
    assert_eq!(result, "a clock goes to ben");
    // It is over, and still tells.
    assert_eq!(auction.query(&Highest).await?.map(|bid| bid.amount), Some(25));

    supervisor.send(Shutdown::within(secs(5))).await??;
    Ok(())
}
