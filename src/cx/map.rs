//! Combinators whose order follows from the log: map and race.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::{StreamExt, stream::FuturesUnordered};

/// How many items of a map run at once unless it says otherwise.
const CONCURRENCY: usize = 16;

/// One item's future, with the number of the item.
type Numbered<'a, U, E> = Pin<Box<dyn Future<Output = (usize, Result<U, E>)> + 'a>>;

/// A running [`Cx::map`](super::Cx::map): all outputs, or the first error.
#[must_use = "a map does nothing unless it is awaited"]
pub struct Map<'a, I, F, U, E> {
    items: I,
    each: F,
    concurrency: usize,
    /// Polls only what was woken, in the order of the wake-ups, which is that of the log.
    running: FuturesUnordered<Numbered<'a, U, E>>,
    begun: usize,
    outputs: Vec<Option<U>>,
}

/// A running [`Map::settle`]: every item's own end.
#[must_use = "a map does nothing unless it is awaited"]
pub struct Settle<'a, I, F, U, E> {
    map: Map<'a, I, F, U, E>,
    results: Vec<Option<Result<U, E>>>,
}

/// A running [`Map::at_least`]: enough outputs, or all errors.
#[must_use = "a map does nothing unless it is awaited"]
pub struct AtLeast<'a, I, F, U, E> {
    map: Map<'a, I, F, U, E>,
    wanted: usize,
    outputs: Vec<(usize, U)>,
    errors: Vec<E>,
}

impl<'a, I, F, U, E> Map<'a, I, F, U, E> {
    pub(super) fn new(items: I, each: F) -> Self {
        Map { items, each, concurrency: CONCURRENCY, running: FuturesUnordered::new(), begun: 0, outputs: Vec::new() }
    }

    /// Sets how many items run at once; zero counts as one.
    pub fn concurrency(mut self, most: usize) -> Self {
        self.concurrency = most.max(1);
        self
    }

    /// Lets every item come to its own end, whatever becomes of the others: the results come in the order of the items.
    pub fn settle(self) -> Settle<'a, I, F, U, E> {
        Settle { map: self, results: Vec::new() }
    }

    /// Waits until so many items have succeeded: their outputs come with the numbers of the items (from 0), in the order in which they
    /// were ready. What still runs then is cancelled, what has not begun never does. If all have ended and too few have succeeded, the
    /// errors come in the order in which they happened. Zero is ready at once, with nothing begun.
    pub fn at_least(self, wanted: usize) -> AtLeast<'a, I, F, U, E> {
        AtLeast { map: self, wanted, outputs: Vec::new(), errors: Vec::new() }
    }

    /// Cancels what still runs, at this place in the order.
    fn stop(&mut self) {
        self.running = FuturesUnordered::new();
    }
}

impl<'a, I, F, T, U, E> Map<'a, I, F, U, E>
where
    I: Iterator,
    F: FnMut(I::Item) -> T,
    T: Future<Output = Result<U, E>> + 'a,
{
    /// Begins items while there is room, and returns the next one that is over, with its number; `None` when all are.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<(usize, Result<U, E>)>> {
        while self.running.len() < self.concurrency {
            let Some(item) = self.items.next() else { break };
            let index = self.begun;
            self.begun += 1;
            let future = (self.each)(item);
            self.running.push(Box::pin(async move { (index, future.await) }));
        }
        self.running.poll_next_unpin(cx)
    }
}

// Nothing in a map is pinned in place: the futures of its items are boxed.
impl<I, F, U, E> Unpin for Map<'_, I, F, U, E> {}
impl<I, F, U, E> Unpin for Settle<'_, I, F, U, E> {}
impl<I, F, U, E> Unpin for AtLeast<'_, I, F, U, E> {}

/// Puts something at its place among others that come in any order.
fn put<T>(all: &mut Vec<Option<T>>, index: usize, one: T) {
    if all.len() <= index {
        all.resize_with(index + 1, || None);
    }
    all[index] = Some(one);
}

fn in_order<T>(all: &mut Vec<Option<T>>) -> Vec<T> {
    std::mem::take(all).into_iter().flatten().collect()
}

impl<'a, I, F, T, U, E> Future for Map<'a, I, F, U, E>
where
    I: Iterator,
    F: FnMut(I::Item) -> T,
    T: Future<Output = Result<U, E>> + 'a,
{
    type Output = Result<Vec<U>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match ready!(this.poll_next(cx)) {
                Some((index, Ok(output))) => put(&mut this.outputs, index, output),
                Some((_, Err(error))) => {
                    this.stop();
                    return Poll::Ready(Err(error));
                }
                None => return Poll::Ready(Ok(in_order(&mut this.outputs))),
            }
        }
    }
}

impl<'a, I, F, T, U, E> Future for Settle<'a, I, F, U, E>
where
    I: Iterator,
    F: FnMut(I::Item) -> T,
    T: Future<Output = Result<U, E>> + 'a,
{
    type Output = Vec<Result<U, E>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        while let Some((index, result)) = ready!(this.map.poll_next(cx)) {
            put(&mut this.results, index, result);
        }
        Poll::Ready(in_order(&mut this.results))
    }
}

impl<'a, I, F, T, U, E> Future for AtLeast<'a, I, F, U, E>
where
    I: Iterator,
    F: FnMut(I::Item) -> T,
    T: Future<Output = Result<U, E>> + 'a,
{
    type Output = Result<Vec<(usize, U)>, Vec<E>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        while this.outputs.len() < this.wanted {
            match ready!(this.map.poll_next(cx)) {
                Some((index, Ok(output))) => this.outputs.push((index, output)),
                Some((_, Err(error))) => this.errors.push(error),
                None => return Poll::Ready(Err(std::mem::take(&mut this.errors))),
            }
        }
        this.map.stop();
        Poll::Ready(Ok(std::mem::take(&mut this.outputs)))
    }
}

/// Which of two futures was first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Either<A, B> {
    /// The first one.
    First(A),
    /// The second one.
    Second(B),
}

/// A running [`Cx::race`](super::Cx::race).
#[must_use = "a race does nothing unless it is awaited"]
pub struct Race<A, B> {
    first: Option<Pin<Box<A>>>,
    second: Option<Pin<Box<B>>>,
}

impl<A, B> Race<A, B> {
    pub(super) fn new(first: A, second: B) -> Self {
        Race { first: Some(Box::pin(first)), second: Some(Box::pin(second)) }
    }
}

impl<A: Future, B: Future> Future for Race<A, B> {
    type Output = Either<A::Output, B::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(first) = &mut self.first
            && let Poll::Ready(output) = first.as_mut().poll(cx)
        {
            self.second = None;
            return Poll::Ready(Either::First(output));
        }
        if let Some(second) = &mut self.second
            && let Poll::Ready(output) = second.as_mut().poll(cx)
        {
            self.first = None;
            return Poll::Ready(Either::Second(output));
        }
        Poll::Pending
    }
}
