//! The process is killed with SIGKILL before a COMMIT, between a COMMIT and its record in the log, and behind that: this test
//! program calls itself as the process that dies.

use std::process::{Command, Stdio};

use stent::prelude::*;

use crate::{
    bank::{Bank, Enter},
    support::{Home, system},
};

/// Where the child finds its store.
const URL: &str = "STENT_TEST_BANK";

const ENTRIES: i64 = 12;

/// The child: dispatches the same entries in each of its lives and leaves when all have been made.
#[test]
fn makes_its_entries_when_it_is_called_as_a_child() {
    let Ok(url) = std::env::var(URL) else { return };
    system(async {
        let stent = stent::Stent::open(&url).lease(secs(30));
        macro_rules! live {
            ($module:ident) => {{
                let stent = stent.workflow::<crate::bank::$module::Entered>().start().await.unwrap();
                let stent = stent::Stent::of(stent).await.unwrap();
                let mut handles = Vec::new();
                for number in 0..ENTRIES {
                    let entry = format!("entry-{number}");
                    let dispatch = Dispatch::new(crate::bank::$module::Entered(Enter::new(&entry))).id(entry);
                    handles.push(stent.dispatch(dispatch).await.unwrap());
                }
                for handle in handles {
                    handle.result().await.unwrap();
                }
                stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
            }};
        }
        #[cfg(feature = "postgres")]
        if url.starts_with("postgres") {
            return live!(on_postgres);
        }
        live!(on_sqlite);
    });
}

fn live(url: &str, failpoints: &str) -> bool {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kills::makes_its_entries_when_it_is_called_as_a_child"])
        .env(URL, url)
        .env("STENT_FAILPOINTS", failpoints)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    status.success()
}

#[test]
fn killed_around_its_commits_the_books_balance_and_each_entry_is_made_once() {
    if std::env::var_os(URL).is_some() {
        return;
    }
    for home in homes() {
        system(async {
            for point in
                ["transaction.before_commit", "transaction.committed", "executor.attempts_ended", "persistence.after_commit"]
            {
                let bank = Bank { home: home() };
                let stent = bank.open().await;
                stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
                let url = match &bank.home {
                    #[cfg(feature = "postgres")]
                    Home::Postgres(database) => database.url(),
                    _ => format!("sqlite:{}", bank.home.file().display()),
                };
                let mut deaths = 0;
                for hit in [1, 2, 5, 9] {
                    deaths += u32::from(!live(&url, &format!("{point}=kill@{hit}")));
                    let made = bank.count("entries").await;
                    assert!(made <= ENTRIES, "{point}@{hit}: {made} entries");
                }
                assert!(deaths > 0, "{point} was never passed");
                assert!(live(&url, ""), "{point}: undisturbed, it comes to its end");
                bank.balance(ENTRIES).await;
            }
        });
    }
}

fn homes() -> Vec<fn() -> Home> {
    vec![
        Home::sqlite,
        #[cfg(feature = "postgres")]
        Home::postgres,
    ]
}
