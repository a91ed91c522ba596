//! The scheme language: parses and compiles scheme files. Every problem is reported with its place.

mod challenge;
mod fetched;
mod lint;
mod message_signature;
mod parts;
pub(super) mod prepare;
pub(super) mod read;
mod signature;
mod template;
mod token;

use std::sync::Arc;

use crate::{
    document::{Reader, Report, Section},
    scheme::{
        compiled::{
            Agreement, ProofKind, Scheme, SchemeAlias, TimestampRule,
            event::Identification,
            key::{KeyChoice, KeyForm},
            template::{Filter, Inputs, Template, TemplateValue, ValueSource},
            token::HashedPart,
        },
        encoding::Encoding,
    },
};

impl Scheme {
    /// Compiles the text of a scheme file, called `name` in reports.
    ///
    /// # Errors
    /// Every problem, with line, column and a suggestion.
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

    /// Compiles a scheme in a section of another document. `None` if a problem was recorded there.
    pub fn read(root: &Section<'_>) -> Option<Scheme> {
        let mut wanted = Inputs::default();
        let of_section = root.path().rsplit('.').next().filter(|name| !name.is_empty());
        let id = match (root.get("id"), of_section) {
            (Some(field), _) => read::id(&field),
            (None, Some(name)) => Some(name.to_owned()),
            (None, None) => root.require("id").and_then(|field| field.text()),
        };
        let name = root.get("name").map_or_else(|| id.clone(), |field| field.text());
        let aliases = aliases(root);
        let documents = read::texts(root.get("documents"));
        let confirmed = root.get("confirmed").and_then(|f| f.boolean()).unwrap_or(false);
        let notes = read::texts(root.get("notes"));
        let settings = fetched::settings(root, &mut wanted);
        let each = root.get("each").and_then(|field| read::each(&field, &mut wanted));
        let kind = signature::kind(root);
        let sender = match root.get("sender") {
            Some(field) => field.section().and_then(parts::sender),
            None => Some(parts::ordinary_sender()),
        };
        let section = root.get("message_signature").and_then(|f| f.section());
        let (signature, message_signature) = match section {
            Some(section) => {
                message_signature::message_signature(section, kind, &mut wanted).unzip()
            }
            None => {
                let section = root.require("signature").and_then(|f| f.section());
                let read = |section| signature::signature(section, kind, &mut wanted);
                (section.and_then(read), None)
            }
        };
        let is_message_signature = root.has("message_signature");
        let section = root.get("signed_headers").and_then(|f| f.section());
        let signed_headers =
            section.and_then(|section| message_signature::signed_headers(section, &mut wanted));
        let section = root.get("keys").and_then(|f| f.section());
        let fetched = match section {
            Some(section) => Some(fetched::keys(section, &settings, &mut wanted)?),
            None => None,
        };
        let section = root.get("timestamp").and_then(|f| f.section());
        let timestamp = section.and_then(|section| parts::timestamp(section, &mut wanted));
        let field = match kind {
            _ if is_message_signature => None,
            Some(ProofKind::Hmac(_) | ProofKind::Digest(_) | ProofKind::PublicKey(_)) => {
                root.require("message")
            }
            Some(ProofKind::Token | ProofKind::Basic | ProofKind::Jwt) => None,
            // Whether it belongs to the kind cannot be said.
            None => root.get("message"),
        };
        let message = match is_message_signature {
            true => Some(Template::of(ValueSource::SignatureBase)),
            false => field.as_ref().and_then(|field| read::template(field, &mut wanted)),
        };
        if let (Some(field), Some(message), None) = (&field, &message, &signed_headers)
            && message.covers(&ValueSource::SignedHeaders)
        {
            field.error("`{signed-headers}` needs a section `[signed_headers]`", None);
        }
        let variants = variants(root, timestamp.as_ref(), &mut wanted);
        let agree = agreements(root, &mut wanted);
        let identity = read::headers(root.get("identity"), &mut wanted);
        let pinned = read::headers(root.get("pinned"), &mut wanted);
        let token = match kind {
            Some(ProofKind::Jwt) => {
                Some(root.require("token").and_then(|f| f.section()).and_then(token::token)?)
            }
            Some(
                ProofKind::Hmac(_)
                | ProofKind::Digest(_)
                | ProofKind::PublicKey(_)
                | ProofKind::Token
                | ProofKind::Basic,
            ) => None,
            None => root.get("token").and_then(|f| f.section()).and_then(token::token),
        };
        let body_signed = match (&token, &message) {
            (Some(rules), _) => rules.covers(HashedPart::Body),
            (None, Some(message)) => {
                message.covers(&ValueSource::Body)
                    || message.covers(&ValueSource::FormSorted)
                    || is_message_signature
            }
            (None, None) => false,
        };
        let coverage = lint::Coverage {
            signs: match kind {
                Some(ProofKind::Hmac(_) | ProofKind::Digest(_) | ProofKind::PublicKey(_)) => true,
                Some(ProofKind::Token | ProofKind::Basic | ProofKind::Jwt) => false,
                None => message.is_some(),
            },
            message: message.as_ref(),
            message_signature: message_signature.as_ref(),
            signed_headers: signed_headers.as_ref(),
            timestamp: timestamp.as_ref(),
            body_signed,
            token: token.as_ref(),
        };
        let event = root
            .require("event")
            .and_then(|f| f.section())
            .and_then(|section| parts::event(section, &coverage, &mut wanted));
        let url = root.get("url").and_then(|f| f.section()).map(parts::url).unwrap_or_default();
        let section = root.get("key").and_then(|f| f.section());
        let (key, choice) = match section {
            Some(section) => parts::key(section, &mut wanted),
            None => (KeyForm { encoding: Encoding::Text, strip: Vec::new() }, KeyChoice::Global),
        };
        let messages: Vec<_> = message.iter().chain(variants.iter().map(|(_, m)| m)).collect();
        let challenges = challenge::challenges(root, &messages, fetched.is_some(), &mut wanted);
        let oracle = challenge::is_oracle(&challenges, &messages);
        if let (Some(field), Some(message)) = (&field, &message) {
            lint::message(field, message, timestamp.as_ref(), event.as_ref());
            lint::freshness(field, &coverage);
        }
        if is_message_signature {
            message_signature::check_items(root, &wanted);
        }
        let spaces = choice
            .spaces()
            .iter()
            .map(|space| (space.name.to_string(), space.reader.name(space.index).to_owned()))
            .collect();
        let (kind, sender, signature, event) = (kind?, sender?, signature?, event?);
        let message = message.unwrap_or_default();
        let covers_bytes = match &token {
            Some(rules) => rules.covers(HashedPart::Body),
            None => message.covers(&ValueSource::Body) || is_message_signature,
        };
        let pins_body = match &event.identified_by {
            Identification::SignedId(_) | Identification::SignedParts => !covers_bytes,
            Identification::None | Identification::LabelAndBody | Identification::Label => false,
        };
        let digests = match &event.identified_by {
            Identification::SignedId(id) => id.optional || pins_body,
            Identification::None => false,
            Identification::SignedParts | Identification::LabelAndBody | Identification::Label => {
                true
            }
        };
        let scalars = scalars(&message, &variants, &agree);
        let needs_url = needs_url(&message)
            || variants.iter().any(|(_, message)| needs_url(message))
            || token.as_ref().is_some_and(|rules| rules.covers(HashedPart::Url));
        let identity = parts::identity(identity, kind, &signature);
        Some(Scheme {
            id: id?.into(),
            aliases,
            same_as: None,
            name: name?,
            documents,
            confirmed,
            notes,
            sender,
            kind,
            required: parts::needs(&message, timestamp.as_ref(), &event, variants.is_empty()),
            wants_digest: digests
                || is_message_signature
                || hashes_body(&message)
                || agree.iter().any(|agreement| hashes_body(&agreement.with))
                || token.as_ref().is_some_and(|rules| rules.covers(HashedPart::Body)),
            needs_url,
            url,
            pins_body,
            scalars,
            accepts_non_json: event.id().is_some_and(|id| id.optional)
                && !matches!(timestamp, Some(TimestampRule { from: ValueSource::Json(_), .. }))
                && each.is_none()
                && matches!(signature.from[0], ValueSource::Header(_)),
            oracle,
            inputs: wanted,
            signature,
            message,
            message_signature,
            signed_headers,
            variants,
            each,
            token,
            timestamp,
            key,
            choice,
            event,
            identity,
            pinned,
            agree,
            challenges,
            body_signed,
            spaces,
            settings,
            fetched,
        })
    }
}

