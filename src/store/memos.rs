//! Results that runs share, as stores have them: a row for each key that somebody holds or of which there is a value, and a row for each run
//! that asks for a key.
//!
//! A turn of a run writes what it does about its keys in its own item, and decides nothing: it puts its question in, keeps its result if
//! it holds the key, or takes both out ([`Turn::memos`]). Whoever looks after the questions answers them, in items of their own
//! ([`MemoChange`]): each replaces the row of one key if that is still the one that was seen, takes questions out, and tells those who
//! have asked. So of those who answer the same question one is accepted, a key has one holder, and whoever is not asking any more is told
//! nothing.

use std::collections::{BTreeMap, HashMap};

use super::{Item, Outcome, Tell, Turn};
use crate::kernel::{
    id::{Position, RunKey},
    memo::{Kept, MEMO_KEY_BYTES, MemoEntry, MemoKey, MemoStep},
    time::Timestamp,
};

/// A run that asks for a key, or holds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoAsk {
    /// Which run.
    pub run: RunKey,
    /// Which of its calls.
    pub position: Position,
    /// Which time of asking this is.
    pub ask: u32,
}

/// The row of a key: it is held, or there is a value.
#[derive(Clone, PartialEq, Debug)]
pub struct MemoRow {
    /// Which key.
    pub key: MemoKey,
    /// Differs with each write of the row.
    pub stamp: i64,
    /// Who holds it.
    pub holder: Option<MemoAsk>,
    /// The value, if nobody does.
    pub kept: Option<Kept>,
    /// Until when that counts; `None` is for ever.
    pub until: Option<Timestamp>,
}

/// What is known of a key.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct MemoFound {
    /// Its row.
    pub row: Option<MemoRow>,
    /// Those who ask for it, in the order of their runs.
    pub asks: Vec<MemoAsk>,
}

/// What becomes of the row of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoThen {
    /// It stays as it is.
    Stays,
    /// It is that of a key which this one holds, with this stamp.
    Held(MemoAsk, i64),
    /// There is none.
    Gone,
}

/// Answers questions about one key. The answer is `Done`; or [`Outcome::Conflict`], and nothing of it has taken place, when the row is not
/// the one that was seen, one of those who are answered does not ask any more, or `unowned` is owned.
#[derive(Clone, PartialEq, Debug)]
pub struct MemoChange {
    /// About which key.
    pub key: MemoKey,
    /// The stamp of the row that was seen; `None` when there was none.
    pub seen: Option<i64>,
    /// What becomes of the row.
    pub then: MemoThen,
    /// Whose questions are taken out.
    pub taken: Vec<MemoAsk>,
    /// A run that nobody may own, if it still exists.
    pub unowned: Option<RunKey>,
    /// What it tells runs, as turns do. Behind all other items of the batch but those of its kind.
    pub tells: Vec<Tell>,
}

