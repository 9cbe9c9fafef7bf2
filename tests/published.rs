//! Published values, counters and progress, seen from an application: there with their commit, exact over restarts, readable on every node
//! and behind the end, and waited for without a gap; on every store.

#![cfg(feature = "sqlite")]

use std::time::Duration;

use stent::{AwaitValue, Builder, Error, Progress, Publication, ReadValue, Stent, ValueError, prelude::*, store::Status};
use support::{Home, eventually, system};

mod support;

/// Shows each word that it hears.
#[derive(Serialize, Deserialize)]
struct Listener {
    words: u32,
}

#[derive(Serialize, Deserialize)]
struct Say(String);

impl Signal for Say {
    const NAME: &'static str = "published.say";
}

#[derive(Serialize, Deserialize, Debug, PartialEq, Clone)]
struct Heard {
    word: String,
    so_far: u32,
}

impl Workflow for Listener {
    const NAME: &'static str = "published.listener";
    type Output = u32;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<u32, AppError> {
        for heard in 0..self.words {
            cx.progress(heard.into(), u64::from(self.words), "words");
            let word = cx.signal::<Say>().await?.0;
            cx.count("heard", 1);
            cx.count("letters", i64::try_from(word.len())?);
            cx.publish("word", &Heard { word, so_far: heard + 1 });
        }
        cx.progress(self.words.into(), u64::from(self.words), "words");
        Ok(self.words)
    }
}

/// Hears one word in each of its runs.
#[derive(Serialize, Deserialize)]
struct Relay;

impl Workflow for Relay {
    const NAME: &'static str = "published.relay";
    type Output = ();
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<(), AppError> {
        let word = cx.signal::<Say>().await?.0;
        cx.count("heard", 1);
        cx.publish("word", &word);
        Ok(cx.continue_as_new(Relay).await?)
    }
}

fn build(home: &Home) -> Builder {
    home.open().workflow::<Listener>().workflow::<Relay>().passivate_after(millis(20))
}

async fn start(home: &Home) -> Stent {
    build(home).spawn().await.unwrap()
}

async fn stop(stent: Stent) {
    stent.shutdown(Shutdown::within(secs(10))).await.unwrap();
}

async fn say(stent: &Stent, id: &str, word: &str) {
    stent.signal(SendSignal::new(id, &Say(word.into())).message_id(word)).await.unwrap();
}

/// Longer than anything here takes, so that whoever waits for it has waited in vain.
const LIMIT: Duration = secs(20);

fn word(id: &str, newer_than: u64) -> AwaitValue {
    AwaitValue::new(id, "word").newer_than(newer_than).within(LIMIT)
}

fn refusal(error: Error) -> ValueError {
    match error {
        Error::Value(why) => why,
        other => panic!("{other}"),
    }
}

#[test]
fn values_counters_and_progress_are_read_while_it_runs_after_a_restart_and_when_it_has_ended() {
    system(async {
        for home in Home::all() {
            let stent = start(&home).await;
            let handle = stent.dispatch(Dispatch::new(Listener { words: 2 }).id("l")).await.unwrap();
            let progress = |done| Some(Progress { done, total: Some(2), text: "words".into() });
            assert_eq!(stent.progress("l").await.unwrap(), progress(0), "a dispatch is answered behind its first commit");
            assert_eq!(stent.value::<Heard>("l", "word").await.unwrap(), None);
            assert_eq!(stent.value::<Heard>("nobody", "word").await.unwrap(), None);
            say(&stent, "l", "hello").await;
            let first = stent.value_when::<Heard>(word("l", 0)).await.unwrap();
            assert_eq!(first.value, Heard { word: "hello".into(), so_far: 1 });
            stop(stent).await;

            let stent = start(&home).await;
            assert_eq!(stent.value::<Heard>("l", "word").await.unwrap(), Some(first.value.clone()));
            assert_eq!(stent.progress("l").await.unwrap(), progress(1));
            let waits = stent.value_when::<Heard>(word("l", first.version));
            let (second, ()) = futures::join!(waits, say(&stent, "l", "world"));
            assert_eq!(second.unwrap().value, Heard { word: "world".into(), so_far: 2 });
            let again = stent.handle::<Listener>("l").await.unwrap().unwrap();
            assert_eq!(again.result().await.unwrap(), 2);
            assert_eq!(
                (again.counter("heard").await.unwrap(), stent.counter("l", "letters").await.unwrap()),
                (Some(2), Some(10))
            );
            assert_eq!(again.progress().await.unwrap(), progress(2));
            assert_eq!(again.value::<Heard>("word").await.unwrap().unwrap().so_far, 2);
            assert_eq!(handle.id(), again.id());
            stop(stent).await;
        }
    });
}

