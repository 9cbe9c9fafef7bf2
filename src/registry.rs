//! Names and versions of workflows, and how each becomes a future. A value of the supervisor: no globals.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    activity::{DurableError, failure_of},
    cx::Cx,
    error::Error,
    kernel::{
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
}

impl Workflows {
    /// Adds a workflow.
    ///
    /// # Errors
    /// [`Error::Config`] for an empty name, or one that is taken.
    pub(crate) fn add<W: Workflow>(&mut self) -> Result<(), Error> {
        if W::NAME.is_empty() || W::NAME.len() > 255 {
            return Err(Error::Config(format!("the name of a workflow has 1 to 255 bytes, {:?} does not", W::NAME)));
        }
        let key = (W::NAME.to_owned(), W::VERSION);
        if self.by_name.insert(key, begin::<W>()).is_some() {
            let (name, version) = (W::NAME, W::VERSION);
            return Err(Error::Config(format!(
                "workflow {name:?} version {version} is registered twice; give each its own NAME or VERSION"
            )));
        }
        Ok(())
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
