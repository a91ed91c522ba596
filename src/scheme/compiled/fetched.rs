//! Keys that a request names and that are fetched from the sender, and the values that a route
//! configures for its sender.

use http::{HeaderName, Method};
use rustls_pki_types::{CertificateDer, DnsName};

use crate::scheme::compiled::template::ValueSource;

/// A value that the operator configures in `[route.settings]`.
#[derive(Clone, Debug)]
pub(in crate::scheme) struct SchemeSetting {
    /// Its name.
    pub(in crate::scheme) name: Box<str>,
    /// What it is, in words.
    pub(in crate::scheme) what: String,
    /// The only values that it may have; the first is the default. Empty: any, and one is required.
    pub(in crate::scheme) values: Vec<Box<str>>,
    /// The part of each request that must be equal to one of the configured values.
    pub(in crate::scheme) equals: Option<ValueSource>,
    /// Whether it is confidential.
    pub(in crate::scheme) secret: bool,
}

/// What is fetched.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::scheme) enum FetchedForm {
    /// A certificate (RFC 5280) in PEM, which may be followed by its issuers.
    Certificate {
        /// The names of which the certificate must be valid for one.
        names: Vec<Box<str>>,
        /// Issuers that the sender leaves out.
        intermediates: Vec<CertificateDer<'static>>,
    },
    /// JSON that contains a JSON Web Key (RFC 7517).
    Jwk,
    /// JSON that contains a key in PEM, with or without line breaks.
    Pem,
}

/// An application token (RFC 6749, section 4.4) with which keys are requested.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::scheme) struct TokenRequest {
    /// The path of the token endpoint.
    pub(in crate::scheme) path: Box<str>,
    /// The scope.
    pub(in crate::scheme) scope: Box<str>,
}

/// How a key is fetched. Texts contain `{name}` for a setting and `{key}` for the key's name.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::scheme) struct FetchedKeys {
    /// What is fetched.
    pub(in crate::scheme) form: FetchedForm,
    /// The source of the address that a request names; `None` where the signature names the key.
    pub(in crate::scheme) address: Option<ValueSource>,
    /// The host, with a port if it is not 443.
    pub(in crate::scheme) host: Box<str>,
    /// The path, which contains `{key}` unless the body does.
    pub(in crate::scheme) path: Box<str>,
    /// The method: GET or POST.
    pub(in crate::scheme) method: Method,
    /// Headers of the request.
    pub(in crate::scheme) headers: Vec<(HeaderName, Box<str>)>,
    /// The members of the JSON object that is its body.
    pub(in crate::scheme) body: Vec<(Box<str>, Box<str>)>,
    /// The token that the request needs.
    pub(in crate::scheme) token: Option<TokenRequest>,
    /// The pointer to the key in the response.
    pub(in crate::scheme) pointer: Box<str>,
    /// The pointer to the time of its expiry, in seconds since the Unix epoch.
    pub(in crate::scheme) expires: Option<Box<str>>,
}

/// The names of a setting that can be the user and the password of an application.
pub(in crate::scheme) const CLIENT: [&str; 2] = ["client_id", "client_secret"];

/// Returns `text` with the value of each `{name}`; other text in braces stays.
pub(in crate::scheme) fn expanded<'v>(
    text: &str,
    value: impl Fn(&str) -> Option<&'v str>,
) -> String {
    let mut whole = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        whole.push_str(before);
        match after.split_once('}') {
            Some((name, tail)) if let Some(value) = value(name) => {
                whole.push_str(value);
                rest = tail;
            }
            _ => {
                whole.push('{');
                rest = after;
            }
        }
    }
    whole + rest
}

/// Returns the names in braces.
pub(in crate::scheme) fn names_in(text: &str) -> Vec<&str> {
    let parts = text.split('{').skip(1);
    parts.filter_map(|part| part.split_once('}').map(|(name, _)| name)).collect()
}

/// Returns whether `text` is a DNS name with an optional port.
pub(in crate::scheme) fn is_host(text: &str) -> bool {
    let (name, port) = match text.split_once(':') {
        None => (text, None),
        Some((name, port)) => (name, Some(port)),
    };
    DnsName::try_from(name).is_ok() && port.is_none_or(|port| port.parse::<u16>().is_ok())
}
