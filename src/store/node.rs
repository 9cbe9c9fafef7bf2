//! Nodes as a store sees them: who is there, whose lease stands, who is dead and what became of what it owned.
//!
//! A node is one incarnation of one runtime. It enters with [`register`](super::Store::register), says that it is alive with
//! [`Warden::renew`], and is followed by others when it is silent for its lease, or proved to be no more. Who judges is the
//! runtime; a store tells facts (beats, proofs) and takes over under the condition that nothing has changed since.

use std::time::Duration;

use super::{Answer, TakenTasks, TaskRequest};
use crate::kernel::{
    id::{BuildId, Incarnation},
    time::Timestamp,
};

/// A node that enters.
#[derive(Clone, Debug)]
pub struct NewNode {
    /// Its life.
    pub incarnation: Incarnation,
    /// Its build.
    pub build: BuildId,
    /// For people: host and process id.
    pub label: String,
    /// How long it may be silent before others may take its work.
    pub lease: Duration,
    /// A digest of the workflows and versions, served queues and tags: equal ones can take each other's work.
    pub can: i64,
    /// The caller's time, used where the store has no clock of its own.
    pub now: Timestamp,
}

/// A node as it stands in the store.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeRow {
    /// Its life.
    pub incarnation: Incarnation,
    /// Its build.
    pub build: BuildId,
    /// For people: host and process id.
    pub label: String,
    /// Whether it may write.
    pub state: NodeState,
    /// How often it has renewed its lease.
    pub beat: u64,
    /// How long it may be silent.
    pub lease: Duration,
    /// How many executions it had in memory when it renewed last.
    pub held: u32,
    /// A digest of what it can run: workflows and versions, served queues, tags.
    pub can: i64,
    /// The store holds a proof that its process, or at least its session, is no more.
    pub proved_dead: bool,
}

/// Whether a node may write.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum NodeState {
    /// It may.
    Live,
    /// It may, but claims nothing any more: it is about to leave.
    Draining,
    /// It may not, and never will again.
    Dead,
}

/// What came of a renewal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Renewed {
    /// Whether the node still stands; if not, nothing was written.
    pub live: bool,
    /// The store's own time at that moment, if it has a clock of its own.
    pub store_now: Option<Timestamp>,
}

/// The affairs of nodes. Every store can do this; one that is slow to get at (a server) has a way of its own for it, so that
/// a renewal never waits behind work.
pub trait Warden {
    /// Renews the node's lease: one more beat.
    fn renew(&mut self, incarnation: Incarnation, held: u32) -> Answer<'_, Renewed>;

    /// Returns all nodes, dead ones as far as the store remembers them and a sweep has to do with them, in the order in which they entered.
    fn nodes(&mut self) -> Answer<'_, Vec<NodeRow>>;

    /// Says that the node is about to leave: from now on its claims come back empty.
    fn drain(&mut self, incarnation: Incarnation) -> Answer<'_, ()>;

    /// Marks a node dead if it is not yet and its beat is still the one that was seen; tells whether it is dead now. It waits
    /// for commits of that node which are under way, and makes an end of them if they do not come to one.
    fn take_over(&mut self, incarnation: Incarnation, seen_beat: u64) -> Answer<'_, bool>;

    /// Frees up to `most` runs of dead nodes, whoever marked them: `owner` becomes null, `forced` is set, and they are due
    /// at once. Returns how many. Runs that their node kept for acts which it could not stop are freed with the others when
    /// its process is gone, or its lease has run out since.
    fn sweep(&mut self, now: Timestamp, most: u32) -> Answer<'_, u64>;

    /// Takes tasks of shared queues for a node, within the limits of their queues. A node that is not live, or is about to leave,
    /// gets none.
    fn take_tasks(&mut self, request: TaskRequest) -> Answer<'_, TakenTasks>;
}
