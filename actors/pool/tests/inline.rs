//! Inline attempts, begun on the thread of this test as on the engine's: one that is ready answers at once, and in everything else
//! it is an attempt like any other.

use super::*;
use crate::actors::{handlers::erase_inline, pool::inline::Inline};

struct Here {
    bench: Bench,
    inline: Inline,
}

fn here<F>(config: PoolConfig, handler: F) -> Here
where
    F: AsyncFn(Call<Act>) -> Result<u32, AppError> + Clone + Send + 'static,
{
    let bench = bench(config, erase_inline::<Act, _>(handler));
    let inline = Inline::new(&bench.pool);
    Here { bench, inline }
}

impl Here {
    /// Begins an attempt here; it must not go to the pool.
    fn begin(&self, start: Start) -> Option<Ended> {
        // A busy machine may take the thread away within a poll, which counts; one test is about that, the others are not.
        self.inline.came_round();
        self.inline.start(start).unwrap_or_else(|start| panic!("attempt at {} was left to the pool", start.position))
    }

    /// Begins an attempt here, and expects its result at once.
    fn result(&self, start: Start) -> Ended {
        self.begin(start).expect("it is ready at its first poll")
    }

    fn running(&self) -> usize {
        self.bench.pool.load().running
    }
}

fn thread() -> thread::ThreadId {
    thread::current().id()
}

#[actix::test]
async fn what_is_ready_at_its_first_poll_answers_at_once_on_this_thread() {
    let me = thread();
    let mut here = here(small(), async move |call: Call<Act>| {
        assert_eq!(thread(), me);
        Ok(call.number)
    });
    for position in 1..=1_000 {
        assert_eq!(number(&here.result(act(position))), position);
        assert_eq!(here.bench.pool.attempts().lookup(RUN, position).unwrap().0, 1, "kept until it is recorded");
    }
    assert!(here.bench.pool.idle() && here.bench.ended.try_recv().is_err(), "and is told once");
}

#[actix::test]
async fn what_is_pending_goes_on_as_a_task_here_and_holds_up_nobody() {
    let me = thread();
    let (let_go, wait) = tokio::sync::watch::channel(false);
    let mut here = here(small(), async move |call: Call<Act>| {
        if call.number == 1 {
            wait.clone().wait_for(|go| *go).await.unwrap();
        }
        assert_eq!(thread(), me);
        Ok(call.number)
    });
    assert!(here.begin(act(1)).is_none());
    assert_eq!(number(&here.result(act(2))), 2);
    assert_eq!((here.running(), here.bench.pool.attempts().lookup(RUN, 1)), (1, Some((1, Standing::Running))));
    let_go.send(true).unwrap();
    assert_eq!(number(&here.bench.next().await), 1);
    here.bench.idle().await;
}

#[actix::test]
async fn a_panic_is_a_failed_attempt_at_once_and_later() {
    let mut here = here(small(), async |call: Call<Act>| {
        if call.number == 2 {
            tokio::task::yield_now().await;
        }
        assert!(call.number > 2, "as planned");
        Ok(call.number)
    });
    assert_eq!(kind_of(&here.result(act(1))), KIND_PANIC);
    assert!(here.begin(act(2)).is_none());
    assert_eq!(kind_of(&here.bench.next().await), KIND_PANIC);
    assert_eq!(number(&here.result(act(3))), 3);
    here.bench.idle().await;
}

#[actix::test]
async fn nothing_begins_once_the_node_is_fenced() {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let mut here = here(small(), async move |call: Call<Act>| {
        counted.fetch_add(1, Ordering::SeqCst);
        Ok(call.number)
    });
    here.bench.deadline.fence();
    assert!(here.begin(act(1)).is_none());
    assert_eq!(runs.load(Ordering::SeqCst), 0);
    assert!(here.bench.pool.idle() && here.bench.pool.attempts().count_of(RUN) == 0);
    assert!(here.bench.ended.try_recv().is_err());
}

#[actix::test]
async fn one_too_many_waits_in_the_line_of_all_until_a_slot_is_free() {
    let (let_go, wait) = tokio::sync::watch::channel(0);
    let config = PoolConfig { slots: 2, ..small() };
    let mut here = here(config, async move |call: Call<Act>| {
        wait.clone().wait_for(|gone| *gone >= call.number).await.unwrap();
        Ok(call.number)
    });
    assert!(here.begin(act(1)).is_none() && here.begin(act(2)).is_none());
    let third = here.inline.start(act(3)).unwrap_err();
    here.bench.pool.start(vec![third]);
    assert_eq!(here.bench.pool.attempts().lookup(RUN, 3), Some((1, Standing::Queued)));
    assert_eq!(here.running(), 2);
    let_go.send(1).unwrap();
    assert_eq!(number(&here.bench.next().await), 1);
    let_go.send(3).unwrap();
    assert_eq!(number(&here.bench.next().await) + number(&here.bench.next().await), 5);
    here.bench.idle().await;
}

