//! A turn while it is being made: what was applied so far, and what that asks of the world.

use super::{Child, Effect, Event, Fact, LetterChange, Limits, MessageBody, Onward, Outcome, Position, State, Tell, Timestamp};
use crate::kernel::{
    event::Ordered,
    memo::{MemoWord, Memos},
};

/// A turn in the making.
pub(super) struct Turning {
    pub(super) at: Timestamp,
    pub(super) events: Vec<Event>,
    pub(super) touched: Vec<Position>,
    pub(super) aborted: Vec<Position>,
    pub(super) settled: Vec<Position>,
    pub(super) consumed: Vec<u64>,
    pub(super) starts: Vec<Child>,
    pub(super) tells: Vec<Tell>,
    /// The version of what was published before this turn.
    pub(super) shown: u64,
    /// How calls stood before it that share their results.
    pub(super) memos: Memos,
    pub(super) letters: Vec<LetterChange>,
    pub(super) onward: Option<Box<Onward>>,
    /// How many of these are told by other facts than that they were received.
    pub(super) told: usize,
    /// The payloads of its events.
    pub(super) bytes: usize,
}

impl Turning {
    pub(super) fn new(at: Timestamp, before: &State) -> Turning {
        Turning {
            at,
            // What most turns have: a result, and what follows from it.
            events: Vec::with_capacity(2),
            touched: Vec::with_capacity(3),
            aborted: Vec::new(),
            settled: Vec::new(),
            consumed: Vec::new(),
            starts: Vec::new(),
            tells: Vec::new(),
            shown: before.published.version(),
            memos: before.memos.clone(),
            letters: Vec::new(),
            onward: None,
            told: 0,
            bytes: 0,
        }
    }

    /// Tells whether the next fact belongs into the next commit. A fact is never divided, so a commit has at most half a
    /// limit more than its last fact.
    pub(super) fn is_full(&self, limits: &Limits) -> bool {
        self.bytes >= limits.item_bytes / 2 || self.events.len() >= limits.commands_per_turn
    }

    pub(super) fn touch(&mut self, position: Position) {
        if position != 0 {
            self.touched.push(position);
        }
    }
}

impl Effect {
    /// Returns the calls whose attempts effects take out of shared queues: that belongs to the commit itself.
    #[cfg_attr(not(feature = "actors"), allow(dead_code))]
    pub(crate) fn withdrawn(effects: &[Effect]) -> Vec<Position> {
        let of = |effect: &Effect| match effect {
            Effect::Withdraw { position } => Some(*position),
            _ => None,
        };
        effects.iter().filter_map(of).collect()
    }
}

pub(super) fn position_of(fact: &Fact) -> Position {
    match fact {
        Fact::Completed { position, .. }
        | Fact::Failed { position, .. }
        | Fact::Lost { position, .. }
        | Fact::Fired { position }
        | Fact::Received { body: MessageBody::Memo { position, .. }, .. } => *position,
        _ => 0,
    }
}

/// How many bytes a fact adds to the history of its run, for whoever asks whether that is long: what the run began with is no growth, or
/// one that was handed much would hand it on at once, and so on for ever.
pub(super) fn own_weight_of(fact: &Fact) -> usize {
    match fact {
        Fact::Started(_) | Fact::Inherited(_) => 0,
        fact => weight_of(fact),
    }
}

/// How many bytes of payload a fact has.
pub(super) fn weight_of(fact: &Fact) -> usize {
    match fact {
        Fact::Started(started) => started.input.bytes.len(),
        Fact::Inherited(inherited) => inherited.bytes(),
        Fact::Completed { output, .. } => output.bytes.len(),
        Fact::Failed { failure, .. } | Fact::Refused { failure, .. } => failure.bytes(),
        Fact::Received { body: MessageBody::Signal { payload, .. } | MessageBody::Update { payload, .. }, .. } => {
            payload.bytes.len()
        }
        Fact::Received { body: MessageBody::Order(order), .. } => match &order.what {
            Ordered::Complete { end, .. } => end.bytes(),
            _ => 0,
        },
        Fact::Received { body: MessageBody::Child { end, .. }, .. } => match &**end {
            Outcome::Completed(output) => output.bytes.len(),
            Outcome::Failed(failure) => failure.bytes(),
            _ => 0,
        },
        Fact::Received { body: MessageBody::Memo { word: MemoWord::Value(kept), .. }, .. } => kept.output.bytes.len(),
        _ => 0,
    }
}
