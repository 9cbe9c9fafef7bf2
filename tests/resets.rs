//! Resets and dead letters, seen from an application. What was recorded before the point is never done again, what comes behind it is done under
//! new keys; a letter is there for each call that has failed for good, and goes when that is dealt with. On every store.

#![cfg(feature = "sqlite")]

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use stent::{
    Builder, DeadLetter, Error, LetterError, LetterKey, ListLetters, Point, Queue, ReplayLetter, ReplayLetters, Replayed,
    ResetError, ResetRun, Stent,
    kernel::{fork::PointError, id::RunId},
    prelude::*,
    store::Status,
};
use support::{Home, alone, eventually};

#[cfg(feature = "failpoints")]
#[path = "resets/letters.rs"]
mod letters;
mod support;

/// Reserves, charges, waits for a word, and ships.
#[derive(Serialize, Deserialize, Clone)]
struct Order {
    parks: bool,
}

#[derive(Serialize, Deserialize)]
struct Word(String);

impl Signal for Word {
    const NAME: &'static str = "resets.word";
}

/// Adds to what has been noted; answers with how many notes there are.
#[derive(Serialize, Deserialize)]
struct Note(String);

impl Update for Note {
    const NAME: &'static str = "resets.note";
    type Answer = usize;
    type Error = AppError;
}

#[derive(Serialize, Deserialize)]
struct Act(String);

impl Activity for Act {
    const NAME: &'static str = "resets.act";
    type Output = String;
    type Error = AppError;
}

impl Workflow for Order {
    const NAME: &'static str = "resets.order";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        let notes = std::rc::Rc::new(std::cell::RefCell::new(Vec::<String>::new()));
        let noted = notes.clone();
        cx.on_update(
            |_: &Note| Ok(()),
            move |note: Note| {
                noted.borrow_mut().push(note.0);
                noted.borrow().len()
            },
        );
        cx.publish("state", &"new".to_owned());
        let hold = cx.call(Act("reserve".into())).await?;
        cx.publish("state", &"reserved".to_owned());
        let Word(word) = cx.signal().await?;
        let charge = cx.call(Act("charge".into())).retry(Retry::never());
        let charge = if self.parks { charge.on_exhausted(OnExhausted::Park) } else { charge };
        let charge = charge.await?;
        let ship = cx.call(Act("ship".into())).await?;
        Ok(format!("{hold} {word} {charge} {ship} {}", notes.borrow().join("+")))
    }
}

/// What was done: the key of each act, in order; and which acts fail.
#[derive(Default)]
struct Books {
    acts: Mutex<Vec<(String, String)>>,
    broken: Mutex<Vec<&'static str>>,
}

impl Books {
    fn done(&self, what: &str) -> Vec<String> {
        self.acts.lock().iter().filter(|(act, _)| act == what).map(|(_, key)| key.clone()).collect()
    }

