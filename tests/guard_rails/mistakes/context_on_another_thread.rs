//! The context is taken into a closure that runs on another thread.

use stent::prelude::*;

#[derive(Serialize, Deserialize)]
struct Send;

impl Activity for Send {
    const NAME: &'static str = "send";
    type Output = ();
    type Error = AppError;
}

#[derive(Serialize, Deserialize)]
struct Order;

impl Workflow for Order {
    const NAME: &'static str = "order";
    type Output = ();
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<(), AppError> {
        let theirs = cx.clone();
        cx.blocking("late", move || Ok::<_, AppError>(theirs.now().to_string())).await?;
        Ok(())
    }
}

fn main() {}
