//! What ends an attempt from outside, and what keeps it alive: limits, heartbeats, cancellation.

use std::pin::pin;

use actix::{Actor, Context, Handler, ResponseFuture};

use super::*;

#[actix::test]
async fn each_limit_ends_an_attempt_under_its_own_name() {
    let mut bench = bench(PoolConfig { slots: 3, ..small() }, closure(async |_: Call<Act>| std::future::pending().await));
    for (limits, name, is_final) in [
        (Limits { start_to_close: SHORT, ..Limits::default() }, "start_to_close ", false),
        (Limits { close_by: SHORT, ..Limits::default() }, "schedule_to_close ", true),
        (Limits { heartbeat: SHORT, ..Limits::default() }, "heartbeat ", false),
    ] {
        bench.pool.start(vec![limited(1, limits)]);
        let failure = bench.failure().await;
        assert_eq!((failure.kind(), failure.is_final()), (KIND_TIMEOUT, is_final));
        assert!(failure.message().starts_with(name), "{failure}");
        bench.pool.attempts().recorded(RUN, 1, 1);
        bench.idle().await;
        assert!(bench.pool.attempts().running().is_empty());
    }
    bench.pool.start(vec![act(1), act(2), act(3)]);
    bench.pool.start(vec![limited(4, Limits { schedule_to_start: SHORT, ..Limits::default() })]);
    let ended = bench.next().await;
    assert_eq!((ended.position, kind_of(&ended)), (4, KIND_TIMEOUT));
    assert!(ended.result.unwrap_err().message().starts_with("schedule_to_start "));
}

#[actix::test]
async fn a_limit_holds_for_an_act_that_blocks_its_thread() {
    let (open, closed) = gate();
    let handler = closure(async move |call: Call<Act>| {
        closed.pass();
        Ok(call.number)
    });
    let mut bench = bench(PoolConfig { arbiters: 1, arbiters_max: 1, ..small() }, handler);
    bench.pool.start(vec![limited(1, Limits { start_to_close: SHORT, ..Limits::default() })]);
    assert_eq!(kind_of(&bench.next().await), KIND_TIMEOUT);
    bench.pool.attempts().recorded(RUN, 1, 1);
    assert_eq!(bench.pool.attempts().running(), [RUN]);
    drop(open);
    bench.idle().await;
    assert!(bench.pool.attempts().running().is_empty());
    assert!(bench.ended.try_recv().is_err(), "its late result is heard by nobody");
}

/// An actor whose handler ends when it is told to.
struct Slow(tokio::sync::watch::Receiver<bool>);

impl Actor for Slow {
    type Context = Context<Self>;
}

impl Handler<Call<Act>> for Slow {
    type Result = ResponseFuture<Result<u32, AppError>>;

    fn handle(&mut self, call: Call<Act>, _: &mut Context<Self>) -> Self::Result {
        let mut wait = self.0.clone();
        Box::pin(async move {
            wait.wait_for(|go| *go).await?;
            Ok(call.number)
        })
    }
}

#[actix::test]
async fn an_actor_that_timed_out_keeps_its_slot_until_it_ends() {
    let (let_go, wait) = tokio::sync::watch::channel(false);
    let recipient = Slow(wait).start().recipient::<Call<Act>>();
    let mut bench = bench(PoolConfig { slots: 1, ..small() }, erase::<Act, _, _>(recipient));
    bench.pool.start(vec![limited(1, Limits { start_to_close: SHORT, ..Limits::default() }), act(2)]);
    assert_eq!(kind_of(&bench.next().await), KIND_TIMEOUT);
    assert_eq!(bench.pool.load(), Load { running: 1, waiting: 1, arbiters: 2 });
    assert_eq!(bench.pool.attempts().running(), [RUN]);
    let_go.send(true).unwrap();
    assert_eq!(number(&bench.next().await), 2);
    bench.idle().await;
}

#[actix::test]
async fn heartbeats_prolong_and_their_details_reach_the_store_and_the_next_attempt() {
    let (let_go, wait) = tokio::sync::watch::channel(false);
    let mut bench = bench(
        small(),
        closure(async move |call: Call<Act>| {
            if call.attempt() == 2 {
                return Ok(call.details::<u32>().unwrap());
            }
            let mut wait = wait.clone();
            let mut done = pin!(wait.wait_for(|go| *go));
            loop {
                call.heartbeat(&77_u32)?;
                if tokio::time::timeout(Duration::from_millis(5), done.as_mut()).await.is_ok() {
                    return Err(AppError::new("interrupted"));
                }
            }
        }),
    );
    let patient = Limits { heartbeat: Some(Duration::from_millis(600)), ..Limits::default() };
    bench.pool.start(vec![limited(1, patient)]);
    let beats = tokio::time::timeout(FAR, bench.beats.recv()).await.unwrap().unwrap();
    assert_eq!((beats.len(), beats[0].position, beats[0].attempt), (1, 1, 1));
    let_go.send(true).unwrap();
    let ended = bench.next().await;
    let details = bench.pool.attempts().get(RUN, ended.position).and_then(|attempt| attempt.details_for_next());
    assert_eq!((kind_of(&ended), &details), (KIND_ERROR, &Some(beats[0].details.clone())));
    assert!(bench.beats.try_recv().is_err(), "unchanged details are not stored twice");
    bench.pool.start(vec![Start { attempt: 2, details, ..act(1) }]);
    assert_eq!(number(&bench.next().await), 77);
}

#[actix::test]
async fn cancellation_ends_what_waits_reaches_what_runs_and_drops_what_will_not_hear() {
    struct Dropped(tokio::sync::mpsc::UnboundedSender<()>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let (tell, mut dropped) = unbounded_channel();
    let config = PoolConfig { slots: 2, cancel_grace: SHORT.unwrap(), ..small() };
    let mut bench = bench(
        config,
        closure(async move |call: Call<Act>| {
            let _guard = Dropped(tell.clone());
            if call.number == 1 {
                call.cancelled().await;
                return Ok(100);
            }
            std::future::pending().await
        }),
    );
    bench.pool.start(vec![act(1), act(2), act(3)]);
    while bench.pool.attempts().all_running().len() < 2 {
        tokio::task::yield_now().await;
    }
    bench.pool.cancel(RUN, 3);
    let ended = bench.next().await;
    assert_eq!((ended.position, kind_of(&ended)), (3, KIND_CANCELLED));
    bench.pool.cancel(RUN, 1);
    assert_eq!(number(&bench.next().await), 100);
    dropped.recv().await.unwrap();
    bench.pool.cancel_run(RUN);
    assert_eq!(kind_of(&bench.next().await), KIND_CANCELLED);
    tokio::time::timeout(FAR, dropped.recv()).await.unwrap().unwrap();
    bench.idle().await;
    assert!(bench.pool.attempts().running().is_empty());
}
