//! One session with the server, which comes back by itself, and knows what its predecessor left in the dark.
//!
//! When a connection is lost, the old backend may still be at work: committing, or waiting with our locks. So nothing is
//! decided, read or told before that backend is *proved to be over*: it is named by process id and starting time, told to
//! end, and gone from the server's list of sessions, which it leaves after its transaction has ended. Only then is asked
//! what became of it: by the number of the transaction ([`Session::transaction`]), or by the rows that it would have
//! written (`turns.rs`).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{PgConnection, Row, postgres::PgRow};

use super::{
    home::{Backend, Home, Role},
    sql,
    trouble::Trouble,
    values::Values,
};
use crate::store::StoreError;

/// The lane of the session that commits batches, and of the one that takes tasks.
pub(super) const WRITER_LANE: i32 = 0;
pub(super) const TASKS_LANE: i32 = 1;

/// How often a transaction is tried again because the server wants it.
const TRIES: u32 = 8;

/// A session, connected or about to be.
pub(super) struct Session {
    pub(super) home: Arc<Home>,
    role: Role,
    connection: Option<PgConnection>,
    backend: Option<Backend>,
    /// The predecessor, unless it is proved to be over.
    old: Option<Backend>,
    /// The node whose lock this session holds, and whose lane names the writer's backend.
    node: Option<i32>,
    /// The fence row of what it commits.
    lane: Option<i32>,
    /// A statement or a transaction is under way; still set when the next one begins means that its future was dropped.
    busy: bool,
    /// The number of the transaction under way, once it is known.
    xid: Option<String>,
}

impl Session {
    pub(super) fn new(home: Arc<Home>, role: Role) -> Session {
        let lane = (role == Role::Writer).then_some(WRITER_LANE);
        Session { home, role, connection: None, backend: None, old: None, node: None, lane, busy: false, xid: None }
    }

    pub(super) fn node(&self) -> Option<i32> {
        self.node
    }

    /// Returns the backend of the present connection.
    pub(super) fn backend(&self) -> Option<&Backend> {
        self.backend.as_ref()
    }

    /// Connects, if it is not; with patience, but not for ever.
    pub(super) async fn ready(&mut self) -> Result<(), Trouble> {
        if std::mem::take(&mut self.busy) {
            self.abandon();
        }
        if self.connection.is_some() {
            return Ok(());
        }
        let begun = Instant::now();
        let mut wait = Duration::from_millis(10);
        loop {
            let reason = match self.come_back(begun).await {
                Ok(()) => return Ok(()),
                Err(Trouble::Store(error)) => return Err(Trouble::Store(error)),
                Err(trouble) => {
                    self.abandon();
                    trouble.into_store(&self.home.server)
                }
            };
            if begun.elapsed() + wait > self.home.options.patience {
                return Err(Trouble::Store(match reason {
                    StoreError::Unreachable { .. } => reason,
                    other => StoreError::Unreachable { server: self.home.server.clone(), reason: other.to_string() },
                }));
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_millis(500));
        }
    }

