//! The keys of a route that configure authentication: secrets, public keys, tokens.

use std::{
    collections::{HashMap, hash_map::Entry},
    ops::RangeInclusive,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use http::Uri;

use super::{
    Surroundings, entries, headers, not_empty,
    secret::{self, Use},
};
use crate::{
    document::{Field, Section, nearest},
    scheme::{Credentials, JwtCredentials, KeySet, NamedKeys, Scheme, read_methods},
    secret::Secret,
    tls::ServerTrust,
};

/// An empty window rejects every request; a window of a week protects against nothing.
const TOLERANCES: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(7 * 86_400);

/// Key sets, by address and CA file.
pub(super) type KeySets = HashMap<(String, Option<PathBuf>), Arc<KeySet>>;

/// The sets of keys that requests name.
pub(super) type NamedKeySets = Vec<Arc<NamedKeys>>;

/// Reads the credentials of the route `name`. `scheme` is the route's scheme, if it is known.
/// Returns `None` if a public key or a token rule is invalid: its error is recorded, and the
/// remaining keys cannot be checked against the scheme without it.
pub(super) fn read(
    section: &Section<'_>,
    name: Option<&str>,
    scheme: Option<&Scheme>,
    surroundings: &Surroundings<'_>,
) -> Option<Credentials> {
    let route = name.unwrap_or("a route");
    let errors = section.errors();
    let verifying = |key, what: &str| {
        let field = section.get(key);
        field.map(|field| verifying(&field, &format!("{what} of {route}"), scheme, surroundings))
    };
    let global = verifying("secret", "global");
    let groups = section.get("secrets").map(|field| groups(&field, route, scheme, surroundings));
    let mut credentials = Credentials {
        global: global.unwrap_or_default(),
        groups: groups.unwrap_or_default(),
        verify_token: verifying("verify_token", "verify_token").and_then(|mut all| all.pop()),
        public_url: section.get("public_url").and_then(|field| public_url(&field)),
        methods: section.get("methods").and_then(|field| read_methods(&field)),
        tolerance: section.get("tolerance").and_then(|field| field.duration_within(TOLERANCES)),
        ..Credentials::default()
    };
    // The errors of the secrets are already reported; "no secret" would be wrong in addition.
    let has_secrets = section.has("secret") || section.has("secrets");
    credentials.has_unusable_secret = has_secrets && section.errors() > errors;
    let given = section.get("settings").map(|field| settings(&field, scheme, surroundings));
    let trust = trust(section, scheme, surroundings);
    if let Some(scheme) = scheme {
        match scheme.setting_values(&given.unwrap_or_default()) {
            Ok(values) => {
                let keys = scheme.named_keys(&values, trust?);
                credentials.named_keys = keys.map(|keys| shared(keys, surroundings));
                credentials.settings = values;
            }
            Err(problems) => {
                problems.into_iter().for_each(|problem| section.error(problem, None));
                return None;
            }
        }
    }
    let public_keys = section.get("public_key").map(|field| public_keys(&field, surroundings));
    let jwt = section.get("jwt").map(|field| jwt(&field, scheme, surroundings));
    if let Some(field) = section.get("require_headers") {
        credentials.require_headers = headers::required(&field, section);
    }
    credentials.public_keys = public_keys.unwrap_or_else(|| Some(Vec::new()))?;
    credentials.jwt = jwt.unwrap_or_else(|| Some(JwtCredentials::default()))?;
    Some(credentials)
}

/// Reads the usable secrets of one key; a secret that is also another key's is reported.
fn verifying(
    field: &Field<'_>,
    owner: &str,
    scheme: Option<&Scheme>,
    surroundings: &Surroundings<'_>,
) -> Vec<Secret> {
    let secrets = secret::read_all(field, Use::Verify, surroundings);
    let add = |(item, secret): (Field<'_>, Option<Secret>)| {
        secret.inspect(|secret| surroundings.known.add(&item, secret, owner, scheme))
    };
    secrets.into_iter().filter_map(add).collect()
}

/// Reads `[route.settings]`: what the scheme must know about the sender. A confidential value
/// is in one of the forms of a secret.
fn settings(
    field: &Field<'_>,
    scheme: Option<&Scheme>,
    surroundings: &Surroundings<'_>,
) -> Vec<(String, Vec<Secret>)> {
    let mut settings = Vec::new();
    for (name, field) in entries(field.section()) {
        let values: Vec<_> = if scheme.is_none_or(|scheme| scheme.is_confidential(&name)) {
            let values = secret::read_all(&field, Use::Verify, surroundings);
            values.into_iter().filter_map(|(_, value)| value).collect()
        } else {
            let texts = field.items().into_iter().filter_map(|item| not_empty(&item));
            texts.map(|text| Secret::new(text.into_bytes())).collect()
        };
        settings.push((name, values));
    }
    settings
}

/// Reads `keys_ca`: the authorities that replace those of the system where keys are fetched.
fn trust(
    section: &Section<'_>,
    scheme: Option<&Scheme>,
    surroundings: &Surroundings<'_>,
) -> Option<ServerTrust> {
    let Some(field) = section.get("keys_ca") else { return Some(ServerTrust::System) };
    if scheme.is_some_and(|scheme| !scheme.fetches_keys()) {
        field.error("the scheme fetches no keys: no `keys_ca`", None);
        return None;
    }
    let file = surroundings.file(&not_empty(&field)?);
    ServerTrust::read(&file).map_err(|problem| field.error(problem, None)).ok()
}

/// Returns the keys of another route that are fetched in the same way, or these: routes with the
/// same keys share the limit on fetches.
fn shared(keys: Arc<NamedKeys>, surroundings: &Surroundings<'_>) -> Arc<NamedKeys> {
    let mut known = surroundings.named_keys.borrow_mut();
    if let Some(same) = known.iter().find(|known| known.is_same(&keys)) {
        return Arc::clone(same);
    }
    known.push(Arc::clone(&keys));
    keys
}

/// Reads `[route.secrets.SPACE]`: index = secret(s).
fn groups(
    field: &Field<'_>,
    route: &str,
    scheme: Option<&Scheme>,
    surroundings: &Surroundings<'_>,
) -> Vec<(String, i64, Vec<Secret>)> {
    let mut groups = Vec::new();
    for (space, field) in entries(field.section()) {
        let known = scheme.is_none_or(|scheme| knows_space(scheme, &space, &field));
        for (index, field) in entries(field.section()) {
            let number = index.parse::<i64>().ok().filter(|number| number.to_string() == index);
            let Some(number) = number else {
                let help = "the index is that of the group in the sender's event, such as 3570; \
                            a key of the route itself stands before the first [route.…] heading";
                field.conceal();
                field.error(format!("`{index}` is not an index"), Some(help.to_owned()));
                continue;
            };
            let owner = format!("{space}/{index} of {route}");
            let secrets = verifying(&field, &owner, scheme, surroundings);
            if known {
                groups.push((space.clone(), number, secrets));
            }
        }
    }
    groups
}

fn knows_space(scheme: &Scheme, space: &str, field: &Field<'_>) -> bool {
    let known: Vec<&str> = scheme.spaces().iter().map(|(name, _)| name.as_str()).collect();
    if known.contains(&space) {
        return true;
    }
    field.conceal();
    if known.is_empty() {
        let help = Some("use `secret`".to_owned());
        field.error(format!("the scheme `{}` has no group secrets", scheme.id()), help);
    } else {
        let help = match nearest(space, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("it has {}", known.join(", ")),
        };
        field.error(format!("the scheme `{}` has no group `{space}`", scheme.id()), Some(help));
    }
    false
}

/// Reads `public_url`: the URL exactly as it is registered with the sender.
fn public_url(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    let parsed = text.parse::<Uri>().ok();
    let whole = parsed.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("https" | "http")) && uri.host().is_some()
    });
    if !whole || text.contains('#') {
        let help = "public_url = \"https://hooks.example.com/x\", as registered with the sender";
        field.error(format!("`{text}` is not an absolute URL"), Some(help.to_owned()));
        return None;
    }
    Some(text)
}

