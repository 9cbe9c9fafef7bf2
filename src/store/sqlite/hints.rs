//! Hints between the processes on one file: lines in `<database>.hints`, which everyone appends to and reads on from where
//! it was. Hints are made to be lost, so the file is cut to nothing when it has grown, and is never synced.
//!
//! Rejected: looking at `PRAGMA data_version`. It needs no teller, but it says only that somebody has written, which under
//! load is always so, and a connection cannot tell another process from the writer beside it.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::FutureExt;

use super::lock::trouble;
use crate::{
    hints::{Hear, Hint, OpenHints, Tell, read, write},
    kernel::id::Incarnation,
    store::{Answer, StoreError},
};

/// How often the length of the file is looked at while other nodes are there.
const LOOK: Duration = Duration::from_millis(20);

/// How often while nobody is: whoever comes says so here.
const ALONE: Duration = Duration::from_millis(100);

/// The file is cut when it is longer.
const LONGEST: u64 = 1 << 20;

/// Returns how to open both ends. `crowded` tells whether other nodes are there.
pub(super) fn opener(database: PathBuf, crowded: Arc<AtomicBool>) -> OpenHints {
    Arc::new(move |me| {
        let (database, crowded) = (database.clone(), crowded.clone());
        async move {
            let open = || OpenOptions::new().read(true).append(true).create(true).open(super::lock::beside(&database, ".hints"));
            let opened = open().and_then(|teller| Ok((teller, open()?)));
            let (teller, hearer) = opened.map_err(|error| trouble(&database, &error))?;
            let teller = Teller { me, database: database.clone(), file: teller };
            let hearer = Hearer { me, database, file: hearer, read: None, crowded };
            Ok((Box::new(teller) as Box<dyn Tell>, Box::new(hearer) as Box<dyn Hear>))
        }
        .boxed_local()
    })
}

struct Teller {
    me: Incarnation,
    database: PathBuf,
    file: File,
}

impl Teller {
    fn append(&mut self, hints: &[Hint]) -> io::Result<()> {
        if self.file.metadata()?.len() > LONGEST {
            self.file.set_len(0)?;
        }
        // One write, so that lines of several processes never mix.
        let lines: String = write(self.me, hints).into_iter().flat_map(|text| [text, "\n".to_owned()]).collect();
        self.file.write_all(lines.as_bytes())
    }
}

impl Tell for Teller {
    fn tell<'a>(&'a mut self, hints: &'a [Hint]) -> Answer<'a, ()> {
        let told = self.append(hints).map_err(|error| trouble(&self.database, &error));
        Box::pin(std::future::ready(told))
    }
}

struct Hearer {
    me: Incarnation,
    database: PathBuf,
    file: File,
    /// How far it was read; `None` before the first look.
    read: Option<u64>,
    crowded: Arc<AtomicBool>,
}

impl Hearer {
    /// Reads what is new; nothing if nothing is.
    fn look(&mut self) -> io::Result<Vec<Hint>> {
        let length = self.file.metadata()?.len();
        let from = match self.read {
            Some(read) if read == length => return Ok(Vec::new()),
            Some(read) if read < length => read,
            // It was cut meanwhile, or nobody heard here before.
            _ => {
                self.read = Some(length);
                return Ok(vec![Hint::Anything]);
            }
        };
        self.file.seek(SeekFrom::Start(from))?;
        let mut new = Vec::new();
        Read::take(&mut self.file, LONGEST).read_to_end(&mut new)?;
        // The last line may be half there.
        let whole = new.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.read = Some(from + whole as u64);
        let lines = String::from_utf8_lossy(&new[..whole]);
        Ok(lines.lines().flat_map(|line| read(self.me, line)).collect())
    }

    async fn next(&mut self) -> Result<Vec<Hint>, StoreError> {
        loop {
            let heard = self.look().map_err(|error| trouble(&self.database, &error))?;
            if !heard.is_empty() {
                self.crowded.store(true, Relaxed);
                return Ok(heard);
            }
            tokio::time::sleep(if self.crowded.load(Relaxed) { LOOK } else { ALONE }).await;
        }
    }
}

impl Hear for Hearer {
    fn hear(&mut self) -> Answer<'_, Vec<Hint>> {
        self.next().boxed_local()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::kernel::id::RunKey;

    type Ends = (Box<dyn Tell>, Box<dyn Hear>);

    async fn two() -> (tempfile::TempDir, [Ends; 2]) {
        let folder = tempfile::tempdir().unwrap();
        let open = opener(folder.path().join("a.db"), Arc::default());
        let mut ends =
            [open(Incarnation(Uuid::from_u128(1))).await.unwrap(), open(Incarnation(Uuid::from_u128(2))).await.unwrap()];
        for (_, hearer) in &mut ends {
            assert_eq!(hearer.hear().await.unwrap(), [Hint::Anything], "what was said before nobody heard");
        }
        (folder, ends)
    }

    #[tokio::test]
    async fn what_one_tells_the_other_hears_and_nobody_himself() {
        let (_folder, [(mut tell_a, mut hear_a), (mut tell_b, mut hear_b)]) = two().await;
        let said = [Hint::Due, Hint::Ended { run: RunKey(7) }];
        tell_a.tell(&said).await.unwrap();
        assert_eq!(hear_b.hear().await.unwrap(), said);
        tell_b.tell(&[Hint::Joined]).await.unwrap();
        assert_eq!(hear_a.hear().await.unwrap(), [Hint::Joined]);
    }

    #[tokio::test]
    async fn a_file_that_was_cut_means_look_at_everything_and_is_heard_on_from_there() {
        let (folder, [(mut tell, _), (_, mut hear)]) = two().await;
        tell.tell(&[Hint::Due]).await.unwrap();
        assert_eq!(hear.hear().await.unwrap(), [Hint::Due]);
        File::create(folder.path().join("a.db.hints")).unwrap();
        assert_eq!(hear.hear().await.unwrap(), [Hint::Anything]);
        tell.tell(&[Hint::Due]).await.unwrap();
        assert_eq!(hear.hear().await.unwrap(), [Hint::Due]);
    }

    #[tokio::test]
    async fn the_file_does_not_grow_for_ever() {
        let (folder, [(mut tell, _), _]) = two().await;
        let many: Vec<Hint> = (0..4_000).map(|run| Hint::Ended { run: RunKey(i64::MAX - run) }).collect();
        for _ in 0..40 {
            tell.tell(&many).await.unwrap();
        }
        let length = std::fs::metadata(folder.path().join("a.db.hints")).unwrap().len();
        assert!(length < 2 * LONGEST, "{length}");
    }
}
