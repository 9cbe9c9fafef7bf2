//! What a step returns cannot be stored.

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
        cx.step("begin", async || Ok::<_, AppError>(std::time::Instant::now())).await?;
        Ok(())
    }
}

fn main() {}
