//! Published values, for those who ask from outside: what is there now, and waiting for what is not. The answer is always a row of the
//! store, never something that an execution has in memory: so nobody sees what may still be lost, and any node can say it.

use std::time::Duration;

use actix::{Addr, Handler, Message, ResponseFuture, dev::ToEnvelope};
use tokio::sync::oneshot;

use super::{
    bells::{Listener, Rung},
    door::Door,
    handle::{Handle, Stent},
    supervisor::Supervisor,
};
use crate::{
    activity::Durable,
    cx::Progress,
    error::{Error, ValueError},
    kernel::{id::RunKey, tape::PROGRESS},
    store::{Publication, StoreError, Summary},
};

/// How long a message waits that does not say it.
const UNSAID: Duration = Duration::from_secs(10);

/// How soon it is looked again after the store was busy.
const PAUSE: Duration = Duration::from_millis(200);

/// Asks for what an execution has published under a key; `None` if there is no such value, or no such execution.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Option<Publication>, Error>")]
pub struct ReadValue {
    id: String,
    key: String,
}

impl ReadValue {
    /// Asks the current run of an id. What it has published can be read as long as it is kept, also when it has ended.
    pub fn new(id: impl Into<String>, key: impl Into<String>) -> ReadValue {
        ReadValue { id: id.into(), key: key.into() }
    }
}

/// Waits until an execution has published a value under a key, or a newer one than is known already. The answer is
/// [`ValueError`] when the execution ends without it, when there is none of this id, or when the time is up.
///
/// On whatever node the execution is: here it is known at once, of another node within a second, mostly sooner.
///
/// Sent to the [`Supervisor`], it waits for ten seconds unless it says [`within`](AwaitValue::within), for nobody tells a runtime that a sender
/// does not wait any more. Given to [`Stent::value_when`], it waits as long as the execution lasts, and ends with the future.
#[derive(Debug, Message)]
#[rtype(result = "Result<Publication, Error>")]
pub struct AwaitValue {
    id: String,
    key: String,
    newer_than: u64,
    within: Option<Duration>,
    /// Ends with whoever waits.
    wanted: Option<oneshot::Receiver<()>>,
}

impl AwaitValue {
    /// Asks the current run of an id, and its next run if it goes on as that. How long it waits see [there](AwaitValue).
    pub fn new(id: impl Into<String>, key: impl Into<String>) -> AwaitValue {
        AwaitValue { id: id.into(), key: key.into(), newer_than: 0, within: None, wanted: None }
    }

    /// Waits for a value whose [`version`](Publication::version) is higher. Of several that come in between only the newest is seen.
    #[must_use]
    pub fn newer_than(mut self, version: u64) -> AwaitValue {
        self.newer_than = version;
        self
    }

    /// Waits no longer than this.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> AwaitValue {
        self.within = Some(limit);
        self
    }

    /// Gives it an end if nothing else does: a sender's end is not heard of.
    fn bounded(mut self) -> AwaitValue {
        if self.wanted.is_none() {
            self.within.get_or_insert(UNSAID);
        }
        self
    }
}

/// A published value, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published<T> {
    /// The value.
    pub value: T,
    /// Which change it was: give it to [`AwaitValue::newer_than`] to wait for the next one.
    pub version: u64,
}

impl Publication {
    /// Decodes the value; that of a counter is an `i64`.
    ///
    /// # Errors
    /// [`ValueError::Undecodable`] when it is not a `T`.
    pub fn decode<T: Durable>(&self) -> Result<T, Error> {
        let decoded = self.value.decode(format_args!("the published value {:?}", self.key));
        decoded.map_err(|error| ValueError::Undecodable(error.to_string()).into())
    }
}

