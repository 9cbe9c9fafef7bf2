//! What the writer knows without asking. It writes through one connection, so as long as no other one has written the tail
//! of a run stays what it was; a batch about such runs needs no look, and is one hop.
//!
//! Memory may only ever *accept*: whatever it does not know, or would refuse, is looked up. It learns what a transaction
//! did once that is committed, and forgets everything when anything went wrong. What it accepts still meets the unique
//! indexes, the counts, and an assertion ([`sql::KNOWN`](super::sql::KNOWN)) that the node lives and that no other connection
//! has changed the file; if one of these fails, nothing was written and the batch is decided by a look.

use super::look::Seen;
use crate::{
    fast::FastMap,
    kernel::id::{CommitNo, Digest, Incarnation},
    store::{Batch, Item, NewRun, Then, Turn},
};

/// More runs than this are not remembered; beyond it all are forgotten, since those that matter are soon known again.
const MOST: usize = 1 << 16;

/// What is known of the runs that this writer has written or claimed.
#[derive(Default)]
pub(super) struct Memory {
    runs: FastMap<i64, Run>,
    /// The file's data version for which `runs` holds.
    version: i64,
    ground: Option<Ground>,
    /// Whether somebody else had written before the last look. While that goes on memory is of no use: what it decides would
    /// be written in vain, and again behind a look.
    disturbed: bool,
    /// What the open transaction will have done.
    notes: Vec<(i64, Note)>,
}

/// What a batch that is not looked up is written on; unknown behind whatever was not counted.
#[derive(Clone, Copy)]
pub(super) struct Ground {
    pub(super) incarnation: Incarnation,
    pub(super) node: i64,
    /// Changes when another connection writes into the file.
    pub(super) version: i64,
    /// How many rows the connection has changed.
    pub(super) changes: i64,
}

#[derive(Default)]
struct Run {
    tail: Option<(CommitNo, Digest)>,
    inbox_seq: Option<u64>,
    /// Whether it never had a heartbeat: it began here, and none was written since.
    bare: bool,
}

/// What an accepted item did to a run.
pub(super) enum Note {
    Began(Digest),
    Went(CommitNo, Digest),
    /// Was claimed; its inbox has had so many messages.
    Claimed(u64),
    /// Its inbox has now had so many messages.
    Got(u64),
    Beaten,
    /// Sleeps, has ended or was given back: not to be remembered.
    Left,
}

impl Memory {
    /// Returns what a look would have seen, if each item is known to be acceptable as far as a look decides it.
    pub(super) fn recall(&self, batch: &Batch, items: &[usize]) -> Option<Seen> {
        let mut seen = Seen::default();
        for &item in items {
            match &batch.items[item] {
                // Where its children and messages would go, and what would go along, is not remembered.
                // And letters, and what is published or shared, are written in a way of their own, within the transaction of a look.
                Item::Turn(turn) if !turn.is_alone() || !turn.published.is_empty() || !turn.memos.is_empty() => return None,
                Item::Turn(turn) if turn.changes_letters() => return None,
                Item::Turn(turn) => match &turn.start {
                    Some(new) => {
                        // Refused, and the reason depends on what is in the file.
                        let unmoved = !matches!(turn.then, Then::Passivate { seen: 1.., .. } | Then::End { seen: Some(1..), .. });
                        self.may_begin(new).filter(|()| unmoved && turn.consumed.is_empty())?;
                    }
                    None => {
                        if self.may_go_on(turn)?.bare {
                            seen.bare.insert(turn.run.0);
                        }
                    }
                },
                Item::Enqueue(new, _) => self.may_begin(new)?,
                Item::Progressed(_) => {}
                Item::Send(_) | Item::Yield(_) | Item::Heartbeat { .. } => return None,
                Item::PlaceTasks(..) | Item::EndTask(_) | Item::BeatTask(..) => return None,
                Item::Schedule(_) | Item::Memo(_) | Item::Fork(_) | Item::DropLetters(_) => return None,
            }
        }
        Some(seen)
    }

