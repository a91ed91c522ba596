//! Preparation of a verifier from a scheme and the route's configuration: everything that can be
//! computed before the first request.

use std::{sync::Arc, time::Duration};

use http::HeaderName;

use crate::{
    scheme::{
        compiled::{
            ProofKind, Scheme,
            fetched::{is_host, names_in},
            template::MAX_HEADERS,
        },
        keyset::{
            KeySet,
            named::NamedKeys,
            request::{KeyRequest, SettingValues},
        },
        mac::{Engine, HashAlgorithm},
        public_key::PublicKey,
        verify::{
            Verifier,
            jwt::PinnedClaims,
            keys::{PreparedSecret, VerificationKey, VerificationKeys},
            request::HeaderSlots,
        },
    },
    secret::Secret,
    tls::ServerTrust,
};

/// The configuration of a route that its scheme needs.
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
    /// `verify_token`: the token that the sender's challenge must contain.
    pub verify_token: Option<Secret>,
    /// `methods`: replaces the scheme's.
    pub methods: Option<&'static str>,
    /// `[route.jwt]`
    pub jwt: JwtCredentials,
    /// `[route.settings]`, with the defaults: the values of each setting of the scheme.
    pub settings: SettingValues,
    /// The keys that requests name, if the scheme fetches keys.
    pub named_keys: Option<Arc<NamedKeys>>,
    /// Whether a secret is configured that cannot be used. Its problem is reported by the caller;
    /// such credentials never yield a verifier.
    pub has_unusable_secret: bool,
}

/// `[route.jwt]`: what the operator requires of tokens. A name may have several values.
#[derive(Debug, Default)]
pub struct JwtCredentials {
    /// `issuer`: the values that `iss` may have.
    pub issuer: Vec<String>,
    /// `audience`: the values of which `aud` must be or contain one.
    pub audience: Vec<String>,
    /// `subject`: the values that `sub` may have.
    pub subject: Vec<String>,
    /// `jwks`: the sender's published keys.
    pub jwks: Option<Arc<KeySet>>,
}

impl Verifier {
    /// Prepares a verifier from the scheme and the keys of the route called `route`.
    ///
    /// # Errors
    /// Everything in `credentials` that does not fit the scheme, each in one sentence.
    pub fn new(
        scheme: Arc<Scheme>,
        route: &str,
        credentials: Credentials,
    ) -> Result<Verifier, Vec<String>> {
        let mut problems = Vec::new();
        let public = scheme.takes_public_key();
        let mut prime = |name: &str, secrets: &[Secret]| {
            let prepared = secrets.iter().filter_map(|secret| {
                prepared(&scheme, secret).map_err(|e| problems.push(format!("{name}: {e}"))).ok()
            });
            VerificationKey::new(
                route,
                name,
                prepared.collect(),
                if public { Vec::new() } else { secrets.to_vec() },
            )
        };
        let keys = if public { &credentials.public_keys } else { &credentials.global };
        let published =
            public && (credentials.jwt.jwks.is_some() || credentials.named_keys.is_some());
        let global = (!keys.is_empty() || published).then(|| prime("global", keys));
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
        // Where a request can name its key, there are secrets, and the stand-in is one; a key in
        // hexadecimal is one in every key form. A scheme with public keys has the global key only.
        let stand_in = prepared(&scheme, &random_key()).ok().into_iter().collect();
        let dummy = VerificationKey::new(route, "", stand_in, Vec::new());

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
        problems.extend(scheme.misfit(&credentials));
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
        if !problems.is_empty() || credentials.has_unusable_secret {
            return Err(problems);
        }
        let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        let window = scheme.timestamp.as_ref().map(|timestamp| match credentials.tolerance {
            Some(tolerance) => (millis(tolerance), millis(tolerance)),
            None => (millis(timestamp.window), millis(timestamp.future)),
        });
        Ok(Verifier {
            ring: Arc::new(VerificationKeys { global, groups, dummy }),
            methods: credentials.methods.unwrap_or(scheme.sender.methods),
            slots,
            required,
            public_urls: credentials
                .public_url
                .map(|registered| scheme.url.addresses(&registered))
                .unwrap_or_default(),
            window,
            pinned: PinnedClaims {
                issuer: credentials.jwt.issuer,
                audience: credentials.jwt.audience,
                subject: credentials.jwt.subject,
            },
            key_set: credentials.jwt.jwks,
            named_keys: credentials.named_keys,
            settings: credentials.settings.into_iter().map(|(_, values)| values).collect(),
            verify_token: credentials.verify_token,
            scheme,
        })
    }
}

