//! The parameters of calls: percent-encoding, instants, filters and cursors.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    document::parse_duration,
    events::model::{EventFilter, EventId, EventState},
    replay::Millis,
    scheme::form_fields,
};

/// The number of events on a page without a `limit`.
const USUAL_LIMIT: usize = 50;
/// The most events on a page.
const MAX_LIMIT: usize = 1000;

/// A parameter that cannot be used; the text names it and says what is expected.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct InvalidParameter(String);

/// The parameters of a query, each at most once.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Parses a query whose parameters are among `known`.
    ///
    /// # Errors
    /// An unknown or repeated parameter, or one that is not UTF-8.
    pub(super) fn parse(query: Option<&str>, known: &[&str]) -> Result<Self, InvalidParameter> {
        let mut parameters: Vec<(String, String)> = Vec::new();
        for (name, value) in form_fields(query.unwrap_or("").as_bytes()) {
            let (Ok(name), Ok(value)) = (String::from_utf8(name), String::from_utf8(value)) else {
                return Err(InvalidParameter("the query is not UTF-8".to_owned()));
            };
            if !known.contains(&name.as_str()) {
                let what = format!("unknown parameter `{name}`; known: {}", known.join(", "));
                return Err(InvalidParameter(what));
            }
            if parameters.iter().any(|(other, _)| *other == name) {
                return Err(InvalidParameter(format!("`{name}` is given twice")));
            }
            parameters.push((name, value));
        }
        Ok(Query(parameters))
    }

    /// Returns a parameter that is present and not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// Returns the filter of `route`, `state`, `event`, `since` and `until`.
    ///
    /// # Errors
    /// An unknown state or a malformed time.
    pub(super) fn filter(&self, now: Millis) -> Result<EventFilter, InvalidParameter> {
        let shared = |name| self.get(name).map(Arc::from);
        let time = |name| self.get(name).map(|text| instant(name, text, now)).transpose();
        Ok(EventFilter {
            route: shared("route"),
            state: self.get("state").map(state).transpose()?,
            event_id: shared("event"),
            since: time("since")?,
            until: time("until")?,
        })
    }

    /// Returns the most events on the page.
    ///
    /// # Errors
    /// Not a positive number.
    pub(super) fn limit(&self) -> Result<usize, InvalidParameter> {
        let Some(text) = self.get("limit") else { return Ok(USUAL_LIMIT) };
        match text.parse::<usize>() {
            Ok(limit) if limit > 0 => Ok(limit.min(MAX_LIMIT)),
            Ok(_) | Err(_) => {
                let what = format!("`limit` must be between 1 and {MAX_LIMIT}, not `{text}`");
                Err(InvalidParameter(what))
            }
        }
    }

    /// Returns the end of the previous page.
    ///
    /// # Errors
    /// Not a cursor that a page returned.
    pub(super) fn cursor(&self) -> Result<Option<EventId>, InvalidParameter> {
        let cursor = self.get("cursor").map(str::parse).transpose();
        cursor.map_err(|_| InvalidParameter("`cursor` must be the `next` of a page".to_owned()))
    }

    /// Returns a parameter that is `true` or `false`.
    ///
    /// # Errors
    /// Another value.
    pub(super) fn flag(&self, name: &str, usual: bool) -> Result<bool, InvalidParameter> {
        match self.get(name) {
            None => Ok(usual),
            Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(_) => Err(InvalidParameter(format!("`{name}` must be true or false"))),
        }
    }
}

/// Returns the state with this name.
///
/// # Errors
/// An unknown name.
pub(super) fn state(text: &str) -> Result<EventState, InvalidParameter> {
    let known = EventState::ALL.into_iter().find(|state| state.label() == text);
    known.ok_or_else(|| {
        let states = EventState::ALL.map(EventState::label).join(", ");
        InvalidParameter(format!("unknown state `{text}`; known: {states}"))
    })
}

