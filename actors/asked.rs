//! A dispatch without its types: what is checked of it, and of a message, before any store is asked, and how its run begins. The
//! door's, that of whoever begins an execution in a transaction of their own, and that of a parent.

use std::time::Duration;

use super::messages::IfInUse;
use crate::{
    cx::child::is_name,
    error::{DispatchError, SendError},
    kernel::{
        chain::Inherited,
        codec::{self, Record},
        event::{Commit, Event, Fact, MessageBody, OUR_MESSAGES, Ordered, RunRetry, Started},
        id::{Digest, OUR_IDS, RunId, RunKey},
        limits::Limits,
        payload::Payload,
        retry::Retry,
        run::Writer,
        time::Timestamp,
    },
    store::NewRun,
};

/// A dispatch without its types.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) workflow: &'static str,
    pub(crate) version: u32,
    pub(crate) input: Payload,
    pub(crate) id: String,
    pub(crate) if_in_use: IfInUse,
    pub(crate) delay: Option<Duration>,
    pub(crate) deadline: Option<Duration>,
    pub(crate) retry: Option<Retry>,
    pub(crate) priority: i32,
    pub(crate) queue: String,
    pub(crate) tags: Vec<String>,
    pub(crate) needs: Vec<String>,
}

impl Asked {
    /// Refuses what no store could take.
    pub(crate) fn check(&self, limits: &Limits) -> Result<(), DispatchError> {
        let invalid = |what: &str| Err(DispatchError::Invalid(what.to_owned()));
        if !is_name(&self.id) {
            return invalid("an id has 1 to 255 bytes and no NUL");
        }
        if self.id.starts_with(OUR_IDS) {
            return invalid("ids that begin with \"stent:\" are Stent's own; choose another");
        }
        self.check_options(limits)
    }

    /// The same, the id left aside.
    pub(crate) fn check_options(&self, limits: &Limits) -> Result<(), DispatchError> {
        let invalid = |what: &str| Err(DispatchError::Invalid(what.to_owned()));
        if self.tags.len() > 16 || !self.tags.iter().all(|tag| is_name(tag)) {
            return invalid("at most 16 tags of 1 to 255 bytes each, without NUL");
        }
        if !self.needs.iter().all(|tag| is_name(tag)) {
            return invalid("a tag that a node must have has 1 to 255 bytes and no NUL");
        }
        if !self.queue.is_empty() && !is_name(&self.queue) {
            return invalid("a queue's name has at most 255 bytes and no NUL");
        }
        if self.deadline.is_some_and(|within| within.is_zero()) {
            return invalid("a deadline of zero has passed before the run begins; leave it out for no deadline");
        }
        let (size, limit) = (self.input.bytes.len(), limits.payload_bytes);
        if size > limit {
            return Err(DispatchError::TooLarge { what: format!("the input of {}", self.workflow), size, limit });
        }
        Ok(())
    }

    /// Returns the row of the run, still without its key, and its first fact.
    pub(crate) fn begin(&self, now: Timestamp, limits: Limits) -> (NewRun, Started) {
        let digest = self.input.digest();
        let deadline = self.deadline.map(|within| now.after(within));
        let started = Started {
            workflow: self.workflow.to_owned(),
            version: self.version,
            input: self.input.clone(),
            seed: fresh_seed(digest),
            deadline,
            deferred: false,
            limits: (limits != Limits::default()).then(|| Box::new(limits)),
            parent: None,
            retry: self.retry.clone().map(|policy| Box::new(RunRetry::new(policy, now))),
            copied_from: None,
        };
        let row = NewRun {
            priority: self.priority,
            queue: self.queue.clone(),
            tags: self.tags.clone(),
            needs: self.needs.clone(),
            wake_at: self.delay.map(|delay| now.after(delay)),
            ..first_row(self.id.clone(), &started, digest, now)
        };
        (row, started)
    }
}

/// Refuses a message to an execution that no store could take, or whose id is not its sender's to give.
pub(crate) fn check_message(message: &str, body: &MessageBody, limits: &Limits) -> Result<(), SendError> {
    if let MessageBody::Signal { payload, name } | MessageBody::Update { payload, name } = body
        && payload.bytes.len() > limits.payload_bytes
    {
        let (size, most) = (payload.bytes.len(), limits.payload_bytes);
        return Err(SendError::Invalid(format!("the value of {name} has {size} bytes, the limit is {most}")));
    }
    if let Some(Ordered::Complete { end, .. }) = body.order().map(|order| &order.what) {
        let (size, most) = (end.bytes(), limits.payload_bytes);
        if size > most {
            return Err(SendError::Invalid(format!("what the call is to end with has {size} bytes, the limit is {most}")));
        }
    }
    if !is_name(message) {
        return Err(SendError::Invalid("a message id has 1 to 255 bytes and no NUL".to_owned()));
    }
    if message.starts_with(OUR_MESSAGES) {
        return Err(SendError::Invalid(format!("message ids that begin with {OUR_MESSAGES:?} are Stent's own; choose another")));
    }
    Ok(())
}

/// Returns the row of the first run of an id, still without its key, as a dispatch without options makes it.
pub(crate) fn first_row(id: String, started: &Started, input_digest: Digest, now: Timestamp) -> NewRun {
    NewRun {
        run: RunKey(0),
        id: RunId { id, run_no: 1 },
        after: Vec::new(),
        workflow: started.workflow.clone(),
        version: started.version,
        priority: 0,
        queue: String::new(),
        tags: Vec::new(),
        needs: Vec::new(),
        created_at: now,
        wake_at: None,
        deadline: started.deadline,
        input_digest,
    }
}

/// Returns the first commit of a run that is written without its first turn.
pub(crate) fn without_a_turn(id: &RunId, started: Started, writer: Writer<'_>, now: Timestamp) -> Result<Record, String> {
    not_begun(id, started, None, writer, now)
}

/// The same, with what it takes over from the run before it.
pub(crate) fn not_begun(
    id: &RunId,
    mut started: Started,
    inherited: Option<Inherited>,
    writer: Writer<'_>,
    now: Timestamp,
) -> Result<Record, String> {
    started.deferred = true;
    let inherited = inherited.map(|inherited| Event::Fact(Fact::Inherited(Box::new(inherited))));
    let commit = Commit {
        commit_no: 0,
        prev: None,
        incarnation: writer.incarnation,
        epoch: writer.epoch,
        build: writer.build,
        time: now,
        events: std::iter::once(Event::Fact(Fact::Started(Box::new(started)))).chain(inherited).collect(),
    };
    codec::encode(id, &commit)
}

/// Returns a seed that no two runs share.
pub(crate) fn fresh_seed(digest: Digest) -> u64 {
    u64::from_le_bytes(first_bytes(uuid::Uuid::now_v7(), digest.0))
}

/// A seed that no two dispatches share: random bits of a fresh UUID, mixed with the argument.
fn first_bytes(id: uuid::Uuid, digest: [u8; 32]) -> [u8; 8] {
    let mut hash = blake3::Hasher::new();
    hash.update(id.as_bytes());
    hash.update(&digest);
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash.finalize().as_bytes()[..8]);
    bytes
}
