//! Combinators whose order follows from the log: map and race.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::{StreamExt, stream::FuturesUnordered};

/// How many items of a map run at once unless it says otherwise.
const CONCURRENCY: usize = 16;

/// One item's future, with the number of the item.
type Numbered<'a, U, E> = Pin<Box<dyn Future<Output = (usize, Result<U, E>)> + 'a>>;

/// A running [`Cx::map`](super::Cx::map).
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

impl<I, F, U, E> Map<'_, I, F, U, E> {
    pub(super) fn new(items: I, each: F) -> Self {
        Map { items, each, concurrency: CONCURRENCY, running: FuturesUnordered::new(), begun: 0, outputs: Vec::new() }
    }

    /// Sets how many items run at once; zero counts as one.
    pub fn concurrency(mut self, most: usize) -> Self {
        self.concurrency = most.max(1);
        self
    }
}

// Nothing in a map is pinned in place: the futures of its items are boxed.
impl<I, F, U, E> Unpin for Map<'_, I, F, U, E> {}

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
            while this.running.len() < this.concurrency {
                let Some(item) = this.items.next() else { break };
                let index = this.begun;
                this.begun += 1;
                this.outputs.push(None);
                let future = (this.each)(item);
                this.running.push(Box::pin(async move { (index, future.await) }));
            }
            match this.running.poll_next_unpin(cx) {
                Poll::Ready(Some((index, Ok(output)))) => this.outputs[index] = Some(output),
                Poll::Ready(Some((_, Err(error)))) => {
                    // What still runs is dropped here, so it is cancelled at this place in the order.
                    this.running = FuturesUnordered::new();
                    return Poll::Ready(Err(error));
                }
                Poll::Ready(None) => return Poll::Ready(Ok(std::mem::take(&mut this.outputs).into_iter().flatten().collect())),
                Poll::Pending => return Poll::Pending,
            }
        }
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
