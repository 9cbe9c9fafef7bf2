//! Named points at which a test can kill, panic, hold or slow the process: `failpoint!("persistence.before_commit")`.
//! Without the feature `failpoints` the macro is nothing.
//!
//! Configured by the environment of a child process, `STENT_FAILPOINTS="name=action@n;…"`, or in process by [`set`].
//! Actions: `kill` (SIGKILL to oneself: no destructor runs), `panic`, `sleep:<ms>`; `@n` means at the n-th hit (default the first).

use std::{
    collections::{BTreeSet, HashMap},
    str::FromStr,
    sync::OnceLock,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

/// Every point there is, in the order of a dispatch: a crash test visits each.
pub const ALL: &[&str] = &[
    "executor.before_first_turn",
    "executor.before_flush",
    "execution.after_decide",
    "persistence.before_commit",
    "persistence.after_commit",
    "persistence.before_acks",
    "executor.before_deal",
    "execution.before_effects",
    "execution.after_effects",
    "transaction.before_commit",
    "transaction.committed",
    "executor.attempts_ended",
    "execution.before_settle",
    "scheduler.before_claim",
    "scheduler.timers_due",
    "executor.claimed",
    "execution.after_replay",
    "lease_keeper.before_renew",
    "foreman.tasks_ended",
    "notifier.heard",
    "undertaker.before_look",
    "timekeeper.decides",
    "gate.written",
    "reset.decided",
    "letters.found",
    "steward.answers",
    "supervisor.before_start",
];

/// What happens at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The process kills itself, as `kill -9` would.
    Kill,
    /// The code at the point panics.
    Panic,
    /// The thread at the point stops for so long.
    Sleep(Duration),
    /// The thread at the point stops until it is [released](release). For points with threads of their own.
    Hold,
}

/// The points at which threads are held, and the bell that rings when one is released.
static HELD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
static RELEASED: Condvar = Condvar::new();

#[derive(Clone, Copy)]
struct Armed {
    action: Action,
    at_hit: u32,
    hits: u32,
}

fn points() -> &'static Mutex<HashMap<String, Armed>> {
    static POINTS: OnceLock<Mutex<HashMap<String, Armed>>> = OnceLock::new();
    POINTS.get_or_init(|| {
        let text = std::env::var("STENT_FAILPOINTS").unwrap_or_default();
        Mutex::new(text.split(';').filter_map(parse).collect())
    })
}

fn parse(text: &str) -> Option<(String, Armed)> {
    let (name, action) = text.trim().split_once('=')?;
    let (action, at_hit) = match action.split_once('@') {
        Some((action, hit)) => (action, hit.parse().ok()?),
        None => (action, 1),
    };
    Some((name.to_owned(), Armed { action: action.parse().ok()?, at_hit, hits: 0 }))
}

impl FromStr for Action {
    type Err = String;

    fn from_str(text: &str) -> Result<Action, String> {
        match text.split_once(':') {
            None if text == "kill" => Ok(Action::Kill),
            None if text == "panic" => Ok(Action::Panic),
            Some(("sleep", ms)) => ms.parse().map(|ms| Action::Sleep(Duration::from_millis(ms))).map_err(|e| e.to_string()),
            _ => Err(format!("{text:?} is no action; use kill, panic or sleep:<ms>")),
        }
    }
}

/// Arms a point for its `at_hit`-th hit from now on, once.
pub fn set(name: &str, action: Action, at_hit: u32) {
    points().lock().insert(name.to_owned(), Armed { action, at_hit, hits: 0 });
}

/// Disarms every point, and lets go whoever is held.
pub fn clear() {
    points().lock().clear();
    HELD.lock().clear();
    RELEASED.notify_all();
}

/// Tells whether a thread is held at a point.
#[must_use]
pub fn holds(name: &str) -> bool {
    HELD.lock().contains(name)
}

/// Lets go who is held at a point.
pub fn release(name: &str) {
    HELD.lock().remove(name);
    RELEASED.notify_all();
}

/// Called by the macro.
#[doc(hidden)]
pub fn hit(name: &str) {
    debug_assert!(ALL.contains(&name), "failpoint {name} is missing in ALL");
    let action = {
        let mut points = points().lock();
        let Some(armed) = points.get_mut(name) else { return };
        armed.hits += 1;
        if armed.hits != armed.at_hit {
            return;
        }
        let action = armed.action;
        points.remove(name);
        action
    };
    match action {
        Action::Kill => {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
        Action::Panic => panic!("failpoint {name}"),
        Action::Sleep(time) => std::thread::sleep(time),
        Action::Hold => {
            let mut held = HELD.lock();
            held.insert(name.to_owned());
            RELEASED.wait_while(&mut held, |held| held.contains(name));
        }
    }
}
