//! `[[route]]` and `[schemes.NAME]`: which paths are served, and how their requests are verified.

use std::{
    collections::{HashMap, hash_map::Entry},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use http::uri::PathAndQuery;

use super::{
    Surroundings, admission, credentials, delivery, entries, headers, limits::LimitsSection,
    not_empty, replay::Ttl, upstream,
};
use crate::{
    body,
    document::{Field, Section, show_duration, show_size},
    route::{Mode, PathPattern, RouteOptions},
    scheme::{Scheme, Verifier},
    traces::{TRACEPARENT, TRACESTATE},
    upstream::UpstreamOptions,
};

const ANSWERS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(600);

/// Replaces the subject of an observing route until the operator knows it. No token has it.
const NOBODY: &str = "\0";

/// The operator's own schemes, by name; `None` for an invalid one.
pub(super) type Schemes = HashMap<String, Option<Arc<Scheme>>>;

/// The settings that all routes share.
pub(super) struct Common<'c> {
    pub(super) limits: &'c LimitsSection,
    pub(super) schemes: &'c Schemes,
    pub(super) has_events: bool,
    pub(super) ttl: Option<Ttl>,
    pub(super) health_path: Option<&'c str>,
    pub(super) surroundings: &'c Surroundings<'c>,
}

/// The routes that were read, each with the line of its path.
#[derive(Default)]
struct Places {
    /// By name.
    names: HashMap<String, usize>,
    /// By host and path, with the name.
    paths: HashMap<(Option<String>, PathPattern), (String, usize)>,
}

/// Reads `[schemes.NAME]`: the schemes in the configuration itself.
pub(super) fn schemes(section: Option<Section<'_>>) -> Schemes {
    let mut schemes = Schemes::new();
    for (name, field) in entries(section) {
        let Some(section) = field.section() else { continue };
        let scheme = Scheme::read(&section);
        let id = section.get("id");
        section.finish();
        if Scheme::builtin_names().any(|known| known == name) {
            field.error(format!("the scheme `{name}` is built in; choose another name"), None);
        }
        if let Some(scheme) = &scheme
            && scheme.id() != name
        {
            let help = format!("write id = \"{name}\"");
            let what = format!("the scheme under [schemes.{name}] has the ID `{}`", scheme.id());
            id.unwrap_or(field).error(what, Some(help));
        }
        schemes.insert(name, scheme.map(Arc::new));
    }
    schemes
}

/// Reads all valid routes, and reports the problems of the others.
pub(super) fn read_all(field: &Field<'_>, common: &Common<'_>) -> Vec<RouteOptions> {
    let sections = field.sections();
    if field.is_list() && sections.is_empty() {
        field.error("there is no route", Some("write one under [[route]]".to_owned()));
    }
    let mut places = Places::default();
    let mut routes = Vec::new();
    for section in sections {
        let place = place(&section, &mut places, common);
        routes.extend(read(&section, place, common));
        section.finish();
    }
    routes
}

/// Reads the name, host and path of a route, and checks that no earlier route has the same.
fn place(
    section: &Section<'_>,
    places: &mut Places,
    common: &Common<'_>,
) -> (Option<String>, Option<String>, Option<PathPattern>) {
    let (name_field, path_field) = (section.require("name"), section.require("path"));
    let host_field = section.get("host");
    let name = name_field.as_ref().and_then(name);
    let path = path_field.as_ref().and_then(path);
    let host = host_field.as_ref().map(host);
    if let (Some(field), Some(name)) = (&name_field, &name)
        && let Some(line) = places.names.get(name)
    {
        field.error(format!("the route on line {line} is also named `{name}`"), None);
    }
    // An invalid host is reported already. As no host, it would look like an overlap.
    let known_host = host.as_ref().is_none_or(Option::is_some);
    let host = host.flatten();
    if let (Some(field), Some(path), true) = (&path_field, &path, known_host) {
        let (shown, line) = (name.clone().unwrap_or_default(), field.line());
        match places.paths.entry((host.clone(), path.clone())) {
            Entry::Occupied(other) => {
                let help = "give one of them another path or host";
                let (name, line) = other.get();
                let what =
                    format!("the route `{name}` on line {line} serves the same host and path");
                field.error(what, Some(help.to_owned()));
            }
            Entry::Vacant(free) => {
                free.insert((shown.clone(), line));
            }
        }
        places.names.entry(shown).or_insert(line);
        if let (PathPattern::Exact(path), Some(health)) = (path, common.health_path)
            && path == health
        {
            field.error(format!("`{path}` is `server.health_path` already"), None);
        }
    }
    (name, host, path)
}

