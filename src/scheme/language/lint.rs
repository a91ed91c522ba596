//! What a scheme may not say although it can be written: claims that its message does not keep.

use crate::{
    document::Field,
    scheme::{
        Timestamp,
        event::{Event, Grammar},
        source::{Piece, Source, Template, Value},
        time::Unit,
    },
};

/// Refuses a message from which the parts cannot be told apart again: an attacker could move bytes
/// from one part to the next without changing what is signed.
pub(super) fn message(
    field: &Field<'_>,
    message: &Template,
    timestamp: Option<&Timestamp>,
    event: Option<&Event>,
) {
    let is_timestamp = |source: &Source| match timestamp {
        Some(timestamp) => *source == Source::Timestamp || *source == timestamp.from,
        None => false,
    };
    let unit = timestamp.map(|timestamp| timestamp.unit);
    let open = unit.is_some_and(Unit::is_open_ended);
    if timestamp.is_none() && message.covers(&Source::Timestamp) {
        field.error("`{timestamp}` needs a section `[timestamp]`", None);
    }
    for pair in message.0.windows(2) {
        match pair {
            [Piece::Value(value), next] if is_timestamp(&value.source) && open => {
                let separated = matches!(next, Piece::Literal(text) if !text[0].is_ascii_digit());
                if !separated {
                    unseparated(field, "the timestamp has a variable length");
                }
            }
            [Piece::Value(_), Piece::Value(next)] if is_timestamp(&next.source) && open => {
                unseparated(field, "the timestamp has a variable length");
            }
            [Piece::Value(value), Piece::Value(next)] => {
                let rfc3339 = is_timestamp(&next.source) && unit == Some(Unit::Rfc3339);
                if is_free(value) && !is_timestamp(&value.source) && !rfc3339 {
                    unseparated(field, "a value of the sender's choice has a variable length");
                }
            }
            _ => {}
        }
    }
    if let Some(Event::Id { from, signed: true, grammar: Grammar::Visible, .. }) = event {
        let last = message.0.last();
        let inside = |source: &Source| {
            let of =
                |piece: &Piece| matches!(piece, Piece::Value(value) if value.source == *source);
            message.0.iter().any(of) && !last.is_some_and(of)
        };
        if from.iter().any(inside) {
            let help = "give the event `grammar = \"word\"`".to_owned();
            field.error("the event id could contain what separates it", Some(help));
        }
    }
}

fn unseparated(field: &Field<'_>, why: &str) {
    let help = "write what stands between the parts in the sender's message".to_owned();
    field.error(format!("{why}, and the message does not separate it"), Some(help));
}

/// Whether the value's length is up to whoever writes the request.
fn is_free(value: &Value) -> bool {
    let fixed = matches!(value.filters.last(), Some(crate::scheme::source::Filter::Sha256));
    let outside = match value.source {
        Source::Header(_)
        | Source::Item(_)
        | Source::Json(_)
        | Source::Query(_)
        | Source::Form(_) => true,
        Source::Body
        | Source::Timestamp
        | Source::Url
        | Source::Method
        | Source::Path
        | Source::Secret
        | Source::FormSorted => false,
    };
    outside && !fixed
}

/// Refuses a timestamp that the signature does not cover: it would say nothing about freshness.
pub(super) fn freshness(
    field: &Field<'_>,
    message: &Template,
    timestamp: Option<&Timestamp>,
    body_signed: bool,
) {
    let Some(timestamp) = timestamp else { return };
    let covered = message.covers(&Source::Timestamp)
        || message.covers(&timestamp.from)
        || (body_signed && in_body(&timestamp.from));
    if !covered {
        let help = "put `{timestamp}` into the message, or leave `[timestamp]` out".to_owned();
        field.error("the message does not cover the timestamp", Some(help));
    }
}

/// Refuses an event id that is called signed and is not, or the other way round.
pub(super) fn coverage(
    field: &Field<'_>,
    claimed: bool,
    from: &[Source],
    message: &Template,
    timestamp: Option<&Timestamp>,
    body_signed: bool,
) {
    let covered = from.iter().all(|source| {
        message.covers(source)
            || (body_signed && in_body(source))
            || (message.covers(&Source::Timestamp)
                && timestamp.is_some_and(|timestamp| timestamp.from == *source))
    });
    match (claimed, covered) {
        (true, false) => {
            let help = "`signed = false`: the body's digest then names the event too".to_owned();
            field.error("the message does not cover the event id", Some(help));
        }
        (false, true) => field.error("the message covers the event id: `signed = true`", None),
        (true, true) | (false, false) => {}
    }
}

fn in_body(source: &Source) -> bool {
    matches!(source, Source::Json(_) | Source::Form(_))
}
