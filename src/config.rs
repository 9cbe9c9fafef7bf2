//! Every knob, with its unit, its default and its limit. Validated when the runtime is started.

use std::{sync::Arc, time::Duration};

use crate::{
    clock::{Clock, SystemClock},
    error::Error,
    kernel::{id::BuildId, limits::Limits},
    store::{Durability, Queue},
};

/// The knobs of one supervisor.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) durability: Durability,
    /// Executions in memory at once.
    pub(crate) in_flight: usize,
    /// Dispatches of this node that may wait in the store for one of those slots.
    pub(crate) backlog: usize,
    /// Activities that run at once.
    pub(crate) activities: usize,
    /// How long this node may be silent before others may take its work.
    pub(crate) lease: Duration,
    /// How often the lease is renewed.
    pub(crate) renewal: Duration,
    /// How much earlier than its lease this node stops acting.
    pub(crate) margin: Duration,
    /// Shorter waits stay in memory, as long as there is room.
    pub(crate) passivate_after: Duration,
    /// How long before they are due runs are claimed; zero: when they are due.
    pub(crate) look_ahead: Duration,
    /// Limits of each run.
    pub(crate) limits: Limits,
    /// So many restarts of the core…
    pub(crate) restarts: u32,
    /// …within so long are one too many.
    pub(crate) restart_window: Duration,
    /// How long attempts have to stop when an incarnation ends.
    pub(crate) stop_grace: Duration,
    /// Whether each turn is replayed beside itself, to find what is not deterministic at the first run.
    pub(crate) verify: bool,
    /// The rules of queues that this program knows.
    pub(crate) queues: Vec<Queue>,
    /// The queues whose executions and activities run here; `None` means all.
    pub(crate) serves: Option<Vec<String>>,
    /// What executions and activities may need of their node.
    pub(crate) tags: Vec<String>,
    /// Whether every execution that comes to rest leaves memory: for tests of replay.
    pub(crate) evict: bool,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) build: BuildId,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            durability: Durability::Full,
            in_flight: 10_000,
            // At the rate of short executions this is a second or less: what waits longer is better known to whoever asks.
            backlog: 10_000,
            activities: 1_000,
            lease: Duration::from_secs(10),
            renewal: Duration::from_millis(2_500),
            margin: Duration::from_secs(1),
            passivate_after: Duration::from_secs(10),
            look_ahead: Duration::from_secs(1),
            limits: Limits::default(),
            // OTP's and Oban's numbers for a nursery of long-lived children.
            restarts: 5,
            restart_window: Duration::from_secs(30),
            stop_grace: Duration::from_secs(5),
            verify: cfg!(debug_assertions),
            queues: Vec::new(),
            serves: None,
            tags: Vec::new(),
            evict: evicts(),
            clock: Arc::new(SystemClock),
            build: this_build(),
        }
    }
}

/// Tells whether the environment asks for `Builder::evict_always`.
fn evicts() -> bool {
    cfg!(feature = "failpoints") && std::env::var_os("STENT_EVICT").is_some_and(|evict| evict == "1")
}

/// The longest look-ahead.
const LONGEST_LOOK: Duration = Duration::from_secs(60);

impl Config {
    /// How far a claim reaches: what is due within one more look-ahead comes along, so that a wave is a few large claims instead of
    /// one for each moment.
    pub(crate) fn horizon(&self) -> Duration {
        self.look_ahead * 2
    }

    /// Runs that are due so soon never leave memory for the sake of a wait: they would be claimed again at once, here or by a node whose
    /// clock is a little ahead.
    pub(crate) fn soon(&self) -> Duration {
        self.horizon() + self.look_ahead / 4
    }

    /// Waits of up to this are spent in memory, as long as there is room.
    pub(crate) fn stays(&self) -> Duration {
        self.passivate_after.max(self.soon())
    }

    /// So many are asked to leave a full memory at once, so that it is not one for each that wants in.
    pub(crate) fn made_room(&self) -> usize {
        (self.in_flight / 16).max(1)
    }

    /// Checks that the knobs fit together.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        let wrong = |what: &str| Err(Error::Config(what.to_owned()));
        if self.in_flight == 0 || self.activities == 0 {
            return wrong("`in_flight` and `activities` must be at least 1, or nothing could ever run");
        }
        if self.look_ahead > LONGEST_LOOK {
            return wrong("`look_ahead` must be a minute at most: what is claimed ahead is in memory");
        }
        if self.lease < Duration::from_millis(200) || self.lease > Duration::from_secs(3600) {
            return wrong("`lease` must be between 200 ms and an hour");
        }
        for queue in &self.queues {
            let twice = self.queues.iter().filter(|other| other.name == queue.name).count() > 1;
            if twice || queue.name.len() > 255 || queue.name.contains('\0') {
                let name = &queue.name;
                return Err(Error::Config(format!(
                    "queue {name:?} is declared twice, or its name has a NUL or more than 255 bytes"
                )));
            }
            if queue.concurrency == Some(0) || queue.per_key == Some(0) || queue.rate == Some(0) {
                return Err(Error::Config(format!(
                    "a limit of queue {:?} is 0: nothing of it could ever run; pause it instead",
                    queue.name
                )));
            }
        }
        if self.renewal * 2 + self.margin > self.lease {
            return wrong("two renewals and the margin must fit into the lease, or one late answer loses it");
        }
        Ok(())
    }
}

/// Names this program by its file: size and time of the last change. Two builds differ; two copies of one build may too,
/// which costs no more than a second look at a blocked run.
pub(crate) fn this_build() -> BuildId {
    let file = std::env::current_exe().and_then(std::fs::metadata);
    let seed = file.map_or(0, |file| {
        let changed = file.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        crate::kernel::random::mix(file.len(), changed.map_or(0, |at| u64::try_from(at.as_nanos()).unwrap_or(0)))
    });
    BuildId(i64::from_ne_bytes(seed.to_ne_bytes()))
}
