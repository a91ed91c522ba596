//! Whether a part of a document says the same as before, wherever it stands and however it is spaced.

use sha2::{Digest, Sha256};
use toml::de::DeValue;

/// A digest of a value: keys, kinds and contents, without places. Nothing of it can be read back.
pub(super) fn digest(value: &DeValue<'_>) -> [u8; 32] {
    let mut hash = Sha256::new();
    feed(value, &mut hash);
    hash.finalize().into()
}

/// Feeds a value so that no two values feed the same bytes: each part with its kind and its length.
fn feed(value: &DeValue<'_>, hash: &mut Sha256) {
    let mut part = |kind: u8, text: &str| {
        hash.update([kind]);
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    };
    match value {
        DeValue::String(text) => part(b's', text),
        DeValue::Integer(digits) => part(b'i', &digits.to_string()),
        DeValue::Float(digits) => part(b'f', &digits.to_string()),
        DeValue::Boolean(value) => part(b'b', if *value { "true" } else { "false" }),
        DeValue::Datetime(time) => part(b'd', &time.to_string()),
        DeValue::Array(values) => {
            part(b'a', &values.len().to_string());
            values.iter().for_each(|value| feed(value.get_ref(), hash));
        }
        DeValue::Table(table) => {
            part(b't', &table.len().to_string());
            for (key, value) in table {
                hash.update((key.get_ref().len() as u64).to_be_bytes());
                hash.update(key.get_ref().as_bytes());
                feed(value.get_ref(), hash);
            }
        }
    }
}
