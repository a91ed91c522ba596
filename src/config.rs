//! The configuration file, validated into ready-to-use values: nothing downstream sees a string that
//! could be wrong or an option without its default.
//!
//! Everything that is wrong is told at once (a file that is not TOML is told to be that first). Nothing is bound, fetched or written here; files that
//! hold secrets, certificates and schemes are read. No report quotes a secret.

mod credentials;
mod door;
mod headers;
mod limits;
mod replay;
mod route;
mod secret;
mod server;
mod upstream;

use std::{net::SocketAddr, path::Path};

use zeroize::Zeroizing;

use self::limits::Limits;
use crate::{
    document::{Field, Reader, Report, Section, show_duration},
    route::RouteOptions,
    server::ServerOptions,
};

/// A configuration without mistakes.
#[derive(Debug)]
pub struct Config {
    /// Public listeners.
    pub server: ServerOptions,
    /// Admin listeners; empty where the operator wants none.
    pub admin: Vec<SocketAddr>,
    /// The replay guard.
    pub replay: crate::replay::Options,
    /// Whether a replay is acknowledged (200) or refused (409).
    pub acknowledge_replays: bool,
    /// Bytes that all bodies may hold at one time.
    pub memory: u64,
    /// The routes, at least one.
    pub routes: Vec<RouteOptions>,
}

/// Where `{ env = "NAME" }` is looked up.
pub type Environment<'e> = dyn Fn(&str) -> Option<String> + 'e;

/// What reading a section needs besides its text.
struct Surroundings<'s> {
    /// The directory of the file, to which relative paths are relative.
    base: &'s Path,
    environment: &'s Environment<'s>,
    known: secret::Known,
}

/// Reads a configuration file.
///
/// # Errors
/// Everything that is wrong. On success the report holds warnings only.
pub fn load(path: &Path) -> Result<(Config, Report), Report> {
    let text = std::fs::read_to_string(path).map_err(|error| Report::unreadable(path, &error))?;
    let text = Zeroizing::new(text);
    let base = path.parent().unwrap_or(Path::new(""));
    parse(&path.display().to_string(), &text, base, &|name| std::env::var(name).ok())
}

/// Reads a configuration from text. `name` is its name in reports, `base` the directory to which its
/// relative paths are relative.
///
/// # Errors
/// Everything that is wrong. On success the report holds warnings only.
pub fn parse(
    name: &str,
    text: &str,
    base: &Path,
    environment: &Environment<'_>,
) -> Result<(Config, Report), Report> {
    let reader = Reader::new(name, text);
    let config = read(&reader, base, environment);
    let report = reader.finish();
    match config {
        Some(config) if !report.is_fatal() => Ok((config, report)),
        Some(_) | None => Err(report),
    }
}

/// Reads the whole document; `None` only where a problem is on record.
fn read(reader: &Reader<'_>, base: &Path, environment: &Environment<'_>) -> Option<Config> {
    let surroundings = Surroundings { base, environment, known: secret::Known::default() };
    let table = reader.parse();
    let root = reader.root(&table);
    let section = |key| root.get(key).and_then(|field| field.section());
    let limits = Limits::read(section("limits"));
    let server = root.require("server");
    let server = server.and_then(|field| field.section());
    let server = server.map(|section| server::read(section, &limits, &surroundings));
    let public: Vec<SocketAddr> =
        server.iter().flat_map(|s| s.listen.iter().chain(&s.http_listen)).copied().collect();
    let admin = server::admin(section("admin"), &public);
    let replay = replay::read(section("replay"), &surroundings);
    let schemes = route::schemes(section("schemes"));
    let routes = root.require("route").map(|field| {
        let common = route::Common {
            limits: &limits,
            schemes: &schemes,
            ttl: replay.as_ref().and_then(|replay| replay.ttl),
            health_path: server.as_ref().and_then(|server| server.health_path.as_deref()),
            surroundings: &surroundings,
        };
        let routes = route::read_all(&field, &common);
        if let Some(server) = &server {
            warn_of_short_drain(&field, server, &routes);
        }
        routes
    });
    root.finish();
    let replay = replay?;
    Some(Config {
        server: server?,
        admin,
        replay: replay.options,
        acknowledge_replays: replay.acknowledge,
        memory: limits.memory,
        routes: routes?,
    })
}

/// A drain that ends before an upstream's answer can come leaves that event's outcome unknown.
fn warn_of_short_drain(field: &Field<'_>, server: &ServerOptions, routes: &[RouteOptions]) {
    let long = routes.iter().find(|route| route.upstream.timeout > server.drain);
    if let Some(route) = long {
        let (drain, timeout) = (show_duration(server.drain), show_duration(route.upstream.timeout));
        let what = format!(
            "`server.drain` ({drain}) ends before `upstream_timeout` of `{}` ({timeout})",
            route.name
        );
        let help = "an exchange that is cut off may have reached the upstream".to_owned();
        field.warning(what, Some(help));
    }
}

/// A string with at least one character.
fn not_empty(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    if text.is_empty() {
        field.error(format!("`{}` is empty", field.path()), None);
        return None;
    }
    Some(text)
}

/// The entries of a table whose keys are the operator's own.
fn entries<'r>(section: Option<Section<'r>>) -> Vec<(String, Field<'r>)> {
    section.map(|section| section.entries()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