/// Reads `public_key`, one key or a list; `None` if one is invalid.
fn public_keys(field: &Field<'_>, surroundings: &Surroundings<'_>) -> Option<Vec<Secret>> {
    let keys = secret::read_all(field, Use::PublicKey, surroundings);
    keys.into_iter().map(|(_, key)| key).collect()
}

/// Reads `[route.jwt]`: the required claims, and the sender's published keys; `None` if a value is
/// invalid.
fn jwt(
    field: &Field<'_>,
    scheme: Option<&Scheme>,
    surroundings: &Surroundings<'_>,
) -> Option<JwtCredentials> {
    let section = field.section()?;
    let errors = section.errors();
    let names = |key| {
        let Some(field) = section.get(key) else { return Vec::new() };
        if field.items().is_empty() {
            field.error(format!("`{}` is empty", field.path()), None);
        }
        field.items().iter().filter_map(not_empty).collect()
    };
    let (issuer, audience, subject) = (names("issuer"), names("audience"), names("subject"));
    let authorities = section.get("jwks_ca");
    let jwks = match section.get("jwks") {
        Some(field) => jwks(&field, authorities.as_ref(), surroundings),
        None => {
            if let Some(field) = authorities {
                let help =
                    Some("`jwks_ca` verifies the server of `jwks`, which is missing".to_owned());
                field.error("`jwks_ca` without `jwks`", help);
            }
            None
        }
    };
    if let Some(scheme) = scheme
        && !scheme.takes_tokens()
        && !scheme.takes_key_set()
    {
        let help = Some("remove [route.jwt]".to_owned());
        field.error(format!("the scheme `{}` verifies no tokens", scheme.id()), help);
    }
    let wrong = section.errors() > errors;
    section.finish();
    (!wrong).then_some(JwtCredentials { issuer, audience, subject, jwks })
}

/// Reads `jwks`, with the CA certificates for its server (`jwks_ca`).
fn jwks(
    field: &Field<'_>,
    authorities: Option<&Field<'_>>,
    surroundings: &Surroundings<'_>,
) -> Option<Arc<KeySet>> {
    let address = not_empty(field)?;
    let file = match authorities {
        Some(authorities) => Some(surroundings.file(&not_empty(authorities)?)),
        None => None,
    };
    if let Some(path) = address.strip_prefix("file:") {
        surroundings.file(path);
    }
    // Routes with the same key set share its keys, and therefore also the limit on fetches.
    match surroundings.key_sets.borrow_mut().entry((address, file)) {
        Entry::Occupied(known) => Some(Arc::clone(known.get())),
        Entry::Vacant(new) => {
            let (address, file) = new.key();
            let set = KeySet::new(address, surroundings.base, file.as_deref());
            let set = set.map_err(|problem| field.error(problem, None)).ok()?;
            Some(Arc::clone(new.insert(set)))
        }
    }
}
