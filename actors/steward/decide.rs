//! What is to be done about a key: a pure function of its row, of those who ask for it and of how their runs stand.

use std::collections::HashMap;

use crate::{
    kernel::{
        event::{MessageBody, Tell},
        id::RunKey,
        memo::{MemoKey, MemoWord},
        time::Timestamp,
    },
    store::{MemoAsk, MemoChange, MemoFound, MemoRow, MemoThen, Status, Summary},
};

/// So many questions are looked at in one go.
pub(super) const MOST_ASKS: u32 = 64;

/// At most so many bytes of values are told in one item, or one value.
const MOST_BYTES: usize = 4 << 20;

/// Returns the next change, if there is anything to do. `stuck` is the due time since when nobody has taken up a run that nobody will;
/// `stamp` is for the row that is written.
pub(super) fn decide(
    key: MemoKey,
    found: &MemoFound,
    runs: &HashMap<RunKey, Summary>,
    now: Timestamp,
    stuck: Timestamp,
    stamp: i64,
) -> Option<MemoChange> {
    let seen = found.row.as_ref().map(|row| row.stamp);
    let change = |then| MemoChange { key, seen, then, taken: Vec::new(), unowned: None, tells: Vec::new() };
    let counts = |row: &MemoRow| row.until.is_none_or(|until| until > now);
    let alive = |ask: &&MemoAsk| runs.get(&ask.run).is_some_and(|run| !run.status.is_end());
    match &found.row {
        Some(row) if found.asks.is_empty() => (!counts(row)).then(|| change(MemoThen::Gone)),
        Some(MemoRow { holder: Some(holder), .. }) => {
            let run = runs.get(&holder.run).filter(|run| !run.status.is_end());
            if run.is_some_and(|run| holds_on(run, stuck)) {
                return None;
            }
            let tells = run.map(|run| tell(run, holder, MemoWord::Revoked)).into_iter().collect();
            Some(MemoChange { unowned: Some(holder.run), tells, ..change(MemoThen::Gone) })
        }
        Some(row @ MemoRow { kept: Some(kept), .. }) if counts(row) => {
            let most = (MOST_BYTES / kept.output.bytes.len().max(1)).max(1);
            let taken: Vec<MemoAsk> = found.asks.iter().take(most).copied().collect();
            let word = || MemoWord::Value(Box::new(kept.clone()));
            let tells = taken.iter().filter(alive).filter_map(|ask| Some(tell(runs.get(&ask.run)?, ask, word()))).collect();
            Some(MemoChange { taken, tells, ..change(MemoThen::Stays) })
        }
        _ => {
            // The first who is still there has it; those before are not.
            let next = found.asks.iter().position(|ask| alive(&ask));
            let taken: Vec<MemoAsk> = found.asks.iter().take(next.map_or(usize::MAX, |next| next + 1)).copied().collect();
            let granted = taken.last().filter(|_| next.is_some()).copied();
            let run = granted.and_then(|ask| Some((ask, runs.get(&ask.run)?)));
            match run {
                Some((ask, run)) => {
                    let tells = vec![tell(run, &ask, MemoWord::Granted)];
                    Some(MemoChange { taken, tells, ..change(MemoThen::Held(ask, stamp)) })
                }
                None => (!taken.is_empty()).then(|| MemoChange { taken, ..change(MemoThen::Stays) }),
            }
        }
    }
}

/// Tells whether somebody has a run, or will take it up: as `Reader::memo_work` sees it.
fn holds_on(run: &Summary, stuck: Timestamp) -> bool {
    run.owner.is_some() || (run.status == Status::Active && run.wake_at.is_none_or(|wake_at| wake_at > stuck))
}