#[test]
fn waiting_for_a_value_ends_with_the_execution_with_the_time_or_at_once_if_there_is_nobody() {
    system(async {
        for home in Home::all() {
            let stent = start(&home).await;
            stent.dispatch(Dispatch::new(Listener { words: 1 }).id("l")).await.unwrap();
            let never = || AwaitValue::new("l", "never");
            let refused = stent.value_when::<u32>(never().within(millis(30))).await.unwrap_err();
            assert!(matches!(refusal(refused), ValueError::NotInTime { .. }));
            let refused = stent.value_when::<u32>(AwaitValue::new("nobody", "word")).await.unwrap_err();
            assert_eq!(refusal(refused), ValueError::Unknown("nobody".into()));
            let refused = stent.value::<u32>("l", "stent:progress").await.unwrap_err();
            assert!(matches!(refusal(refused), ValueError::Undecodable(_)));
            let (refused, ()) = futures::join!(stent.value_when::<u32>(never().within(LIMIT)), say(&stent, "l", "bye"));
            let why = refusal(refused.unwrap_err());
            assert!(matches!(&why, ValueError::Ended { status, .. } if status == Status::Completed.as_str()), "{why}");
            // What it has said stays, and there is nothing newer.
            let last = stent.value_when::<Heard>(word("l", 0)).await.unwrap();
            let refused = stent.value_when::<Heard>(word("l", last.version)).await.unwrap_err();
            assert!(matches!(refusal(refused), ValueError::Ended { .. }));
            stop(stent).await;
        }
    });
}

#[test]
fn what_is_published_stays_in_sight_and_counters_go_on_over_any_number_of_runs_of_one_execution() {
    system(async {
        for home in Home::all() {
            let mut stent = start(&home).await;
            stent.dispatch(Dispatch::new(Relay).id("r")).await.unwrap();
            let mut version = 0;
            for number in 1..=6 {
                let spoken = format!("word {number}");
                let heard = AwaitValue::new("r", "word").newer_than(version).within(LIMIT);
                let (heard, ()) = futures::join!(stent.value_when::<String>(heard), say(&stent, "r", &spoken));
                let heard = heard.unwrap();
                assert_eq!(heard.value, spoken);
                version = heard.version;
                // The next run may have begun or not: there is no moment without it.
                assert_eq!(stent.counter("r", "heard").await.unwrap(), Some(number));
                assert_eq!(stent.value::<String>("r", "word").await.unwrap(), Some(spoken.clone()));
                if number == 3 {
                    stop(stent).await;
                    stent = start(&home).await;
                    assert_eq!(stent.value::<String>("r", "word").await.unwrap(), Some(spoken));
                }
            }
            stop(stent).await;
        }
    });
}

#[test]
fn every_value_that_is_waited_for_one_by_one_is_newer_than_the_one_before_and_the_last_is_seen() {
    system(async {
        for home in Home::both() {
            let stent = start(&home).await;
            stent.dispatch(Dispatch::new(Listener { words: 60 }).id("l")).await.unwrap();
            let says = async {
                for number in 0..60 {
                    say(&stent, "l", &format!("word {number}")).await;
                }
            };
            let sees = async {
                let (mut version, mut seen) = (0, 0);
                while seen < 60 {
                    let next = stent.value_when::<Heard>(word("l", version)).await.unwrap();
                    assert!(next.value.so_far > seen && next.version > version);
                    (version, seen) = (next.version, next.value.so_far);
                }
            };
            futures::join!(says, sees);
            assert_eq!(stent.counter("l", "heard").await.unwrap(), Some(60));
            stop(stent).await;
        }
    });
}

