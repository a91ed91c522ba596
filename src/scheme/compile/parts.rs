//! The sections about the sender, its timestamps, its keys and its events.

use std::time::Duration;

use http::StatusCode;

use crate::{
    document::{Field, Section},
    scheme::{
        compile::{lint, read, signature},
        compiled::{
            ProofKind, RequiredInputs, SenderProfile, TimestampRule,
            event::{EventRule, IdGrammar, IdRule, Identification, IdentityRule},
            key::{KeyChoice, KeyForm, KeySpace},
            signature::SignatureRule,
            template::{Inputs, Template, ValueSource},
            url::UrlRule,
        },
        encoding::Encoding,
        time::TimeUnit,
    },
};

const DAY: Duration = Duration::from_secs(86_400);

/// Reads `[sender]`: what the sender expects of a response, and how it retries.
pub(super) fn sender(section: Section<'_>) -> Option<SenderProfile> {
    let mut sender = ordinary_sender();
    let duration = |key: &'static str| section.get(key).and_then(|field| field.duration());
    if let Some(answer_within) = duration("answer_within") {
        sender.answer_within = answer_within;
    }
    if let Some(retries) = section.get("retries").and_then(|field| field.text()) {
        sender.retries = retries;
    }
    if let Some(memory) = duration("memory") {
        if memory < DAY {
            section.error("`memory`: an event stays on record for at least 24h", None);
        }
        sender.memory = memory;
    }
    let status = |key: &'static str, otherwise: StatusCode| {
        let given = section.get(key).and_then(|field| field.integer(200..=499));
        given.and_then(|code| StatusCode::from_u16(code as u16).ok()).unwrap_or(otherwise)
    };
    sender.success = status("success", sender.success);
    sender.rejection = status("refusal", sender.rejection);
    if let Some(field) = section.get("methods") {
        sender.methods = read::methods(&field)?;
    }
    if let Some(body) = section.get("body").and_then(|field| field.size()) {
        sender.body = body;
    }
    if let Some(bare) = section.get("bare_answers").and_then(|field| field.boolean()) {
        sender.bare_answers = bare;
    }
    if let Some(headers) = section.get("headers").and_then(|field| field.section()) {
        for (name, field) in headers.entries() {
            match name.parse() {
                Ok(name) => sender.headers.extend(field.text().map(|value| (name, value))),
                Err(_) => field.error(format!("`{name}` is not a header name"), None),
            }
        }
    }
    section.finish();
    Some(sender)
}

/// Returns the profile of a sender without a description.
pub(super) fn ordinary_sender() -> SenderProfile {
    SenderProfile {
        answer_within: Duration::from_millis(4500),
        retries: "not known".to_owned(),
        memory: DAY,
        success: StatusCode::OK,
        rejection: StatusCode::UNAUTHORIZED,
        methods: "POST",
        body: 1 << 20,
        bare_answers: false,
        headers: Vec::new(),
    }
}

/// Reads `[timestamp]`: the signed time of sending.
pub(super) fn timestamp(section: Section<'_>, wanted: &mut Inputs) -> Option<TimestampRule> {
    let from = section.require("from").and_then(|field| read::source(&field, wanted));
    let unit = section.require("unit").and_then(|field| {
        field.one_of(&[
            ("s", TimeUnit::Seconds),
            ("ms", TimeUnit::Millis),
            ("auto", TimeUnit::Auto),
            ("rfc3339", TimeUnit::Rfc3339),
        ])
    });
    let window = section.require("window").and_then(|field| field.duration());
    let future = section.get("future").map_or(window, |field| field.duration());
    section.finish();
    Some(TimestampRule { from: from?, unit: unit?, window: window?, future: future? })
}

/// Reads `[key]`: the form of the secrets, and which one verifies a request.
pub(super) fn key(section: Section<'_>, wanted: &mut Inputs) -> (KeyForm, KeyChoice) {
    let encoding = match section.get("encoding") {
        None => Encoding::Text,
        Some(field) => signature::encoding(field).unwrap_or(Encoding::Text),
    };
    let strip = read::texts(section.get("strip")).into_iter().map(Into::into).collect();
    let choice = section.get("choice").and_then(|f| f.section());
    let choice = choice.and_then(|section| choose(section, wanted)).unwrap_or(KeyChoice::Global);
    section.finish();
    (KeyForm { encoding, strip }, choice)
}

fn choose(section: Section<'_>, wanted: &mut Inputs) -> Option<KeyChoice> {
    let words = |key| read::texts(section.require(key)).into_iter().map(Into::into).collect();
    let header = section.require("header").and_then(|field| read::header(&field, wanted));
    let global = words("global");
    let group = words("group");
    let absent = section.get("absent").and_then(|field| field.one_of(&[("global", true)]));
    let by = section.require("space").and_then(|field| read::header(&field, wanted));
    let mut spaces = Vec::new();
    let tables = section.require("spaces").and_then(|field| field.section());
    for (name, field) in tables.map(|tables| tables.entries()).unwrap_or_default() {
        let Some(space) = field.section() else { continue };
        let values = read::texts(space.require("values"));
        let mut reader = wanted.pointers.clone();
        let index = space.require("index").and_then(|field| {
            let added = reader.add(&field.text()?);
            added.map_err(|problem| field.error(problem, None)).ok()
        });
        space.finish();
        if let Some(index) = index {
            let values = values.into_iter().map(Into::into).collect();
            spaces.push(KeySpace { name: name.into(), values, index, reader });
        }
    }
    section.finish();
    Some(KeyChoice::ByHeader {
        header: header?,
        global,
        absent: absent.unwrap_or(false),
        group,
        by: by?,
        spaces,
    })
}

