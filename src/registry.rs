//! Names and versions of workflows, and how each becomes a future; and which names have become which others. A value of the supervisor: no
//! globals.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    activity::{Activity, DurableError, failure_of},
    cx::Cx,
    error::Error,
    kernel::{
        event::{Command, Commit, Event},
        failure::{Failure, KIND_CODEC},
        instance::Begin,
        payload::Payload,
    },
    workflow::Workflow,
};

/// The workflows of one supervisor; frozen at start.
#[derive(Clone, Default)]
pub(crate) struct Workflows {
    by_name: BTreeMap<(String, u32), Begin>,
    aliases: Aliases,
}

/// Former names, and what they have become. Logs keep the names with which they were written, and are read under the current ones, so
/// that replay finds what the code asks for.
#[derive(Clone, Default)]
pub(crate) struct Aliases {
    workflows: HashMap<&'static str, &'static str>,
    activities: HashMap<&'static str, &'static str>,
}

impl Aliases {
    /// Reads a commit under the current names.
    pub(crate) fn read(&self, commit: &mut Commit) {
        if self.workflows.is_empty() && self.activities.is_empty() {
            return;
        }
        for event in &mut commit.events {
            match event {
                Event::Command(Command::Call(call)) => {
                    renamed(&mut call.activity, &self.activities);
                    if let Some(undo) = &mut call.undo {
                        renamed(&mut undo.activity, &self.activities);
                    }
                }
                Event::Command(Command::Undo { compensation, .. }) => renamed(&mut compensation.activity, &self.activities),
                Event::Command(Command::Child(child)) => renamed(&mut child.workflow, &self.workflows),
                _ => {}
            }
        }
    }
}

fn renamed(name: &mut String, aliases: &HashMap<&'static str, &'static str>) {
    if let Some(current) = aliases.get(name.as_str()) {
        (*current).clone_into(name);
    }
}

impl Workflows {
    /// Adds a workflow.
    ///
    /// # Errors
    /// [`Error::Config`] for an empty name, or one that is taken.
    pub(crate) fn add<W: Workflow>(&mut self) -> Result<(), Error> {
        for name in [W::NAME].iter().chain(W::ALIASES) {
            if name.is_empty() || name.len() > 255 {
                return Err(Error::Config(format!("the name of a workflow has 1 to 255 bytes, {name:?} does not")));
            }
            let version = W::VERSION;
            if self.by_name.insert(((*name).to_owned(), version), begin::<W>()).is_some() {
                return Err(Error::Config(format!(
                    "workflow {name:?} version {version} is registered twice; give each its own NAME (and ALIASES) or VERSION"
                )));
            }
        }
        became("workflow", &mut self.aliases.workflows, W::NAME, W::ALIASES)
    }

    /// Takes note of the former names of an activity.
    ///
    /// # Errors
    /// [`Error::Config`] for one that is another's as well.
    pub(crate) fn add_aliases_of<A: Activity>(&mut self) -> Result<(), Error> {
        became("activity", &mut self.aliases.activities, A::NAME, A::ALIASES)
    }

    /// Returns what former names have become.
    pub(crate) fn aliases(&self) -> &Aliases {
        &self.aliases
    }

    /// Tells whether a workflow of this recorded name is the one of that name.
    pub(crate) fn is_called(&self, recorded: &str, name: &str) -> bool {
        recorded == name || self.aliases.workflows.get(recorded) == Some(&name)
    }

    pub(crate) fn get(&self, name: &str, version: u32) -> Option<&Begin> {
        self.by_name.get(&(name.to_owned(), version))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Returns a digest of the names and versions: nodes of equal ones can take each other's work.
    pub(crate) fn digest(&self) -> i64 {
        let mut hash = blake3::Hasher::new();
        for (name, version) in self.by_name.keys() {
            hash.update(name.as_bytes());
            hash.update(&[0]);
            hash.update(&version.to_le_bytes());
        }
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&hash.finalize().as_bytes()[..8]);
        i64::from_le_bytes(bytes)
    }

    pub(crate) fn names(&self) -> Vec<(String, u32)> {
        self.by_name.keys().cloned().collect()
    }
}

fn became(
    what: &str,
    aliases: &mut HashMap<&'static str, &'static str>,
    name: &'static str,
    former: &'static [&'static str],
) -> Result<(), Error> {
    for alias in former {
        if let Some(other) = aliases.insert(alias, name).filter(|other| *other != name) {
            return Err(Error::Config(format!(
                "{alias:?} cannot be a former name of {what} {other:?} and of {name:?}; take it out of the ALIASES of one of them"
            )));
        }
    }
    Ok(())
}

/// Returns how a workflow begins: from its encoded input to a future that gives its encoded end.
pub(crate) fn begin<W: Workflow>() -> Begin {
    Arc::new(|input: &Payload, tape| {
        let workflow: W = input.decode(format_args!("the input of {}", W::NAME))?;
        let cx = Cx::<W>::new(tape);
        Ok(Box::pin(async move {
            match workflow.run(cx).await {
                Ok(output) => Payload::encode(&output, format_args!("the output of {}", W::NAME))
                    .map_err(|e| Failure::new(KIND_CODEC, e.to_string()).into_final()),
                Err(error) => Err(failure_of(&error, error.advice(), format_args!("the error of {}", W::NAME))),
            }
        }))
    })
}
