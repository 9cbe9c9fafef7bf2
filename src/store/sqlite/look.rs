//! The first hop of a commit: opens the transaction and reads everything that decides about the items. For turns, by far
//! the most frequent items, the database compares and only tells which are refused: normally none. For what is rare it
//! tells the rows, and [`decide`](super::decide) judges.

use std::collections::{HashMap, HashSet};

use sqlx::Row;

use super::{
    rows::{self, Blob, Table},
    script::{Answered, Frame, Values},
};
use crate::{
    fast::{FastMap, FastSet},
    kernel::{event::child_message, id::Incarnation},
    store::{Batch, ClaimRequest, FORMAT, Item, Summary, Then, memory::lines::Beside, successor::goes_along},
};

/// The questions about some items of a batch.
pub(super) struct Look {
    /// Which scripts of `LOOK` are needed.
    pub(super) wanted: [bool; 10],
    pub(super) values: Values,
    /// The items behind the places in the table of turns.
    turns: Vec<usize>,
}

/// What was read. `decide` goes on to change it as items are accepted, so that later items see what earlier ones did.
#[derive(Default)]
pub(super) struct Seen {
    /// The node's short name, if it is live.
    pub(super) node: Option<i64>,
    /// How many rows the connection had changed by then.
    pub(super) changes: i64,
    /// What changes when another connection writes.
    pub(super) version: i64,
    /// Whether the node may claim: one that is about to leave may not.
    pub(super) may_claim: bool,
    /// Turns, by item, whose run has another tail, or has ended, or is not there.
    pub(super) conflicts: HashSet<usize>,
    /// Turns, by item, whose inbox has moved on.
    pub(super) moved: HashSet<usize>,
    /// Turns, by item, that would consume what is not there.
    pub(super) gone: HashSet<usize>,
    /// Runs of turns that are known never to have had a heartbeat.
    pub(super) bare: FastSet<i64>,
    /// Keys of new runs that are taken.
    pub(super) taken: FastSet<i64>,
    /// The runs that items other than turns are about.
    pub(super) runs: FastMap<i64, Known>,
    /// The messages that go along when these runs continue, by number.
    pub(super) along: FastMap<i64, Vec<(u64, String)>>,
    /// The current runs of the ids that items are about.
    pub(super) current: HashMap<String, i64>,
    /// What could be claimed, in order, if the look asked for it.
    pub(super) candidates: Vec<(Summary, Beside)>,
}

/// A run's row and inbox, as far as decisions need them.
pub(super) struct Known {
    pub(super) summary: Summary,
    pub(super) unread: u64,
    /// The numbers of those messages that somebody is about to send, or tell, again.
    pub(super) messages: HashMap<String, u64>,
}

impl Known {
    pub(super) fn new(summary: Summary) -> Known {
        Known { summary, unread: 0, messages: HashMap::new() }
    }
}

