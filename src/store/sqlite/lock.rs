//! The operating system's locks on files beside the database. A lock goes with the process that holds it however that ends,
//! so a free one proves a death, at once and without any clock. The files are empty, and say nothing by being there.
//!
//! **The absence of a node's file says that it is dead.** Whoever removes the file of a living node, moves the database away
//! from its files, or reaches it by a second hard link, makes others take over what that node still does.
//!
//! | file | its lock |
//! |---|---|
//! | `<database>.lock` | whoever opens the database; a process of a release that shares it with nobody holds it all along |
//! | `<database>.queue`, `<database>.turn` | whoever is next to write, and whoever writes (`turns.rs`) |
//! | `<database>.node-<incarnation>.lock` | that node, from before its row is written until it is no more |

use std::{
    ffi::OsString,
    fs::{File, Metadata, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::oneshot;

use crate::{kernel::id::Incarnation, store::StoreError};

/// Returns a file beside the database.
pub(super) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(database);
    name.push(suffix);
    name.into()
}

/// Returns what an error of such a file means.
pub(super) fn trouble(database: &Path, error: &io::Error) -> StoreError {
    let path = database.display().to_string();
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => StoreError::ReadOnly { path },
        io::ErrorKind::StorageFull => StoreError::Full { path },
        _ => StoreError::Io { path, reason: format!("a lock file beside it: {error}") },
    }
}

/// A lock that whoever wants it waits for, with a limit. The system's own wait knows none, so it is a thread that waits.
#[derive(Debug)]
pub(super) struct Gate {
    file: Arc<File>,
    /// Who waits behind the limit: until it is through, this gate is left alone.
    late: Option<JoinHandle<()>>,
}

/// A held lock.
#[derive(Debug)]
pub(super) struct Held(Arc<File>);

impl Drop for Held {
    fn drop(&mut self) {
        // It cannot fail for a lock that is held, and closing the file frees it as well.
        let _ = self.0.unlock();
    }
}

impl Gate {
    pub(super) fn at(database: &Path, suffix: &str) -> Result<Gate, StoreError> {
        // Appending: it is never cut off, whoever else has it open.
        let opened = OpenOptions::new().append(true).create(true).open(beside(database, suffix));
        Ok(Gate { file: Arc::new(opened.map_err(|error| trouble(database, &error))?), late: None })
    }

    /// Takes the lock; `None` if it could not be had for so long.
    pub(super) async fn pass(&mut self, patience: Duration) -> io::Result<Option<Held>> {
        if self.late.as_ref().is_some_and(|late| !late.is_finished()) {
            return Ok(None);
        }
        self.late = None;
        match self.file.try_lock() {
            Ok(()) => return Ok(Some(Held(self.file.clone()))),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let (done, held) = oneshot::channel();
        let file = self.file.clone();
        let waits = move || {
            let held = file.lock().map(|()| Held(file));
            // If nobody waits for it any more, it is given back here.
            drop(done.send(held));
        };
        self.late = Some(std::thread::Builder::new().name("stent-turn".into()).spawn(waits)?);
        match tokio::time::timeout(patience, held).await {
            Ok(Ok(held)) => {
                self.late = None;
                held.map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Returns which process holds the lock, where the system tells.
    pub(super) fn holder(&self) -> Option<u32> {
        holder("FLOCK", &self.file.metadata().ok()?, 0)
    }
}

/// Where SQLite keeps its lock for writing in the file beside the log: the first byte of its locks (`WAL_WRITE_LOCK`, see "WAL-Index
/// File Format" in SQLite's documentation).
const WRITE_LOCK: u64 = 120;

/// Returns which other process holds SQLite's lock for writing, where the system tells.
pub(super) fn writer(database: &Path) -> Option<u32> {
    let shared = std::fs::metadata(beside(database, "-shm")).ok()?;
    holder("POSIX", &shared, WRITE_LOCK).filter(|pid| *pid != std::process::id())
}

/// Returns which process holds a lock for writing on a byte of a file, where the system tells: Linux does.
fn holder(kind: &str, file: &Metadata, byte: u64) -> Option<u32> {
    let inode = format!(":{}", std::os::unix::fs::MetadataExt::ino(file));
    // `1: FLOCK ADVISORY WRITE <pid> <device>:<inode> <first> <last or EOF>`; who waits has an arrow behind the number.
    std::fs::read_to_string("/proc/locks").ok()?.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, found, _, "WRITE", pid, at, first, last] = words[..] else { return None };
        let locked = first.parse().ok()?..=last.parse().unwrap_or(u64::MAX);
        if found == kind && at.ends_with(&inode) && locked.contains(&byte) { pid.parse().ok() } else { None }
    })
}

/// How many milliseconds a node that begins waits for one who clears its file away. That takes two calls of the system.
const CLEARED_WITHIN: u32 = 100;

/// Tells whether a path still leads to this file.
fn is_still_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let same = |here: Metadata, there: Metadata| (here.dev(), here.ino()) == (there.dev(), there.ino());
    file.metadata().is_ok_and(|here| std::fs::metadata(path).is_ok_and(|there| same(here, there)))
}

