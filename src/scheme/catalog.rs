//! The schemes that are built in: the files of `schemes/`.

use std::sync::Arc;

use super::Scheme;

/// Id and text of every built-in scheme, sorted by id.
const FILES: &[(&str, &str)] = &[
    ("govalid", include_str!("../../schemes/govalid.toml")),
    ("vivoldi", include_str!("../../schemes/vivoldi.toml")),
    ("vivreal", include_str!("../../schemes/vivreal.toml")),
];

impl Scheme {
    /// A scheme that is built in.
    pub fn builtin(id: &str) -> Option<Arc<Scheme>> {
        let (id, text) = FILES.iter().find(|(known, _)| *known == id)?;
        Some(Scheme::parse(id, text).expect("every built-in scheme compiles: a test compiles them"))
    }

    /// The ids of all built-in schemes, sorted.
    pub fn builtin_ids() -> impl Iterator<Item = &'static str> {
        FILES.iter().map(|(id, _)| *id)
    }

    /// The text of a built-in scheme.
    pub fn builtin_text(id: &str) -> Option<&'static str> {
        FILES.iter().find(|(known, _)| *known == id).map(|(_, text)| *text)
    }
}
