//! The arguments of a control line.

use std::ops::Range;

/// More than any operation has.
const ARGUMENTS_MAX: usize = 5;

/// Arguments by their places in a line.
#[derive(Debug)]
pub(crate) struct Args {
    places: [(usize, usize); ARGUMENTS_MAX],
    count: usize,
}

impl Args {
    /// Splits what stands in `line` from `from` on at spaces and tabs, several of which are one. Of more than five arguments
    /// the last one is kept in the place of the fifth, since a length is always the last; [`Self::len`] tells.
    pub(crate) fn split(line: &[u8], from: usize) -> Self {
        let mut args = Self { places: [(0, 0); ARGUMENTS_MAX], count: 0 };
        let mut at = from;
        while let Some(rest) = line.get(at..).filter(|rest| !rest.is_empty()) {
            let length = memchr::memchr2(b' ', b'\t', rest).unwrap_or(rest.len());
            if length > 0 {
                args.push(at, at + length);
            }
            at += length + 1;
        }
        args
    }

    fn push(&mut self, start: usize, end: usize) {
        self.places[self.count.min(ARGUMENTS_MAX - 1)] = (start, end);
        self.count += 1;
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// The place of one.
    pub(crate) fn get(&self, index: usize) -> Range<usize> {
        let (start, end) = self.places[index.min(ARGUMENTS_MAX - 1)];
        start..end
    }

    /// The place of the last one.
    pub(crate) fn last(&self) -> Option<Range<usize>> {
        self.count.checked_sub(1).map(|last| self.get(last))
    }
}

/// A number in digits, and in nothing else.
pub(crate) fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_end_at_ascii_spaces_and_tabs_only() {
        let words = |line: &'static [u8]| {
            let args = Args::split(line, 0);
            (0..args.len().min(ARGUMENTS_MAX)).map(|at| &line[args.get(at)]).collect::<Vec<_>>()
        };
        assert_eq!(words(b"a b"), [&b"a"[..], b"b"]);
        assert_eq!(words(b" \ta\t \tb "), [&b"a"[..], b"b"]);
        assert_eq!(words(b""), Vec::<&[u8]>::new());
        assert_eq!(words("caf\u{e9}\u{a0}x 1".as_bytes()), ["caf\u{e9}\u{a0}x".as_bytes(), b"1"]);
        assert_eq!(words("a\u{2028}b\u{85}c\u{3000} 1".as_bytes()), ["a\u{2028}b\u{85}c\u{3000}".as_bytes(), b"1"]);
        assert_eq!(words(b"a\x0cb\x0bc\0 1"), [&b"a\x0cb\x0bc\0"[..], b"1"]);
        assert_eq!(words(b"1 2 3 4 5 6 7"), [&b"1"[..], b"2", b"3", b"4", b"7"]);
        assert_eq!(Args::split(b"1 2 3 4 5 6 7", 0).len(), 7);
    }

    #[test]
    fn a_number_is_digits() {
        assert_eq!(number(b"0"), Some(0));
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        for bad in [&b""[..], b"-1", b"+1", b"1 ", b"x", b"18446744073709551616", b"\xd9\xa1"] {
            assert_eq!(number(bad), None, "{bad:?}");
        }
    }
}
