//! A handler that is no async closure and no actor.

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

fn main() {
    let _ = Stent::open("memory:").activity::<Send, _>(|_: Call<Send>| Ok::<(), AppError>(()));
}