fn read(
    section: &Section<'_>,
    (name, host, path): (Option<String>, Option<String>, Option<PathPattern>),
    common: &Common<'_>,
) -> Option<RouteOptions> {
    let surroundings = common.surroundings;
    let compiled = scheme(section, common);
    let scheme = compiled.as_deref();
    let mode = section
        .get("mode")
        .map(|field| field.one_of(&[("enforce", Mode::Enforce), ("observe", Mode::Observe)]));
    let answer_within = match section.get("answer_within") {
        Some(field) => answer_within(&field, scheme),
        None => scheme.map(Scheme::answer_within),
    };
    let upstream = upstream::read(section, common.limits, answer_within, surroundings);
    let admission = admission::read(section);
    let body = body_limit(section, scheme, common.limits);
    let credentials = credentials::read(section, name.as_deref(), scheme, surroundings);
    let upstream_headers = headers::for_upstream(section, scheme, surroundings);
    let enforced = mode.unwrap_or(Some(Mode::Enforce)).unwrap_or(Mode::Enforce);
    let delivery = delivery::read(section, enforced, common.has_events);
    let upstream_headers = upstream_headers?;
    let (scheme, name) = (compiled?, name?);
    let keeps_trace = [TRACEPARENT, TRACESTATE].iter().any(|name| {
        scheme.headers().contains(name) || upstream_headers.iter().any(|(own, _)| own == name)
    });
    let mut credentials = credentials?;
    if mode == Some(Some(Mode::Observe))
        && scheme.needs_subject()
        && credentials.jwt.subject.is_empty()
    {
        let help = "the log shows the subject of each valid token: pin it before you enforce";
        let what = format!("`{name}` has no `subject` in [route.jwt]: every token is observed");
        section.warning(what, Some(help.to_owned()));
        credentials.jwt.subject.push(NOBODY.to_owned());
    }
    let ttl = ttl(section, &name, &scheme, common.ttl);
    let verifier = match Verifier::new(scheme, &name, credentials) {
        Ok(verifier) => Some(verifier),
        Err(problems) => {
            problems.into_iter().for_each(|problem| section.error(problem, None));
            None
        }
    };
    let verifier = verifier?;
    Some(RouteOptions {
        delivery: delivery?.options(&verifier)?,
        name,
        host,
        path: path?,
        mode: mode.unwrap_or(Some(Mode::Enforce))?,
        admission,
        verifier,
        answer_within: answer_within?,
        body: body::BodyLimits { bytes: body?, time: common.limits.request_body },
        upstream: UpstreamOptions { headers: upstream_headers, keeps_trace, ..upstream? },
        ttl,
    })
}

/// Reads `answer_within`. The scheme's default is just under the sender's timeout.
fn answer_within(field: &Field<'_>, scheme: Option<&Scheme>) -> Option<Duration> {
    let own = field.duration_within(ANSWERS)?;
    if let Some(scheme) = scheme
        && own > scheme.answer_within()
    {
        let usual = show_duration(scheme.answer_within());
        let help = format!("{usual} is just under the timeout of `{}`", scheme.id());
        field.warning("the sender times out before `answer_within`", Some(help));
    }
    Some(own)
}

/// Returns the `body` limit of the route, of `[limits]` or of the scheme. A limit above
/// `limits.memory` is reported, because larger bodies would always get 503.
fn body_limit(
    section: &Section<'_>,
    scheme: Option<&Scheme>,
    limits: &LimitsSection,
) -> Option<u64> {
    let field = section.get("body");
    let bytes = match &field {
        Some(field) => field.size_within(1..=1 << 30)?,
        None => limits.body.or_else(|| scheme.map(Scheme::body_limit))?,
    };
    if bytes > limits.memory {
        let (body, memory) = (show_size(bytes), show_size(limits.memory));
        let what = format!("a body may have {body}, but all bodies together only {memory}");
        let help = Some("raise `limits.memory` or lower `body`".to_owned());
        match field {
            Some(field) => field.error(what, help),
            None => section.warning(what, help),
        }
    }
    Some(bytes)
}

