//! Closures that block, on threads of their own: started as needed up to a limit, gone after some idle seconds. Such code
//! cannot be aborted; when its attempt is settled without it, it goes on and keeps its slot.

use std::{sync::Arc, thread, time::Duration};

use super::{Shared, panics, queue::BlockingJob};

/// How long an idle thread waits for more.
const PATIENCE: Duration = Duration::from_secs(10);

/// Starts a thread that serves blocking work.
pub(crate) fn hire(shared: &Arc<Shared>) {
    let theirs = shared.clone();
    let hired = thread::Builder::new().name("stent-blocking".to_owned()).spawn(move || {
        while let Some((job, wake)) = theirs.queue.pop_blocking(PATIENCE) {
            theirs.wake(wake);
            run(&theirs, job);
        }
    });
    if let Err(error) = hired {
        // Those that are there go on; if there is none, the next start tries again.
        shared.queue.blocking_not_hired();
        tracing::warn!(%error, "no thread could be started for blocking work");
    }
}

fn run(shared: &Arc<Shared>, BlockingJob { cx, work }: BlockingJob) {
    let now = shared.watch.now();
    cx.started(now);
    if cx.life.start(now) {
        if cx.life.limits.run_out() {
            shared.watch.arm(&cx);
        }
        // Immediately before the act: a node that has lost its lease starts nothing more.
        if shared.deadline.stands() {
            let ending = panics::catch(|| work()).and_then(|ending| ending);
            panics::discard(work);
            if let Some(ended) = shared.conclude(&cx, ending) {
                (shared.ended)(vec![ended]);
            }
        } else {
            tracing::debug!(?cx, "not started: this node may not act any more");
            shared.never_begun(&cx);
        }
    }
    shared.release(1);
}
