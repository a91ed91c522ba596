//! `[admin]`: the admin listeners, and who may use their API.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::uri::Authority;

use super::{
    Surroundings,
    secret::{self, Use},
    server::addresses,
};
use crate::{
    admin::AdminOptions,
    document::{Field, Section},
    secret::Secret,
};

/// The admin listener without `admin.listen`.
pub const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);

/// Reads `[admin]`: by default one listener on loopback without an API, none if the list is empty.
/// Addresses in `taken` are errors.
pub(super) fn read(
    section: Option<Section<'_>>,
    taken: &[SocketAddr],
    surroundings: &Surroundings<'_>,
) -> AdminOptions {
    let mut options = AdminOptions { listen: vec![DEFAULT_ADMIN], ..AdminOptions::default() };
    let Some(section) = section else { return options };
    let token_field = section.get("token");
    options.token = token_field.as_ref().and_then(|field| token(field, surroundings));
    if let Some(field) = section.get("viewer_token") {
        options.viewer_token = token(&field, surroundings);
        if token_field.is_none() {
            let help = "token = { file = \"…\" }".to_owned();
            field.error("`admin.viewer_token` has no effect without `admin.token`", Some(help));
        } else if options.viewer_token.is_some() && options.viewer_token == options.token {
            field.error("`admin.viewer_token` is the same as `admin.token`", None);
        }
    }
    if let Some(field) = section.get("hosts") {
        options.hosts = field.items().iter().filter_map(host).collect();
    }
    if let Some(field) = section.get("listen") {
        options.listen = addresses(&field);
        if options.listen.iter().any(|address| !address.ip().is_loopback()) {
            let help = match token_field {
                None => "it exposes no payload, but only your monitoring should reach it",
                Some(_) => {
                    "tokens and events cross the network without TLS: put a proxy with TLS \
                            in front of it, and name its host in `admin.hosts`"
                }
            };
            field.warning("`admin.listen` is reachable from outside", Some(help.to_owned()));
        }
        if let Some(twice) = options.listen.iter().find(|a| a.port() != 0 && taken.contains(a)) {
            field.error(format!("{twice} is a public listener already"), None);
        }
    }
    section.finish();
    options
}

/// Reads a token.
fn token(field: &Field<'_>, surroundings: &Surroundings<'_>) -> Option<Secret> {
    let token = secret::read(field, Use::Header, surroundings)?;
    surroundings.known.add(field, &token, &format!("`{}`", field.path()), None);
    Some(token)
}

/// Reads a name without port.
fn host(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    let is_host = text.parse::<Authority>().is_ok_and(|authority| authority.host() == text);
    if !is_host {
        let help = "hosts = [\"admin.example.com\"], without scheme and port".to_owned();
        field.error(format!("`{text}` is not a host name"), Some(help));
        return None;
    }
    Some(text.to_ascii_lowercase())
}