/// Reads `[aliases]`: other senders that sign alike.
fn aliases(root: &Section<'_>) -> Vec<SchemeAlias> {
    let table = root.get("aliases").and_then(|field| field.section());
    let mut aliases = Vec::new();
    for (id, field) in table.map(|table| table.entries()).unwrap_or_default() {
        let Some(section) = field.section() else { continue };
        if !read::is_id(&id) {
            field.error(read::NOT_AN_ID, None);
        }
        let text = |key| section.require(key).and_then(|field| field.text());
        let (name, document) = (text("name"), text("document"));
        let confirmed = section.get("confirmed").and_then(|f| f.boolean()).unwrap_or(false);
        let notes = read::texts(section.get("notes"));
        section.finish();
        aliases.extend(name.zip(document).map(|(name, document)| SchemeAlias {
            id: id.into(),
            name,
            document,
            confirmed,
            notes,
        }));
    }
    aliases
}

/// Reads `[[variant]]`: other messages for requests that have a value.
fn variants(
    root: &Section<'_>,
    timestamp: Option<&TimestampRule>,
    wanted: &mut Inputs,
) -> Vec<(ValueSource, Template)> {
    let mut variants = Vec::new();
    for section in read::sections(root.get("variant")) {
        let when = section.require("when").and_then(|field| read::source(&field, wanted));
        let field = section.require("message");
        let message = field.as_ref().and_then(|field| read::template(field, wanted));
        if let (Some(field), Some(message)) = (&field, &message) {
            lint::message(field, message, timestamp, None);
        }
        section.finish();
        variants.extend(when.zip(message));
    }
    variants
}

