//! The configuration file, validated into ready-to-use values: nothing downstream sees a string that
//! could be wrong or an option without its default.
//!
//! Everything that is wrong is told at once. Nothing is bound, fetched or written here; files that
//! hold secrets and certificates are read.

mod limits;
mod replay;
mod route;
mod secret;
mod server;

use std::{net::SocketAddr, path::Path};

use self::limits::Limits;
use crate::{
    document::{Field, Reader, Report, Section},
    route::RouteOptions,
    server::ServerOptions,
};

/// A configuration without mistakes.
pub struct Config {
    /// Public listeners.
    pub server: ServerOptions,
    /// Admin listeners.
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
}

/// Reads a configuration file.
///
/// # Errors
/// Everything that is wrong. On success the report holds warnings only.
pub fn load(path: &Path) -> Result<(Config, Report), Report> {
    let text = std::fs::read_to_string(path).map_err(|e| Report::unreadable(path, &e))?;
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
    let config = {
        let table = reader.parse();
        let root = reader.root(&table);
        let config = read(&root, &Surroundings { base, environment });
        root.finish();
        config
    };
    let report = reader.finish();
    match config {
        Some(config) if !report.is_fatal() => Ok((config, report)),
        _ => Err(report),
    }
}

fn read(root: &Section<'_>, surroundings: &Surroundings<'_>) -> Option<Config> {
    let section = |key| root.get(key).and_then(|field| field.section());
    let limits = Limits::read(section("limits"));
    let server = root.require("server").and_then(|field| field.section());
    let server = server.and_then(|section| server::read(section, &limits, surroundings));
    let admin = server::admin(section("admin"));
    let replay = replay::read(section("replay"), surroundings);
    let schemes = route::schemes(section("schemes"));
    let routes = root.require("route").map(|field| {
        route::read_all(
            &field,
            &limits,
            &schemes,
            replay.as_ref().and_then(|r| r.ttl),
            surroundings,
        )
    });
    let replay = replay?;
    Some(Config {
        server: server?,
        admin,
        replay: replay.options,
        acknowledge_replays: replay.acknowledge,
        memory: limits.memory,
        routes: routes.filter(|routes| !routes.is_empty())?,
    })
}

/// One socket address or a list of them.
fn addresses(field: &Field<'_>) -> Vec<SocketAddr> {
    let address = |field: Field<'_>| {
        let text = field.text()?;
        let parsed = text.parse();
        if parsed.is_err() {
            let help = "write address and port: 0.0.0.0:8443, [::]:8443, 127.0.0.1:9464";
            field.error(format!("`{text}` is no socket address"), Some(help.to_owned()));
        }
        parsed.ok()
    };
    field.items().into_iter().filter_map(address).collect()
}

#[cfg(test)]
mod tests;
