//! The subject of a token, which is logged before the operator has pinned it.

use http::request::Parts;

use crate::{
    body::Payload,
    scheme::{
        compiled::token::{NAMES, TIMES},
        json::Scalar,
        verify::{
            Verifier,
            jwt::{self, PinnedClaims},
        },
    },
};

/// The maximum number of characters of a subject that are logged.
const LONGEST: usize = 128;

impl Verifier {
    /// Returns the subject of a signed token whose other claims are valid, shortened and escaped to
    /// printable ASCII. Other tokens yield nothing: where one key set signs for many, as Google's
    /// does, anyone can get a token with a subject of their choice, but not one with the operator's
    /// issuer and audience.
    pub fn subject(&self, head: &Parts, payload: &Payload) -> Option<String> {
        let rules = self.scheme.token.as_ref()?;
        let request = self.request(head, payload);
        if request.duplicate {
            return None;
        }
        let token = self.token(&request).ok()??;
        let claims = token.claims(rules).ok()?;
        let key = self.key(&request, self.scheme.choice.named(&request)).ok()??;
        self.token_proven(key, &token).ok()??;
        let but_subject = PinnedClaims { subject: Vec::new(), ..self.pinned.clone() };
        if !jwt::agrees(rules, &but_subject, &claims)
            || !jwt::hashes_agree(rules, &claims, &request)
        {
            return None;
        }
        // The last of the names that every scheme reads.
        let pointer = (TIMES.len() + NAMES.len() - 1) as u16;
        match &claims.of(pointer).first()?.value {
            Scalar::Text(text) => {
                Some(text.chars().take(LONGEST).flat_map(char::escape_default).collect())
            }
            Scalar::Integer(_) | Scalar::Other => None,
        }
    }
}