    fn breaks(&self, what: &[&'static str]) {
        *self.broken.lock() = what.to_vec();
    }
}

fn build(home: &Home, books: &Arc<Books>) -> Builder {
    let books = books.clone();
    let act = async move |call: Call<Act>| {
        books.acts.lock().push((call.0.clone(), call.key().to_owned()));
        if books.broken.lock().contains(&call.0.as_str()) { Err(AppError::new("declined")) } else { Ok(call.0.clone()) }
    };
    home.open().workflow::<Order>().activity(act).passivate_after(millis(20))
}

async fn start(home: &Home, books: &Arc<Books>) -> Stent {
    build(home, books).spawn().await.unwrap()
}

async fn stop(stent: Stent) {
    stent.shutdown(Shutdown::within(secs(10))).await.unwrap();
}

fn limit() -> std::time::Duration {
    secs(30)
}

async fn begin(stent: &Stent, id: &str, parks: bool) -> Handle<Order> {
    let handle = stent.dispatch(Dispatch::new(Order { parks }).id(id)).await.unwrap();
    waits(stent, id).await;
    stent.signal(SendSignal::new(id, &Word("go".into())).message_id("word")).await.unwrap();
    handle
}

/// Waits until it waits for a word: what was done before is recorded by then.
async fn waits(stent: &Stent, id: &str) {
    eventually("it waits for a word", limit(), async || {
        let described = stent.describe(id).await.unwrap().unwrap();
        described.waits_for.iter().any(|wait| wait.contains("resets.word"))
    })
    .await;
}

async fn result(stent: &Stent, id: &str) -> Result<String, RunError<AppError>> {
    stent.handle::<Order>(id).await.unwrap().expect("it is there").result().await
}

async fn letters(stent: &Stent) -> Vec<DeadLetter> {
    stent.letters(ListLetters::new()).await.unwrap()
}

fn key(id: &str, run_no: u32, position: u32) -> LetterKey {
    LetterKey { run: RunId { id: id.into(), run_no }, position }
}

async fn status(stent: &Stent, id: &str) -> Status {
    stent.describe(id).await.unwrap().expect("it is there").summary.status
}

fn on_each_store(case: impl AsyncFn(&Home, &Arc<Books>, &Stent)) {
    for home in Home::all() {
        alone(async {
            let books = Arc::new(Books::default());
            let stent = start(&home, &books).await;
            case(&home, &books, &stent).await;
            stop(stent).await;
        });
    }
}

#[test]
fn a_reset_repeats_what_comes_behind_the_point_under_new_keys_and_nothing_of_what_comes_before_it() {
    on_each_store(async |_, books, stent| {
        books.breaks(&["charge"]);
        let old = begin(stent, "a", false).await;
        assert!(matches!(old.result().await, Err(RunError::Failed(_))));
        books.breaks(&[]);
        let before = stent.describe("a").await.unwrap().unwrap();
        let reset = ResetRun::new("a", Point::BeforeFailure(3)).by("ada").reason("the bank is back");
        let new = stent.reset(reset).await.unwrap();
        assert_eq!(new, RunId { id: "a".into(), run_no: 2 });
        assert_eq!(result(stent, "a").await.unwrap(), "reserve go charge ship ");
        assert_eq!(books.done("reserve"), ["a/1/1"], "its result was kept");
        assert_eq!(books.done("charge"), ["a/1/3", "a/2/3"]);
        assert_eq!(books.done("ship"), ["a/2/4"]);
        let described = stent.describe("a").await.unwrap().unwrap();
        let forked = described.forked.unwrap();
        assert!(forked.contains("run 1") && forked.contains("ada") && forked.contains("the bank is back"), "{forked}");
        assert_eq!(described.summary.created_at, before.summary.created_at);
        // The run before is as it was.
        assert!(matches!(old.result().await, Err(RunError::Failed(_))));
        assert_eq!(old.run_no(), 1);
        assert_eq!(stent.value::<String>("a", "state").await.unwrap().as_deref(), Some("reserved"));
    });
}

#[test]
fn before_a_call_the_code_decides_again_and_messages_behind_the_point_come_again_or_not() {
    on_each_store(async |_, books, stent| {
        let handle = begin(stent, "a", false).await;
        assert_eq!(handle.result().await.unwrap(), "reserve go charge ship ");
        stent.reset(ResetRun::new("a", Point::BeforeCall(2))).await.unwrap();
        assert_eq!(result(stent, "a").await.unwrap(), "reserve go charge ship ");
        assert_eq!(books.done("reserve"), ["a/1/1"]);
        assert_eq!(books.done("charge"), ["a/1/3", "a/2/3"]);
        stent.reset(ResetRun::new("a", Point::BeforeCall(2)).without_messages()).await.unwrap();
        // One that was taken by a run before is known, and is not read: it was left out.
        stent.signal(SendSignal::new("a", &Word("late".into())).message_id("word")).await.unwrap();
        stent.signal(SendSignal::new("a", &Word("other".into())).message_id("other")).await.unwrap();
        assert_eq!(result(stent, "a").await.unwrap(), "reserve other charge ship ");
        assert_eq!(books.done("charge"), ["a/1/3", "a/2/3", "a/3/3"]);
        // Of any run of the execution, and from its start.
        stent.reset(ResetRun::new("a", Point::Start).run(1)).await.unwrap();
        assert_eq!(result(stent, "a").await.unwrap(), "reserve go charge ship ");
        assert_eq!(books.done("reserve"), ["a/1/1", "a/4/1"]);
    });
}

#[test]
fn updates_behind_the_point_are_made_again_and_one_that_was_left_out_is_answered_by_the_run_that_made_it() {
    on_each_store(async |_, _, stent| {
        let noted = async |text: &str, id: &str| {
            stent.update(SendUpdate::new("a", &Note(text.into())).update_id(id).within(limit())).await
        };
        let handle = stent.dispatch(Dispatch::new(Order { parks: false }).id("a")).await.unwrap();
        assert_eq!(noted("one", "n1").await.unwrap(), 1);
        assert_eq!(noted("two", "n2").await.unwrap(), 2);
        stent.signal(SendSignal::new("a", &Word("go".into())).message_id("word")).await.unwrap();
        assert_eq!(handle.result().await.unwrap(), "reserve go charge ship one+two");
        stent.reset(ResetRun::new("a", Point::Start)).await.unwrap();
        assert_eq!(result(stent, "a").await.unwrap(), "reserve go charge ship one+two");
        stent.reset(ResetRun::new("a", Point::Start).without_messages()).await.unwrap();
        assert_eq!(noted("two", "n2").await.unwrap(), 2, "made by a run before, once");
        assert_eq!(noted("three", "n3").await.unwrap(), 1);
        stent.signal(SendSignal::new("a", &Word("again".into()))).await.unwrap();
        assert_eq!(result(stent, "a").await.unwrap(), "reserve again charge ship three");
    });
}

#[test]
fn what_cannot_be_reset_says_why_and_what_to_do() {
    on_each_store(async |_, _, stent| {
        let refused = async |reset: ResetRun| match stent.reset(reset).await {
            Err(Error::Reset(error)) => error,
            other => panic!("{other:?}"),
        };
        let handle = stent.dispatch(Dispatch::new(Order { parks: false }).id("a")).await.unwrap();
        let running = refused(ResetRun::new("a", Point::Start)).await;
        assert!(matches!(&running, ResetError::Running { .. }) && running.to_string().contains("cancel it"), "{running}");
        assert_eq!(refused(ResetRun::new("nobody", Point::Start)).await, ResetError::Unknown("nobody".into()));
        stent.signal(SendSignal::new("a", &Word("go".into()))).await.unwrap();
        handle.result().await.unwrap();
        assert!(matches!(refused(ResetRun::new("a", Point::Start).run(7)).await, ResetError::UnknownRun(_)));
        let within = refused(ResetRun::new("a", Point::Before(0, 1))).await;
        assert!(matches!(&within, ResetError::Point(PointError::NotGood { after: Some(_), .. })), "{within}");
        assert!(within.to_string().contains("nearest good points"), "{within}");
        assert!(matches!(refused(ResetRun::new("a", Point::After(99))).await, ResetError::Point(PointError::NoSuchPlace { .. })));
        assert!(matches!(refused(ResetRun::new("a", Point::Start).reason("x".repeat(5_000))).await, ResetError::Invalid(_)));
        assert_eq!(status(stent, "a").await, Status::Completed);
    });
}

#[test]
fn two_who_reset_at_once_get_one_new_run_and_the_other_hears_that_it_runs() {
    on_each_store(async |_, _, stent| {
        begin(stent, "a", false).await.result().await.unwrap();
        let reset = || stent.reset(ResetRun::new("a", Point::BeforeCall(2)).without_messages());
        let (one, two) = futures_util::join!(reset(), reset());
        let (won, lost) = if one.is_ok() { (one, two) } else { (two, one) };
        assert_eq!(won.unwrap().run_no, 2);
        assert!(matches!(lost, Err(Error::Reset(ResetError::Running { .. } | ResetError::Overtaken { .. }))), "{lost:?}");
        assert_eq!(status(stent, "a").await, Status::Active);
    });
}

/// Lets one who asks decide, and holds it there until the other is through with all that it does.
#[cfg(feature = "failpoints")]
async fn overtaken<T>(late: impl Future<Output = T>, other: impl Future<Output = ()>) -> T {
    use stent::failpoints::{Action, holds, release, set};
    const POINT: &str = "reset.decided";
    set(POINT, Action::Hold, 1);
    let meanwhile = async {
        eventually("it has decided", limit(), async || holds(POINT)).await;
        other.await;
        release(POINT);
    };
    futures_util::join!(late, meanwhile).0
}

#[cfg(feature = "failpoints")]
#[test]
fn who_resets_too_late_hears_so_even_when_the_run_that_has_followed_has_ended_meanwhile() {
    on_each_store(async |_, books, stent| {
        for (id, reset) in [
            ("a", ResetRun::new("a", Point::BeforeCall(3))),
            ("b", ResetRun::new("b", Point::BeforeCall(3)).run(1)),
            ("c", ResetRun::new("c", Point::BeforeCall(3)).request_id("late")),
        ] {
            begin(stent, id, false).await.result().await.unwrap();
            let late = overtaken(stent.reset(reset.clone()), async {
                let first = stent.reset(reset.request_id("first")).await.unwrap();
                assert_eq!(first.run_no, 2);
                assert_eq!(result(stent, id).await.unwrap(), "reserve go charge ship ");
            });
            let late = late.await;
            let wanted = RunId { id: id.into(), run_no: 2 };
            assert!(matches!(&late, Err(Error::Reset(ResetError::Overtaken { run, .. })) if *run == wanted), "{id}: {late:?}");
            assert_eq!(stent.describe(id).await.unwrap().unwrap().summary.id, wanted);
            let keys = books.done("charge");
            assert_eq!(keys.iter().filter(|key| key.starts_with(&format!("{id}/"))).count(), 2, "{keys:?}");
        }
    });
}

#[cfg(feature = "failpoints")]
#[test]
fn a_letter_is_replayed_once_by_two_who_ask_and_left_alone_when_another_run_has_followed() {
    on_each_store(async |_, books, stent| {
        books.breaks(&["charge"]);
        begin(stent, "a", false).await.result().await.unwrap_err();
        begin(stent, "b", false).await.result().await.unwrap_err();
        books.breaks(&[]);
        let replay = |id: &str| stent.replay_letter(ReplayLetter::new(key(id, 1, 3)));
        let late = overtaken(replay("a"), async {
            replay("a").await.unwrap();
            assert_eq!(result(stent, "a").await.unwrap(), "reserve go charge ship ");
        });
        let late = late.await;
        assert!(matches!(&late, Err(Error::Reset(ResetError::Overtaken { run, .. })) if run.run_no == 2), "{late:?}");
        assert_eq!(books.done("charge"), ["a/1/3", "b/1/3", "a/2/3"]);
        let swept = overtaken(stent.replay_letters(ReplayLetters::new(ListLetters::new())), async {
            let again = Dispatch::new(Order { parks: false }).id("b").if_in_use(IfInUse::AllowAfterFailure);
            stent.dispatch(again).await.unwrap();
            stent.signal(SendSignal::new("b", &Word("go".into()))).await.unwrap();
            result(stent, "b").await.unwrap();
        });
        let swept = swept.await.unwrap();
        assert!(swept.done == 0 && swept.left.len() == 1 && swept.left[0].1.contains("b/2"), "{swept:?}");
        // By itself it is not replayed either: nobody has looked at what the run behind it has done.
        let followed = replay("b").await;
        assert!(matches!(&followed, Err(Error::Reset(ResetError::Overtaken { run, .. })) if run.run_no == 2), "{followed:?}");
        assert_eq!(books.done("charge"), ["a/1/3", "b/1/3", "a/2/3", "b/2/3"]);
        assert_eq!(letters(stent).await.len(), 1, "the letter stays");
    });
}

#[test]
fn a_reset_that_is_asked_for_again_under_its_id_is_answered_with_the_run_that_it_began() {
    on_each_store(async |_, books, stent| {
        begin(stent, "a", false).await.result().await.unwrap();
        let asked = |id: &str| stent.reset(ResetRun::new("a", Point::BeforeCall(2)).without_messages().request_id(id));
        let second = RunId { id: "a".into(), run_no: 2 };
        let (one, two) = futures_util::join!(asked("r"), asked("r"));
        assert_eq!((one.unwrap(), two.unwrap()), (second.clone(), second.clone()), "asked twice at once");
        assert_eq!(asked("r").await.unwrap(), second, "while it runs");
        assert!(matches!(asked("s").await, Err(Error::Reset(ResetError::Running { .. }))));
        stent.signal(SendSignal::new("a", &Word("on".into()))).await.unwrap();
        result(stent, "a").await.unwrap();
        assert_eq!(asked("r").await.unwrap(), second, "when it has ended");
        // A copy of its history behind the mark, one from its start, and one of the run before.
        for (reset, run_no) in [
            (ResetRun::new("a", Point::BeforeCall(4)), 3),
            (ResetRun::new("a", Point::Start).run(2), 4),
            (ResetRun::new("a", Point::BeforeCall(3)).run(1), 5),
        ] {
            let id = format!("r{run_no}");
            for _ in 0..2 {
                assert_eq!(stent.reset(reset.clone().request_id(&id)).await.unwrap().run_no, run_no);
            }
            result(stent, "a").await.unwrap();
            assert_eq!(asked("r").await.unwrap(), second, "{run_no} runs");
        }
        assert_eq!(stent.describe("a").await.unwrap().unwrap().summary.id.run_no, 5);
        assert_eq!(books.done("charge"), ["a/1/3", "a/2/3", "a/4/3", "a/5/3"]);
        for id in ["".to_owned(), "x".repeat(256)] {
            let refused = asked(&id).await;
            assert!(matches!(&refused, Err(Error::Reset(ResetError::Invalid(why))) if why.contains("1 to 255")), "{refused:?}");
        }
    });
}

#[test]
fn the_next_run_survives_a_restart_and_goes_on_from_its_own_history() {
    for home in Home::all() {
        alone(async {
            let books = Arc::new(Books::default());
            let stent = start(&home, &books).await;
            begin(&stent, "a", false).await.result().await.unwrap();
            stent.reset(ResetRun::new("a", Point::BeforeCall(2)).without_messages()).await.unwrap();
            waits(&stent, "a").await;
            stop(stent).await;
            let stent = start(&home, &books).await;
            stent.signal(SendSignal::new("a", &Word("more".into()))).await.unwrap();
            assert_eq!(result(&stent, "a").await.unwrap(), "reserve more charge ship ");
            assert_eq!(books.done("reserve"), ["a/1/1"]);
            stop(stent).await;
        });
    }
}

#[test]
fn each_call_that_fails_for_good_leaves_one_letter_that_says_everything() {
    on_each_store(async |_, books, stent| {
        begin(stent, "well", false).await.result().await.unwrap();
        assert!(letters(stent).await.is_empty(), "where nothing fails there are none");
        books.breaks(&["charge"]);
        begin(stent, "failed", false).await.result().await.unwrap_err();
        begin(stent, "parked", true).await;
        eventually("it is parked", limit(), async || letters(stent).await.len() == 2).await;
        let found = letters(stent).await;
        let told: BTreeMap<&str, (bool, &str, &str, Status)> = found
            .iter()
            .map(|found| (&*found.id.id, (found.letter.parked, &*found.letter.activity, &*found.letter.text, found.status)))
            .collect();
        assert_eq!(told["failed"], (false, "resets.act", "declined", Status::Failed));
        assert_eq!(told["parked"], (true, "resets.act", "declined", Status::Active));
        let only = async |list: ListLetters| {
            let found = stent.letters(list).await.unwrap();
            found.into_iter().map(|found| found.id.id).collect::<Vec<_>>()
        };
        assert_eq!(only(ListLetters::new().parked()).await, ["parked"]);
        assert_eq!(only(ListLetters::new().failed().workflow("resets.order").activity("resets.act")).await, ["failed"]);
        assert!(only(ListLetters::new().kind("timeout")).await.is_empty());
        assert!(only(ListLetters::new().since(chrono::Utc::now() + secs(60))).await.is_empty());
        let first = only(ListLetters::new().limit(1)).await;
        let last = stent.letters(ListLetters::new().limit(1)).await.unwrap().remove(0).place();
        let second = only(ListLetters::new().limit(1).after(last)).await;
        assert_eq!(BTreeMap::from([(first[0].clone(), ()), (second[0].clone(), ())]).len(), 2);
        let shown = stent.letter(key("failed", 1, 3)).await.unwrap().unwrap();
        assert_eq!(shown.input.unwrap().decode::<Act>("it").unwrap().0, "charge");
        assert_eq!(shown.failures.len(), 1);
        let (attempt, failure) = &shown.failures[0];
        assert_eq!((*attempt, failure.as_ref().unwrap().message()), (1, "declined"));
        assert!(stent.letter(key("failed", 1, 1)).await.unwrap().is_none());
        assert!(stent.letter(key("nobody", 1, 1)).await.unwrap().is_none());
    });
}

#[test]
fn a_replay_tries_a_parked_call_again_in_its_run_and_makes_a_failed_one_again_in_the_next() {
    on_each_store(async |_, books, stent| {
        books.breaks(&["charge"]);
        begin(stent, "failed", false).await.result().await.unwrap_err();
        let parked = begin(stent, "parked", true).await;
        eventually("both have letters", limit(), async || letters(stent).await.len() == 2).await;
        books.breaks(&[]);
        let replay = async |id: &str| stent.replay_letter(ReplayLetter::new(key(id, 1, 3)).by("ada").reason("again")).await;
        assert_eq!(replay("parked").await.unwrap(), Replayed::Retried);
        assert_eq!(parked.result().await.unwrap(), "reserve go charge ship ");
        assert_eq!(books.done("charge").iter().filter(|key| **key == "parked/1/3").count(), 2);
        assert_eq!(replay("failed").await.unwrap(), Replayed::Reset(RunId { id: "failed".into(), run_no: 2 }));
        assert_eq!(result(stent, "failed").await.unwrap(), "reserve go charge ship ");
        assert!(letters(stent).await.is_empty(), "both are dealt with");
        for gone in ["parked", "failed", "nobody"] {
            assert!(matches!(replay(gone).await, Err(Error::Letter(LetterError::Unknown(_)))));
        }
        assert_eq!(books.done("reserve").len(), 2);
    });
}

#[test]
fn what_fails_again_has_one_letter_again_and_a_discarded_one_is_gone_and_nothing_else() {
    on_each_store(async |_, books, stent| {
        books.breaks(&["charge"]);
        begin(stent, "a", false).await.result().await.unwrap_err();
        stent.replay_letter(ReplayLetter::new(key("a", 1, 3))).await.unwrap();
        result(stent, "a").await.unwrap_err();
        let found = letters(stent).await;
        assert_eq!((found.len(), found[0].id.run_no), (1, 2));
        assert!(stent.discard_letter(key("a", 2, 3)).await.unwrap());
        assert!(!stent.discard_letter(key("a", 2, 3)).await.unwrap(), "there is none any more");
        let parked = begin(stent, "p", true).await;
        eventually("it is parked", limit(), async || letters(stent).await.len() == 1).await;
        assert!(stent.discard_letter(key("p", 1, 3)).await.unwrap());
        assert!(letters(stent).await.is_empty());
        assert_eq!(status(stent, "p").await, Status::Active, "it is parked all the same");
        books.breaks(&[]);
        stent.retry_parked(RetryParked::new("p")).await.unwrap();
        parked.result().await.unwrap();
    });
}

#[test]
fn letters_are_replayed_and_discarded_by_the_filter_and_what_must_stay_says_why() {
    on_each_store(async |_, books, stent| {
        books.breaks(&["charge"]);
        for id in ["a", "b", "c"] {
            begin(stent, id, false).await.result().await.unwrap_err();
        }
        let parked = begin(stent, "p", true).await;
        eventually("all have letters", limit(), async || letters(stent).await.len() == 4).await;
        // Another run has followed, and has succeeded.
        books.breaks(&[]);
        stent.reset(ResetRun::new("c", Point::BeforeCall(3)).run(1)).await.unwrap();
        result(stent, "c").await.unwrap();
        let found = letters(stent).await;
        assert_eq!(found.len(), 3, "what a reset undoes has no letter any more");
        let swept = stent.replay_letters(ReplayLetters::new(ListLetters::new().kind("timeout"))).await.unwrap();
        assert_eq!((swept.done, swept.left_in_all), (0, 0));
        let swept = stent.replay_letters(ReplayLetters::new(ListLetters::new()).by("ada")).await.unwrap();
        assert_eq!((swept.done, swept.left_in_all), (3, 0), "{swept:?}");
        for id in ["a", "b"] {
            assert_eq!(result(stent, id).await.unwrap(), "reserve go charge ship ");
        }
        parked.result().await.unwrap();
        assert!(letters(stent).await.is_empty());
        // Two more, of which one goes on by itself meanwhile.
        books.breaks(&["charge"]);
        begin(stent, "d", false).await.result().await.unwrap_err();
        begin(stent, "e", false).await.result().await.unwrap_err();
        books.breaks(&[]);
        let again = Dispatch::new(Order { parks: false }).id("e").if_in_use(IfInUse::AllowAfterFailure);
        stent.dispatch(again).await.unwrap();
        let swept = stent.replay_letters(ReplayLetters::new(ListLetters::new().failed())).await.unwrap();
        assert_eq!((swept.done, swept.left_in_all), (1, 1));
        assert!(swept.left[0].0 == key("e", 1, 3) && swept.left[0].1.contains("run 2"), "{swept:?}");
        let swept = stent.discard_letters(ListLetters::new()).await.unwrap();
        assert_eq!(swept.done, 1);
        assert!(letters(stent).await.is_empty());
    });
}

/// Two calls at once, of which both may fail, and a call behind them.
#[derive(Serialize, Deserialize)]
struct Pair;

impl Workflow for Pair {
    const NAME: &'static str = "resets.pair";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        let (left, right) = futures_util::join!(
            cx.call(Act("left".into())).retry(Retry::never()),
            cx.call(Act("right".into())).retry(Retry::never())
        );
        let last = cx.call(Act("last".into())).await?;
        Ok(format!("{} {} {last}", left?, right?))
    }
}