/// Puts the questions about these items.
pub(super) fn ask(batch: &Batch, items: &[usize], claim: Option<&ClaimRequest>) -> Result<Look, sqlx::Error> {
    let mut blob = Blob::default();
    let [mut turns, mut consumed, mut keys] = [Table::new(), Table::new(), Table::new()];
    let [mut ids, mut runs, mut messages] = [Table::new(), Table::new(), Table::new()];
    let (mut refusals, mut unread) = (None, None);
    let mut items_of_turns = Vec::new();
    let mut asked = HashSet::new();
    for &place in items {
        match &batch.items[place] {
            Item::Turn(turn) => match &turn.start {
                Some(new) => {
                    keys.number(new.run.0);
                    if asked.insert(new.id.id.as_str()) {
                        ids.text(&new.id.id);
                    }
                }
                None => {
                    let seen = match turn.then {
                        // What has come goes along, or is dropped.
                        Then::Hold | Then::Continue(_) | Then::End { seen: None, .. } => -1,
                        Then::Passivate { seen, .. } | Then::End { seen: Some(seen), .. } => rows::number(seen),
                    };
                    turns.number(blob.pack([turn.run.0, turn.commit_no.into(), seen]));
                    // `decide` refuses a turn without a predecessor whatever the database says of these zeros.
                    blob.put(&turn.prev.map_or([0; 32], |digest| digest.0));
                    let in_table = i64::try_from(items_of_turns.len()).unwrap_or(i64::MAX);
                    for seq in &turn.consumed {
                        consumed.row().int(in_table).int(turn.run.0).int(rows::number(*seq));
                    }
                    items_of_turns.push(place);
                    turn.unowned.iter().for_each(|_| runs.number(turn.run.0));
                }
            },
            Item::Enqueue(new, _) => {
                keys.number(new.run.0);
                if asked.insert(new.id.id.as_str()) {
                    ids.text(&new.id.id);
                }
            }
            Item::Send(message) => {
                messages.row().text(&message.to.id).text(&message.message);
                if asked.insert(message.to.id.as_str()) {
                    ids.text(&message.to.id);
                }
            }
            Item::Yield(back) => runs.number(back.run.0),
            Item::Heartbeat { run, .. } => runs.number(run.0),
            Item::PlaceTasks(run, ..) => runs.number(run.0),
            Item::EndTask(end) => runs.number(end.key.run.0),
            Item::Fork(fork) => {
                keys.number(fork.row.run.0);
                if asked.insert(fork.row.id.id.as_str()) {
                    ids.text(&fork.row.id.id);
                }
            }
            Item::Memo(change) => change.unowned.iter().for_each(|run| runs.number(run.0)),
            Item::Progressed(_) | Item::BeatTask(..) | Item::DropLetters(_) => {}
            Item::Schedule(change) => {
                for (new, _) in &change.starts {
                    keys.number(new.run.0);
                    if asked.insert(new.id.id.as_str()) {
                        ids.text(&new.id.id);
                    }
                }
                for tell in &change.tells {
                    messages.row().text(&tell.to.id).text(&tell.message);
                    if asked.insert(tell.to.id.as_str()) {
                        ids.text(&tell.to.id);
                    }
                }
            }
        }
        for tell in batch.items[place].memo().into_iter().flat_map(|change| &change.tells) {
            messages.row().text(&tell.to.id).text(&tell.message);
            if asked.insert(tell.to.id.as_str()) {
                ids.text(&tell.to.id);
            }
        }
        if let Item::Turn(turn) = &batch.items[place]
            && let Some(next) = turn.successor()
        {
            keys.number(next.run.0);
            runs.number(turn.run.0);
            unread.get_or_insert_with(Table::new).number(turn.run.0);
        }
        let Some(turn) = batch.items[place].with_others() else { continue };
        for child in &turn.starts {
            keys.number(child.row.run.0);
            // Where it ends up if the id is in use; the id of a run is not told with its turn.
            let refusals = refusals.get_or_insert_with(Table::new);
            refusals.row().int(turn.run.0).text(&child_message(child.position));
        }
        for tell in &turn.tells {
            messages.row().text(&tell.to.id).text(&tell.message);
        }
        for id in turn.other_ids() {
            if asked.insert(id) {
                ids.text(id);
            }
        }
        if !turn.starts.is_empty() {
            runs.number(turn.run.0);
        }
    }
    let wanted = [
        true,
        !turns.is_empty(),
        !consumed.is_empty(),
        !keys.is_empty(),
        !ids.is_empty(),
        !runs.is_empty(),
        !messages.is_empty(),
        refusals.is_some(),
        unread.is_some(),
        claim.is_some(),
    ];
    let mut values = Values::default()
        .with(name(batch.incarnation))?
        .with(blob.finish())?
        .with(turns.finish())?
        .with(consumed.finish())?
        .with(keys.finish())?
        .with(ids.finish())?
        .with(runs.finish())?
        .with(messages.finish())?;
    if let Some(refusals) = refusals {
        values = values.with(refusals.finish())?;
    }
    if let Some(unread) = unread {
        values = values.up_to(10)?.with(unread.finish())?;
    }
    if let Some(request) = claim {
        values = claiming(values, batch, request)?;
    }
    Ok(Look { wanted, values, turns: items_of_turns })
}

