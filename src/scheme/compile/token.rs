//! `[token]`: what a scheme requires of its JSON Web Tokens.

use std::time::Duration;

use crate::{
    document::{Field, Section},
    scheme::{
        compile::signature,
        compiled::token::{HashClaim, HashedPart, NAMES, TIMES, TokenAlgorithm, TokenRules},
        encoding::Encoding,
        json::JsonPointers,
    },
};

/// Reads the section.
pub(super) fn token(section: Section<'_>) -> Option<TokenRules> {
    let algorithm = section.require("algorithm").and_then(|field| {
        field.one_of(&[
            ("HS256", TokenAlgorithm::Hs256),
            ("RS256", TokenAlgorithm::Rs256),
            ("ES256", TokenAlgorithm::Es256),
        ])
    });
    let mut claims = JsonPointers::default();
    for pointer in TIMES.into_iter().chain(NAMES) {
        claims.add(pointer).ok()?;
    }
    let expires = section.get("expires").and_then(|field| field.boolean()).unwrap_or(true);
    let duration = |key: &'static str| section.get(key).and_then(|field| field.duration());
    let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    let max_age = duration("max_age");
    let leeway = duration("leeway").unwrap_or(Duration::from_secs(60));
    let lifetime = duration("lifetime").or(max_age).unwrap_or(Duration::from_secs(3600));
    let mut claim = |field: &Field<'_>, name: &str| {
        let pointer = format!("/{name}");
        claims.add(&pointer).map_err(|problem| field.error(problem, None)).ok()
    };
    let mut fixed = Vec::new();
    if let Some(table) = section.get("claims").and_then(|field| field.section()) {
        for (name, field) in table.entries() {
            fixed.extend(claim(&field, &name).zip(field.text().map(Into::into)));
        }
    }
    let mut hashes = Vec::new();
    for (key, of, only_with_body) in [
        ("body_sha256", HashedPart::Body, false),
        ("body_sha256_if_any", HashedPart::Body, true),
        ("url_sha256", HashedPart::Url, false),
    ] {
        if let Some(field) = section.get(key) {
            let pointer = field.text().and_then(|name| claim(&field, &name));
            hashes.extend(pointer.map(|pointer| HashClaim { pointer, of, only_with_body }));
        }
    }
    let hash_encoding = match section.get("hash_encoding") {
        None => Encoding::Hex,
        Some(field) => signature::encoding(field)?,
    };
    let mut configured = Vec::new();
    let words = [("issuer", "issuer"), ("audience", "audience"), ("subject", "subject")];
    for item in section.get("configured").map(|field| field.items()).unwrap_or_default() {
        configured.extend(item.one_of(&words).map(Into::into));
    }
    section.finish();
    Some(TokenRules {
        algorithm: algorithm?,
        claims,
        expires,
        max_age: max_age.map(millis),
        leeway: millis(leeway),
        lifetime,
        fixed,
        hashes,
        hash_encoding,
        configured,
    })
}