/// Reads `[[agree]]`: values that must agree with what is signed.
fn agreements(root: &Section<'_>, wanted: &mut Inputs) -> Vec<Agreement> {
    let mut agreements = Vec::new();
    for section in read::sections(root.get("agree")) {
        let value = section.require("value").and_then(|field| read::source(&field, wanted));
        let with = section.require("with").and_then(|field| read::template(&field, wanted));
        let ignore_case = section.get("ignore_case").and_then(|f| f.boolean()).unwrap_or(false);
        section.finish();
        let agreement = value.zip(with);
        agreements.extend(agreement.map(|(value, with)| Agreement { value, with, ignore_case }));
    }
    agreements
}

/// Returns the members of the body that go into a message or must agree with one.
fn scalars(
    message: &Template,
    variants: &[(ValueSource, Template)],
    agree: &[Agreement],
) -> Vec<(u16, Option<char>)> {
    let templates = variants.iter().map(|(_, message)| message);
    let templates = templates.chain(agree.iter().map(|agreement| &agreement.with)).chain([message]);
    let values = templates.flat_map(|template| template.values());
    let in_messages = values.filter_map(|(value, _)| match value.source {
        ValueSource::Json(pointer) => {
            let without = value.filters.iter().find_map(|filter| match filter {
                Filter::Plain => Some(':'),
                Filter::Line => Some('\n'),
                _ => None,
            });
            Some((pointer, without))
        }
        _ => None,
    });
    let agreeing = agree.iter().filter_map(|agreement| match agreement.value {
        ValueSource::Json(pointer) => Some((pointer, None)),
        _ => None,
    });
    in_messages.chain(agreeing).collect()
}

fn needs_url(message: &Template) -> bool {
    message.values().iter().any(|(value, _)| value.source == ValueSource::Url)
}

/// Returns whether the template contains the body's SHA-256.
fn hashes_body(template: &Template) -> bool {
    let digest = |value: &TemplateValue| {
        value.source == ValueSource::Body && value.filters == [Filter::Sha256]
    };
    template.values().iter().any(|(value, _)| digest(value))
}
