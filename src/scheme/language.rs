//! The scheme language: reads a scheme file and compiles it. Every problem is told with its place.

mod lint;
mod read;

use std::{sync::Arc, time::Duration};

use http::StatusCode;

use super::{
    Agreement, Kind, Needs, Scheme, Sender, Timestamp,
    event::{Event, Grammar},
    keys::{Choice, KeyForm, Space},
    mac::Hash,
    signature::{Encoding, Format, Signature},
    source::{Source, Template, Wanted},
    time::Unit,
};
use crate::document::{Field, Reader, Report, Section};

const DAY: Duration = Duration::from_secs(86_400);

impl Scheme {
    /// Compiles the text of a scheme file, called `name` in reports.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with line, column and what to do.
    pub fn parse(name: &str, text: &str) -> Result<Arc<Scheme>, Report> {
        let reader = Reader::new(name, text);
        let scheme = {
            let table = reader.parse();
            let root = reader.root(&table);
            let scheme = Scheme::read(&root);
            root.finish();
            scheme
        };
        let report = reader.finish();
        match scheme {
            Some(scheme) if !report.is_fatal() => Ok(Arc::new(scheme)),
            _ => Err(report),
        }
    }

    /// Compiles a scheme that stands in a section of another document. `None` if a problem was
    /// recorded there.
    pub fn read(root: &Section<'_>) -> Option<Scheme> {
        let mut wanted = Wanted::default();
        let id = root.require("id").and_then(|field| read::id(&field));
        let name = root.require("name").and_then(|field| field.text());
        let documents = read::texts(root.get("documents"));
        let confirmed = root.get("confirmed").and_then(|f| f.boolean()).unwrap_or(false);
        let notes = read::texts(root.get("notes"));
        if let Some(each) = root.get("each").and_then(|field| field.text()) {
            wanted.each = Some(each);
        }
        let kind = kind(root);
        let sender = root.require("sender").and_then(|f| f.section()).and_then(sender);
        let signature = root
            .require("signature")
            .and_then(|f| f.section())
            .and_then(|section| signature(section, kind, &mut wanted));
        let timestamp = root
            .get("timestamp")
            .and_then(|f| f.section())
            .and_then(|section| timestamp(section, &mut wanted));
        let field = match kind {
            Some(Kind::Token) | None => root.get("message"),
            Some(Kind::Hmac(_) | Kind::Digest(_)) => root.require("message"),
        };
        let message = field.as_ref().and_then(|field| read::template(field, &mut wanted));
        let mut variants = Vec::new();
        for section in read::sections(root.get("variant")) {
            let when = section.require("when").and_then(|f| read::source(&f, &mut wanted));
            let other = section.require("message");
            let template = other.as_ref().and_then(|f| read::template(f, &mut wanted));
            section.finish();
            if let (Some(field), Some(template)) = (&other, &template) {
                lint::message(field, template, timestamp.as_ref(), None);
            }
            variants.extend(when.zip(template));
        }
        let mut agree = Vec::new();
        for section in read::sections(root.get("agree")) {
            let value = section.require("value").and_then(|f| read::source(&f, &mut wanted));
            let with = section.require("with").and_then(|f| read::template(&f, &mut wanted));
            let ignore_case = section.get("ignore_case").and_then(|f| f.boolean()).unwrap_or(false);
            section.finish();
            agree.extend(value.zip(with).map(|(value, with)| Agreement {
                value,
                with,
                ignore_case,
            }));
        }
        let identity = read::headers(root.get("identity"), &mut wanted);
        let pinned = read::headers(root.get("pinned"), &mut wanted);
        let key_section = root.get("key").and_then(|f| f.section());
        let body_signed = message.as_ref().is_some_and(|message| {
            let covers = |source| message.covers(&source);
            covers(Source::Body) || covers(Source::FormSorted)
        });
        let event = root.require("event").and_then(|f| f.section()).and_then(|section| {
            event(section, message.as_ref(), timestamp.as_ref(), body_signed, &mut wanted)
        });
        let (key, choice) = match key_section {
            Some(section) => key(section, &mut wanted),
            None => (KeyForm { encoding: Encoding::Text, strip: Vec::new() }, Choice::Global),
        };
        if let (Some(field), Some(message)) = (&field, &message) {
            lint::message(field, message, timestamp.as_ref(), event.as_ref());
            lint::freshness(field, message, timestamp.as_ref(), body_signed);
        }
        let spaces = choice
            .spaces()
            .iter()
            .map(|space| (space.name.to_string(), space.reader.name(space.index).to_owned()))
            .collect();
        let (kind, sender, signature, event) = (kind?, sender?, signature?, event?);
        let message = message.unwrap_or_default();
        let hashes_body = |t: &Template| {
            t.values().iter().any(|(value, _)| {
                value.source == Source::Body && value.filters == [super::source::Filter::Sha256]
            })
        };
        let digests = match &event {
            Event::Id { signed: true, optional: false, .. } | Event::None => false,
            Event::Id { .. } | Event::Body => true,
        };
        let scheme = Scheme {
            id: id?.into(),
            name: name?,
            documents,
            confirmed,
            notes,
            sender,
            kind,
            needs: needs(&message, timestamp.as_ref(), &event, variants.is_empty()),
            wants_digest: digests
                || hashes_body(&message)
                || agree.iter().any(|agreement| hashes_body(&agreement.with)),
            needs_url: needs_url(&message) || variants.iter().any(|(_, m)| needs_url(m)),
            body_may_be_other: matches!(event, Event::Id { optional: true, .. })
                && !matches!(timestamp, Some(Timestamp { from: Source::Json(_), .. })),
            wanted,
            signature,
            message,
            variants,
            timestamp,
            key,
            choice,
            event,
            identity,
            pinned,
            agree,
            body_signed,
            spaces,
        };
        Some(scheme)
    }
}

