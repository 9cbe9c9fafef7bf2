//! Forks and dead letters in memory: the reference for every store.

use super::{Data, Run, apply::Writer};
use crate::{
    kernel::{
        id::{Position, RunKey},
        letter::LetterChange,
    },
    store::{DeadLetter, Fork, LetterFilter, Outcome, SeenLetter},
};

impl Run {
    pub(super) fn change_letters(&mut self, changes: &[LetterChange]) {
        for change in changes {
            match change {
                LetterChange::Put(letter) => {
                    self.letters.insert(letter.position, letter.clone());
                }
                LetterChange::Drop(position) => {
                    self.letters.remove(position);
                }
            }
        }
    }
}

impl Data {
    pub(super) fn fork(&mut self, fork: &Fork, writer: Writer) -> Result<(), Outcome> {
        self.may_begin(&fork.row)?;
        if fork.inbox.len() > self.inbox_limit as usize {
            return Err(Outcome::InboxFull);
        }
        // Without a time of its own it is due at once: nobody else would ever wake it.
        self.begin(&fork.row, None, 0, fork.row.wake_at.or(Some(writer.now)));
        if let Some(run) = self.runs.get_mut(&fork.row.run) {
            run.log.extend(fork.log.iter().cloned());
            run.published.extend(fork.published.iter().map(|row| (row.key.clone(), row.clone())));
            let last = run.log.len().saturating_sub(1);
            self.newest =
                run.log.last().map(|record| (fork.row.id.clone(), u32::try_from(last).unwrap_or(u32::MAX), record.clone()));
        }
        for again in &fork.inbox {
            self.deliver(fork.row.run, again.message.clone(), again.body.clone(), again.sent_at, writer.now);
        }
        self.drop_letters(fork.undone.iter().map(|position| (fork.of, *position)));
        Ok(())
    }

    pub(super) fn drop_letters(&mut self, letters: impl IntoIterator<Item = (RunKey, Position)>) {
        for (run, position) in letters {
            if let Some(run) = self.runs.get_mut(&run) {
                run.letters.remove(&position);
            }
        }
    }

    pub(super) fn drop_seen_letters(&mut self, letters: &[SeenLetter]) {
        for seen in letters {
            if let Some(run) = self.runs.get_mut(&seen.run)
                && run.letters.get(&seen.position).is_some_and(|letter| SeenLetter::of(seen.run, letter) == *seen)
            {
                run.letters.remove(&seen.position);
            }
        }
    }

    pub(super) fn letters(&self, filter: &LetterFilter) -> Vec<DeadLetter> {
        let of = |run: &Run, letter: &crate::kernel::letter::Letter| {
            let row = &run.summary;
            DeadLetter::new(row.run, row.id.clone(), row.workflow.clone(), row.status, letter.clone())
        };
        let all = self.runs.values().flat_map(|run| run.letters.values().map(move |letter| of(run, letter)));
        let mut wanted: Vec<DeadLetter> = all.filter(|letter| filter.takes(letter)).collect();
        wanted.sort_by_key(|letter| std::cmp::Reverse(letter.place()));
        wanted.truncate(filter.limit as usize);
        wanted
    }
}
