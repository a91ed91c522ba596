//! Headers that a sender lists as signed: their names and values as part of the message.

use http::HeaderName;

use crate::scheme::{
    compiled::signature::SignedHeadersRule,
    verify::{Verifier, request::RequestValues},
};

/// The most headers that one request may list.
const MAX_LISTED: usize = 64;

impl Verifier {
    /// Returns the first header that a request must list as signed and does not; `Err` if the list
    /// is malformed or absent.
    pub(in crate::scheme) fn unlisted(
        &self,
        request: &RequestValues<'_>,
    ) -> Result<Option<&HeaderName>, ()> {
        let Some(rule) = &self.scheme.signed_headers else { return Ok(None) };
        let listed = request.listed(rule).ok_or(())?;
        let mut required = rule.required.iter().map(|slot| &self.scheme.inputs.headers[*slot]);
        Ok(required.find(|name| !listed.contains(name)))
    }
}

impl RequestValues<'_> {
    /// Returns the names that are listed as signed; `None` if there is no list, or if it is not one
    /// of distinct header names in lower case.
    fn listed(&self, rule: &SignedHeadersRule) -> Option<Vec<HeaderName>> {
        let list = self.value(&rule.list, &[], 0)?;
        let mut names = Vec::new();
        for name in list.split(|byte| *byte == rule.separator) {
            let name = HeaderName::from_lowercase(name).ok()?;
            if names.contains(&name) || names.len() == MAX_LISTED {
                return None;
            }
            names.push(name);
        }
        Some(names)
    }

    /// Returns the listed headers as they are signed, without `except`. `None` if one
    /// is absent, present twice, or could contain what separates it from the next.
    pub(in crate::scheme) fn signed_headers(&self, except: Option<&HeaderName>) -> Option<Vec<u8>> {
        let rule = self.signed_headers?;
        let mut signed = Vec::new();
        for name in &self.listed(rule)? {
            let lines = self.field_lines(name)?;
            let [value] = lines[..] else { return None };
            if except == Some(name) {
                continue;
            }
            let is_separated = rule.names || !contains(value, rule.join.as_bytes());
            if !is_separated {
                return None;
            }
            if !signed.is_empty() {
                signed.extend_from_slice(rule.join.as_bytes());
            }
            if rule.names {
                signed.extend_from_slice(name.as_str().as_bytes());
                signed.push(b':');
            }
            signed.extend_from_slice(value);
        }
        Some(signed)
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(text, part).is_some()
}
