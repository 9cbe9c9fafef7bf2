//! Hints over a Redis server: one connection, a stream, and a channel that says when there is something new in it.
//!
//! The stream is the cursor: whoever was away for a moment reads on from the last entry that it has seen. The channel only
//! wakes, so that nobody has to block the connection that also tells. The server may be restarted, empty, frozen or gone:
//! hints are made to be lost.
//!
//! Source: RESP3, which lets a subscribed connection go on with commands
//! (<https://redis.io/docs/latest/develop/reference/protocol-spec/#pushes>); Redis 6.2 or newer.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::FutureExt;
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind, Value,
    aio::MultiplexedConnection,
};
use tokio::sync::Notify;

use super::{Hear, Hint, OpenHints, Tell, read, write};
use crate::{
    kernel::id::Incarnation,
    store::{Answer, StoreError},
};

/// The stream's name, unless the URL says `?stream=…`.
const STREAM: &str = "stent:hints";

/// About so many entries are kept: whoever was away for longer looks at everything anyway.
const KEPT: u32 = 10_000;

/// Read at once.
const MOST_READ: u32 = 1_000;

/// How long the server may take for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// A wake-up may be lost while the connection stands: the stream is read this often without one.
const READ_ANYWAY: Duration = Duration::from_secs(5);

/// Returns how to open both ends on a server: `redis://user:password@host:port/db?stream=name`.
pub(crate) fn opener(url: &str) -> Result<OpenHints, StoreError> {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let (mut stream, mut rest) = (STREAM.to_owned(), Vec::new());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("stream", name)) if !name.is_empty() => name.clone_into(&mut stream),
            _ => rest.push(pair),
        }
    }
    let url = if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
    let unusable = |error: redis::RedisError| StoreError::Other(format!("the URL of the Redis server is not usable: {error}"));
    let info = url.into_connection_info().map_err(unusable)?;
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let info = info.set_redis_settings(settings);
    let server: Arc<str> = format!("redis://{}", info.addr()).into();
    Ok(Arc::new(move |me| {
        let way = Way { info: info.clone(), server: server.clone(), stream: stream.clone(), link: None };
        async move {
            let way = Rc::new(RefCell::new(way));
            connect(&way).await?;
            let hearer = Hearer { me, way: way.clone(), cursor: None };
            Ok((Box::new(Teller { me, way }) as Box<dyn Tell>, Box::new(hearer) as Box<dyn Hear>))
        }
        .boxed_local()
    }))
}

/// What both ends share.
struct Way {
    info: ConnectionInfo,
    server: Arc<str>,
    stream: String,
    link: Option<Link>,
}

/// The connection, and what its reading side says.
#[derive(Clone)]
struct Link {
    connection: MultiplexedConnection,
    woken: Arc<Notify>,
    broken: Arc<AtomicBool>,
}

impl Way {
    fn trouble(&self, error: &redis::RedisError) -> StoreError {
        StoreError::Unreachable { server: self.server.to_string(), reason: error.to_string() }
    }

    fn link(&self) -> Result<Link, StoreError> {
        let link = self.link.as_ref().filter(|link| !link.broken.load(SeqCst));
        link.cloned()
            .ok_or_else(|| StoreError::Unreachable { server: self.server.to_string(), reason: "the connection was lost".into() })
    }
}

async fn connect(way: &Rc<RefCell<Way>>) -> Result<(), StoreError> {
    let (info, stream) = {
        let mut way = way.borrow_mut();
        way.link = None;
        (way.info.clone(), way.stream.clone())
    };
    let (woken, broken) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let (wake, breaks) = (woken.clone(), broken.clone());
    let pushed = move |push: PushInfo| -> Result<(), ()> {
        if push.kind == PushKind::Disconnection {
            breaks.store(true, SeqCst);
        }
        wake.notify_one();
        Ok(())
    };
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE))
        .set_push_sender(pushed);
    let connected = async {
        let mut connection = Client::open(info)?.get_multiplexed_async_connection_with_config(&config).await?;
        connection.subscribe(&stream).await?;
        Ok(connection)
    };
    let connection = connected.await.map_err(|error| way.borrow().trouble(&error))?;
    way.borrow_mut().link = Some(Link { connection, woken, broken });
    Ok(())
}

