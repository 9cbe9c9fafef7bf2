//! Letters that others deal with, or whose runs end, between the moment in which somebody finds them and that in which he acts on it.

use stent::failpoints::{Action, holds, release, set};

use super::*;

const FOUND: &str = "letters.found";

/// Lets somebody find letters, and holds him there until the others are through with all that they do. He is at a node that runs nothing.
async fn behind<T>(late: impl Future<Output = T>, others: impl Future<Output = ()>) -> T {
    set(FOUND, Action::Hold, 1);
    let meanwhile = async {
        eventually("they are found", limit(), async || holds(FOUND)).await;
        others.await;
        release(FOUND);
    };
    futures_util::join!(late, meanwhile).0
}

fn on_two_nodes(case: impl AsyncFn(&Books, &Stent, &Stent)) {
    for home in Home::shared() {
        alone(async {
            let books = Arc::new(Books::default());
            let stent = start(&home, &books).await;
            let other = home.open().spawn().await.unwrap();
            case(&books, &stent, &other).await;
            stop(other).await;
            stop(stent).await;
        });
    }
}

#[test]
fn a_parked_letter_of_a_run_that_is_over_reaches_no_other_run_of_its_id() {
    on_two_nodes(async |books, stent, other| {
        books.breaks(&["charge"]);
        let first = begin(stent, "p", true).await;
        eventually("it is parked", limit(), async || letters(stent).await.len() == 1).await;
        let late = behind(other.replay_letter(ReplayLetter::new(key("p", 1, 3))), async {
            stent.terminate(Terminate::new("p", "ada")).await.unwrap();
            first.result().await.unwrap_err();
            let again = Dispatch::new(Order { parks: true }).id("p").if_in_use(IfInUse::AllowAfterFailure);
            stent.dispatch(again).await.unwrap();
            stent.signal(SendSignal::new("p", &Word("go".into()))).await.unwrap();
            eventually("it is parked too", limit(), async || letters(stent).await.iter().any(|one| one.id.run_no == 2)).await;
            books.breaks(&[]);
        });
        let late = late.await;
        assert!(matches!(&late, Err(Error::Letter(LetterError::Over(of))) if *of == key("p", 1, 3)), "{late:?}");
        // The other run is as it was, and goes on when its own letter is replayed.
        assert_eq!(letters(stent).await[0].id.run_no, 2);
        assert_eq!(other.replay_letter(ReplayLetter::new(key("p", 2, 3))).await.unwrap(), Replayed::Retried);
        assert_eq!(result(stent, "p").await.unwrap(), "reserve go charge ship ");
        assert_eq!(books.done("charge").len(), 3);
    });
}

#[test]
fn a_letter_whose_call_fails_anew_while_many_are_discarded_is_counted_among_those_that_stay() {
    on_two_nodes(async |books, stent, other| {
        books.breaks(&["charge"]);
        begin(stent, "a", false).await.result().await.unwrap_err();
        begin(stent, "p", true).await;
        eventually("both have letters", limit(), async || letters(stent).await.len() == 2).await;
        let swept = behind(other.discard_letters(ListLetters::new()), async {
            let before = letters(stent).await;
            stent.retry_parked(RetryParked::new("p")).await.unwrap();
            eventually("it has failed anew", limit(), async || {
                let found = letters(stent).await;
                found.len() == 2 && found != before
            })
            .await;
        });
        let swept = swept.await.unwrap();
        assert_eq!((swept.done, swept.left_in_all), (1, 1), "{swept:?}");
        assert_eq!(swept.left[0].0, key("p", 1, 3));
        assert_eq!(letters(stent).await.len(), 1);
    });
}
