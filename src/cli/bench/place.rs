//! Where a run keeps its data: a place that did not exist before, on a disk that syncs.

use std::path::{Path, PathBuf};

use super::{Failure, Target};
use crate::{
    Builder, Stent,
    store::{
        Store,
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
}

impl Place {
    /// Makes a place as the target says.
    ///
    /// # Errors
    /// [`Failure::Conflict`] if there is something already: whatever it is, it is not ours.
    pub(super) fn make(target: &Target) -> Result<Place, Failure> {
        let target = target.clone();
        if target.url == "memory:" {
            return Ok(Place { target, kind: Kind::Memory(MemoryStore::new()), folder: None });
        }
        let Some(path) = target.url.strip_prefix("sqlite:") else {
            return Err(Failure::Usage(format!("--url {:?}: use sqlite:<file> or memory:", target.url)));
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
            Kind::File(path) => Stent::open(&format!("sqlite:{}", path.display())),
        };
        builder.durability(self.target.durability.durability())
    }

    /// Opens the store itself, without an engine.
    pub(super) async fn store(&self) -> Result<Box<dyn Store>, Failure> {
        Ok(match &self.kind {
            Kind::Memory(store) => Box::new(store.clone()),
            Kind::File(path) => {
                let options = SqliteOptions { durability: self.target.durability.durability(), ..Default::default() };
                Box::new(SqliteStore::open(path, options).await?)
            }
        })
    }

    /// Returns the file, for another process.
    pub(super) fn file(&self) -> Option<&Path> {
        match &self.kind {
            Kind::Memory(_) => None,
            Kind::File(path) => Some(path),
        }
    }

    /// Returns the path of a file beside the database.
    pub(super) fn beside(&self, suffix: &str) -> Option<PathBuf> {
        self.file().map(|file| {
            let mut name = file.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        })
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Returns the store's name in the report.
    pub(super) fn name(&self) -> &'static str {
        match self.kind {
            Kind::Memory(_) => "memory",
            Kind::File(_) => "sqlite",
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
