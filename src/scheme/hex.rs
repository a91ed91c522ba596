//! Hexadecimal digests and MACs: written so that the compiler makes vector instructions of it, since
//! both directions stand in the way of every request of most senders.

/// The lower-case digits of a SHA-256.
pub(super) fn encode(digest: &[u8; 32]) -> [u8; 64] {
    let digit = |nibble: u8| nibble + if nibble < 10 { b'0' } else { b'a' - 10 };
    let mut text = [0; 64];
    for (pair, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(digest) {
        *pair = [digit(byte >> 4), digit(byte & 15)];
    }
    text
}

/// Decodes digits in any case to the start of `into`; gives how many bytes, or `None` if there is
/// anything else, half a byte, or more than there is room for.
pub(super) fn decode(text: &[u8], into: &mut [u8]) -> Option<usize> {
    let (pairs, []) = text.as_chunks::<2>() else { return None };
    let into = into.get_mut(..pairs.len())?;
    if !every(text, u8::is_ascii_hexdigit) {
        return None;
    }
    for (byte, [high, low]) in into.iter_mut().zip(pairs) {
        *byte = value(*high) << 4 | value(*low);
    }
    Some(pairs.len())
}

/// The value of a hexadecimal digit: the letters' lowest bits count from one, and only they have
/// the bit of 64.
fn value(digit: u8) -> u8 {
    (digit & 15) + 9 * (digit >> 6)
}

/// Whether all bytes are `fit`, without ending at the first that is not: that makes vectors of it.
pub(super) fn every(text: &[u8], fit: impl Fn(&u8) -> bool) -> bool {
    text.iter().fold(true, |all, byte| all & fit(byte))
}

#[cfg(test)]
mod tests {
    use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn digests_are_written_as_the_library_writes_them(digest: [u8; 32]) {
            let text = HEXLOWER.encode(&digest);
            let found = encode(&digest);
            prop_assert_eq!(found.as_slice(), text.as_bytes());
        }

        #[test]
        fn texts_are_read_as_the_library_reads_them(
            text in prop_oneof!["[0-9a-fA-F]{0,140}", "[0-9a-gA-G/:@`]{0,8}", ".{0,8}"],
        ) {
            let mut bytes = [0; 66];
            let found = decode(text.as_bytes(), &mut bytes).map(|length| bytes[..length].to_vec());
            let expected = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
            prop_assert_eq!(found, expected.filter(|bytes| bytes.len() <= 66));
        }
    }

    #[test]
    fn each_digit_has_its_value() {
        for digit in "0123456789abcdefABCDEF".chars() {
            let expected = digit.to_digit(16).and_then(|value| u8::try_from(value).ok());
            assert_eq!(u8::try_from(digit).ok().map(value), expected, "{digit}");
        }
    }
}
