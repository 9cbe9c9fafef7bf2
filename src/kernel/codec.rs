//! A [`Commit`] as bytes and back. The stored body is
//!
//! ```text
//! byte 0      schema version (1)
//! byte 1      codec chain (0 = none)
//! bytes 2–5   CRC-32C of everything else, little endian
//! bytes 6…    the canonical record: compact MessagePack
//! ```
//!
//! The *record digest* chains the log: BLAKE3 over the run's public name, the predecessor's digest and the canonical
//! bytes. It is taken before the codec chain and names no store-internal key, so it survives encryption and a move to
//! another store. It is also the tail that the next commit must name.

use bytes::Bytes;

use super::{
    event::Commit,
    id::{CommitNo, Digest, RunId},
};

/// The schema version this release writes, and the newest that it reads.
pub const SCHEMA: u8 = 1;

/// The only codec chain of this release: the canonical bytes as they are.
const PLAIN: u8 = 0;

const HEADER: usize = 6;

/// Room for what is hashed before the canonical bytes, without the run's id.
const PREAMBLE: usize = 48;

/// Room for most records together with that.
const MOST_RECORDS: usize = 448;

/// A commit ready to be stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Its digest, which becomes the tail.
    pub digest: Digest,
    /// The bytes of the row.
    pub body: Bytes,
}

/// A stored row cannot be read. Nothing is skipped: the run stays as it is until somebody acts.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unreadable {
    /// The bytes are not those that were written.
    #[error("commit {commit_no} of {run} is damaged ({what}); restore it from a backup: nothing was changed")]
    Corrupt {
        /// Whose log.
        run: RunId,
        /// Which row.
        commit_no: CommitNo,
        /// What does not fit.
        what: String,
    },
    /// A newer release wrote it.
    #[error("commit {commit_no} of {run} has schema {found}, this build reads up to {SCHEMA}; run a newer build")]
    Newer {
        /// Whose log.
        run: RunId,
        /// Which row.
        commit_no: CommitNo,
        /// The schema that it has.
        found: u8,
    },
}

/// Encodes a commit.
///
/// # Errors
/// A sentence, when serialisation fails; this release's own types always serialise.
pub fn encode(run: &RunId, commit: &Commit) -> Result<Record, String> {
    let mut bytes = Vec::with_capacity(MOST_RECORDS);
    let preamble = preamble(run, commit.commit_no, commit.prev, &mut bytes);
    commit.serialize_into(&mut bytes)?;
    let digest = Digest(*blake3::hash(&bytes).as_bytes());
    // The envelope stands where the end of the preamble stood: that was only there to be hashed.
    let at = preamble - HEADER;
    bytes[at..preamble].copy_from_slice(&[SCHEMA, PLAIN, 0, 0, 0, 0]);
    let crc = checksum(&bytes[at..]);
    bytes[at + 2..preamble].copy_from_slice(&crc.to_le_bytes());
    Ok(Record { digest, body: Bytes::from(bytes).slice(at..) })
}

/// Decodes a stored row and checks everything that can be checked about it alone: length, checksum, schema, its own
/// number, its own digest.
///
/// # Errors
/// [`Unreadable`], which names the row and what to do.
pub fn decode(run: &RunId, commit_no: CommitNo, stored: &Record) -> Result<Commit, Unreadable> {
    let corrupt = |what: &str| Unreadable::Corrupt { run: run.clone(), commit_no, what: what.to_owned() };
    let body = &stored.body[..];
    if body.len() <= HEADER {
        return Err(corrupt("too short"));
    }
    if body[2..HEADER] != checksum(body).to_le_bytes() {
        return Err(corrupt("its checksum differs"));
    }
    if body[0] > SCHEMA {
        return Err(Unreadable::Newer { run: run.clone(), commit_no, found: body[0] });
    }
    if body[0] == 0 || body[1] != PLAIN {
        return Err(corrupt("unknown envelope"));
    }
    let canonical = &body[HEADER..];
    let commit: Commit = rmp_serde::from_slice(canonical).map_err(|e| corrupt(&format!("it does not decode: {e}")))?;
    if commit.commit_no != commit_no {
        return Err(corrupt("it carries another number"));
    }
    if digest(run, commit_no, commit.prev, canonical) != stored.digest {
        return Err(corrupt("its digest differs"));
    }
    Ok(commit)
}

impl Commit {
    fn serialize_into(&self, to: &mut Vec<u8>) -> Result<(), String> {
        rmp_serde::encode::write(to, self).map_err(|e| e.to_string())
    }
}