/// Reads `[event]`: what identifies an event.
pub(super) fn event(
    section: Section<'_>,
    coverage: &lint::Coverage<'_>,
    wanted: &mut Inputs,
) -> Option<EventRule> {
    let field = section.require("id");
    let words = field.as_ref().map(|field| field.items()).unwrap_or_default();
    let word = match words.as_slice() {
        [only] if only.is_text() => only.text(),
        _ => None,
    };
    let unsigned = || match coverage.covers_something() {
        true => Identification::SignedParts,
        false => Identification::LabelAndBody,
    };
    let (identified_by, label) = match word.as_deref() {
        Some("none") => (Identification::None, None),
        Some("signed") => {
            if let (Some(field), false) = (&field, coverage.covers_something()) {
                let help = "id = \"body\"".to_owned();
                field.error("the sender signs no part of the request", Some(help));
            }
            (Identification::SignedParts, None)
        }
        Some("body") => {
            if let (Some(field), true) = (&field, coverage.covers_something()) {
                let help = "id = \"signed\"".to_owned();
                field.error("events are identified by what is signed", Some(help));
            }
            (Identification::LabelAndBody, None)
        }
        _ => {
            let mut from = Vec::new();
            for word in &words {
                from.push(read::source(word, wanted)?);
            }
            let claimed = section.require("signed");
            let signed = claimed.as_ref().and_then(|field| field.boolean())?;
            if let Some(field) = &claimed {
                lint::coverage(field, signed, &from, coverage);
            }
            let absent = section
                .get("absent")
                .and_then(|field| field.one_of(&[("signed", true), ("reject", false)]));
            let grammar = section.get("grammar").map_or(Some(IdGrammar::Visible), grammar)?;
            let id = IdRule { from, grammar, optional: absent.unwrap_or(!signed) };
            let varies = section.get("body_varies").and_then(|field| field.boolean());
            match (signed, varies) {
                (true, _) => (Identification::SignedId(id), None),
                (false, Some(true)) => (Identification::Label, Some(id)),
                (false, Some(false) | None) => (unsigned(), Some(id)),
            }
        }
    };
    let mut distinguish = Vec::new();
    if let Some(table) = section.get("distinguish").and_then(|field| field.section()) {
        for (name, field) in table.entries() {
            match wanted.source(&name) {
                Ok(source) => distinguish.extend(Some(source).zip(grammar(field))),
                Err((message, help)) => field.error(message, help),
            }
        }
    }
    section.finish();
    Some(EventRule { identified_by, label, distinguish })
}

fn grammar(field: Field<'_>) -> Option<IdGrammar> {
    field.one_of(&[
        ("word", IdGrammar::Word),
        ("topic", IdGrammar::Topic),
        ("host", IdGrammar::Host),
        ("visible", IdGrammar::Visible),
    ])
}

/// Reads `[url]`: how the signed address follows from the registered one.
pub(super) fn url(section: Section<'_>) -> UrlRule {
    let mut rule = UrlRule {
        appended: read::texts(section.get("appended")).into_iter().map(Into::into).collect(),
        ..UrlRule::default()
    };
    let flag = |key| section.get(key).and_then(|field: Field<'_>| field.boolean());
    rule.get_parameters = flag("get_parameters").unwrap_or(false);
    rule.optional_port = flag("optional_port").unwrap_or(false);
    rule.optional_userinfo = flag("optional_userinfo").unwrap_or(false);
    section.finish();
    rule
}

/// Returns what the message, the timestamp and a required event ID need.
pub(super) fn needs(
    message: &Template,
    timestamp: Option<&TimestampRule>,
    event: &EventRule,
    same_for_all: bool,
) -> RequiredInputs {
    let mut needs = RequiredInputs::default();
    let mut sources: Vec<&ValueSource> = Vec::new();
    if same_for_all {
        let values = message.values();
        sources.extend(values.iter().filter(|(_, optional)| !optional).map(|(v, _)| &v.source));
    }
    sources.extend(timestamp.map(|timestamp| &timestamp.from));
    let id = event.id().filter(|id| !id.optional).map(|id| id.from.as_slice()).unwrap_or_default();
    sources.extend(id.iter().filter(|source| matches!(source, ValueSource::Header(_))));
    for source in sources {
        match source {
            ValueSource::Header(slot) => needs.headers.push(*slot),
            ValueSource::Item(slot) => needs.items.push(*slot),
            ValueSource::Json(_)
            | ValueSource::Query(_)
            | ValueSource::Form(_)
            | ValueSource::FormData(_) => {
                needs.others.push(source.clone());
            }
            ValueSource::Body
            | ValueSource::Timestamp
            | ValueSource::Url
            | ValueSource::Method
            | ValueSource::Path
            | ValueSource::Pathname
            | ValueSource::QueryText
            | ValueSource::SignedHeaders
            | ValueSource::SignatureBase
            | ValueSource::Secret
            | ValueSource::FormSorted
            | ValueSource::Setting(_) => {}
        }
    }
    needs
}

/// Returns the rule of `identity`: the signature header of a MAC counts by the MAC, other headers
/// count by their values.
pub(super) fn identity(
    slots: Vec<usize>,
    kind: ProofKind,
    signature: &SignatureRule,
) -> IdentityRule {
    let is_mac = matches!(kind, ProofKind::Hmac(_) | ProofKind::Digest(_));
    let (signatures, headers): (Vec<_>, Vec<_>) = slots
        .into_iter()
        .partition(|slot| is_mac && signature.from.contains(&ValueSource::Header(*slot)));
    IdentityRule { headers, mac: !signatures.is_empty() }
}
