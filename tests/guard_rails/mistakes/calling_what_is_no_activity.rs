//! A workflow is called as if it were an activity.

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
        cx.call(Order).await?;
        Ok(())
    }
}

fn main() {}
