//! The tables of a route whose keys are header names.

use http::{HeaderName, HeaderValue};

use super::{
    Surroundings, entries,
    secret::{self, Use},
};
use crate::{
    document::{Field, Section},
    scheme::Scheme,
    upstream::{is_twin, reserved},
};

/// Reads `[route.require_headers]`: name = one value or several.
pub(super) fn required(field: &Field<'_>, route: &Section<'_>) -> Vec<(HeaderName, Vec<String>)> {
    let mut rules: Vec<(HeaderName, Vec<String>)> = Vec::new();
    for (name, field) in entries(field.section()) {
        field.conceal();
        let Some(header) = header(&name, &field, route) else { continue };
        let values: Vec<_> = field.items().iter().filter_map(value).collect();
        if field.items().is_empty() {
            field.error(format!("`{name}` has no accepted value"), None);
        } else if rules.iter().any(|(known, _)| *known == header) {
            field.error(
                format!("`{name}` is listed twice: header names are case-insensitive"),
                None,
            );
        }
        rules.push((header, values));
    }
    rules
}

/// Reads `[route.upstream_headers]`: name = a secret. Returns `None` if one is invalid.
pub(super) fn for_upstream(
    route: &Section<'_>,
    scheme: Option<&Scheme>,
    surroundings: &Surroundings<'_>,
) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let Some(field) = route.get("upstream_headers") else { return Some(Vec::new()) };
    let security = scheme.map_or([].as_slice(), Scheme::headers);
    let errors = route.errors();
    let headers = with_secrets(&field, surroundings, |name, field| {
        let header = header(name, field, route)?;
        if let Some(why) = reserved(&header, security) {
            let help = "use a name that nobody else uses, such as X-Gateway-Token";
            field.error(format!("`{name}` {why}"), Some(help.to_owned()));
        }
        Some(header)
    });
    (route.errors() == errors).then_some(headers)
}

/// Reads a table of headers with their values: name = a secret. `header` returns the header of a
/// name, and reports a name that cannot be set.
pub(super) fn with_secrets(
    field: &Field<'_>,
    surroundings: &Surroundings<'_>,
    header: impl Fn(&str, &Field<'_>) -> Option<HeaderName>,
) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for (name, field) in entries(field.section()) {
        if !field.is_table() {
            field.conceal();
        }
        let Some(header) = header(&name, &field) else { continue };
        if headers.iter().any(|(known, _)| is_twin(known.as_str(), header.as_str())) {
            let what = format!(
                "`{name}` is listed twice: header names are case-insensitive, and many hosts do \
                 not distinguish `-` from `_`"
            );
            field.error(what, None);
        }
        let secret = secret::read(&field, Use::Header, surroundings);
        let value = secret.and_then(|secret| HeaderValue::from_bytes(secret.expose()).ok());
        headers.extend(value.map(|mut value| {
            value.set_sensitive(true);
            (header, value)
        }));
    }
    headers
}

/// Returns the header with this name, or reports that there can be none.
pub(super) fn header_name(name: &str, field: &Field<'_>) -> Option<HeaderName> {
    let header = HeaderName::from_bytes(name.as_bytes());
    header.map_err(|_| field.error(format!("`{name}` is not a valid header name"), None)).ok()
}

/// Reads a header name, and reports a key of the route that is in the wrong place.
fn header(name: &str, field: &Field<'_>, route: &Section<'_>) -> Option<HeaderName> {
    if route.knows(name) {
        let help = "write it before the first [route.…] heading; if a header is meant, write its \
                    name with a capital letter";
        let what = format!("`{name}` is listed as a header, but is a key of the route");
        field.error(what, Some(help.to_owned()));
        return None;
    }
    header_name(name, field)
}

fn value(field: &Field<'_>) -> Option<String> {
    let value = field.text()?;
    if HeaderValue::from_str(&value).is_err() || value.trim() != value {
        let what = format!("`{}` cannot have this value", field.path());
        field.error(what, Some("a header's value has no white space around it".to_owned()));
        return None;
    }
    Some(value)
}
