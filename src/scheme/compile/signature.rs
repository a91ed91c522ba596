//! `kind` and `[signature]`: the proof and its format.

use crate::{
    document::{Field, Section},
    scheme::{
        compile::read,
        compiled::{
            ProofKind,
            signature::{JsonSignature, SignatureFormat, SignatureRule},
            template::{Inputs, ValueSource},
        },
        encoding::Encoding,
        json::JsonPointers,
        mac::HashAlgorithm,
        public_key::PublicKeyAlgorithm,
    },
};

/// Reads `kind`, with `hash` if it belongs to the kind.
pub(super) fn kind(root: &Section<'_>) -> Option<ProofKind> {
    #[derive(Clone, Copy)]
    enum KindWord {
        Hmac,
        HashAlgorithm,
        Ecdsa,
        Rsa,
        RsaPss,
        Plain(ProofKind),
    }
    let words = [
        ("hmac", KindWord::Hmac),
        ("hash", KindWord::HashAlgorithm),
        ("token", KindWord::Plain(ProofKind::Token)),
        ("basic", KindWord::Plain(ProofKind::Basic)),
        ("ed25519", KindWord::Plain(ProofKind::PublicKey(PublicKeyAlgorithm::Ed25519))),
        ("ecdsa-p256", KindWord::Ecdsa),
        (
            "ecdsa-p256-fixed",
            KindWord::Plain(ProofKind::PublicKey(PublicKeyAlgorithm::EcdsaP256Fixed)),
        ),
        ("rsa-pkcs1", KindWord::Rsa),
        ("rsa-pss", KindWord::RsaPss),
        ("jwt", KindWord::Plain(ProofKind::Jwt)),
    ];
    let hashes = [
        ("sha1", HashAlgorithm::Sha1),
        ("sha256", HashAlgorithm::Sha256),
        ("sha512", HashAlgorithm::Sha512),
    ];
    let Some(word) = root.require("kind").and_then(|field| field.one_of(&words)) else {
        // Whether it belongs to the kind cannot be said.
        root.get("hash");
        return None;
    };
    let hash = || root.require("hash").and_then(|field| field.one_of(&hashes));
    match word {
        KindWord::Hmac => hash().map(ProofKind::Hmac),
        KindWord::HashAlgorithm => hash().map(ProofKind::Digest),
        KindWord::Ecdsa => match root.get("hash") {
            None => Some(ProofKind::PublicKey(PublicKeyAlgorithm::EcdsaP256)),
            Some(field) => field.one_of(&[
                ("sha256", ProofKind::PublicKey(PublicKeyAlgorithm::EcdsaP256)),
                ("sha1", ProofKind::PublicKey(PublicKeyAlgorithm::EcdsaP256Sha1)),
            ]),
        },
        KindWord::Rsa => root.require("hash").and_then(|field| {
            field.one_of(&[
                ("sha1", ProofKind::PublicKey(PublicKeyAlgorithm::RsaSha1)),
                ("sha256", ProofKind::PublicKey(PublicKeyAlgorithm::RsaSha256)),
                ("sha512", ProofKind::PublicKey(PublicKeyAlgorithm::RsaSha512)),
            ])
        }),
        KindWord::RsaPss => root.require("hash").and_then(|field| {
            field.one_of(&[("sha512", ProofKind::PublicKey(PublicKeyAlgorithm::RsaPssSha512))])
        }),
        KindWord::Plain(kind) => Some(kind),
    }
}

/// Reads how bytes are written.
pub(super) fn encoding(field: Field<'_>) -> Option<Encoding> {
    field.one_of(&[
        ("hex", Encoding::Hex),
        ("base64", Encoding::Base64),
        ("base64url", Encoding::Base64Url),
        ("text", Encoding::Text),
    ])
}

