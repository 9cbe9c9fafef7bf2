//! Maps for keys that we number ourselves. Nobody can choose such keys to collide, so they need no hash that is safe from that:
//! half a dozen look-ups per step are what it would cost. What users name (ids, queues, messages) stays with the standard hash.

use std::collections::{HashMap, HashSet};

/// The hash of these maps, seeded anew in each process.
pub(crate) use foldhash::fast::RandomState;

/// A map by a number of ours.
pub(crate) type FastMap<K, V> = HashMap<K, V, RandomState>;

/// A set of numbers of ours.
pub(crate) type FastSet<K> = HashSet<K, RandomState>;