fn needs_url(message: &Template) -> bool {
    message.values().iter().any(|(value, _)| value.source == Source::Url)
}

fn kind(root: &Section<'_>) -> Option<Kind> {
    #[derive(Clone, Copy)]
    enum Word {
        Hmac,
        Hash,
        Token,
    }
    let words = [("hmac", Word::Hmac), ("hash", Word::Hash), ("token", Word::Token)];
    let hashes = [("sha1", Hash::Sha1), ("sha256", Hash::Sha256), ("sha512", Hash::Sha512)];
    let word = root.require("kind").and_then(|field| field.one_of(&words))?;
    let hash = |hash: Option<Field<'_>>| hash.and_then(|field| field.one_of(&hashes));
    match word {
        Word::Hmac => hash(root.require("hash")).map(Kind::Hmac),
        Word::Hash => hash(root.require("hash")).map(Kind::Digest),
        Word::Token => Some(Kind::Token),
    }
}

fn sender(section: Section<'_>) -> Option<Sender> {
    let answer_within = section.require("answer_within").and_then(|field| field.duration());
    let retries = section.require("retries").and_then(|field| field.text());
    let memory = section.require("memory").and_then(|field| {
        let memory = field.duration()?;
        if memory < DAY {
            field.error("an event stays on record for at least 24h", None);
        }
        Some(memory)
    });
    let status = |key: &'static str, otherwise: StatusCode| {
        let given = section.get(key).and_then(|field| field.integer(200..=499));
        given.and_then(|code| StatusCode::from_u16(code as u16).ok()).unwrap_or(otherwise)
    };
    let success = status("success", StatusCode::OK);
    let refusal = status("refusal", StatusCode::UNAUTHORIZED);
    let methods = match section.get("methods") {
        None => Some("POST"),
        Some(field) => read::methods(&field),
    };
    let body = section.require("body").and_then(|field| field.size());
    section.finish();
    Some(Sender {
        answer_within: answer_within?,
        retries: retries?,
        memory: memory?,
        success,
        refusal,
        methods: methods?,
        body: body?,
    })
}