#[actix::test]
async fn whoever_waits_for_a_slot_is_not_overtaken() {
    let (open, closed) = gate();
    let (tell, mut begun) = unbounded_channel();
    let config = PoolConfig { slots: 3, arbiters: 1, arbiters_max: 1, ..small() };
    let mut here = here(config, async move |call: Call<Act>| {
        if call.number == 1 {
            tell.send(()).unwrap();
            closed.pass();
        }
        Ok(call.number)
    });
    // The only thread of the pool is held, so the second one waits although slots are free.
    here.bench.pool.start(vec![act(1)]);
    begun.recv().await.unwrap();
    here.bench.pool.start(vec![act(2)]);
    assert_eq!(number(&here.result(act(3))), 3, "there is one for each");
    here.bench.pool.start(vec![act(4)]);
    here.inline.start(act(5)).unwrap_err();
    drop(open);
    for _ in 0..3 {
        here.bench.next().await;
    }
    here.bench.idle().await;
}

#[actix::test]
async fn an_attempt_is_begun_once_and_its_result_is_told_again_until_it_is_recorded() {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let here = here(small(), async move |call: Call<Act>| {
        counted.fetch_add(1, Ordering::SeqCst);
        Ok(call.number)
    });
    assert_eq!(number(&here.result(act(1))) + number(&here.result(act(1))), 2);
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    here.bench.pool.attempts().recorded(RUN, 1, 1);
    assert!(here.bench.pool.attempts().count_of(RUN) == 0 && here.bench.pool.idle());
}

#[actix::test]
async fn limits_and_a_cancel_end_it_and_its_future_is_dropped() {
    struct Dropped(Arc<AtomicUsize>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let dropped = Arc::new(AtomicUsize::new(0));
    let counted = dropped.clone();
    let config = PoolConfig { cancel_grace: Duration::from_millis(20), ..small() };
    let mut here = here(config, async move |call: Call<Act>| {
        let _guard = Dropped(counted.clone());
        if call.number == 4 {
            call.cancelled().await;
            return Ok(call.number);
        }
        std::future::pending().await
    });
    let (silent, long) =
        (Limits { heartbeat: SHORT, ..Limits::default() }, Limits { start_to_close: SHORT, ..Limits::default() });
    let late = Limits { close_by: SHORT, ..Limits::default() };
    for (position, limits) in [(1, silent), (2, long), (3, late)] {
        assert!(here.begin(limited(position, limits)).is_none());
        let ended = here.bench.next().await;
        assert_eq!((ended.position, kind_of(&ended)), (position, KIND_TIMEOUT));
    }
    assert!(here.begin(act(4)).is_none() && here.begin(act(5)).is_none());
    here.bench.pool.cancel_run(RUN);
    assert_eq!(number(&here.bench.next().await), 4, "this one listens");
    assert_eq!(kind_of(&here.bench.next().await), KIND_CANCELLED, "this one is dropped");
    here.bench.idle().await;
    assert_eq!(dropped.load(Ordering::SeqCst), 5);
}

#[actix::test]
async fn a_stopping_node_drops_what_is_pending_and_tells_nothing_of_it() {
    let mut here = here(small(), async |_: Call<Act>| std::future::pending().await);
    assert!(here.begin(act(1)).is_none());
    assert!(here.bench.pool.stop(Duration::from_millis(20)).await.is_empty());
    assert!(here.bench.pool.attempts().count_of(RUN) == 0 && here.bench.pool.idle());
    let left = here.inline.start(act(2)).unwrap_err();
    here.bench.pool.start(vec![left]);
    assert!(here.bench.pool.attempts().count_of(RUN) == 0, "nothing begins any more");
    assert!(here.bench.ended.try_recv().is_err());
}

#[actix::test]
async fn what_holds_the_engine_for_long_is_named_and_the_next_ones_go_to_the_pool() {
    let said = Said::default();
    let lines = said.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || lines.clone()).finish();
    let _mine = tracing::subscriber::set_default(subscriber);
    let here = here(small(), async move |call: Call<Act>| {
        if call.number == 1 {
            // What it must not do, and the length of it is what is tested.
            thread::sleep(Duration::from_millis(15));
        }
        Ok(call.number)
    });
    assert_eq!(number(&here.result(act(1))), 1);
    let text = String::from_utf8(said.0.lock().clone()).unwrap();
    assert!(text.contains("held up all executions") && text.contains("(act)"), "{text}");
    let left = here.inline.start(act(2)).unwrap_err();
    here.inline.came_round();
    assert_eq!(number(&here.result(left)), 2);
}

/// What was logged.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl io::Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
