//! The server as all sessions of one store share it: how to connect to it, what a connection must promise before anything is
//! written through it, and what the server must still have when it is met again.
//!
//! A server that has become another one (a promoted copy that lagged, a restored backup) looks the same from outside. Three
//! things tell: its system identifier, its timeline, and a *witness*: the row that was acknowledged last must be there.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use sqlx::{
    ConnectOptions, Connection, PgConnection, Row,
    postgres::{PgConnectOptions, PgRow},
};

use super::{
    PostgresOptions, sql,
    trouble::{self, Trouble},
    values::Values,
};
use crate::{
    kernel::{
        id::{CommitNo, Digest, RunKey},
        time::Timestamp,
    },
    store::{Durability, StoreError, shown},
};

/// The server, as one opened store knows it.
pub(super) struct Home {
    pub(super) options: PostgresOptions,
    /// For people: without a password.
    pub(super) server: String,
    /// The first half of the advisory locks of this schema.
    pub(super) class: i32,
    connect: PgConnectOptions,
    identity: Mutex<Option<Identity>>,
    witness: Mutex<Option<Witness>>,
    /// Something may have been due since then that no search could see.
    late: Mutex<Option<Timestamp>>,
    /// The short name of the node that entered here last.
    node: Mutex<Option<i32>>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Identity {
    /// `None` where we may not ask.
    system: Option<String>,
    timeline: String,
}

/// A row that was acknowledged.
#[derive(Clone, Copy)]
pub(super) struct Witness {
    pub(super) run: RunKey,
    pub(super) commit_no: CommitNo,
    pub(super) digest: Digest,
}

/// What a session is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// Commits and claims.
    Writer,
    /// The affairs of nodes.
    Warden,
    Reader,
    /// Lends itself to a user's transaction: the session is set up as the user's own would be.
    Guest,
}

/// A server process of ours, named so that its successor of the same process id is not taken for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Backend {
    pub(super) pid: i32,
    pub(super) start: String,
}

