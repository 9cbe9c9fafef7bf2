//! User values as bytes. A value is MessagePack *with field names*: the compact form silently swaps re-ordered fields of
//! one type and refuses added ones. What came in as JSON stays JSON. Nothing executable is ever decoded; size and depth
//! are limited on the way in and on the way out.

use std::{
    any::Any,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
};

use bytes::Bytes;
use serde::{
    Deserialize, Serialize,
    de::{DeserializeOwned, IgnoredAny},
};

use super::{id::Digest, instance::panic_text};

/// How deep a value may nest: fewer lists and maps than this lie in one another, where a struct is a map, and a variant that
/// holds something is one as well. What nests deeper could be written, but not be read again.
pub const DECODE_DEPTH: usize = 128;

/// The size of most values: their buffer need not grow.
const USUAL: usize = 64;

/// How the bytes of a [`Payload`] are to be read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Encoding {
    /// MessagePack, structs as maps with field names.
    #[serde(rename = "m")]
    MessagePack,
    /// JSON text, kept as it came.
    #[serde(rename = "j")]
    Json,
}

impl Encoding {
    /// Returns its stored name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Encoding::MessagePack => "m",
            Encoding::Json => "j",
        }
    }

    /// Returns the encoding of a stored name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Encoding> {
        [Encoding::MessagePack, Encoding::Json].into_iter().find(|encoding| encoding.as_str() == name)
    }
}

/// One encoded user value: input, output, error details, signal.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// How to read the bytes.
    pub encoding: Encoding,
    /// The encoded value.
    pub bytes: Bytes,
}

impl fmt::Debug for Payload {
    /// Shows length and encoding only: user data stays out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}[{} bytes]", self.encoding, self.bytes.len())
    }
}

/// A user value could not be turned into bytes, or bytes not into the user's type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{what} cannot be {direction} as {type_name}: {reason}")]
pub struct CodecError {
    /// Which value, in words: "the input of activity pay.charge".
    pub what: String,
    /// "encoded" or "decoded".
    pub direction: String,
    /// The Rust type in the program.
    pub type_name: String,
    /// What serde said.
    pub reason: String,
}

impl Payload {
    /// Encodes a value as MessagePack with field names.
    ///
    /// # Errors
    /// [`CodecError`] with serde's reason when the type refuses to be serialised, with the panic of its code, or when the
    /// value nests so deep that it could not be read again ([`DECODE_DEPTH`]).
    pub fn encode<T: Serialize + ?Sized>(value: &T, what: impl fmt::Display) -> Result<Payload, CodecError> {
        let mut bytes = Vec::with_capacity(USUAL);
        let encoded = caught(|| rmp_serde::encode::write_named(&mut bytes, value).map_err(|e| e.to_string()));
        encoded.map_err(|reason| codec_error::<T>(&what, "encoded", &reason))?;
        // Each level takes a byte at least.
        if bytes.len() >= DECODE_DEPTH && nests_too_deep(&bytes) {
            let reason = format!("it nests {DECODE_DEPTH} levels deep or more, and could not be read again; make it flatter");
            return Err(codec_error::<T>(&what, "encoded", &reason));
        }
        Ok(Payload { encoding: Encoding::MessagePack, bytes: bytes.into() })
    }

    /// Decodes the value; every byte must be used and nesting is limited to [`DECODE_DEPTH`].
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are not a `T`, or with the panic of its code.
    pub fn decode<T: DeserializeOwned>(&self, what: impl fmt::Display) -> Result<T, CodecError> {
        match self.encoding {
            Encoding::MessagePack => {
                let mut rest = &self.bytes[..];
                let decoded = caught(|| T::deserialize(&mut reader(&mut rest)).map_err(|e| e.to_string()));
                let value = decoded.map_err(|reason| codec_error::<T>(&what, "decoded", &reason))?;
                // rmp-serde accepts trailing bytes silently; for us they are damage.
                if rest.is_empty() {
                    Ok(value)
                } else {
                    Err(codec_error::<T>(&what, "decoded", &"bytes left over behind the value"))
                }
            }
            Encoding::Json => Err(codec_error::<T>(&what, "decoded", &"JSON payloads are not accepted by this release")),
        }
    }

    /// Returns the digest by which two payloads are compared without keeping both.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut hash = blake3::Hasher::new();
        hash.update(&[self.encoding as u8]);
        hash.update(&self.bytes);
        Digest(*hash.finalize().as_bytes())
    }
}

fn reader<'a, 'b>(bytes: &'a mut &'b [u8]) -> rmp_serde::Deserializer<rmp_serde::decode::ReadReader<&'a mut &'b [u8]>> {
    let mut reader = rmp_serde::Deserializer::new(bytes);
    reader.set_max_depth(DECODE_DEPTH);
    reader
}

/// Tells what any type would run into that reads these bytes: their lists and maps are counted, whatever they are for.
fn nests_too_deep(mut bytes: &[u8]) -> bool {
    let read = IgnoredAny::deserialize(&mut reader(&mut bytes));
    matches!(read, Err(rmp_serde::decode::Error::DepthLimitExceeded))
}

/// Runs the user's part of a codec. It runs on threads of the engine, where a panic would be taken for a bug of ours.
fn caught<T>(codec: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let panicked = |panic: Box<dyn Any + Send>| Err(format!("its code panicked: {}", panic_text(&*panic)));
    catch_unwind(AssertUnwindSafe(codec)).unwrap_or_else(panicked)
}

fn codec_error<T: ?Sized>(what: &dyn fmt::Display, direction: &str, reason: &dyn fmt::Display) -> CodecError {
    CodecError {
        what: what.to_string(),
        direction: direction.to_owned(),
        type_name: std::any::type_name::<T>().to_owned(),
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fmt::Debug};

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum List {
        End,
        Then(u8, Box<List>),
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Tree {
        Only(Vec<Tree>),
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Chain {
        next: Option<Box<Chain>>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Map(BTreeMap<String, Map>);

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Named {
        Last(u8),
        Next { next: Box<Named> },
    }

    /// Grows a value level by level, and returns the first number of them that is not taken.
    fn grown<T: Serialize + DeserializeOwned + PartialEq + Debug>(mut value: T, over: impl Fn(T) -> T) -> usize {
        for level in 1..=DECODE_DEPTH {
            match Payload::encode(&value, "a value") {
                Ok(payload) => assert_eq!(payload.decode::<T>("a value").unwrap(), value),
                Err(error) => {
                    assert!(error.reason.contains("128 levels"), "{error}");
                    return level;
                }
            }
            value = over(value);
        }
        panic!("{value:?} was taken");
    }

    #[test]
    fn what_is_taken_can_be_read_again_however_deep_it_nests() {
        assert_eq!(grown(Chain { next: None }, |next| Chain { next: Some(Box::new(next)) }), 128);
        assert_eq!(grown(Map(BTreeMap::new()), |next| Map([("a".to_owned(), next)].into())), 128);
        // A variant is a map of one, and holds another list or map.
        assert_eq!(grown(List::End, |next| List::Then(1, Box::new(next))), 65);
        assert_eq!(grown(Tree::Only(vec![]), |next| Tree::Only(vec![next])), 64);
        assert_eq!(grown(Named::Last(1), |next| Named::Next { next: Box::new(next) }), 65);
    }
}