#[test]
fn several_letters_of_one_run_are_replayed_together_by_one_run_from_before_the_first() {
    for home in Home::all() {
        alone(async {
            let books = Arc::new(Books::default());
            let stent = build(&home, &books).workflow::<Pair>().spawn().await.unwrap();
            books.breaks(&["left", "right"]);
            stent.dispatch(Dispatch::new(Pair).id("p")).await.unwrap().result().await.unwrap_err();
            assert_eq!(letters(&stent).await.len(), 2);
            books.breaks(&[]);
            let swept = stent.replay_letters(ReplayLetters::new(ListLetters::new())).await.unwrap();
            assert_eq!((swept.done, swept.left_in_all), (1, 0), "{swept:?}");
            let result = stent.handle::<Pair>("p").await.unwrap().unwrap().result().await;
            assert_eq!(result.unwrap(), "left right last");
            assert!(letters(&stent).await.is_empty());
            assert_eq!(books.done("last"), ["p/1/3", "p/2/3"]);
            stop(stent).await;
        });
    }
}

/// A call in a shared queue, a step beside it, and both once more behind a nap.
#[derive(Serialize, Deserialize)]
struct Shared;

impl Workflow for Shared {
    const NAME: &'static str = "resets.shared";
    type Output = String;
    type Error = AppError;

