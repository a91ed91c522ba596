//! Digests of parts of a document, independent of location and spacing. A reload compares them.

use sha2::{Digest, Sha256};
use toml::de::DeValue;

/// Returns a digest of a value's keys, types and contents, without locations. It is one-way, so it
/// reveals no secret.
pub(super) fn digest(value: &DeValue<'_>) -> [u8; 32] {
    let mut hash = Sha256::new();
    feed(value, &mut hash);
    hash.finalize().into()
}

/// Feeds a value unambiguously: each part with its type and its length.
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