fn checksum(body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&body[..2]), &body[HEADER..])
}

/// Writes what is hashed before the canonical bytes, and returns how long it is.
fn preamble(run: &RunId, commit_no: CommitNo, prev: Option<Digest>, to: &mut Vec<u8>) -> usize {
    to.extend_from_slice(&prev.map_or([0; 32], |digest| digest.0));
    to.extend_from_slice(&u64::try_from(run.id.len()).unwrap_or(u64::MAX).to_le_bytes());
    to.extend_from_slice(run.id.as_bytes());
    to.extend_from_slice(&run.run_no.to_le_bytes());
    to.extend_from_slice(&commit_no.to_le_bytes());
    to.len()
}

/// In one go: each call of the hash has a price, and most records are short.
fn digest(run: &RunId, commit_no: CommitNo, prev: Option<Digest>, canonical: &[u8]) -> Digest {
    let mut bytes = Vec::with_capacity(PREAMBLE + run.id.len() + canonical.len());
    preamble(run, commit_no, prev, &mut bytes);
    bytes.extend_from_slice(canonical);
    Digest(*blake3::hash(&bytes).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{
        event::{Command, Event, Fact, Started},
        id::{BuildId, Incarnation},
        payload::Payload,
        time::Timestamp,
    };

    fn run() -> RunId {
        RunId { id: "order-7".into(), run_no: 1 }
    }

    fn commit() -> Commit {
        Commit {
            commit_no: 0,
            prev: None,
            incarnation: Incarnation(uuid::Uuid::from_u128(7)),
            epoch: 1,
            build: BuildId(3),
            time: Timestamp(1_700_000_000_000_000),
            events: vec![
                Event::Fact(Fact::Started(Box::new(Started {
                    workflow: "shop.place_order".into(),
                    version: 1,
                    input: Payload::encode(&(7_u64, "seven"), "x").unwrap(),
                    seed: 9,
                    deadline: None,
                    deferred: false,
                    limits: None,
                    parent: None,
                    retry: None,
                    copied_from: None,
                }))),
                Event::Command(Command::Sleep { position: 1, due: Timestamp(1_700_000_001_000_000) }),
            ],
        }
    }

    #[test]
    fn what_was_encoded_decodes_to_the_same_commit() {
        let record = encode(&run(), &commit()).unwrap();
        assert_eq!(decode(&run(), 0, &record), Ok(commit()));
    }

    #[test]
    fn the_stored_form_is_that_of_schema_1_for_ever() {
        let record = encode(&run(), &commit()).unwrap();
        let golden: String = record.body.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(golden, include_str!("golden_commit_v1.hex").trim());
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let record = encode(&run(), &commit()).unwrap();
        for bit in 0..record.body.len() * 8 {
            let mut body = record.body.to_vec();
            body[bit / 8] ^= 1 << (bit % 8);
            let damaged = Record { digest: record.digest, body: body.into() };
            assert!(decode(&run(), 0, &damaged).is_err(), "bit {bit} went unnoticed");
        }
    }

    #[test]
    fn a_digest_is_read_from_a_list_of_numbers_too() {
        let list = rmp_serde::to_vec(&[7_u8; 32]).unwrap();
        assert_eq!(rmp_serde::from_slice::<Digest>(&list).unwrap(), Digest([7; 32]));
        assert!(rmp_serde::from_slice::<Digest>(&list[..20]).is_err());
        assert!(rmp_serde::from_slice::<Digest>(&rmp_serde::to_vec(&[7_u8; 31]).unwrap()).is_err());
    }

    #[test]
    fn a_row_moved_to_another_run_or_place_is_noticed() {
        let record = encode(&run(), &commit()).unwrap();
        assert!(decode(&RunId { id: "order-8".into(), run_no: 1 }, 0, &record).is_err());
        assert!(decode(&RunId { id: "order-7".into(), run_no: 2 }, 0, &record).is_err());
        assert!(decode(&run(), 1, &record).is_err());
    }

    #[test]
    fn a_newer_schema_is_refused_by_name() {
        let mut body = encode(&run(), &commit()).unwrap().body.to_vec();
        body[0] = SCHEMA + 1;
        let crc = checksum(&body);
        body[2..HEADER].copy_from_slice(&crc.to_le_bytes());
        let digest = encode(&run(), &commit()).unwrap().digest;
        let refused = decode(&run(), 0, &Record { digest, body: body.into() });
        assert_eq!(refused, Err(Unreadable::Newer { run: run(), commit_no: 0, found: SCHEMA + 1 }));
    }
}
