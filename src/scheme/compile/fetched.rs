//! `[settings]` and `[keys]`: what a route configures for its sender, and how keys are fetched.

use http::{HeaderName, Method};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::{
    document::{Field, Section},
    scheme::{
        compile::read,
        compiled::{
            fetched::{
                CLIENT, FetchedForm, FetchedKeys, SchemeSetting, TokenRequest, expanded, is_host,
                names_in,
            },
            template::{Inputs, ValueSource},
        },
    },
};

/// Issuers that senders leave out, by the name of the file.
const INTERMEDIATES: [(&str, &str); 1] =
    [("amazon", include_str!("../../../schemes/certificates/amazon.pem"))];

/// Reads `[settings]`.
pub(super) fn settings(root: &Section<'_>, wanted: &mut Inputs) -> Vec<SchemeSetting> {
    let table = root.get("settings").and_then(|field| field.section());
    let mut settings = Vec::new();
    for (name, field) in table.map(|table| table.entries()).unwrap_or_default() {
        let Some(section) = field.section() else { continue };
        let what = section.require("what").and_then(|field| field.text());
        let values: Vec<Box<str>> =
            read::texts(section.get("values")).into_iter().map(Into::into).collect();
        let equals = match section.get("equals") {
            Some(field) => match read::source(&field, wanted) {
                Some(source) => Some(source),
                None => continue,
            },
            None => None,
        };
        let secret = section.get("secret").and_then(|field| field.boolean()).unwrap_or(false);
        section.finish();
        // A setting that is compared may have several values, so no template can contain it.
        wanted.settings.push(if equals.is_some() { "".into() } else { (*name).into() });
        let what = what.unwrap_or_default();
        settings.push(SchemeSetting { name: name.into(), what, values, equals, secret });
    }
    settings
}

/// Reads `[keys]`.
pub(super) fn keys(
    section: Section<'_>,
    settings: &[SchemeSetting],
    wanted: &mut Inputs,
) -> Option<FetchedKeys> {
    let known = |field: &Field<'_>, text: &str, with_key: bool| {
        for name in names_in(text) {
            let is_setting = settings.iter().any(|s| *s.name == *name && s.equals.is_none());
            let is_key = with_key && name == "key";
            if !is_setting && !is_key {
                let help = with_key.then(|| "`{key}` is the name of the key".to_owned());
                field.error(format!("`{{{name}}}` is no setting of one value"), help);
            }
        }
    };
    let text = |key: &'static str, with_key: bool| {
        let field = section.get(key)?;
        let text = field.text()?;
        known(&field, &text, with_key);
        Some(Box::<str>::from(text))
    };
    let kinds = [("certificate", 0), ("jwk", 1), ("pem", 2)];
    let kind = section.require("kind").and_then(|field| field.one_of(&kinds));
    let host = section.require("host").and_then(|_| text("host", false));
    if let Some(host) = &host
        && !is_host(&expanded(host, |_| Some("x")))
    {
        section.error("`host` is not a DNS name", None);
    }
    let path = section.require("path").and_then(|_| text("path", true));
    if path.as_ref().is_some_and(|path| !path.starts_with('/') || path.contains(['#', ' '])) {
        section.error("`path` must begin with `/`", None);
    }
    let method = match section.get("method") {
        None => Some(Method::GET),
        Some(field) => {
            let posts = field.one_of(&[("GET", false), ("POST", true)]);
            posts.map(|posts| if posts { Method::POST } else { Method::GET })
        }
    };
    let mut headers = Vec::new();
    for (name, field) in entries(section.get("headers")) {
        let value = field.text().inspect(|value| known(&field, value, false));
        match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => headers.extend(value.map(|value| (name, value.into()))),
            Err(_) => field.error(format!("`{name}` is not a header name"), None),
        }
    }
    let mut body: Vec<(Box<str>, Box<str>)> = Vec::new();
    for (name, field) in entries(section.get("body")) {
        let value = field.text().inspect(|value| known(&field, value, true));
        body.extend(value.map(|value| (name.into(), value.into())));
    }
    let named = path.iter().chain(body.iter().map(|(_, value)| value));
    if named.flat_map(|text| names_in(text)).filter(|name| *name == "key").count() != 1 {
        section.error("`{key}` must be in the path or the body, once", None);
    }
    let token = section.get("token").and_then(|field| field.section()).and_then(|section| {
        for name in CLIENT {
            if !settings.iter().any(|setting| *setting.name == *name) {
                section.error(format!("a token needs `[settings.{name}]`"), None);
            }
        }
        let text = |key| section.require(key).and_then(|field: Field<'_>| field.text());
        let (path, scope) = (text("path"), text("scope"));
        section.finish();
        Some(TokenRequest { path: path?.into(), scope: scope?.into() })
    });
    let address: Option<ValueSource> = match section.get("address") {
        Some(field) => Some(read::source(&field, wanted)?),
        None => None,
    };
    let pointer = section.get("pointer").and_then(|field| field.text()).unwrap_or_default();
    let expires = section.get("expires").and_then(|field| field.text()).map(Into::into);
    let form = match kind {
        Some(0) => {
            let mut names = Vec::new();
            for field in section.require("names").map(|f| f.items()).unwrap_or_default() {
                let name = field.text().inspect(|name| known(&field, name, false));
                names.extend(name.map(Into::into));
            }
            let intermediates = match section.get("intermediates") {
                Some(field) => certificates(&field)?,
                None => Vec::new(),
            };
            Some(FetchedForm::Certificate { names, intermediates })
        }
        Some(1) => Some(FetchedForm::Jwk),
        Some(_) => Some(FetchedForm::Pem),
        None => None,
    };
    section.finish();
    Some(FetchedKeys {
        form: form?,
        address,
        host: host?,
        path: path?,
        method: method?,
        headers,
        body,
        token,
        pointer: pointer.into(),
        expires,
    })
}

fn entries<'r>(field: Option<Field<'r>>) -> Vec<(String, Field<'r>)> {
    field.and_then(|field| field.section()).map(|table| table.entries()).unwrap_or_default()
}

/// Reads certificates: in PEM, or those of a file that is built in.
fn certificates(field: &Field<'_>) -> Option<Vec<CertificateDer<'static>>> {
    let text = field.text()?;
    let built_in = INTERMEDIATES.iter().find(|(name, _)| *name == text);
    let pem = built_in.map_or(text.as_str(), |(_, pem)| pem);
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Some(found),
        _ => {
            let known: Vec<_> = INTERMEDIATES.iter().map(|(name, _)| *name).collect();
            let help = format!("built in: {}", known.join(", "));
            field.error("this is no certificate in PEM", Some(help));
            None
        }
    }
}
