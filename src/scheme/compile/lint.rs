//! Checks of well-formed schemes: declarations that the signed message does not support.

use crate::{
    document::Field,
    scheme::{
        compiled::{
            TimestampRule,
            event::{EventRule, IdGrammar, IdRule, Identification},
            message_signature::{Component, MessageSignatureRule},
            signature::SignedHeadersRule,
            template::{Filter, Template, TemplatePiece, TemplateValue, ValueSource},
            token::TokenRules,
        },
        time::TimeUnit,
    },
};

/// Reports a message whose parts cannot be separated unambiguously: an attacker could move bytes
/// from one part to the next without changing what is signed.
pub(super) fn message(
    field: &Field<'_>,
    message: &Template,
    timestamp: Option<&TimestampRule>,
    event: Option<&EventRule>,
) {
    let is_timestamp = |source: &ValueSource| match timestamp {
        Some(timestamp) => *source == ValueSource::Timestamp || *source == timestamp.from,
        None => false,
    };
    let unit = timestamp.map(|timestamp| timestamp.unit);
    let open = unit.is_some_and(TimeUnit::is_open_ended);
    if timestamp.is_none() && message.covers(&ValueSource::Timestamp) {
        field.error("`{timestamp}` needs a section `[timestamp]`", None);
    }
    for pair in message.0.windows(2) {
        match pair {
            [TemplatePiece::Value(value), next] if is_timestamp(&value.source) && open => {
                let separated =
                    matches!(next, TemplatePiece::Literal(text) if !text[0].is_ascii_digit());
                if !separated {
                    unseparated(field, "the timestamp has a variable length");
                }
            }
            [TemplatePiece::Value(_), TemplatePiece::Value(next)]
                if is_timestamp(&next.source) && open =>
            {
                unseparated(field, "the timestamp has a variable length");
            }
            [TemplatePiece::Value(value), TemplatePiece::Value(next)] => {
                let rfc3339 = is_timestamp(&next.source) && unit == Some(TimeUnit::Rfc3339);
                if is_free(value) && !is_timestamp(&value.source) && !rfc3339 {
                    unseparated(field, "a value of the sender's choice has a variable length");
                }
            }
            _ => {}
        }
    }
    if let Some(Identification::SignedId(IdRule { from, grammar: IdGrammar::Visible, .. })) =
        event.map(|event| &event.identified_by)
    {
        let last = message.0.last();
        let inside = |source: &ValueSource| {
            let of = |piece: &TemplatePiece| matches!(piece, TemplatePiece::Value(value) if value.source == *source);
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

/// Returns whether the author of the request chooses the value's length.
fn is_free(value: &TemplateValue) -> bool {
    let fixed = matches!(value.filters.last(), Some(Filter::Sha256));
    let outside = match value.source {
        ValueSource::Header(_)
        | ValueSource::Item(_)
        | ValueSource::Json(_)
        | ValueSource::Query(_)
        | ValueSource::QueryText
        | ValueSource::SignedHeaders
        | ValueSource::Form(_)
        | ValueSource::FormData(_) => true,
        ValueSource::Body
        | ValueSource::Timestamp
        | ValueSource::Url
        | ValueSource::Method
        | ValueSource::Path
        | ValueSource::Pathname
        | ValueSource::SignatureBase
        | ValueSource::Secret
        | ValueSource::FormSorted
        | ValueSource::Setting(_) => false,
    };
    outside && !fixed
}

/// Reports a timestamp that the signature does not cover: it would not prove freshness.
pub(super) fn freshness(field: &Field<'_>, coverage: &Coverage<'_>) {
    let Some(timestamp) = coverage.timestamp else { return };
    if !coverage.covers(&timestamp.from) {
        let help = "put `{timestamp}` into the message, or leave `[timestamp]` out".to_owned();
        field.error("the message does not cover the timestamp", Some(help));
    }
}

/// What the proof of a scheme covers.
pub(super) struct Coverage<'c> {
    /// Whether the kind of the scheme signs a message.
    pub(super) signs: bool,
    pub(super) message: Option<&'c Template>,
    pub(super) message_signature: Option<&'c MessageSignatureRule>,
    pub(super) signed_headers: Option<&'c SignedHeadersRule>,
    pub(super) timestamp: Option<&'c TimestampRule>,
    pub(super) body_signed: bool,
    pub(super) token: Option<&'c TokenRules>,
}

impl Coverage<'_> {
    /// Returns whether it covers any part of the request.
    pub(super) fn covers_something(&self) -> bool {
        self.signs || self.token.is_some_and(|rules| !rules.hashes.is_empty())
    }

    fn covers(&self, source: &ValueSource) -> bool {
        let timestamp = self.timestamp.is_some_and(|timestamp| timestamp.from == *source);
        let in_message = self.message.is_some_and(|message| {
            message.covers(source) || (timestamp && message.covers(&ValueSource::Timestamp))
        });
        in_message
            || (self.body_signed && in_body(source))
            || self.message_signature.is_some_and(|rule| in_components(rule, source))
            || self.signed_headers.is_some_and(|rule| match source {
                ValueSource::Header(slot) => rule.required.contains(slot),
                _ => false,
            })
    }
}

/// Reports an event ID that is declared as signed and is not, or the reverse.
pub(super) fn coverage(
    field: &Field<'_>,
    claimed: bool,
    from: &[ValueSource],
    coverage: &Coverage<'_>,
) {
    match (claimed, from.iter().all(|source| coverage.covers(source))) {
        (true, false) => {
            let help = "`signed = false`: the ID is then only a label".to_owned();
            field.error("the message does not cover the event id", Some(help));
        }
        (false, true) => field.error("the message covers the event id: `signed = true`", None),
        (true, true) | (false, false) => {}
    }
}

/// Returns whether every accepted message signature covers a value.
fn in_components(rule: &MessageSignatureRule, source: &ValueSource) -> bool {
    match source {
        ValueSource::Header(slot) => rule.fields.contains(slot),
        ValueSource::Item(_) => true,
        ValueSource::Method => rule.covers(&Component::Method),
        ValueSource::Path => rule.covers(&Component::RequestTarget),
        ValueSource::Query(_) => rule.covers(&Component::Query),
        _ => false,
    }
}

fn in_body(source: &ValueSource) -> bool {
    matches!(source, ValueSource::Json(_) | ValueSource::Form(_) | ValueSource::FormData(_))
}