#[test]
fn what_one_node_publishes_another_reads_and_waits_for() {
    system(async {
        for home in Home::shared() {
            let first = start(&home).await;
            // It has no such workflow, so it runs none of it.
            let second = home.open().spawn().await.unwrap();
            first.dispatch(Dispatch::new(Listener { words: 3 }).id("l")).await.unwrap();
            assert_eq!(second.progress("l").await.unwrap().map(|progress| progress.done), Some(0));
            let mut version = 0;
            for number in 1..=3 {
                let (waits, text) = (second.value_when::<Heard>(word("l", version)), format!("word {number}"));
                let (seen, ()) = futures::join!(waits, say(&second, "l", &text));
                let seen = seen.unwrap();
                assert_eq!(seen.value.so_far, number);
                version = seen.version;
            }
            let refused = second.value_when::<Heard>(word("l", version)).await.unwrap_err();
            assert!(matches!(refusal(refused), ValueError::Ended { .. }));
            assert_eq!(second.counter("l", "heard").await.unwrap(), Some(3));
            stop(first).await;
            stop(second).await;
        }
    });
}

#[test]
fn a_later_run_of_the_same_id_shows_its_own_values_and_they_are_newer() {
    system(async {
        for home in Home::all() {
            let stent = start(&home).await;
            let old = stent.dispatch(Dispatch::new(Listener { words: 1 }).id("l")).await.unwrap();
            say(&stent, "l", "old").await;
            old.result().await.unwrap();
            let seen = stent.value_when::<Heard>(word("l", 0)).await.unwrap();
            let again = Dispatch::new(Listener { words: 1 }).id("l").if_in_use(stent::IfInUse::Replace);
            stent.dispatch(again).await.unwrap();
            assert_eq!(stent.value::<Heard>("l", "word").await.unwrap(), None);
            let waits = stent.value_when::<Heard>(word("l", seen.version));
            let (fresh, ()) = futures::join!(waits, say(&stent, "l", "fresh"));
            assert_eq!(fresh.unwrap().value.word, "fresh");
            assert_eq!(stent.counter("l", "heard").await.unwrap(), Some(1));
            stop(stent).await;
        }
    });
}

#[test]
fn an_actor_asks_by_message_and_whoever_waits_hears_when_the_runtime_stops() {
    system(async {
        let home = Home::sqlite();
        let stent = start(&home).await;
        stent.dispatch(Dispatch::new(Listener { words: 2 }).id("l")).await.unwrap();
        say(&stent, "l", "hello").await;
        let supervisor = stent.supervisor().clone();
        let shown: Publication = supervisor.send(AwaitValue::new("l", "word")).await.unwrap().unwrap();
        assert_eq!(shown.decode::<Heard>().unwrap().word, "hello");
        let read = supervisor.send(ReadValue::new("l", "word")).await.unwrap().unwrap();
        assert_eq!(read, Some(shown));
        let waits = stent.clone();
        let waits = actix::spawn(async move { waits.value_when::<u32>(AwaitValue::new("l", "never")).await });
        eventually("it is waited for", LIMIT, async || stent.stats().listened == 1).await;
        stop(stent).await;
        assert!(matches!(waits.await.unwrap(), Err(Error::Stopped)));
    });
}

#[test]
fn whoever_does_not_wait_any_more_leaves_nothing_behind() {
    system(async {
        let home = Home::Memory(stent::store::memory::MemoryStore::new());
        let stent = start(&home).await;
        stent.dispatch(Dispatch::new(Listener { words: 1 }).id("l")).await.unwrap();
        let waits = stent.clone();
        let waits = actix::spawn(async move { waits.value_when::<u32>(AwaitValue::new("l", "never")).await });
        eventually("it is waited for", LIMIT, async || stent.stats().listened == 1).await;
        waits.abort();
        eventually("nobody waits", LIMIT, async || stent.stats().listened == 0).await;
        stop(stent).await;
    });
}
