//! `docs/scheme-files.md`, from which the JSON Schema of scheme files is generated, has exactly the
//! keys that the reader knows.

use std::{collections::BTreeSet, path::Path};

use super::*;
use crate::document::Reader;

/// The documented keys as dotted paths; a heading counts as a key of the table above it.
fn documented() -> BTreeSet<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/scheme-files.md");
    let text = std::fs::read_to_string(page).expect("docs/scheme-files.md");
    let (mut section, mut keys) = (None, BTreeSet::new());
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## ").or(line.strip_prefix("### ")) {
            let name = heading.trim_matches(['`', '[', ']']);
            section = match name {
                "Top level" => Some(String::new()),
                _ if heading.starts_with("`[") => Some(format!("{name}.")),
                _ => None,
            };
            keys.extend(heading.starts_with("`[").then(|| name.to_owned()));
        } else if let (Some(section), Some(row)) = (&section, line.strip_prefix("| `")) {
            // Tables about values begin with a heading and have three columns less.
            let is_key = line.matches(" | ").count() == 3;
            let (key, _) = row.split_once('`').expect("a key in code font");
            keys.extend(is_key.then(|| format!("{section}{key}")));
        }
    }
    keys
}

/// Every key that the reader asks the built-in files for.
fn asked() -> BTreeSet<String> {
    let mut asked = BTreeSet::new();
    for id in Scheme::builtin_ids() {
        let reader = Reader::new(id, Scheme::builtin_text(id).expect("a text"));
        let table = reader.parse();
        let root = reader.root(&table);
        assert!(Scheme::read(&root).is_some(), "{id}");
        asked.extend(reader.asked());
    }
    // In these tables, the author chooses the names.
    let unnamed = |key: String| {
        let named = ["aliases", "key.choice.spaces", "settings"].into_iter().find_map(|table| {
            let rest = key.strip_prefix(table)?.strip_prefix('.')?;
            Some(format!("{table}.{}", rest.split_once('.')?.1))
        });
        named.unwrap_or(key)
    };
    asked.into_iter().map(unnamed).collect()
}

#[test]
fn the_reference_documents_every_key_and_no_other() {
    let (documented, asked) = (documented(), asked());
    assert!(asked.len() > 90, "{asked:?}");
    let missing: Vec<_> = asked.difference(&documented).collect();
    let surplus: Vec<_> = documented.difference(&asked).collect();
    assert!(missing.is_empty() && surplus.is_empty(), "missing {missing:?}, surplus {surplus:?}");
}
