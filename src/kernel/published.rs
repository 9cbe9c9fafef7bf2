//! What a run has published: values and counters, by key, for whoever looks at it from outside. A fold over the log's commands and
//! nothing else, so what a reader finds never says more than what is recorded, and a turn that is tried again counts nothing twice.
//!
//! The tape has one as well, which decides, before anything is recorded, whether there is room for more.

use std::collections::BTreeMap;

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
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Value(Payload),
    Counter(i64),
}

impl What {
    fn bytes(&self) -> usize {
        match self {
            What::Value(value) => value.bytes.len(),
            What::Counter(_) => COUNTER_BYTES,
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
            (Some(What::Counter(_)), Command::Publish { .. }) | (Some(What::Value(_)), Command::Count { .. })
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
            Command::Publish { key, value } => self.put(key, What::Value(value.clone())),
            Command::Count { key, by } => {
                let sum = match self.keys.get(key).map(|entry| &entry.what) {
                    Some(What::Counter(sum)) => *sum,
                    _ => 0,
                };
                self.put(key, What::Counter(sum.saturating_add(*by)));
            }
            _ => {}
        }
    }

    fn put(&mut self, key: &str, what: What) {
        self.version += 1;
        self.bytes += key.len() + what.bytes();
        let entry = Entry { version: self.version, what };
        if let Some(before) = self.keys.insert(key.to_owned(), entry) {
            self.bytes -= key.len() + before.what.bytes();
        }
    }

    /// Lets a recorded value replace the one that replayed code has just published: code may have changed, the log has not.
    pub(crate) fn recorded(&mut self, key: &str, value: &Payload) {
        if let Some(Entry { what: What::Value(before), .. }) = self.keys.get_mut(key) {
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
        let shown = newer.filter_map(|(key, entry)| {
            let value = match &entry.what {
                What::Value(value) => value.clone(),
                // A number can always be encoded.
                What::Counter(sum) => Payload::encode(sum, "a counter").ok()?,
            };
            Some(Publication { key: key.clone(), version: entry.version, value })
        });
        shown.collect()
    }
}
