//! Many rows of a log, told as one row: their numbers, their lengths and digests, and their bodies end to end. What a database, its
//! driver and the way between their threads ask for a row does not depend on how short it is, and each commit of a
//! long log is one. Rows that are not short are told as ever: they would not fit together, and need not.

use bytes::Bytes;

use crate::kernel::{
    codec::Record,
    id::{CommitNo, Digest},
};

/// Rows with longer bodies are not packed. A page of 2,000, and none of ours is longer, has four megabytes of packed ones at most.
macro_rules! short {
    () => {
        "2048"
    };
}
pub(super) use short;

/// What a statement tells of the short rows of a page.
pub(super) struct Packed<'r> {
    /// Their numbers, with commas.
    pub(super) numbers: &'r str,
    /// The lengths of their bodies, likewise.
    pub(super) lengths: &'r str,
    pub(super) digests: &'r [u8],
    pub(super) bodies: Bytes,
}

impl Packed<'_> {
    /// Takes the rows apart.
    ///
    /// # Errors
    /// What does not fit together, if this is not what such a statement tells.
    pub(super) fn rows(self) -> Result<Vec<(CommitNo, Record)>, &'static str> {
        let Packed { numbers, lengths, digests, mut bodies } = self;
        let (digests, rest) = digests.as_chunks::<32>();
        let mut rows = Vec::with_capacity(digests.len());
        let (mut numbers, mut lengths) = (numbers.split(','), lengths.split(','));
        for digest in digests {
            let number = numbers.next().and_then(|number| number.parse().ok()).ok_or("a row of a page has no number")?;
            let length = lengths.next().and_then(|length| length.parse().ok()).filter(|length| *length <= bodies.len());
            let body = bodies.split_to(length.ok_or("a row of a page has no body")?);
            rows.push((number, Record { digest: Digest(*digest), body }));
        }
        let is_whole = rest.is_empty() && bodies.is_empty() && numbers.next().is_none() && lengths.next().is_none();
        if is_whole { Ok(rows) } else { Err("a page of a log has more than its rows") }
    }
}

/// Puts what was packed and what was not in one order. The page had so many rows when it was packed; what has come since (the log of a
/// run that goes on grows between two statements) is beyond its end, and belongs to the next page.
pub(super) fn merged(
    packed: Vec<(CommitNo, Record)>,
    mut others: Vec<(CommitNo, Record)>,
    count: u64,
) -> Vec<(CommitNo, Record)> {
    others.sort_unstable_by_key(|(commit_no, _)| *commit_no);
    let of_the_page = usize::try_from(count).unwrap_or(usize::MAX).saturating_sub(packed.len());
    let mut page: Vec<_> = packed.into_iter().chain(others.into_iter().take(of_the_page)).collect();
    page.sort_unstable_by_key(|(commit_no, _)| *commit_no);
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(
        numbers: &str,
        lengths: &str,
        digests: usize,
        bodies: &'static [u8],
    ) -> Result<Vec<(CommitNo, Record)>, &'static str> {
        let digests: Vec<u8> = (0..digests).map(|at| u8::try_from(at / 32).unwrap()).collect();
        Packed { numbers, lengths, digests: &digests, bodies: Bytes::from_static(bodies) }.rows()
    }

    #[test]
    fn rows_come_apart_as_they_were_put_together() {
        let row = |number, digest, body: &'static [u8]| {
            (number, Record { digest: Digest([digest; 32]), body: Bytes::from_static(body) })
        };
        assert_eq!(rows("7,8,10", "2,0,1", 96, b"abc").unwrap(), [row(7, 0, b"ab"), row(8, 1, b""), row(10, 2, b"c")]);
        let all = merged(vec![row(7, 0, b"ab"), row(9, 1, b"c")], vec![row(8, 2, b"long")], 3);
        assert_eq!(all, [row(7, 0, b"ab"), row(8, 2, b"long"), row(9, 1, b"c")]);
    }

    #[test]
    fn what_is_written_while_a_page_is_read_leaves_no_hole_in_it() {
        let row = |number| (number, Record { digest: Digest([0; 32]), body: Bytes::new() });
        // 10 was short, and came with 11 when the short rows had been read.
        let page = merged(vec![row(6), row(8)], vec![row(11), row(7), row(9)], 4);
        assert_eq!(page, [row(6), row(7), row(8), row(9)]);
    }

    #[test]
    fn what_does_not_fit_together_is_noticed() {
        for (numbers, lengths, digests, bodies) in [
            ("7", "1", 64, &b"ab"[..]),
            ("7,8", "1,1", 32, b"ab"),
            ("7,8", "1", 64, b"ab"),
            ("7", "2", 32, b"a"),
            ("7", "1", 32, b"ab"),
            ("7", "1", 33, b"a"),
            ("x", "1", 32, b"a"),
            ("7", "-1", 32, b"a"),
        ] {
            assert!(rows(numbers, lengths, digests, bodies).is_err(), "{numbers} {lengths} {digests}");
        }
    }
}
