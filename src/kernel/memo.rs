//! Results that executions share. A call may name a key under which its result is kept: the first run that asks for the key is
//! *granted* it and calls the activity, whoever asks meanwhile waits, and all others are told the *value*.
//!
//! Whether a run asks, holds a key or was told a value follows from its log alone, so that replay needs nothing of what is kept beside it:
//!
//! ```text
//!   Call ──► asks ──Granted──► holds ──Completed──► over, and its output is kept
//!             │ ▲                │ failed for good, given up, ended ──► over, and the key is free
//!             │ └────Revoked─────┘
//!             └──Value──► over: the output is that of another run
//! ```

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    event::{Event, Fact, MessageBody, OUR_MESSAGES},
    id::{Position, RunId},
    payload::Payload,
    time::Timestamp,
};

/// The length of a [`MemoKey`].
pub const MEMO_KEY_BYTES: usize = 48;

/// How long the beginning of a [`MemoKey`] is that all keys of an activity share.
pub(crate) const OF_ACTIVITY: usize = 8;

/// The same for those that share a scope as well.
pub(crate) const OF_SCOPE: usize = 16;

/// The digest of an activity, a scope and the user's key: two that differ in any of these are different keys. Its beginning tells the
/// activity, and then the scope, so that all keys of one of these are neighbours.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemoKey(pub [u8; MEMO_KEY_BYTES]);

impl MemoKey {
    /// Makes the key of what these name. `key` is the user's, encoded, the same bytes for the same value.
    pub(crate) fn new(activity: &str, version: u32, scope: &str, key: &[u8]) -> MemoKey {
        // Each part has its length before it, so that nothing moves from one into the next.
        let digest = |parts: &[&[u8]]| {
            let mut hash = blake3::Hasher::new();
            for part in parts {
                hash.update(&(part.len() as u64).to_le_bytes()).update(part);
            }
            *hash.finalize().as_bytes()
        };
        let (activity, scope) = (activity.as_bytes(), scope.as_bytes());
        let mut bytes = [0; MEMO_KEY_BYTES];
        bytes[..OF_ACTIVITY].copy_from_slice(&digest(&[activity])[..OF_ACTIVITY]);
        bytes[OF_ACTIVITY..OF_SCOPE].copy_from_slice(&digest(&[activity, scope])[..OF_SCOPE - OF_ACTIVITY]);
        bytes[OF_SCOPE..].copy_from_slice(&digest(&[activity, scope, &version.to_le_bytes(), key]));
        MemoKey(bytes)
    }

    /// Returns the first and the last key that begin as this one does, in so many bytes.
    pub(crate) fn neighbours(self, shared: usize) -> (MemoKey, MemoKey) {
        let (mut first, mut last) = (self, self);
        first.0[shared..].fill(0);
        last.0[shared..].fill(u8::MAX);
        (first, last)
    }
}

impl fmt::Debug for MemoKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for MemoKey {
    /// Shows the part in which keys of one activity and scope differ, shortened.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[OF_SCOPE..OF_SCOPE + 8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("…")
    }
}

impl Serialize for MemoKey {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for MemoKey {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let bytes = bytes::Bytes::deserialize(from)?;
        let bytes = <[u8; MEMO_KEY_BYTES]>::try_from(&bytes[..]);
        bytes.map(MemoKey).map_err(|_| serde::de::Error::custom("the key of a memo has 48 bytes"))
    }
}

/// Where the result of a call is shared, as data of its intent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemoUse {
    /// Under which key.
    pub key: MemoKey,
    /// For how long from its completion on; `None` is for ever.
    pub ttl: Option<Duration>,
}

/// The result of a call, and whose it was.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Kept {
    /// What the activity returned.
    pub output: Payload,
    /// The run that called it.
    pub run: RunId,
    /// Where.
    pub position: Position,
}

/// What a run is told about a key that it asks for, or holds.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum MemoWord {
    /// It holds the key: it is to call the activity itself.
    #[serde(rename = "g")]
    Granted,
    /// Another run has called it, with this result.
    #[serde(rename = "v")]
    Value(Box<Kept>),
    /// It holds the key no more: nobody had taken the run up, and others waited. It asks again.
    #[serde(rename = "r")]
    Revoked,
}

impl MemoWord {
    /// Returns the own id of the message that says this: a run hears each of them once for each time that it asks.
    #[must_use]
    pub fn message(&self, position: Position, ask: u32) -> String {
        let word = match self {
            MemoWord::Granted => "granted",
            MemoWord::Value(_) => "value",
            MemoWord::Revoked => "revoked",
        };
        format!("{OUR_MESSAGES}memo:{position}/{ask}/{word}")
    }
}

