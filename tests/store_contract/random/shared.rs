//! Random turns and answers about shared results.

use stent::{
    kernel::{memo::MemoKey, time::Timestamp},
    store::{Item, MemoAsk, MemoChange, MemoEntry, MemoStep, MemoThen, Store},
};

use super::All;
use crate::memos::{change, entry, item, kept, key};

impl All {
    /// What a turn lets go of a few keys, and then what it asks for.
    pub(super) fn memos(&mut self) -> Vec<MemoEntry> {
        let mut memos = Vec::new();
        let position = u32::try_from(self.dice.below(2)).unwrap();
        match self.dice.below(4) {
            0 => memos.push(entry(self.memo_key(), position, MemoStep::Leave)),
            1 | 2 => {
                let step = MemoStep::Keep(kept(&format!("at {}", self.now)), self.time());
                memos.push(entry(self.memo_key(), position, step));
            }
            _ => {}
        }
        if self.dice.once_in(2) {
            let ask = u32::try_from(self.dice.below(3)).unwrap();
            memos.push(entry(self.memo_key(), position, MemoStep::Ask(ask)));
        }
        memos
    }

    fn memo_key(&mut self) -> MemoKey {
        key(u8::try_from(self.dice.below(3)).unwrap())
    }

    /// An answer that fits what there is, mostly.
    pub(super) async fn memo(&mut self) -> Item {
        let key = self.memo_key();
        let found = self.memory.reader().memo(key, 9).await.unwrap();
        for (name, other) in &self.others {
            assert_eq!(other.reader().memo(key, 9).await.unwrap(), found, "{name}");
        }
        let (now, stuck) = (Timestamp(self.now), self.time().unwrap_or_default());
        let work = self.memory.reader().memo_work(now, stuck, 9).await.unwrap();
        for (name, other) in &self.others {
            assert_eq!(other.reader().memo_work(now, stuck, 9).await.unwrap(), work, "{name}");
        }
        let seen = if self.dice.once_in(8) { Some(7) } else { found.row.as_ref().map(|row| row.stamp) };
        let taken: Vec<MemoAsk> = found.asks.into_iter().filter(|_| !self.dice.once_in(3)).collect();
        let then = match (self.dice.below(5), taken.last()) {
            (0..=2, Some(last)) => MemoThen::Held(*last, i64::try_from(self.dice.thrown).unwrap()),
            (3, _) => MemoThen::Gone,
            _ => MemoThen::Stays,
        };
        let unowned = if self.dice.once_in(3) { self.some_run().await.map(|row| row.run) } else { None };
        let (_, tells) = self.others().await;
        item(MemoChange { unowned, tells, ..change(key, seen, then, taken) })
    }
}
