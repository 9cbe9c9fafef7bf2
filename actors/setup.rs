//! What a supervisor is made of: registrations and the way to its store. A value; no globals.

use std::{collections::HashSet, future::Future, pin::Pin, sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::{handlers::Handle as HandleActivity, pool::Handlers};
use crate::{
    error::Error,
    hints::OpenHints,
    store::{Durability, Store, StoreError, memory::MemoryStore},
};

/// Opens the store for a lease, on the thread that will own it.
pub(crate) type Open =
    Arc<dyn Fn(Durability, Duration) -> Pin<Box<dyn Future<Output = Result<Box<dyn Store>, StoreError>>>> + Send + Sync>;

/// The parts from which each incarnation is built.
pub(crate) struct Setup {
    pub(crate) open: Open,
    /// Another way for hints than the store's own.
    pub(crate) hints: Option<OpenHints>,
    /// One of each; every incarnation and every activity arbiter gets clones.
    handlers: Mutex<Handlers>,
}

impl Setup {
    pub(crate) fn new(open: Open, hints: Option<OpenHints>) -> Setup {
        Setup { open, hints, handlers: Mutex::default() }
    }

    /// Adds an activity.
    pub(crate) fn add(&self, name: &str, handler: Box<dyn HandleActivity + Send>) -> Result<(), Error> {
        if name.is_empty() || name.len() > 255 {
            return Err(Error::Config(format!("the name of an activity has 1 to 255 bytes, {name:?} does not")));
        }
        let mut handlers = self.handlers.lock();
        if handlers.iter().any(|(known, _)| **known == *name) {
            return Err(Error::Config(format!("activity {name:?} is registered twice; give each its own NAME")));
        }
        handlers.push((name.into(), handler));
        Ok(())
    }

    pub(crate) fn handlers(&self) -> Handlers {
        self.handlers.lock().iter().map(|(name, handler)| (name.clone(), handler.clone_box())).collect()
    }

    pub(crate) fn activity_names(&self) -> Arc<HashSet<String>> {
        Arc::new(self.handlers.lock().iter().map(|(name, _)| name.to_string()).collect())
    }
}

/// Returns how to open the store that a URL names. Only schemes decide: nothing is guessed from the rest.
pub(crate) fn open_by_url(url: &str) -> Result<Open, StoreError> {
    if url == "memory:" {
        // One store for all incarnations: it survives a restart of the core, though not of the process.
        return Ok(open_memory(MemoryStore::new()));
    }
    #[cfg(feature = "sqlite")]
    if let Some(path) = url.strip_prefix("sqlite:") {
        let path = std::path::PathBuf::from(path.strip_prefix("//").unwrap_or(path));
        if path.as_os_str().is_empty() {
            return Err(StoreError::UnknownUrl { url: url.to_owned() });
        }
        return Ok(Arc::new(move |durability, _| {
            let path = path.clone();
            Box::pin(async move {
                let options = crate::store::sqlite::SqliteOptions { durability, ..Default::default() };
                let store = crate::store::sqlite::SqliteStore::open(&path, options).await?;
                Ok(Box::new(store) as Box<dyn Store>)
            })
        }));
    }
    #[cfg(feature = "postgres")]
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        let url = url.to_owned();
        return Ok(Arc::new(move |durability, lease| {
            let url = url.clone();
            Box::pin(async move {
                let options = crate::store::postgres::PostgresOptions { durability, ..Default::default() }.for_lease(lease);
                let store = crate::store::postgres::PostgresStore::open(&url, options).await?;
                Ok(Box::new(store) as Box<dyn Store>)
            })
        }));
    }
    let shown = url.split_once('@').map_or_else(|| url.to_owned(), |(_, behind)| format!("…@{behind}"));
    Err(StoreError::UnknownUrl { url: shown })
}

/// Returns how to open the way for hints that a URL names.
pub(crate) fn hints_by_url(url: &str) -> Result<OpenHints, StoreError> {
    #[cfg(feature = "redis")]
    if url.starts_with("redis://") || url.starts_with("rediss://") {
        return crate::hints::redis::opener(url);
    }
    let shown = url.split_once('@').map_or_else(|| url.to_owned(), |(_, behind)| format!("…@{behind}"));
    Err(StoreError::Other(format!("{shown:?} names no way for hints of this build; use redis://<server> (feature `redis`)")))
}

/// Returns how to open a memory store that the caller keeps.
pub(crate) fn open_memory(store: MemoryStore) -> Open {
    Arc::new(move |_, _| {
        let store = store.clone();
        Box::pin(async move { Ok(Box::new(store) as Box<dyn Store>) })
    })
}
