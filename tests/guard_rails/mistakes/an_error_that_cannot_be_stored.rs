//! The error of a workflow cannot be stored.

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
    type Error = std::io::Error;

    async fn run(self, _: Cx<Self>) -> Result<(), std::io::Error> {
        Ok(())
    }
}

fn main() {}
