//! Money and the record that it moved, in one transaction: a transactional step writes into the user's own tables and takes
//! place exactly once, whatever crashes. And a transfer is asked for in the transaction that writes the order: both are
//! there, or neither.
//!
//! `cargo run --example transfer`

#![expect(clippy::print_stdout, reason = "an example talks to people")]

use stent::{
    prelude::*,
    store::sqlite::{
        Outbox,
        sqlx::{self, Connection, Row, SqliteConnection},
    },
};

#[derive(Serialize, Deserialize)]
struct Transfer {
    from: String,
    to: String,
    cents: i64,
}

impl Workflow for Transfer {
    const NAME: &'static str = "example.transfer";
    type Output = i64;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<i64, AppError> {
        let Transfer { from, to, cents } = self;
        let moved = async move |tx: &mut SqliteConnection| {
            let takes = "UPDATE accounts SET balance = balance - $1 WHERE name = $2 AND balance >= $1 RETURNING balance";
            let left = sqlx::query(takes).bind(cents).bind(&from).fetch_optional(&mut *tx).await?;
            // An error rolls back; with no attempt left it comes back to the workflow.
            let left = left.ok_or_else(|| AppError::new(format!("{from} has not got {cents} cents")))?;
            let gives = "UPDATE accounts SET balance = balance + $1 WHERE name = $2";
            sqlx::query(gives).bind(cents).bind(&to).execute(&mut *tx).await?;
            Ok::<_, AppError>(left.get(0))
        };
        Ok(cx.transaction("move the money", moved).retry(Retry::never()).await?)
    }
}

#[actix::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("bank.db").display().to_string();
    let supervisor = Stent::open(&format!("sqlite:{file}")).workflow::<Transfer>().start().await?;
    let stent = Stent::of(supervisor).await?;
    let mut bank = SqliteConnection::connect(&file).await?;
    sqlx::query("CREATE TABLE accounts (name TEXT PRIMARY KEY, balance INTEGER)").execute(&mut bank).await?;
    sqlx::query("CREATE TABLE orders (id INTEGER)").execute(&mut bank).await?;
    sqlx::query("INSERT INTO accounts VALUES ('ada', 1000), ('bob', 0)").execute(&mut bank).await?;

    let outbox = Outbox::new();
    for (order, cents) in [(1, 600), (2, 600)] {
        let mut tx = bank.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query("INSERT INTO orders (id) VALUES ($1)").bind(order).execute(&mut *tx).await?;
        let transfer = Transfer { from: "ada".into(), to: "bob".into(), cents };
        outbox.dispatch(&mut tx, Dispatch::new(transfer).id(format!("order-{order}"))).await?;
        tx.commit().await?;
        let handle = stent.handle::<Transfer>(format!("order-{order}")).await?.ok_or("it was committed")?;
        match handle.result().await {
            Ok(left) => println!("order {order}: {cents} cents were moved, {left} are left"),
            Err(error) => println!("order {order}: nothing was moved: {error}"),
        }
    }
    let balances = sqlx::query("SELECT balance FROM accounts ORDER BY name").fetch_all(&mut bank).await?;
    assert_eq!(balances.iter().map(|row| row.get(0)).collect::<Vec<i64>>(), [400, 600]);
    stent.shutdown(Shutdown::within(secs(5))).await?;
    Ok(())
}
