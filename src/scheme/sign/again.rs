//! Signing a verified request again, with a fresh timestamp.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue, request::Parts};

use crate::{
    body::Payload,
    scheme::{
        compiled::{ProofKind, signature::SignatureFormat, template::ValueSource},
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
        let written = self.written(&tag, Some(&text), &request.items);
        for slot in signatures {
            let name = &self.slots.names()[slot];
            let given = head.headers.get(name).and_then(|given| given.to_str().ok());
            let written = match (&scheme.signature.format, given) {
                (SignatureFormat::KeyValue { separator, .. }, Some(given)) => {
                    value(&in_order_of(given, &written, char::from(*separator)))
                }
                _ => value(&written),
            };
            changed.push((name.clone(), written?));
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

/// Returns the items of `written` in the order and with the spaces of those in `given`: some
/// senders' libraries read only one form.
fn in_order_of(given: &str, written: &str, separator: char) -> String {
    let name = |item: &str| item.split('=').next().unwrap_or_default().trim().to_owned();
    let mut fresh: Vec<_> = written.split(separator).collect();
    let mut items = Vec::with_capacity(fresh.len());
    for known in given.split(separator) {
        if let Some(at) = fresh.iter().position(|item| name(item) == name(known)) {
            let spaces = &known[..known.len() - known.trim_start().len()];
            items.push(format!("{spaces}{}", fresh.remove(at)));
        }
    }
    items.extend(fresh.into_iter().map(str::to_owned));
    items.join(&separator.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_keep_the_form_of_the_sender() {
        let ordered = in_order_of("sign=YQ==, env=b,t=1", "t=2,sign=Yg==,env=b", ',');
        assert_eq!(ordered, "sign=Yg==, env=b,t=2");
        assert_eq!(in_order_of("t=1,v1=a,v0=b", "t=2,v1=c", ','), "t=2,v1=c");
    }
}
