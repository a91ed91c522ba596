//! `[server.acme]`: certificates that the gateway obtains itself.

use std::path::PathBuf;

use data_encoding::BASE64URL_NOPAD;

use super::{
    Surroundings, not_empty,
    secret::{self, Use},
};
use crate::{
    document::{Field, Section},
    secret::Secret,
    tls::{AcmeOptions, ChallengeKind, ExternalAccount, ServerTrust},
};

/// The directories with names of their own.
const DIRECTORIES: [(&str, &str); 2] = [
    ("letsencrypt", "https://acme-v02.api.letsencrypt.org/directory"),
    ("letsencrypt-staging", "https://acme-staging-v02.api.letsencrypt.org/directory"),
];

/// Reads `[server.acme]`. Contacts no directory and writes nothing.
pub(super) fn read(section: Section<'_>, surroundings: &Surroundings<'_>) -> Option<AcmeOptions> {
    let domains = section.require("domains").and_then(|field| domains(&field));
    let contact = section.get("contact").map_or(Some(Vec::new()), |field| contacts(&field));
    let directory = section.get("directory");
    let directory =
        directory.map_or(Some(DIRECTORIES[0].1.to_owned()), |field| directory_url(&field));
    let ca = section.get("ca").map(|field| certificates(&field, surroundings));
    let path = section.get("path");
    let path = path.map_or(Some(surroundings.base.join("data/acme")), |field| {
        let path = surroundings.base.join(not_empty(&field)?);
        if path.exists() && !path.is_dir() {
            field.error(format!("{} is not a directory", path.display()), None);
        }
        Some(path)
    });
    let challenge = section.get("challenge");
    let challenge = challenge.map_or(Some(ChallengeKind::TlsAlpn01), |field| {
        field.one_of(&[
            ("tls-alpn-01", ChallengeKind::TlsAlpn01),
            ("http-01", ChallengeKind::Http01),
        ])
    });
    let profile = section.get("profile").map(|field| not_empty(&field));
    let eab = section.get("eab").map(|field| external_account(&field, surroundings));
    section.finish();
    Some(AcmeOptions {
        domains: domains?,
        contact: contact?,
        directory: directory?,
        ca: optional(ca)?,
        path: path?,
        challenge: challenge?,
        profile: optional(profile)?,
        external_account: optional(eab)?,
    })
}

/// Returns `None` if a value is present but invalid.
fn optional<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    value.map_or(Some(None), |value| value.map(Some))
}

fn domains(field: &Field<'_>) -> Option<Vec<String>> {
    let items = field.items();
    if items.is_empty() {
        field.error("`domains` has no name", Some("domains = [\"hooks.example.com\"]".to_owned()));
    }
    let mut domains = Vec::new();
    for item in &items {
        let Some(text) = item.text() else { continue };
        let domain = text.to_ascii_lowercase();
        if domain.starts_with("*.") {
            let help = "list each name: wildcards need challenges in the DNS, which sealgate \
                        does not support";
            item.error(format!("`{text}` is a wildcard"), Some(help.to_owned()));
        } else if !is_domain(&domain) {
            let help = "write a host name such as hooks.example.com, in ASCII (xn--…)";
            item.error(format!("`{text}` is not a domain name"), Some(help.to_owned()));
        } else if domains.contains(&domain) {
            item.error(format!("`{text}` is listed twice"), None);
        } else {
            domains.push(domain);
        }
    }
    (!items.is_empty() && domains.len() == items.len()).then_some(domains)
}

/// Returns whether a lower-case text can be the domain of a certificate.
pub fn is_domain(name: &str) -> bool {
    let label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let edge = label.starts_with('-') || label.ends_with('-');
        (1..=63).contains(&label.len()) && !edge && label.bytes().all(plain)
    };
    let address = name.rsplit('.').next().is_some_and(|last| last.parse::<u64>().is_ok());
    name.len() <= 240 && !address && name.split('.').all(label)
}

fn contacts(field: &Field<'_>) -> Option<Vec<String>> {
    let contact = |item: &Field<'_>| {
        let text = item.text()?;
        let address = text.strip_prefix("mailto:").unwrap_or(&text);
        let valid = address.split_once('@').is_some_and(|(user, host)| {
            let plain = |c: char| c.is_ascii_graphic() && !"@,?".contains(c);
            !user.is_empty() && is_domain(&host.to_ascii_lowercase()) && user.chars().all(plain)
        });
        if !valid {
            item.error(format!("`{text}` is not an e-mail address"), None);
            return None;
        }
        Some(format!("mailto:{address}"))
    };
    let contacts: Vec<_> = field.items().iter().map(contact).collect();
    contacts.into_iter().collect()
}

fn directory_url(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    if let Some((_, url)) = DIRECTORIES.iter().find(|(name, _)| *name == text) {
        return Some((*url).to_owned());
    }
    let url = text.parse::<http::Uri>();
    if url.is_ok_and(|url| url.scheme_str() == Some("https") && url.host().is_some()) {
        return Some(text);
    }
    let help = "directory = \"letsencrypt\", \"letsencrypt-staging\", or a URL with https://";
    field.error(format!("`{text}` is not an ACME directory"), Some(help.to_owned()));
    None
}

fn certificates(field: &Field<'_>, surroundings: &Surroundings<'_>) -> Option<PathBuf> {
    let path = surroundings.file(&not_empty(field)?);
    if let Err(error) = ServerTrust::read(&path) {
        field.error(error, None);
    }
    Some(path)
}

fn external_account(field: &Field<'_>, surroundings: &Surroundings<'_>) -> Option<ExternalAccount> {
    let section = field.section()?;
    let kid = section.require("kid").and_then(|field| not_empty(&field));
    let key = section.require("key").and_then(|field| {
        let secret = secret::read(&field, Use::Verify, surroundings)?;
        let text = secret.expose().trim_ascii();
        let bare = text.iter().rposition(|byte| *byte != b'=').map_or(text, |end| &text[..=end]);
        match BASE64URL_NOPAD.decode(bare) {
            Ok(key) => Some(Secret::new(key)),
            Err(_) => {
                let help = "copy the key as the certificate authority shows it";
                field.error("`eab.key` is not base64url", Some(help.to_owned()));
                None
            }
        }
    });
    section.finish();
    Some(ExternalAccount { kid: kid?, key: key? })
}
