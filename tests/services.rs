//! The servers that other tests stand on: installed and started by the tests themselves, fresh for each, mistreated at
//! will, and gone when nobody wants them any more.

#![cfg(feature = "postgres")]

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use support::servers::{Postgres, Redis, Stop, until};

mod support;

#[test]
fn each_database_of_the_shared_server_is_fresh_and_is_gone_behind_its_test() {
    let server = Postgres::shared();
    let (first, second) = (server.database(), server.database());
    first.sql("create table t (n int)");
    assert!(second.try_sql("select * from t").is_err_and(|said| said.contains("does not exist")));
    let name = first.name().to_owned();
    drop(first);
    assert!(server.try_sql(&name, "select 1").is_err());
    assert_eq!(second.sql("show fsync"), "on");
    assert_eq!(second.sql("show max_connections"), "300");
}

#[test]
fn every_user_of_the_shared_server_gets_the_same_one() {
    let ports: Vec<u16> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..4).map(|_| scope.spawn(|| Postgres::shared().port())).collect();
        all.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(ports.iter().all(|port| *port == ports[0]), "{ports:?}");
}

#[test]
fn a_private_server_comes_back_on_its_port_with_what_was_committed_however_it_was_stopped() {
    let server = Postgres::own();
    let (port, database) = (server.port(), server.database());
    database.sql("create table t (n int)");
    for (n, how) in [Stop::Fast, Stop::Immediate, Stop::Kill].into_iter().enumerate() {
        database.sql(&format!("insert into t values ({n})"));
        server.stop(how);
        assert!(database.try_sql("select 1").is_err(), "{how:?}: it is gone");
        server.start();
        assert_eq!(server.port(), port);
        assert_eq!(database.sql("select count(*) from t"), (n + 1).to_string(), "{how:?}");
    }
}

#[test]
fn a_frozen_server_answers_nothing_and_goes_on_afterwards() {
    let server = Postgres::own();
    let database = server.database();
    server.freeze();
    let url = database.url();
    let psql = |sql: &str| {
        let mut command = Command::new("psql");
        command.args(["-XAtq", "-d", &url, "-c", sql]).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    let mut asked = psql("select 1");
    std::thread::sleep(Duration::from_millis(300));
    assert!(asked.try_wait().unwrap().is_none(), "a frozen server cannot answer");
    server.thaw();
    assert!(asked.wait().unwrap().success());
}

#[test]
fn a_failover_to_an_older_copy_forgets_what_came_after_it() {
    let server = Postgres::own();
    let database = server.database();
    database.sql("create table t (n int); insert into t values (1)");
    let copied = server.copy();
    database.sql("insert into t values (2)");
    server.fail_over_to(copied);
    assert_eq!(database.sql("select n from t"), "1");
    server.stop(Stop::Fast);
    let copied = server.copy();
    server.start();
    database.sql("insert into t values (3)");
    server.fail_over_to(copied);
    assert_eq!(database.sql("select n from t"), "1");
}

#[test]
fn sessions_are_counted_by_application_and_ended_at_will() {
    let database = Postgres::shared().database();
    let url = format!("{}?application_name=sleeper", database.url());
    let mut sleeper = Command::new("psql")
        .args(["-XAtq", "-d", &url, "-c", "select pg_sleep(60)"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("it is seen", Duration::from_secs(10), || database.connections_of("sleeper") == 1);
    assert_eq!(database.connections(), 1);
    assert_eq!(database.terminate(), 1);
    assert!(!sleeper.wait().unwrap().success());
    until("it is gone", Duration::from_secs(10), || database.connections() == 0);
}

#[test]
fn redis_answers_and_comes_back_on_its_port_empty() {
    let redis = Redis::own();
    let port = redis.port();
    assert!(redis.ping());
    assert_eq!(redis.ask("SET a 1").unwrap(), "+OK");
    redis.freeze();
    assert!(!redis.ping(), "a frozen one does not answer");
    redis.thaw();
    until("it goes on", Duration::from_secs(5), || redis.ping());
    redis.stop();
    assert!(!redis.ping());
    redis.start();
    assert_eq!(redis.port(), port);
    assert_eq!(redis.ask("GET a").unwrap(), "$-1", "nothing was kept");
}

/// This test calls itself as a child that dies without any clean-up.
#[test]
fn a_server_whose_test_was_killed_is_stopped_and_its_folder_removed() {
    const NOTE: &str = "STENT_TEST_NOTE";
    if let Ok(note) = std::env::var(NOTE) {
        let (server, redis) = (Postgres::own(), Redis::own());
        server.freeze();
        let folder = server.folder();
        std::fs::write(note, format!("{} {}", folder.display(), redis.port())).unwrap();
        let me = rustix::process::getpid();
        rustix::process::kill_process(me, rustix::process::Signal::KILL).unwrap();
        unreachable!("it is dead");
    }
    let folder = tempfile::tempdir().unwrap();
    let note = folder.path().join("note");
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_server_whose_test_was_killed_is_stopped_and_its_folder_removed"])
        .env(NOTE, &note)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(!status.success());
    let text = std::fs::read_to_string(note).unwrap();
    let (servers_folder, port) = text.split_once(' ').unwrap();
    let start = Instant::now();
    until("the folder is gone", Duration::from_secs(20), || !Path::new(servers_folder).exists());
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    until("redis is gone", Duration::from_secs(20), || {
        std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100)).is_err()
    });
    assert!(start.elapsed() < Duration::from_secs(20));
}
