//! An account that is never closed: it takes deposits for ever, and its history stays short, because behind every few it goes on as a new
//! run. To its customers nothing happens: the id stays, and no deposit is lost or counted twice, whatever run it meets.
//!
//! `cargo run --example endless [sqlite:account.db]`

#![expect(clippy::print_stdout, reason = "an example talks to people")]

use stent::prelude::*;

#[derive(Serialize, Deserialize)]
struct Account {
    balance: u64,
    deposits: u64,
}

#[derive(Serialize, Deserialize)]
struct Deposit(u64);

impl Signal for Deposit {
    const NAME: &'static str = "example.deposit";
}

#[derive(Serialize, Deserialize)]
struct Close;

impl Signal for Close {
    const NAME: &'static str = "example.close";
}

impl Workflow for Account {
    const NAME: &'static str = "example.account";
    type Output = String;
    type Error = AppError;

    async fn run(mut self, cx: Cx<Self>) -> Result<String, AppError> {
        // An account in earnest asks `cx.should_continue()`, which is so behind some thousand events.
        while cx.history().events < 30 {
            match cx.race(cx.signal::<Deposit>(), cx.signal::<Close>()).await {
                Either::First(deposit) => self.balance += deposit?.0,
                Either::Second(_) => {
                    let (deposits, balance, runs) = (self.deposits, self.balance, cx.id().run_no);
                    return Ok(format!("{balance} in {deposits} deposits, the books are volume {runs}"));
                }
            }
            self.deposits += 1;
        }
        // What stands here is the state that the next run begins with. Deposits that are on their way go along.
        Ok(cx.continue_as_new(self).await?)
    }
}

#[actix::main]
async fn main() -> stent::Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory:".to_owned());
    let stent = Stent::open(&url).workflow::<Account>().spawn().await?;
    let account = Dispatch::new(Account { balance: 0, deposits: 0 });
    let account = stent.dispatch(account).await?;
    for amount in 1..=100 {
        stent.signal(SendSignal::new(account.id(), &Deposit(amount))).await?;
    }
    if let Some(now) = stent.describe(account.id()).await? {
        println!("{} is at run {}, whose log has {} commits", account.id(), now.summary.id.run_no, now.commits);
    }
    stent.signal(SendSignal::new(account.id(), &Close)).await?;
    let end = account.result().await?;
    println!("{end}");
    assert!(end.starts_with("5050 in 100 deposits"));
    stent.shutdown(Shutdown::within(secs(5))).await
}