    async fn come_back(&mut self, begun: Instant) -> Result<(), Trouble> {
        let (mut connection, backend) = self.home.connect(self.role).await?;
        while let Some(old) = &self.old {
            let values = Values::default().with(old.pid).with(old.start.as_str());
            if self.home.rows(&mut connection, sql::END_BACKEND, values).await?.is_empty() {
                self.old = None;
            } else if begun.elapsed() > self.home.options.patience {
                return Err(Trouble::Lost(format!("its backend {} of before does not end", old.pid)));
            } else {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        if let Some(node) = self.node {
            hold(&self.home, &mut connection, node).await?;
            if let Some(lane) = self.lane {
                let values = Values::default().with(node).with(backend.pid).with(backend.start.as_str()).with(lane);
                self.home.rows(&mut connection, sql::LANE_MOVED, values).await?;
            }
        }
        self.connection = Some(connection);
        self.backend = Some(backend);
        Ok(())
    }

    /// Enters the node whose session this is: holds its lock from now on, on every connection.
    pub(super) async fn belong_to(&mut self, node: i32) -> Result<(), Trouble> {
        if self.node == Some(node) {
            return Ok(());
        }
        self.node = Some(node);
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let before = std::mem::replace(&mut self.busy, true);
        let held = hold(&self.home, connection, node).await;
        self.busy = before;
        if held.is_err() {
            // No connection of a node is without its lock; the next one takes it before it is used.
            self.abandon();
            return self.ready().await;
        }
        Ok(())
    }

    /// Takes a lane of its own for a session that commits beside the writer, so that a takeover can wait for it, or end it.
    pub(super) async fn take_lane(&mut self, lane: i32) -> Result<i32, Trouble> {
        if let Some(lane) = self.lane {
            return Ok(lane);
        }
        if let (Some(node), Some(backend)) = (self.node, self.backend.clone()) {
            let values = Values::default().with(node).with(backend.pid).with(backend.start).with(lane);
            self.again(sql::LANE_MOVED, values).await?;
        }
        self.lane = Some(lane);
        Ok(lane)
    }

    /// Gives up the connection; whether its backend is over is to be found out.
    fn abandon(&mut self) {
        self.busy = false;
        self.connection = None;
        // Of several in a row only one can have done anything: the others never got beyond their greeting.
        if let Some(backend) = self.backend.take() {
            self.old = Some(backend);
        }
    }

    /// Runs one statement on the connection as it is. A lost connection is given up.
    pub(super) async fn rows(&mut self, text: &'static str, values: Values) -> Result<Vec<PgRow>, Trouble> {
        let Some(connection) = &mut self.connection else { return Err(Trouble::Lost("there is no connection".into())) };
        let before = std::mem::replace(&mut self.busy, true);
        let answer = self.home.rows(connection, text, values).await;
        self.busy = before;
        if let Err(Trouble::Lost(_)) = answer {
            self.abandon();
        }
        answer
    }

    /// Runs one statement that may as well run twice, as a transaction of its own.
    pub(super) async fn again(&mut self, text: &'static str, values: Values) -> Result<Vec<PgRow>, Trouble> {
        let mut tries = 0;
        loop {
            self.ready().await?;
            tries += 1;
            match self.rows(text, values.clone()).await {
                Err(Trouble::Lost(_) | Trouble::Again(_)) if tries < TRIES => {}
                answer => return answer,
            }
        }
    }

    /// Notes the number of the transaction under way.
    pub(super) fn is_number(&mut self, xid: String) {
        self.xid = Some(xid);
    }

    /// Runs a transaction: once, whatever becomes of the connection. `work` runs again when nothing of it was written.
    pub(super) async fn transaction<T>(
        &mut self,
        mut work: impl AsyncFnMut(&mut Session) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let mut tries = 0;
        loop {
            self.ready().await?;
            tries += 1;
            match self.attempt(&mut work).await {
                Err(Trouble::Lost(_) | Trouble::Again(_)) if tries < TRIES => {
                    tokio::time::sleep(Duration::from_millis(u64::from(tries))).await;
                }
                answer => return answer,
            }
        }
    }

    async fn attempt<T>(&mut self, work: &mut impl AsyncFnMut(&mut Session) -> Result<T, Trouble>) -> Result<T, Trouble> {
        self.xid = None;
        self.busy = true;
        let worked = async {
            self.rows(sql::BEGIN, Values::default()).await?;
            work(self).await
        };
        let value = match worked.await {
            Ok(value) => value,
            Err(trouble) => {
                if !matches!(trouble, Trouble::Lost(_)) {
                    self.roll_back().await;
                }
                return Err(trouble);
            }
        };
        match self.rows(sql::COMMIT, Values::default()).await {
            Ok(_) => {
                self.busy = false;
                Ok(value)
            }
            Err(Trouble::Lost(reason)) => self.settle(reason).await.map(|()| value),
            Err(trouble) => {
                self.roll_back().await;
                Err(trouble)
            }
        }
    }

    /// Ends the transaction under way, if there is one, without a trace.
    async fn roll_back(&mut self) {
        // If this fails the session is given up, which rolls back as well.
        let over = self.rows(sql::ROLLBACK, Values::default()).await;
        self.busy = over.is_err() && self.connection.is_some();
    }

    /// Finds out what became of a COMMIT whose answer was lost: it returns if it took place.
    async fn settle(&mut self, reason: String) -> Result<(), Trouble> {
        // Without a number nothing was written.
        let Some(xid) = self.xid.take() else { return Err(Trouble::Lost(reason)) };
        loop {
            self.ready().await?;
            let status = match self.rows(sql::XID_STATUS, Values::default().with(xid.as_str())).await {
                Err(Trouble::Lost(_)) => continue,
                status => status,
            };
            let unknown = |why: &str| {
                let reason = format!("it does not know what became of transaction {xid}: {why}");
                Trouble::Store(StoreError::LostTail { server: self.home.server.clone(), reason })
            };
            let status = match status {
                Ok(rows) => rows.first().map(|row| row.try_get::<Option<String>, _>(0)).transpose(),
                // A number of the future: this server's past is another one.
                Err(Trouble::Statement(why)) => return Err(unknown(&why)),
                Err(trouble) => return Err(trouble),
            };
            return match status.map_err(|error| self.home.sort(&error))?.flatten().as_deref() {
                Some("committed") => Ok(()),
                Some("aborted") => Err(Trouble::Again(format!("the connection was lost ({reason}), and nothing was written"))),
                // The session is over, so its transaction has ended; its mark may be some instants behind.
                Some(_) => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    self.xid = Some(xid);
                    return Box::pin(self.settle(reason)).await;
                }
                None => Err(unknown("it is too long ago")),
            };
        }
    }

    /// Closes the connection, if there is one.
    pub(super) async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.home.part(connection).await;
        }
    }
}

/// Holds the lock by which others see that the node lives. Only those who look hold the other mode, for an instant.
async fn hold(home: &Home, connection: &mut PgConnection, node: i32) -> Result<(), Trouble> {
    for _ in 0..200 {
        let rows = home.rows(connection, sql::HOLD_NODE, Values::default().with(home.class).with(node)).await?;
        if rows.first().is_some_and(|row| row.try_get(0).unwrap_or(false)) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Err(Trouble::Lost("somebody holds the lock that says that this node lives".into()))
}
