//! What is open at places of a run, in their order: a map for keys that come up once, almost always in ascending order, and are given up
//! in any. It is a queue whose gaps are closed when they are half of it, so all but a search costs a constant on average (but what comes
//! up out of order moves what is behind it), and a run with one call at a time, as most are, allocates once in its life. (A B-tree makes a node for the first entry
//! and drops it with the last: a tenth of a turn was spent on that.)

use std::collections::VecDeque;

use super::id::Position;

/// A map by place.
#[derive(Clone, Debug)]
pub(crate) struct Places<T> {
    /// In ascending order. An entry that was taken out is a gap; there is none at either end.
    entries: VecDeque<(Position, Option<T>)>,
    len: usize,
}

/// So many gaps are never closed: it would cost more than they do.
const FEW: usize = 16;

impl<T> Default for Places<T> {
    fn default() -> Self {
        Places { entries: VecDeque::new(), len: 0 }
    }
}

impl<T: PartialEq> PartialEq for Places<T> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<T> Places<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts something at a place, and returns what was there.
    pub(crate) fn insert(&mut self, position: Position, value: T) -> Option<T> {
        let before = if self.entries.back().is_none_or(|(last, _)| *last < position) {
            self.entries.push_back((position, Some(value)));
            None
        } else {
            match self.find(position) {
                Ok(at) => self.entries[at].1.replace(value),
                Err(at) => {
                    self.entries.insert(at, (position, Some(value)));
                    None
                }
            }
        };
        self.len += usize::from(before.is_none());
        before
    }

    pub(crate) fn get(&self, position: Position) -> Option<&T> {
        self.find(position).ok().and_then(|at| self.entries[at].1.as_ref())
    }

    pub(crate) fn get_mut(&mut self, position: Position) -> Option<&mut T> {
        self.find(position).ok().and_then(|at| self.entries[at].1.as_mut())
    }

    pub(crate) fn contains(&self, position: Position) -> bool {
        self.get(position).is_some()
    }

    pub(crate) fn remove(&mut self, position: Position) -> Option<T> {
        // Most hold one.
        let taken = match self.entries.front() {
            None => return None,
            Some((first, _)) if *first == position => self.entries.pop_front()?.1?,
            Some(_) => {
                let at = self.find(position).ok()?;
                self.entries[at].1.take()?
            }
        };
        self.len -= 1;
        if !self.entries.is_empty() || self.entries.capacity() > 4 * FEW {
            self.close_gaps();
        }
        Some(taken)
    }

    pub(crate) fn clear(&mut self) {
        *self = Places::default();
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Position, &T)> {
        self.entries.iter().filter_map(|(position, value)| Some((*position, value.as_ref()?)))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (Position, &mut T)> {
        self.entries.iter_mut().filter_map(|(position, value)| Some((*position, value.as_mut()?)))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = Position> {
        self.iter().map(|(position, _)| position)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.iter().map(|(_, value)| value)
    }

    fn find(&self, position: Position) -> Result<usize, usize> {
        match self.entries.front() {
            Some((first, _)) if *first == position => Ok(0),
            _ => self.entries.binary_search_by_key(&position, |(at, _)| *at),
        }
    }

    #[inline(never)]
    fn close_gaps(&mut self) {
        while self.entries.front().is_some_and(|(_, value)| value.is_none()) {
            self.entries.pop_front();
        }
        while self.entries.back().is_some_and(|(_, value)| value.is_none()) {
            self.entries.pop_back();
        }
        if self.entries.len() > FEW + 2 * self.len {
            self.entries.retain(|(_, value)| value.is_some());
        }
        // What a crowd needed is not kept for the few.
        if self.entries.capacity() > 4 * (FEW + self.entries.len()) {
            self.entries.shrink_to(FEW + self.entries.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn it_holds_what_an_ordered_map_holds_whatever_comes_and_goes() {
        let seed = 2_026;
        let mut draws = 0;
        let mut below = |limit: u64| {
            draws += 1;
            super::super::random::mix(seed, draws) % limit
        };
        for round in 0..200 {
            let (mut places, mut model) = (Places::default(), BTreeMap::new());
            let (mut next, removes) = (1, 1 + below(6));
            for step in 0..400 {
                let position = match below(8) {
                    0 => Position::try_from(1 + below(u64::from(next))).unwrap(),
                    _ => next,
                };
                next = next.max(position + 1);
                assert_eq!(places.insert(position, step), model.insert(position, step));
                for _ in 0..below(removes) {
                    let position = Position::try_from(1 + below(u64::from(next))).unwrap();
                    assert_eq!(places.remove(position), model.remove(&position), "round {round} of seed {seed}");
                    assert_eq!((places.get(position), places.contains(position)), (None, false));
                }
                if let Some((position, value)) = model.iter_mut().next() {
                    *value += 1;
                    *places.get_mut(*position).unwrap() += 1;
                }
                assert!(
                    places.iter().eq(model.iter().map(|(position, value)| (*position, value))),
                    "round {round} of seed {seed}"
                );
                assert_eq!((places.is_empty(), places.len), (model.is_empty(), model.len()));
            }
        }
    }

    #[test]
    fn neither_gaps_nor_a_crowd_that_has_left_take_room_for_ever() {
        let mut places = Places::default();
        // One waits from the beginning on, others come and go behind it.
        places.insert(1, ());
        for position in 2..100_000 {
            places.insert(position, ());
            places.remove(position);
            assert!(places.entries.len() <= 1, "a gap at the end");
        }
        for position in 100_000..200_000 {
            places.insert(position, ());
        }
        for position in 100_000..199_999 {
            places.remove(position);
        }
        assert!(
            places.entries.len() <= FEW + 4 && places.entries.capacity() < 200,
            "{} {}",
            places.entries.len(),
            places.entries.capacity()
        );
        assert!(places.keys().eq([1, 199_999]));
    }
}
