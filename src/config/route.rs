//! `[[route]]` and `[schemes.NAME]`: what is received where, how it is judged and where it goes.

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue};

use super::{Surroundings, limits::Limits, secret};
use crate::{
    body,
    document::{Field, Section, nearest},
    forward::{HostPolicy, Origin, UpstreamOptions},
    route::{Mode, PathPattern, RouteOptions},
    scheme::{Credentials, Scheme, Verifier},
};

/// The user's own schemes, by name.
pub(super) type Schemes = HashMap<String, Arc<Scheme>>;

/// `[schemes.NAME]`: schemes that stand in the configuration itself.
pub(super) fn schemes(section: Option<Section<'_>>) -> Schemes {
    let mut schemes = Schemes::new();
    for (name, field) in section.iter().flat_map(|section| section.entries()) {
        let Some(section) = field.section() else { continue };
        let scheme = Scheme::read(&section);
        section.finish();
        if Scheme::builtin(&name).is_some() {
            field.error(format!("the scheme `{name}` is built in; choose another name"), None);
        }
        schemes.extend(scheme.map(|scheme| (name, Arc::new(scheme))));
    }
    schemes
}

/// All routes; those that are wrong are left out, since their problems are on record.
pub(super) fn read_all(
    field: &Field<'_>,
    limits: &Limits,
    schemes: &Schemes,
    ttl: Option<Duration>,
    surroundings: &Surroundings<'_>,
) -> Vec<RouteOptions> {
    let mut seen: Vec<(String, Option<String>, PathPattern)> = Vec::new();
    let mut routes = Vec::new();
    for item in field.items() {
        let Some(section) = item.section() else { continue };
        let name = section.require("name").and_then(|field| name(&field));
        let path = section.require("path").and_then(|field| path(&field));
        let host = section.get("host").and_then(|field| host(&field));
        if let (Some(name), Some(path)) = (&name, &path) {
            if seen.iter().any(|(known, ..)| known == name) {
                section.error(format!("two routes are called {name}"), None);
            }
            if let Some((other, ..)) = seen.iter().find(|(_, h, p)| *h == host && p == path) {
                section.error(format!("`{name}` serves the same host and path as `{other}`"), None);
            }
            seen.push((name.clone(), host.clone(), path.clone()));
        }
        let place = (name, host, path);
        let route = read(&section, place, limits, schemes, ttl, surroundings);
        section.finish();
        routes.extend(route);
    }
    routes
}

fn read(
    section: &Section<'_>,
    (name, host, path): (Option<String>, Option<String>, Option<PathPattern>),
    limits: &Limits,
    schemes: &Schemes,
    ttl: Option<Duration>,
    surroundings: &Surroundings<'_>,
) -> Option<RouteOptions> {
    let scheme = scheme(section, schemes, surroundings);
    let mode = section
        .get("mode")
        .and_then(|field| field.one_of(&[("enforce", Mode::Enforce), ("observe", Mode::Observe)]));
    let upstream = upstream(section, limits);
    let own_answer_within = section.get("answer_within").map(|field| (field.duration(), field));
    let own_body = section.get("body").and_then(|field| field.size());
    let credentials = credentials(section, surroundings);
    let (scheme, name) = scheme.zip(name)?;

    let answer_within = match own_answer_within {
        Some((Some(own), field)) => {
            if own > scheme.answer_within() {
                let usual = scheme.answer_within();
                let help = format!("the scheme's {usual:?} is just under the sender's timeout");
                field.warning("the sender gives up before `answer_within`", Some(help));
            }
            own
        }
        _ => scheme.answer_within(),
    };
    if ttl.is_some_and(|ttl| ttl < scheme.memory()) {
        let memory = scheme.memory().as_secs() / 3600;
        let help = format!("without `ttl`, its events are kept for {memory}h");
        section.warning(format!("replay.ttl is shorter than `{name}` needs"), Some(help));
    }
    let (ttl, body_limit) = (ttl.unwrap_or(scheme.memory()), scheme.body_limit());
    let verifier = match Verifier::new(scheme, &name, credentials) {
        Ok(verifier) => Some(verifier),
        Err(problems) => {
            problems.into_iter().for_each(|problem| section.error(problem, None));
            None
        }
    };
    Some(RouteOptions {
        name,
        host,
        path: path?,
        mode: mode.unwrap_or(Mode::Enforce),
        verifier: verifier?,
        answer_within,
        body: body::Limits {
            bytes: own_body.or(limits.body).unwrap_or(body_limit),
            time: limits.request_body,
        },
        upstream: upstream?,
        ttl,
    })
}

fn name(field: &Field<'_>) -> Option<String> {
    let name = field.text()?;
    let grammar = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if name.len() > 64
        || !name.starts_with(|c: char| c.is_ascii_alphanumeric())
        || !name.chars().all(grammar)
    {
        let help = "1 to 64 letters, digits, `_`, `.`, `-`, the first a letter or digit";
        field.error(format!("`{name}` is no name of a route"), Some(help.to_owned()));
        return None;
    }
    Some(name)
}

fn path(field: &Field<'_>) -> Option<PathPattern> {
    let path = field.text()?;
    let fault = if !path.starts_with('/') {
        Some("must begin with /")
    } else if path.contains(['?', '#']) {
        Some("has neither query nor fragment")
    } else if path.contains("//") || path.split('/').any(|part| part == "." || part == "..") {
        Some("has no empty and no dot segments")
    } else if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        Some("is written as it stands in the request line: ASCII without spaces")
    } else if path.strip_suffix("/*").unwrap_or(&path).contains('*') {
        Some("may have one `*`, as its last segment")
    } else {
        None
    };
    if let Some(fault) = fault {
        field.error(format!("the path `{path}` {fault}"), None);
        return None;
    }
    Some(match path.strip_suffix('*') {
        Some(prefix) => PathPattern::Below(prefix.to_owned()),
        None => PathPattern::Exact(path),
    })
}

