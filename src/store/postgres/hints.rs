//! Hints by `NOTIFY` and `LISTEN`: two sessions of their own, because a notification within a commit would take a lock that is
//! the whole server's, and because whoever listens waits. The channel is named after the schema.

use std::{collections::VecDeque, sync::Arc};

use futures_util::FutureExt;
use sqlx::{
    PgConnection,
    postgres::{PgListener, PgNotification, PgPoolOptions},
};
use tokio::runtime::Handle;

use super::{
    home::{Home, Role},
    sql,
    values::Values,
};
use crate::{
    hints::{Hear, Hint, Tell, due_since, read, write},
    kernel::id::Incarnation,
    store::{Answer, StoreError},
};

/// Opens both ends.
pub(super) async fn open(home: Arc<Home>, me: Incarnation) -> Result<(Box<dyn Tell>, Box<dyn Hear>), StoreError> {
    let teller = Teller { home: home.clone(), me, connection: None };
    let hearer = Hearer { home, me, listener: None, runtime: Handle::current(), waiting: VecDeque::new() };
    Ok((Box::new(teller), Box::new(hearer)))
}

/// Returns the channel of a schema.
pub(super) fn channel(home: &Home) -> String {
    format!("stent_{}", home.options.schema)
}

struct Teller {
    home: Arc<Home>,
    me: Incarnation,
    connection: Option<PgConnection>,
}

impl Tell for Teller {
    fn tell<'a>(&'a mut self, hints: &'a [Hint]) -> Answer<'a, ()> {
        async move {
            let texts = write(self.me, hints);
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => {
                    let opened = self.home.connect(Role::Reader).await;
                    opened.map_err(|trouble| trouble.into_store(&self.home.server))?.0
                }
            };
            let values = Values::default().with(channel(&self.home)).with(texts);
            let told = self.home.rows(&mut connection, sql::NOTIFY, values).await;
            told.map_err(|trouble| trouble.into_store(&self.home.server))?;
            self.connection = Some(connection);
            Ok(())
        }
        .boxed_local()
    }
}

struct Hearer {
    home: Arc<Home>,
    me: Incarnation,
    listener: Option<PgListener>,
    runtime: Handle,
    waiting: VecDeque<Hint>,
}

impl Drop for Hearer {
    /// The driver's listener says goodbye from a task of its own and panics where it cannot have one: when an arbiter is
    /// stopped, what lived on it is dropped outside of any runtime.
    fn drop(&mut self) {
        let _inside = self.runtime.enter();
        self.listener = None;
    }
}

impl Hearer {
    async fn next(&mut self) -> Result<Vec<Hint>, sqlx::Error> {
        let listener = match &mut self.listener {
            Some(listener) => listener,
            None => {
                // A pool of one, by which the driver's listener comes back when its connection is lost.
                let pool = PgPoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
                let pool = pool.acquire_timeout(self.home.options.connect_timeout).connect_lazy_with(self.home.driver());
                let mut listener = PgListener::connect_with(&pool).await?;
                listener.listen(&channel(&self.home)).await?;
                self.listener = Some(listener);
                // What was said before nobody heard here.
                return Ok(vec![Hint::Anything]);
            }
        };
        match listener.try_recv().await? {
            Some(heard) => self.heard(&heard),
            None => self.waiting.push_back(Hint::Anything),
        }
        while let Some(heard) = self.listener.as_mut().and_then(PgListener::next_buffered) {
            self.heard(&heard);
        }
        Ok(self.waiting.drain(..).collect())
    }
}

impl Hearer {
    fn heard(&mut self, heard: &PgNotification) {
        // Before anybody is told to look, it is known from where on.
        if let Some(due) = due_since(heard.payload()) {
            self.home.late(due);
        }
        self.waiting.extend(read(self.me, heard.payload()));
    }
}

impl Hear for Hearer {
    fn hear(&mut self) -> Answer<'_, Vec<Hint>> {
        async move {
            let heard = self.next().await;
            heard.map_err(|error| {
                self.listener = None;
                StoreError::Unreachable { server: self.home.server.clone(), reason: error.to_string() }
            })
        }
        .boxed_local()
    }
}