    async fn run(self, cx: Cx<Self>) -> Result<String, AppError> {
        let first = cx.call(Act("first".into())).queue("shared").await?;
        cx.sleep(millis(30)).await?;
        let (second, step) = futures_util::join!(
            cx.call(Act("second".into())).queue("shared").retry(Retry::never()),
            cx.step("step", async || Ok::<_, AppError>(1_u32))
        );
        Ok(format!("{first} {} {}", second?, step?))
    }
}

#[test]
fn calls_in_shared_queues_and_steps_are_made_again_as_all_others() {
    for home in Home::all() {
        alone(async {
            let books = Arc::new(Books::default());
            let builder = build(&home, &books).workflow::<Shared>().queue(Queue::named("shared").concurrency(1));
            let stent = builder.spawn().await.unwrap();
            books.breaks(&["second"]);
            stent.dispatch(Dispatch::new(Shared).id("s")).await.unwrap().result().await.unwrap_err();
            books.breaks(&[]);
            let position = letters(&stent).await[0].letter.position;
            for (point, seconds) in
                [(Point::BeforeFailure(position), 2), (Point::BeforeCall(position), 3), (Point::BeforeCall(2), 4)]
            {
                stent.reset(ResetRun::new("s", point).run(1)).await.unwrap();
                let result = stent.handle::<Shared>("s").await.unwrap().unwrap().result().await;
                assert_eq!(result.unwrap(), "first second 1", "{point:?}");
                assert_eq!(books.done("first"), ["s/1/1"], "{point:?}");
                assert_eq!(books.done("second").len(), seconds, "{point:?}");
            }
            assert!(stent.queues().await.unwrap().iter().all(|queue| queue.waiting == 0 && queue.running == 0));
            stop(stent).await;
        });
    }
}

/// Where the core dies around a reset, and its answer is lost, there is one new run, and whoever asked hears of it.
#[cfg(feature = "failpoints")]
#[test]
fn a_reset_whose_answer_is_lost_is_known_again_and_made_once() {
    use stent::failpoints::{Action, set};
    for point in ["persistence.before_commit", "persistence.after_commit", "persistence.before_acks"] {
        on_each_store(async |_, books, stent| {
            let handle = begin(stent, "a", false).await;
            handle.result().await.unwrap();
            set(point, Action::Panic, 1);
            let new = stent.reset(ResetRun::new("a", Point::BeforeCall(3))).await.unwrap();
            assert_eq!(new.run_no, 2, "{point}");
            assert_eq!(result(stent, "a").await.unwrap(), "reserve go charge ship ", "{point}");
            assert_eq!(books.done("reserve"), ["a/1/1"]);
            assert_eq!(status(stent, "a").await, Status::Completed);
            assert_eq!(stent.describe("a").await.unwrap().unwrap().summary.id.run_no, 2, "{point}: there is one new run");
        });
    }
}