impl Door {
    /// Returns the current run of an id, and what it shows under a key.
    async fn look_at(&self, id: &str, key: &str) -> Result<Option<(Summary, Option<Publication>)>, Error> {
        let (id, key) = (id.to_owned(), key.to_owned());
        self.read(move |reader| async move {
            // In this order: what is not there behind the end of a run will never be.
            let Some(current) = reader.find(&id, None).await? else { return Ok(None) };
            let shown = reader.published(current.run, Some(&key)).await?.into_iter().next();
            Ok(Some((current, shown)))
        })
        .await
    }

    pub(crate) async fn value(&self, ReadValue { id, key }: ReadValue) -> Result<Option<Publication>, Error> {
        Ok(self.look_at(&id, &key).await?.and_then(|(_, shown)| shown))
    }

    pub(crate) async fn value_when(&self, wait: AwaitValue) -> Result<Publication, Error> {
        let AwaitValue { id, key, newer_than, within, wanted } = wait;
        let waits = self.next_value(&id, &key, newer_than);
        let unwanted = async {
            match wanted {
                Some(wanted) => drop(wanted.await),
                None => std::future::pending().await,
            }
        };
        let time = async {
            match within {
                Some(within) => tokio::time::sleep(within).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            value = waits => value,
            () = time => Err(ValueError::NotInTime { id: id.clone(), key: key.clone(), within: within.unwrap_or_default() }.into()),
            () = unwanted => Err(Error::Stopped),
        }
    }

    async fn next_value(&self, id: &str, key: &str, newer_than: u64) -> Result<Publication, Error> {
        let mut heard: Option<(RunKey, Listener)> = None;
        loop {
            let looked = match self.look_at(id, key).await {
                // As a ring that brought nothing: it waits as long as the execution lasts, and not as long as the store is at ease.
                Err(Error::Store(StoreError::Busy { .. })) => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                looked => looked?,
            };
            let Some((current, shown)) = looked else {
                return Err(ValueError::Unknown(id.to_owned()).into());
            };
            if let Some(shown) = shown.filter(|shown| shown.version > newer_than) {
                return Ok(shown);
            }
            if current.status.is_end() {
                let (id, key, status) = (id.to_owned(), key.to_owned(), current.status.as_str().to_owned());
                return Err(ValueError::Ended { id, key, status }.into());
            }
            match &mut heard {
                Some((run, listener)) if *run == current.run => listener.rung().await,
                // What came between the look and this is found by looking again.
                _ => heard = Some((current.run, self.bells.listen(current.run, Rung::News))),
            }
        }
    }
}

/// Where an asker sends what: a handle's supervisor, and its door, which knows why that is no more. From whatever async runtime.
struct Asker<'a>(&'a Addr<Supervisor>, &'a Door);

impl Asker<'_> {
    async fn ask<T, M>(&self, message: M) -> Result<T, Error>
    where
        T: Send + 'static,
        M: Message<Result = Result<T, Error>> + Send + 'static,
        Supervisor: Handler<M>,
        actix::Context<Supervisor>: ToEnvelope<Supervisor, M>,
    {
        self.0.send(message).await.unwrap_or_else(|_| Err(self.1.standing.borrow().error()))
    }

    async fn value<T: Durable>(&self, id: &str, key: &str) -> Result<Option<T>, Error> {
        self.ask(ReadValue::new(id, key)).await?.map(|shown| shown.decode()).transpose()
    }

    async fn value_when<T: Durable>(&self, mut wait: AwaitValue) -> Result<Published<T>, Error> {
        // Whoever drops this future does not wait any more.
        let (_wants, wanted) = oneshot::channel();
        wait.wanted = Some(wanted);
        let shown = self.ask(wait).await?;
        Ok(Published { value: shown.decode()?, version: shown.version })
    }
}

impl Handler<ReadValue> for Supervisor {
    type Result = ResponseFuture<Result<Option<Publication>, Error>>;

    fn handle(&mut self, read: ReadValue, _: &mut actix::Context<Self>) -> Self::Result {
        let door = self.door.clone();
        Box::pin(async move { door.value(read).await })
    }
}

impl Handler<AwaitValue> for Supervisor {
    type Result = ResponseFuture<Result<Publication, Error>>;

