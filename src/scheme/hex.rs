//! Hexadecimal digests and MACs, written so that the compiler vectorizes them: most senders'
//! requests need one or both directions.

/// Returns the lower-case digits of a SHA-256.
pub(super) fn encode(digest: &[u8; 32]) -> [u8; 64] {
    let digit = |nibble: u8| nibble + if nibble < 10 { b'0' } else { b'a' - 10 };
    let mut text = [0; 64];
    for (pair, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(digest) {
        *pair = [digit(byte >> 4), digit(byte & 15)];
    }
    text
}

/// Decodes digits in any case to the start of `into` and returns the number of bytes; `None` for
/// anything else, half a byte, or more bytes than fit.
pub(super) fn decode(text: &[u8], into: &mut [u8]) -> Option<usize> {
    let (pairs, []) = text.as_chunks::<2>() else { return None };
    let into = into.get_mut(..pairs.len())?;
    let (words, rest) = text.as_chunks::<8>();
    let (quarters, last) = into.as_chunks_mut::<4>();
    let mut faults = 0;
    for (bytes, word) in quarters.iter_mut().zip(words) {
        *bytes = four(u64::from_le_bytes(*word), &mut faults);
    }
    let mut padded = [b'0'; 8];
    padded[..rest.len()].copy_from_slice(rest);
    let bytes = four(u64::from_le_bytes(padded), &mut faults);
    last.copy_from_slice(&bytes[..last.len()]);
    (faults == 0).then_some(pairs.len())
}

/// Decodes eight digits, the first one in the lowest byte of `digits`. Sets bits in `faults` if one
/// is not a digit.
#[inline]
fn four(digits: u64, faults: &mut u64) -> [u8; 4] {
    const EACH: u64 = u64::from_ne_bytes([1; 8]);
    // Of the digits only the letters have the bit of 64. Their lowest four bits count from one.
    let letter = (digits >> 6) & EACH;
    let value = (digits & (15 * EACH)) + 9 * letter;
    // The text of these values must be the input. No value exceeds 15. Only letters are 10 or more.
    let text = value + u64::from(b'0') * EACH + u64::from(b'a' - b'0' - 10) * letter;
    *faults |= text ^ (digits | (letter << 5));
    *faults |= value & (16 * EACH);
    *faults |= (((value + 6 * EACH) >> 4) & EACH) ^ letter;
    let nibbles = value & (15 * EACH);
    let pairs = ((nibbles << 4) | (nibbles >> 8)) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs | (pairs >> 8)) & 0x0000_ffff_0000_ffff;
    let [a, b, c, d, ..] = (fours | (fours >> 16)).to_le_bytes();
    [a, b, c, d]
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
    fn each_byte_is_a_digit_or_a_fault_wherever_it_stands() {
        for byte in 0..=255u8 {
            for at in 0..12 {
                let mut text = *b"0123456789aF";
                text[at] = byte;
                let mut bytes = [0; 6];
                let found = decode(&text, &mut bytes).map(|_| bytes.to_vec());
                assert_eq!(found, HEXLOWER_PERMISSIVE.decode(&text).ok(), "{byte} at {at}");
            }
        }
    }
}
