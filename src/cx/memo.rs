//! Results that executions share: what a call is shared by, and for how long.

use std::time::Duration;

use serde::Serialize;

use crate::kernel::{
    canonical::canonical,
    failure::{Failure, KIND_CODEC, KIND_INVALID},
    memo::{MemoKey, MemoUse},
    payload::{CodecError, Payload},
    time::LONGEST_WAIT,
};

/// How long a result is kept unless told otherwise.
const USUAL_TTL: Duration = Duration::from_secs(24 * 3_600);

/// The longest scope, in bytes.
const LONGEST_SCOPE: usize = 255;

/// By what the result of a call is shared with other executions: [`Pending::memo`](super::Pending::memo) says how.
///
/// Two calls share a result if they are of the same activity and have the same scope, version and key. Keys are equal if they are the same
/// serde value: neither the order of a struct's fields nor that of a map's entries counts, but that of a sequence does (so of a `HashSet`
/// make a sorted list first).
///
/// ```
/// # use stent::prelude::*;
/// #[derive(Serialize)]
/// struct Day<'a> { currency: &'a str, day: u32 }
///
/// let rate = Memo::key(&Day { currency: "CHF", day: 20_000 }).scope("rates").ttl(hours(1));
/// # let _ = rate;
/// ```
#[derive(Clone, Debug)]
#[must_use = "a memo does nothing unless a call is given it"]
pub struct Memo {
    key: Result<Vec<u8>, CodecError>,
    scope: String,
    version: u32,
    ttl: Option<Duration>,
}

impl Memo {
    /// Shares by a key. The result is kept for a day, unless [`ttl`](Memo::ttl) or [`forever`](Memo::forever) says otherwise.
    pub fn key<K: Serialize + ?Sized>(key: &K) -> Memo {
        let bytes = Payload::encode(key, "the key of a memo").and_then(|payload| {
            canonical(&payload.bytes).ok_or_else(|| CodecError {
                what: "the key of a memo".to_owned(),
                direction: "encoded".to_owned(),
                type_name: std::any::type_name::<K>().to_owned(),
                reason: "it nests too deep".to_owned(),
            })
        });
        Memo { key: bytes, scope: String::new(), version: 0, ttl: Some(USUAL_TTL) }
    }

    /// Sets for how long the result counts, from its completion on, by the store's clock. Then the next call is made anew.
    pub fn ttl(mut self, ttl: Duration) -> Memo {
        self.ttl = Some(ttl.min(LONGEST_WAIT));
        self
    }

    /// Keeps the result until it is forgotten (`Stent::forget_memo`).
    pub fn forever(mut self) -> Memo {
        self.ttl = None;
        self
    }

    /// Sets the scope (at most 255 bytes): keys of another scope are other keys, and those of one can be forgotten together.
    pub fn scope(mut self, scope: impl Into<String>) -> Memo {
        self.scope = scope.into();
        self
    }

    /// Sets the version of what the activity returns: raise it when its output has another type or meaning, so that no code is given what
    /// an older one has kept.
    pub fn version(mut self, version: u32) -> Memo {
        self.version = version;
        self
    }

    /// Returns what a call of this activity is shared by, as data.
    pub(crate) fn of(self, activity: &str) -> Result<MemoUse, Failure> {
        if self.ttl.is_some_and(|ttl| ttl.is_zero()) {
            let text = "ttl: a result that counts for no time is shared with nobody; leave the memo out";
            return Err(Failure::new(KIND_INVALID, text).into_final());
        }
        if self.scope.len() > LONGEST_SCOPE {
            let text = format!("the scope of a memo has {} bytes, the limit is {LONGEST_SCOPE}", self.scope.len());
            return Err(Failure::new(KIND_INVALID, text).into_final());
        }
        let key = self.key.map_err(|error| Failure::new(KIND_CODEC, error.to_string()).into_final())?;
        Ok(MemoUse { key: MemoKey::new(activity, self.version, &self.scope, &key), ttl: self.ttl })
    }
}