impl Turn {
    /// Returns the stamp of the rows that it writes of keys.
    pub(crate) fn stamp(&self) -> i64 {
        let [a, b, c, d, e, f, g, h, ..] = self.record.digest.0;
        i64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

/// A call of a run.
pub(crate) type Who = (RunKey, Position);

/// What the items of a batch do about keys, for stores that read and write sets of rows. What it has found is changed along with what is
/// decided, so that each item finds what those before it have done.
#[derive(Default)]
pub(crate) struct MemoPlan<'a> {
    /// The rows that changes of the batch are about: stamp and holder.
    pub(crate) rows: HashMap<MemoKey, (i64, Option<Who>)>,
    /// Those of them that the store has looked up and locked.
    #[cfg(feature = "postgres")]
    pub(crate) locked: Vec<MemoKey>,
    /// The questions that they answer.
    pub(crate) asks: HashMap<Who, u32>,
    /// What turns let go…
    pub(crate) left: Vec<(MemoKey, Who)>,
    /// …what they keep…
    pub(crate) kept: Vec<(MemoKey, Who, i64, &'a Kept, Option<Timestamp>)>,
    /// …and what they ask for.
    pub(crate) asked: Vec<(MemoKey, Who, u32)>,
    /// Questions that are answered.
    pub(crate) taken: Vec<Who>,
    /// The rows behind all that, by key, so that two nodes lock them in one order.
    pub(crate) written: BTreeMap<MemoKey, MemoThen>,
}

impl<'a> MemoPlan<'a> {
    /// Takes note of what an accepted turn does.
    pub(crate) fn turn(&mut self, turn: &'a Turn) {
        for MemoEntry { key, position, step } in &turn.memos {
            let who = (turn.run, *position);
            if let MemoStep::Ask(ask) = step {
                self.asks.insert(who, *ask);
                self.asked.push((*key, who, *ask));
                continue;
            }
            self.asks.remove(&who);
            let held = self.rows.get_mut(key).filter(|(_, holder)| *holder == Some(who));
            match step {
                MemoStep::Keep(kept, until) => {
                    if let Some(row) = held {
                        *row = (turn.stamp(), None);
                    }
                    self.kept.push((*key, who, turn.stamp(), kept, *until));
                }
                _ => {
                    if held.is_some() {
                        self.rows.remove(key);
                    }
                    self.left.push((*key, who));
                }
            }
        }
    }

    /// Tells whether a change fits what there is.
    pub(crate) fn check(&self, change: &MemoChange) -> Result<(), Outcome> {
        let same = self.rows.get(&change.key).map(|(stamp, _)| *stamp) == change.seen;
        let asks = change.taken.iter().all(|ask| self.asks.get(&(ask.run, ask.position)) == Some(&ask.ask));
        if same && asks { Ok(()) } else { Err(Outcome::Conflict) }
    }

    /// Takes note of a change that was accepted.
    pub(crate) fn accept(&mut self, change: &MemoChange) {
        for ask in &change.taken {
            self.asks.remove(&(ask.run, ask.position));
            self.taken.push((ask.run, ask.position));
        }
        match change.then {
            MemoThen::Stays => return,
            MemoThen::Held(by, stamp) => self.rows.insert(change.key, (stamp, Some((by.run, by.position)))),
            MemoThen::Gone => self.rows.remove(&change.key),
        };
        self.written.insert(change.key, change.then);
    }

    /// Tells whether nothing is written.
    pub(crate) fn is_empty(&self) -> bool {
        let turns = self.left.is_empty() && self.kept.is_empty() && self.asked.is_empty();
        turns && self.taken.is_empty() && self.written.is_empty()
    }
}

/// Returns the changes among these items.
pub(crate) fn memo_changes<'a>(items: impl Iterator<Item = &'a Item>) -> Vec<&'a MemoChange> {
    items.filter_map(Item::memo).collect()
}

/// Returns the keys that turns among these items let go, or keep results under, if they hold them.
#[cfg(feature = "postgres")]
pub(crate) fn let_go<'a>(items: impl Iterator<Item = &'a Item>) -> Vec<(MemoKey, Who)> {
    let turns = items.filter_map(|item| match item {
        Item::Turn(turn) => Some(turn),
        _ => None,
    });
    let of = |turn: &'a std::sync::Arc<Turn>| {
        let ends = turn.memos.iter().filter(|entry| !matches!(entry.step, MemoStep::Ask(_)));
        ends.map(|entry| (entry.key, (turn.run, entry.position)))
    };
    turns.flat_map(of).collect()
}

/// Returns a stored key, unless it is none.
pub(crate) fn stored_key(bytes: &[u8]) -> Option<MemoKey> {
    <[u8; MEMO_KEY_BYTES]>::try_from(bytes).ok().map(MemoKey)
}

/// Returns a value as it is stored.
pub(crate) fn encoded(kept: &Kept) -> Vec<u8> {
    // Texts, numbers and bytes always encode.
    rmp_serde::to_vec_named(kept).unwrap_or_default()
}

/// Returns a stored value, unless it is none.
pub(crate) fn decoded(bytes: &[u8]) -> Option<Kept> {
    rmp_serde::from_slice(bytes).ok()
}
