//! A call is made and not awaited, so nothing would happen.

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
        #![deny(unused_must_use)]
        cx.call(Send);
        Ok(())
    }
}

fn main() {}