    fn handle(&mut self, wait: AwaitValue, _: &mut actix::Context<Self>) -> Self::Result {
        let (door, wait) = (self.door.clone(), wait.bounded());
        Box::pin(async move { door.value_when(wait).await })
    }
}

impl Stent {
    fn asker(&self) -> Asker<'_> {
        Asker(self.supervisor(), &self.door)
    }

    /// Returns what an execution has published under a key (`Cx::publish`), as it is now: of its current run, also when that has ended. `None`
    /// if there is no such value, or no such execution.
    ///
    /// # Errors
    /// [`Error::Value`] when it is not a `T`; [`Error::Store`] or [`Error::Stopped`].
    pub async fn value<T: Durable>(&self, id: impl AsRef<str>, key: impl AsRef<str>) -> Result<Option<T>, Error> {
        self.asker().value(id.as_ref(), key.as_ref()).await
    }

    /// Waits until an execution has published a value, or a newer one; see [`AwaitValue`].
    ///
    /// # Cancel safety
    /// Dropped, it waits no more and has changed nothing.
    ///
    /// # Errors
    /// [`Error::Value`] says why there is none: the execution has ended without it, is not there, or has not published it in time.
    pub async fn value_when<T: Durable>(&self, wait: AwaitValue) -> Result<Published<T>, Error> {
        self.asker().value_when(wait).await
    }

    /// Returns the sum of a counter of an execution (`Cx::count`); `None` if it never counted there.
    ///
    /// # Errors
    /// As [`value`](Stent::value).
    pub async fn counter(&self, id: impl AsRef<str>, key: impl AsRef<str>) -> Result<Option<i64>, Error> {
        self.value(id, key).await
    }

    /// Returns how far an execution is (`Cx::progress`); `None` if it never said so.
    ///
    /// # Errors
    /// As [`value`](Stent::value).
    pub async fn progress(&self, id: impl AsRef<str>) -> Result<Option<Progress>, Error> {
        self.value(id, PROGRESS).await
    }
}

/// Of the current run of its id: its own, as long as the id has no later one.
impl<W> Handle<W> {
    fn asker(&self) -> Asker<'_> {
        Asker(&self.supervisor, &self.door)
    }

    /// Returns what the execution has published under a key; see [`Stent::value`].
    ///
    /// # Errors
    /// As there.
    pub async fn value<T: Durable>(&self, key: impl AsRef<str>) -> Result<Option<T>, Error> {
        self.asker().value(self.id(), key.as_ref()).await
    }

    /// Waits until the execution has published a value newer than a version (0 is older than any); see [`Stent::value_when`].
    ///
    /// # Errors
    /// As there.
    pub async fn value_when<T: Durable>(&self, key: impl Into<String>, newer_than: u64) -> Result<Published<T>, Error> {
        self.asker().value_when(AwaitValue::new(self.id(), key).newer_than(newer_than)).await
    }

    /// Returns the sum of a counter of the execution; see [`Stent::counter`].
    ///
    /// # Errors
    /// As there.
    pub async fn counter(&self, key: impl AsRef<str>) -> Result<Option<i64>, Error> {
        self.value(key).await
    }

    /// Returns how far the execution is; see [`Stent::progress`].
    ///
    /// # Errors
    /// As there.
    pub async fn progress(&self) -> Result<Option<Progress>, Error> {
        self.value(PROGRESS).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_whose_sender_nobody_can_see_leave_has_an_end() {
        assert_eq!(AwaitValue::new("id", "key").bounded().within, Some(UNSAID));
        let (said, limit) = (AwaitValue::new("id", "key"), Duration::from_secs(60));
        assert_eq!(said.within(limit).bounded().within, Some(limit));
        let (_wants, wanted) = oneshot::channel();
        let wait = AwaitValue { wanted: Some(wanted), ..AwaitValue::new("id", "key") };
        assert_eq!(wait.bounded().within, None);
    }
}
