//! The configuration file, validated into ready-to-use values. Later code sees no unchecked string
//! and no option without its default.
//!
//! All problems are reported at once; only syntax errors are reported alone. Reading binds, fetches
//! and writes nothing, but it reads the files that contain secrets, certificates and schemes. No
//! report quotes a secret.

mod acme;
mod admin;
mod admission;
mod credentials;
mod database;
mod delivery;
mod events;
mod headers;
mod inventory;
mod limits;
mod log;
mod replay;
mod route;
mod secret;
mod server;
mod sources;
mod traces;
mod upstream;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

pub use self::{
    acme::is_domain,
    admin::DEFAULT_ADMIN,
    inventory::{Changes, Inventory},
    log::{LogOptions, log_filter},
    sources::Sources,
};
use self::{inventory::Fixed, limits::LimitsSection};
use crate::{
    admin::AdminOptions,
    document::{Field, Reader, Report, Section, show_duration},
    events::EventsOptions,
    route::RouteOptions,
    server::ServerOptions,
    traces::TracesOptions,
    upstream::OriginAddress,
};

/// A valid configuration.
#[derive(Debug)]
pub struct Config {
    /// Public listeners.
    pub server: ServerOptions,
    /// Admin listeners and their API.
    pub admin: AdminOptions,
    /// The replay guard.
    pub replay: crate::replay::Options,
    /// The event store, if there is one.
    pub events: Option<EventsOptions>,
    /// Whether a replay is acknowledged (200) or rejected (409).
    pub acknowledge_replays: bool,
    /// The memory for all bodies held concurrently, in bytes.
    pub memory: u64,
    /// The routes, at least one.
    pub routes: Vec<RouteOptions>,
    /// Where spans are exported, if requests are traced.
    pub traces: Option<TracesOptions>,
    /// What is logged.
    pub log: LogOptions,
    /// Its parts by name.
    pub inventory: Inventory,
}

/// The function that resolves `{ env = "NAME" }`.
pub type Environment<'e> = dyn Fn(&str) -> Option<String> + 'e;

/// The context in which sections are read.
struct Surroundings<'s> {
    /// The directory of the file, to which relative paths are relative.
    base: &'s Path,
    environment: &'s Environment<'s>,
    known: secret::KnownSecrets,
    sources: RefCell<Sources>,
    /// The key sets that were read.
    key_sets: RefCell<credentials::KeySets>,
    /// The keys that requests name.
    named_keys: RefCell<credentials::NamedKeySets>,
}

impl<'s> Surroundings<'s> {
    fn new(base: &'s Path, environment: &'s Environment<'s>) -> Self {
        Surroundings {
            base,
            environment,
            known: secret::KnownSecrets::default(),
            sources: RefCell::default(),
            key_sets: RefCell::default(),
            named_keys: RefCell::default(),
        }
    }

    /// Returns the path of a file that the configuration names, and records it as a source.
    fn file(&self, name: &str) -> PathBuf {
        let path = self.base.join(name);
        self.sources.borrow_mut().add(&path);
        path
    }
}

/// Reads a configuration file. On success, the report contains only warnings.
///
/// # Errors
/// A report of all problems.
pub fn load(path: &Path) -> Result<(Config, Report), Report> {
    load_with_sources(path).0
}

/// Reads only `[admin]` of a configuration file, for commands that call a running gateway.
///
/// # Errors
/// A report of the problems of that section, or of the syntax.
pub fn load_admin(path: &Path) -> Result<AdminOptions, Report> {
    let text = std::fs::read_to_string(path).map_err(|error| Report::unreadable(path, &error))?;
    let text = Zeroizing::new(text);
    let environment = |name: &str| std::env::var(name).ok();
    let surroundings = Surroundings::new(path.parent().unwrap_or(Path::new("")), &environment);
    let reader = Reader::new(path.display().to_string(), &text);
    let options = {
        let table = reader.parse();
        let section = reader.root(&table).get("admin").and_then(|field| field.section());
        admin::read(section, &[], &surroundings)
    };
    let report = reader.finish();
    if report.is_fatal() { Err(report) } else { Ok(options) }
}

/// Reads a configuration file as [`load`] does, and also returns the files that it refers to, even
/// if the configuration is invalid.
pub fn load_with_sources(path: &Path) -> (Result<(Config, Report), Report>, Sources) {
    let base = path.parent().unwrap_or(Path::new(""));
    let environment = |name: &str| std::env::var(name).ok();
    let surroundings = Surroundings::new(base, &environment);
    surroundings.sources.borrow_mut().add(path);
    let result = match std::fs::read_to_string(path) {
        Ok(text) => validate(&path.display().to_string(), &Zeroizing::new(text), &surroundings),
        Err(error) => Err(Report::unreadable(path, &error)),
    };
    (result, surroundings.sources.into_inner())
}

/// Reads a configuration from text. Reports call it `name`, and relative paths start at `base`. On
/// success, the report contains only warnings.
///
/// # Errors
/// A report of all problems.
pub fn parse(
    name: &str,
    text: &str,
    base: &Path,
    environment: &Environment<'_>,
) -> Result<(Config, Report), Report> {
    validate(name, text, &Surroundings::new(base, environment))
}

fn validate(
    name: &str,
    text: &str,
    surroundings: &Surroundings<'_>,
) -> Result<(Config, Report), Report> {
    let reader = Reader::new(name, text);
    let config = read(&reader, surroundings);
    let report = reader.finish();
    match config {
        Some(config) if !report.is_fatal() => Ok((config, report)),
        Some(_) | None => Err(report),
    }
}

