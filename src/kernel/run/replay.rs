//! Replay: a run is rebuilt from its log, and each command that its code asks for is compared with the one that is recorded. The log
//! is consumed on the way, so nothing of it is copied.

use std::collections::VecDeque;

use super::{Run, turning::own_weight_of};
use crate::kernel::{
    blocked::Blocked,
    compare::{describe, same, take_same},
    event::{Command, Commit, Event, Fact},
    id::{Digest, RunId},
    instance::Begin,
    tape::weight,
};

/// The newest commands that were replayed, for reports.
#[derive(Default)]
struct Newest(VecDeque<Command>);

impl Newest {
    const MOST: usize = 5;

    fn note(&mut self, command: Command) {
        if self.0.len() == Newest::MOST {
            self.0.pop_front();
        }
        self.0.push_back(command);
    }

    fn text(&self) -> String {
        let newest: Vec<String> = self.0.iter().map(describe).collect();
        if newest.is_empty() { "none".to_owned() } else { newest.join(", ") }
    }
}

impl Run {
    /// Rebuilds a run from its log and compares each command that the code asks for with the one that is recorded. A commit is
    /// taken when its turn has come and dropped behind it: a long log need never be in memory decoded as a whole.
    pub(crate) fn replay<E: From<Blocked>>(
        id: &RunId,
        log: impl IntoIterator<Item = Result<(Commit, Digest), E>>,
        begin: &Begin,
        twin: bool,
    ) -> Result<Box<Run>, E> {
        let bad = |what: &str| Blocked::BadLog { run: id.clone(), what: what.to_owned() };
        let mut log = log.into_iter();
        let first = log.next().transpose()?;
        let started = match first.as_ref().map(|(commit, _)| (commit.events.first(), commit.time)) {
            Some((Some(Event::Fact(Fact::Started(started))), at)) => ((**started).clone(), at),
            _ => return Err(bad("it does not begin with a start").into()),
        };
        let mut run = Run::new(id.clone(), started.0, begin, twin, started.1)?;
        let mut newest = Newest::default();
        for next in first.map(Ok).into_iter().chain(log) {
            let (mut commit, digest) = next?;
            let follows = commit.commit_no == run.next_commit && commit.prev == run.tail;
            if !follows || commit.time < run.last_time || commit.epoch < run.last_epoch {
                return Err(bad(&format!("commit {} does not follow its predecessor", commit.commit_no)).into());
            }
            run.replay_commit(&mut commit, &mut newest)?;
            run.recorded(&commit, digest);
        }
        Ok(run)
    }

    /// Goes through the events of a commit, and takes them out of it.
    fn replay_commit(&mut self, commit: &mut Commit, newest: &mut Newest) -> Result<(), Blocked> {
        let mut events = std::mem::take(&mut commit.events).into_iter();
        let (commit, all) = (&*commit, events.len());
        let mut asked: VecDeque<Command> = VecDeque::new();
        while let Some(event) = events.next() {
            let index = all - events.len() - 1;
            if self.state.outcome.is_some() {
                let what = format!("commit {} goes on behind the end", commit.commit_no);
                return Err(Blocked::BadLog { run: self.id.clone(), what });
            }
            match event {
                Event::Fact(fact) => {
                    if let Some(command) = asked.pop_front() {
                        let expected = "nothing more before the next fact";
                        return Err(self.differs(commit, index, expected, &describe(&command), newest));
                    }
                    self.state.fact(&fact, &self.limits);
                    if let Some(end) = self.stopped_by(&fact) {
                        asked = VecDeque::from([end]);
                        continue;
                    }
                    let patches = patches_behind(events.as_slice());
                    if let Some(twin) = &mut self.twin {
                        let _ = twin.apply_again(&fact, commit.time, patches.clone());
                    }
                    let commands = self.instance.apply_again(&fact, commit.time, patches);
                    asked = commands.map_err(|misuse| self.misuse(misuse))?.into();
                    self.grew(own_weight_of(&fact));
                }
                // The code does not ask any more, as was to come.
                Event::Command(expected @ Command::Patched { deprecated: true, .. })
                    if asked.front().is_none_or(|found| !same(&expected, found)) =>
                {
                    self.grew(weight(&expected));
                }
                Event::Command(expected) => {
                    let Some(found) = take_same(&mut asked, &expected) else {
                        return Err(self.differs(commit, index, &describe(&expected), "nothing", newest));
                    };
                    if !same(&expected, &found) {
                        return Err(self.differs(commit, index, &describe(&expected), &describe(&found), newest));
                    }
                    // The recorded command is the truth: options and input of the code may have changed since.
                    self.state.command(&expected, commit.time);
                    self.instance.recorded(&expected);
                    if let Some(twin) = &mut self.twin {
                        twin.recorded(&expected);
                    }
                    self.grew(weight(&expected));
                    newest.note(expected);
                }
            }
        }
        match asked.pop_front() {
            Some(command) => Err(self.differs(commit, all, "nothing more", &describe(&command), newest)),
            None => Ok(()),
        }
    }

    /// One more event of the log was gone through; as many bytes as it had when it was recorded.
    fn grew(&mut self, bytes: usize) {
        std::iter::once(&mut self.instance).chain(&mut self.twin).for_each(|instance| instance.grew(1, bytes));
    }

    fn differs(&self, commit: &Commit, event: usize, expected: &str, found: &str, newest: &Newest) -> Blocked {
        Blocked::Nondeterminism {
            run: self.id.clone(),
            workflow: self.state.started.workflow.clone(),
            version: self.state.started.version,
            commit_no: commit.commit_no,
            event,
            expected: expected.to_owned(),
            found: found.to_owned(),
            last: newest.text(),
            wrote: commit.build,
        }
    }
}

/// The patches that were recorded before the next fact.
fn patches_behind(events: &[Event]) -> Vec<String> {
    let commands = events.iter().map_while(|event| match event {
        Event::Command(command) => Some(command),
        Event::Fact(_) => None,
    });
    let patches = commands.filter_map(|command| match command {
        Command::Patched { id, .. } => Some(id.clone()),
        _ => None,
    });
    patches.collect()
}
