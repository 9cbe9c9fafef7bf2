//! The story: a bank keeps its books in the database that keeps its workflows. What a step writes there and the record that it
//! did are one: no kill, takeover, time-out or lost answer makes a transfer happen twice, or half, or be forgotten. And an
//! execution that was begun in somebody's own transaction exists exactly if that was committed.

mod bank;
#[cfg(feature = "failpoints")]
mod kills;
mod outbox;
#[cfg(feature = "postgres")]
#[path = "../cluster/proxy.rs"]
#[allow(dead_code, reason = "each test program uses its part")]
mod proxy;
mod steps;
#[path = "../support/mod.rs"]
mod support;