/// Reads `[signature]`: the source, the format and the encoding of the signature.
pub(super) fn signature(
    section: Section<'_>,
    kind: Option<ProofKind>,
    wanted: &mut Inputs,
) -> Option<SignatureRule> {
    #[derive(Clone, Copy, PartialEq)]
    enum FormatWord {
        Raw,
        KeyValue,
        List,
        Tagged,
        Positional,
        Json,
    }
    let words = [
        ("raw", FormatWord::Raw),
        ("key-value", FormatWord::KeyValue),
        ("list", FormatWord::List),
        ("tagged", FormatWord::Tagged),
        ("positional", FormatWord::Positional),
        ("json", FormatWord::Json),
    ];
    let from = match (section.get("from"), kind) {
        (Some(field), _) => read::signature_sources(&field, wanted),
        (None, Some(ProofKind::Basic | ProofKind::Jwt)) => {
            wanted.header("Authorization").ok().map(|slot| vec![ValueSource::Header(slot)])
        }
        (None, Some(_)) => section.require("from").and(None),
        (None, None) => None,
    };
    let format = match section.get("format") {
        None => FormatWord::Raw,
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
        FormatWord::Raw => Some(SignatureFormat::Raw),
        FormatWord::KeyValue => {
            let separator = separator(&section);
            let field = section.require("field").and_then(|field| field.text());
            separator.zip(field).map(|(separator, field)| SignatureFormat::KeyValue {
                separator,
                field: field.into(),
            })
        }
        FormatWord::List => {
            separator(&section).map(|separator| SignatureFormat::List { separator })
        }
        FormatWord::Tagged => {
            let separator = separator(&section);
            let tag = section.require("tag").and_then(|field| field.text());
            separator
                .zip(tag)
                .map(|(separator, tag)| SignatureFormat::Tagged { separator, tag: tag.into() })
        }
        FormatWord::Positional => {
            let separator = separator(&section);
            let names = read::texts(section.require("items"));
            for name in &names {
                if let Err((message, help)) = wanted.source(&format!("signature:{name}")) {
                    section.error(message, help);
                }
            }
            separator.map(|separator| SignatureFormat::Positional { separator, items: names.len() })
        }
        FormatWord::Json => json(&section),
    };
    let basic = matches!(kind, Some(ProofKind::Basic)).then(|| "Basic ".to_owned());
    let prefix = text("prefix").or(basic).unwrap_or_default();
    let prefix_optional = section.get("prefix_optional").and_then(|f| f.boolean()).unwrap_or(false);
    let encoding = match kind {
        Some(ProofKind::Token | ProofKind::Jwt) => {
            section.get("encoding").map_or(Some(Encoding::Text), encoding)
        }
        Some(ProofKind::Basic) => Some(Encoding::Base64),
        Some(ProofKind::Hmac(_) | ProofKind::Digest(_) | ProofKind::PublicKey(_)) => {
            section.require("encoding").and_then(encoding)
        }
        None => section.get("encoding").and_then(encoding),
    };
    let algorithm = match (section.get("algorithm_item"), section.get("algorithm_from")) {
        (None, None) => None,
        (Some(field), None) => field.text().and_then(|name| {
            let source = wanted.source(&format!("signature:{name}"));
            source.map_err(|(message, help)| field.error(message, help)).ok()
        }),
        (None, Some(field)) => read::source(&field, wanted),
        (Some(_), Some(field)) => {
            field.error("`algorithm_from` replaces `algorithm_item`", None);
            None
        }
    };
    let algorithm = algorithm.zip(section.get("algorithm").and_then(|field| field.text()));
    section.finish();
    let length = match kind? {
        ProofKind::Hmac(hash) | ProofKind::Digest(hash) => Some(hash.length()),
        ProofKind::PublicKey(algorithm) => algorithm.signature_length(),
        ProofKind::Token | ProofKind::Basic | ProofKind::Jwt => None,
    };
    Some(SignatureRule {
        from: from?,
        format: format?,
        prefix: prefix.into(),
        prefix_optional,
        encoding: encoding?,
        length,
        algorithm: algorithm.map(|(source, name)| (source, name.into())),
    })
}

/// Reads the members of a signature in JSON.
fn json(section: &Section<'_>) -> Option<SignatureFormat> {
    let mut reader = JsonPointers::default();
    let mut pointer = |field: &Field<'_>, name: &str| {
        reader.add(&format!("/{name}")).map_err(|problem| field.error(problem, None)).ok()
    };
    let mut member = |field: Field<'_>| pointer(&field, &field.text()?);
    let signature = section.require("field").and_then(&mut member);
    let key = section.get("key_field").and_then(&mut member);
    let mut fixed = Vec::new();
    let table = section.get("fixed").and_then(|field| field.section());
    for (name, field) in table.map(|table| table.entries()).unwrap_or_default() {
        fixed.extend(pointer(&field, &name).zip(field.text().map(Into::into)));
    }
    let signature = signature?;
    Some(SignatureFormat::Json(Box::new(JsonSignature { reader, signature, key, fixed })))
}
