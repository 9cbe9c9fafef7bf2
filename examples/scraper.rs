//! A polite scraper: follows links to a depth, visits no page twice, asks each host no faster than it likes, waits when it is told to, and
//! knows after any crash which pages it has seen. The web is a mock of two hosts; put a real client into the closure of `Fetch`.
//!
//! `cargo run --example scraper [sqlite:scraper.db]`

#![expect(clippy::print_stdout, reason = "an example talks to people")]

use std::collections::BTreeMap;

use stent::{Advice, Queue, prelude::*};

#[derive(Serialize, Deserialize)]
struct Scrape {
    start: String,
    depth: u32,
}

impl Workflow for Scrape {
    const NAME: &'static str = "example.scrape";
    /// The pages by address, with their titles, or why there is none.
    type Output = BTreeMap<String, Result<String, String>>;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<Self::Output, AppError> {
        let mut seen = Self::Output::new();
        let mut wave = vec![self.start];
        for _ in 0..=self.depth {
            // A wave at a time, eight pages at once. The key of the queue is the host: its limits are per key, and one slow host holds up no other.
            let fetch = |url: &String| {
                let host = url.split('/').next().unwrap_or_default().to_owned();
                cx.call(Fetch { url: url.clone() }).queue("web").queue_key(host).retry(Retry::exponential(millis(10)).attempts(4))
            };
            let pages = cx.map(&wave, fetch).concurrency(8).settle().await;
            let mut next = Vec::new();
            for (url, page) in wave.into_iter().zip(pages) {
                let title = match page {
                    Ok(page) => {
                        next.extend(page.links);
                        Ok(page.title)
                    }
                    // Somebody stopped the whole; anything else is an entry of the report.
                    Err(CallError::Cancelled) => return Err(AppError::new("cancelled")),
                    Err(error) => Err(error.to_string()),
                };
                seen.insert(url, title);
            }
            // Sorted, so that a replay makes the same calls in the same order whatever the maps of the program do.
            next.retain(|url| !seen.contains_key(url));
            next.sort();
            next.dedup();
            wave = next;
        }
        Ok(seen)
    }
}

#[derive(Serialize, Deserialize)]
struct Fetch {
    url: String,
}

#[derive(Serialize, Deserialize)]
struct Page {
    title: String,
    links: Vec<String>,
}

#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
enum HttpError {
    #[error("404")]
    NotFound,
    #[error("429")]
    TooMany { wait_millis: u64 },
    #[error("503")]
    Unavailable,
}

impl Activity for Fetch {
    const NAME: &'static str = "example.fetch_page";
    type Output = Page;
    type Error = HttpError;

    fn advice(error: &HttpError) -> Advice {
        match error {
            HttpError::NotFound => Advice::give_up(),
            HttpError::TooMany { wait_millis } => Advice::after(millis(*wait_millis)),
            HttpError::Unavailable => Advice::default(),
        }
    }
}

/// A small web: every page of a host links to two further ones, every third to the other host.
fn mock_get(url: &str, attempt: u32) -> Result<Page, HttpError> {
    let (host, page) = url.split_once('/').ok_or(HttpError::NotFound)?;
    let number: u32 = page.parse().map_err(|_| HttpError::NotFound)?;
    match (number % 7, attempt) {
        (3, 1) => return Err(HttpError::TooMany { wait_millis: 20 }),
        (5, 1 | 2) => return Err(HttpError::Unavailable),
        (6, _) => return Err(HttpError::NotFound),
        _ => {}
    }
    let other = if host == "a.example" { "b.example" } else { "a.example" };
    let mut links = vec![format!("{host}/{}", number * 2 + 1), format!("{host}/{}", number * 2 + 2)];
    if number.is_multiple_of(3) {
        links.push(format!("{other}/{number}"));
    }
    Ok(Page { title: format!("page {number} of {host}"), links })
}

#[actix::main]
async fn main() -> stent::Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory:".to_owned());
    let supervisor = Stent::open(&url)
        // Two requests at once to a host, and 400 a second to all of them.
        .queue(Queue::named("web").per_key(2).rate(400, secs(1)).fair())
        .workflow::<Scrape>()
        .activity(async |call: Call<Fetch>| mock_get(&call.url, call.attempt()))
        .start()
        .await?;

    let scrape = supervisor.send(Dispatch::new(Scrape { start: "a.example/0".to_owned(), depth: 4 })).await??;
    let seen = scrape.result().await?;
    for (url, title) in &seen {
        println!("{url}: {}", title.as_deref().unwrap_or_else(|why| why));
    }
    let found = seen.values().filter(|title| title.is_ok()).count();
    println!("{found} pages found, {} missing", seen.len() - found);
    assert!(found > 30 && seen.len() > found);
    assert_eq!(seen["a.example/3"], Ok("page 3 of a.example".to_owned()));
    assert_eq!(seen["a.example/6"], Err("404".to_owned()));

    supervisor.send(Shutdown::within(secs(5))).await??;
    Ok(())
}
