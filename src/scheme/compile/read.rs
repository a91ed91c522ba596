//! Readers of values that are specific to scheme files.

use std::sync::LazyLock;

use crate::{
    document::{Field, Section},
    scheme::compiled::template::{Inputs, Template, ValueSource},
};

/// Reads a list of strings; one string counts as a list of one, nothing as an empty list.
pub(super) fn texts(field: Option<Field<'_>>) -> Vec<String> {
    let items = field.map(|field| field.items()).unwrap_or_default();
    items.iter().filter_map(Field::text).collect()
}

/// Reads the sections of `[[name]]`.
pub(super) fn sections(field: Option<Field<'_>>) -> Vec<Section<'_>> {
    let items = field.map(|field| field.items()).unwrap_or_default();
    items.iter().filter_map(Field::section).collect()
}

/// What is wrong with an ID for which [`is_id`] returns `false`.
pub(super) const NOT_AN_ID: &str = "an id is made of small letters, digits and `-`";

/// Returns whether the text is the ID of a scheme: small letters, digits and `-`.
pub(super) fn is_id(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=64).contains(&text.len()) && text.bytes().all(known)
}

/// Reads the ID of a scheme.
pub(super) fn id(field: &Field<'_>) -> Option<String> {
    let id = field.text()?;
    if !is_id(&id) {
        field.error(NOT_AN_ID, None);
        return None;
    }
    Some(id)
}

/// Reads a source.
pub(super) fn source(field: &Field<'_>, wanted: &mut Inputs) -> Option<ValueSource> {
    let text = field.text()?;
    match wanted.source(&text) {
        Ok(source) => Some(source),
        Err((message, help)) => {
            field.error_within(0..text.len(), message, help);
            None
        }
    }
}

/// Reads the sources of a signature; `header:X-Name-{n}` means ten numbered headers.
pub(super) fn signature_sources(
    field: &Field<'_>,
    wanted: &mut Inputs,
) -> Option<Vec<ValueSource>> {
    let mut sources = Vec::new();
    for item in field.items() {
        let text = item.text()?;
        match text.split_once("{n}") {
            None => sources.push(source(&item, wanted)?),
            Some((before, after)) => {
                for number in 1..=10 {
                    match wanted.source(&format!("{before}{number}{after}")) {
                        Ok(source) => sources.push(source),
                        Err((message, help)) => {
                            item.error(message, help);
                            return None;
                        }
                    }
                }
            }
        }
    }
    if sources.is_empty() {
        field.error("the list of sources is empty", None);
        return None;
    }
    Some(sources)
}

/// Reads `each`: the elements of an array, each of which is signed. Returns the number of their
/// pointer.
pub(super) fn each(field: &Field<'_>, wanted: &mut Inputs) -> Option<u16> {
    let text = field.text()?;
    if !text.ends_with("/*") {
        let help = "write the array's pointer and `/*`: /items/*".to_owned();
        field.error("`each` must be the elements of an array", Some(help));
        return None;
    }
    let added = wanted.pointers.add(&text).map_err(|problem| field.error(problem, None)).ok();
    wanted.each = Some(text);
    added
}

/// Reads a template.
pub(super) fn template(field: &Field<'_>, wanted: &mut Inputs) -> Option<Template> {
    let text = field.text()?;
    match Template::parse(&text, wanted) {
        Ok(template) => Some(template),
        Err(error) => {
            field.error_within(error.at, error.message, error.help);
            None
        }
    }
}

/// Reads a header that is named without `header:`, and returns its slot.
pub(super) fn header(field: &Field<'_>, wanted: &mut Inputs) -> Option<usize> {
    let name = field.text()?;
    wanted.header(&name).map_err(|message| field.error(message, None)).ok()
}

/// Reads a list of headers, and returns their slots.
pub(super) fn headers(field: Option<Field<'_>>, wanted: &mut Inputs) -> Vec<usize> {
    let items = field.map(|field| field.items()).unwrap_or_default();
    items.iter().filter_map(|item| header(item, wanted)).collect()
}

const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];

/// Reads a list of methods and returns it as the value of `Allow`.
pub fn methods(field: &Field<'_>) -> Option<&'static str> {
    static SETS: LazyLock<Vec<String>> = LazyLock::new(|| {
        let names = |set: usize| {
            let listed = METHODS.iter().enumerate().filter(move |(bit, _)| set & (1 << bit) != 0);
            listed.map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
        };
        (0..1 << METHODS.len()).map(names).collect()
    });
    let words: Vec<_> = METHODS.iter().enumerate().map(|(bit, name)| (*name, 1 << bit)).collect();
    let mut set = 0usize;
    for item in field.items() {
        set |= item.one_of(&words)?;
    }
    if set == 0 {
        field.error("the list of methods is empty", None);
        return None;
    }
    Some(&SETS[set])
}