/// Returns how long events stay on record.
fn ttl(section: &Section<'_>, route: &str, scheme: &Scheme, ttl: Option<Ttl>) -> Duration {
    let Some(Ttl { span, line }) = ttl else { return scheme.memory() };
    if span < scheme.memory() {
        let help =
            format!("without `ttl`, its events are kept for {}", show_duration(scheme.memory()));
        let what = format!("`replay.ttl` on line {line} is shorter than the retries of `{route}`");
        section.warning(what, Some(help));
    }
    span
}

fn name(field: &Field<'_>) -> Option<String> {
    let name = field.text()?;
    let grammar = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if name.len() > 64
        || !name.starts_with(|c: char| c.is_ascii_alphanumeric())
        || !name.chars().all(grammar)
    {
        let help = "1 to 64 letters, digits, `_`, `.`, `-`, the first a letter or digit";
        field.error(format!("`{name}` is not a valid route name"), Some(help.to_owned()));
        return None;
    }
    Some(name)
}

fn path(field: &Field<'_>) -> Option<PathPattern> {
    let path = field.text()?;
    let (plain, below) = match path.strip_suffix("/*") {
        Some(plain) => (plain, true),
        None => (path.as_str(), false),
    };
    let lower = path.to_ascii_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| lower.contains(part));
    let fault = if !path.starts_with('/') {
        Some("does not begin with /")
    } else if path.contains(['?', '#']) {
        Some("has a query or a fragment: a route is a path")
    } else if plain.contains('*') {
        Some("has a `*` that is not its last segment")
    } else if has(&["//"]) || path.split('/').any(|part| part == "." || part == "..") {
        Some("has an empty or a dot segment, which is never served")
    } else if below && has(&["%2f", "%5c", "%00", "%2e", ";", "\\"]) {
        Some("has an ambiguous part, which is never served below a wildcard")
    } else if !path.parse::<PathAndQuery>().is_ok_and(|parsed| parsed.path() == path) {
        Some("has characters that are not allowed in a request: write them as %XX")
    } else {
        None
    };
    if let Some(fault) = fault {
        let help = "path = \"/webhooks/vivoldi\", or \"/hooks/*\" for all below".to_owned();
        field.error(format!("the path `{path}` {fault}"), Some(help));
        return None;
    }
    Some(if below { PathPattern::Below(format!("{plain}/")) } else { PathPattern::Exact(path) })
}

fn host(field: &Field<'_>) -> Option<String> {
    let host = field.text()?.to_ascii_lowercase();
    if host.is_empty() || !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        let help = "write the name without port and without `*`: hooks.example.com";
        field.error(format!("`{host}` is not a valid host name"), Some(help.to_owned()));
        return None;
    }
    Some(host)
}

/// Reads `scheme` (an ID or a name under `[schemes]`) or `scheme_file`.
fn scheme(section: &Section<'_>, common: &Common<'_>) -> Option<Arc<Scheme>> {
    let (id, file) = (section.get("scheme"), section.get("scheme_file"));
    match (id, file) {
        (Some(field), None) => named_scheme(&field, common.schemes),
        (None, Some(field)) => {
            let path = common.surroundings.file(&not_empty(&field)?);
            let shown = path.display().to_string();
            let text = std::fs::read_to_string(&path)
                .map_err(|error| field.error(format!("{shown} cannot be read: {error}"), None));
            Scheme::parse(&shown, &text.ok()?)
                .map_err(|report| report.lines().for_each(|(_, line)| field.error(line, None)))
                .ok()
        }
        (Some(_), Some(field)) => {
            field.error("a route has either `scheme` or `scheme_file`, not both", None);
            None
        }
        (None, None) => {
            let help = "scheme = \"vivoldi\", or scheme_file = \"own.toml\"".to_owned();
            section.error("`scheme` is missing in route", Some(help));
            None
        }
    }
}

fn named_scheme(field: &Field<'_>, schemes: &Schemes) -> Option<Arc<Scheme>> {
    let id = field.text()?;
    if let Some(own) = schemes.get(&id) {
        return own.clone();
    }
    let found = Scheme::builtin(&id);
    if found.is_none() {
        let help = match Scheme::suggestion(&id, schemes.keys().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "`sealgate schemes` lists them".to_owned(),
        };
        field.error(format!("unknown scheme `{id}`"), Some(help));
    }
    found
}
