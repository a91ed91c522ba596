//! Comparison of short texts, most of the work of verification apart from hashing. It compiles to a
//! few wide instructions: for so few bytes, a call of `memcmp` or a loop that ends at the first
//! difference costs more. None of this is for secrets.

/// Returns whether all bytes are `fit`.
pub(super) fn every(text: &[u8], fit: impl Fn(&u8) -> bool) -> bool {
    text.iter().fold(true, |all, byte| all & fit(byte))
}

/// Returns all differing bits of two texts of the same length in one word. Bits above the lowest
/// byte may belong to any byte of the texts.
#[inline]
fn difference(one: &[u8], other: &[u8]) -> u64 {
    let word = |bytes: &[u8; 8]| u64::from_ne_bytes(*bytes);
    match (one.last_chunk::<8>(), other.last_chunk::<8>()) {
        // The last word overlaps the one before it.
        (Some(end), Some(other_end)) => {
            let words = one.as_chunks().0.iter().zip(other.as_chunks().0);
            words.fold(word(end) ^ word(other_end), |bits, (a, b)| bits | (word(a) ^ word(b)))
        }
        _ => one.iter().zip(other).fold(0, |bits, (a, b)| bits | u64::from(a ^ b)),
    }
}

/// Returns whether two texts are equal.
#[inline]
pub(super) fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && difference(one, other) == 0
}

/// The similarity of two header names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Likeness {
    /// They are the same.
    Same,
    /// One has `_` where the other has `-`: PHP and other CGI hosts fold them into one.
    Twin,
    /// They are two names.
    None,
}

/// Compares two header names in lower case.
#[inline]
pub(super) fn likeness(one: &str, other: &str) -> Likeness {
    const FOLDED: u64 = u64::from_ne_bytes([b'_' ^ b'-'; 8]);
    let (one, other) = (one.as_bytes(), other.as_bytes());
    if one.len() != other.len() {
        return Likeness::None;
    }
    match difference(one, other) {
        0 => Likeness::Same,
        // Other bits differ than those in which `_` and `-` do.
        bits if bits & !FOLDED != 0 => Likeness::None,
        _ => {
            let fold = |byte: &u8| if *byte == b'_' { b'-' } else { *byte };
            let twins = one.iter().map(fold).eq(other.iter().map(fold));
            if twins { Likeness::Twin } else { Likeness::None }
        }
    }
}

/// Returns whether two texts are equal except for the case of ASCII letters.
pub(super) fn same_letters(one: &[u8], other: &[u8]) -> bool {
    let lower = |byte: &u8| byte.to_ascii_lowercase();
    let differ = |differ: u8, (a, b): (&u8, &u8)| differ | (lower(a) ^ lower(b));
    one.len() == other.len() && one.iter().zip(other).fold(0, differ) == 0
}

/// Returns whether a text is a word: 1 to 128 letters, digits, `_` and `-`.
pub(super) fn is_word(text: &[u8]) -> bool {
    let word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=128).contains(&text.len()) && every(text, word)
}

/// Returns what follows `prefix`.
#[inline]
pub(super) fn after<'t>(text: &'t [u8], prefix: &[u8]) -> Option<&'t [u8]> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    same(start, prefix).then_some(rest)
}

/// Returns bytes as text without control characters.
pub(super) fn escaped(bytes: &[u8]) -> String {
    let mut text: String = String::from_utf8_lossy(bytes).escape_debug().take(200).collect();
    if text.len() == 200 {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn texts_compare_as_slices_do(one in "[aA_]{0,20}", other in "[aA_]{0,20}", cut in 0usize..20) {
            let (one, other) = (one.as_bytes(), other.as_bytes());
            prop_assert_eq!(same(one, other), one == other);
            prop_assert_eq!(same_letters(one, other), one.eq_ignore_ascii_case(other));
            prop_assert_eq!(after(one, other), one.strip_prefix(other));
            let start = &one[..cut.min(one.len())];
            prop_assert!(same(one, one) && same_letters(one, &one.to_ascii_uppercase()));
            prop_assert_eq!(after(one, start), one.strip_prefix(start));
        }

        #[test]
        fn twins_differ_in_dashes_only(one in "[-_a]{0,12}", other in "[-_ar]{0,12}") {
            let fold = |name: &str| name.replace('_', "-");
            for other in [&other, &one, &one.replace('-', "_")] {
                let expected = match (one == *other, fold(&one) == fold(other)) {
                    (true, _) => Likeness::Same,
                    (false, true) => Likeness::Twin,
                    (false, false) => Likeness::None,
                };
                prop_assert_eq!(likeness(&one, other), expected);
            }
        }

        #[test]
        fn one_byte_makes_a_difference(text in "[a-z]{1,40}", at: prop::sample::Index) {
            let mut other = text.clone().into_bytes();
            other[at.index(text.len())] ^= 1;
            prop_assert!(!same(text.as_bytes(), &other) && !same_letters(text.as_bytes(), &other));
            prop_assert!(!every(&other, |byte| text.as_bytes() == other || *byte == 0));
        }
    }
}
