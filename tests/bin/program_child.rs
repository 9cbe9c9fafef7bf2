//! The program that `tests/programs` kills. It dispatches the same programs at every start, under the same ids, sends each its signals
//! under the same message ids, waits until all have ended, children included, and leaves. Every act and every acknowledgement is one line
//! of a side file, written before anything else can happen.
//!
//! Lines: `act <execution> <place> <attempt>`, `ack <execution>`.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    sync::OnceLock,
};

use stent::{List, Stent, prelude::*, store::Status};

#[path = "../programs/driver.rs"]
mod driver;
#[path = "../programs/interpreter.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod interpreter;
#[path = "../programs/language.rs"]
mod language;
#[path = "../programs/model.rs"]
#[allow(dead_code, reason = "a program is grown with what it says; the tests use the rest")]
mod model;

static SIDE: OnceLock<File> = OnceLock::new();

fn side(line: &str) {
    let mut file = SIDE.get().expect("opened first");
    file.write_all(format!("{line}\n").as_bytes()).expect("the side file can be written");
}

#[actix::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [url, file, first, behind] = &args[..] else {
        panic!("usage: stent-program-child <url> <side file> <first seed> <seed behind the last>");
    };
    let opened = OpenOptions::new().create(true).append(true).open(file).expect("the side file can be opened");
    SIDE.set(opened).expect("set once");
    let told: fn(&str, &str, u32) = |execution, what, attempt| side(&format!("act {execution} {what} {attempt}"));
    interpreter::ACTS.set(told).expect("set once");
    let seeds = first.parse::<u64>().expect("a seed")..behind.parse().expect("a seed");
    let inline = std::env::var("STENT_INLINE").is_ok_and(|inline| inline == "1");
    let stent = interpreter::register(Stent::open(url), inline)
        .passivate_after(millis(8))
        .look_ahead(millis(3))
        // Long: nothing may depend on its running out.
        .lease(secs(30))
        .build("programs")
        .spawn()
        .await
        .expect("the runtime starts");
    let programs: Vec<language::Grown> = seeds.map(language::grow).collect();
    let pauses = std::env::var("STENT_PAUSES").is_ok_and(|pauses| pauses == "1");
    let ends = programs.iter().map(|program| driver::drive(&stent, program, pauses, |name| side(&format!("ack {name}"))));
    futures_util::future::join_all(ends).await;
    while open(&stent).await {
        tokio::time::sleep(millis(5)).await;
    }
    stent.shutdown(Shutdown::within(secs(5))).await.expect("it stops");
}

/// Tells whether something has not ended.
async fn open(stent: &Stent) -> bool {
    let mut list = List::new().limit(1);
    for status in Status::ALL.into_iter().filter(|status| !status.is_end()) {
        list = list.status(status);
    }
    !stent.list(list).await.expect("it can be listed").is_empty()
}