fn encoding(field: Field<'_>) -> Option<Encoding> {
    field.one_of(&[
        ("hex", Encoding::Hex),
        ("base64", Encoding::Base64),
        ("base64url", Encoding::Base64Url),
        ("text", Encoding::Text),
    ])
}

fn signature(section: Section<'_>, kind: Option<Kind>, wanted: &mut Wanted) -> Option<Signature> {
    #[derive(Clone, Copy, PartialEq)]
    enum Word {
        Raw,
        KeyValue,
        List,
        Tagged,
        Positional,
    }
    let words = [
        ("raw", Word::Raw),
        ("key-value", Word::KeyValue),
        ("list", Word::List),
        ("tagged", Word::Tagged),
        ("positional", Word::Positional),
    ];
    let from = section.require("from").map(|field| read::signature_sources(&field, wanted));
    let format = match section.get("format") {
        None => Word::Raw,
        Some(field) => field.one_of(&words)?,
    };
    let separator = |section: &Section<'_>| {
        let field = section.require("separator")?;
        let text = field.text()?;
        match text.as_bytes() {
            [byte] => Some(*byte),
            _ => {
                field.error("a separator is one ASCII character", None);
                None
            }
        }
    };
    let text = |key: &'static str| section.get(key).and_then(|field| field.text());
    let format = match format {
        Word::Raw => Some(Format::Raw),
        Word::KeyValue => {
            let separator = separator(&section);
            let field = section.require("field").and_then(|field| field.text());
            separator
                .zip(field)
                .map(|(separator, field)| Format::KeyValue { separator, field: field.into() })
        }
        Word::List => separator(&section).map(|separator| Format::List { separator }),
        Word::Tagged => {
            let separator = separator(&section);
            let tag = section.require("tag").and_then(|field| field.text());
            separator.zip(tag).map(|(separator, tag)| Format::Tagged { separator, tag: tag.into() })
        }
        Word::Positional => {
            let separator = separator(&section);
            let names = read::texts(section.require("items"));
            for name in &names {
                if let Err((message, help)) = wanted.source(&format!("signature:{name}")) {
                    section.error(message, help);
                }
            }
            separator.map(|separator| Format::Positional { separator, items: names.len() })
        }
    };
    let prefix = text("prefix").unwrap_or_default();
    let prefix_optional = section.get("prefix_optional").and_then(|f| f.boolean()).unwrap_or(false);
    let encoding = match kind {
        Some(Kind::Token) => section.get("encoding").map_or(Some(Encoding::Text), encoding),
        Some(Kind::Hmac(_) | Kind::Digest(_)) | None => {
            section.require("encoding").and_then(encoding)
        }
    };
    let algorithm = match section.get("algorithm_item") {
        None => None,
        Some(field) => {
            let slot =
                field.text().and_then(|name| match wanted.source(&format!("signature:{name}")) {
                    Ok(Source::Item(slot)) => Some(slot),
                    Ok(_) => None,
                    Err((message, help)) => {
                        field.error(message, help);
                        None
                    }
                });
            slot.zip(section.require("algorithm").and_then(|field| field.text()))
        }
    };
    section.finish();
    let length = match kind? {
        Kind::Hmac(hash) | Kind::Digest(hash) => Some(hash.length()),
        Kind::Token => None,
    };
    Some(Signature {
        from: from??,
        format: format?,
        prefix: prefix.into(),
        prefix_optional,
        encoding: encoding?,
        length,
        algorithm: algorithm.map(|(slot, name)| (slot, name.into())),
    })
}

fn timestamp(section: Section<'_>, wanted: &mut Wanted) -> Option<Timestamp> {
    let from = section.require("from").and_then(|field| read::source(&field, wanted));
    let unit = section.require("unit").and_then(|field| {
        field.one_of(&[
            ("s", Unit::Seconds),
            ("ms", Unit::Millis),
            ("auto", Unit::Auto),
            ("rfc3339", Unit::Rfc3339),
        ])
    });
    let window = section.require("window").and_then(|field| field.duration());
    let future = section.get("future").map_or(window, |field| field.duration());
    section.finish();
    Some(Timestamp { from: from?, unit: unit?, window: window?, future: future? })
}

