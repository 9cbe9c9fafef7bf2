//! What is in the inbox of a run. A message that this build cannot decode (a newer one sent it, or it was damaged) is told as such: its
//! neighbours are read, and the run is neither lost nor out of reach of an operator because of it.

use crate::kernel::{event::MessageBody, time::Timestamp};

/// An unread message in an inbox.
#[derive(Clone, Debug, PartialEq)]
pub struct Unread {
    /// Its number in this inbox: the value of `inbox_seq` behind its insertion. Ascending, from 1.
    pub seq: u64,
    /// The message's own id.
    pub message: String,
    /// What it says.
    pub body: MessageBody,
    /// When it was sent.
    pub sent_at: Timestamp,
}

/// An unread message that does not decode.
#[derive(Clone, Debug, PartialEq)]
pub struct Undecoded {
    /// Its number in this inbox.
    pub seq: u64,
    /// The message's own id.
    pub message: String,
    /// Why it does not.
    pub why: String,
}

impl Unread {
    /// Reads a message from what is stored of it.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(super) fn decode(seq: u64, message: String, body: &[u8], sent_at: Timestamp) -> Result<Unread, Undecoded> {
        match rmp_serde::from_slice(body) {
            Ok(body) => Ok(Unread { seq, message, body, sent_at }),
            Err(error) => Err(Undecoded { seq, message, why: error.to_string() }),
        }
    }
}

/// A run's unread messages.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Inbox {
    /// How many messages were ever put in.
    pub seq: u64,
    /// Those that are unread, in order, but for those that do not decode.
    pub unread: Vec<Unread>,
    /// Those that are unread and do not decode, in order.
    pub undecoded: Vec<Undecoded>,
}

impl Inbox {
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(super) fn put(&mut self, message: Result<Unread, Undecoded>) {
        match message {
            Ok(unread) => self.unread.push(unread),
            Err(undecoded) => self.undecoded.push(undecoded),
        }
    }

    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(super) fn sort(&mut self) {
        self.unread.sort_unstable_by_key(|unread| unread.seq);
        self.undecoded.sort_unstable_by_key(|undecoded| undecoded.seq);
    }

    /// Returns how many messages are unread.
    pub fn count(&self) -> usize {
        self.unread.len() + self.undecoded.len()
    }

    /// Tells whether a message of this id is unread.
    pub fn has(&self, message: &str) -> bool {
        self.unread
            .iter()
            .map(|unread| &unread.message)
            .chain(self.undecoded.iter().map(|it| &it.message))
            .any(|id| id == message)
    }
}
