//! Four ways to dispatch by a key: a document that is saved again and again is indexed once, letters go out no faster than the post
//! takes them, a webhook that comes twice counts once, and of one import at most one is under way.
//!
//! `cargo run --example gates [sqlite:gates.db]`

#![expect(clippy::print_stdout, reason = "an example talks to people")]

use stent::prelude::*;

/// Says what it was asked, when it is through.
#[derive(Serialize, Deserialize)]
struct Job {
    what: String,
    takes: u64,
}

impl Workflow for Job {
    const NAME: &'static str = "job";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        cx.sleep(millis(self.takes)).await?;
        Ok(self.what)
    }
}

fn job(what: impl Into<String>) -> Dispatch<Job> {
    Dispatch::new(Job { what: what.into(), takes: 0 })
}

#[actix::main]
async fn main() -> stent::Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory:".to_owned());
    let stent = Stent::open(&url).workflow::<Job>().spawn().await?;

    // Each save puts the index off by a second, but never by more than ten.
    let mut index = None;
    for version in 1..=5 {
        let save = job(format!("version {version} of the report")).debounce("report", secs(1)).at_most(secs(10));
        let admitted = stent.admit(save).await?;
        println!("version {version}: {:?}", admitted.admission);
        index = Some(admitted.handle);
    }

    // Two letters in any half second; the others wait in line, and their handles with them.
    let mut letters = Vec::new();
    for number in 1..=5 {
        letters.push(stent.admit(job(format!("letter {number}")).throttle("post", 2, millis(500))).await?);
    }
    for letter in &letters {
        println!("{} went out: {:?}", letter.handle.result().await?, letter.admission);
    }

    // Whoever sends it again within a day is told of the first.
    let first = stent.admit(job("payment 4711 has come in").dedupe("payment-4711", days(1))).await?;
    let again = stent.admit(job("payment 4711 has come in").dedupe("payment-4711", days(1))).await?;
    assert_eq!((again.admission, again.handle.id()), (Admission::Attached, first.handle.id()));

    // While an import is under way a second one is the first.
    let import = || Dispatch::new(Job { what: "all is imported".into(), takes: 300 }).singleton("import", IfOpen::Attach);
    let (import, same) = (stent.admit(import()).await?, stent.admit(import()).await?);
    println!("{} is {:?}: {}", same.handle.id(), same.admission, import.handle.result().await?);

    if let Some(index) = index {
        println!("indexed: {}", index.result().await?);
    }
    stent.shutdown(Shutdown::within(secs(5))).await
}
