//! Results that runs share, in memory: the reference for every store.

use super::{Data, apply::Writer, lines};
use crate::{
    kernel::{
        id::{RunId, RunKey},
        memo::{MemoKey, MemoStep},
        time::Timestamp,
    },
    store::{MemoAsk, MemoChange, MemoEntry, MemoFound, MemoRow, MemoThen, Outcome, Told, Turn, memos::encoded},
};

impl Data {
    /// Writes what an accepted turn does about its keys.
    pub(super) fn memos_of(&mut self, turn: &Turn) {
        for MemoEntry { key, position, step } in &turn.memos {
            let who = (turn.run, *position);
            if let MemoStep::Ask(ask) = step {
                self.memo_asks.insert(who, (*key, *ask));
                continue;
            }
            self.memo_asks.remove(&who);
            let holds = |row: &&mut MemoRow| row.holder.is_some_and(|holder| (holder.run, holder.position) == who);
            let Some(row) = self.memos.get_mut(key).filter(holds) else { continue };
            if let MemoStep::Keep(kept, until) = step {
                let (kept, until) = (Some(kept.clone()), *until);
                *row = MemoRow { key: *key, stamp: turn.stamp(), holder: None, kept, until };
            } else {
                self.memos.remove(key);
            }
        }
    }

    pub(super) fn change_memo(&mut self, change: &MemoChange, writer: Writer, told: &mut Vec<Told>) -> Result<(), Outcome> {
        let same = self.memos.get(&change.key).map(|row| row.stamp) == change.seen;
        let asks = |ask: &MemoAsk| self.memo_asks.get(&(ask.run, ask.position)).is_some_and(|(_, asked)| *asked == ask.ask);
        let owned = |run: &RunKey| self.runs.get(run).is_some_and(|run| run.summary.owner.is_some());
        if !same || !change.taken.iter().all(asks) || change.unowned.as_ref().is_some_and(owned) {
            return Err(Outcome::Conflict);
        }
        for ask in &change.taken {
            self.memo_asks.remove(&(ask.run, ask.position));
        }
        match change.then {
            MemoThen::Stays => {}
            MemoThen::Held(by, stamp) => {
                let row = MemoRow { key: change.key, stamp, holder: Some(by), kept: None, until: None };
                self.memos.insert(change.key, row);
            }
            MemoThen::Gone => {
                self.memos.remove(&change.key);
            }
        }
        self.tells(&change.tells, writer, told);
        Ok(())
    }

    pub(super) fn find_memo(&self, key: MemoKey, most: u32) -> MemoFound {
        let asks = self.memo_asks.iter().filter(|(_, (of, _))| *of == key);
        let asks = asks.map(|(&(run, position), &(_, ask))| MemoAsk { run, position, ask });
        MemoFound { row: self.memos.get(&key).cloned(), asks: asks.take(most as usize).collect() }
    }

    pub(super) fn memo_work(&self, now: Timestamp, stuck: Timestamp, most: u32) -> Vec<MemoKey> {
        let is_held = |row: &MemoRow| row.holder.is_some_and(|holder| self.holds_on(holder.run, stuck));
        let asked = self.memo_asks.values().map(|(key, _)| *key);
        let mut work: Vec<MemoKey> = asked.filter(|key| !self.memos.get(key).is_some_and(is_held)).collect();
        work.extend(self.memos.values().filter(|row| row.until.is_some_and(|until| until <= now)).map(|row| row.key));
        work.sort_unstable();
        work.dedup();
        work.truncate(most as usize);
        work
    }

    /// Tells whether somebody has a run, or will take it up.
    fn holds_on(&self, run: RunKey, stuck: Timestamp) -> bool {
        self.runs.get(&run).is_some_and(|run| {
            let row = &run.summary;
            let waits = run.is_unowned_and_active() && row.wake_at.is_none_or(|wake_at| wake_at > stuck);
            !row.status.is_end() && (row.owner.is_some() || waits)
        })
    }

    /// Returns the lines of a snapshot.
    pub(super) fn memo_lines(&self) -> Vec<String> {
        let nobody = || RunId { id: "(a row without a run)".into(), run_no: 0 };
        let of = |run: &RunKey| self.runs.get(run).map_or_else(nobody, |run| run.summary.id.clone());
        let rows = self.memos.values().map(|row| {
            let holder = row.holder.map(|holder| (of(&holder.run), holder.position, holder.ask));
            lines::memo(&row.key.0, row.stamp, holder, row.until, row.kept.as_ref().map(encoded).as_deref())
        });
        let asks = self.memo_asks.iter().map(|((run, position), (key, ask))| lines::memo_ask(&of(run), *position, *ask, &key.0));
        rows.chain(asks).collect()
    }

    pub(super) fn memo_keys(&self, first: MemoKey, last: MemoKey, most: u32) -> Vec<(MemoKey, i64)> {
        self.memos.range(first..=last).take(most as usize).map(|(key, row)| (*key, row.stamp)).collect()
    }
}