impl Home {
    pub(super) fn new(url: &str, mut options: PostgresOptions) -> Result<Arc<Home>, StoreError> {
        let url = options.take_from(url)?;
        let unusable = |why: String| StoreError::Other(format!("the URL of the PostgreSQL server is not usable: {why}"));
        // The driver reads the environment (PGHOST, PGUSER, ~/.pgpass) for whatever the URL does not say.
        let connect: PgConnectOptions = url.parse().map_err(|error: sqlx::Error| unusable(error.to_string()))?;
        let place = match connect.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", connect.get_host(), connect.get_port()),
        };
        let database = connect.get_database().unwrap_or_else(|| connect.get_username()).to_owned();
        let server = format!("postgres://{place}/{database} (schema {})", options.schema);
        let named = connect.get_application_name().is_some();
        let connect = if shown::are_wanted() { connect } else { connect.disable_statement_logging() };
        let connect = connect.statement_cache_capacity(128);
        let connect = if named { connect } else { connect.application_name("stent") };
        let hash = blake3::hash(format!("stent nodes of {}", options.schema).as_bytes());
        let class = i32::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1], hash.as_bytes()[2], hash.as_bytes()[3]]);
        Ok(Arc::new(Home {
            options,
            server,
            class,
            connect,
            identity: Mutex::default(),
            witness: Mutex::default(),
            late: Mutex::default(),
            node: Mutex::default(),
        }))
    }

    /// Remembers what must be there when the server is met again.
    pub(super) fn acknowledged(&self, witness: Witness) {
        *self.witness.lock() = Some(witness);
    }

    /// Remembers that a transaction has just committed what was due then.
    pub(super) fn late(&self, due: Timestamp) {
        let mut late = self.late.lock();
        *late = Some(late.map_or(due, |known| known.min(due)));
    }

    /// Takes the earliest of these times.
    pub(super) fn take_late(&self) -> Option<Timestamp> {
        self.late.lock().take()
    }

    /// Remembers which node this is.
    pub(super) fn entered(&self, node: i32) {
        *self.node.lock() = Some(node);
    }

    /// Returns which node this is, once it has entered.
    pub(super) fn node(&self) -> Option<i32> {
        *self.node.lock()
    }

    /// Returns how the driver is to connect.
    pub(super) fn driver(&self) -> PgConnectOptions {
        self.connect.clone()
    }

    /// Opens a connection and makes sure of what it promises.
    pub(super) async fn connect(&self, role: Role) -> Result<(PgConnection, Backend), Trouble> {
        let limit = self.options.connect_timeout;
        let opened = tokio::time::timeout(limit, self.greet(role)).await;
        opened.unwrap_or_else(|_| Err(Trouble::Lost(format!("no connection within {limit:?}"))))
    }

    async fn greet(&self, role: Role) -> Result<(PgConnection, Backend), Trouble> {
        let mut connection = self.connect.connect().await.map_err(|error| match error {
            sqlx::Error::Configuration(why) => Trouble::Store(StoreError::Other(format!("{}: {why}", self.server))),
            error => self.sort(&error),
        })?;
        let (names, values): (Vec<&str>, Vec<String>) = self.settings(role).into_iter().unzip();
        self.rows(&mut connection, sql::SETTINGS, Values::default().with(names).with(values)).await?;
        let backend = self.check(&mut connection).await?;
        // Once more, in a transaction of its own: a pooler that lends its connections per transaction may answer from another.
        let again = self.rows(&mut connection, sql::GREETING, Values::default()).await?;
        let again = again.first().ok_or_else(|| Trouble::Lost("no greeting".into()))?;
        let pid: i32 = again.try_get(0).map_err(|error| self.sort(&error))?;
        let path: String = again.try_get(5).map_err(|error| self.sort(&error))?;
        if pid != backend.pid || (path != self.options.schema && role != Role::Guest) {
            let why = "a pooler in front of it lends connections per transaction; connect to the server, or pool per session";
            return Err(Trouble::Store(StoreError::Other(format!("{}: {why}", self.server))));
        }
        if role != Role::Guest {
            self.recognize(&mut connection).await?;
        }
        Ok((connection, backend))
    }

    fn settings(&self, role: Role) -> Vec<(&'static str, String)> {
        let options = &self.options;
        let millis = |time: Duration| time.as_millis().max(1).to_string();
        let lock_timeout = match role {
            Role::Warden => Duration::from_secs(1),
            Role::Writer | Role::Reader | Role::Guest => options.lock_timeout,
        };
        let durable = match options.durability {
            Durability::Full => "on",
            Durability::Normal => "off",
        };
        let mut settings = vec![
            ("search_path", options.schema.clone()),
            ("synchronous_commit", durable.to_owned()),
            ("default_transaction_isolation", "read committed".to_owned()),
            ("default_transaction_read_only", "off".to_owned()),
            ("lock_timeout", millis(lock_timeout)),
            ("statement_timeout", millis(options.statement_timeout)),
            ("idle_in_transaction_session_timeout", millis(options.idle_timeout)),
            // A cut-off client is found out by the server, so that its locks and its node's proof of life go.
            ("tcp_keepalives_idle", "5".to_owned()),
            ("tcp_keepalives_interval", "2".to_owned()),
            ("tcp_keepalives_count", "3".to_owned()),
            ("tcp_user_timeout", "10000".to_owned()),
            ("jit", "off".to_owned()),
            ("client_min_messages", "warning".to_owned()),
        ];
        if role == Role::Guest {
            // Where its tables are and how long it waits for their locks is the user's affair; each transaction is limited.
            let ours = ["search_path", "lock_timeout", "statement_timeout", "jit"];
            settings.retain(|(name, _)| !ours.contains(name));
        } else {
            // The plans are known: by key, whatever the statistics say of tables that were empty a minute ago.
            settings.extend([
                ("plan_cache_mode", "force_generic_plan".to_owned()),
                ("enable_seqscan", "off".to_owned()),
                ("enable_mergejoin", "off".to_owned()),
                ("enable_hashjoin", "off".to_owned()),
                ("enable_bitmapscan", "off".to_owned()),
            ]);
        }
        settings
    }

    async fn check(&self, connection: &mut PgConnection) -> Result<Backend, Trouble> {
        let refuse = |why: &str| Err(Trouble::Store(StoreError::Other(format!("{}: {why}", self.server))));
        let rows = self.rows(connection, sql::GREETING, Values::default()).await?;
        let row = rows.first().ok_or_else(|| Trouble::Lost("no greeting".into()))?;
        let sort = |error: sqlx::Error| self.sort(&error);
        if row.try_get::<bool, _>(2).map_err(sort)? {
            return Err(Trouble::Lost("it is a standby; the primary is needed".into()));
        }
        let [fsync, pages]: [String; 2] = [row.try_get(3).map_err(sort)?, row.try_get(4).map_err(sort)?];
        if self.options.durability == Durability::Full && (fsync == "off" || pages == "off") {
            return refuse("it runs with fsync or full_page_writes off, so nothing that it says is durable; turn them on");
        }
        let durable: String = row.try_get(6).map_err(sort)?;
        if self.options.durability == Durability::Full && !["on", "remote_apply"].contains(&durable.as_str()) {
            return refuse("synchronous_commit cannot be turned on");
        }
        let system = if row.try_get::<bool, _>(8).map_err(sort)? {
            let rows = self.rows(connection, sql::SYSTEM, Values::default()).await?;
            rows.first().map(|row| row.try_get(0)).transpose().map_err(sort)?
        } else {
            None
        };
        let identity = Identity { system, timeline: row.try_get(7).map_err(sort)? };
        let known = self.identity.lock().get_or_insert_with(|| identity.clone()).clone();
        if known != identity {
            let reason = format!("it was {known:?} and is {identity:?} now");
            return Err(Trouble::Store(StoreError::LostTail { server: self.server.clone(), reason }));
        }
        Ok(Backend { pid: row.try_get(0).map_err(sort)?, start: row.try_get(1).map_err(sort)? })
    }

    async fn recognize(&self, connection: &mut PgConnection) -> Result<(), Trouble> {
        let Some(Witness { run, commit_no, digest }) = *self.witness.lock() else { return Ok(()) };
        let values = Values::default().with(run.0).with(i64::from(commit_no)).with(digest.0.to_vec());
        if self.rows(connection, sql::WITNESS, values).await?.is_empty() {
            let reason = format!("commit {commit_no} of run {} is gone", run.0);
            return Err(Trouble::Store(StoreError::LostTail { server: self.server.clone(), reason }));
        }
        Ok(())
    }

    /// Runs one statement. Whoever does not answer in time is taken for gone: a cut network says nothing.
    pub(super) async fn rows(
        &self,
        connection: &mut PgConnection,
        text: &'static str,
        values: Values,
    ) -> Result<Vec<PgRow>, Trouble> {
        let limit = self.options.statement_timeout + Duration::from_secs(1);
        let arguments = values.arguments().map_err(|error| self.sort(&error))?;
        let answer = tokio::time::timeout(limit, sqlx::query_with(text, arguments).fetch_all(connection)).await;
        match answer {
            Ok(rows) => rows.map_err(|error| self.sort(&error)),
            Err(_) => Err(Trouble::Lost(format!("no answer within {limit:?}"))),
        }
    }

    pub(super) fn sort(&self, error: &sqlx::Error) -> Trouble {
        trouble::sort(error, &self.server)
    }

    /// Says goodbye, but not for ever.
    pub(super) async fn part(&self, connection: PgConnection) {
        // The server ends a session whose client has gone anyway.
        let _ = tokio::time::timeout(Duration::from_secs(1), connection.close()).await;
    }
}
