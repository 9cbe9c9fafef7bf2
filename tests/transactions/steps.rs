//! One transactional step at a time, and what may come in its way.

use stent::prelude::*;

use crate::{
    bank::{Bank, Enter, Then, on_sqlite, plan},
    support::{Home, eventually, system},
};

#[test]
fn what_a_closure_writes_and_that_it_did_are_one() {
    system(async {
        for bank in Bank::all() {
            let stent = bank.open().await;
            for number in 0..20 {
                let entered = bank.dispatch(&stent, Enter::new(&format!("plain-{number}"))).await;
                assert_eq!(entered.result.await.unwrap(), format!("entered plain-{number} (plain-{number})"));
            }
            bank.balance(20).await;
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}

#[test]
fn an_error_rolls_back_and_is_tried_again_as_often_as_the_step_says() {
    system(async {
        for bank in Bank::all() {
            let stent = bank.open().await;
            let twice = plan("twice", vec![Then::Fails, Then::Fails, Then::Returns]);
            bank.dispatch(&stent, Enter::new("twice")).await.result.await.unwrap();
            assert_eq!((twice.calls(), bank.entered("twice").await), (3, 1));
            let never = plan("never", vec![Then::Fails]);
            let refused = bank.dispatch(&stent, Enter { tries: 3, ..Enter::new("never") }).await.result.await.unwrap_err();
            assert!(refused.contains("as planned"), "{refused}");
            assert_eq!((never.calls(), bank.entered("never").await), (3, 0));
            bank.balance(1).await;
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}

#[test]
fn one_that_takes_too_long_is_rolled_back_and_lets_go_of_its_locks() {
    system(async {
        for bank in Bank::all() {
            let stent = bank.open().await;
            let slow = plan("slow", vec![Then::Hangs, Then::Returns]);
            let enter = Enter { limit: Some(millis(200)), ..Enter::new("slow") };
            bank.dispatch(&stent, enter).await.result.await.unwrap();
            assert_eq!((slow.calls(), bank.entered("slow").await), (2, 1));
            bank.balance(1).await;
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}

#[test]
fn one_that_is_cancelled_is_rolled_back_at_once() {
    system(async {
        for bank in Bank::all() {
            let stent = bank.open().await;
            let held = plan("held", vec![Then::Hangs]);
            let entered = bank.dispatch(&stent, Enter { limit: Some(secs(60)), ..Enter::new("held") }).await;
            eventually("it is in the middle", secs(5), async || held.calls() == 1).await;
            // On SQLite it holds the write lock, which the request to stop needs as well: there its own limit ends it.
            if !matches!(bank.home, Home::Sqlite(_)) {
                stent.cancel(Cancel::new("held")).await.unwrap();
                assert!(entered.result.await.unwrap_err().contains("cancelled"));
                bank.dispatch(&stent, Enter::new("next")).await.result.await.unwrap();
                bank.balance(1).await;
            }
            stent.shutdown(Shutdown::within(millis(10))).await.unwrap();
            assert_eq!(bank.entered("held").await, 0);
        }
    });
}

#[test]
fn what_does_not_fit_into_the_log_is_rolled_back_and_fails_for_good() {
    system(async {
        for bank in Bank::all() {
            let stent = bank.open().await;
            let large = plan("large", vec![Then::Overflows]);
            let refused = bank.dispatch(&stent, Enter::new("large")).await.result.await.unwrap_err();
            assert!(refused.contains("the limit is"), "{refused}");
            assert_eq!(large.calls(), 1);
            bank.balance(0).await;
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}

#[test]
fn a_closure_that_ends_its_transaction_itself_is_told_so() {
    system(async {
        for bank in Bank::all() {
            let stent = bank.open().await;
            plan("commits", vec![Then::Commits]);
            let refused = bank.dispatch(&stent, Enter::new("commits")).await.result.await.unwrap_err();
            assert!(refused.contains("ended its transaction itself"), "{refused}");
            // PostgreSQL cannot keep it from being committed: that is why it is told.
            let kept = i64::from(!matches!(bank.home, Home::Sqlite(_)));
            assert_eq!(bank.entered("commits").await, kept);
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}

#[test]
fn no_commit_of_a_closure_comes_through_whatever_it_makes_of_it() {
    system(async {
        let bank = Bank { home: Home::sqlite() };
        let stent = bank.open().await;
        for then in [Then::Commits, Then::CommitsAndFails, Then::CommitsAndBegins] {
            let name = format!("{then:?}");
            let commits = plan(&name, vec![then, Then::Returns]);
            let refused = bank.dispatch(&stent, Enter::new(&name)).await.result.await.unwrap_err();
            assert!(refused.contains("ended its transaction itself"), "{refused}");
            assert_eq!((commits.calls(), bank.entered(&name).await), (1, 0), "{name}");
            bank.balance(0).await;
        }
        // The connection is as good as before.
        bank.dispatch(&stent, Enter::new("as-ever")).await.result.await.unwrap();
        bank.balance(1).await;
        stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
    });
}

#[test]
fn no_step_takes_so_long_that_its_node_loses_its_lease() {
    system(async {
        let bank = Bank { home: Home::sqlite() };
        let stent = stent::Stent::of(bank.builder().lease(secs(2)).start().await.unwrap()).await.unwrap();
        bank.make_books().await;
        let slow = plan("slow-beside-its-lease", vec![Then::Hangs]);
        let enter = Enter { tries: 8, limit: Some(secs(3)), ..Enter::new("slow-beside-its-lease") };
        let refused = bank.dispatch(&stent, enter).await.result.await.unwrap_err();
        assert!(refused.contains("longer than 500ms"), "{refused}");
        assert_eq!(slow.calls(), 8, "each attempt was made once, and by one life");
        assert_eq!(bank.count("nodes").await, 1, "it was never fenced");
        stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
    });
}

#[test]
fn a_statement_that_never_ends_is_interrupted_and_others_write() {
    system(async {
        let bank = Bank { home: Home::sqlite() };
        let stent = bank.open().await;
        plan("endless", vec![Then::Computes]);
        let endless = Enter { tries: 1, limit: Some(millis(200)), ..Enter::new("endless") };
        let refused = bank.dispatch(&stent, endless).await.result.await.unwrap_err();
        assert!(refused.contains("start_to_close ran out"), "{refused}");
        tokio::time::timeout(secs(2), bank.dispatch(&stent, Enter::new("behind-it")).await.result).await.unwrap().unwrap();
        bank.balance(1).await;
        // The same by a wish to stop, and by an end of everything.
        let stopped = plan("stopped", vec![Then::Computes]);
        let _stopped = bank.dispatch(&stent, Enter { limit: Some(secs(60)), ..Enter::new("stopped") }).await;
        eventually("it is in the middle", secs(5), async || stopped.calls() == 1).await;
        stent.shutdown(Shutdown::within(millis(10))).await.unwrap();
        assert_eq!(bank.entered("stopped").await, 0);
        bank.sql("UPDATE accounts SET balance = balance").await;
    });
}

#[test]
fn a_store_without_transactions_and_one_of_another_kind_refuse_by_name() {
    system(async {
        let memory = stent::Stent::open("memory:").workflow::<on_sqlite::Entered>().start().await.unwrap();
        let memory = stent::Stent::of(memory).await.unwrap();
        let handle = memory.dispatch(Dispatch::new(on_sqlite::Entered(Enter::new("memory")))).await.unwrap();
        let refused = handle.result().await.unwrap_err().to_string();
        assert!(refused.contains("this store has no transactions"), "{refused}");
        memory.shutdown(Shutdown::within(secs(5))).await.unwrap();
        #[cfg(feature = "postgres")]
        {
            let home = Home::postgres();
            let supervisor = home.open().workflow::<on_sqlite::Entered>().start().await.unwrap();
            let other = stent::Stent::of(supervisor).await.unwrap();
            let handle = other.dispatch(Dispatch::new(on_sqlite::Entered(Enter::new("other")))).await.unwrap();
            let refused = handle.result().await.unwrap_err().to_string();
            assert!(refused.contains("connections of another type"), "{refused}");
            other.shutdown(Shutdown::within(secs(5))).await.unwrap();
        }
    });
}

#[cfg(feature = "postgres")]
mod on_postgres {
    use std::sync::Arc;

    use sqlx::Connection;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::proxy::{Proxy, Trap};

    fn bank() -> Bank {
        Bank { home: Home::postgres() }
    }

    #[test]
    fn one_that_goes_on_behind_a_failed_statement_is_a_failed_attempt() {
        system(async {
            let bank = bank();
            let stent = bank.open().await;
            let swallows = plan("swallows", vec![Then::Swallows, Then::Returns]);
            bank.dispatch(&stent, Enter::new("swallows")).await.result.await.unwrap();
            assert_eq!(swallows.calls(), 2);
            bank.balance(1).await;
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        });
    }

    #[test]
    fn one_that_commits_by_itself_and_fails_then_is_not_tried_again() {
        system(async {
            let bank = bank();
            let stent = bank.open().await;
            let commits = plan("commits-fails", vec![Then::CommitsAndFails]);
            let refused = bank.dispatch(&stent, Enter::new("commits-fails")).await.result.await.unwrap_err();
            assert!(refused.contains("ended its transaction itself"), "{refused}");
            assert!(refused.contains("behind its own COMMIT"), "{refused}");
            assert_eq!((commits.calls(), bank.entered("commits-fails").await), (1, 1));
            // In a second transaction, which a statement has aborted.
            let begins = plan("commits-begins", vec![Then::CommitsBeginsAndFails]);
            let refused = bank.dispatch(&stent, Enter::new("commits-begins")).await.result.await.unwrap_err();
            assert!(refused.contains("ended its transaction itself") && refused.contains("nowhere"), "{refused}");
            assert_eq!((begins.calls(), bank.entered("commits-begins").await), (1, 1));
            bank.dispatch(&stent, Enter::new("next")).await.result.await.unwrap();
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        });
    }

    /// The commit of a guest, as it goes over the line.
    const COMMIT: &str = "Q\0\0\0\x0bCOMMIT\0";

    #[test]
    fn a_commit_whose_answer_is_lost_is_settled_by_its_row() {
        system(async {
            let bank = bank();
            let Home::Postgres(database) = &bank.home else { unreachable!("it is one") };
            let proxy = Proxy::to(database.server().port());
            let builder = stent::Stent::open(&database.url_at(proxy.port())).workflow::<crate::bank::on_postgres::Entered>();
            let stent = stent::Stent::of(builder.start().await.unwrap()).await.unwrap();
            bank.make_books().await;
            let lost = plan("lost", vec![Then::Returns]);
            proxy.trap(Trap::LoseReply, COMMIT);
            let enter = Enter { tries: 1, ..Enter::new("lost") };
            bank.dispatch(&stent, enter).await.result.await.unwrap();
            assert_eq!((proxy.sprung(), lost.calls()), (1, 1), "it took place, and is known to have");
            // The old session gets its COMMIT only after the client has gone: it is not believed to have failed before.
            let late = plan("late", vec![Then::Returns]);
            proxy.trap(Trap::LandLate(millis(300)), COMMIT);
            bank.dispatch(&stent, Enter::new("late")).await.result.await.unwrap();
            assert_eq!((proxy.sprung(), bank.entered("late").await), (2, 1), "after {} calls", late.calls());
            bank.balance(2).await;
            stent.shutdown(Shutdown::within(secs(5))).await.unwrap();
        });
    }

    /// Takes a node's right away as a takeover does.
    const TAKE_OVER: &str = "WITH dead AS (UPDATE stent.nodes SET state = 3 WHERE node = 1 RETURNING node)
        UPDATE stent.node_lanes l SET live = false FROM dead d WHERE l.node = d.node";

    #[test]
    fn a_node_that_was_taken_over_in_the_middle_commits_nothing() {
        system(async {
            let bank = bank();
            let a = bank.open().await;
            let told = Arc::new(Semaphore::new(0));
            let taken = plan("taken", vec![Then::Waits(told.clone()), Then::Returns]);
            let _on_a = bank.dispatch(&a, Enter { cents: 5, limit: Some(secs(30)), ..Enter::new("taken") }).await;
            eventually("it is in the middle", secs(5), async || taken.calls() == 1).await;
            // The owner is exchanged under it; the accounts stay locked, so its successor waits for its end.
            bank.sql(TAKE_OVER).await;
            let b = stent::Stent::of(bank.builder().start().await.unwrap()).await.unwrap();
            eventually("another has it", secs(10), async || {
                bank.sql("SELECT epoch FROM stent.executions WHERE id = 'taken'").await.is_some_and(|epoch| epoch > 1)
            })
            .await;
            told.add_permits(10);
            let handle = b.handle::<crate::bank::on_postgres::Entered>("taken").await.unwrap().unwrap();
            handle.result().await.unwrap();
            assert_eq!(bank.entered("taken").await, 1);
            bank.balance(1).await;
            b.shutdown(Shutdown::within(secs(5))).await.unwrap();
            a.shutdown(Shutdown::within(secs(5))).await.unwrap();
        });
    }

    #[test]
    fn a_node_that_comes_back_when_another_has_done_it_all_commits_nothing() {
        system(async {
            let bank = bank();
            // It does not learn by itself that it was taken over.
            let a = stent::Stent::of(bank.builder().lease(secs(60)).start().await.unwrap()).await.unwrap();
            bank.make_books().await;
            let told = Arc::new(Semaphore::new(0));
            let late = plan("late-one", vec![Then::Begins(told.clone()), Then::Returns]);
            let _on_a = bank.dispatch(&a, Enter { limit: Some(secs(60)), ..Enter::new("late-one") }).await;
            eventually("it is in the middle", secs(5), async || late.calls() == 1).await;
            bank.sql(TAKE_OVER).await;
            let b = stent::Stent::of(bank.builder().start().await.unwrap()).await.unwrap();
            let handle = b.handle::<crate::bank::on_postgres::Entered>("late-one").await.unwrap().unwrap();
            handle.result().await.unwrap();
            bank.balance(1).await;
            told.add_permits(1);
            eventually("its transaction is over", secs(10), async || {
                bank.sql("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'").await == Some(0)
            })
            .await;
            assert_eq!(late.calls(), 2);
            bank.balance(1).await;
            b.shutdown(Shutdown::within(secs(5))).await.unwrap();
            a.shutdown(Shutdown::within(secs(5))).await.unwrap();
        });
    }

    #[test]
    fn a_run_cannot_be_taken_between_the_last_statement_and_the_commit_and_what_it_did_is_found() {
        system(async {
            let bank = bank();
            let a = bank.open().await;
            // Holds the step's row, which the last statement must wait for: so it is caught in the middle.
            let Home::Postgres(database) = &bank.home else { unreachable!("it is one") };
            let found = plan("found", vec![Then::Returns]);
            let mut foreign = sqlx::PgConnection::connect(&database.url()).await.unwrap();
            let deferred = [
                "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock(77); RETURN NULL; END'",
                "CREATE CONSTRAINT TRIGGER holds AFTER INSERT ON entries DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION hold()",
                "SELECT pg_advisory_lock(77)",
            ];
            for text in deferred {
                sqlx::query(text).execute(&mut foreign).await.unwrap();
            }
            let _on_a = bank.dispatch(&a, Enter { limit: Some(secs(30)), ..Enter::new("found") }).await;
            eventually("its COMMIT is on its way", secs(5), async || {
                bank.sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 77 AND NOT granted").await
                    == Some(1)
            })
            .await;
            bank.sql(TAKE_OVER).await;
            let b = stent::Stent::of(bank.builder().start().await.unwrap()).await.unwrap();
            let handle = b.handle::<crate::bank::on_postgres::Entered>("found").await.unwrap().unwrap();
            // Everything else is swept by now; this run waits for the commit that nobody can take back.
            let before = tokio::time::timeout(secs(1), handle.result()).await;
            assert!(before.is_err(), "{before:?}");
            sqlx::query("SELECT pg_advisory_unlock(77)").execute(&mut foreign).await.unwrap();
            handle.result().await.unwrap();
            assert_eq!((found.calls(), bank.entered("found").await), (1, 1), "it was found, and not done again");
            bank.balance(1).await;
            b.shutdown(Shutdown::within(secs(5))).await.unwrap();
            a.shutdown(Shutdown::within(secs(5))).await.unwrap();
        });
    }
}
