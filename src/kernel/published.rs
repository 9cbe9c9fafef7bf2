//! What a run has published: values and counters, by key, for whoever looks at it from outside. A fold over the log's commands and
//! nothing else, so what a reader finds never says more than what is recorded, and a turn that is tried again counts nothing twice.
//!
//! What is published belongs to the execution: a run that continues hands it on, counters with their sums, and the next one goes on from
//! there.
//!
//! The tape has one as well, which decides, before anything is recorded, whether there is room for more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    event::Command,
    failure::{Failure, KIND_LIMIT},
    limits::Limits,
    payload::Payload,
    tape::{Fault, Misuse},
};

/// The longest key, in bytes.
const LONGEST_KEY: usize = 255;

/// What a counter takes of the room for values, beside its key.
const COUNTER_BYTES: usize = 9;

/// Where the versions of a run begin: all of them are higher than those of the runs before it, whatever these have published.
const RUN_SHIFT: u32 = 32;

/// One published value, as a reader finds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Publication {
    /// Under which key: 1 to 255 bytes, no NUL.
    pub key: String,
    /// Grows with each change of whatever key, over all runs of the execution: a higher one is newer.
    pub version: u64,
    /// The value; that of a counter is its sum, an `i64`.
    pub value: Payload,
}

/// What one run has published so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Published {
    /// The version that was given last.
    version: u64,
    keys: BTreeMap<String, Entry>,
    /// What keys and values take, together.
    bytes: usize,
}

#[derive(Clone, Debug)]
struct Entry {
    version: u64,
    what: Shown,
}

/// What is shown under a key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Shown {
    /// A value.
    #[serde(rename = "v")]
    Value(Payload),
    /// The sum of a counter.
    #[serde(rename = "c")]
    Counter(i64),
}

/// What a run has published under one key, for the next run of its execution.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Kept {
    /// The key.
    pub key: String,
    /// The version that it has, and keeps: what is handed on has not changed.
    pub version: u64,
    /// What it shows.
    pub what: Shown,
}

impl Kept {
    /// Returns it as readers find it.
    pub(crate) fn publication(&self) -> Option<Publication> {
        self.what.publication(&self.key, self.version)
    }

    /// What it takes of the room for what is published.
    pub(crate) fn bytes(&self) -> usize {
        self.key.len() + self.what.bytes()
    }
}

impl Shown {
    fn publication(&self, key: &str, version: u64) -> Option<Publication> {
        let value = match self {
            Shown::Value(value) => value.clone(),
            // A number can always be encoded.
            Shown::Counter(sum) => Payload::encode(sum, "a counter").ok()?,
        };
        Some(Publication { key: key.to_owned(), version, value })
    }

    fn bytes(&self) -> usize {
        match self {
            Shown::Value(value) => value.bytes.len(),
            Shown::Counter(_) => COUNTER_BYTES,
        }
    }
}

impl Published {
    /// Nothing is published yet by the run of this number.
    pub(crate) fn new(run_no: u32) -> Published {
        Published { version: u64::from(run_no) << RUN_SHIFT, keys: BTreeMap::new(), bytes: 0 }
    }

    /// Returns why a command that publishes must not be recorded, if it must not: a key that makes no sense or is of the other kind is a
    /// mistake in the code, no room left is a limit of the run.
    pub(crate) fn refuses(&self, command: &Command, limits: &Limits) -> Option<Fault> {
        let (key, bytes) = match command {
            Command::Publish { key, value } => (key, value.bytes.len()),
            Command::Count { key, .. } => (key, COUNTER_BYTES),
            _ => return None,
        };
        if key.is_empty() || key.len() > LONGEST_KEY || key.contains('\0') {
            return Some(Fault::Blocks(Misuse::PublishedKey(key.clone())));
        }
        let before = self.keys.get(key).map(|entry| &entry.what);
        let mixes = matches!(
            (before, command),
            (Some(Shown::Counter(_)), Command::Publish { .. }) | (Some(Shown::Value(_)), Command::Count { .. })
        );
        if mixes {
            return Some(Fault::Blocks(Misuse::PublishedKind(key.clone())));
        }
        if before.is_none() && self.keys.len() >= limits.published_keys {
            let most = limits.published_keys;
            let text = format!("{key:?} would be one more than {most} published keys; publish a list under one key instead");
            return Some(Fault::Fails(Failure::new(KIND_LIMIT, text).into_final()));
        }
        let after = self.bytes - before.map_or(0, |before| key.len() + before.bytes()) + key.len() + bytes;
        if after > limits.published_bytes {
            let most = limits.published_bytes;
            let text =
                format!("with {key:?} what is published would have {after} bytes, the limit is {most}; publish references");
            return Some(Fault::Fails(Failure::new(KIND_LIMIT, text).into_final()));
        }
        None
    }

    /// Folds a command in.
    pub(crate) fn command(&mut self, command: &Command) {
        match command {
            Command::Publish { key, value } => self.put(key, Shown::Value(value.clone())),
            Command::Count { key, by } => {
                let sum = match self.keys.get(key).map(|entry| &entry.what) {
                    Some(Shown::Counter(sum)) => *sum,
                    _ => 0,
                };
                self.put(key, Shown::Counter(sum.saturating_add(*by)));
            }
            _ => {}
        }
    }

    fn put(&mut self, key: &str, what: Shown) {
        self.version += 1;
        self.bytes += key.len() + what.bytes();
        let entry = Entry { version: self.version, what };
        if let Some(before) = self.keys.insert(key.to_owned(), entry) {
            self.bytes -= key.len() + before.what.bytes();
        }
    }

    /// Lets a recorded value replace the one that replayed code has just published: code may have changed, the log has not.
    pub(crate) fn recorded(&mut self, key: &str, value: &Payload) {
        if let Some(Entry { what: Shown::Value(before), .. }) = self.keys.get_mut(key) {
            self.bytes = self.bytes - before.bytes.len() + value.bytes.len();
            *before = value.clone();
        }
    }

    /// Returns the version of the newest change: what is published later is newer.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Returns what is newer than a version, each key once, as it is now. Behind zero that is everything.
    pub(crate) fn newer_than(&self, version: u64) -> Vec<Publication> {
        if self.version == version {
            return Vec::new();
        }
        let newer = self.keys.iter().filter(|(_, entry)| entry.version > version);
        newer.filter_map(|(key, entry)| entry.what.publication(key, entry.version)).collect()
    }

    /// Returns all of it, for the next run of the execution.
    pub(crate) fn kept(&self) -> Vec<Kept> {
        let kept =
            |(key, Entry { version, what }): (&String, &Entry)| Kept { key: key.clone(), version: *version, what: what.clone() };
        self.keys.iter().map(kept).collect()
    }

    /// Takes over what the run before has published. It stays as old as it is.
    pub(crate) fn inherit(&mut self, kept: &[Kept]) {
        for Kept { key, version, what } in kept {
            self.bytes += key.len() + what.bytes();
            self.keys.insert(key.clone(), Entry { version: *version, what: what.clone() });
        }
    }

    /// What keys and values take, together.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}
