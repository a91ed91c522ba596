//! `[[handshake]]`: challenges, to which the gateway responds itself.

use http::{HeaderName, HeaderValue, Method};

use crate::{
    document::Section,
    scheme::{
        compile::{read, signature::encoding},
        compiled::{
            challenge::ChallengeRule,
            template::{Inputs, Template, TemplatePiece, ValueSource},
        },
        text::is_word,
    },
};

/// Reads all of them.
pub(super) fn challenges(
    root: &Section<'_>,
    messages: &[&Template],
    fetches: bool,
    wanted: &mut Inputs,
) -> Vec<ChallengeRule> {
    let sections = read::sections(root.get("handshake")).into_iter();
    sections.filter_map(|section| challenge(section, messages, fetches, wanted)).collect()
}

fn challenge(
    section: Section<'_>,
    messages: &[&Template],
    fetches: bool,
    wanted: &mut Inputs,
) -> Option<ChallengeRule> {
    // The members by which a challenge is recognized are read for challenges only.
    let of_events = std::mem::take(&mut wanted.pointers);
    let method = section.require("method").and_then(|field| {
        let words = [("GET", 0), ("HEAD", 1), ("POST", 2)];
        field.one_of(&words).map(|index| [Method::GET, Method::HEAD, Method::POST][index].clone())
    });
    let mut when = Vec::new();
    if let Some(table) = section.get("when").and_then(|field| field.section()) {
        for (name, field) in table.entries() {
            match wanted.source(&name) {
                Ok(source) => when.extend(field.text().map(|value| (source, value.into()))),
                Err((message, help)) => field.error(message, help),
            }
        }
    }
    let items = section.get("unless").map(|field| field.items()).unwrap_or_default();
    let unless = items.iter().filter_map(|field| read::source(field, wanted)).collect();
    let fields = read::texts(section.get("fields")).into_iter().map(Into::into).collect();
    let mut source = |key| section.get(key).map(|field| read::source(&field, wanted));
    let challenge = source("challenge").map_or(Some(None), |source| source.map(Some));
    let verify_token = source("verify_token").map_or(Some(None), |source| source.map(Some));
    let signed = section.require("signed").and_then(|field| field.boolean());
    let mac = section.get("mac").and_then(encoding);
    if mac.is_some() && messages.is_empty() {
        section.error("`mac` needs a key that signs messages", None);
    }
    if mac.is_some() && messages.iter().any(|message| never_word(message).is_none()) {
        let help = "every message must have fixed text that is no word, or be the bare body";
        let what = "the MAC that is answered could be that of an event";
        section.error(what, Some(help.to_owned()));
    }
    let hash = section.get("hash").map(|field| {
        let template = read::template(&field, wanted)?;
        match wanted.source("signature:hash") {
            Ok(ValueSource::Item(slot)) => Some((template, slot)),
            Ok(_) | Err(_) => None,
        }
    });
    let confirm = section.get("confirm").map(|field| {
        if !fetches {
            field.error("`confirm` needs the host of `[keys]`", None);
        }
        if signed != Some(true) {
            field.error("`confirm` needs `signed = true`", None);
        }
        read::template(&field, wanted)
    });
    let (hash, confirm) =
        (hash.map_or(Some(None), |h| h.map(Some)), confirm.map_or(Some(None), |c| c.map(Some)));
    let reply = match section.get("reply") {
        None => Some(Template::default()),
        Some(field) => read::template(&field, wanted),
    };
    let mac_slot = wanted.items.iter().position(|name| &**name == "mac");
    let content_type = match section.get("type") {
        None => Some(HeaderValue::from_static("text/plain; charset=utf-8")),
        Some(field) => field.text().and_then(|text| {
            HeaderValue::from_str(&text).map_err(|_| field.error("not a media type", None)).ok()
        }),
    };
    let header = section.get("reply_header").and_then(|field| {
        let name = field.text()?;
        let parsed = HeaderName::from_bytes(name.as_bytes());
        parsed.map_err(|_| field.error("not a header name", None)).ok()
    });
    section.finish();
    let reader = std::mem::replace(&mut wanted.pointers, of_events);
    Some(ChallengeRule {
        method: method?,
        when,
        unless,
        fields,
        challenge: challenge?,
        verify_token: verify_token?,
        signed: signed?,
        mac,
        hash: hash?,
        confirm: confirm?,
        reply: reply?,
        mac_slot,
        content_type: content_type?,
        header,
        reader,
    })
}

/// Returns whether a challenge returns MACs of words although the signed message of an event could
/// be a word. Bodies that are words are then not events.
pub(super) fn is_oracle(challenges: &[ChallengeRule], messages: &[&Template]) -> bool {
    challenges.iter().any(|challenge| challenge.mac.is_some())
        && messages.iter().any(|message| never_word(message) == Some(WordFree::BodyIsNone))
}

/// Why no signed message is a word.
#[derive(PartialEq, Eq)]
enum WordFree {
    /// It has fixed text that is none.
    Text,
    /// It is the body, and no body may be one.
    BodyIsNone,
}

/// Returns why no message of this form is a word; `None` if one could be.
fn never_word(message: &Template) -> Option<WordFree> {
    let separated = message.0.iter().any(|piece| match piece {
        TemplatePiece::Literal(text) => !is_word(text),
        TemplatePiece::Value(_) | TemplatePiece::Optional(_) => false,
    });
    let bare = match message.0.as_slice() {
        [TemplatePiece::Value(value)] => {
            value.source == ValueSource::Body && value.filters.is_empty()
        }
        _ => false,
    };
    match (separated, bare) {
        (true, _) => Some(WordFree::Text),
        (false, true) => Some(WordFree::BodyIsNone),
        (false, false) => None,
    }
}
