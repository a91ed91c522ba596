//! Tokens as a sender with a shared secret issues them: JWT with HS256.

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value, json};

use crate::scheme::{
    compiled::token::{NAMES, TokenAlgorithm, TokenRules},
    time::UnixMillis,
    verify::{
        Verifier, jwt,
        keys::{PreparedSecret, VerificationKey},
        request::RequestValues,
    },
};

impl Verifier {
    /// Issues a token for a request, valid from now for the lifetime of the sender's tokens.
    ///
    /// # Errors
    /// Returns one sentence that says why the sender cannot be imitated.
    pub(super) fn issue(
        &self,
        rules: &TokenRules,
        key: &VerificationKey,
        request: &RequestValues<'_>,
        now: UnixMillis,
    ) -> Result<String, String> {
        let (TokenAlgorithm::Hs256, Some(PreparedSecret::Hmac(engine))) =
            (rules.algorithm, key.secrets.first())
        else {
            return Err("only the sender has the private key to sign with".to_owned());
        };
        let seconds = now.0.div_euclid(1000);
        let lifetime = i64::try_from(rules.lifetime.as_secs()).unwrap_or(i64::MAX);
        let mut claims = Map::new();
        claims.insert("iat".to_owned(), json!(seconds));
        claims.insert("exp".to_owned(), json!(seconds.saturating_add(lifetime.max(60))));
        let mut set = |pointer: &str, value: Value| {
            claims.insert(pointer.trim_start_matches('/').to_owned(), value);
        };
        for (pointer, value) in &rules.fixed {
            set(rules.claims.name(*pointer), json!(value));
        }
        let pinned = [&self.pinned.issuer, &self.pinned.audience, &self.pinned.subject];
        for (name, values) in [NAMES[0], NAMES[1], NAMES[3]].into_iter().zip(pinned) {
            values.first().into_iter().for_each(|value| set(name, json!(value)));
        }
        for hash in &rules.hashes {
            if !(hash.only_with_body && request.payload.is_empty()) {
                let digest = jwt::hashed(hash, request).ok_or("the route has no `public_url`")?;
                set(rules.claims.name(hash.pointer), json!(rules.hash_encoding.encode(&digest)));
            }
        }
        let header = json!({ "alg": rules.algorithm.name(), "typ": "JWT" });
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let signed = format!("{}.{}", part(&header), part(&Value::Object(claims)));
        let signature = BASE64URL_NOPAD.encode(engine.of(signed.as_bytes()).bytes());
        Ok(format!("{signed}.{signature}"))
    }
}