fn key(section: Section<'_>, wanted: &mut Wanted) -> (KeyForm, Choice) {
    let encoding = match section.get("encoding") {
        None => Encoding::Text,
        Some(field) => encoding(field).unwrap_or(Encoding::Text),
    };
    let strip = read::texts(section.get("strip")).into_iter().map(Into::into).collect();
    let choice = section.get("choice").and_then(|f| f.section());
    let choice = choice.and_then(|section| choose(section, wanted)).unwrap_or(Choice::Global);
    section.finish();
    (KeyForm { encoding, strip }, choice)
}

fn choose(section: Section<'_>, wanted: &mut Wanted) -> Option<Choice> {
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
            spaces.push(Space { name: name.into(), values, index, reader });
        }
    }
    section.finish();
    Some(Choice::ByHeader {
        header: header?,
        global,
        absent: absent.unwrap_or(false),
        group,
        by: by?,
        spaces,
    })
}

fn event(
    section: Section<'_>,
    message: Option<&Template>,
    timestamp: Option<&Timestamp>,
    body_signed: bool,
    wanted: &mut Wanted,
) -> Option<Event> {
    let field = section.require("id");
    let words = field.as_ref().map(|field| field.items()).unwrap_or_default();
    let word = match words.as_slice() {
        [only] if only.is_text() => only.text(),
        _ => None,
    };
    let event = match word.as_deref() {
        Some("none") => Some(Event::None),
        Some("body") => Some(Event::Body),
        _ => {
            let mut from = Vec::new();
            for word in &words {
                from.push(read::source(word, wanted)?);
            }
            let claimed = section.require("signed");
            let signed = claimed.as_ref().and_then(|field| field.boolean());
            if let (Some(field), Some(signed), Some(message)) = (&claimed, signed, message) {
                lint::coverage(field, signed, &from, message, timestamp, body_signed);
            }
            let optional = section
                .get("absent")
                .and_then(|field| field.one_of(&[("body", true), ("refuse", false)]));
            let grammar = section.get("grammar").map_or(Some(Grammar::Visible), |field| {
                field.one_of(&[("word", Grammar::Word), ("visible", Grammar::Visible)])
            });
            signed.zip(grammar).map(|(signed, grammar)| Event::Id {
                from,
                signed,
                optional: optional.unwrap_or(!signed),
                grammar,
            })
        }
    };
    section.finish();
    event
}

/// What the message, the timestamp and a signed event id cannot do without.
fn needs(
    message: &Template,
    timestamp: Option<&Timestamp>,
    event: &Event,
    same_for_all: bool,
) -> Needs {
    let mut needs = Needs::default();
    let mut sources: Vec<&Source> = Vec::new();
    if same_for_all {
        let values = message.values();
        sources.extend(values.iter().filter(|(_, optional)| !optional).map(|(v, _)| &v.source));
    }
    sources.extend(timestamp.map(|timestamp| &timestamp.from));
    let id = match event {
        Event::Id { from, signed: true, optional: false, .. } => from.as_slice(),
        Event::Id { .. } | Event::Body | Event::None => &[],
    };
    sources.extend(id.iter().filter(|source| matches!(source, Source::Header(_))));
    for source in sources {
        match source {
            Source::Header(slot) => needs.headers.push(*slot),
            Source::Item(slot) => needs.items.push(*slot),
            Source::Json(_) | Source::Query(_) | Source::Form(_) => {
                needs.others.push(source.clone());
            }
            Source::Body
            | Source::Timestamp
            | Source::Url
            | Source::Method
            | Source::Path
            | Source::Secret
            | Source::FormSorted => {}
        }
    }
    needs
}
