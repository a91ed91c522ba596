//! `[message_signature]`: HTTP Message Signatures (RFC 9421), and `[signed_headers]`.

use crate::{
    document::Section,
    scheme::{
        compile::read,
        compiled::{
            ProofKind,
            message_signature::{Component, MessageSignatureRule},
            signature::{SignatureFormat, SignatureRule, SignedHeadersRule},
            template::{Inputs, ValueSource},
        },
        encoding::Encoding,
        mac::HashAlgorithm,
        public_key::PublicKeyAlgorithm,
    },
};

/// The parameters of a signature that a scheme can read.
const PARAMETERS: [&str; 6] = ["created", "expires", "nonce", "keyid", "alg", "tag"];

/// Returns the algorithm's name in RFC 9421, section 6.2.2.
fn algorithm(kind: ProofKind) -> Option<&'static str> {
    match kind {
        ProofKind::Hmac(HashAlgorithm::Sha256) => Some("hmac-sha256"),
        ProofKind::PublicKey(PublicKeyAlgorithm::Ed25519) => Some("ed25519"),
        ProofKind::PublicKey(PublicKeyAlgorithm::EcdsaP256Fixed) => Some("ecdsa-p256-sha256"),
        ProofKind::PublicKey(PublicKeyAlgorithm::RsaSha256) => Some("rsa-v1_5-sha256"),
        ProofKind::PublicKey(PublicKeyAlgorithm::RsaPssSha512) => Some("rsa-pss-sha512"),
        _ => None,
    }
}

/// Reads `[message_signature]`, in place of `[signature]` and `message`.
pub(super) fn message_signature(
    section: Section<'_>,
    kind: Option<ProofKind>,
    wanted: &mut Inputs,
) -> Option<(SignatureRule, MessageSignatureRule)> {
    let algorithm = kind.map(|kind| {
        let named = algorithm(kind);
        if named.is_none() {
            let help = "`hmac` with sha256, `ed25519`, `ecdsa-p256-fixed`, `rsa-pkcs1` with sha256 \
                        or `rsa-pss` with sha512";
            section.error("RFC 9421 has no algorithm of this kind", Some(help.to_owned()));
        }
        named
    });
    let mut slot = |name: &str| wanted.header(name).map_err(|problem| section.error(problem, None));
    let (signature, input) = (slot("signature").ok()?, slot("signature-input").ok()?);
    let digest = slot("content-digest").ok()?;
    let (mut cover, mut fields) = (Vec::new(), Vec::new());
    let listed = section.require("cover").map(|field| field.items()).unwrap_or_default();
    for item in listed {
        let Some(text) = item.text() else { continue };
        let Some(component) = Component::parse(&text) else {
            let help = "a header in lower case, @method, @target-uri, @authority, @scheme, \
                        @request-target, @path, @query or @query-param;name=\"…\"";
            item.error(format!("`{text}` is no component of a request"), Some(help.to_owned()));
            continue;
        };
        if let Component::Field(name)
        | Component::FieldBytes(name)
        | Component::FieldMember(name, _) = &component
        {
            fields.extend(wanted.header(name.as_str()).map_err(|e| item.error(e, None)));
        }
        cover.push(component);
    }
    let text = |key: &'static str| section.get(key).and_then(|field| field.text()).map(Into::into);
    let (label, tag) = (text("label"), text("tag"));
    section.finish();
    let kind = kind?;
    let length = match kind {
        ProofKind::Hmac(hash) => Some(hash.length()),
        ProofKind::PublicKey(algorithm) => algorithm.signature_length(),
        ProofKind::Digest(_) | ProofKind::Token | ProofKind::Basic | ProofKind::Jwt => None,
    };
    let rule = SignatureRule {
        from: vec![ValueSource::Header(signature)],
        format: SignatureFormat::Raw,
        prefix: "".into(),
        prefix_optional: false,
        encoding: Encoding::Base64,
        length,
        algorithm: None,
    };
    let algorithm = algorithm??;
    Some((rule, MessageSignatureRule { cover, fields, label, tag, algorithm, input, digest }))
}

/// Reports parameters that a signature does not have.
pub(super) fn check_items(root: &Section<'_>, wanted: &Inputs) {
    for name in &wanted.items {
        if !PARAMETERS.contains(&&**name) {
            let help = format!("it has {}", PARAMETERS.join(", "));
            root.error(format!("a message signature has no parameter `{name}`"), Some(help));
        }
    }
}

/// Reads `[signed_headers]`: the headers that the sender lists as signed.
pub(super) fn signed_headers(
    section: Section<'_>,
    wanted: &mut Inputs,
) -> Option<SignedHeadersRule> {
    let list = section.require("list").and_then(|field| {
        let source = read::source(&field, wanted)?;
        if !matches!(source, ValueSource::Header(_) | ValueSource::Item(_)) {
            field.error("the list must be a header or an item of the signature", None);
        }
        Some(source)
    });
    let separator = section.require("separator").and_then(|field| match field.text()?.as_bytes() {
        [byte] => Some(*byte),
        _ => {
            field.error("a separator is one ASCII character", None);
            None
        }
    });
    let join = section.require("join").and_then(|field| match field.text()? {
        text if text.is_empty() => {
            field.error("the headers would not be separated", None);
            None
        }
        text => Some(text.into()),
    });
    let names = section.require("names").and_then(|field| field.boolean());
    let required = read::headers(section.require("required"), wanted);
    section.finish();
    Some(SignedHeadersRule {
        list: list?,
        separator: separator?,
        join: join?,
        names: names?,
        required,
    })
}
