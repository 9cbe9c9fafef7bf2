//! The broken network itself, tried with a client that needs nothing of ours: each fault is what it says it is.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    proxy::{Proxy, Trap},
    support::servers::{Database, Postgres, until},
};

/// Inserts a row in a transaction of three messages.
fn insert(database: &Database<'_>, proxy: &Proxy) -> Child {
    Command::new("psql")
        .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", &database.url_at(proxy.port())])
        .args(["-c", "begin", "-c", "insert into t values (1)", "-c", "commit"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn count(database: &Database<'_>) -> u32 {
    database.sql("select count(*) from t").parse().unwrap()
}

fn with_a_table() -> (Database<'static>, Proxy) {
    let database = Postgres::shared().database();
    database.sql("create table t (n int)");
    let proxy = Proxy::to(database.server().port());
    (database, proxy)
}

#[test]
fn a_commit_whose_answer_is_lost_is_done_and_its_client_does_not_know() {
    let (database, proxy) = with_a_table();
    assert!(insert(&database, &proxy).wait().unwrap().success());
    proxy.trap(Trap::LoseReply, "COMMIT");
    assert!(!insert(&database, &proxy).wait().unwrap().success());
    assert_eq!((count(&database), proxy.sprung()), (2, 1));
    assert!(insert(&database, &proxy).wait().unwrap().success(), "one trap, one fault");
}

#[test]
fn a_commit_that_lands_late_is_done_behind_the_back_of_its_client() {
    let (database, proxy) = with_a_table();
    proxy.trap(Trap::LandLate(Duration::from_secs(1)), "commit");
    let began = Instant::now();
    assert!(!insert(&database, &proxy).wait().unwrap().success());
    assert_eq!(count(&database), 0, "{:?}: not yet", began.elapsed());
    until("it lands", Duration::from_secs(5), || count(&database) == 1);
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[test]
fn a_commit_that_is_withheld_leaves_its_transaction_open_until_the_way_is_healed() {
    let (database, proxy) = with_a_table();
    proxy.trap(Trap::Withhold, "commit");
    let mut client = insert(&database, &proxy);
    until("it is at its COMMIT", Duration::from_secs(5), || proxy.sprung() == 1);
    let open = "select count(*) from pg_stat_activity where datname = current_database() and state = 'idle in transaction'";
    assert_eq!(database.sql(open), "1");
    assert!(client.try_wait().unwrap().is_none());
    proxy.heal();
    assert!(client.wait().unwrap().success());
    assert_eq!(count(&database), 1);
}

#[test]
fn a_way_that_is_cut_refuses_and_one_that_is_held_is_silent_until_it_is_healed() {
    let (database, proxy) = with_a_table();
    proxy.cut();
    assert!(!insert(&database, &proxy).wait().unwrap().success());
    proxy.heal();
    proxy.hold();
    let mut client = insert(&database, &proxy);
    std::thread::sleep(Duration::from_millis(300));
    assert!(client.try_wait().unwrap().is_none(), "nothing comes through");
    assert_eq!(count(&database), 0);
    proxy.heal();
    assert!(client.wait().unwrap().success());
    assert_eq!(count(&database), 1);
}

#[test]
fn a_cut_ends_the_connections_there_are() {
    let (database, proxy) = with_a_table();
    let mut client = Command::new("psql")
        .args(["-XAtq", "-d", &database.url_at(proxy.port()), "-c", "select pg_sleep(60)"])
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until("it is connected", Duration::from_secs(5), || database.connections() == 1);
    let began = Instant::now();
    proxy.cut();
    assert!(!client.wait().unwrap().success());
    assert!(began.elapsed() < Duration::from_secs(5));
}
