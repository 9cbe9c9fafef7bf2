//! Where a run keeps its data: a place that did not exist before, on a disk that syncs.

use std::path::{Path, PathBuf};

use super::{Failure, Target, ceiling};
use crate::store::postgres::{PostgresOptions, PostgresStore};
use crate::{
    Builder, Stent,
    store::{
        Filter, Reader, Store, Summary,
        memory::MemoryStore,
        sqlite::{SqliteOptions, SqliteStore},
    },
};

/// File systems that keep nothing: an fsync there measures nothing.
const TMPFS: i64 = 0x0102_1994;
const RAMFS: i64 = 0x8584_58f6;

/// A database of this run's own. What was made without being asked for is removed again.
pub(super) struct Place {
    target: Target,
    kind: Kind,
    folder: Option<PathBuf>,
}

enum Kind {
    Memory(MemoryStore),
    File(PathBuf),
    /// A schema of this run's own on a server: the URL that names it, and the files beside it are in `folder`.
    Schema(String),
}

/// Goes through all runs of a store, newest first, page by page.
pub(super) async fn each_page(
    reader: &dyn Reader,
    mut take: impl AsyncFnMut(Vec<Summary>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut filter = Filter { limit: 1_000, ..Filter::default() };
    loop {
        let page = reader.list(&filter).await?;
        let Some(last) = page.last() else { return Ok(()) };
        filter.before = Some(last.run);
        take(page).await?;
    }
}

impl Place {
    /// Makes a place as the target says, with the past that it names.
    ///
    /// # Errors
    /// [`Failure::Conflict`] if there is something already: whatever it is, it is not ours.
    pub(super) async fn make(target: &Target) -> Result<Place, Failure> {
        let place = Place::empty(target.clone())?;
        if place.target.finished > 0 {
            ceiling::finished(&place, place.target.finished).await?;
        }
        Ok(place)
    }

    fn empty(target: Target) -> Result<Place, Failure> {
        if target.url == "memory:" {
            return Ok(Place { target, kind: Kind::Memory(MemoryStore::new()), folder: None });
        }
        if target.url.starts_with("postgres://") || target.url.starts_with("postgresql://") {
            let schema = format!("stent_bench_{}", uuid::Uuid::now_v7().simple());
            let sign = if target.url.contains('?') { '&' } else { '?' };
            let url = format!("{}{sign}schema={schema}", target.url);
            return Ok(Place { target, kind: Kind::Schema(url), folder: Some(fresh_folder()?) });
        }
        let Some(path) = target.url.strip_prefix("sqlite:") else {
            return Err(Failure::Usage("--url: use sqlite:<file>, postgres://<server>/<database> or memory:".to_owned()));
        };
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() {
            let folder = fresh_folder()?;
            return Ok(Place { target, kind: Kind::File(folder.join("bench.db")), folder: Some(folder) });
        }
        let path = PathBuf::from(path);
        if path.symlink_metadata().is_ok() {
            let what = "exists; a bench makes a database of its own and touches no other. Remove it, or name another";
            return Err(Failure::Conflict(format!("{} {what}", path.display())));
        }
        if volatile(path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))) {
            anstream::eprintln!("warning: {} is on a file system in memory: nothing is really synced there", path.display());
        }
        Ok(Place { target, kind: Kind::File(path), folder: None })
    }

    /// Returns a builder of a runtime here; again and again on the same data.
    pub(super) fn builder(&self) -> Builder {
        let builder = match &self.kind {
            Kind::Memory(store) => Stent::open("memory:").memory(store.clone()),
            _ => Stent::open(&self.url()),
        };
        builder.durability(self.target.durability.durability())
    }

    /// Returns the URL of the place, for another process.
    pub(super) fn url(&self) -> String {
        match &self.kind {
            Kind::Memory(_) => "memory:".to_owned(),
            Kind::File(path) => format!("sqlite:{}", path.display()),
            Kind::Schema(url) => url.clone(),
        }
    }

    /// Tells whether another process can use the place, and find there what this one has left.
    pub(super) fn survives(&self) -> bool {
        !matches!(self.kind, Kind::Memory(_))
    }

    /// Opens the store itself, without an engine.
    pub(super) async fn store(&self) -> Result<Box<dyn Store>, Failure> {
        Ok(match &self.kind {
            Kind::Memory(store) => Box::new(store.clone()),
            Kind::File(path) => {
                let options = SqliteOptions { durability: self.target.durability.durability(), ..Default::default() };
                Box::new(SqliteStore::open(path, options).await?)
            }
            Kind::Schema(url) => {
                let durability = self.target.durability.durability();
                Box::new(PostgresStore::open(url, PostgresOptions { durability, ..Default::default() }).await?)
            }
        })
    }

    /// Returns the path of a file beside the data.
    pub(super) fn beside(&self, suffix: &str) -> PathBuf {
        match (&self.kind, &self.folder) {
            (Kind::File(file), _) => {
                let mut name = file.as_os_str().to_owned();
                name.push(suffix);
                PathBuf::from(name)
            }
            (_, Some(folder)) => folder.join(format!("bench{suffix}")),
            (_, None) => std::env::temp_dir().join(format!("stent-bench{suffix}")),
        }
    }

    /// Returns the folder of the database, if it is on a disk of this machine.
    pub(super) fn data(&self) -> Option<&Path> {
        match &self.kind {
            Kind::File(file) => Some(file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))),
            Kind::Memory(_) | Kind::Schema(_) => None,
        }
    }

    /// Returns the size of the database's file, and of its log beside it, if it is a file.
    pub(super) fn file_sizes(&self) -> Option<(u64, u64)> {
        let Kind::File(file) = &self.kind else { return None };
        let log = std::fs::metadata(self.beside("-wal")).map_or(0, |log| log.len());
        Some((std::fs::metadata(file).ok()?.len(), log))
    }

    /// Removes what was made on a server; a folder goes by itself.
    pub(super) async fn clear(&self) -> Result<(), Failure> {
        if let Kind::Schema(url) = &self.kind {
            PostgresStore::drop_schema(url).await?;
        }
        Ok(())
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Returns the store's name in the report.
    pub(super) fn name(&self) -> &'static str {
        match self.kind {
            Kind::Memory(_) => "memory",
            Kind::File(_) => "sqlite",
            Kind::Schema(_) => "postgres",
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            // A folder that stays harms nobody.
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

/// Makes a folder of our own where an fsync is real: the folder for temporary files, or else the current one.
fn fresh_folder() -> Result<PathBuf, Failure> {
    let temporary = std::env::temp_dir();
    let base = if volatile(&temporary) { std::env::current_dir()? } else { temporary };
    let folder = base.join(format!("stent-bench-{}", uuid::Uuid::now_v7().simple()));
    std::fs::create_dir(&folder).map_err(|error| Failure::Failed(format!("{}: {error}", folder.display())))?;
    Ok(folder)
}

/// Tells whether a folder is in memory only; what cannot be asked counts as a disk.
fn volatile(folder: &Path) -> bool {
    #[cfg(target_os = "linux")]
    if let Ok(found) = rustix::fs::statfs(folder) {
        let kind = found.f_type;
        return kind == TMPFS || kind == RAMFS;
    }
    let _ = (folder, TMPFS, RAMFS);
    false
}
