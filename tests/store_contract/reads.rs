//! Reads beside the log and the inbox.

use stent::{
    kernel::id::RunKey,
    store::{Filter, NewRun, Status, Summary},
};

use crate::kit::*;

fn keys(rows: &[Summary]) -> Vec<i64> {
    rows.iter().map(|row| row.run.0).collect()
}

#[test]
fn a_list_shows_the_newest_first_and_goes_on_where_the_page_before_ended() {
    on_each_store(async |world| {
        for id in ["a", "b", "c", "d", "e"] {
            world.started(id).await;
        }
        let page = |before, limit| Filter { before, limit, ..Filter::default() };
        let first = world.store.reader().list(&page(None, 2)).await.unwrap();
        assert_eq!(keys(&first), [5, 4]);
        let second = world.store.reader().list(&page(Some(first[1].run), 2)).await.unwrap();
        assert_eq!(keys(&second), [3, 2]);
        assert_eq!(keys(&world.store.reader().list(&page(Some(RunKey(2)), 9)).await.unwrap()), [1]);
        assert_eq!(keys(&world.store.reader().list(&page(None, 0)).await.unwrap()), [0; 0]);
    });
}

#[test]
fn a_list_is_narrowed_by_workflow_state_and_tag() {
    on_each_store(async |world| {
        for (id, workflow, tag) in [("a", "x", "red"), ("b", "x", "blue"), ("c", "y", "red")] {
            let run = world.key().await;
            let tags = vec!["all".into(), tag.into()];
            world.done(start(NewRun { workflow: workflow.into(), tags, ..new_run(run, id) })).await;
        }
        world.done(end(RunKey(1), 1, 0)).await;
        let all = Filter { limit: 9, ..Filter::default() };
        let list = async |filter: Filter| keys(&world.store.reader().list(&filter).await.unwrap());
        assert_eq!(list(Filter { workflow: Some("x".into()), ..all.clone() }).await, [2, 1]);
        assert_eq!(list(Filter { tag: Some("red".into()), ..all.clone() }).await, [3, 1]);
        assert_eq!(list(Filter { tag: Some("re".into()), ..all.clone() }).await, [0; 0]);
        assert_eq!(list(Filter { status: vec![Status::Active, Status::Failed], ..all.clone() }).await, [3, 2]);
        let narrow = Filter { status: vec![Status::Completed], tag: Some("all".into()), ..all };
        assert_eq!(list(narrow).await, [1]);
    });
}

#[test]
fn summaries_come_in_the_order_they_were_asked_for_without_unknown_ones() {
    on_each_store(async |world| {
        let [a, b] = [world.started("a").await, world.started("b").await];
        let found = world.store.reader().summaries(&[b, RunKey(99), a]).await.unwrap();
        assert_eq!(keys(&found), [b.0, a.0]);
        assert_eq!(world.store.reader().summaries(&[]).await.unwrap(), vec![]);
        assert_eq!(world.store.reader().find("nobody", None).await.unwrap(), None);
        assert_eq!(world.store.reader().find("a", Some(2)).await.unwrap(), None);
    });
}

#[test]
fn the_next_wake_is_that_of_unowned_active_runs() {
    on_each_store(async |world| {
        assert_eq!(world.store.reader().next_wake(stent::kernel::time::Timestamp(i64::MIN)).await.unwrap(), None);
        let run = world.started("a").await;
        assert_eq!(world.store.reader().next_wake(stent::kernel::time::Timestamp(i64::MIN)).await.unwrap(), None);
        world.done(sleep(run, 1, Some(8_000), 0)).await;
        let early = world.key().await;
        let new = NewRun { priority: -3, wake_at: Some(stent::kernel::time::Timestamp(6_000)), ..new_run(early, "b") };
        world.done(enqueue(new)).await;
        assert_eq!(world.store.reader().next_wake(stent::kernel::time::Timestamp(i64::MIN)).await.unwrap().unwrap().0, 6_000);
    });
}
