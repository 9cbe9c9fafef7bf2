//! The smallest durable program: one workflow, one activity, one file. Kill it at any moment and start it again: what was
//! recorded is not done again.
//!
//! `cargo run --example hello [database file]`

#![expect(clippy::print_stdout, reason = "an example talks to people")]

use stent::prelude::*;

/// A workflow is a message: its fields are the arguments, its trait names the result.
#[derive(Serialize, Deserialize)]
struct Hello {
    name: String,
}

impl Workflow for Hello {
    const NAME: &'static str = "example.hello";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        // An activity may touch the world. It runs at least once; its result is recorded exactly once.
        let greeting = cx.call(Translate { word: "hello".into() }).await?;
        // A durable timer: a crash in between does not prolong it.
        cx.sleep(millis(50)).await?;
        // A step is an activity written inline.
        let at = cx.step("look at the clock", async || Ok::<_, AppError>(chrono::Utc::now().to_rfc3339())).await?;
        Ok(format!("{greeting}, {} (at {at})", self.name))
    }
}

#[derive(Serialize, Deserialize)]
struct Translate {
    word: String,
}

impl Activity for Translate {
    const NAME: &'static str = "example.translate";
    type Output = String;
    type Error = AppError;
}

#[actix::main]
async fn main() -> stent::Result<()> {
    let file = std::env::args_os().nth(1).map_or_else(|| std::env::temp_dir().join("stent-hello.db"), Into::into);
    let supervisor = Stent::open(&format!("sqlite:{}", file.display()))
        .workflow::<Hello>()
        .activity(async |call: Call<Translate>| match call.word.as_str() {
            "hello" => Ok("salut".to_owned()),
            other => Err(AppError::new(format!("no French for {other:?}"))),
        })
        .start()
        .await?;

    // Once this is answered, the execution is on disk and will run to its end, in this process or in the next.
    let handle = supervisor.send(Dispatch::new(Hello { name: "world".into() })).await??;
    let said = handle.result().await?;
    println!("{} says: {said}", handle.id());
    assert!(said.starts_with("salut, world"));

    supervisor.send(Shutdown::within(secs(5))).await??;
    println!("its log is in {}", file.display());
    Ok(())
}