fn tell(run: &Summary, ask: &MemoAsk, word: MemoWord) -> Tell {
    let MemoAsk { position, ask, .. } = *ask;
    let message = word.message(position, ask);
    Tell { to: run.id.clone(), message, body: MessageBody::Memo { position, ask, word } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{
        id::{Digest, Incarnation, RunId},
        memo::{Kept, MEMO_KEY_BYTES},
        payload::Payload,
    };

    const KEY: MemoKey = MemoKey([7; MEMO_KEY_BYTES]);
    const NOW: Timestamp = Timestamp(1_000);
    const STUCK: Timestamp = Timestamp(900);

    fn ask(run: i64) -> MemoAsk {
        MemoAsk { run: RunKey(run), position: 3, ask: 2 }
    }

    fn run(key: i64, status: Status, owned: bool, wake_at: Option<i64>) -> (RunKey, Summary) {
        let summary = Summary {
            run: RunKey(key),
            id: RunId { id: format!("r{key}"), run_no: 1 },
            workflow: "flow".into(),
            version: 1,
            status,
            owner: owned.then(|| Incarnation(uuid::Uuid::from_u128(1))),
            epoch: 1,
            wake_at: wake_at.map(Timestamp),
            priority: 0,
            queue: String::new(),
            tags: Vec::new(),
            needs: Vec::new(),
            created_at: Timestamp(0),
            ended_at: None,
            deadline: None,
            input_digest: Digest([0; 32]),
            inbox_seq: 0,
            blocked_build: None,
            reason: None,
        };
        (RunKey(key), summary)
    }

    fn row(holder: Option<MemoAsk>, bytes: usize, until: Option<i64>) -> Option<MemoRow> {
        let output = Payload { encoding: crate::kernel::payload::Encoding::MessagePack, bytes: vec![0; bytes].into() };
        let kept = Kept { output, run: RunId { id: "first".into(), run_no: 1 }, position: 1 };
        let kept = holder.is_none().then_some(kept);
        Some(MemoRow { key: KEY, stamp: 5, holder, kept, until: until.map(Timestamp) })
    }

    fn decided(row: Option<MemoRow>, asks: &[i64], runs: &[(RunKey, Summary)]) -> Option<MemoChange> {
        let found = MemoFound { row, asks: asks.iter().map(|run| ask(*run)).collect() };
        decide(KEY, &found, &runs.iter().cloned().collect(), NOW, STUCK, 9)
    }

    fn words(change: &MemoChange) -> Vec<(&str, &str)> {
        change.tells.iter().map(|tell| (&*tell.to.id, tell.message.rsplit('/').next().unwrap_or_default())).collect()
    }

    #[test]
    fn the_first_that_is_still_there_is_granted_a_key_that_is_free() {
        let runs = [run(1, Status::Failed, false, None), run(2, Status::Active, true, None), run(3, Status::Active, true, None)];
        let change = decided(None, &[1, 2, 3], &runs).unwrap();
        assert_eq!((change.seen, change.then), (None, MemoThen::Held(ask(2), 9)));
        assert_eq!((change.taken.clone(), words(&change)), (vec![ask(1), ask(2)], vec![("r2", "granted")]));
        assert_eq!(decided(None, &[], &[]), None);
        let gone = decided(None, &[1], &runs).unwrap();
        assert_eq!((gone.then, gone.taken.len(), gone.tells.len()), (MemoThen::Stays, 1, 0));
    }

    #[test]
    fn nobody_is_told_anything_while_the_holder_is_there_or_will_be() {
        for (owned, wake_at) in [(true, None), (false, None), (false, Some(901))] {
            let runs = [run(1, Status::Active, owned, wake_at), run(2, Status::Active, true, None)];
            assert_eq!(decided(row(Some(ask(1)), 0, None), &[2], &runs), None);
        }
    }

    #[test]
    fn a_key_whose_holder_nobody_takes_up_is_freed_if_somebody_waits_for_it() {
        let waiter = run(2, Status::Active, true, None);
        for (status, wake_at) in [(Status::Active, Some(900)), (Status::Quarantined, None), (Status::Paused, None)] {
            let holder = run(1, status, false, wake_at);
            let runs = [holder, waiter.clone()];
            let change = decided(row(Some(ask(1)), 0, None), &[2], &runs).unwrap();
            assert_eq!((change.seen, change.then, change.unowned), (Some(5), MemoThen::Gone, Some(RunKey(1))));
            assert_eq!((change.taken.len(), words(&change)), (0, vec![("r1", "revoked")]));
            assert_eq!(decided(row(Some(ask(1)), 0, None), &[], &runs), None);
        }
        let over = [run(1, Status::Completed, false, None), waiter];
        let change = decided(row(Some(ask(1)), 0, None), &[2], &over).unwrap();
        assert_eq!((change.then, words(&change)), (MemoThen::Gone, Vec::new()));
    }

    #[test]
    fn a_value_is_told_to_as_many_as_fit_and_counts_until_its_time_is_over() {
        let runs: Vec<_> = (1..=4).map(|key| run(key, Status::Active, true, None)).collect();
        let change = decided(row(None, 10, Some(1_001)), &[1, 2, 3, 4], &runs).unwrap();
        assert_eq!((change.seen, change.then, change.taken.len(), change.tells.len()), (Some(5), MemoThen::Stays, 4, 4));
        let large = decided(row(None, 2 << 20, None), &[1, 2, 3, 4], &runs).unwrap();
        assert_eq!((large.taken.len(), large.tells.len()), (2, 2));
        let late = decided(row(None, 10, Some(1_000)), &[1, 2], &runs).unwrap();
        assert_eq!((late.seen, late.then, words(&late)), (Some(5), MemoThen::Held(ask(1), 9), vec![("r1", "granted")]));
        assert_eq!(decided(row(None, 10, Some(1_000)), &[], &[]).unwrap().then, MemoThen::Gone);
        assert_eq!(decided(row(None, 10, None), &[], &[]), None);
    }
}
