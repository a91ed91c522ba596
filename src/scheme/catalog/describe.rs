//! Descriptions of schemes for `sealgate schemes`, the log at start and the documentation.

use std::{fmt::Write, time::Duration};

use crate::scheme::{
    compiled::{
        ProofKind, Scheme,
        event::{IdRule, Identification},
        template::{Filter, Template, TemplatePiece, TemplateValue, ValueSource},
        token::{HashedPart, TokenAlgorithm},
    },
    json::JsonPointers,
    mac::HashAlgorithm,
    text::escaped,
    time::TimeUnit,
};

impl Scheme {
    /// Returns the kind of proof in a few words.
    pub fn proof(&self) -> &'static str {
        match (self.kind, &self.token) {
            (ProofKind::Hmac(HashAlgorithm::Sha1), _) => "HMAC-SHA-1",
            (ProofKind::Hmac(HashAlgorithm::Sha256), _) => "HMAC-SHA-256",
            (ProofKind::Hmac(HashAlgorithm::Sha512), _) => "HMAC-SHA-512",
            (ProofKind::Digest(HashAlgorithm::Sha1), _) => "SHA-1 with the secret",
            (ProofKind::Digest(HashAlgorithm::Sha256), _) => "SHA-256 with the secret",
            (ProofKind::Digest(HashAlgorithm::Sha512), _) => "SHA-512 with the secret",
            (ProofKind::Token, _) => "static token",
            (ProofKind::Basic, _) => "user and password",
            (ProofKind::PublicKey(algorithm), _) => algorithm.name(),
            (ProofKind::Jwt, Some(rules)) => match rules.algorithm {
                TokenAlgorithm::Hs256 => "JWT HS256",
                TokenAlgorithm::Rs256 => "JWT RS256",
                TokenAlgorithm::Es256 => "JWT ES256",
            },
            (ProofKind::Jwt, None) => "JWT",
        }
    }

    /// Returns a warning, for the log at start, if the proof does not cover what the upstream acts
    /// on.
    pub fn warning(&self) -> Option<&'static str> {
        match self.kind {
            ProofKind::Token | ProofKind::Basic => {
                Some("the sender signs nothing: anyone who has seen one request can forge others")
            }
            _ if self.body_signed => None,
            ProofKind::Jwt => Some(
                "the token does not cover the body: anyone who has seen one request can send \
                 another body until the token expires",
            ),
            ProofKind::Hmac(_) | ProofKind::Digest(_) | ProofKind::PublicKey(_) => Some(
                "the signature does not cover the body: anyone who has seen one request can send \
                 another body with it",
            ),
        }
    }

    /// Returns what identifies an event.
    fn identification(&self) -> String {
        let list = |id: &IdRule| {
            id.from
                .iter()
                .map(|source| self.spell(source, &self.inputs.pointers))
                .collect::<Vec<_>>()
                .join(" and ")
        };
        let mut text = match &self.event.identified_by {
            Identification::None => "nothing: each delivery is forwarded".to_owned(),
            Identification::SignedId(id) if id.optional => {
                format!("{} (signed), else the signed parts", list(id))
            }
            Identification::SignedId(id) => format!("{} (signed)", list(id)),
            Identification::SignedParts => match (&self.token, self.body_signed) {
                (_, true) if self.message_is_body() => "the body".to_owned(),
                _ => "the signed parts".to_owned(),
            },
            Identification::LabelAndBody => match &self.event.label {
                Some(id) => format!("{} (unsigned) and the body", list(id)),
                None => "the body (unsigned)".to_owned(),
            },
            Identification::Label => self
                .event
                .label
                .as_ref()
                .map(|id| format!("{} (unsigned)", list(id)))
                .unwrap_or_default(),
        };
        for (source, _) in &self.event.distinguish {
            text.push_str(&format!(", with {}", self.spell(source, &self.inputs.pointers)));
        }
        text
    }

    /// Returns whether nothing but the body and a timestamp is signed.
    fn message_is_body(&self) -> bool {
        let is_part = |source: &ValueSource| {
            !matches!(source, ValueSource::Body | ValueSource::Timestamp | ValueSource::Secret)
        };
        match &self.token {
            Some(rules) => rules.hashes.iter().all(|hash| hash.of == HashedPart::Body),
            None => !self.message.values().iter().any(|(value, _)| is_part(&value.source)),
        }
    }

    /// Returns what someone who holds a captured request can change so that it passes again, or
    /// send again as it is.
    pub fn replayable(&self) -> String {
        let mut parts = Vec::new();
        match &self.event.identified_by {
            Identification::None => {
                parts.push("the request as it is, any number of times".to_owned())
            }
            Identification::LabelAndBody | Identification::Label => {
                parts.push("any part of the request except the credential".to_owned());
            }
            Identification::SignedId(_) | Identification::SignedParts => {}
        }
        for (source, grammar) in &self.event.distinguish {
            parts.push(format!(
                "{} ({})",
                self.spell(source, &self.inputs.pointers),
                grammar.describe()
            ));
        }
        if self.pins_body {
            parts.push("the body, before the event's first arrival".to_owned());
        }
        if !self.pinned.is_empty() {
            let names: Vec<_> = self
                .pinned
                .iter()
                .map(|slot| format!("`{}`", self.inputs.headers[*slot]))
                .collect();
            parts.push(format!("{}, before the event's first arrival", names.join(", ")));
        }
        if parts.is_empty() { "nothing".to_owned() } else { parts.join("; ") }
    }

    /// Returns a source in words; `pointers` are those of the body's members.
    pub(super) fn spell(&self, source: &ValueSource, pointers: &JsonPointers) -> String {
        let of_pointer = |pointer: &u16| pointers.name(*pointer).to_owned();
        match source {
            ValueSource::Header(slot) => format!("`{}`", self.inputs.headers[*slot]),
            ValueSource::Item(slot) => format!("`{}` of the signature", self.inputs.items[*slot]),
            ValueSource::Json(pointer) => format!("`{}`", of_pointer(pointer)),
            ValueSource::Query(name) => format!("`{name}` of the query"),
            ValueSource::Form(name) | ValueSource::FormData(name) => {
                format!("`{name}` of the form")
            }
            ValueSource::Setting(number) => {
                format!("the setting `{}`", self.inputs.settings[*number])
            }
            ValueSource::Body => "the body".to_owned(),
            ValueSource::Timestamp => "the timestamp".to_owned(),
            ValueSource::Url => "the address".to_owned(),
            ValueSource::Method => "the method".to_owned(),
            ValueSource::Path => "the path".to_owned(),
            ValueSource::Pathname => "the path without the query".to_owned(),
            ValueSource::QueryText => "the query".to_owned(),
            ValueSource::SignedHeaders => "the headers that the sender lists".to_owned(),
            ValueSource::SignatureBase => "the covered components".to_owned(),
            ValueSource::Secret => "the secret".to_owned(),
            ValueSource::FormSorted => "the form".to_owned(),
        }
    }

    fn time(&self) -> String {
        match (&self.timestamp, &self.token) {
            (Some(timestamp), _) => {
                let unit = match timestamp.unit {
                    TimeUnit::Seconds => "seconds",
                    TimeUnit::Millis => "milliseconds",
                    TimeUnit::Auto => "seconds or milliseconds",
                    TimeUnit::Rfc3339 => "RFC 3339",
                };
                format!("{} back, {unit}", span(timestamp.window))
            }
            (None, Some(rules)) if rules.expires => "until the token expires".to_owned(),
            (None, Some(rules)) if rules.max_age.is_some() => {
                format!("{} from the token's issue", span(rules.lifetime))
            }
            (None, _) => "none".to_owned(),
        }
    }

    /// Returns the keys that a route of this scheme configures.
    fn configured(&self) -> String {
        let mut keys = Vec::new();
        if self.fetched.is_none() {
            let key = match (self.takes_public_key(), self.takes_tokens()) {
                (true, true) => "`jwks` or `public_key`",
                (true, false) => "`public_key`",
                (false, _) => "`secret`",
            };
            keys.push(key.to_owned());
        }
        keys.extend(self.settings.iter().map(|setting| {
            let mark = if setting.values.is_empty() { "" } else { " (optional)" };
            format!("`settings.{}`{mark}", setting.name)
        }));
        keys.extend(self.spaces.iter().map(|(name, _)| format!("`secrets.{name}`")));
        if self.needs_url {
            keys.push("`public_url`".to_owned());
        }
        let names = self.token.as_ref().map(|rules| rules.configured.as_slice());
        keys.extend(names.unwrap_or_default().iter().map(|name| format!("`jwt.{name}`")));
        if self.challenges.iter().any(|handshake| handshake.verify_token.is_some()) {
            keys.push("`verify_token` (optional)".to_owned());
        }
        keys.join(", ")
    }

    /// Describes the scheme in lines for a terminal.
    pub fn describe(&self) -> String {
        let mut text = format!("{} ({})\n", self.name, self.id);
        let others: Vec<_> = self.aliases.iter().map(|alias| &*alias.id).collect();
        let mut line = |name: &str, value: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {name:<14}{value}");
        };
        match &self.same_as {
            Some(id) => line("signs as", id),
            None if others.is_empty() => {}
            None => line("also for", &others.join(", ")),
        }
        line("proof", self.proof());
        if let Some(warning) = self.warning() {
            line("WARNING", warning);
        }
        if let Some(rules) = &self.token {
            let covers = |of| rules.hashes.iter().any(|hash| hash.of == of);
            if covers(HashedPart::Body) || covers(HashedPart::Url) {
                line("binds", "a claim carries the SHA-256 of what it binds");
            }
        }
        if !self.confirmed {
            line(
                "UNCONFIRMED",
                "some facts were not found in the sender's documents: try it first",
            );
        }
        line("configure", &self.configured());
        line("event", &self.identification());
        line("replayable", &self.replayable());
        line("window", &self.time());
        line("retries", self.retries());
        line("on record", &format!("{} at least", span(self.memory())));
        line("answer within", &span(self.answer_within()));
        line("statuses", &format!("{} done, {} rejected", self.success(), self.rejection()));
        if self.wants_bare_answers() {
            line("responses", "without a body and without cookies: the sender accepts no others");
        }
        line("methods", self.methods());
        if self.has_challenges() {
            line("challenge", "the gateway responds");
        }
        for note in &self.notes {
            line("note", note);
        }
        for document in &self.documents {
            line("document", document);
        }
        text
    }

    fn has_challenges(&self) -> bool {
        !self.challenges.is_empty()
    }

    /// Lists all names of the built-in schemes, one per line, for a terminal.
    pub fn list() -> String {
        let mut text = String::new();
        for scheme in Scheme::builtin_names().filter_map(Scheme::builtin) {
            let trust = match (scheme.warning(), scheme.confirmed) {
                (Some(_), true) => "body not signed",
                (Some(_), false) => "body not signed, unconfirmed",
                (None, false) => "unconfirmed",
                (None, true) => "",
            };
            let (id, name, proof) = (scheme.id(), &scheme.name, scheme.proof());
            let line = format!("{id:<24}{name:<38}{proof:<25}{trust}");
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text
    }

    /// Returns the table of all names of the built-in schemes in Markdown.
    pub fn table() -> String {
        let mut text = String::from(
            "| sender | `scheme` | proof | body signed | event identified by | a replayer can change | window | retries | configure | sources |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        );
        for scheme in Scheme::builtin_names().filter_map(Scheme::builtin) {
            let document = scheme.documents.first().map_or("", String::as_str);
            let sources = scheme.documents.iter().enumerate();
            let sources: Vec<_> =
                sources.map(|(at, document)| format!("[{}]({document})", at + 1)).collect();
            let mark = if scheme.confirmed { "" } else { " (unconfirmed)" };
            let signed = if scheme.warning().is_some() { "**no**" } else { "yes" };
            let alike =
                scheme.same_as.as_ref().map(|id| format!("as `{id}`: ")).unwrap_or_default();
            let _ = writeln!(
                text,
                "| [{}]({document}){mark} | `{}` | {alike}{} | {signed} | {} | {} | {} | {} | {} | {} |",
                scheme.name,
                scheme.id(),
                scheme.proof(),
                scheme.identification(),
                scheme.replayable(),
                scheme.time(),
                scheme.retries(),
                scheme.configured(),
                sources.join(" "),
            );
        }
        text
    }
}

fn span(span: Duration) -> String {
    let millis = span.as_millis();
    match millis {
        0 => "0s".to_owned(),
        _ if millis.is_multiple_of(3_600_000) => format!("{}h", millis / 3_600_000),
        _ if millis.is_multiple_of(60_000) => format!("{}m", millis / 60_000),
        _ if millis.is_multiple_of(1000) => format!("{}s", millis / 1000),
        _ => format!("{}s", span.as_secs_f64()),
    }
}

impl Scheme {
    /// Returns the signed message in the notation of scheme files, such as
    /// `{timestamp}.{body|sha256}`; `None` if no message is signed.
    pub fn message_notation(&self) -> Option<String> {
        let mut text = String::new();
        self.notate(&self.message, &mut text);
        (!text.is_empty()).then_some(text)
    }

    fn notate(&self, template: &Template, into: &mut String) {
        for piece in &template.0 {
            match piece {
                TemplatePiece::Literal(bytes) => into.push_str(&escaped(bytes)),
                TemplatePiece::Value(value) => {
                    into.push('{');
                    self.notate_value(value, into);
                    into.push('}');
                }
                TemplatePiece::Optional(pieces) => {
                    into.push_str("[[");
                    self.notate(&Template(pieces.clone()), into);
                    into.push_str("]]");
                }
            }
        }
    }

    /// Writes the source and the filters of a value, such as `body|sha256`.
    pub(in crate::scheme) fn notate_value(&self, value: &TemplateValue, into: &mut String) {
        // Writing to a String cannot fail.
        let _ = match &value.source {
            ValueSource::Body => write!(into, "body"),
            ValueSource::Timestamp => write!(into, "timestamp"),
            ValueSource::Url => write!(into, "url"),
            ValueSource::Method => write!(into, "method"),
            ValueSource::Path => write!(into, "path"),
            ValueSource::Pathname => write!(into, "pathname"),
            ValueSource::QueryText => write!(into, "query"),
            ValueSource::SignedHeaders => write!(into, "signed-headers"),
            ValueSource::SignatureBase => write!(into, "signature-base"),
            ValueSource::Secret => write!(into, "secret"),
            ValueSource::FormSorted => write!(into, "form-sorted"),
            ValueSource::Header(slot) => write!(into, "header:{}", self.inputs.headers[*slot]),
            ValueSource::Item(slot) => write!(into, "signature:{}", self.inputs.items[*slot]),
            ValueSource::Json(pointer) => {
                write!(into, "json:{}", self.inputs.pointers.name(*pointer))
            }
            ValueSource::Query(name) => write!(into, "query:{name}"),
            ValueSource::Form(name) => write!(into, "form:{name}"),
            ValueSource::FormData(name) => write!(into, "form-data:{name}"),
            ValueSource::Setting(number) => {
                write!(into, "setting:{}", self.inputs.settings[*number])
            }
        };
        for filter in &value.filters {
            into.push_str(match filter {
                Filter::Sha256 => "|sha256",
                Filter::Lower => "|lower",
                Filter::Plain => "|plain",
                Filter::Line => "|line",
                Filter::Crc32 => "|crc32",
                Filter::Json => "|json",
                Filter::UrlDecode => "|urldecode",
                Filter::EncodeUri => "|encode-uri",
                Filter::EncodeComponent => "|encode-component",
            });
        }
    }
}
