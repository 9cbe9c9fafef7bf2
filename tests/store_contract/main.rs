//! The contract of `stent::store::Store`, held against every store that there is. Three parts: one case per guarantee,
//! driven on each store alike; random operations on all stores at once, comparing every answer and the whole content
//! after every step; and what only a store in a file can get wrong: locks, crashes, full disks, foreign files.
//!
//! The memory store is the reference. Where a case fails on both stores the contract was misread; where it fails on one,
//! that store is wrong.

mod chains;
mod claims;
#[cfg(feature = "sqlite")]
mod file;
#[cfg(feature = "postgres")]
mod foreign;
mod forks;
mod items;
mod kit;
#[cfg(feature = "sqlite")]
mod known;
mod memos;
mod messages;
mod nodes;
mod others;
mod paused;
#[cfg(feature = "postgres")]
mod plans;
#[cfg(feature = "sqlite")]
mod poison;
#[cfg(feature = "sqlite")]
mod processes;
mod published;
mod queues;
#[cfg(feature = "sqlite")]
mod random;
mod reads;
mod schedules;
#[cfg(feature = "postgres")]
#[path = "../support/servers/mod.rs"]
mod servers;
