//! From a scheme and what the operator configured to a verifier: everything that can be computed
//! before the first request is.

use std::{sync::Arc, time::Duration};

use http::HeaderName;

use super::{
    Kind, Scheme,
    keys::{Key, Primed, Ring},
    mac::{Engine, Hash},
    request::Slots,
    source::MAX_HEADERS,
    verify::Verifier,
};
use crate::secret::Secret;

/// What the operator configured for a route, as the scheme needs it.
#[derive(Debug, Default)]
pub struct Credentials {
    /// `secret`: the global secrets; any of them verifies.
    pub global: Vec<Secret>,
    /// `[route.secrets.SPACE]`: (space, index, secrets).
    pub groups: Vec<(String, i64, Vec<Secret>)>,
    /// `public_key`, in the same forms as a secret.
    pub public_keys: Vec<Secret>,
    /// `public_url`.
    pub public_url: Option<String>,
    /// `[route.require_headers]`
    pub require_headers: Vec<(HeaderName, Vec<String>)>,
    /// `tolerance`: replaces the scheme's window to both sides.
    pub tolerance: Option<Duration>,
}

impl Verifier {
    /// The scheme with the keys of the route called `route`.
    ///
    /// # Errors
    /// Everything in `credentials` that does not fit the scheme, each in one sentence.
    pub fn new(
        scheme: Arc<Scheme>,
        route: &str,
        credentials: Credentials,
    ) -> Result<Verifier, Vec<String>> {
        let mut problems = Vec::new();
        let mut prime = |name: &str, secrets: &[Secret]| {
            let primed = secrets.iter().filter_map(|secret| {
                primed(&scheme, secret).map_err(|e| problems.push(format!("{name}: {e}"))).ok()
            });
            Key::new(route, name, primed.collect())
        };
        let global = (!credentials.global.is_empty()).then(|| prime("global", &credentials.global));
        let mut groups = Vec::new();
        let mut unknown = Vec::new();
        for (space, index, secrets) in &credentials.groups {
            match scheme.choice.spaces().iter().position(|known| *known.name == **space) {
                Some(number) => {
                    let name = format!("{space}/{index}");
                    groups.push(((number, *index), prime(&name, secrets)));
                }
                None => unknown.push(space.clone()),
            }
        }
        groups.sort_by_key(|(place, _)| *place);
        let stand_in = primed(&scheme, &random_key());
        let stand_in = stand_in.expect("a key in hexadecimal is one in every key form");
        let dummy = Key::new(route, "", vec![stand_in]);

        unknown.dedup();
        for space in unknown {
            let known: Vec<_> = scheme.spaces.iter().map(|(name, _)| name.as_str()).collect();
            problems.push(if known.is_empty() {
                format!("the scheme `{}` has no group secrets", scheme.id)
            } else {
                format!("`{}` has no group `{space}`; it has {}", scheme.id, known.join(", "))
            });
        }
        if groups.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            problems.push("a group has two entries; list its secrets in one".to_owned());
        }
        if credentials.global.is_empty() && credentials.groups.iter().all(|g| g.2.is_empty()) {
            problems.push(format!("the scheme `{}` needs a secret", scheme.id));
        }
        if !credentials.public_keys.is_empty() {
            problems.push(format!("the scheme `{}` takes no public key", scheme.id));
        }
        if scheme.needs_url && credentials.public_url.is_none() {
            problems.push(format!(
                "the scheme `{}` signs its address: `public_url` must be the one registered there",
                scheme.id
            ));
        }
        if credentials.tolerance.is_some() && scheme.timestamp.is_none() {
            problems.push(format!("`{}` signs no timestamp: no `tolerance`", scheme.id));
        }
        let (slots, required) = match slots(&scheme, credentials.require_headers) {
            Ok(both) => both,
            Err(problem) => {
                problems.push(problem);
                return Err(problems);
            }
        };
        if !problems.is_empty() {
            return Err(problems);
        }
        let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        let window = scheme.timestamp.as_ref().map(|timestamp| match credentials.tolerance {
            Some(tolerance) => (millis(tolerance), millis(tolerance)),
            None => (millis(timestamp.window), millis(timestamp.future)),
        });
        Ok(Verifier {
            ring: Ring { global, groups, dummy },
            slots,
            required,
            public_url: credentials.public_url,
            window,
            scheme,
        })
    }
}

/// The slots of scheme and operator together, and the operator's rules by slot.
#[allow(clippy::type_complexity)]
fn slots(
    scheme: &Scheme,
    rules: Vec<(HeaderName, Vec<String>)>,
) -> Result<(Slots, Vec<(usize, Vec<String>)>), String> {
    let mut names = scheme.wanted.headers.clone();
    let mut required = Vec::new();
    for (name, values) in rules {
        let slot = names.iter().position(|known| *known == name).unwrap_or_else(|| {
            names.push(name);
            names.len() - 1
        });
        required.push((slot, values));
    }
    if names.len() > MAX_HEADERS {
        return Err(format!("scheme and require_headers name more than {MAX_HEADERS} headers"));
    }
    Ok((Slots::new(&names), required))
}

fn primed(scheme: &Scheme, secret: &Secret) -> Result<Primed, String> {
    let bytes = scheme.key.bytes(secret)?;
    Ok(match scheme.kind {
        Kind::Hmac(hash) => Primed::Hmac(Engine::hmac(hash, bytes.expose())),
        Kind::Digest(hash) => Primed::Digest(Engine::digest(hash), bytes),
        Kind::Token => {
            let engine = Engine::hmac(Hash::Sha256, random_key().expose());
            let mut of_secret = engine.clone();
            of_secret.update(bytes.expose());
            Primed::Token(engine, of_secret.finish())
        }
    })
}

/// A key that nobody knows, written so that every key form takes it.
fn random_key() -> Secret {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    Secret::new(data_encoding::HEXLOWER.encode(&bytes).into_bytes())
}