    /// Whether the key and the id are free is left to the unique indexes; a successor has to be looked up.
    fn may_begin(&self, new: &NewRun) -> Option<()> {
        (new.id.run_no == 1 && !self.runs.contains_key(&new.run.0)).then_some(())
    }

    fn may_go_on(&self, turn: &Turn) -> Option<&Run> {
        let run = self.runs.get(&turn.run.0)?;
        let (commit_no, digest) = run.tail?;
        let unmoved = match turn.then {
            Then::Hold => true,
            Then::Passivate { seen, .. } | Then::End { seen: Some(seen), .. } => run.inbox_seq == Some(seen),
            Then::End { seen: None, .. } | Then::Continue(_) => false,
        };
        (turn.follows(commit_no, digest) && unmoved && turn.consumed.is_empty()).then_some(run)
    }

    /// Returns what to write on, if it is known for this node.
    pub(super) fn ground(&self, incarnation: Incarnation) -> Option<Ground> {
        self.ground.filter(|ground| ground.incarnation == incarnation)
    }

    /// Takes what a look has read. If somebody else has written meanwhile, what was known may not be so any more.
    pub(super) fn stand_on(&mut self, ground: Ground) {
        self.disturbed = self.version != ground.version;
        if self.disturbed {
            self.forget();
            self.version = ground.version;
        }
        self.ground = Some(ground);
    }

    pub(super) fn is_disturbed(&self) -> bool {
        self.disturbed
    }

    pub(super) fn note(&mut self, notes: Vec<(i64, Note)>) {
        self.notes.extend(notes);
    }

    /// Keeps the number of changes in step; `None` when it is not known how many there were.
    pub(super) fn count(&mut self, total: Option<i64>) {
        match (&mut self.ground, total) {
            (Some(ground), Some(total)) => ground.changes = total,
            (ground, _) => *ground = None,
        }
    }

    pub(super) fn changed_one_more(&mut self) {
        if let Some(ground) = &mut self.ground {
            ground.changes += 1;
        }
    }

    /// The transaction is committed: learns what it did.
    pub(super) fn learn(&mut self) {
        for (run, note) in std::mem::take(&mut self.notes) {
            if self.runs.len() >= MOST {
                self.runs.clear();
            }
            match note {
                Note::Began(digest) => {
                    self.runs.insert(run, Run { tail: Some((0, digest)), inbox_seq: Some(0), bare: true });
                }
                Note::Went(commit_no, digest) => self.runs.entry(run).or_default().tail = Some((commit_no, digest)),
                Note::Claimed(seq) => self.runs.entry(run).or_default().inbox_seq = Some(seq),
                Note::Got(seq) => {
                    if let Some(run) = self.runs.get_mut(&run) {
                        run.inbox_seq = Some(seq);
                    }
                }
                Note::Beaten => {
                    if let Some(run) = self.runs.get_mut(&run) {
                        run.bare = false;
                    }
                }
                Note::Left => {
                    self.runs.remove(&run);
                }
            }
        }
    }

    pub(super) fn forget(&mut self) {
        self.runs.clear();
        self.notes.clear();
        self.ground = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        kernel::{
            codec::Record,
            event::MessageBody,
            id::{RunId, RunKey},
            payload::Payload,
            time::Timestamp,
        },
        store::{LetterChange, Publication, Status, Tell},
    };

    fn turn(run: i64, commit_no: CommitNo, then: Then) -> Turn {
        let record = Record { digest: Digest([2; 32]), body: bytes::Bytes::new() };
        let prev = Some(Digest([1; 32]));
        Turn {
            run: RunKey(run),
            start: None,
            commit_no,
            prev,
            record,
            then,
            consumed: Vec::new(),
            settled: Vec::new(),
            tasks: Vec::new(),
            withdrawn: Vec::new(),
            starts: Vec::new(),
            tells: Vec::new(),
            published: Vec::new(),
            memos: Vec::new(),
            letters: Vec::new(),
            unowned: None,
        }
    }

