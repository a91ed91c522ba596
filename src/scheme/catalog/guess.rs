//! Guesses which sender a request is from, for a user who has not written a configuration yet.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use sfv::ListEntry;

use crate::scheme::{
    compiled::{ProofKind, Scheme, template::MAX_ITEMS, template::ValueSource},
    text::after,
    verify::{jwt::SignedToken, message_signature::dictionary, signature::ClaimedSignatures},
};

/// A scheme by which a request could be signed.
pub struct SchemeGuess {
    /// The scheme.
    pub scheme: Arc<Scheme>,
    /// The headers of the request that the scheme reads.
    pub headers: Vec<HeaderName>,
}

impl Scheme {
    /// Returns the built-in schemes that read a well-formed signature in these headers; those that
    /// read the most headers, which are the likeliest. A static token fits any sender, so schemes
    /// whose proof is one in `Authorization` are never among them.
    pub fn guesses(headers: &HeaderMap) -> Vec<SchemeGuess> {
        let guess = |scheme: &'static Arc<Scheme>| {
            let read = scheme.headers().iter().filter(|name| headers.contains_key(*name));
            scheme.reads_signature_in(headers).then(|| SchemeGuess {
                scheme: Arc::clone(scheme),
                headers: read.cloned().collect(),
            })
        };
        let mut guesses: Vec<_> = Scheme::builtins().filter_map(guess).collect();
        let most = guesses.iter().map(|guess| guess.headers.len()).max().unwrap_or(0);
        guesses.retain(|guess| guess.headers.len() == most);
        guesses
    }

    /// Returns whether a signature header of the scheme is there and well-formed.
    fn reads_signature_in(&self, headers: &HeaderMap) -> bool {
        self.signature.from.iter().any(|source| {
            let ValueSource::Header(slot) = source else { return false };
            let name = &self.inputs.headers[*slot];
            let Some(value) = headers.get(name) else { return false };
            let rule = &self.signature;
            if self.message_signature.is_some() {
                return headers.contains_key("signature-input")
                    && dictionary(value.as_bytes()).is_some_and(|signatures| {
                        let is_one = |entry: &ListEntry| match entry {
                            ListEntry::Item(item) => {
                                let bytes = item.bare_item.as_byte_sequence();
                                bytes.is_some_and(|bytes| {
                                    rule.length.is_none_or(|length| length == bytes.len())
                                })
                            }
                            ListEntry::InnerList(_) => false,
                        };
                        signatures.values().any(is_one)
                    });
            }
            match (self.kind, &self.token) {
                (ProofKind::Token | ProofKind::Basic, _) => name != "authorization",
                (ProofKind::Jwt, Some(rules)) => {
                    let token = after(value.as_bytes(), rule.prefix.as_bytes());
                    token.is_some_and(|token| SignedToken::parse(token, rules.algorithm).is_ok())
                }
                _ => {
                    let mut claimed = ClaimedSignatures::default();
                    let items = &mut [None; MAX_ITEMS];
                    let parsed =
                        rule.parse(value.as_bytes(), &self.inputs.items, items, &mut claimed);
                    parsed.is_ok() && claimed.iter().any(|signature| !signature.is_empty())
                }
            }
        })
    }
}
