//! The address of a database: its URL, and whether connections use TLS.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use tokio_postgres::{
    Config,
    config::{Host, SslMode},
};

use crate::secret::Secret;

/// The longest that opening a connection to one address may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A database, and how to connect to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseOptions {
    /// `postgres://…`; it may contain a password.
    pub url: Secret,
    /// A PEM file with root CAs that replace the system's.
    pub ca: Option<PathBuf>,
}

/// Why a URL cannot be used. The message does not contain the URL, which may contain a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseUrlError {
    /// It cannot be read.
    #[error(
        "not the URL of a PostgreSQL database: postgres://user:password@host[:port]/database, \
         optionally with ?sslmode=require or ?sslmode=disable"
    )]
    Malformed,
    /// A CA is configured, and the URL disables TLS.
    #[error("a URL with sslmode=disable, although `ca` requires TLS")]
    NotEncrypted,
}

/// Checks the URL of a database.
///
/// # Errors
/// The reason why it cannot be used.
pub fn check_url(options: &DatabaseOptions) -> Result<(), DatabaseUrlError> {
    connect_config(options).map(drop)
}

/// Returns the settings of a connection.
///
/// TLS is used with `sslmode=require`, `verify-ca` or `verify-full`, which all verify the server's
/// certificate and name, and not with `disable`. In other cases, it is used if there is a CA or if
/// a host is not on this machine: nothing is ever sent to another machine without encryption only
/// because that machine said so.
pub(super) fn connect_config(options: &DatabaseOptions) -> Result<Config, DatabaseUrlError> {
    let url = std::str::from_utf8(options.url.expose()).map_err(|_| DatabaseUrlError::Malformed)?;
    let url = url.trim();
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(DatabaseUrlError::Malformed);
    }
    let (url, mode) = without_mode(url)?;
    let mut config: Config = url.parse().map_err(|_| DatabaseUrlError::Malformed)?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(DatabaseUrlError::Malformed);
    }
    let required = options.ca.is_some() || !is_local(&config);
    let mode = match mode {
        Some(SslMode::Disable) if options.ca.is_some() => {
            return Err(DatabaseUrlError::NotEncrypted);
        }
        Some(mode) => mode,
        None if required => SslMode::Require,
        None => SslMode::Disable,
    };
    config
        .ssl_mode(mode)
        .connect_timeout(CONNECT_TIMEOUT)
        .keepalives_idle(Duration::from_secs(30))
        .keepalives_interval(Duration::from_secs(5))
        .keepalives_retries(3)
        .tcp_user_timeout(Duration::from_secs(10));
    if config.get_application_name().is_none() {
        config.application_name("sealgate");
    }
    Ok(config)
}

/// Returns the URL without its `sslmode`, and whether that demands or excludes TLS.
fn without_mode(url: &str) -> Result<(String, Option<SslMode>), DatabaseUrlError> {
    let Some((base, query)) = url.split_once('?') else { return Ok((url.to_owned(), None)) };
    let (mut mode, mut rest) = (None, Vec::new());
    for pair in query.split('&') {
        match pair.strip_prefix("sslmode=") {
            Some("disable") => mode = Some(SslMode::Disable),
            Some("require" | "verify-ca" | "verify-full") => mode = Some(SslMode::Require),
            Some("allow" | "prefer") => mode = None,
            Some(_) => return Err(DatabaseUrlError::Malformed),
            None => rest.push(pair),
        }
    }
    let separator = if rest.is_empty() { "" } else { "?" };
    Ok((format!("{base}{separator}{}", rest.join("&")), mode))
}

/// Returns whether every host is this machine.
fn is_local(config: &Config) -> bool {
    let hosts = config.get_hosts().iter().all(|host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
        }
    });
    hosts && config.get_hostaddrs().iter().all(IpAddr::is_loopback)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str, ca: bool) -> Result<Config, DatabaseUrlError> {
        let ca = ca.then(|| PathBuf::from("ca.pem"));
        connect_config(&DatabaseOptions { url: Secret::new(url.as_bytes().to_vec()), ca })
    }

    #[test]
    fn tls_is_used_unless_the_server_is_local_or_the_url_disables_it() {
        use SslMode::{Disable, Require};
        for (url, ca, expected) in [
            ("postgres://a:b@127.0.0.1/shop", false, Disable),
            ("postgres://a:b@localhost:6432/shop", false, Disable),
            ("postgresql://a:b@[::1]/shop", false, Disable),
            ("postgres://a@%2Frun%2Fpostgresql/shop", false, Disable),
            ("postgres://a@localhost/shop?sslmode=prefer", false, Disable),
            ("postgres://a@localhost/shop?sslmode=require", false, Require),
            ("postgres://a:b@localhost/shop", true, Require),
            ("postgres://a:b@db.internal/shop", false, Require),
            ("postgres://a:b@db.internal/shop?sslmode=prefer&connect_timeout=3", false, Require),
            ("postgres://a:b@db.internal/shop?sslmode=verify-full", false, Require),
            ("postgres://a:b@db.internal/shop?sslmode=disable", false, Disable),
            ("postgres://a:b@localhost,db.internal/shop", false, Require),
        ] {
            assert_eq!(config(url, ca).unwrap().get_ssl_mode(), expected, "{url}");
        }
    }

    #[test]
    fn unusable_urls_are_rejected() {
        for url in [
            "",
            "redis://127.0.0.1",
            "host=localhost user=a",
            "postgres:///shop",
            "postgres://a@localhost/shop?sslmode=maybe",
            "postgres://a@localhost/shop?sslrootcert=ca.pem",
            "postgres://a@localhost:port/shop",
        ] {
            assert_eq!(config(url, false).unwrap_err(), DatabaseUrlError::Malformed, "{url}");
        }
        let plain = "postgres://a@localhost/shop?sslmode=disable";
        assert_eq!(config(plain, true).unwrap_err(), DatabaseUrlError::NotEncrypted);
    }
}