/// Reads the whole document; returns `None` only if an error is recorded.
fn read(reader: &Reader<'_>, surroundings: &Surroundings<'_>) -> Option<Config> {
    let table = reader.parse();
    let root = reader.root(&table);
    let section = |key| root.get(key).and_then(|field| field.section());
    let limits = LimitsSection::read(section("limits"));
    let log = log::read(section("log"));
    let server = root.require("server");
    let server = server.and_then(|field| field.section());
    let server = server.map(|section| server::read(section, &limits, surroundings));
    let public: Vec<SocketAddr> = server.iter().flat_map(ServerOptions::addresses).collect();
    let admin = admin::read(section("admin"), &public, surroundings);
    let events_section = section("events");
    let has_events = events_section.is_some();
    let events = events_section.map(|section| events::read(section, surroundings));
    let traces = section("traces").map(|section| traces::read(section, surroundings));
    let replay = replay::read(section("replay"), events.as_ref(), surroundings);
    let schemes = route::schemes(section("schemes"));
    let routes = root.require("route").map(|field| {
        let common = route::Common {
            limits: &limits,
            schemes: &schemes,
            has_events,
            ttl: replay.as_ref().and_then(|replay| replay.ttl),
            health_path: server.as_ref().and_then(|server| server.health_path.as_deref()),
            surroundings,
        };
        let routes = route::read_all(&field, &common);
        if let Some(server) = &server {
            warn_of_short_drain(&field, server, &routes);
            check_upstream_ports(&field, &public, &routes);
        }
        routes
    });
    let parts = parts(&root);
    root.finish();
    let (server, replay) = (server?, replay?);
    let events = match events {
        Some(events) => Some(events?),
        None => None,
    };
    let traces = match traces {
        Some(traces) => Some(traces?),
        None => None,
    };
    let fixed = Fixed {
        server: server.clone(),
        admin: admin.listen.clone(),
        replay: replay.options.clone(),
        events: events.clone(),
        memory: limits.memory,
        traces: traces.clone(),
    };
    Some(Config {
        inventory: Inventory {
            sources: surroundings.sources.borrow().clone(),
            sections: parts.0,
            routes: parts.1,
            secrets: surroundings.known.by_owner(),
            fixed,
        },
        server,
        admin,
        replay: replay.options,
        events,
        acknowledge_replays: replay.acknowledge,
        memory: limits.memory,
        traces,
        log,
        routes: routes?,
    })
}

/// Digests of the sections other than routes, and of the routes, by name.
type Digests = (BTreeMap<String, [u8; 32]>, BTreeMap<String, [u8; 32]>);

fn parts(root: &Section<'_>) -> Digests {
    let sections = root.entries().into_iter().filter(|(name, _)| name != "route");
    let routes = root.get("route").map(|field| field.items()).unwrap_or_default();
    let named = |field: Field<'_>| {
        let name = field.is_table().then(|| field.section()?.get("name")).flatten()?;
        Some((name.is_text().then(|| name.text()).flatten()?, field.digest()))
    };
    (
        sections.map(|(name, field)| (name, field.digest())).collect(),
        routes.into_iter().filter_map(named).collect(),
    )
}

/// Reports upstreams that are the gateway's own listeners, and warns about HTTP without TLS to port
/// 443.
fn check_upstream_ports(field: &Field<'_>, public: &[SocketAddr], routes: &[RouteOptions]) {
    for route in routes {
        for origin in &route.upstream.origins {
            let (host, port) = match &origin.address {
                OriginAddress::Http { host, port } | OriginAddress::Https { host, port } => {
                    (host, *port)
                }
                OriginAddress::Unix(_) => continue,
            };
            let local = if host == "localhost" { "127.0.0.1" } else { host };
            let ip: Option<IpAddr> = local.parse().ok();
            let is_own = |listener: &SocketAddr| {
                let own = listener.ip();
                let same = ip == Some(own)
                    || (own.is_unspecified() && ip.is_some_and(|ip| ip.is_loopback()));
                listener.port() == port && same
            };
            if public.iter().any(is_own) {
                let help = "write the address at which the handler listens".to_owned();
                let what = format!(
                    "the upstream {origin} of `{}` is a listener of this gateway",
                    route.name
                );
                field.error(what, Some(help));
            } else if matches!(origin.address, OriginAddress::Http { port: 443, .. }) {
                let what = format!(
                    "the upstream {origin} of `{}` is http:// on the port of TLS",
                    route.name
                );
                field.warning(what, Some("write https:// if the handler has TLS".to_owned()));
            }
        }
    }
}

/// Warns about a drain that can end before an upstream responds: the event's outcome would be
/// unknown.
fn warn_of_short_drain(field: &Field<'_>, server: &ServerOptions, routes: &[RouteOptions]) {
    let long = routes.iter().find(|route| route.upstream.timeout > server.drain);
    if let Some(route) = long {
        let (drain, timeout) = (show_duration(server.drain), show_duration(route.upstream.timeout));
        let what = format!(
            "`server.drain` ({drain}) ends before `upstream_timeout` of `{}` ({timeout})",
            route.name
        );
        let help = "an exchange that the drain interrupts may have reached the upstream".to_owned();
        field.warning(what, Some(help));
    }
}

/// Returns a string with at least one character.
fn not_empty(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    if text.is_empty() {
        field.error(format!("`{}` is empty", field.path()), None);
        return None;
    }
    Some(text)
}

/// Returns the entries of a table whose keys are chosen by the operator.
fn entries<'r>(section: Option<Section<'r>>) -> Vec<(String, Field<'r>)> {
    section.map(|section| section.entries()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
