//! Signing a verified request again, with a fresh timestamp.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue, request::Parts};

use crate::{
    body::Payload,
    scheme::{
        compiled::{ProofKind, template::ValueSource},
        time::UnixMillis,
        verify::{Verifier, signature::ClaimedSignatures},
    },
};

impl Verifier {
    /// Returns whether a request can be signed again with a fresh timestamp: the scheme has a
    /// symmetric key, and the timestamp and the signature are in headers.
    pub fn can_resign(&self) -> bool {
        let scheme = &*self.scheme;
        let in_header = |source: &ValueSource| matches!(source, ValueSource::Header(_));
        let is_symmetric = matches!(scheme.kind, ProofKind::Hmac(_) | ProofKind::Digest(_));
        let has_time = scheme.timestamp.as_ref().is_some_and(|timestamp| {
            matches!(timestamp.from, ValueSource::Header(_) | ValueSource::Item(_))
        });
        is_symmetric
            && has_time
            && scheme.each.is_none()
            && scheme.signature.from.iter().all(in_header)
    }

    /// Signs a verified request again, as of `now`, with the secret at this position of this key.
    /// Returns the headers whose values change.
    ///
    /// # Errors
    /// Returns one sentence that says why that is not possible: the key is no longer configured,
    /// or the scheme cannot sign.
    pub fn resign(
        &self,
        key: &str,
        secret: u16,
        head: &Parts,
        payload: &Payload,
        now: UnixMillis,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
        let scheme = &*self.scheme;
        let (true, Some(timestamp)) = (self.can_resign(), &scheme.timestamp) else {
            return Err(format!("requests of the scheme `{}` cannot be signed again", scheme.id));
        };
        let key = self.ring.iter().find(|known| &*known.name == key);
        let key = key.ok_or("the key that verified the request is no longer configured")?;
        if let Some(rule) = &scheme.message_signature {
            let position = usize::from(secret).saturating_sub(1);
            return self.resign_message(rule, key, position, (head, payload), now);
        }
        let sent = self.unverified_details(head, payload).digits;
        let text = timestamp.unit.of(sent.as_deref().unwrap_or_default()).render(now.0);
        let value = |text: &str| {
            HeaderValue::from_str(text).map_err(|_| "the signature is no header value".to_owned())
        };
        let mut changed = Vec::new();
        let mut fresh = head.clone();
        if let ValueSource::Header(slot) = timestamp.from {
            let name = self.slots.names()[slot].clone();
            fresh.headers.insert(name.clone(), value(&text)?);
            changed.push((name, value(&text)?));
        }
        let mut agreed = Vec::new();
        let request = self.dated(&fresh, payload, &text);
        for agreement in &scheme.agree {
            let ValueSource::Header(slot) = agreement.value else { continue };
            let mut bytes = Vec::new();
            let is_whole =
                request.feed(&agreement.with, &[], 0, &mut |piece| bytes.extend_from_slice(piece));
            let differs = |known: &[u8]| match agreement.ignore_case {
                true => !known.eq_ignore_ascii_case(&bytes),
                false => known != bytes,
            };
            if is_whole && request.header(slot).is_some_and(differs) {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                agreed.push((self.slots.names()[slot].clone(), value(&text)?));
            }
        }
        for (name, value) in agreed {
            fresh.headers.insert(name.clone(), value.clone());
            changed.push((name, value));
        }
        let mut request = self.dated(&fresh, payload, &text);
        let signatures: Vec<usize> = scheme
            .signature
            .from
            .iter()
            .filter_map(|source| match source {
                ValueSource::Header(slot) if request.headers[*slot].is_some() => Some(*slot),
                _ => None,
            })
            .collect();
        for slot in &signatures {
            let given = request.header(*slot).unwrap_or_default();
            let mut claimed = ClaimedSignatures::default();
            // It was parsed when the request was verified.
            let _ = scheme.signature.parse(
                given,
                &scheme.inputs.items,
                &mut request.items,
                &mut claimed,
            );
        }
        if let ValueSource::Item(slot) = timestamp.from {
            request.items[slot] = Some(text.as_bytes());
        }
        let tag = self.tag(key, usize::from(secret).saturating_sub(1), &request, 0)?;
        let written = value(&self.written(&tag, Some(&text), &request.items))?;
        for slot in signatures {
            changed.push((self.slots.names()[slot].clone(), written.clone()));
        }
        Ok(changed)
    }

    /// Returns the values of a request with this timestamp.
    fn dated<'a>(
        &'a self,
        head: &'a Parts,
        payload: &'a Payload,
        timestamp: &str,
    ) -> crate::scheme::verify::request::RequestValues<'a> {
        let mut request = self.drafted(head, payload);
        request.timestamp = Some(Cow::Owned(timestamp.as_bytes().to_vec()));
        request
    }
}