/// The proof that a node lives: held from before its row is written.
#[derive(Debug)]
pub(super) struct Life {
    path: PathBuf,
    _file: File,
}

impl Life {
    pub(super) fn begin(database: &Path, incarnation: Incarnation) -> Result<Life, StoreError> {
        let path = Life::path(database, incarnation);
        let mut tries = 0;
        loop {
            let opened = OpenOptions::new().append(true).create(true).open(&path);
            match Life::hold(&path, opened.map_err(|error| trouble(database, &error))?) {
                Ok(Some(life)) => return Ok(life),
                Ok(None) => {}
                Err(TryLockError::WouldBlock) if tries < CLEARED_WITHIN => {
                    tries += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(TryLockError::WouldBlock) => {
                    let reason = format!("incarnation {incarnation} was registered before, and its process lives");
                    return Err(StoreError::Other(reason));
                }
                Err(TryLockError::Error(error)) => return Err(trouble(database, &error)),
            }
        }
    }

    /// Takes the lock; `None` if whoever found the file before it was held has cleared it away.
    fn hold(path: &Path, file: File) -> Result<Option<Life>, TryLockError> {
        file.try_lock()?;
        Ok(is_still_at(&file, path).then(|| Life { path: path.to_owned(), _file: file }))
    }

    /// Removes the file of a node that is not in the store, unless it is about to be: such a node died before its row was
    /// written. The lock is held for that, so that nobody can begin with a file that goes.
    pub(super) fn clear(database: &Path, incarnation: Incarnation) {
        let path = Life::path(database, incarnation);
        if let Ok(file) = File::open(&path)
            && file.try_lock().is_ok()
            && is_still_at(&file, &path)
        {
            let _ = std::fs::remove_file(&path);
        }
    }

    /// Tells whether the process of a node whose row is there is no more. A node removes its file when it leaves, and others
    /// that of the dead; so no file is a proof as well.
    pub(super) fn is_over(database: &Path, incarnation: Incarnation) -> bool {
        match File::open(Life::path(database, incarnation)) {
            // Shared, so that two who look at once do not take each other for the node.
            Ok(file) => file.try_lock_shared().is_ok(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Removes the file of a node that is dead in the store, if its process is no more.
    pub(super) fn bury(database: &Path, incarnation: Incarnation) {
        if Life::is_over(database, incarnation) {
            let _ = std::fs::remove_file(Life::path(database, incarnation));
        }
    }

    /// Returns the nodes whose files are there.
    pub(super) fn left(database: &Path) -> Vec<Incarnation> {
        let (Some(folder), Some(name)) = (database.parent(), database.file_name().and_then(|name| name.to_str())) else {
            return Vec::new();
        };
        let begins = format!("{name}.node-");
        let files = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        let node = |file: std::fs::DirEntry| {
            let name = file.file_name();
            let incarnation = name.to_str()?.strip_prefix(&begins)?.strip_suffix(".lock")?;
            uuid::Uuid::parse_str(incarnation).ok().map(Incarnation)
        };
        files.filter_map(node).collect()
    }

    fn path(database: &Path, incarnation: Incarnation) -> PathBuf {
        beside(database, &format!(".node-{}.lock", incarnation.0.simple()))
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const AT_ONCE: Duration = Duration::from_millis(50);

    #[test]
    fn a_node_s_life_is_over_when_its_lock_is_free_or_its_file_is_gone_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let (database, node) = (folder.path().join("a.db"), Incarnation(Uuid::from_u128(7)));
        assert!(Life::is_over(&database, node), "it never began");
        let life = Life::begin(&database, node).unwrap();
        assert!(!Life::is_over(&database, node));
        assert!(Life::begin(&database, node).is_err(), "a second one of the same name");
        Life::bury(&database, node);
        assert!(Life::path(&database, node).exists(), "nobody buries the living");
        drop(life);
        assert!(Life::is_over(&database, node) && !Life::path(&database, node).exists());
        // What a killed process leaves.
        File::create(Life::path(&database, node)).unwrap();
        assert!(Life::is_over(&database, node));
        Life::bury(&database, node);
        assert!(!Life::path(&database, node).exists());
    }

    #[test]
    fn what_has_no_row_is_cleared_away_unless_it_is_held_and_nobody_begins_with_a_file_that_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let (database, node) = (folder.path().join("a.db"), Incarnation(Uuid::from_u128(7)));
        let path = Life::path(&database, node);
        let created = || OpenOptions::new().append(true).create(true).open(&path).unwrap();
        let opened = created();
        Life::clear(&database, node);
        assert_eq!(Life::left(&database), [], "as of one that died before its row was written");
        assert!(Life::hold(&path, opened).unwrap().is_none(), "its file is gone");
        let opened = created();
        Life::clear(&database, node);
        let life = Life::begin(&database, node).unwrap();
        assert!(Life::hold(&path, opened).unwrap().is_none(), "that is the file of another");
        Life::clear(&database, node);
        assert!(!Life::is_over(&database, node), "nobody clears away the living");
        // Somebody looks just now.
        drop(life);
        let looked = created();
        looked.try_lock().unwrap();
        let looks = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(10));
            drop(looked);
        });
        assert!(Life::begin(&database, node).is_ok(), "it is waited for");
        looks.join().unwrap();
    }

    #[tokio::test]
    async fn a_gate_is_waited_for_up_to_a_limit_and_is_open_again_once_the_late_one_is_through() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("a.db");
        let [mut a, mut b] = [Gate::at(&database, ".turn").unwrap(), Gate::at(&database, ".turn").unwrap()];
        let held = a.pass(AT_ONCE).await.unwrap().unwrap();
        assert_eq!(b.holder(), Some(std::process::id()));
        assert!(b.pass(AT_ONCE).await.unwrap().is_none(), "somebody else is there");
        assert!(b.pass(AT_ONCE).await.unwrap().is_none(), "and its own late one waits");
        drop(held);
        while b.late.as_ref().is_some_and(|late| !late.is_finished()) {
            tokio::task::yield_now().await;
        }
        let held = b.pass(AT_ONCE).await.unwrap();
        assert!(held.is_some(), "what the late one got it gave back");
        drop(held);
        let held = b.pass(AT_ONCE).await.unwrap();
        let (passed, ()) = tokio::join!(a.pass(Duration::from_secs(20)), async {
            tokio::task::yield_now().await;
            drop(held);
        });
        assert!(passed.unwrap().is_some(), "it was waited for");
    }
}
