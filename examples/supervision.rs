//! Actors die; the work goes on. A printer, which is an actor of the application, panics in the middle of a job: its owner starts
//! another one, and the retry policy of the call prints the page again. With `--features failpoints` the runtime's own
//! persistence actor panics as well, just behind a commit: the supervisor builds its core anew from the log.
//!
//! `cargo run --example supervision --features failpoints`

#![expect(clippy::print_stdout, reason = "an example talks to people")]

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering::SeqCst},
};

use actix::{Arbiter, ArbiterHandle};
use stent::prelude::*;

#[derive(Serialize, Deserialize)]
struct PrintBook {
    title: String,
    pages: u32,
}

impl Workflow for PrintBook {
    const NAME: &'static str = "example.print_book";
    type Output = Vec<String>;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<Vec<String>, AppError> {
        let mut printed = Vec::new();
        for page in 1..=self.pages {
            let print = Print { page: format!("{}, page {page}", self.title) };
            printed.push(cx.call(print).retry(Retry::exponential(millis(20)).attempts(10)).await?);
        }
        Ok(printed)
    }
}

#[derive(Serialize, Deserialize)]
struct Print {
    page: String,
}

impl Activity for Print {
    const NAME: &'static str = "example.print";
    type Output = String;
    type Error = AppError;
}

/// The application's actor. Every fourth page kills it.
#[derive(Default)]
struct Printer {
    pages: u32,
}

impl Actor for Printer {
    type Context = Context<Self>;
}

impl Handler<Call<Print>> for Printer {
    type Result = Result<String, AppError>;

    fn handle(&mut self, call: Call<Print>, _: &mut Self::Context) -> Self::Result {
        self.pages += 1;
        assert!(self.pages < 4, "the printer is jammed");
        Ok(format!("{} (attempt {})", call.page, call.attempt()))
    }
}

/// The application's own little supervisor: whoever needs the printer gets one that lives. (`actix::Supervisor` restarts actors
/// that stop, not those that panic.)
#[derive(Clone)]
struct Office {
    printer: Arc<Mutex<Addr<Printer>>>,
    bought: Arc<AtomicU32>,
    home: ArbiterHandle,
}

impl Office {
    fn printer(&self) -> Addr<Printer> {
        let mut printer = self.printer.lock().unwrap();
        if !printer.connected() {
            println!("office: printer {} is gone, here is another", self.bought.fetch_add(1, SeqCst) + 1);
            *printer = Printer::start_in_arbiter(&self.home, |_| Printer::default());
        }
        printer.clone()
    }
}

#[actix::main]
async fn main() -> stent::Result<()> {
    // What the runtime itself says of its restarts, and one line for each panic instead of a backtrace.
    tracing_subscriber::fmt().with_env_filter("stent=info").with_target(false).init();
    let panics = Arc::new(Mutex::new(Vec::new()));
    let seen = panics.clone();
    std::panic::set_hook(Box::new(move |panic| {
        println!("{panic}");
        seen.lock().unwrap().push(panic.to_string());
    }));

    let bought = Arc::new(AtomicU32::new(0));
    let printer = Arc::new(Mutex::new(Printer::default().start()));
    let office = Office { printer, bought: bought.clone(), home: Arbiter::current() };
    let supervisor = Stent::open("memory:")
        .workflow::<PrintBook>()
        .activity(async move |call: Call<Print>| office.printer().send(call).await?)
        .start()
        .await?;

    // The third commit kills the actor that makes it.
    #[cfg(feature = "failpoints")]
    stent::failpoints::set("persistence.after_commit", stent::failpoints::Action::Panic, 3);

    let mut books = Vec::new();
    for title in ["Emma", "Ulysses", "Momo"] {
        books.push(supervisor.send(Dispatch::new(PrintBook { title: title.into(), pages: 5 }).id(title)).await??);
    }
    for book in &books {
        let pages = book.result().await?;
        println!("{}: {}", book.id(), pages.join("; "));
        assert_eq!(pages.len(), 5);
    }

    let panics = panics.lock().unwrap().clone();
    println!("{} panics, {} printers replaced, every book is printed", panics.len(), bought.load(SeqCst));
    assert!(bought.load(SeqCst) >= 4, "a printer lasts for three pages");
    assert_eq!(panics.iter().any(|text| text.contains("persistence.after_commit")), cfg!(feature = "failpoints"));
    supervisor.send(Shutdown::within(secs(5))).await??;
    Ok(())
}