struct Teller {
    me: Incarnation,
    way: Rc<RefCell<Way>>,
}

impl Tell for Teller {
    fn tell<'a>(&'a mut self, hints: &'a [Hint]) -> Answer<'a, ()> {
        async move {
            let (link, stream) = {
                let way = self.way.borrow();
                (way.link()?, way.stream.clone())
            };
            let mut pipe = redis::pipe();
            for text in write(self.me, hints) {
                pipe.cmd("XADD").arg(&stream).arg("MAXLEN").arg("~").arg(KEPT).arg("*").arg("h").arg(text).ignore();
            }
            pipe.cmd("PUBLISH").arg(&stream).arg("").ignore();
            let mut connection = link.connection;
            let told: redis::RedisResult<()> = pipe.query_async(&mut connection).await;
            told.map_err(|error| self.way.borrow().trouble(&error))
        }
        .boxed_local()
    }
}

struct Hearer {
    me: Incarnation,
    way: Rc<RefCell<Way>>,
    /// The last entry that was read; `None` while nothing was.
    cursor: Option<String>,
}

impl Hearer {
    async fn next(&mut self) -> Result<Vec<Hint>, StoreError> {
        let link = self.way.borrow().link();
        let Ok(link) = link else {
            connect(&self.way).await?;
            // The server may be another one, or empty: what was told meanwhile may be gone.
            self.cursor = None;
            return self.begin().await;
        };
        if self.cursor.is_none() {
            return self.begin().await;
        }
        loop {
            let entries = self.entries(&link).await?;
            if let Some((last, _)) = entries.last() {
                self.cursor = Some(last.clone());
                let hints: Vec<Hint> = entries.iter().flat_map(|(_, text)| read(self.me, text)).collect();
                if !hints.is_empty() {
                    return Ok(hints);
                }
                continue;
            }
            let _ = tokio::time::timeout(READ_ANYWAY, link.woken.notified()).await;
            self.way.borrow().link()?;
        }
    }

    /// Finds the end of the stream: what is before it was told before anybody heard here.
    async fn begin(&mut self) -> Result<Vec<Hint>, StoreError> {
        let (link, stream) = {
            let way = self.way.borrow();
            (way.link()?, way.stream.clone())
        };
        let mut connection = link.connection;
        let last: redis::RedisResult<Value> =
            redis::cmd("XREVRANGE").arg(&stream).arg("+").arg("-").arg("COUNT").arg(1).query_async(&mut connection).await;
        let last = last.map_err(|error| self.way.borrow().trouble(&error))?;
        self.cursor = Some(entries_of(&last).pop().map_or_else(|| "0-0".to_owned(), |(id, _)| id));
        Ok(vec![Hint::Anything])
    }

    async fn entries(&self, link: &Link) -> Result<Vec<(String, String)>, StoreError> {
        let stream = self.way.borrow().stream.clone();
        let from = format!("({}", self.cursor.as_deref().unwrap_or("0-0"));
        let mut connection = link.connection.clone();
        let found: redis::RedisResult<Value> =
            redis::cmd("XRANGE").arg(&stream).arg(from).arg("+").arg("COUNT").arg(MOST_READ).query_async(&mut connection).await;
        found.map(|found| entries_of(&found)).map_err(|error| self.way.borrow().trouble(&error))
    }
}

impl Hear for Hearer {
    fn hear(&mut self) -> Answer<'_, Vec<Hint>> {
        async move {
            let heard = self.next().await;
            if heard.is_err() {
                self.way.borrow_mut().link = None;
            }
            heard
        }
        .boxed_local()
    }
}

/// Returns the entries of a range: id and text. What has another form is not ours, and skipped.
fn entries_of(range: &Value) -> Vec<(String, String)> {
    let Value::Array(entries) = range else { return Vec::new() };
    let entry = |entry: &Value| {
        let Value::Array(parts) = entry else { return None };
        let [id, Value::Array(fields)] = &parts[..] else { return None };
        Some((text(id)?, fields.get(1).and_then(text).unwrap_or_default()))
    };
    entries.iter().filter_map(entry).collect()
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    }
}
