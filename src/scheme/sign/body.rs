//! Signatures in the body, written as the sender writes them.

use bytes::Bytes;
use http::{HeaderMap, Method};
use serde_json::{Map, Value};

use crate::{
    body::Payload,
    scheme::{
        compiled::{event::IdRule, template::ValueSource},
        sign::{head, random_id},
        time::UnixMillis,
        verify::Verifier,
    },
};

impl Verifier {
    /// Returns whether the sender's signature is in the body, where [`Verifier::sign_body`] puts
    /// it.
    pub fn signs_in_body(&self) -> bool {
        matches!(self.scheme.signature.from.first(), Some(ValueSource::Json(_)))
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
        let key = match key {
            Some(name) => self.ring.iter().find(|key| &*key.name == name),
            None => self.ring.global.as_ref(),
        };
        let key = key.ok_or("no key for this request")?;
        for item in 0..self.items(&request) {
            let signed = self.written(&self.tag(key, 0, &request, item)?, None, &request.items);
            let place = pointer(*signature).replacen('*', &item.to_string(), 1);
            put(&mut json, &place, || signed)?;
        }
        Ok(json.to_string().into_bytes())
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