impl Scheme {
    /// Returns the settings that every route needs: name, meaning, and whether it is confidential.
    pub fn required_settings(&self) -> impl Iterator<Item = (&str, &str, bool)> {
        let required = self.settings.iter().filter(|setting| setting.values.is_empty());
        required.map(|setting| (&*setting.name, setting.what.as_str(), setting.secret))
    }

    /// Returns whether a setting is confidential.
    pub fn is_confidential(&self, name: &str) -> bool {
        self.settings.iter().any(|setting| setting.secret && *setting.name == *name)
    }

    /// Returns the values of each setting: what a route configures, or the default.
    ///
    /// # Errors
    /// Every problem, each in one sentence.
    pub fn setting_values(
        &self,
        given: &[(String, Vec<Secret>)],
    ) -> Result<SettingValues, Vec<String>> {
        let id = &self.id;
        let mut problems = Vec::new();
        let known = |name: &str| self.settings.iter().any(|setting| *setting.name == *name);
        for (name, _) in given.iter().filter(|(name, _)| !known(name)) {
            let names: Vec<_> = self.settings.iter().map(|setting| &*setting.name).collect();
            problems.push(match names.as_slice() {
                [] => format!("the scheme `{id}` has no settings"),
                names => format!("`{id}` has no setting `{name}`; it has {}", names.join(", ")),
            });
        }
        let mut settings = Vec::new();
        for setting in &self.settings {
            let name = &setting.name;
            let values = match given.iter().find(|(known, _)| **known == **name) {
                Some((_, values)) => values.clone(),
                None => setting.values.first().map(|value| secret_of(value)).into_iter().collect(),
            };
            if values.is_empty() {
                problems.push(format!("the scheme `{id}` needs `{name}`: {}", setting.what));
            }
            if values.len() > 1 && setting.equals.is_none() {
                problems.push(format!("`{name}` has one value"));
            }
            for value in &values {
                let is_allowed =
                    setting.values.iter().any(|known| known.as_bytes() == value.expose());
                if !setting.values.is_empty() && !is_allowed {
                    problems.push(format!("`{name}` is one of {}", setting.values.join(", ")));
                }
                let visible = value.expose().iter().all(u8::is_ascii_graphic);
                if !visible || value.expose().is_empty() {
                    problems.push(format!("`{name}` must be visible ASCII characters"));
                }
                let in_host = self
                    .fetched
                    .as_ref()
                    .is_some_and(|fetched| names_in(&fetched.host).contains(&&**name));
                let text = String::from_utf8_lossy(value.expose());
                if in_host && (!is_host(&text) || text.contains(':')) {
                    problems.push(format!("`{name}` must be a part of a DNS name"));
                }
            }
            settings.push((name.clone(), values));
        }
        if problems.is_empty() { Ok(settings) } else { Err(problems) }
    }

    /// Returns whether the keys are fetched when requests name them.
    pub fn fetches_keys(&self) -> bool {
        self.fetched.is_some()
    }

    /// Returns the keys of a route with these settings; `None` if the scheme fetches none.
    /// `trust` verifies the server, and the certificates with which the sender signs.
    pub fn named_keys(
        &self,
        settings: &SettingValues,
        trust: ServerTrust,
    ) -> Option<Arc<NamedKeys>> {
        let algorithm = self.public_key_algorithm()?;
        let rule = self.fetched.clone()?;
        Some(NamedKeys::new(KeyRequest::new(rule, settings.clone(), algorithm, trust)))
    }

