//! An actor cannot be polled in place.

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

struct Post;

impl Actor for Post {
    type Context = Context<Self>;
}

impl Handler<Call<Send>> for Post {
    type Result = Result<(), AppError>;

    fn handle(&mut self, _: Call<Send>, _: &mut Self::Context) -> Self::Result {
        Ok(())
    }
}

fn main() {
    let _ = Stent::open("memory:").inline::<Send>(Post.start().recipient::<Call<Send>>());
}