/// What a turn does about a key, in its own commit.
#[derive(Clone, PartialEq, Debug)]
pub enum MemoStep {
    /// It asks for the key, for the so manieth time.
    Ask(u32),
    /// It has called the activity, whose result is kept if it still holds the key: this, until then.
    Keep(Kept, Option<Timestamp>),
    /// It neither asks for the key nor holds it any more.
    Leave,
}

/// What a turn does about the key of one of its run's calls.
#[derive(Clone, PartialEq, Debug)]
pub struct MemoEntry {
    /// Which key.
    pub key: MemoKey,
    /// Which call.
    pub position: Position,
    /// What.
    pub step: MemoStep,
}

/// How a call stands that shares its result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct MemoStand {
    pub(crate) shares: MemoUse,
    /// How often it has asked.
    pub(crate) ask: u32,
    pub(crate) stands: Stands,
}

/// What a call has of the key that it names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stands {
    /// It asks for it.
    Asks,
    /// It has it.
    Holds,
    /// Neither: it is parked.
    Out,
}

/// The calls of a run that share their results, by position.
pub(crate) type Memos = BTreeMap<Position, MemoStand>;

impl MemoStand {
    pub(crate) fn new(shares: MemoUse) -> MemoStand {
        MemoStand { shares, ask: 1, stands: Stands::Asks }
    }

    pub(crate) fn ask_again(&mut self) {
        self.ask = self.ask.saturating_add(1);
        self.stands = Stands::Asks;
    }

    /// Tells whether such a word is for it as it is.
    pub(crate) fn awaits(&self, ask: u32, word: &MemoWord) -> bool {
        let wanted = match word {
            MemoWord::Granted | MemoWord::Value(_) => Stands::Asks,
            MemoWord::Revoked => Stands::Holds,
        };
        self.ask == ask && self.stands == wanted
    }
}

/// Returns what a turn has to do about the keys that it asked for and held before it, and those that it asks for and holds behind it: first
/// what it lets go, then what it asks for.
pub(crate) fn steps(id: &RunId, before: Memos, behind: &Memos, events: &[Event], at: Timestamp) -> Vec<MemoEntry> {
    let mut steps = Vec::new();
    for (position, was) in &before {
        let goes_on = behind.get(position).is_some_and(|is| is.ask == was.ask && is.stands != Stands::Out);
        // Whoever was told a value asks no more by that very message.
        if was.stands == Stands::Out || goes_on || events.iter().any(|event| is_told(event, *position)) {
            continue;
        }
        let output = events.iter().find_map(|event| match event {
            Event::Fact(Fact::Completed { position: of, output, .. }) if of == position => Some(output),
            _ => None,
        });
        let step = match output {
            Some(output) => {
                let kept = Kept { output: output.clone(), run: id.clone(), position: *position };
                MemoStep::Keep(kept, was.shares.ttl.map(|ttl| at.after(ttl)))
            }
            None => MemoStep::Leave,
        };
        steps.push(MemoEntry { key: was.shares.key, position: *position, step });
    }
    for (position, is) in behind {
        let asked = before.get(position).is_some_and(|was| was.ask == is.ask && was.stands != Stands::Out);
        if is.stands == Stands::Asks && !asked {
            steps.push(MemoEntry { key: is.shares.key, position: *position, step: MemoStep::Ask(is.ask) });
        }
    }
    steps
}

fn is_told(event: &Event, position: Position) -> bool {
    matches!(event, Event::Fact(Fact::Received { body: MessageBody::Memo { position: of, word: MemoWord::Value(_), .. }, .. })
        if *of == position)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_in_everything_that_they_are_made_of_and_share_what_they_have_in_common() {
        let key = MemoKey::new("pay.rate", 1, "eu", b"7");
        assert_eq!(key, MemoKey::new("pay.rate", 1, "eu", b"7"));
        let others = [
            MemoKey::new("pay.rat", 1, "eeu", b"7"),
            MemoKey::new("pay.rate", 2, "eu", b"7"),
            MemoKey::new("pay.rate", 1, "us", b"7"),
            MemoKey::new("pay.rate", 1, "eu", b"8"),
            MemoKey::new("pay.rate", 1, "e", b"u7"),
        ];
        for other in others {
            assert_ne!(key, other);
        }
        let within = |key: MemoKey, (first, last): (MemoKey, MemoKey)| (first..=last).contains(&key);
        assert!(within(MemoKey::new("pay.rate", 3, "eu", b"x"), key.neighbours(OF_SCOPE)));
        assert!(!within(MemoKey::new("pay.rate", 1, "us", b"7"), key.neighbours(OF_SCOPE)));
        assert!(within(MemoKey::new("pay.rate", 1, "us", b"7"), key.neighbours(OF_ACTIVITY)));
        assert!(!within(MemoKey::new("pay.fee", 1, "eu", b"7"), key.neighbours(OF_ACTIVITY)));
    }
}
