//! Hints between nodes: "look there, now". What is due, sent or ended stands in the store and is found by looking, at the
//! latest with the next tick; a hint only says that looking pays at once. So hints may be lost, doubled, late or out of
//! order, and whatever carries them may be away for a day: that costs latency, never correctness.
//!
//! A store that several nodes use brings a way of its own (`LISTEN` and `NOTIFY` on PostgreSQL); another one can be named
//! with [`Builder::hints`](crate::Builder::hints).

use std::sync::Arc;

#[cfg(feature = "postgres")]
use crate::kernel::time::Timestamp;
use crate::{
    kernel::id::{Incarnation, RunKey},
    store::Answer,
};

#[cfg(feature = "redis")]
pub(crate) mod redis;

/// Where looking pays.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Hint {
    /// Something that nobody owns is due.
    Due,
    /// A message went into the inbox of a run that this node owns.
    Mail {
        /// Which run.
        run: RunKey,
        /// Who owns it.
        owner: Incarnation,
    },
    /// A run ended, and somebody elsewhere may wait for that.
    Ended {
        /// Which run.
        run: RunKey,
    },
    /// A run published something, and somebody elsewhere may wait for that.
    Published {
        /// Which run.
        run: RunKey,
    },
    /// Tasks are ready in this queue.
    Tasks {
        /// Its name.
        queue: String,
    },
    /// The sender is here now, and hears.
    Joined,
    /// Hints may have been missed: look at everything.
    Anything,
}

/// Tells hints to the other nodes.
pub trait Tell {
    /// Sends some hints, as few messages as possible. Whoever is away hears nothing; it is not tried again.
    fn tell<'a>(&'a mut self, hints: &'a [Hint]) -> Answer<'a, ()>;
}

/// Hears the hints of the other nodes.
pub trait Hear {
    /// Waits for the next hints. Behind a time in which it may have missed some it says [`Hint::Anything`]. An error means
    /// that nothing can be heard at the moment; it may be asked again a little later.
    fn hear(&mut self) -> Answer<'_, Vec<Hint>>;
}

/// Opens both ends, on the thread that will use them.
pub type OpenHints = Arc<dyn Fn(Incarnation) -> Answer<'static, (Box<dyn Tell>, Box<dyn Hear>)> + Send + Sync>;

/// The longest text that one message carries: PostgreSQL takes less than 8,000 bytes.
pub(crate) const LONGEST: usize = 7_900;

/// Returns hints as texts, each short enough for one message, that say who they are from. The form is
/// `<sender> <hint> <hint> …`: `d` due (`d<time>` when it may have been so for long), `m<run>:<owner>` mail, `e<run>` ended, `p<run>` published, `t<hex of the name>` tasks, `j` joined, `a` anything.
pub(crate) fn write(from: Incarnation, hints: &[Hint]) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    for hint in hints {
        let word = match hint {
            Hint::Due => "d".to_owned(),
            Hint::Mail { run, owner } => format!("m{}:{}", run.0, owner.0.simple()),
            Hint::Ended { run } => format!("e{}", run.0),
            Hint::Published { run } => format!("p{}", run.0),
            Hint::Tasks { queue } => queue.bytes().fold("t".to_owned(), |word, byte| format!("{word}{byte:02x}")),
            Hint::Joined => "j".to_owned(),
            Hint::Anything => "a".to_owned(),
        };
        match texts.last_mut().filter(|text| text.len() + 1 + word.len() <= LONGEST) {
            Some(text) => {
                text.push(' ');
                text.push_str(&word);
            }
            None => texts.push(format!("{} {word}", from.0.simple())),
        }
    }
    texts
}

/// Reads a text; nothing if it is our own. What is not understood means that something may have been missed.
pub(crate) fn read(me: Incarnation, text: &str) -> Vec<Hint> {
    let mut words = text.split(' ');
    if words.next().and_then(|from| uuid::Uuid::parse_str(from).ok()) == Some(me.0) {
        return Vec::new();
    }
    words.map(|word| hint(word).unwrap_or(Hint::Anything)).collect()
}

/// Returns since when something may have been due that a text tells of.
#[cfg(feature = "postgres")]
pub(crate) fn due_since(text: &str) -> Option<Timestamp> {
    let times = text.split(' ').skip(1).filter_map(|word| word.strip_prefix('d')?.parse().ok());
    times.min().map(Timestamp)
}

fn hint(word: &str) -> Option<Hint> {
    let (kind, rest) = (word.get(..1)?, word.get(1..)?);
    Some(match kind {
        "d" => Hint::Due,
        "a" => Hint::Anything,
        "j" => Hint::Joined,
        "p" => Hint::Published { run: RunKey(rest.parse().ok()?) },
        "e" => Hint::Ended { run: RunKey(rest.parse().ok()?) },
        "m" => {
            let (run, owner) = rest.split_once(':')?;
            Hint::Mail { run: RunKey(run.parse().ok()?), owner: Incarnation(uuid::Uuid::parse_str(owner).ok()?) }
        }
        "t" => {
            let bytes = (0..rest.len()).step_by(2).map(|at| u8::from_str_radix(rest.get(at..at + 2)?, 16).ok());
            Hint::Tasks { queue: String::from_utf8(bytes.collect::<Option<Vec<u8>>>()?).ok()? }
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const ME: Incarnation = Incarnation(Uuid::from_u128(1));
    const OTHER: Incarnation = Incarnation(Uuid::from_u128(2));

    #[test]
    fn what_is_written_is_read_by_others_and_by_nobody_who_wrote_it() {
        let hints = vec![
            Hint::Due,
            Hint::Mail { run: RunKey(-7), owner: OTHER },
            Hint::Ended { run: RunKey(i64::MAX) },
            Hint::Published { run: RunKey(3) },
            Hint::Tasks { queue: "a b:c ü".into() },
            Hint::Joined,
            Hint::Anything,
        ];
        let [text] = &write(OTHER, &hints)[..] else { panic!("one text") };
        assert_eq!(read(ME, text), hints);
        assert_eq!(read(OTHER, text), []);
    }

    #[test]
    fn many_hints_are_several_messages_each_short_enough() {
        let hints: Vec<Hint> = (0..2_000).map(|run| Hint::Ended { run: RunKey(run) }).collect();
        let texts = write(OTHER, &hints);
        assert!(texts.len() > 1 && texts.iter().all(|text| text.len() <= LONGEST));
        assert_eq!(texts.iter().flat_map(|text| read(ME, text)).collect::<Vec<_>>(), hints);
    }

    #[test]
    fn what_nobody_understands_means_look_at_everything() {
        for text in ["", "x", "00000000000000000000000000000002 q", "- m7", "- t0", "- tzz", "- e", "- ü", "- mx:y"] {
            assert!(read(ME, text).iter().all(|hint| *hint == Hint::Anything), "{text:?}");
        }
    }
}