/// Adds the parameters of `CANDIDATES`.
pub(super) fn claiming(values: Values, batch: &Batch, request: &ClaimRequest) -> Result<Values, sqlx::Error> {
    let mut here = Table::new();
    for (workflow, version) in &request.workflows {
        here.row().text(workflow).int(*version);
    }
    values
        .up_to(31)?
        .with(batch.now.0)?
        .with(i64::from(FORMAT))?
        .with(request.build.0)?
        .with(here.finish())?
        .with(i64::from(request.limit))?
        .with(request.queues.as_deref().map(rows::array))?
        .with(rows::array(&request.tags))?
        .with(batch.now.after(request.ahead).0)
}

/// Returns an incarnation as it is stored.
pub(super) fn name(incarnation: Incarnation) -> Vec<u8> {
    incarnation.0.as_bytes().to_vec()
}

impl Look {
    /// Reads the answers to the script of this look.
    pub(super) fn read(&self, frame: Frame, answers: Vec<Answered>) -> Result<Seen, sqlx::Error> {
        let mut seen = Seen::default();
        let mut answers = answers.into_iter().skip(usize::from(frame != Frame::Open));
        let mut next = |wanted: bool| {
            let answer = if wanted { answers.next() } else { None };
            answer.unwrap_or_default().rows
        };
        let [fence, turns, consumed, keys, ids, runs, messages, refusals, unread, candidates] = self.wanted;
        if let Some(row) = next(fence).first() {
            seen.node = Some(row.try_get(0)?);
            seen.changes = row.try_get(1)?;
            seen.version = row.try_get(2)?;
            seen.may_claim = row.try_get(3)?;
        }
        for row in next(turns) {
            let item = self.item(rows::small(&row, 0)?)?;
            let why: i64 = row.try_get(1)?;
            if why == 1 {
                seen.conflicts.insert(item)
            } else {
                seen.moved.insert(item)
            };
        }
        for row in next(consumed) {
            seen.gone.insert(self.item(rows::small(&row, 0)?)?);
        }
        for row in next(keys) {
            seen.taken.insert(row.try_get(0)?);
        }
        for row in next(ids) {
            let known = known(&row)?;
            seen.current.insert(known.summary.id.id.clone(), known.summary.run.0);
            seen.runs.insert(known.summary.run.0, known);
        }
        for row in next(runs) {
            let known = known(&row)?;
            seen.runs.entry(known.summary.run.0).or_insert(known);
        }
        for wanted in [messages, refusals] {
            for row in next(wanted) {
                if let Some(known) = seen.runs.get_mut(&row.try_get(0)?) {
                    known.messages.insert(row.try_get(2)?, rows::large(&row, 1)?);
                }
            }
        }
        for row in next(unread) {
            if goes_along(row.try_get(3)?) {
                seen.along.entry(row.try_get(0)?).or_default().push((rows::large(&row, 1)?, row.try_get(2)?));
            }
        }
        for row in next(candidates) {
            seen.candidates.push(rows::summary(&row)?);
        }
        Ok(seen)
    }

    fn item(&self, place: u32) -> Result<usize, sqlx::Error> {
        let item = self.turns.get(place as usize).copied();
        item.ok_or_else(|| sqlx::Error::Decode("an answer about no item of ours".into()))
    }
}

fn known(row: &sqlx::sqlite::SqliteRow) -> Result<Known, sqlx::Error> {
    let (summary, _) = rows::summary(row)?;
    Ok(Known { unread: rows::large(row, rows::COLUMNS)?, ..Known::new(summary) })
}