    fn recalls(memory: &Memory, turn: Turn) -> bool {
        let items = vec![Item::Turn(Arc::new(turn))];
        let incarnation = Incarnation(uuid::Uuid::nil());
        let batch = Batch { incarnation, now: Timestamp(0), renew: false, items, claim: None };
        memory.recall(&batch, &[0]).is_some()
    }

    fn knowing() -> Memory {
        let mut memory = Memory::default();
        memory.note(vec![(7, Note::Began(Digest([9; 32]))), (7, Note::Went(1, Digest([1; 32]))), (7, Note::Got(2))]);
        memory
    }

    #[test]
    fn only_what_was_committed_is_known_and_nothing_behind_trouble() {
        let mut memory = knowing();
        assert!(!recalls(&memory, turn(7, 2, Then::Hold)), "before the commit");
        memory.learn();
        assert!(recalls(&memory, turn(7, 2, Then::Hold)));
        memory.forget();
        assert!(!recalls(&memory, turn(7, 2, Then::Hold)));
        memory = knowing();
        memory.forget();
        memory.learn();
        assert!(!recalls(&memory, turn(7, 2, Then::Hold)), "the notes of what was rolled back");
    }

    #[test]
    fn whatever_would_be_refused_is_not_recalled() {
        let mut memory = knowing();
        memory.learn();
        let end = |seen| Then::End { status: Status::Completed, seen: Some(seen) };
        assert!(recalls(&memory, turn(7, 2, end(2))));
        assert!(!recalls(&memory, turn(7, 2, end(1))), "a moved inbox");
        assert!(!recalls(&memory, turn(7, 3, Then::Hold)), "a gap");
        assert!(!recalls(&memory, Turn { prev: Some(Digest([3; 32])), ..turn(7, 2, Then::Hold) }), "another tail");
        assert!(!recalls(&memory, Turn { consumed: vec![1], ..turn(7, 2, Then::Hold) }), "messages are looked up");
        assert!(!recalls(&memory, turn(8, 2, Then::Hold)), "an unknown run");
        let to = RunId { id: "other".into(), run_no: 1 };
        let tell = Tell { to, message: "m".into(), body: MessageBody::Cancel { reason: String::new() } };
        assert!(!recalls(&memory, Turn { tells: vec![tell], ..turn(7, 2, Then::Hold) }), "other runs are looked up");
        let value = Payload::encode(&1, "a number").unwrap();
        let published = vec![Publication { key: "k".into(), version: 1, value }];
        assert!(!recalls(&memory, Turn { published, ..turn(7, 2, Then::Hold) }), "what is published has a statement of its own");
        let letters = vec![LetterChange::Drop(1)];
        assert!(!recalls(&memory, Turn { letters, ..turn(7, 2, Then::Hold) }), "and so have letters");
        memory.note(vec![(7, Note::Left)]);
        memory.learn();
        assert!(!recalls(&memory, turn(7, 2, Then::Hold)));
    }

    #[test]
    fn it_is_bounded() {
        let mut memory = Memory::default();
        for run in 0..3 * i64::try_from(MOST).unwrap() {
            memory.note(vec![(run, Note::Began(Digest([1; 32])))]);
            memory.learn();
            assert!(memory.runs.len() <= MOST);
        }
    }

    #[test]
    fn a_file_that_another_program_has_changed_is_known_no_more() {
        let mut memory = knowing();
        memory.learn();
        let incarnation = Incarnation(uuid::Uuid::nil());
        memory.stand_on(Ground { incarnation, node: 1, version: 0, changes: 5 });
        assert!(recalls(&memory, turn(7, 2, Then::Hold)));
        memory.stand_on(Ground { incarnation, node: 1, version: 1, changes: 5 });
        assert!(!recalls(&memory, turn(7, 2, Then::Hold)));
        assert!(memory.ground(incarnation).is_some());
        assert!(memory.ground(Incarnation(uuid::Uuid::max())).is_none(), "another node stands elsewhere");
    }
}
