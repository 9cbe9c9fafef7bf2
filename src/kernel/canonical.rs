//! One form for equal values: the entries of maps in the order of their keys, whatever order the value had them in. Field names are keys like
//! any other, so neither the order of a struct's fields nor that of a `HashMap` makes a difference.

use super::payload::DECODE_DEPTH;

/// Returns MessagePack in its canonical form; `None` if it is none, or nests too deep.
pub(crate) fn canonical(value: &[u8]) -> Option<Vec<u8>> {
    let mut to = Vec::with_capacity(value.len());
    let rest = copy(value, &mut to, DECODE_DEPTH)?;
    rest.is_empty().then_some(to)
}

/// Copies one value, and returns what is behind it.
fn copy<'a>(from: &'a [u8], to: &mut Vec<u8>, depth: usize) -> Option<&'a [u8]> {
    let depth = depth.checked_sub(1)?;
    let (&marker, behind) = from.split_first()?;
    // How many bytes of it say how long it is, and which of its length goes without saying.
    let (sized, fixed, holds) = match marker {
        0x00..=0x7f | 0xc0 | 0xc2 | 0xc3 | 0xe0..=0xff => (0, 0, Holds::Bytes),
        0x80..=0x8f => (0, usize::from(marker & 0x0f), Holds::Entries),
        0x90..=0x9f => (0, usize::from(marker & 0x0f), Holds::Values),
        0xa0..=0xbf => (0, usize::from(marker & 0x1f), Holds::Bytes),
        0xc4 | 0xd9 => (1, 0, Holds::Bytes),
        0xc5 | 0xda => (2, 0, Holds::Bytes),
        0xc6 | 0xdb => (4, 0, Holds::Bytes),
        // Of extensions the kind counts as a byte of the value.
        0xc7 => (1, 1, Holds::Bytes),
        0xc8 => (2, 1, Holds::Bytes),
        0xc9 => (4, 1, Holds::Bytes),
        0xd4..=0xd8 => (0, 1 + (1 << (marker - 0xd4)), Holds::Bytes),
        0xcc | 0xd0 => (0, 1, Holds::Bytes),
        0xcd | 0xd1 => (0, 2, Holds::Bytes),
        0xca | 0xce | 0xd2 => (0, 4, Holds::Bytes),
        0xcb | 0xcf | 0xd3 => (0, 8, Holds::Bytes),
        0xdc => (2, 0, Holds::Values),
        0xdd => (4, 0, Holds::Values),
        0xde => (2, 0, Holds::Entries),
        0xdf => (4, 0, Holds::Entries),
        0xc1 => return None,
    };
    let (size, mut rest) = behind.split_at_checked(sized)?;
    let count = fixed + size.iter().fold(0, |all, byte| all << 8 | usize::from(*byte));
    to.push(marker);
    to.extend_from_slice(size);
    match holds {
        Holds::Bytes => {
            let (bytes, behind) = rest.split_at_checked(count)?;
            to.extend_from_slice(bytes);
            rest = behind;
        }
        Holds::Values => {
            for _ in 0..count {
                rest = copy(rest, to, depth)?;
            }
        }
        Holds::Entries => {
            let mut entries = Vec::new();
            for _ in 0..count {
                let (mut key, mut value) = (Vec::new(), Vec::new());
                rest = copy(rest, &mut key, depth)?;
                rest = copy(rest, &mut value, depth)?;
                entries.push((key, value));
            }
            entries.sort();
            entries.into_iter().for_each(|(key, value)| to.extend(key.into_iter().chain(value)));
        }
    }
    Some(rest)
}

/// What follows the length of a value.
#[derive(Clone, Copy)]
enum Holds {
    Bytes,
    Values,
    Entries,
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use serde::Serialize;

    use super::*;
    use crate::kernel::payload::Payload;

    fn form<T: Serialize>(value: &T) -> Vec<u8> {
        canonical(&Payload::encode(value, "a key").unwrap().bytes).unwrap()
    }

    #[test]
    fn every_kind_of_value_has_a_form_and_keeps_it() {
        #[derive(Serialize)]
        struct Everything {
            small: (u8, i8, u16, i16, u32, i32, u64, i64),
            large: (u16, i16, u32, i32, u64, i64),
            floats: (f32, f64),
            texts: Vec<String>,
            options: (Option<u8>, Option<u8>, (), bool, bool),
            many: Vec<u32>,
            bytes: Vec<bytes::Bytes>,
            choice: Result<u8, String>,
        }
        let sizes = [0, 31, 32, 255, 256, 65_535, 65_536];
        let value = Everything {
            small: (1, -1, 2, -2, 3, -3, 4, -4),
            large: (u16::MAX, i16::MIN, u32::MAX, i32::MIN, u64::MAX, i64::MIN),
            floats: (0.5, 0.25),
            texts: sizes.iter().map(|size| "x".repeat(*size)).collect(),
            options: (None, Some(1), (), true, false),
            many: (0..70_000).collect(),
            bytes: sizes.iter().map(|size| vec![7; *size].into()).collect(),
            choice: Err("why".into()),
        };
        let once = form(&value);
        assert_eq!(canonical(&once).as_deref(), Some(&once[..]), "what is canonical stays as it is");
        assert_eq!(once.len(), Payload::encode(&value, "a key").unwrap().bytes.len());
    }

    #[test]
    fn maps_and_structs_are_equal_in_whatever_order_their_entries_come() {
        #[derive(Serialize)]
        struct Here {
            a: u8,
            b: HashMap<String, u32>,
        }
        #[derive(Serialize)]
        struct There {
            b: BTreeMap<String, u32>,
            a: u8,
        }
        let entries = || (0..100).map(|n| (format!("k{n}"), n));
        let there = form(&There { b: entries().collect(), a: 1 });
        for _ in 0..10 {
            assert_eq!(form(&Here { a: 1, b: entries().collect() }), there);
        }
        assert_ne!(form(&Here { a: 2, b: entries().collect() }), there);
    }

    #[test]
    fn what_is_no_value_has_no_form() {
        for bytes in [&[][..], &[0xc1], &[0x92, 1], &[0xa5, b'x'], &[1, 2], &[0xdd, 0xff, 0xff, 0xff, 0xff], &[0xcd, 1]] {
            assert_eq!(canonical(bytes), None, "{bytes:?}");
        }
        assert_eq!(canonical(&[0x91; 1_000]), None, "too deep");
    }
}
