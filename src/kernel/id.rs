//! Typed names of things. Each is a plain value: where it is allocated (a store, a generator of the runtime) is not
//! the kernel's concern.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The store's own key of a run: 64 bits, allocated in ascending order, never shown to users.
///
/// Order matters: a random primary key costs the store a factor of four to five (each row of a commit dirties its own page).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunKey(pub i64);

/// With this begin the ids of executions that gates begin, and of their children; nobody else's does.
pub(crate) const OUR_IDS: &str = "stent:";

/// What the outside calls a run: the execution's id and the number of the run within it (from 1).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct RunId {
    /// The execution's id, chosen by the caller or generated; up to 255 bytes.
    pub id: String,
    /// Which history of that execution, from 1.
    pub run_no: u32,
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.id, self.run_no)
    }
}

/// The place of a command within its run, reserved when the command is constructed; from 1.
pub type Position = u32;

/// Which try of an activity this is, from 1.
pub type Attempt = u32;

/// The number of a commit within its run, from 0.
pub type CommitNo = u32;

/// How often an execution was claimed; grows by one at each claim and never decreases within a run. Also the fencing
/// token that activities hand to foreign systems.
pub type Epoch = u64;

/// One life of a node: fresh and random at every start and every restart of the runtime's core.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub uuid::Uuid);

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.simple().fmt(f)
    }
}

/// Which build of the program wrote or refused something: a hash of what the program says it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BuildId(pub i64);

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A BLAKE3 digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(#[serde(with = "digest_bytes")] pub [u8; 32]);

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0[..8] {
            write!(f, "{byte:02x}")?;
        }
        f.write_str("…")
    }
}

/// Writes a digest as one binary string instead of 32 small integers.
mod digest_bytes {
    use std::fmt;

    use serde::{
        Deserializer, Serializer,
        de::{Error, SeqAccess, Visitor},
    };

    pub(super) fn serialize<S: Serializer>(digest: &[u8; 32], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(digest)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 32], D::Error> {
        from.deserialize_bytes(Whole)
    }

    /// Takes the bytes where they are: each commit that is read has a digest.
    struct Whole;

    impl<'de> Visitor<'de> for Whole {
        type Value = [u8; 32];

        fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
            to.write_str("a digest of 32 bytes")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<[u8; 32], E> {
            bytes.try_into().map_err(|_| E::invalid_length(bytes.len(), &self))
        }

        /// Formats without byte strings have lists of numbers.
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<[u8; 32], A::Error> {
            let mut bytes = Vec::with_capacity(32);
            while let Some(byte) = list.next_element()? {
                bytes.push(byte);
            }
            self.visit_bytes(&bytes)
        }
    }
}