fn host(field: &Field<'_>) -> Option<String> {
    let host = field.text()?.to_ascii_lowercase();
    if host.is_empty() || !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        let help = "write the name alone: hooks.example.com".to_owned();
        field.error(format!("`{host}` is no host name"), Some(help));
        return None;
    }
    Some(host)
}

/// `scheme`, by its id or the name of the user's own, or `scheme_file`.
fn scheme(
    section: &Section<'_>,
    schemes: &Schemes,
    surroundings: &Surroundings<'_>,
) -> Option<Arc<Scheme>> {
    let (id, file) = (section.get("scheme"), section.get("scheme_file"));
    match (id, file) {
        (Some(field), None) => {
            let id = field.text()?;
            let found = schemes.get(&id).cloned().or_else(|| Scheme::builtin(&id));
            if found.is_none() {
                let mut known: Vec<&str> = schemes.keys().map(String::as_str).collect();
                known.extend(Scheme::builtin_ids().map(|id| -> &str { id }));
                let help = match nearest(&id, known.into_iter()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "`sealgate schemes` lists them".to_owned(),
                };
                field.error(format!("no scheme is called `{id}`"), Some(help));
            }
            found
        }
        (None, Some(field)) => {
            let path = surroundings.base.join(PathBuf::from(field.text()?));
            let shown = path.display().to_string();
            let text = std::fs::read_to_string(&path)
                .map_err(|error| field.error(format!("{shown} cannot be read: {error}"), None));
            Scheme::parse(&shown, &text.ok()?)
                .map_err(|report| {
                    report.lines().for_each(|(_, line)| field.error(line, None));
                })
                .ok()
        }
        _ => {
            let help = "scheme = \"vivoldi\", or scheme_file = \"own.toml\"".to_owned();
            section.error("a route has either `scheme` or `scheme_file`", Some(help));
            None
        }
    }
}

fn upstream(section: &Section<'_>, limits: &Limits) -> Option<UpstreamOptions> {
    let field = section.require("upstream")?;
    let origin = |field: &Field<'_>| {
        let text = field.text()?;
        let help = "write http://host:port, with or without a path".to_owned();
        text.parse::<Origin>().map_err(|error| field.error(error, Some(help))).ok()
    };
    let origins: Vec<_> = field.items().iter().filter_map(origin).collect();
    if field.items().is_empty() {
        field.error("`upstream` has no address", None);
    }
    let host = section.get("upstream_host").and_then(|field| {
        let text = field.text()?;
        match text.as_str() {
            "preserve" => Some(HostPolicy::Preserve),
            "upstream" => Some(HostPolicy::Upstream),
            name => match HeaderValue::from_str(name) {
                Ok(value) if !name.is_empty() => Some(HostPolicy::Name(value)),
                _ => {
                    field.error("`upstream_host` is \"preserve\", \"upstream\" or a name", None);
                    None
                }
            },
        }
    });
    let timeout = section.get("upstream_timeout").and_then(|field| field.duration());
    (!origins.is_empty()).then(|| UpstreamOptions {
        origins,
        host: host.unwrap_or(HostPolicy::Preserve),
        timeout: timeout.unwrap_or(Duration::from_secs(30)),
        idle: limits.upstream_idle,
        answer_bytes: limits.upstream_body,
        answer_head_bytes: limits.upstream_head,
    })
}

fn credentials(section: &Section<'_>, surroundings: &Surroundings<'_>) -> Credentials {
    let keys = |key| {
        let field = section.get(key);
        field.map(|field| secret::read_all(&field, surroundings)).unwrap_or_default()
    };
    Credentials {
        global: keys("secret"),
        public_keys: keys("public_key"),
        groups: section.get("secrets").map(|f| groups(&f, surroundings)).unwrap_or_default(),
        public_url: section.get("public_url").and_then(|field| field.text()),
        require_headers: section
            .get("require_headers")
            .map(|field| require_headers(&field))
            .unwrap_or_default(),
        tolerance: section.get("tolerance").and_then(|field| field.duration()),
    }
}

/// `[route.secrets.SPACE]`: index = secret(s).
fn groups(
    field: &Field<'_>,
    surroundings: &Surroundings<'_>,
) -> Vec<(String, i64, Vec<crate::secret::Secret>)> {
    let mut groups = Vec::new();
    for (space, field) in field.section().iter().flat_map(|section| section.entries()) {
        for (index, field) in field.section().iter().flat_map(|section| section.entries()) {
            let secrets = secret::read_all(&field, surroundings);
            match index.parse::<i64>() {
                Ok(number) if number.to_string() == index => {
                    groups.push((space.clone(), number, secrets));
                }
                _ => field.error(format!("`{index}` is no index: write a whole number"), None),
            }
        }
    }
    groups
}

/// `[route.require_headers]`: name = one value or several.
fn require_headers(field: &Field<'_>) -> Vec<(HeaderName, Vec<String>)> {
    let mut rules = Vec::new();
    for (name, field) in field.section().iter().flat_map(|section| section.entries()) {
        let values: Vec<_> = field.items().iter().filter_map(|item| item.text()).collect();
        match HeaderName::from_bytes(name.as_bytes()) {
            Ok(_) if values.is_empty() => {
                field.error(format!("`{name}` has no value that it may have"), None);
            }
            Ok(header) => rules.push((header, values)),
            Err(_) => field.error(format!("`{name}` is no header name"), None),
        }
    }
    rules
}
