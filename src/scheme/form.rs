//! `application/x-www-form-urlencoded` (WHATWG URL, section 5): queries and form bodies.

/// The fields in their order, decoded: `+` is a space, `%XX` a byte; a broken escape stays as it is.
pub(super) fn fields(text: &[u8]) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + '_ {
    text.split(|byte| *byte == b'&').filter(|field| !field.is_empty()).map(|field| {
        let mut halves = field.splitn(2, |byte| *byte == b'=');
        let name = halves.next().unwrap_or_default();
        (decode(name), decode(halves.next().unwrap_or_default()))
    })
}

/// The value of the only field called `name`; `None` if there is none or more than one.
pub(super) fn only(text: &[u8], name: &str) -> Option<Vec<u8>> {
    let mut values = fields(text).filter(|(field, _)| field == name.as_bytes());
    let (_, value) = values.next()?;
    values.next().is_none().then_some(value)
}

/// Returns Twilio's normal form: fields sorted by name, each value once and sorted, names and values
/// concatenated. `None` if a name does not begin with a letter, digit or `_`: the text could then
/// continue the signed address, which precedes it.
pub(super) fn sorted(text: &[u8]) -> Option<Vec<u8>> {
    let mut fields: Vec<_> = fields(text).collect();
    fields.sort();
    fields.dedup();
    let is_name = |name: &[u8]| {
        name.first().is_some_and(|first| first.is_ascii_alphanumeric() || *first == b'_')
    };
    fields
        .iter()
        .all(|(name, _)| is_name(name))
        .then(|| fields.into_iter().flat_map(|(name, value)| [name, value]).flatten().collect())
}

/// Returns whether the only fields are `names`, each at most once.
pub(super) fn has_only(text: &[u8], names: &[Box<str>]) -> bool {
    let mut seen = vec![false; names.len()];
    fields(text).all(|(field, _)| {
        let position = names.iter().position(|name| name.as_bytes() == field);
        position.is_some_and(|position| !std::mem::replace(&mut seen[position], true))
    })
}

fn decode(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        rest = tail;
        decoded.push(match (first, tail) {
            (b'+', _) => b' ',
            (b'%', [high, low, tail @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    rest = tail;
                    high * 16 + low
                }
                _ => b'%',
            },
            (byte, _) => *byte,
        });
    }
    decoded
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_decoded_and_only_single_ones_are_given() {
        let text = b"a=1&b=%2B1+x&b=2&c=%zz%4&&d";
        assert_eq!(only(text, "a"), Some(b"1".to_vec()));
        assert_eq!(only(text, "b"), None);
        assert_eq!(only(text, "c"), Some(b"%zz%4".to_vec()));
        assert_eq!(only(text, "d"), Some(Vec::new()));
        assert_eq!(only(text, "e"), None);
    }

    #[test]
    fn sorted_fields_lose_their_duplicates() {
        let text = b"Sid=CA123&SidAccount=AC123&Digits=5678&Digits=1234&Digits=1234";
        let expected = b"Digits1234Digits5678SidCA123SidAccountAC123";
        assert_eq!(sorted(text).as_deref(), Some(expected.as_slice()));
        assert_eq!(sorted(b"%3FFrom=1"), None);
        assert_eq!(sorted(b"=1"), None);
    }
}
