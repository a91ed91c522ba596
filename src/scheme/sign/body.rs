//! Signatures in the body, written as the sender writes them.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header::CONTENT_TYPE};
use serde_json::{Map, Value};

use crate::{
    body::Payload,
    scheme::{
        compiled::{event::IdRule, template::ValueSource},
        form,
        sign::{head, random_id},
        time::UnixMillis,
        verify::{Verifier, keys::VerificationKey},
    },
};

impl Verifier {
    /// Returns whether the sender's signature is in the body, where [`Verifier::sign_body`] puts
    /// it.
    pub fn signs_in_body(&self) -> bool {
        let from = self.scheme.signature.from.first();
        matches!(from, Some(ValueSource::Json(_) | ValueSource::FormData(_)))
    }

    /// Returns the body with the signature, and with the time and the ID that it covers if absent.
    /// `path` is path and query of the request.
    ///
    /// # Errors
    /// Returns one sentence that says why the sender could not have created such a body.
    pub fn sign_body(
        &self,
        key: Option<&str>,
        path: &str,
        body: &[u8],
        now: UnixMillis,
    ) -> Result<Vec<u8>, String> {
        let scheme = &*self.scheme;
        if let Some(ValueSource::FormData(signature)) = scheme.signature.from.first() {
            return self.sign_form(key, path, body, signature, now);
        }
        let Some(ValueSource::Json(signature)) = scheme.signature.from.first() else {
            return Err("the sender's signature is not in the body".to_owned());
        };
        let pointer = |number: u16| scheme.inputs.pointers.name(number).to_owned();
        let mut json: Value = serde_json::from_slice(body)
            .map_err(|_| "the body is not JSON as the sender writes it")?;
        if let Some(timestamp) = &scheme.timestamp
            && let ValueSource::Json(number) = timestamp.from
        {
            put(&mut json, &pointer(number), || timestamp.unit.render(now.0))?;
        }
        if let Some(IdRule { from, .. }) = scheme.event.id() {
            for source in from {
                if let ValueSource::Json(number) = source {
                    put(&mut json, &pointer(*number), random_id)?;
                }
            }
        }
        let unsigned = Payload::from(Bytes::from(json.to_string()));
        let head = head(&Method::POST, path, HeaderMap::new())?;
        let request = self.drafted(&head, &unsigned);
        let key = self.key_named(key)?;
        for item in 0..self.items(&request) {
            let signed = self.written(&self.tag(key, 0, &request, item)?, None, &request.items);
            let place = pointer(*signature).replacen('*', &item.to_string(), 1);
            put(&mut json, &place, || signed)?;
        }
        Ok(json.to_string().into_bytes())
    }
}

impl Verifier {
    /// Signs a form as [`Verifier::sign_body`] does.
    fn sign_form(
        &self,
        key: Option<&str>,
        path: &str,
        body: &[u8],
        signature: &str,
        now: UnixMillis,
    ) -> Result<Vec<u8>, String> {
        let scheme = &*self.scheme;
        let mut form = body.trim_ascii_end().to_vec();
        let add = |form: &mut Vec<u8>, name: &str, value: &str| {
            if form::fields(form).all(|(field, _)| field != name.as_bytes()) {
                let value = form::encoded(value.as_bytes(), form::ENCODE_COMPONENT);
                let separator = if form.is_empty() { "" } else { "&" };
                form.extend([separator.as_bytes(), name.as_bytes(), b"=", &value].concat());
            }
        };
        if let Some(timestamp) = &scheme.timestamp
            && let ValueSource::FormData(name) = &timestamp.from
        {
            add(&mut form, name, &timestamp.unit.render(now.0));
        }
        for source in scheme.event.id().map(|id| id.from.as_slice()).unwrap_or_default() {
            if let ValueSource::FormData(name) = source {
                add(&mut form, name, &random_id());
            }
        }
        let unsigned = Payload::from(Bytes::from(form.clone()));
        let mut head = head(&Method::POST, path, HeaderMap::new())?;
        let media_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        head.headers.insert(CONTENT_TYPE, media_type);
        let request = self.drafted(&head, &unsigned);
        let tag = self.tag(self.key_named(key)?, 0, &request, 0)?;
        add(&mut form, signature, &self.written(&tag, None, &request.items));
        Ok(form)
    }

    /// Returns a key by its name, or the global key.
    fn key_named(&self, name: Option<&str>) -> Result<&VerificationKey, String> {
        let key = match name {
            Some(name) => self.ring.iter().find(|key| &*key.name == name),
            None => self.ring.global.as_ref(),
        };
        key.ok_or_else(|| "no key for this request".to_owned())
    }
}

/// Puts a text where a pointer (RFC 6901) leads to, unless something is there.
pub(super) fn put(
    json: &mut Value,
    pointer: &str,
    text: impl FnOnce() -> String,
) -> Result<(), String> {
    let mut place = json;
    for step in pointer.split('/').skip(1) {
        place = match place {
            Value::Array(elements) => {
                let index = step.parse().ok();
                index.and_then(|index: usize| elements.get_mut(index))
            }
            Value::Object(members) => Some(members.entry(step).or_insert(Value::Null)),
            Value::Null => {
                *place = Value::Object(Map::new());
                place.as_object_mut().map(|members| members.entry(step).or_insert(Value::Null))
            }
            Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
        }
        .ok_or_else(|| format!("the body has no place for `{pointer}`"))?;
    }
    if place.is_null() {
        *place = Value::String(text());
    }
    Ok(())
}