    /// Returns the problems of credentials that the scheme lacks or does not use.
    fn misfit(&self, given: &Credentials) -> Vec<String> {
        let id = &self.id;
        let secrets = !given.global.is_empty()
            || given.groups.iter().any(|g| !g.2.is_empty())
            || given.has_unusable_secret;
        let public = !given.public_keys.is_empty();
        let jwt = &given.jwt;
        let mut problems = Vec::new();
        match (self.takes_public_key(), self.takes_key_set()) {
            _ if self.fetched.is_some() && (secrets || public || jwt.jwks.is_some()) => {
                let what = "fetches its keys: it takes no secret and no key";
                problems.push(format!("the scheme `{id}` {what}"));
            }
            _ if self.fetched.is_some() => {}
            (true, _) if secrets => {
                problems.push(format!("the scheme `{id}` takes no secret, but a public key"));
            }
            (true, true) if !public && jwt.jwks.is_none() => {
                problems.push(format!("the scheme `{id}` needs `jwks` or a public key"));
            }
            (true, false) if !public => {
                problems.push(format!("the scheme `{id}` needs a public key"));
            }
            (false, _) if public => {
                problems.push(format!("the scheme `{id}` takes no public key"));
            }
            (false, _) if !secrets => {
                problems.push(format!("the scheme `{id}` needs a secret"));
            }
            _ => {}
        }
        if jwt.jwks.is_some() && !self.takes_key_set() {
            problems.push(format!("the scheme `{id}` takes no `jwks`"));
        }
        if let (Some(set), Some(algorithm)) = (&jwt.jwks, self.public_key_algorithm())
            && set.lacks(algorithm)
        {
            let algorithm = algorithm.name();
            problems.push(format!("the key set has no key for {algorithm}, which `{id}` uses"));
        }
        let pinned =
            [("issuer", &jwt.issuer), ("audience", &jwt.audience), ("subject", &jwt.subject)];
        let demanded = self.token.as_ref().map(|rules| rules.configured.as_slice());
        for (name, values) in pinned {
            let demanded = demanded.is_some_and(|names| names.iter().any(|known| **known == *name));
            if demanded && values.is_empty() {
                problems.push(format!("the scheme `{id}` needs `{name}` in [route.jwt]"));
            }
            if !self.takes_tokens() && !values.is_empty() {
                problems.push(format!("the scheme `{id}` has no tokens: no `{name}`"));
            }
        }
        let handshake = self.challenges.iter().any(|h| h.verify_token.is_some());
        if given.verify_token.is_some() && !handshake {
            problems.push(format!("the scheme `{id}` takes no `verify_token`"));
        }
        problems
    }
}

/// Returns the slots of scheme and operator together, and the operator's rules by slot.
#[allow(clippy::type_complexity)]
fn slots(
    scheme: &Scheme,
    rules: Vec<(HeaderName, Vec<String>)>,
) -> Result<(HeaderSlots, Vec<(usize, Vec<String>)>), String> {
    let mut names = scheme.inputs.headers.clone();
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
    Ok((HeaderSlots::new(&names), required))
}

pub(in crate::scheme) fn prepared(
    scheme: &Scheme,
    secret: &Secret,
) -> Result<PreparedSecret, String> {
    if let Some(algorithm) = scheme.public_key_algorithm() {
        return PublicKey::read(algorithm, &scheme.key, secret).map(PreparedSecret::Public);
    }
    let bytes = scheme.key.bytes(secret)?;
    Ok(match scheme.kind {
        ProofKind::Hmac(hash) => PreparedSecret::Hmac(Engine::hmac(hash, bytes.expose())),
        ProofKind::Jwt | ProofKind::PublicKey(_) => {
            PreparedSecret::Hmac(Engine::hmac(HashAlgorithm::Sha256, bytes.expose()))
        }
        ProofKind::Digest(hash) => PreparedSecret::Digest(Engine::digest(hash), bytes),
        ProofKind::Token | ProofKind::Basic => {
            let engine = Engine::hmac(HashAlgorithm::Sha256, random_key().expose());
            let tag = engine.of(bytes.expose());
            PreparedSecret::Token(engine, tag)
        }
    })
}

fn secret_of(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec())
}

/// Generates a random key that is valid in every key form.
fn random_key() -> Secret {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    Secret::new(data_encoding::HEXLOWER.encode(&bytes).into_bytes())
}
