//! The operating system's lock on `<database>.lock`: whoever holds it is the only process that has the database open.
//! It goes with the process however that ends, so a free lock is a proof of death, at once and without any clock. The
//! file's text is the holder's process id, for people; it says nothing by itself and stays behind.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    path::Path,
};

use crate::store::StoreError;

/// A held lock; it is released when this is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of a database.
    pub(super) fn take(database: &Path) -> Result<Lock, StoreError> {
        let mut name = OsString::from(database);
        name.push(".lock");
        let path = database.display().to_string();
        let trouble = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                StoreError::ReadOnly { path: path.clone() }
            }
            std::io::ErrorKind::StorageFull => StoreError::Full { path: path.clone() },
            _ => StoreError::Io { path: path.clone(), reason: format!("its lock file: {error}") },
        };
        // Not truncated here: while another process holds the lock, the text is what names it.
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&name).map_err(trouble)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok()).unwrap_or(0);
                return Err(StoreError::InUse { path, pid });
            }
            Err(TryLockError::Error(error)) => return Err(trouble(error)),
        }
        let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(trouble)?;
        Ok(Lock { _file: file })
    }
}