/// Parses an instant: RFC 3339, or a duration before `now`.
///
/// # Errors
/// Neither of them.
pub(super) fn instant(name: &str, text: &str, now: Millis) -> Result<Millis, InvalidParameter> {
    if let Some(ago) = parse_duration(text) {
        return Ok(now.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)));
    }
    // A `+` that was not encoded arrives as a space.
    let parsed = OffsetDateTime::parse(&text.replace(' ', "+"), &Rfc3339);
    let millis = parsed.map(|at| at.unix_timestamp_nanos().div_euclid(1_000_000).max(0));
    match millis.map(u64::try_from) {
        Ok(Ok(millis)) => Ok(millis),
        _ => Err(InvalidParameter(format!(
            "`{name}` must be a time such as 2026-01-31T12:00:00Z or a duration such as 1h, \
             not `{text}`"
        ))),
    }
}

/// Returns the current time.
pub(super) fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Decodes the percent-encoding of a part of a path; `None` if it is not UTF-8.
pub(super) fn path_part(text: &str) -> Option<String> {
    // In a path, `+` means itself.
    let text = text.replace('+', "%2B").replace('=', "%3D").replace('&', "%26");
    let (decoded, _) = form_fields(text.as_bytes()).next()?;
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 7] = ["route", "state", "event", "since", "until", "limit", "cursor"];
    const NOW: Millis = 1_764_500_000_000;

    fn parse(query: &str) -> Query {
        Query::parse(Some(query), &KNOWN).expect("a query")
    }

    #[test]
    fn a_filter_selects_by_every_parameter() {
        let query =
            parse("route=a&state=dead&event=x%2Fy+z&since=1h&until=2025-11-30T11:00:00%2B01:00");
        let filter = query.filter(NOW).expect("a filter");
        assert_eq!(filter.route.as_deref(), Some("a"));
        assert_eq!(filter.state, Some(EventState::Dead));
        assert_eq!(filter.event_id.as_deref(), Some("x/y z"));
        assert_eq!(filter.since, Some(NOW - 3_600_000));
        assert_eq!(filter.until, Some(1_764_496_800_000));
        assert_eq!(parse("state=&route=").filter(NOW), Ok(EventFilter::default()));
    }

    #[test]
    fn a_wrong_parameter_is_named() {
        let error = |query: &str| {
            let parsed = Query::parse(Some(query), &KNOWN);
            let checked = parsed.and_then(|query| {
                query.filter(NOW)?;
                query.limit()?;
                query.cursor()
            });
            checked.expect_err(query).to_string()
        };
        for (query, part) in [
            ("status=dead", "unknown parameter `status`"),
            ("state=lost", "pending, delivering, delivered"),
            ("since=yesterday", "`since` must be a time"),
            ("until=1", "`until` must be a time"),
            ("limit=0", "`limit`"),
            ("limit=-1", "`limit`"),
            ("cursor=abc", "`cursor`"),
            ("route=a&route=b", "twice"),
            ("route=%ff", "UTF-8"),
        ] {
            assert!(error(query).contains(part), "{query}: {}", error(query));
        }
    }

    #[test]
    fn a_limit_is_bounded() {
        assert_eq!(parse("").limit(), Ok(USUAL_LIMIT));
        assert_eq!(parse("limit=7").limit(), Ok(7));
        assert_eq!(parse("limit=1000000").limit(), Ok(MAX_LIMIT));
    }

    #[test]
    fn times_before_1970_and_with_decimals_are_read() {
        let at = |text: &str| instant("since", text, NOW);
        assert_eq!(at("1969-01-01T00:00:00Z"), Ok(0));
        assert_eq!(at("1970-01-01T00:00:01.5Z"), Ok(1500));
        assert_eq!(at("1970-01-01T01:00:00 01:00"), Ok(0));
        assert_eq!(at("7d"), Ok(NOW - 7 * 86_400_000));
        assert!(at("-1h").is_err() && at("").is_err() && at("2026-01-31").is_err());
    }

    #[test]
    fn a_part_of_a_path_is_decoded() {
        for (text, decoded) in [("a%2Fb%20c", "a/b c"), ("a+b=c&d", "a+b=c&d"), ("%ED%95%9C", "한")]
        {
            assert_eq!(path_part(text).as_deref(), Some(decoded));
        }
        assert_eq!(path_part("%ff"), None);
        assert_eq!(path_part(""), None);
    }
}
